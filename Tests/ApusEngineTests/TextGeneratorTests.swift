import ApusModels
import ApusText
import Testing

@testable import ApusEngine

@Suite struct TextGeneratorTests {
  private func generator(_ runner: ScriptedRunner, hasBOS: Bool = true) -> TextGenerator {
    TextGenerator(
      runner: runner, tokenizer: ByteTokenizer(hasBOS: hasBOS), vocabularySize: runner.vocabularySize)
  }

  private func writing(_ answer: String, after prompt: String = "p") -> TextGenerator {
    generator(.writing(answer.utf8.map { Int32($0) }, afterPromptOf: prompt.utf8.count))
  }

  @Test func anAnswerEndsWithTheModelsEndToken() throws {
    var deltas: [String] = []
    let answer = try writing("Héllo 🌍").generate("p", .init()) { event in
      if case .token(let token) = event { deltas.append(token.text) }
    }
    #expect(answer.text == "Héllo 🌍")
    #expect(answer.tokens == "Héllo 🌍".utf8.map { Int32($0) })
    #expect(answer.finishReason == .stop)
    #expect(answer.promptTokens == 1)
    #expect(deltas.joined() == answer.text && answer.tail.isEmpty)
    // Whole characters only: the bytes before the last one of each give nothing.
    #expect(deltas == ["H", "", "é", "l", "l", "o", " ", "", "", "", "🌍"])
  }

  @Test func aStopStringThatSpansTokensIsNeverShown() throws {
    for (answer, stops, expected, reason) in [
      ("one\nUser: two", ["\nUser:"], "one", FinishReason.stopSequence),
      ("one\nUse of it", ["\nUser:"], "one\nUse of it", .stop),
      ("one\nUs", ["\nUser:"], "one\nUs", .stop),
      ("aab", ["ab"], "a", .stopSequence),
      ("abcabd", ["abd", ""], "abc", .stopSequence),
      ("x", ["x"], "", .stopSequence),
    ] {
      var shown = ""
      let result = try writing(answer).generate("p", .init(stop: stops)) { event in
        switch event {
        case .token(let token): shown += token.text
        case .finished(let generation): shown += generation.tail
        case .started, .prompt: break
        }
      }
      #expect(result.text == expected)
      #expect(shown == expected)
      #expect(result.finishReason == reason, "\(answer)")
    }
  }

  @Test func aCutCharacterBecomesAReplacementAtTheEnd() throws {
    let result = try writing("aé").generate("p", .init(maxTokens: 2))
    #expect(result.text == "a\u{FFFD}")
    #expect(result.tail == "\u{FFFD}")
    #expect(result.finishReason == .length)
  }

  @Test func ignoringTheEndTokenGoesOnWithoutShowingIt() throws {
    let runner = ScriptedRunner.writing([65, ByteTokenizer.eos, 66], afterPromptOf: 1)
    let result = try generator(runner).generate("p", .init(maxTokens: 3, ignoreEOS: true))
    #expect(result.tokens == [65, 256, 66])
    #expect(result.text == "AB")
    #expect(result.finishReason == .length)
  }

  @Test func thePromptIsComputedInChunksAndEachTokenOnce() throws {
    let runner = ScriptedRunner.writing([65, 66], afterPromptOf: 19)
    let result = try generator(runner).generate(String(repeating: "x", count: 19), .init())
    #expect(result.text == "AB")
    #expect(runner.steps == [8, 8, 3, 1, 1])
    #expect(result.timings.prefillTokens == 19 && result.timings.decodeTokens == 1)
  }

  @Test func aPromptThatContinuesTheLastOneIsOnlyComputedFromWhereItDiffers() throws {
    let options = GenerationOptions(sampling: .init(seed: 4), maxTokens: 5, ignoreEOS: true)
    let first: [Int32] = [1, 2, 3, 4]
    let kept = generator(.hashing())
    let one = try kept.generate(first, options)
    let second = first + one.tokens + [9, 10]
    var cached = -1
    let two = try kept.generate(second, options) { event in
      if case .started(_, let count) = event { cached = count }
    }
    // The last generated token was never fed back.
    #expect(cached == 8)
    #expect(two.tokens == (try generator(.hashing()).generate(second, options).tokens))
    // The same prompt again computes one token, a shorter one too, an unrelated one everything.
    for (prompt, expected) in [(second, second.count - 1), ([1, 2, 3], 2), ([7, 8], 0)] as [([Int32], Int)] {
      let again = try kept.generate(prompt, options) { event in
        if case .started(_, let count) = event { cached = count }
      }
      #expect(cached == expected)
      #expect(again.tokens == (try generator(.hashing()).generate(prompt, options).tokens))
    }
  }

  @Test func theSameSeedGivesTheSameAnswerWhateverTheChunks() throws {
    let options = GenerationOptions(sampling: .init(temperature: 1.2, topP: 0.95, seed: 77), maxTokens: 20)
    let prompt = (0..<30).map { Int32($0) }
    let answers = try [1, 3, 8, 64].map {
      try generator(.hashing(maxBatchTokens: $0)).generate(prompt, options).tokens
    }
    #expect(Set(answers).count == 1)
    var other = options
    other.sampling.seed = 78
    #expect(try generator(.hashing()).generate(prompt, other).tokens != answers[0])
  }

  @Test func aFullContextIsAnErrorUnlessTheAnswerIsOpenEnded() throws {
    let prompt = [Int32](repeating: 1, count: 12)
    let g = generator(.hashing(contextLength: 16))
    #expect(throws: RunnerError.self) { try g.generate(prompt, .init(maxTokens: 5, ignoreEOS: true)) }
    #expect(try g.generate(prompt, .init(maxTokens: 4, ignoreEOS: true)).tokens.count == 4)
    #expect(throws: RunnerError.self) { try g.generate([Int32](repeating: 1, count: 16), .init()) }
    // Sixteen tokens fit, and the logits after the last one give a seventeenth that needs no place.
    let open = try g.generate(prompt, .init(ignoreEOS: true))
    #expect(open.finishReason == .length)
    #expect(open.tokens.count == 5)
  }

  @Test func shiftingDropsTheOlderHalfAfterTheKeptPrefix() throws {
    let runner = ScriptedRunner.hashing(contextLength: 16)
    var seen: [[Int32]] = []
    let inner = runner.logits
    runner.logits = { tokens in
      seen.append(tokens)
      return inner(tokens)
    }
    let prompt = (1...12).map { Int32($0) }
    let options = GenerationOptions(maxTokens: 20, ignoreEOS: true, overflow: .shift(keep: 2))
    let result = try generator(runner).generate(prompt, options)
    #expect(result.tokens.count == 20)
    // The step after the first full context continues from the first two tokens and the newer half of the other 14.
    let full = prompt + result.tokens.prefix(4)
    let after = Array(full[..<2] + full[9...]) + [result.tokens[4]]
    #expect(seen.contains(after))
    // A prompt beyond the context is cut the same way.
    let long = try generator(.hashing(contextLength: 16)).generate((0..<100).map { Int32($0) }, options)
    #expect(long.tokens.count == 20 && long.promptTokens == 100)
  }

  @Test func cancellingEndsTheAnswerBetweenSteps() throws {
    let cancellation = Cancellation()
    var count = 0
    let result = try generator(.hashing()).generate([1], .init(ignoreEOS: true), cancellation: cancellation) { event in
      if case .token = event {
        count += 1
        if count == 3 { cancellation.cancel() }
      }
    }
    #expect(result.finishReason == .cancelled)
    #expect(result.tokens.count == 3)
  }

  @Test func emptyAndImpossiblePromptsAreTyped() throws {
    let g = generator(.hashing())
    #expect(try g.generate([], .init(maxTokens: 1, ignoreEOS: true)).promptTokens == 1)
    #expect(throws: GenerationError.emptyPrompt) { try generator(.hashing(), hasBOS: false).generate("", .init()) }
    #expect(throws: GenerationError.tokenOutOfRange(index: 1, token: 259, vocabularySize: 259)) {
      try g.generate([1, 259], .init())
    }
    #expect(throws: GenerationError.self) { try g.generate([1], .init(logProbabilities: 300)) }
    #expect(throws: GenerationError.self) { try g.generate([1], .init(overflow: .shift(keep: 40))) }
    #expect(try g.generate([1], .init(maxTokens: 0)).tokens.isEmpty)
  }

  @Test func afterAFailedStepTheGeneratorStartsAfresh() throws {
    let runner = ScriptedRunner.hashing()
    let g = generator(runner)
    let options = GenerationOptions(maxTokens: 4, ignoreEOS: true)
    runner.failingStep = 2
    #expect(throws: ScriptedRunner.StepFailed.self) { try g.generate([1, 2, 3], options) }
    #expect(runner.liveSequences == 0)
    #expect(try g.generate([1, 2, 3], options).tokens == generator(.hashing()).generate([1, 2, 3], options).tokens)
  }

  @Test func reportedLogProbabilitiesAreThoseOfTheUnchangedLogits() throws {
    let runner = ScriptedRunner.hashing()
    var rows: [[Float]] = []
    let inner = runner.logits
    runner.logits = { tokens in
      let row = inner(tokens)
      rows.append(row)
      return row
    }
    var reports: [(Int32, TokenLogProbabilities)] = []
    let options = GenerationOptions(
      sampling: .init(temperature: 0.7, repetitionPenalty: 1.3, logitBias: [5: 4], seed: 2), maxTokens: 6,
      ignoreEOS: true, logProbabilities: 3)
    try generator(runner).generate([1, 2], options) { event in
      if case .token(let token) = event { reports.append((token.id, token.logProbabilities!)) }
    }
    #expect(reports.count == 6 && rows.count == 6)
    for (row, (token, report)) in zip(rows, reports) {
      row.withUnsafeBufferPointer { row in
        #expect(report == LogSoftmax(row)(chosen: token, top: 3))
      }
    }
  }
}

@Suite struct EngineThreadTests {
  @Test func jobsRunInOrderOnOneThreadThatOwnsTheState() async throws {
    final class Counter { var values: [Int] = [] }
    let thread = EngineThread<Counter>(name: "test") { Counter() }
    for i in 0..<100 { thread.enqueue { state in try! state.get().values.append(i) } }
    let values = try await thread.run { $0.values }
    #expect(values == Array(0..<100))
  }

  @Test func aStateThatCannotBeMadeFailsEveryJob() async {
    struct Broken: Error {}
    let thread = EngineThread<Int>(name: "test") { throw Broken() }
    await #expect(throws: Broken.self) { try await thread.run { $0 } }
    await #expect(throws: Broken.self) { try await thread.run { $0 } }
  }

  @Test func stoppingFinishesWhatWaitsAndRefusesTheRest() async throws {
    let thread = EngineThread<Int>(name: "test") { 7 }
    async let waiting = thread.run { $0 }
    _ = try await waiting
    thread.stop()
    await #expect(throws: GenerationError.stopped) { try await thread.run { $0 } }
  }
}
