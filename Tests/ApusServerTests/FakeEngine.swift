import ApusEngine
import ApusText
import Synchronization
import TestSupport

/// Writes a fixed answer through the engine's own state machine, and remembers what it was asked.
final class FakeEngine: TextEngine {
  let name = "fake"
  let contextLength = 1000
  let tokenizer: any Tokenizer = ByteTokenizer()
  let reply: String
  /// Thrown instead of an answer.
  let failure: (any Error)?
  /// Thrown after this many tokens.
  let breakAfter: Int?
  let asked = Mutex<[(Prompt, GenerationOptions)]>([])
  let cancelled = Mutex(0)
  /// Never ends the answer, and waits between tokens.
  let isEndless: Bool

  init(reply: String = "Hé!", failure: (any Error)? = nil, breakAfter: Int? = nil, isEndless: Bool = false) {
    self.reply = reply
    self.failure = failure
    self.breakAfter = breakAfter
    self.isEndless = isEndless
  }

  struct Broken: Error {}

  var chatTemplate: ChatTemplate? { nil }
  var vocabulary: VocabularyTrie { VocabularyTrie(tokenizer) }

  func stop() {}

  func tokens(of prompt: Prompt) throws -> [Int32] {
    if let failure { throw failure }
    return [Int32](repeating: 1, count: 7)
  }

  let stats = EngineStats()

  func answer(_ prompt: Prompt, _ options: GenerationOptions, for origin: RequestOrigin) async throws -> AnswerStream {
    asked.withLock { $0.append((prompt, options)) }
    if let failure { throw failure }
    let events = AnswerEvents.made { [self] send, cancellation in
      send(.started(promptTokens: 7, cached: 0))
      var answer = AnswerBuilder(tokenizer: tokenizer, options: options)
      for (index, byte) in (isEndless ? String(repeating: "x", count: 100_000) : reply).utf8.enumerated() {
        if answer.finishReason != nil { break }
        if cancellation.isCancelled {
          cancelled.withLock { $0 += 1 }
          return
        }
        if index == breakAfter { throw Broken() }
        let report = options.logProbabilities.map { count in
          TokenLogProbabilities(
            chosen: -0.5, top: (0..<count).map { .init(token: Int32($0 + 65), logProbability: -Float($0) - 0.5) })
        }
        if let token = answer.accept(Int32(byte), logProbabilities: report) { send(.token(token)) }
        if isEndless { try await Task.sleep(for: .milliseconds(2)) }
      }
      answer.end(.stop)
      let tail = answer.flush()
      send(
        .finished(
          Generation(
            promptTokens: 7, tokens: answer.tokens, text: answer.text, tail: tail, finishReason: answer.finishReason!,
            stop: answer.stop,
            timings: .init(prefill: 0.1, decode: 0.1, prefillTokens: 7, decodeTokens: answer.tokens.count))))
    }
    return AnswerStream(promptTokens: 7, events: events)
  }
}
