import ApusEngine
import ApusText

/// The body of `POST /v1/messages`, checked.
///
/// Source: Anthropic API reference, "Create a Message". Fields that change nothing here (`metadata`, `service_tier`,
/// `cache_control`, …) are ignored.
struct MessagesRequest: Sendable {
  var prompt: MessagesPrompt
  var options: GenerationOptions
  var format: AnswerFormat
  var stream: Bool

  /// Throws ``OpenAIError`` that names the field. The API has no seed: `randomSeed` is the answer's.
  init(body: [UInt8], randomSeed: @autoclosure () -> UInt64) throws {
    let body = try RequestReader(body: body)
    prompt = try MessagesPrompt(body)
    stream = try body.bool("stream") ?? false
    if let thinking = body.value("thinking") {
      let thinking = try RequestReader(thinking, path: "thinking")
      guard case .string("disabled")? = thinking.value("type") else {
        throw OpenAIError.invalid(
          "thinking.type", seen: thinking.value("type")?.brief ?? "missing",
          expected: "'disabled': thoughts are not told apart from the answer here")
      }
    }
    format = try Self.format(body)

    guard let maxTokens = try body.integer("max_tokens", 0...Int.max) else {
      throw OpenAIError.missing("max_tokens", expected: "the most tokens of the answer")
    }
    var sampling = SamplingOptions(seed: randomSeed())
    sampling.temperature = try body.number("temperature", 0...1) ?? 1
    sampling.topP = try body.number("top_p", 0...1) ?? 1
    // The API allows 0, which leaves the most probable token.
    if sampling.topP == 0 { sampling.topP = .leastNonzeroMagnitude }
    sampling.topK = try body.integer("top_k", 0...Int.max).flatMap { $0 == 0 ? nil : $0 }
    options = GenerationOptions(sampling: sampling, maxTokens: maxTokens, stop: try Self.stops(body))
  }

  private static func stops(_ body: RequestReader) throws -> [String] {
    try (body.list("stop_sequences") ?? []).enumerated().map { index, item in
      guard case .string(let text) = item, !text.isEmpty else {
        throw OpenAIError.invalid("stop_sequences.\(index)", seen: item.brief, expected: "a string with text")
      }
      return text
    }
  }

  /// `output_config.format`, or `output_format` of earlier versions.
  private static func format(_ body: RequestReader) throws -> AnswerFormat {
    var (value, path) = (body.value("output_format"), "output_format")
    if let config = body.value("output_config") {
      let config = try RequestReader(config, path: "output_config")
      if let format = config.value("format") { (value, path) = (format, config.path("format")) }
    }
    guard let value else { return .text }
    let format = try RequestReader(value, path: path)
    guard case .string("json_schema")? = format.value("type") else {
      throw OpenAIError.invalid(
        format.path("type"), seen: format.value("type")?.brief ?? "missing", expected: "'json_schema'")
    }
    guard let schema = format.value("schema") else {
      throw OpenAIError.missing(format.path("schema"), expected: "a JSON Schema")
    }
    _ = try RequestReader(schema, path: format.path("schema"))
    return .jsonSchema(schema)
  }
}

/// What a request of Anthropic's dialect lets the model read: the part that `count_tokens` shares.
struct MessagesPrompt: Sendable {
  var model: String
  /// As the template sees them, in OpenAI's form.
  var messages: [JinjaValue]
  var tools: AnswerTools

  var prompt: Prompt { .chat(messages: messages, tools: tools.offered) }

  /// Throws ``OpenAIError``.
  init(body: [UInt8]) throws { try self.init(RequestReader(body: body)) }

  init(_ body: RequestReader) throws {
    guard let model = try body.string("model") else {
      throw OpenAIError.missing("model", expected: "the name of a loaded model")
    }
    self.model = model
    var conversation = Conversation()
    if let system = body.value("system") {
      let text = try Self.text(system, path: "system")
      if !text.isEmpty { conversation.turns.append(.system(text)) }
    }
    guard let list = try body.list("messages") else {
      throw OpenAIError.missing("messages", expected: "an array of messages")
    }
    if list.isEmpty {
      throw OpenAIError.invalid("messages", seen: "an empty array", expected: "at least one message")
    }
    for (index, message) in list.enumerated() {
      try conversation.append(RequestReader(message, path: "messages.\(index)"))
    }
    if case .assistant? = conversation.turns.last {
      throw OpenAIError.invalid(
        "messages.\(list.count - 1).role", seen: "'assistant'",
        expected: "'user': the last message is the one to answer, an answer that has begun cannot be continued")
    }
    messages = conversation.turns.map(\.message)

    tools = AnswerTools(schemaField: "input_schema")
    tools.functions = try (body.list("tools") ?? []).enumerated().map { try Self.tool($1, path: "tools.\($0)") }
    (tools.choice, tools.allowsParallelCalls) = try Self.toolChoice(body, names: tools.names)
  }

  // MARK: tools

  private static func tool(_ value: JinjaValue, path: String) throws -> JinjaValue {
    let tool = try RequestReader(value, path: path)
    if let type = tool.value("type"), case let name = type.brief, name != "'custom'" {
      throw tool.invalid("type", type, expected: "'custom': this server runs no tools of its own")
    }
    guard let name = try tool.string("name") else {
      throw OpenAIError.missing(tool.path("name"), expected: "the tool's name")
    }
    guard (1...maximumNameLength).contains(name.utf8.count), name.utf8.allSatisfy(isNameByte) else {
      throw OpenAIError.invalid(
        tool.path("name"), seen: JinjaValue.string(name).brief,
        expected: "1 to \(maximumNameLength) letters, digits, '_' or '-'")
    }
    guard let schema = tool.value("input_schema") else {
      throw OpenAIError.missing(tool.path("input_schema"), expected: "a JSON Schema of the tool's input")
    }
    _ = try RequestReader(schema, path: tool.path("input_schema"))
    var function: JinjaMapping = ["name": .string(name)]
    if let description = try tool.string("description") { function["description"] = .string(description) }
    function["parameters"] = schema
    if let strict = try tool.bool("strict") { function["strict"] = .boolean(strict) }
    return ["type": "function", "function": .mapping(function)]
  }

  private static let maximumNameLength = 128

  private static func isNameByte(_ byte: UInt8) -> Bool {
    switch byte {
    case UInt8(ascii: "a")...UInt8(ascii: "z"), UInt8(ascii: "A")...UInt8(ascii: "Z"),
      UInt8(ascii: "0")...UInt8(ascii: "9"), UInt8(ascii: "_"), UInt8(ascii: "-"):
      true
    default: false
    }
  }

  private static func toolChoice(_ body: RequestReader, names: [String]) throws -> (AnswerTools.Choice, parallel: Bool)
  {
    guard let value = body.value("tool_choice") else { return (.auto, true) }
    let choice = try RequestReader(value, path: "tool_choice")
    let parallel = try !(choice.bool("disable_parallel_tool_use") ?? false)
    let type = try choice.string("type")
    if names.isEmpty, type == "any" || type == "tool" {
      throw OpenAIError.missing("tools", expected: "the tools that tool_choice speaks of")
    }
    switch type {
    case "auto": return (.auto, parallel)
    case "any": return (.required, parallel)
    case "none": return (.none, parallel)
    case "tool":
      guard let name = try choice.string("name") else {
        throw OpenAIError.missing("tool_choice.name", expected: "the name of a tool")
      }
      guard names.contains(name) else {
        throw OpenAIError.invalid(
          "tool_choice.name", seen: JinjaValue.string(name).brief, expected: "one of " + names.joined(separator: ", "))
      }
      return (.function(name), parallel)
    default:
      throw OpenAIError.invalid(
        "tool_choice.type", seen: type.map { "'\($0)'" } ?? "missing", expected: "'auto', 'any', 'tool' or 'none'")
    }
  }

  // MARK: text

  /// A string, or text blocks joined by line breaks.
  fileprivate static func text(_ value: JinjaValue, path: String) throws -> String {
    switch value {
    case .string(let text): return text
    case .list(let blocks):
      return try blocks.enumerated().map { index, block in
        let block = try RequestReader(block, path: "\(path).\(index)")
        guard let type = try block.string("type"), type == "text" else { throw unsupported(block) }
        return try text(block)
      }.joined(separator: "\n")
    default:
      throw OpenAIError.invalid(path, seen: value.brief, expected: "a string or an array of text blocks")
    }
  }

  fileprivate static func text(_ block: RequestReader) throws -> String {
    guard let text = try block.string("text") else {
      throw OpenAIError.missing(block.path("text"), expected: "a string")
    }
    return text
  }

  fileprivate static func unsupported(_ block: RequestReader) -> OpenAIError {
    .invalid(
      block.path("type"), seen: block.value("type")?.brief ?? "missing", expected: "'text': this model reads text only")
  }
}

/// Anthropic's messages, which hold blocks, as the turns that templates know.
private struct Conversation {
  enum Turn {
    case system(String)
    case user(String)
    case assistant(String, calls: [JinjaValue])
    case tool(id: String, String)

    var message: JinjaValue {
      switch self {
      case .system(let text): return .mapping(["role": "system", "content": .string(text)])
      case .user(let text): return .mapping(["role": "user", "content": .string(text)])
      case .assistant(let text, let calls):
        var message: JinjaMapping = ["role": "assistant", "content": .string(text)]
        if !calls.isEmpty { message["tool_calls"] = .list(calls) }
        return .mapping(message)
      case .tool(let id, let text):
        return .mapping(["role": "tool", "tool_call_id": .string(id), "content": .string(text)])
      }
    }
  }

  var turns: [Turn] = []
  /// Ids of the calls of the last assistant message, which tool results may answer.
  private var calls: Set<String> = []

  mutating func append(_ message: RequestReader) throws {
    guard let content = message.value("content") else {
      throw OpenAIError.missing(message.path("content"), expected: "a string or an array of blocks")
    }
    switch try message.string("role") {
    case "user": try appendUser(message, content)
    case "assistant": try appendAssistant(message, content)
    case let role:
      throw OpenAIError.invalid(
        message.path("role"), seen: role.map { "'\($0)'" } ?? "missing",
        expected: "'user' or 'assistant'" + (role == "system" ? ": the system prompt has the field system" : ""))
    }
  }

  private static func blocks(_ message: RequestReader, _ content: JinjaValue) throws -> [RequestReader] {
    switch content {
    case .string(let text):
      return [try RequestReader(.mapping(["type": "text", "text": .string(text)]), path: message.path("content"))]
    case .list(let items):
      if items.isEmpty { throw message.invalid("content", content, expected: "at least one block") }
      return try items.enumerated().map { try RequestReader($1, path: message.path("content.\($0)")) }
    default: throw message.invalid("content", content, expected: "a string or an array of blocks")
    }
  }

  private mutating func appendUser(_ message: RequestReader, _ content: JinjaValue) throws {
    let blocks = try Self.blocks(message, content)
    var texts: [String] = []
    for block in blocks {
      switch try block.string("type") {
      case "text": texts.append(try MessagesPrompt.text(block))
      case "tool_result":
        appendUser(texts)
        texts = []
        guard let id = try block.string("tool_use_id") else {
          throw OpenAIError.missing(block.path("tool_use_id"), expected: "the id of a tool_use block")
        }
        guard calls.contains(id) else {
          throw OpenAIError.invalid(
            block.path("tool_use_id"), seen: JinjaValue.string(id).brief,
            expected: "the id of a tool_use block of the assistant's message before")
        }
        _ = try block.bool("is_error")
        let result = try block.value("content").map { try MessagesPrompt.text($0, path: block.path("content")) }
        turns.append(.tool(id: id, result ?? ""))
      default: throw MessagesPrompt.unsupported(block)
      }
    }
    appendUser(texts)
  }

  /// Joins what follows another user's message: templates expect the roles to take turns.
  private mutating func appendUser(_ texts: [String]) {
    if texts.isEmpty { return }
    let text = texts.joined(separator: "\n")
    if case .user(let before)? = turns.last {
      turns[turns.count - 1] = .user(before + "\n\n" + text)
    } else {
      turns.append(.user(text))
    }
  }

  private mutating func appendAssistant(_ message: RequestReader, _ content: JinjaValue) throws {
    var texts: [String] = []
    var calls: [JinjaValue] = []
    var ids: Set<String> = []
    for block in try Self.blocks(message, content) {
      switch try block.string("type") {
      case "text": texts.append(try MessagesPrompt.text(block))
      // Earlier thoughts are not shown to the model again.
      case "thinking", "redacted_thinking": break
      case "tool_use":
        guard let id = try block.string("id") else {
          throw OpenAIError.missing(block.path("id"), expected: "the call's id")
        }
        guard let name = try block.string("name") else {
          throw OpenAIError.missing(block.path("name"), expected: "the tool's name")
        }
        guard let input = block.value("input") else {
          throw OpenAIError.missing(block.path("input"), expected: "an object")
        }
        _ = try RequestReader(input, path: block.path("input"))
        ids.insert(id)
        calls.append(
          .mapping([
            "id": .string(id), "type": "function",
            "function": .mapping(["name": .string(name), "arguments": input]),
          ]))
      default: throw MessagesPrompt.unsupported(block)
      }
    }
    let text = texts.joined(separator: "\n")
    if case .assistant(let before, let earlier)? = turns.last {
      let joined = [before, text].filter { !$0.isEmpty }.joined(separator: "\n\n")
      turns[turns.count - 1] = .assistant(joined, calls: earlier + calls)
      self.calls.formUnion(ids)
    } else {
      turns.append(.assistant(text, calls: calls))
      self.calls = ids
    }
  }
}
