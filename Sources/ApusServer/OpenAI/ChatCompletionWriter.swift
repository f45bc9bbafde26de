import ApusEngine
import ApusText

/// Turns an answer's events into OpenAI's objects, streamed or whole: a state machine without I/O.
struct ChatCompletionWriter: Sendable {
  let id: String
  let created: Int
  let model: String
  let tokenizer: any Tokenizer
  let includeUsage: Bool
  private var tokens: [ChoiceLogProbabilities.Token] = []
  private var pending: [ChoiceLogProbabilities.Token] = []

  init(id: String, created: Int, model: String, tokenizer: any Tokenizer, includeUsage: Bool) {
    self.id = id
    self.created = created
    self.model = model
    self.tokenizer = tokenizer
    self.includeUsage = includeUsage
  }

  // MARK: stream

  /// The chunks that an event causes, in order. The first carries the role, the last but the usage the reason.
  mutating func chunks(for event: GenerationEvent) -> [ChatCompletionChunk] {
    switch event {
    case .started: return [chunk(.init(role: "assistant", content: ""))]
    case .token(let token):
      if let report = token.logProbabilities { pending.append(entry(token.id, report)) }
      // A token without text waits for the one that completes a character; its log-probability goes with it.
      if token.text.isEmpty { return [] }
      return [chunk(.init(content: token.text), takePending())]
    case .finished(let generation):
      var chunks: [ChatCompletionChunk] = []
      if !generation.tail.isEmpty || !pending.isEmpty {
        chunks.append(chunk(.init(content: generation.tail), takePending()))
      }
      var last = chunk(.init())
      last.choices[0].finishReason = generation.finishReason.openAIName
      chunks.append(last)
      if includeUsage {
        var usage = chunk(.init())
        usage.choices = []
        usage.usage = Usage(promptTokens: generation.promptTokens, completionTokens: generation.tokens.count)
        chunks.append(usage)
      }
      return chunks
    }
  }

  private func chunk(
    _ delta: ChatCompletionChunk.Delta, _ logprobs: ChoiceLogProbabilities? = nil
  ) -> ChatCompletionChunk {
    ChatCompletionChunk(
      id: id, created: created, model: model, choices: [.init(delta: delta, logprobs: logprobs)])
  }

  private mutating func takePending() -> ChoiceLogProbabilities? {
    defer { pending.removeAll() }
    return pending.isEmpty ? nil : ChoiceLogProbabilities(content: pending)
  }

  // MARK: whole

  /// Takes the events of an answer that is sent whole; returns it with the last one.
  mutating func completion(for event: GenerationEvent) -> ChatCompletion? {
    switch event {
    case .started: return nil
    case .token(let token):
      if let report = token.logProbabilities { tokens.append(entry(token.id, report)) }
      return nil
    case .finished(let generation):
      return ChatCompletion(
        id: id, created: created, model: model,
        choices: [
          .init(
            message: .init(content: generation.text),
            logprobs: tokens.isEmpty ? nil : ChoiceLogProbabilities(content: tokens),
            finishReason: generation.finishReason.openAIName)
        ], usage: Usage(promptTokens: generation.promptTokens, completionTokens: generation.tokens.count))
    }
  }

  private func entry(_ id: Int32, _ report: TokenLogProbabilities) -> ChoiceLogProbabilities.Token {
    let bytes = tokenizer.bytes(of: id)
    return .init(
      token: String(decoding: bytes, as: UTF8.self), logprob: Self.finite(report.chosen), bytes: bytes,
      topLogprobs: report.top.map {
        let bytes = tokenizer.bytes(of: $0.token)
        return .init(
          token: String(decoding: bytes, as: UTF8.self), logprob: Self.finite($0.logProbability), bytes: bytes)
      })
  }

  /// JSON has no infinity; OpenAI writes −9999 for what cannot happen.
  private static func finite(_ x: Float) -> Float { x.isFinite ? x : -9999 }
}

/// The text form of an event stream. Source: WHATWG HTML, section 9.2 "Server-sent events".
enum ServerSentEvents {
  static func data(_ json: some Encodable) throws -> [UInt8] {
    // JSON on one line holds no line break, which would end the field.
    Array("data: ".utf8) + (try JSON.encode(json)) + Array("\n\n".utf8)
  }

  /// How OpenAI ends a stream.
  static let done = Array("data: [DONE]\n\n".utf8)
}
