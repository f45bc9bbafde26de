import ApusModels
import ApusText

/// Continuous batching: decides what each step computes, computes it, and hands out the tokens (Yu et al. 2022, section 4;
/// chunked prefill after Agrawal et al. 2024, section 4).
///
/// A step takes one token of every sequence that is decoding, then chunks of prompts as far as the budget goes. The budget
/// is what keeps the others' inter-token latency near its idle value. When blocks run out, kept prefixes are evicted, then
/// the youngest sequence is preempted: its blocks go, and it is computed again later.
///
/// Lives on the engine's thread.
final class Scheduler {
  private let runner: ModelRunner
  private let kv: PagedKVStore
  private let options: BatchOptions
  private let clock: () -> Double

  /// In order of arrival; preempted ones come first.
  private(set) var waiting: [EngineSequence] = []
  /// In order of admission.
  private(set) var running: [EngineSequence] = []
  private var prefixes = PrefixTree()
  private var pace: PrefillPace
  private(set) var stats = EngineStats()
  private var decodeMeter = RateMeter()
  private var prefillMeter = RateMeter()

  /// `clock` gives seconds, monotonic.
  init(_ runner: ModelRunner, _ options: BatchOptions, clock: @escaping () -> Double) {
    guard let kv = runner.paged else { preconditionFailure("the engine needs a runner with a KV pool") }
    self.runner = runner
    self.kv = kv
    self.options = options
    self.clock = clock
    pace = PrefillPace(latencyFactor: options.latencyFactor, longest: runner.options.maxBatchTokens)
    stats.blocks = kv.pool.count
  }

  // MARK: requests

  func submit(_ s: EngineSequence) { waiting.append(s) }

  /// Forgets a sequence whose reader is gone.
  func cancel(_ id: String) {
    if let s = running.first(where: { $0.id == id }) {
      s.answer.end(.cancelled)
      finish(s)
    } else if let i = waiting.firstIndex(where: { $0.id == id }) {
      let s = waiting.remove(at: i)
      s.answer.end(.cancelled)
      close(s)
    }
  }

  /// A new sequence that begins with the first `count` tokens of a running one: whole blocks are shared, the last one is
  /// copied when it is written. False when there is no such sequence or no room.
  func fork(_ id: String, at count: Int, as make: ([Int32]) throws -> EngineSequence) rethrows -> Bool {
    guard let source = running.first(where: { $0.id == id }), let from = source.slot, count <= source.tokens.count
    else { return false }
    let s = try make(Array(source.tokens[..<count]))
    guard running.count < options.maxRunning, let slot = try? runner.makeSequence() else { return false }
    // The last token is computed again, because its logits are wanted.
    let shared = min(source.computed, count - 1)
    guard kv.copyPrefix(of: from, tokens: shared, to: slot) else {
      runner.release(slot)
      return false
    }
    runner.adopt(slot, tokens: shared)
    s.slot = slot
    s.computed = shared
    s.cached = shared
    s.published = shared / kvBlockTokens
    start(s)
    running.append(s)
    return true
  }

  // MARK: the loop

  /// Computes one step. False when no sequence can go on: none is there, or the readers of all are behind.
  func step() -> Bool {
    admit()
    let batch = plan()
    if batch.isEmpty { return false }
    let start = clock()
    do {
      for s in try forward(batch) { finish(s) }
    } catch {
      // Nobody knows what the step left behind: its sequences end.
      for member in batch { fail(member.sequence, error) }
    }
    pace.record(decodes: batch.count { $0.isDecode }, prefill: batch.prefillTokens, seconds: clock() - start)
    stats.steps += 1
    return true
  }

  /// Lets waiting sequences run, in order, while there is room for what their prompts need now and a little of the answer.
  /// The first that does not fit stops the others: nobody overtakes, so nobody starves.
  private func admit() {
    while let s = waiting.first, running.count < options.maxRunning {
      let hit = prefixes.match(s.tokens[...], in: s.namespace)
      let reserve = min(s.options.maxTokens ?? .max, BatchOptions.answerReserve)
      let needed = s.blocks(for: min(s.tokens.count + reserve, runner.contextLength)) - hit.count
      // Blocks that were just found are not to be evicted for the rest.
      for block in hit { kv.retain(block) }
      defer { for block in hit { kv.release(block: block) } }
      guard reclaim(needed + promised) || running.isEmpty, let slot = try? runner.makeSequence() else { return }
      waiting.removeFirst()
      kv.share(hit, with: slot)
      s.slot = slot
      s.computed = hit.count * kvBlockTokens
      s.published = hit.count
      runner.adopt(slot, tokens: s.computed)
      if !s.hasStarted { s.cached = s.computed }
      start(s)
      running.append(s)
    }
  }

  /// Blocks that running sequences were admitted for and have not taken yet.
  private var promised: Int {
    running.reduce(0) { sum, s in
      guard let slot = s.slot else { return sum }
      let rest = min(s.options.maxTokens ?? .max, BatchOptions.answerReserve)
      let tokens = min(max(s.tokens.count, s.promptTokens + rest), runner.contextLength)
      return sum + max(0, s.blocks(for: tokens) - kv.blocks(of: slot).count)
    }
  }

  private func start(_ s: EngineSequence) {
    if s.hasStarted { return }
    s.hasStarted = true
    let now = clock()
    s.admitted = now
    stats.queueTime.record(now - s.submitted)
    stats.promptTokens += s.promptTokens
    stats.cachedTokens += s.cached
    s.channel.send(.started(promptTokens: s.promptTokens, cached: s.cached))
  }

  /// What a sequence contributes to a step.
  fileprivate struct Member {
    var sequence: EngineSequence
    var count: Int
    var isDecode: Bool
  }

  /// The next step: decodes first, then prompts within the budget.
  private func plan() -> [Member] {
    var batch: [Member] = []
    for s in running where s.isDecoding && s.slot != nil {
      s.isPaused = s.channel.isFull
      if !s.isPaused, makeRoom(for: s, tokens: s.computed + 1, planned: batch) {
        batch.append(Member(sequence: s, count: 1, isDecode: true))
      }
    }
    let prefills = running.count { !$0.isDecoding && $0.slot != nil }
    var budget = min(
      pace.budget(decodes: batch.count, prefills: prefills), runner.options.maxBatchTokens - batch.count)
    for s in running where !s.isDecoding && s.slot != nil && budget > 0 {
      adoptNewPrefix(s)
      // Another one computes the next block right now: taking it over in the next step is cheaper.
      if batch.contains(where: { !$0.isDecode && shareNextBlock($0.sequence, s) }) { continue }
      let count = min(budget, s.pending)
      if makeRoom(for: s, tokens: s.computed + count, planned: batch) {
        batch.append(Member(sequence: s, count: count, isDecode: false))
        budget -= count
      }
    }
    running.removeAll { $0.slot == nil }
    return batch
  }

  /// Takes over blocks that others have computed since the sequence was admitted.
  private func adoptNewPrefix(_ s: EngineSequence) {
    guard s.computed % kvBlockTokens == 0, s.computed == s.published * kvBlockTokens, let slot = s.slot else { return }
    let hit = prefixes.match(s.tokens[...], in: s.namespace)
    guard hit.count > s.published, kv.blocks(of: slot).count == s.published else { return }
    kv.share(hit[s.published...], with: slot)
    let gained = (hit.count - s.published) * kvBlockTokens
    s.published = hit.count
    s.computed += gained
    runner.adopt(slot, tokens: s.computed)
    s.cached += gained
    stats.cachedTokens += gained
  }

  private func shareNextBlock(_ a: EngineSequence, _ b: EngineSequence) -> Bool {
    let end = b.computed + kvBlockTokens
    return a.namespace == b.namespace && a.computed >= b.computed && a.computed < end && end < b.tokens.count
      && end <= a.tokens.count && a.tokens[..<end] == b.tokens[..<end]
  }

  /// Sees that the sequence has blocks for so many tokens; preempts younger sequences, at last itself, if need be.
  private func makeRoom(for s: EngineSequence, tokens: Int, planned: [Member]) -> Bool {
    guard let slot = s.slot else { return false }
    let needed = s.blocks(for: tokens) - kv.blocks(of: slot).count
    while !(reclaim(needed) && kv.reserve(slot, tokens: tokens)) {
      let victim = running.last { v in v.slot != nil && !planned.contains { $0.sequence === v } } ?? s
      preempt(victim)
      if victim === s { return false }
    }
    return true
  }

  /// Whether `count` blocks are free, if need be after evicting kept prefixes.
  private func reclaim(_ count: Int) -> Bool {
    if kv.pool.freeCount >= count { return true }
    _ = prefixes.evict(
      count - kv.pool.freeCount, isShared: { kv.pool.references(to: $0) > 1 }, release: { kv.release(block: $0) })
    return kv.pool.freeCount >= count
  }

  private func preempt(_ s: EngineSequence) {
    guard let slot = s.slot else { return }
    runner.release(slot)
    s.slot = nil
    s.computed = 0
    s.published = 0
    waiting.insert(s, at: 0)
    stats.preemptions += 1
  }

  // MARK: a step's results

  /// Computes the batch and gives out its tokens; returns the sequences that have ended.
  private func forward(_ batch: [Member]) throws -> [EngineSequence] {
    let inputs = batch.map { m in
      let s = m.sequence
      let reachesEnd = s.computed + m.count == s.tokens.count && s.answer.finishReason == nil
      return ModelRunner.Input(
        s.slot!, s.tokens[s.computed..<s.computed + m.count], logits: reachesEnd ? .last : .none)
    }
    var ended: [EngineSequence] = []
    try runner.forward(inputs) { logits in
      let now = clock()
      var row = 0
      for (m, input) in zip(batch, inputs) {
        let s = m.sequence
        s.computed += m.count
        publish(s)
        if !m.isDecode { prefillMeter.add(m.count, at: now) }
        if case .last = input.logits {
          take(logits[row], for: s, at: now)
          row += 1
        }
        if s.answer.finishReason != nil && s.computed >= s.promptTokens { ended.append(s) }
      }
    }
    return ended
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
      if s.tokens.count > runner.contextLength { s.answer.end(.length) }
    }
  }

  /// Tells the prefix tree of blocks that have become whole.
  private func publish(_ s: EngineSequence) {
    let full = s.computed / kvBlockTokens
    guard full > s.published, let slot = s.slot else { return }
    prefixes.insert(s.tokens[..<(full * kvBlockTokens)], kv.blocks(of: slot), in: s.namespace) { kv.retain($0) }
    s.published = full
  }

  private func finish(_ s: EngineSequence) {
    if let failure = s.failure { return fail(s, failure) }
    close(s)
    leave(s)
  }

  private func fail(_ s: EngineSequence, _ error: any Error) {
    s.channel.finish(.failure(error))
    stats.finished["error", default: 0] += 1
    leave(s)
  }

  /// Sends the end of an answer.
  private func close(_ s: EngineSequence) {
    let now = clock()
    let tail = s.answer.flush()
    let reason = s.answer.finishReason ?? .cancelled
    let first = s.firstTokenAt ?? now
    s.channel.send(
      .finished(
        Generation(
          promptTokens: s.promptTokens, cachedTokens: s.cached, tokens: s.answer.tokens, text: s.answer.text,
          tail: tail, finishReason: reason, stop: s.answer.stop,
          timings: .init(
            prefill: first - s.submitted, decode: now - first, prefillTokens: s.promptTokens - s.cached,
            decodeTokens: max(0, s.answer.tokens.count - 1)))))
    s.channel.finish()
    stats.finished[reason.rawValue, default: 0] += 1
    stats.totalTime.record(now - s.submitted)
  }

  /// Gives the sequence's blocks back; those that the prefix tree knows stay for later prompts.
  private func leave(_ s: EngineSequence) {
    if let slot = s.slot { runner.release(slot) }
    s.slot = nil
    running.removeAll { $0 === s }
  }

  // MARK: the account

  /// A copy of the figures for the outside.
  func snapshot() -> EngineStats {
    let now = clock()
    stats.sequences = (running + waiting).map { $0.report(at: now) }
    stats.blocksUsed = kv.pool.count - kv.pool.freeCount
    stats.blocksCached = prefixes.unsharedBlockCount { kv.pool.references(to: $0) > 1 }
    stats.decodeRate = decodeMeter.rate(at: now)
    stats.prefillRate = prefillMeter.rate(at: now)
    return stats
  }

  func refuse(_ reason: String) { stats.refused[reason, default: 0] += 1 }

  /// Traps unless every block is accounted for: free, kept by the tree, or in the table of a running sequence.
  func checkInvariants() {
    kv.pool.checkInvariants()
    prefixes.checkInvariants()
    var users: [Int32: Int] = [:]
    for s in running { for block in kv.blocks(of: s.slot!) { users[block, default: 0] += 1 } }
    let inTables = users.values.reduce(0, +)
    let references = (0..<Int32(kv.pool.count)).reduce(0) { $0 + kv.pool.references(to: $1) }
    precondition(references == inTables + prefixes.blockCount, "a block is lost")
  }
}

extension [Scheduler.Member] {
  fileprivate var prefillTokens: Int { reduce(0) { $0 + ($1.isDecode ? 0 : $1.count) } }
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
