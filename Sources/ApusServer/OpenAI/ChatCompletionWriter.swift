import ApusEngine
import ApusText

/// Turns an answer's parts into OpenAI's objects, streamed or whole: a state machine without I/O.
struct ChatCompletionWriter: Sendable {
  let id: String
  let created: Int
  let model: String
  let tokenizer: any Tokenizer
  let includeUsage: Bool
  /// The running usage in every chunk, as vLLM's `continuous_usage_stats`.
  let continuousUsage: Bool
  private var promptTokens = 0
  private var cachedTokens = 0
  private var completionTokens = 0
  private var tokens: [ChoiceLogProbabilities.Token] = []
  private var calls: [ToolCall] = []
  /// The bytes of an event before and after its text: in most events nothing else changes.
  private var frame: (before: [UInt8], after: [UInt8])?

  init(
    id: String, created: Int, model: String, tokenizer: any Tokenizer, includeUsage: Bool, continuousUsage: Bool = false
  ) {
    self.id = id
    self.created = created
    self.model = model
    self.tokenizer = tokenizer
    self.includeUsage = includeUsage
    self.continuousUsage = continuousUsage
  }

  // MARK: stream

  /// The events that a part causes, as they go over the wire.
  mutating func events(for part: AnswerPart) throws -> [UInt8] {
    guard case .text(let text, let reports) = part, reports.isEmpty, !continuousUsage else {
      return try chunks(for: part).flatMap { try ServerSentEvents.data($0) }
    }
    completionTokens += 1
    let frame = try frame ?? makeFrame()
    self.frame = frame
    var bytes = frame.before
    CompactJSON.write(text, to: &bytes)
    bytes += frame.after
    return bytes
  }

  /// A chunk whose text is empty, cut where the text stands. Keys are sorted, so no value that a client could have
  /// chosen comes before it.
  private func makeFrame() throws -> (before: [UInt8], after: [UInt8]) {
    let bytes = try ServerSentEvents.data(chunk(.init(content: "")))
    let key = Array(#""content":"#.utf8)
    guard let range = bytes.firstRange(of: key + Array(#""""#.utf8)) else {
      preconditionFailure("a chunk without its text")
    }
    return (Array(bytes[..<(range.lowerBound + key.count)]), Array(bytes[range.upperBound...]))
  }

  /// The chunks that a part causes, in order. The first carries the role, the last but the usage the reason.
  mutating func chunks(for part: AnswerPart) -> [ChatCompletionChunk] {
    switch part {
    case .started(let promptTokens, let cached):
      self.promptTokens = promptTokens
      cachedTokens = cached
      return [chunk(.init(role: "assistant", content: ""))]
    case .prompt: return []
    case .text(let text, let reports):
      completionTokens += 1
      return [chunk(.init(content: text), logProbabilities(reports))]
    case .callBegan(let index, let id, let name):
      return [
        chunk(
          .init(toolCalls: [
            .init(index: index, id: id, type: "function", function: .init(name: name, arguments: ""))
          ]))
      ]
    case .callArguments(let index, let json):
      return [chunk(.init(toolCalls: [.init(index: index, function: .init(arguments: json))]))]
    case .callEnded: return []
    case .finished(let end):
      var last = chunk(.init())
      last.choices[0].finishReason = end.reason.openAIName
      guard includeUsage else { return [last] }
      var usage = chunk(.init())
      usage.choices = []
      usage.usage = Usage(end)
      return [last, usage]
    }
  }

  private func chunk(
    _ delta: ChatCompletionChunk.Delta, _ logprobs: ChoiceLogProbabilities? = nil
  ) -> ChatCompletionChunk {
    ChatCompletionChunk(
      id: id, created: created, model: model, choices: [.init(delta: delta, logprobs: logprobs)],
      usage: continuousUsage
        ? Usage(promptTokens: promptTokens, completionTokens: completionTokens, cachedTokens: cachedTokens) : nil)
  }

  private func logProbabilities(_ reports: [TokenReport]) -> ChoiceLogProbabilities? {
    reports.isEmpty ? nil : ChoiceLogProbabilities(content: reports.map(entry))
  }

  // MARK: whole

  /// Takes the parts of an answer that is sent whole; returns it with the last one.
  mutating func completion(for part: AnswerPart) -> ChatCompletion? {
    switch part {
    case .started, .prompt, .callEnded: return nil
    case .text(_, let reports):
      tokens += reports.map(entry)
      return nil
    case .callBegan(_, let id, let name):
      calls.append(ToolCall(id: id, function: .init(name: name, arguments: "")))
      return nil
    case .callArguments(let index, let json):
      calls[index].function.arguments += json
      return nil
    case .finished(let end):
      return ChatCompletion(
        id: id, created: created, model: model,
        choices: [
          .init(
            message: .init(
              content: calls.isEmpty || !end.text.isEmpty ? end.text : nil, toolCalls: calls.isEmpty ? nil : calls),
            logprobs: tokens.isEmpty ? nil : ChoiceLogProbabilities(content: tokens),
            finishReason: end.reason.openAIName)
        ], usage: Usage(end))
    }
  }

  private func entry(_ report: TokenReport) -> ChoiceLogProbabilities.Token {
    let bytes = tokenizer.bytes(of: report.id)
    return .init(
      token: String(decoding: bytes, as: UTF8.self), logprob: Self.finite(report.logProbabilities.chosen), bytes: bytes,
      topLogprobs: report.logProbabilities.top.map {
        let bytes = tokenizer.bytes(of: $0.token)
        return .init(
          token: String(decoding: bytes, as: UTF8.self), logprob: Self.finite($0.logProbability), bytes: bytes)
      })
  }

  /// JSON has no infinity; OpenAI writes −9999 for what cannot happen.
  private static func finite(_ x: Float) -> Float { x.isFinite ? x : -9999 }
}

extension AnswerEnd.Reason {
  /// OpenAI has one word for the model's end and a stop string.
  var openAIName: String {
    switch self {
    case .stop, .stopSequence: "stop"
    case .length: "length"
    case .toolCalls: "tool_calls"
    case .cancelled: "cancelled"
    }
  }
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
