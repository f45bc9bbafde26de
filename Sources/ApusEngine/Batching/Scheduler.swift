import ApusModels
import ApusText

/// Continuous batching: decides what each step computes, computes it, and hands out the tokens (Yu et al. 2022, section 4;
/// chunked prefill after Agrawal et al. 2024, section 4).
///
/// A step takes one token of every sequence that is decoding, then chunks of prompts as far as the budget goes. The budget
/// is what keeps the others' inter-token latency near its idle value. When blocks run out, kept prefixes are evicted, then
/// the youngest sequence is preempted: its blocks go, and it is computed again later.
///
/// Lives on the engine's thread. A step that only decodes allocates nothing on the heap once sequences of the same number
/// have been computed before.
final class Scheduler {
  private let runner: ModelRunner
  private let kv: PagedKVStore
  private let options: BatchOptions
  private let figures: PublishedStats
  private let clock: () -> Double

  /// In order of arrival; preempted ones come first.
  private(set) var waiting: [EngineSequence] = []
  /// Those that still compute their prompt, or after a preemption everything so far; in order of admission.
  private(set) var prefilling: [EngineSequence] = []
  /// Those that take one token a step; in order of admission.
  private(set) var decoding: [EngineSequence] = []
  private var admissions = 0
  /// Blocks that running sequences were admitted for and have not taken yet.
  private var promised = 0
  private var prefixes = PrefixTree()
  private var pace: PrefillPace
  private var stats = EngineStats()
  private var decodeMeter = RateMeter()
  private var prefillMeter = RateMeter()
  private var buffers = StepBuffers()
  /// The most rows of a prompt that is scored in one step.
  private let scoredRows: Int
  /// The plan under way.
  private var plan = 0
  /// When the last step ended, or the thread woke.
  private var busySince = 0.0

  /// `clock` gives seconds, monotonic.
  init(_ runner: ModelRunner, _ options: BatchOptions, _ figures: PublishedStats, clock: @escaping () -> Double) {
    guard let kv = runner.paged else { preconditionFailure("the engine needs a runner with a KV pool") }
    self.runner = runner
    self.kv = kv
    self.options = options
    self.figures = figures
    self.clock = clock
    pace = PrefillPace(latencyFactor: options.latencyFactor, longest: runner.options.maxBatchTokens)
    scoredRows = Scorer.rowsOfPass(vocabularySize: runner.model.vocabularySize)
    stats.blocks = kv.pool.count
    busySince = clock()
  }

  var running: Int { prefilling.count + decoding.count }
  var isIdle: Bool { running == 0 && waiting.isEmpty }

  // MARK: requests

  func submit(_ s: EngineSequence) { waiting.append(s) }

  /// Forgets a sequence whose reader is gone.
  func cancel(_ id: String) {
    if let s = find(id) {
      s.answer.end(.cancelled)
      end([s])
    } else if let i = waiting.firstIndex(where: { $0.id == id }) {
      let s = waiting.remove(at: i)
      s.answer.end(.cancelled)
      end([s])
    }
  }

  /// A new sequence that begins with the first `count` tokens of a running one: whole blocks are shared, the last one is
  /// copied when it is written. False when its namespace has no such sequence, or there is no room.
  func fork(_ id: String, at count: Int, as make: ([Int32]) throws -> EngineSequence) rethrows -> Bool {
    guard let source = find(id), let from = source.slot, count <= source.tokens.count else { return false }
    let s = try make(Array(source.tokens[..<count]))
    guard s.names.namespace == source.names.namespace, running < options.maxRunning,
      let slot = try? runner.makeSequence()
    else { return false }
    // The last token is computed again, because its logits are wanted; all are where the prompt is scored.
    let shared = s.score == nil ? min(source.computed, count - 1) : 0
    guard kv.copyPrefix(of: from, tokens: shared, to: slot) else {
      runner.release(slot)
      return false
    }
    s.names = source.names.prefix(shared / kvBlockTokens)
    s.published = min(source.published, shared / kvBlockTokens)
    s.cached = shared
    admit(s, slot, computed: shared)
    return true
  }

  private func find(_ id: String) -> EngineSequence? {
    decoding.first { $0.id == id } ?? prefilling.first { $0.id == id }
  }

  // MARK: the loop

  /// Computes one step. False when no sequence can go on: none is there, or the readers of all are behind.
  func step() -> Bool {
    admitWaiting()
    planStep()
    if buffers.members.isEmpty {
      sortRunning()
      buffers.removeAll()
      return false
    }
    let start = clock()
    var modelTime = 0.0
    do {
      modelTime = try forward()
    } catch {
      // Nobody knows what the step left behind: its sequences end.
      buffers.ended.removeAll(keepingCapacity: true)
      for member in buffers.members {
        member.sequence.failure = error
        buffers.ended.append(member.sequence)
      }
    }
    stats.steps += 1
    sortRunning()
    pace.record(decodes: buffers.decodes, prefill: buffers.prefillTokens, seconds: clock() - start)
    if !buffers.ended.isEmpty { end(buffers.ended) }
    buffers.removeAll()
    let now = clock()
    stats.forwardTime += modelTime
    stats.overheadTime += now - busySince - modelTime
    busySince = now
    return true
  }

  /// Says that the engine's thread has slept until now.
  func wake() { busySince = clock() }

  /// Lets waiting sequences run, in order, while there is room for what their prompts need now and a little of the answer.
  /// The first that does not fit stops the others: nobody overtakes, so nobody starves.
  private func admitWaiting() {
    while let s = waiting.first, running < options.maxRunning {
      findPrefix(of: s)
      let found = buffers.hit.count
      let reserve = min(s.options.maxTokens ?? .max, BatchOptions.answerReserve)
      let needed = s.blocks(for: min(s.tokens.count + reserve, runner.contextLength)) - found
      // Blocks that were just found are not to be evicted for the rest.
      for block in buffers.hit { kv.retain(block) }
      defer { for block in buffers.hit { kv.release(block: block) } }
      guard reclaim(needed + promised) || running == 0, let slot = try? runner.makeSequence() else { return }
      waiting.removeFirst()
      kv.share(buffers.hit, with: slot)
      s.published = found
      if !s.hasStarted { s.cached = found * kvBlockTokens }
      admit(s, slot, computed: found * kvBlockTokens)
    }
  }

  /// Lets a sequence run whose first `computed` tokens the slot holds.
  private func admit(_ s: EngineSequence, _ slot: SequenceID, computed: Int) {
    s.slot = slot
    s.computed = computed
    runner.adopt(slot, tokens: computed)
    admissions += 1
    s.admission = admissions
    renewPromise(of: s)
    start(s)
    if s.isDecoding { decoding.append(s) } else { prefilling.append(s) }
  }

  /// Renews what a sequence adds to `promised`, after its tokens or its blocks have changed.
  private func renewPromise(of s: EngineSequence) {
    let promise = promise(of: s)
    promised += promise - s.promised
    s.promised = promise
  }

  private func promise(of s: EngineSequence) -> Int {
    guard let slot = s.slot else { return 0 }
    let rest = min(s.options.maxTokens ?? .max, BatchOptions.answerReserve)
    let tokens = min(max(s.tokens.count, s.promptTokens + rest), runner.contextLength)
    return max(0, s.blocks(for: tokens) - kv.blocks(of: slot).count)
  }

  private func start(_ s: EngineSequence) {
    if s.hasStarted { return }
    s.hasStarted = true
    s.reserveAnswer(contextLength: runner.contextLength)
    let now = clock()
    s.admitted = now
    stats.queueTime.record(now - s.submitted)
    stats.promptTokens += s.promptTokens
    stats.cachedTokens += s.cached
    s.channel.send(.started(promptTokens: s.promptTokens, cached: s.cached))
  }

  /// The next step: decodes first, then prompts within the budget.
  private func planStep() {
    plan += 1
    for s in decoding where s.slot != nil {
      s.isPaused = s.channel.isFull
      if !s.isPaused, makeRoom(for: s, tokens: s.computed + 1) { add(s, 1, isDecode: true) }
    }
    var budget = min(
      pace.budget(decodes: buffers.decodes, prefills: prefilling.count),
      runner.options.maxBatchTokens - buffers.decodes)
    for s in prefilling where s.slot != nil && budget > 0 {
      adoptNewPrefix(s)
      // Another one computes the next block right now: taking it over in the next step is cheaper.
      if s.score == nil, buffers.members.contains(where: { !$0.isDecode && computesNextBlock($0.sequence, of: s) }) {
        continue
      }
      let count = min(budget, s.pending, s.score == nil ? .max : scoredRows)
      if makeRoom(for: s, tokens: s.computed + count) {
        add(s, count, isDecode: false)
        budget -= count
      }
    }
  }

  private func add(_ s: EngineSequence, _ count: Int, isDecode: Bool) {
    s.plan = plan
    let reachesEnd = count == s.pending && s.answer.finishReason == nil
    let logits: LogitsRequest = s.score != nil ? .all : reachesEnd ? .last : .none
    buffers.add(.init(sequence: s, count: count, isDecode: isDecode, logits: logits, reachesEnd: reachesEnd))
  }

  /// Finds the kept blocks of the sequence's beginning; none when its prompt is scored, which takes the logits of all rows.
  private func findPrefix(of s: EngineSequence) {
    if s.score == nil {
      prefixes.match(s.tokens, &s.names, into: &buffers.hit)
    } else {
      buffers.hit.removeAll(keepingCapacity: true)
    }
  }

  /// Takes over blocks that others have computed since the sequence was admitted.
  private func adoptNewPrefix(_ s: EngineSequence) {
    guard s.computed == s.published * kvBlockTokens, let slot = s.slot else { return }
    findPrefix(of: s)
    let found = buffers.hit.count
    guard found > s.published, kv.blocks(of: slot).count == s.published else { return }
    kv.share(buffers.hit[s.published...], with: slot)
    let gained = (found - s.published) * kvBlockTokens
    s.published = found
    s.computed += gained
    runner.adopt(slot, tokens: s.computed)
    renewPromise(of: s)
    s.cached += gained
    stats.cachedTokens += gained
  }

  /// Whether `a` is computing what `b`'s next block will hold.
  private func computesNextBlock(_ a: EngineSequence, of b: EngineSequence) -> Bool {
    let end = b.computed + kvBlockTokens
    guard b.computed % kvBlockTokens == 0, a.computed >= b.computed, a.computed < end, end < b.tokens.count,
      end <= a.tokens.count
    else { return false }
    let block = b.computed / kvBlockTokens
    return a.names.name(of: block, in: a.tokens) == b.names.name(of: block, in: b.tokens)
  }

  /// Sees that the sequence has blocks for so many tokens; preempts younger sequences, at last itself, if need be.
  private func makeRoom(for s: EngineSequence, tokens: Int) -> Bool {
    guard let slot = s.slot else { return false }
    let needed = s.blocks(for: tokens) - kv.blocks(of: slot).count
    if needed <= 0 { return true }
    while !(reclaim(needed) && kv.reserve(slot, tokens: tokens)) {
      let victim = youngestUnplanned ?? s
      preempt(victim)
      if victim === s { return false }
    }
    renewPromise(of: s)
    return true
  }

  /// The last admitted of the sequences that have no part in the plan yet.
  private var youngestUnplanned: EngineSequence? {
    func last(_ list: [EngineSequence]) -> EngineSequence? { list.last { $0.slot != nil && $0.plan != plan } }
    guard let a = last(prefilling), let b = last(decoding) else { return last(prefilling) ?? last(decoding) }
    return a.admission > b.admission ? a : b
  }

  /// Whether `count` blocks are free, if need be after evicting kept prefixes.
  private func reclaim(_ count: Int) -> Bool {
    if kv.pool.freeCount >= count { return true }
    _ = prefixes.evict(
      count - kv.pool.freeCount, isShared: { kv.pool.references(to: $0) > 1 }, release: { kv.release(block: $0) })
    return kv.pool.freeCount >= count
  }

  /// Sends a sequence back into the queue. It stays in its list of running ones, without a slot, until the step is over.
  private func preempt(_ s: EngineSequence) {
    publish(s)
    giveUpSlot(s)
    s.computed = 0
    s.published = 0
    waiting.insert(s, at: 0)
    stats.preemptions += 1
    buffers.hasMoves = true
  }

  /// Gives the sequence's blocks back; those that the prefix tree knows stay for later prompts.
  private func giveUpSlot(_ s: EngineSequence) {
    if let slot = s.slot { runner.release(slot) }
    s.slot = nil
    renewPromise(of: s)
  }

  /// Brings the lists of running sequences in order after preemptions and prompts that came to their end. Nothing to do in
  /// a step that only decodes.
  private func sortRunning() {
    guard buffers.hasMoves else { return }
    for s in prefilling where s.slot != nil && s.isDecoding {
      let place = decoding.lastIndex { $0.admission < s.admission }
      decoding.insert(s, at: place.map { $0 + 1 } ?? 0)
    }
    prefilling.removeAll { $0.slot == nil || $0.isDecoding }
    decoding.removeAll { $0.slot == nil }
  }

  // MARK: a step's results

  /// Computes the plan and gives out its tokens; the sequences that have ended are in the buffers then. Returns the
  /// model's seconds.
  private func forward() throws -> Double {
    buffers.batch.removeAll()
    for m in buffers.members {
      let s = m.sequence
      buffers.batch.append(s.slot!, s.tokens[s.computed..<s.computed + m.count], logits: m.logits)
    }
    let start = clock()
    return try runner.forward(buffers.batch) { logits in
      let now = clock()
      var row = 0
      for m in buffers.members {
        let s = m.sequence
        s.computed += m.count
        if !m.isDecode {
          publish(s)
          prefillMeter.add(m.count, at: now)
        }
        if case .all = m.logits { readScores(logits, from: row, of: m) }
        row += m.logitRows
        if m.reachesEnd { take(logits[row - 1], for: s, at: now) }
        if s.answer.finishReason != nil && s.computed >= s.promptTokens {
          buffers.ended.append(s)
        } else if !m.isDecode && s.isDecoding {
          buffers.hasMoves = true
        }
      }
      return now - start
    }
  }

  /// Takes what the rows from `first` on, one for each of the member's tokens, say of the prompt.
  private func readScores(_ logits: Logits, from first: Int, of m: StepBuffers.Member) {
    let s = m.sequence
    guard s.score != nil, let top = s.options.promptLogProbabilities else { return }
    for row in 0..<m.count {
      s.score?.read(UnsafeBufferPointer(logits[first + row]), after: s.computed - m.count + row, top: top)
    }
    if let score = s.score, score.isComplete {
      s.channel.send(.prompt(score))
      s.score = nil
    }
  }

  /// Samples the sequence's next token and sends it on.
  private func take(_ logits: UnsafeMutableBufferPointer<Float>, for s: EngineSequence, at now: Double) {
    let token: Int32
    var report: TokenLogProbabilities?
    do {
      // The random number belongs to the token's place in the text, whatever the batch.
      if let top = s.options.logProbabilities {
        (token, report) = try s.sampler.sample(
          logits, position: s.tokens.count, top: top, mask: s.matcher?.mask())
      } else {
        token = try s.sampler.sample(logits, position: s.tokens.count, mask: s.matcher?.mask())
      }
    } catch {
      s.failure = error
      s.answer.end(.cancelled)
      return
    }
    s.sampler.accept(token)
    if let last = s.lastTokenAt {
      stats.interTokenLatency.record(now - last)
    } else {
      s.firstTokenAt = now
      stats.timeToFirstToken.record(now - s.submitted)
    }
    s.lastTokenAt = now
    stats.generatedTokens += 1
    decodeMeter.add(1, at: now)
    if let generated = s.answer.accept(token, logProbabilities: report) { s.channel.send(.token(generated)) }
    if s.matcher?.accept(token) == true, s.matcher?.isComplete == true { s.answer.end(.stop) }
    if s.answer.finishReason == nil {
      s.tokens.append(token)
      renewPromise(of: s)
      if s.tokens.count > runner.contextLength { s.answer.end(.length) }
    }
  }

  /// Tells the prefix tree of blocks that have become whole: of a prompt after each of its chunks, of an answer when its
  /// sequence stops running, because nobody can ask for its continuation before.
  private func publish(_ s: EngineSequence) {
    let full = s.computed / kvBlockTokens
    guard full > s.published, let slot = s.slot else { return }
    prefixes.insert(s.tokens, &s.names, kv.blocks(of: slot), s.published..<full) { kv.retain($0) }
    s.published = full
  }

  /// Takes sequences out and sends the ends of their answers, of which the figures know by then.
  private func end(_ sequences: [EngineSequence]) {
    let now = clock()
    for s in sequences {
      if s.failure == nil { publish(s) }
      giveUpSlot(s)
    }
    prefilling.removeAll { $0.slot == nil }
    decoding.removeAll { $0.slot == nil }
    let results = sequences.map { result(of: $0, at: now) }
    publishFigures()
    for (s, result) in zip(sequences, results) {
      if case .success(let generation) = result { s.channel.send(.finished(generation)) }
      s.channel.finish(result.map { _ in })
    }
  }

  /// The whole answer, entered into the figures.
  private func result(of s: EngineSequence, at now: Double) -> Result<Generation, any Error> {
    if let failure = s.failure {
      stats.finished["error", default: 0] += 1
      return .failure(failure)
    }
    let tail = s.answer.flush()
    let reason = s.answer.finishReason ?? .cancelled
    let first = s.firstTokenAt ?? now
    stats.finished[reason.rawValue, default: 0] += 1
    stats.totalTime.record(now - s.submitted)
    return .success(
      Generation(
        promptTokens: s.promptTokens, cachedTokens: s.cached, tokens: s.answer.tokens, text: s.answer.text,
        tail: tail, finishReason: reason, stop: s.answer.stop,
        timings: .init(
          prefill: first - s.submitted, decode: now - first, prefillTokens: s.promptTokens - s.cached,
          decodeTokens: max(0, s.answer.tokens.count - 1))))
  }

  // MARK: the account

  /// Renews the outside's copy of the figures.
  func publishFigures() {
    let now = clock()
    stats.sequences.removeAll(keepingCapacity: true)
    for s in decoding { stats.sequences.append(s.report(at: now)) }
    for s in prefilling { stats.sequences.append(s.report(at: now)) }
    for s in waiting { stats.sequences.append(s.report(at: now)) }
    stats.blocksUsed = kv.pool.count - kv.pool.freeCount
    stats.blocksCached = stats.blocksUsed - kv.blocksInTables
    stats.decodeRate = decodeMeter.rate(at: now)
    stats.prefillRate = prefillMeter.rate(at: now)
    figures.renew(from: &stats)
  }

  func refuse(_ reason: String) { stats.refused[reason, default: 0] += 1 }

  /// Traps unless every block is accounted for (free, kept by the tree, or in the table of a running sequence), and the
  /// lists, names and promises are what they would be if they were made anew. Between steps only.
  func checkInvariants() {
    kv.checkInvariants()
    prefixes.checkInvariants()
    var inTables = 0
    for s in decoding + prefilling {
      inTables += kv.blocks(of: s.slot!).count
      precondition(s.promised == promise(of: s), "a promise that nobody gave")
      s.names.checkInvariants(s.tokens)
    }
    precondition(waiting.allSatisfy { $0.slot == nil && $0.promised == 0 }, "a waiting sequence has blocks")
    precondition(promised == (decoding + prefilling).reduce(0) { $0 + $1.promised }, "the sum of promises is wrong")
    let references = (0..<Int32(kv.pool.count)).reduce(0) { $0 + kv.pool.references(to: $1) }
    precondition(references == inTables + prefixes.blockCount, "a block is lost")
    for list in [decoding, prefilling] {
      precondition(zip(list, list.dropFirst()).allSatisfy { $0.admission < $1.admission }, "out of order")
    }
    precondition(decoding.allSatisfy(\.isDecoding) && !prefilling.contains(where: \.isDecoding), "in the wrong list")
    precondition(buffers.members.isEmpty && buffers.ended.isEmpty && !buffers.hasMoves, "a step is under way")
  }
}

/// What each step fills anew, kept so that steps allocate nothing.
private struct StepBuffers {
  /// What a sequence contributes to a step.
  struct Member {
    var sequence: EngineSequence
    var count: Int
    var isDecode: Bool
    var logits: LogitsRequest
    /// Its next token is sampled.
    var reachesEnd: Bool

    var logitRows: Int {
      switch logits {
      case .none: 0
      case .last: 1
      case .all: count
      }
    }
  }

  /// Decodes, then chunks of prompts.
  private(set) var members: [Member] = []
  private(set) var decodes = 0
  private(set) var prefillTokens = 0
  /// Their tokens.
  var batch = TokenBatch()
  /// The blocks that the prefix tree has last found.
  var hit: [Int32] = []
  var ended: [EngineSequence] = []
  /// A sequence belongs into another list of the scheduler's now.
  var hasMoves = false

  mutating func add(_ member: Member) {
    members.append(member)
    if member.isDecode { decodes += 1 } else { prefillTokens += member.count }
  }

  mutating func removeAll() {
    members.removeAll(keepingCapacity: true)
    ended.removeAll(keepingCapacity: true)
    (decodes, prefillTokens, hasMoves) = (0, 0, false)
  }
}

/// How many prompt tokens a step may take while others are decoding, from what steps have cost so far.
struct PrefillPace {
  /// Step time with a chunk, as a multiple of one without.
  let latencyFactor: Double
  /// Tokens of the longest chunk.
  let longest: Int
  /// Seconds a step with decodes only takes, and a prompt token beside them; nil until measured.
  private var decodeStep: Double?
  private var promptToken: Double?
  /// A chunk's cost has a part that does not depend on its tokens (the keys and values before it are read again), so
  /// chunks of one token would waste most of a step.
  private static let smallest = 2
  /// From twice as many prompts as decodes on, steps are longer, up to so many times.
  private static let largestCrowd = 8.0
  /// Tokens of the first chunks, whose cost is not known yet.
  private static let first = 16
  private static let weight = 0.1

  init(latencyFactor: Double, longest: Int) {
    self.latencyFactor = latencyFactor
    self.longest = longest
  }

  /// Prompt tokens for a step with so many decodes, while so many prompts are waiting to be computed: where those are the
  /// most, as after a burst of requests, the few that decode wait longer for the many.
  func budget(decodes: Int, prefills: Int) -> Int {
    if decodes == 0 { return longest }
    guard let decodeStep, let promptToken else { return Self.first }
    let crowd = min(max(1, Double(prefills) / Double(decodes) / 2), Self.largestCrowd)
    let tokens = (latencyFactor - 1) * crowd * decodeStep / promptToken
    return max(Self.smallest, min(longest, Int(tokens.rounded(.down))))
  }

  mutating func record(decodes: Int, prefill: Int, seconds: Double) {
    func mix(_ old: Double?, _ new: Double) -> Double { old.map { $0 + Self.weight * (new - $0) } ?? new }
    if prefill == 0 {
      decodeStep = mix(decodeStep, seconds)
    } else if prefill >= Self.smallest {
      promptToken = mix(promptToken, max(1e-6, seconds - (decodes > 0 ? decodeStep ?? 0 : 0)) / Double(prefill))
    }
  }
}
