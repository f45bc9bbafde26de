import ApusModels
import Testing

@testable import ApusEngine

/// The scheduler driven by hand, step by step.
@Suite struct SchedulerTests {
  /// What one sequence of a walk must come to.
  private struct Expectation {
    let prompt: [Int32]
    let options: GenerationOptions
    let channel: EventChannel
    var isCancelled = false
  }

  private func sequence(_ id: String, _ e: Expectation, _ model: LoadedModel, namespace: String = "") throws
    -> EngineSequence
  {
    try EngineSequence(
      id: id, namespace: BlockName(salt: namespace), tokens: e.prompt, options: e.options, tokenizer: model.tokenizer,
      vocabularySize: model.vocabularySize, channel: e.channel, submitted: 0)
  }

  /// Requests come, fork and go at random in a pool that is too small for them; after each step the books must balance,
  /// and in the end each answer must be the one that its prompt gets alone.
  @Test(arguments: 0..<4, [KVLayoutChoice.dense, .rankV, .rankKV])
  func randomRequestsGetTheAnswersThatTheyGetAlone(round: Int, layout: KVLayoutChoice) async throws {
    let seed = UInt64.random(in: 0 ... .max)
    var random = TestRandom(seed: seed)
    // Narrow rows instead of keys and values of 32 elements, in each of two layers, in f16.
    let model = try tinyModel(seed: 7, kvRank: layout == .dense ? nil : 16)
    let elements = [.dense: 32 + 32, .rankV: 32 + 16, .rankKV: 16 + 16][layout]!
    let blockBytes = 2 * elements * 16 * 2
    let alone = try TextGenerator(model, RunnerOptions(threads: 1, kvLayout: layout))
    let scorer = try Scorer(model, RunnerOptions(threads: 1, kvLayout: layout), tokens: 256)
    var scored = 0
    let runner = try ModelRunner(
      model,
      RunnerOptions(
        threads: 1, maxSequences: 6, maxBatchTokens: 40, kvPoolBytes: (16 + 6 * round) * blockBytes, kvLayout: layout))
    var time = 0.0
    let figures = PublishedStats()
    let scheduler = Scheduler(runner, BatchOptions(maxRunning: 6), figures) {
      time += 1e-3
      return time
    }
    let beginnings = (0..<3).map { i in
      (0..<50).map { (place: Int) -> Int32 in Int32(40 + (i * 31 + place * 7) % 90) }
    }
    func options() -> GenerationOptions {
      let sampling =
        random.next() % 2 == 0
        ? SamplingOptions.greedy : SamplingOptions(temperature: 0.9, topP: 0.9, seed: random.next())
      return GenerationOptions(
        sampling: sampling, maxTokens: Int.random(in: 0...70, using: &random), ignoreEOS: random.next() % 4 > 0,
        promptLogProbabilities: random.next() % 4 == 0 ? 2 : nil)
    }
    var expected: [String: Expectation] = [:]
    var order: [String] = []
    var forks = 0
    func add(_ e: Expectation) -> String {
      let id = "\(order.count)"
      expected[id] = e
      order.append(id)
      return id
    }
    // Two answers that outgrow what they were admitted for, and together the smallest pool.
    for i: Int32 in 0..<2 {
      let e = Expectation(
        prompt: (0..<20).map { 20 * i + $0 }, options: .init(maxTokens: 140, ignoreEOS: true), channel: .open())
      let id = add(e)
      scheduler.submit(try sequence(id, e, model))
    }
    while order.count < 50 || !scheduler.isIdle {
      let running = (scheduler.decoding + scheduler.prefilling).map(\.id)
      switch (random.next() % 12, order.count < 50) {
      case (0...2, true):
        let common = beginnings[Int(random.next() % 3)].prefix(Int(random.next() % 51))
        let rest = (0..<Int.random(in: 1...60, using: &random)).map { _ in Int32(random.next() % 200) }
        let e = Expectation(prompt: common + rest, options: options(), channel: .open())
        let id = add(e)
        scheduler.submit(try sequence(id, e, model))
      case (3, true) where !running.isEmpty:
        let source = running[Int(random.next() % UInt64(running.count))]
        let made = try scheduler.fork(source, at: Int.random(in: 1...40, using: &random)) { tokens in
          let e = Expectation(prompt: tokens, options: options(), channel: .open())
          // Only known if there is room: the name is given away then.
          expected["\(order.count)"] = e
          return try sequence("\(order.count)", e, model)
        }
        if made {
          order.append("\(order.count)")
          forks += 1
        }
      case (4, _) where order.count > 2 && random.next() % 4 == 0:
        let id = order[2 + Int(random.next() % UInt64(order.count - 2))]
        scheduler.cancel(id)
        expected[id]!.isCancelled = true
      default:
        _ = scheduler.step()
      }
      scheduler.checkInvariants()
    }
    for id in order {
      let e = expected[id]!
      let (score, end) = try await e.channel.outcome()
      let generation = try #require(end, "\(id), seed \(seed)")
      if e.isCancelled && generation.finishReason == .cancelled { continue }
      // A prompt whose answer was to have no tokens may be cancelled before it is read.
      if e.isCancelled && e.options.maxTokens == 0 { continue }
      if let top = e.options.promptLogProbabilities {
        let score = try #require(score, "\(id), seed \(seed)")
        let oracle = try scorer.score(e.prompt, top: top)
        #expect(score.tokens == e.prompt && score.logProbabilities[0] == nil, "\(id), seed \(seed)")
        for (a, b) in zip(score.logProbabilities, oracle.logProbabilities).dropFirst() {
          #expect(abs(a! - b!) < 1e-4, "\(id), seed \(seed)")
        }
        #expect(score.top.map { $0.map(\.token) } == oracle.top.map { $0.map(\.token) }, "\(id), seed \(seed)")
        scored += 1
      } else {
        #expect(score == nil, "\(id), seed \(seed)")
      }
      var options = e.options
      options.promptLogProbabilities = nil
      let oracle = try alone.generate(e.prompt, options)
      #expect(generation.tokens == oracle.tokens, "\(id), seed \(seed)")
      #expect(generation.text == oracle.text, "\(id), seed \(seed)")
      #expect(generation.finishReason == oracle.finishReason, "\(id), seed \(seed)")
    }
    let stats = figures.value
    #expect(stats.finished.values.reduce(0, +) == order.count, "seed \(seed)")
    #expect(stats.sequences.isEmpty && stats.blocksUsed == stats.blocksCached, "seed \(seed)")
    #expect(forks > 0 && scored > 0 && stats.cachedTokens > 0, "the walk tests too little, seed \(seed)")
    #expect(round > 0 || stats.preemptions > 0, "the pool was never full, seed \(seed)")
  }

  @Test func aForkFromAnotherNamespaceIsRefused() throws {
    let model = try tinyModel()
    let runner = try ModelRunner(model, RunnerOptions(threads: 1, maxSequences: 2, kvPoolBytes: 1 << 20))
    let scheduler = Scheduler(runner, BatchOptions(maxRunning: 2), PublishedStats()) { 0 }
    let e = Expectation(prompt: [1, 2, 3], options: .init(maxTokens: 9, ignoreEOS: true), channel: .open())
    scheduler.submit(try sequence("a", e, model, namespace: "one"))
    #expect(scheduler.step())
    for (namespace, isMade) in [("other", false), ("one", true)] {
      let made = try scheduler.fork("a", at: 2) { tokens in
        try sequence(
          "b", Expectation(prompt: tokens, options: e.options, channel: .open()), model, namespace: namespace)
      }
      #expect(made == isMade)
      scheduler.checkInvariants()
    }
  }

  @Test func figuresKnowOfAnEndBeforeItsReaderDoes() throws {
    let model = try tinyModel()
    let runner = try ModelRunner(model, RunnerOptions(threads: 1, kvPoolBytes: 1 << 20))
    let figures = PublishedStats()
    var time = 0.0
    let scheduler = Scheduler(runner, BatchOptions(maxRunning: 1), figures) {
      time += 1
      return time
    }
    let e = Expectation(prompt: [1, 2, 3], options: .init(maxTokens: 2, ignoreEOS: true), channel: .open())
    scheduler.submit(try sequence("a", e, model))
    while scheduler.step() {}
    // Nobody but the scheduler itself has published anything.
    #expect(figures.value.finished == ["length": 1])
    #expect(figures.value.sequences.isEmpty)
  }

  @Test func theTimeOfAStepIsTheModelsAndTheRest() throws {
    let model = try tinyModel()
    let runner = try ModelRunner(model, RunnerOptions(threads: 1, kvPoolBytes: 1 << 20))
    let figures = PublishedStats()
    var time = 0.0
    let scheduler = Scheduler(runner, BatchOptions(maxRunning: 1), figures) {
      time += 1
      return time
    }
    let e = Expectation(prompt: [1, 2, 3], options: .init(maxTokens: 5, ignoreEOS: true), channel: .open())
    scheduler.submit(try sequence("a", e, model))
    scheduler.wake()
    let begin = time
    for _ in 0..<4 { #expect(scheduler.step()) }
    let end = time
    scheduler.publishFigures()
    let stats = figures.value
    #expect(stats.forwardTime == 4, "the clock ticks once from before the model to after it")
    #expect(stats.forwardTime + stats.overheadTime == end - begin)
  }
}

@Suite struct EngineStorageTests {
  @Test func sortingThroughScratchIsTheStandardSort() {
    let seed = UInt64.random(in: 0 ... .max)
    var random = TestRandom(seed: seed)
    var scratch: [(key: Int, place: Int)] = []
    for count in Array(0..<70) + [127, 128, 129, 1000, 4097] {
      var values = (0..<count).map { (key: Int(random.next() % UInt64(1 + count / 2)), place: $0) }
      if random.next() % 4 == 0 { values.sort { $0.key < $1.key } }
      let expected = values.sorted { $0.key < $1.key }
      values.sort(through: &scratch) { $0.key < $1.key }
      #expect(values.map(\.place) == expected.map(\.place), "\(count) elements, seed \(seed)")
    }
  }

  @Test func aRingGivesWhatItWasGivenInOrder() {
    let seed = UInt64.random(in: 0 ... .max)
    var random = TestRandom(seed: seed)
    var ring = Ring<Int>()
    var model: [Int] = []
    for i in 0..<4000 {
      // Fuller for some time, then emptier.
      if random.next() % 8 < (i / 500 % 2 == 0 ? 5 : 3) {
        ring.append(i)
        model.append(i)
      } else {
        #expect(ring.popFirst() == (model.isEmpty ? nil : model.removeFirst()), "seed \(seed)")
      }
      #expect(ring.count == model.count, "seed \(seed)")
    }
    #expect(model.isEmpty || ring.popFirst() == model[0])
  }
}
