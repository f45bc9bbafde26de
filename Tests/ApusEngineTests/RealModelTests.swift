import ApusModels
import ApusText
import Foundation
import Testing

@testable import ApusEngine

/// Models on this machine: in the folder `APUS_MODELS`, or in the store.
enum RealModels {
  static func location(_ name: String) -> ModelLocation? {
    if let folder = ProcessInfo.processInfo.environment["APUS_MODELS"] {
      for path in ["\(folder)/\(name).gguf", "\(folder)/\(name)"] where FileManager.default.fileExists(atPath: path) {
        return try? ModelStore().find(path)
      }
    }
    return try? ModelStore().find(name)
  }

  static let hasDefault = location("smollm2-135m") != nil
  static func smollm2() throws -> LoadedModel { try #require(location("smollm2-135m")).load() }
}

@Suite(.enabled(if: RealModels.hasDefault, "smollm2-135m is not here: apus model pull smollm2-135m"), .serialized)
struct RealModelTests {
  @Test func greedyTextMakesSense() throws {
    let generator = try TextGenerator(try RealModels.smollm2())
    let answer = try generator.generate("The capital of France is", .init(maxTokens: 2))
    #expect(answer.text.hasPrefix(" Paris"))
    #expect(answer.promptTokens == 5)
  }

  @Test func theSameSeedGivesTheSameTextWhateverTheChunks() throws {
    let model = try RealModels.smollm2()
    let prompt = model.tokenizer.encode(String(repeating: "A swift sleeps on the wing. ", count: 4))
    let options = GenerationOptions(sampling: .init(temperature: 0.9, topP: 0.9, seed: 5), maxTokens: 12)
    let texts = try [512, 7, 1].map { size in
      try TextGenerator(model, RunnerOptions(maxBatchTokens: size)).generate(prompt, options).tokens
    }
    #expect(texts[1] == texts[0])
    #expect(texts[2] == texts[0])
  }

  @Test func aChatThatKeepsItsPastAnswersAsOneThatDoesNot() throws {
    let model = try RealModels.smollm2()
    let options = GenerationOptions(maxTokens: 12)
    let kept = try ChatSession(model, system: "Be brief.", options: options)
    try kept.send("Name a bird.")
    let second = try kept.send("And another one.")
    let prompt = try ChatFormatter(model).tokens(messages: kept.messages.dropLast().map(\.jinjaValue))
    let fresh = try TextGenerator(model).generate(prompt, options)
    #expect(fresh.tokens == second.tokens)
    #expect(second.timings.prefillTokens < second.promptTokens / 2)
    #expect(kept.messages.map(\.role) == ["system", "user", "assistant", "user", "assistant"])
  }

  @Test func steppingScoresAsPrefillDoes() throws {
    let model = try RealModels.smollm2()
    let tokens = model.tokenizer.encode("The quick brown fox jumps over the lazy dog, and the dog sleeps on.")
    let scorer = try Scorer(model, tokens: tokens.count)
    let whole = try scorer.score(tokens)
    let steps = try scorer.score(tokens, stepwise: true)
    for (a, b) in zip(whole.logProbabilities.dropFirst(), steps.logProbabilities.dropFirst()) {
      #expect(abs(a! - b!) < 0.05)
    }
    #expect(try #require(whole.perplexity) < 60)
  }

  // MARK: the batching engine

  private func collect(_ answer: AnswerStream) async throws -> Generation {
    for try await event in answer.events {
      if case .finished(let generation) = event { return generation }
    }
    throw CancellationError()
  }

  /// Prompts of many lengths, greedy and sampled, some with a common beginning.
  private static let requests: [(prompt: String, options: GenerationOptions)] = {
    let system = String(repeating: "You are a careful librarian who answers in short sentences. ", count: 5)
    let texts = [
      "Once upon a time", system + "Where are the books on birds?", "The capital of France is",
      system + "Where are the books on fish?", String(repeating: "one two three four five ", count: 40), "def fib(n):",
      system + "Where are the books on birds, please?", "A",
    ]
    return texts.enumerated().map { i, text in
      let sampling = i % 2 == 0 ? .greedy : SamplingOptions(temperature: 0.9, topP: 0.95, seed: UInt64(i))
      return (text, GenerationOptions(sampling: sampling, maxTokens: 70 + 10 * i, ignoreEOS: true))
    }
  }()

  @Test func aTextIsTheSameAloneAndInAnyBatch() async throws {
    let model = try RealModels.smollm2()
    let alone = try TextGenerator(model)
    let expected = try Self.requests.map { try alone.generate($0.prompt, $0.options).tokens }
    // A pool that is ample, and one so small that sequences are preempted.
    for pool in [64 << 20, 12 << 20] {
      let engine = try await BatchEngine(
        model, RunnerOptions(contextLength: 512, kvPoolBytes: pool), BatchOptions(maxRunning: 8))
      try await withThrowingTaskGroup(of: (Int, [Int32]).self) { group in
        for (i, request) in Self.requests.enumerated() {
          group.addTask {
            try await Task.sleep(for: .milliseconds(10 * i))
            return (i, try await collect(try await engine.answer(.text(request.prompt), request.options)).tokens)
          }
        }
        for try await (i, tokens) in group { #expect(tokens == expected[i], "request \(i), pool \(pool)") }
      }
      let stats = engine.stats
      #expect(pool > 12 << 20 ? stats.preemptions == 0 : stats.preemptions > 0)
      #expect(stats.cachedTokens > 0)
      engine.stop()
    }
  }

  @Test func aCommonBeginningIsComputedOnce() async throws {
    let model = try RealModels.smollm2()
    let engine = try await BatchEngine(model, RunnerOptions(contextLength: 1024, kvPoolBytes: 64 << 20))
    let prompt = model.tokenizer.encode(String(repeating: "A swift sleeps on the wing. ", count: 40))
    let options = GenerationOptions(maxTokens: 4, logProbabilities: 3)
    func ask(_ namespace: String) async throws -> (Generation, [TokenLogProbabilities?]) {
      let answer = try await engine.answer(.tokens(prompt), options, for: .init(id: namespace, namespace: namespace))
      var reports: [TokenLogProbabilities?] = []
      for try await event in answer.events {
        if case .token(let token) = event { reports.append(token.logProbabilities) }
        if case .finished(let generation) = event { return (generation, reports) }
      }
      throw CancellationError()
    }
    let (cold, coldReports) = try await ask("a")
    let (warm, warmReports) = try await ask("a")
    let (other, _) = try await ask("b")
    #expect(cold.cachedTokens == 0)
    #expect(warm.cachedTokens == (prompt.count - 1) / 16 * 16)
    #expect(other.cachedTokens == 0, "another namespace sees nothing")
    #expect(warm.tokens == cold.tokens)
    #expect(warmReports == coldReports, "the logits are the same to the bit")
    engine.stop()
  }

  @Test func aReaderThatGoesAwayFreesItsSequence() async throws {
    let engine = try await BatchEngine(try RealModels.smollm2(), RunnerOptions(kvPoolBytes: 256 << 20))
    _ = try await engine.answer(.text("Once upon a time"), .init(ignoreEOS: true))
    let next = try await collect(try await engine.answer(.text("A swift"), .init(maxTokens: 3, ignoreEOS: true)))
    #expect(next.tokens.count == 3)
    // The figures are renewed every 50 ms: the first that one sees may be from before the requests.
    for _ in 0..<100 where engine.stats.finished["cancelled"] == nil || !engine.stats.sequences.isEmpty {
      try await Task.sleep(for: .milliseconds(20))
    }
    #expect(engine.stats.sequences.isEmpty)
    #expect(engine.stats.finished["cancelled"] == 1)
    #expect(engine.stats.blocksUsed == engine.stats.blocksCached)
    engine.stop()
  }

  @Test func aSlowReaderPausesItsOwnSequenceOnly() async throws {
    let engine = try await BatchEngine(
      try RealModels.smollm2(), RunnerOptions(kvPoolBytes: 256 << 20), BatchOptions(channelCapacity: 4))
    let slow = try await engine.answer(.text("Once upon a time"), .init(maxTokens: 40, ignoreEOS: true))
    let quick = try await collect(try await engine.answer(.text("A swift"), .init(maxTokens: 30, ignoreEOS: true)))
    #expect(quick.tokens.count == 30)
    // The figures are renewed every 50 ms, or when nothing goes on.
    for _ in 0..<100 where engine.stats.sequences.count != 1 { try await Task.sleep(for: .milliseconds(20)) }
    let waiting = try #require(engine.stats.sequences.first)
    #expect(waiting.state == .paused && waiting.generatedTokens < 40)
    #expect(try await collect(slow).tokens.count == 40)
    engine.stop()
  }

  @Test func aForkGoesOnAsItsSourceDoes() async throws {
    let model = try RealModels.smollm2()
    let engine = try await BatchEngine(model, RunnerOptions(kvPoolBytes: 256 << 20))
    let prompt = model.tokenizer.encode("The swift is a bird that spends most of its life in the air, and it")
    let options = GenerationOptions(maxTokens: 24, ignoreEOS: true)
    let expected = try TextGenerator(model).generate(prompt, options).tokens
    let source = try await engine.answer(
      .tokens(prompt), .init(maxTokens: 400, ignoreEOS: true), for: .init(id: "source")
    ).events.makeAsyncIterator()
    for _ in 0..<4 { _ = try await source.next() }
    let fork = try await engine.fork("source", at: prompt.count, options, for: .init(id: "fork"))
    let forked = try await collect(fork)
    #expect(forked.tokens == expected)
    #expect(forked.cachedTokens == prompt.count - 1)
    await #expect(throws: EngineError.noSuchSequence("nobody")) {
      _ = try await engine.fork("nobody", at: 1, options, for: .init(id: "x"))
    }
    engine.stop()
  }

  @Test func whatCannotBeAnsweredIsRefusedAtOnce() async throws {
    let engine = try await BatchEngine(
      try RealModels.smollm2(), RunnerOptions(kvPoolBytes: 256 << 20), BatchOptions(maxRunning: 1, maxQueue: 1))
    let options = GenerationOptions(maxTokens: 6)
    await #expect(throws: RunnerError.self) {
      _ = try await engine.answer(.tokens([Int32](repeating: 1, count: 5000)), options)
    }
    await #expect(throws: GenerationError.self) { _ = try await engine.answer(.tokens([-1]), options) }
    let first = try await engine.answer(.text("Once"), .init(maxTokens: 200, ignoreEOS: true))
    for _ in 0..<100 where engine.stats.running == 0 { try await Task.sleep(for: .milliseconds(10)) }
    let second = try await engine.answer(.text("Once"), options)
    await #expect(throws: EngineError.queueFull(waiting: 1, limit: 1)) {
      _ = try await engine.answer(.text("Once"), options)
    }
    // A limit that changes holds for the next request.
    engine.limitQueue(to: 2)
    let third = try await engine.answer(.text("Once"), options)
    engine.limitQueue(to: 1)
    await #expect(throws: EngineError.queueFull(waiting: 2, limit: 1)) {
      _ = try await engine.answer(.text("Once"), options)
    }
    #expect(try await collect(first).tokens.count == 200)
    #expect(try await !collect(second).tokens.isEmpty)
    #expect(try await !collect(third).tokens.isEmpty)
    engine.stop()
    await #expect(throws: GenerationError.stopped) { _ = try await engine.answer(.text("x"), options) }
  }

  @Test func anIdleEngineIsUnloadedAndComesBack() async throws {
    let engine = try OnDemandEngine(
      try RealModels.smollm2(), RunnerOptions(kvPoolBytes: 256 << 20), idleAfter: .milliseconds(100))
    #expect(!engine.isLoaded)
    let options = GenerationOptions(maxTokens: 3, ignoreEOS: true)
    let first = try await collect(try await engine.answer(.text("A swift"), options))
    #expect(engine.isLoaded)
    for _ in 0..<100 where engine.isLoaded { try await Task.sleep(for: .milliseconds(50)) }
    #expect(!engine.isLoaded)
    #expect(try engine.tokens(of: .text("A swift")).count == first.promptTokens && !engine.isLoaded)
    #expect(try await collect(try await engine.answer(.text("A swift"), options)).tokens == first.tokens)
    engine.stop()
  }
}
