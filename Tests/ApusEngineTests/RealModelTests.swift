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

  @Test func aSerialEngineAnswersOneRequestAfterAnother() async throws {
    let engine = try await SerialEngine(try RealModels.smollm2())
    let options = GenerationOptions(maxTokens: 6)
    let message = ChatMessage(role: "user", content: "Say hello.").jinjaValue
    let answers = try await withThrowingTaskGroup(of: String.self) { group in
      for _ in 0..<3 {
        group.addTask {
          let answer = try await engine.answer(.chat(messages: [message]), options)
          var text = ""
          for try await event in answer.events {
            if case .finished(let generation) = event { text = generation.text }
          }
          return text
        }
      }
      return try await group.reduce(into: []) { $0.append($1) }
    }
    #expect(answers.count == 3 && Set(answers).count == 1 && !answers[0].isEmpty)
    // A stream that is dropped gives the thread to the next request soon.
    _ = try await engine.answer(.text("Once upon a time"), .init(ignoreEOS: true))
    let next = try await engine.answer(.text("A swift"), .init(maxTokens: 1))
    #expect(next.promptTokens > 0)
    await #expect(throws: RunnerError.self) {
      _ = try await engine.answer(.tokens([Int32](repeating: 1, count: 5000)), options)
    }
    engine.stop()
    await #expect(throws: GenerationError.stopped) { _ = try await engine.answer(.text("x"), options) }
  }
}
