import ApusText

/// Turns an answer's parts into Anthropic's objects, streamed or whole: a state machine without I/O.
///
/// Source: Anthropic API reference, "Create a Message" and "Streaming Messages".
struct MessagesWriter: Sendable {
  private enum Block: Equatable {
    case text(String)
    /// Its id, name and arguments so far.
    case call(id: String, name: String, json: String)
  }

  let id: String
  let model: String

  /// The blocks so far; in a stream only the open one has a content.
  private var blocks: [Block] = []
  private var isOpen = false
  /// The bytes of a delta's event before and after its text.
  private var deltaPrefix: [UInt8] = []
  private static let deltaSuffix = Array("}}\n\n".utf8)

  init(id: String, model: String) {
    self.id = id
    self.model = model
  }

  // MARK: stream

  /// An event of the stream, its type in both places.
  static func event(_ type: String, _ fields: JinjaMapping) -> [UInt8] {
    var data: JinjaMapping = ["type": .string(type)]
    for (key, value) in zip(fields.keys, fields.values) { data[key] = value }
    var bytes = Array("event: \(type)\ndata: ".utf8)
    CompactJSON.write(.mapping(data), to: &bytes)
    bytes += "\n\n".utf8
    return bytes
  }

  static let ping = event("ping", [:])

  /// The events that a part causes, as they go over the wire. A cancelled answer ends in an error, never like a whole
  /// one.
  mutating func events(for part: AnswerPart) -> [UInt8] {
    switch part {
    case .started(let promptTokens, let cached):
      let usage = Self.usage(promptTokens, cached, output: 0)
      return Self.event("message_start", ["message": message([], end: nil, usage)])
    case .prompt: return []
    case .text(let text, _):
      if text.isEmpty { return [] }
      var bytes: [UInt8] = []
      if !isOpen { bytes += open(.text(""), ["type": "text", "text": ""], delta: "text_delta", key: "text") }
      bytes += delta(text)
      return bytes
    case .callBegan(_, let id, let name):
      return close()
        + open(
          .call(id: id, name: name, json: ""),
          ["type": "tool_use", "id": .string(id), "name": .string(name), "input": [:]], delta: "input_json_delta",
          key: "partial_json")
    case .callArguments(_, let json): return json.isEmpty ? [] : delta(json)
    case .callEnded: return close()
    case .finished(let end):
      guard let reason = Self.reason(end.reason) else { return AnthropicErrors.event(.cancelledAnswer) }
      return close()
        + Self.event(
          "message_delta",
          [
            "delta": ["stop_reason": .string(reason), "stop_sequence": .optional(end.stopSequence)],
            "usage": Self.usage(end.promptTokens, end.cachedTokens, output: end.completionTokens),
          ])
        + Self.event("message_stop", [:])
    }
  }

  private mutating func open(_ block: Block, _ content: JinjaValue, delta: String, key: String) -> [UInt8] {
    let index = blocks.count
    blocks.append(block)
    isOpen = true
    deltaPrefix = Array(
      (#"event: content_block_delta"# + "\n"
        + #"data: {"type":"content_block_delta","index":\#(index),"delta":{"type":"\#(delta)","\#(key)":"#).utf8)
    return Self.event("content_block_start", ["index": .integer(index), "content_block": content])
  }

  private func delta(_ text: String) -> [UInt8] {
    var bytes = deltaPrefix
    CompactJSON.write(text, to: &bytes)
    bytes += Self.deltaSuffix
    return bytes
  }

  private mutating func close() -> [UInt8] {
    if !isOpen { return [] }
    isOpen = false
    return Self.event("content_block_stop", ["index": .integer(blocks.count - 1)])
  }

  // MARK: whole

  /// Takes the parts of an answer that is sent whole; returns it with the last one. A cancelled answer has none.
  mutating func message(for part: AnswerPart) -> JinjaValue? {
    switch part {
    case .started, .prompt, .callEnded: break
    case .text(let text, _):
      if text.isEmpty { break }
      if case .text(let before)? = blocks.last {
        blocks[blocks.count - 1] = .text(before + text)
      } else {
        blocks.append(.text(text))
      }
    case .callBegan(_, let id, let name): blocks.append(.call(id: id, name: name, json: ""))
    case .callArguments(_, let json):
      if case .call(let id, let name, let before)? = blocks.last {
        blocks[blocks.count - 1] = .call(id: id, name: name, json: before + json)
      }
    case .finished(let end):
      if Self.reason(end.reason) == nil { return nil }
      return message(
        blocks.map(Self.content), end: end,
        Self.usage(end.promptTokens, end.cachedTokens, output: end.completionTokens))
    }
    return nil
  }

  private static func content(_ block: Block) -> JinjaValue {
    switch block {
    case .text(let text): return ["type": "text", "text": .string(text)]
    case .call(let id, let name, let json):
      // The token limit may have cut the arguments: there is no object then.
      var input: JinjaValue = [:]
      if case .mapping(let fields)? = try? JinjaValue(json: json) { input = .mapping(fields) }
      return ["type": "tool_use", "id": .string(id), "name": .string(name), "input": input]
    }
  }

  // MARK: parts of both

  private func message(_ content: [JinjaValue], end: AnswerEnd?, _ usage: JinjaValue) -> JinjaValue {
    [
      "id": .string(id), "type": "message", "role": "assistant", "model": .string(model), "content": .list(content),
      "stop_reason": end.flatMap { Self.reason($0.reason) }.map { .string($0) } ?? .none,
      "stop_sequence": .optional(end?.stopSequence), "usage": usage,
    ]
  }

  /// `input_tokens` are those that were computed: the three kinds of input add up to the prompt.
  private static func usage(_ promptTokens: Int, _ cached: Int, output: Int) -> JinjaValue {
    [
      "input_tokens": .integer(promptTokens - cached), "cache_creation_input_tokens": 0,
      "cache_read_input_tokens": .integer(cached), "output_tokens": .integer(output),
    ]
  }

  private static func reason(_ reason: AnswerEnd.Reason) -> String? {
    switch reason {
    case .stop: "end_turn"
    case .length: "max_tokens"
    case .stopSequence: "stop_sequence"
    case .toolCalls: "tool_use"
    case .cancelled: nil
    }
  }
}

extension OpenAIError {
  /// An answer that ended before its end.
  static let cancelledAnswer = OpenAIError(
    status: .internalServerError, message: "the answer was cancelled", type: "server_error", code: "cancelled")
}
