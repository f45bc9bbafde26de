import ApusEngine
import ApusText

/// The body of `POST /v1/chat/completions`, checked.
///
/// Source: OpenAI API reference, "Create chat completion". `top_k`, `min_p`, `typical_p`, `repetition_penalty` and
/// `ignore_eos` are understood as other servers of open models do. Fields that change nothing here (`user`, `store`,
/// `metadata`, …) are ignored.
struct ChatCompletionRequest: Sendable {
  var model: String
  /// As the template sees them: role, content, and what else the client sent.
  var messages: [JinjaValue]
  var tools: AnswerTools
  var options: GenerationOptions
  var stream: Bool
  var includeUsage: Bool
  var continuousUsage: Bool
  /// Narrows whom the prompt shares computed beginnings with.
  var cacheSalt: String?
  var format: AnswerFormat
  /// A constraint of vLLM's kind: `guided_regex`, `guided_choice` or `guided_grammar`.
  var guide: Grammar?

  /// Throws ``OpenAIError`` that names the field. `randomSeed` is used when the request has none.
  init(body: [UInt8], randomSeed: @autoclosure () -> UInt64) throws {
    let body = try RequestReader(body: body)
    model = try body.modelName()
    messages = try Self.messages(body)
    tools = try body.chatTools()
    stream = try body.bool("stream") ?? false
    let streamOptions = try body.value("stream_options").map { try RequestReader($0, path: "stream_options") }
    includeUsage = try streamOptions?.bool("include_usage") ?? false
    continuousUsage = try streamOptions?.bool("continuous_usage_stats") ?? false
    cacheSalt = try body.string("cache_salt")
    try body.requireOne("n")
    format = try Self.format(body)
    guide = try Self.guide(body)
    options = try Self.options(body, randomSeed: randomSeed())
  }

  private static func format(_ body: RequestReader) throws -> AnswerFormat {
    if let schema = body.value("guided_json") { return .jsonSchema(schema) }
    guard let value = body.value("response_format") else { return .text }
    let format = try RequestReader(value, path: "response_format")
    switch try format.string("type") {
    case "text": return .text
    case "json_object": return .jsonObject
    case "json_schema":
      guard let value = format.value("json_schema") else {
        throw OpenAIError.missing("response_format.json_schema", expected: "an object with name and schema")
      }
      let schema = try RequestReader(value, path: "response_format.json_schema")
      guard let object = schema.value("schema") else { return .jsonObject }
      return .jsonSchema(object)
    case let type:
      throw OpenAIError.invalid(
        "response_format.type", seen: type.map { "'\($0)'" } ?? "nothing",
        expected: "'text', 'json_object' or 'json_schema'")
    }
  }

  private static func guide(_ body: RequestReader) throws -> Grammar? {
    func compile(_ name: String, _ make: () throws -> Grammar) throws -> Grammar {
      do { return try make() } catch let error as GrammarError { throw OpenAIError(error, field: name) }
    }
    if let regex = try body.string("guided_regex") {
      return try compile("guided_regex") { try Grammar(regex: regex) }
    }
    if let text = try body.string("guided_grammar") {
      return try compile("guided_grammar") { try Grammar(ebnf: text) }
    }
    guard let choices = try body.list("guided_choice") else { return nil }
    let texts = try choices.enumerated().map { index, value in
      guard case .string(let text) = value else {
        throw OpenAIError.invalid("guided_choice.\(index)", seen: value.brief, expected: "a string")
      }
      return text
    }
    return try compile("guided_choice") { try Grammar(choice: texts) }
  }

  private static func options(_ body: RequestReader, randomSeed: UInt64) throws -> GenerationOptions {
    var options = GenerationOptions(sampling: try body.samplingOptions(randomSeed: randomSeed))
    options.maxTokens =
      try body.integer("max_completion_tokens", 0...Int.max) ?? body.integer("max_tokens", 0...Int.max)
    options.stop = try body.stopStrings()
    options.ignoreEOS = try body.bool("ignore_eos") ?? false
    let top = try body.integer("top_logprobs", 0...20)
    if try body.bool("logprobs") ?? false {
      options.logProbabilities = top ?? 0
    } else if let top, top > 0 {
      throw OpenAIError.invalid("top_logprobs", seen: "\(top)", expected: "logprobs to be true beside it")
    }
    return options
  }

  // MARK: messages

  private static let roles = ["system", "developer", "user", "assistant", "tool", "function"]

  private static func messages(_ body: RequestReader) throws -> [JinjaValue] {
    guard let list = try body.list("messages") else {
      throw OpenAIError.missing("messages", expected: "an array of messages")
    }
    if list.isEmpty {
      throw OpenAIError.invalid("messages", seen: "an empty array", expected: "at least one message")
    }
    return try list.enumerated().map { index, value in
      let message = try RequestReader(value, path: "messages.\(index)")
      guard let role = try message.string("role") else {
        throw OpenAIError.missing(message.path("role"), expected: "one of " + roles.joined(separator: ", "))
      }
      guard roles.contains(role) else {
        throw OpenAIError.invalid(
          message.path("role"), seen: "'\(role)'", expected: "one of " + roles.joined(separator: ", "))
      }
      var fields = message.fields
      // Templates know `system` only.
      if role == "developer" { fields["role"] = "system" }
      fields["content"] = .string(try content(message, role: role))
      if let calls = try message.list("tool_calls") {
        fields["tool_calls"] = .list(try calls.enumerated().map { try toolCall($1, message.path("tool_calls.\($0)")) })
      }
      return .mapping(fields)
    }
  }

  /// The text of a message: a string, or text parts joined. Assistants that call tools may have none.
  private static func content(_ message: RequestReader, role: String) throws -> String {
    guard let value = message.value("content") else {
      if role == "assistant" { return "" }
      throw OpenAIError.missing(message.path("content"), expected: "a string or an array of text parts")
    }
    switch value {
    case .string(let text): return text
    case .list(let parts):
      return try parts.enumerated().map { index, part in
        let part = try RequestReader(part, path: message.path("content.\(index)"))
        guard let type = try part.string("type"), type == "text" || type == "refusal" else {
          throw OpenAIError.invalid(
            part.path("type"), seen: part.value("type")?.brief ?? "missing",
            expected: "'text': this model reads text only")
        }
        guard let text = try part.string(type) else { throw OpenAIError.missing(part.path(type), expected: "a string") }
        return text
      }.joined()
    default: throw message.invalid("content", value, expected: "a string or an array of text parts")
    }
  }

  /// A call with its arguments as an object: clients send them as JSON in a string, templates write them out.
  private static func toolCall(_ value: JinjaValue, _ path: String) throws -> JinjaValue {
    let call = try RequestReader(value, path: path)
    guard let functionValue = call.value("function") else {
      throw OpenAIError.missing(call.path("function"), expected: "an object with name and arguments")
    }
    let function = try RequestReader(functionValue, path: call.path("function"))
    var functionFields = function.fields
    if case .string(let text)? = function.value("arguments"), let arguments = try? JinjaValue(json: text) {
      functionFields["arguments"] = arguments
    }
    var fields = call.fields
    fields["function"] = .mapping(functionFields)
    return .mapping(fields)
  }
}
