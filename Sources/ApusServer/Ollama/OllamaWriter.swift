import ApusEngine
import ApusText
import Foundation

/// Turns an answer's parts into Ollama's objects, streamed as lines of JSON or whole: a state machine without I/O.
///
/// Source: Ollama's API documentation (docs/api.md), and the types of its Python client.
struct OllamaWriter: Sendable {
  enum Shape: Sendable {
    /// `/api/chat`: a message.
    case chat
    /// `/api/generate`: plain text.
    case generate
  }

  /// What the last object tells of the time that was spent, in nanoseconds.
  struct Durations: Sendable, Equatable {
    var total = 0
    var load = 0
    var promptEvaluation = 0
    var evaluation = 0
  }

  let shape: Shape
  let model: String
  let tokenizer: any Tokenizer
  /// To be set before the part `finished`.
  var durations = Durations()

  private var calls: [JinjaValue] = []
  private var callName = ""
  private var callArguments = ""
  private var reports: [JinjaValue] = []

  init(_ shape: Shape, model: String, tokenizer: any Tokenizer) {
    self.shape = shape
    self.model = model
    self.tokenizer = tokenizer
  }

  /// One line of a stream.
  static func line(_ object: JinjaValue) -> [UInt8] { CompactJSON.bytes(object) + [UInt8(ascii: "\n")] }

  // MARK: stream

  /// The lines that a part causes. A cancelled answer ends in an error, never like a whole one.
  mutating func lines(for part: AnswerPart, at time: Date) -> [UInt8] {
    switch part {
    case .started, .prompt: return []
    case .text(let text, let reports):
      if text.isEmpty && reports.isEmpty { return [] }
      return Self.line(.mapping(piece(text, [], reports.map(entry), time)))
    case .callBegan, .callArguments: collect(part)
    case .callEnded:
      collect(part)
      defer { calls = [] }
      return Self.line(.mapping(piece("", calls, [], time)))
    case .finished(let end):
      guard let reason = Self.reason(end.reason) else { return OllamaErrors.line(.cancelledAnswer) }
      return Self.line(last("", [], [], end, reason, time))
    }
    return []
  }

  private mutating func collect(_ part: AnswerPart) {
    switch part {
    case .callBegan(_, _, let name): (callName, callArguments) = (name, "")
    case .callArguments(_, let json): callArguments += json
    case .callEnded(let index):
      // The token limit may have cut the arguments: there is no object then.
      var arguments: JinjaValue = [:]
      if case .mapping(let fields)? = try? JinjaValue(json: callArguments) { arguments = .mapping(fields) }
      calls.append([
        "function": ["index": .integer(index), "name": .string(callName), "arguments": arguments]
      ])
    default: break
    }
  }

  // MARK: whole

  /// Takes the parts of an answer that is sent whole; returns it with the last one. A cancelled answer has none.
  mutating func answer(for part: AnswerPart, at time: Date) -> JinjaValue? {
    switch part {
    case .started, .prompt: return nil
    case .text(_, let reports):
      self.reports += reports.map(entry)
      return nil
    case .callBegan, .callArguments, .callEnded:
      collect(part)
      return nil
    case .finished(let end):
      return Self.reason(end.reason).map { last(end.text, calls, reports, end, $0, time) }
    }
  }

  /// The answer to a request without a prompt, which only loads the model.
  func loaded(at time: Date) -> JinjaValue {
    var object = piece("", [], [], time)
    object["done"] = true
    object["done_reason"] = "load"
    return .mapping(object)
  }

  // MARK: parts of both

  private func piece(_ text: String, _ calls: [JinjaValue], _ reports: [JinjaValue], _ time: Date) -> JinjaMapping {
    var object: JinjaMapping = ["model": .string(model), "created_at": .string(time.rfc3339)]
    switch shape {
    case .chat:
      var message: JinjaMapping = ["role": "assistant", "content": .string(text)]
      if !calls.isEmpty { message["tool_calls"] = .list(calls) }
      object["message"] = .mapping(message)
    case .generate: object["response"] = .string(text)
    }
    object["done"] = false
    if !reports.isEmpty { object["logprobs"] = .list(reports) }
    return object
  }

  private func last(
    _ text: String, _ calls: [JinjaValue], _ reports: [JinjaValue], _ end: AnswerEnd, _ reason: String, _ time: Date
  ) -> JinjaValue {
    var object = piece(text, calls, reports, time)
    object["done"] = true
    object["done_reason"] = .string(reason)
    object["total_duration"] = .integer(durations.total)
    object["load_duration"] = .integer(durations.load)
    object["prompt_eval_count"] = .integer(end.promptTokens)
    object["prompt_eval_duration"] = .integer(durations.promptEvaluation)
    object["eval_count"] = .integer(end.completionTokens)
    object["eval_duration"] = .integer(durations.evaluation)
    return .mapping(object)
  }

  private static func reason(_ reason: AnswerEnd.Reason) -> String? {
    switch reason {
    case .stop, .stopSequence, .toolCalls: "stop"
    case .length: "length"
    case .cancelled: nil
    }
  }

  private func entry(_ report: TokenReport) -> JinjaValue {
    var entry = entry(report.id, report.logProbabilities.chosen)
    entry["top_logprobs"] = .list(
      report.logProbabilities.top.map { .mapping(self.entry($0.token, $0.logProbability)) })
    return .mapping(entry)
  }

  private func entry(_ id: Int32, _ logProbability: Float) -> JinjaMapping {
    let bytes = tokenizer.bytes(of: id)
    return [
      "token": .string(String(decoding: bytes, as: UTF8.self)), "logprob": .float(Self.finite(logProbability)),
      "bytes": .list(bytes.map { .integer(Int($0)) }),
    ]
  }

  /// JSON has no infinity; −9999 stands for what cannot happen, as in OpenAI's dialect.
  private static func finite(_ x: Float) -> Double { x.isFinite ? Double(x) : -9999 }
}
