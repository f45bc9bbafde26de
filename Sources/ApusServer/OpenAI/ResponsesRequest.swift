import ApusEngine
import ApusText

/// The body of `POST /v1/responses`, checked.
///
/// Source: OpenAI API reference, "Create a model response". What shapes sampling here (`top_k`, `seed`, `stop`, …) is
/// understood under the names of chat completions. Fields that change nothing here (`user`, `service_tier`,
/// `reasoning`, …) are ignored.
struct ResponseRequest: Sendable {
  var model: String
  /// The new items with their ids, in the form in which they are stored and listed.
  var input: [JinjaValue]
  /// The system's text of this turn only.
  var instructions: String?
  var previousResponseID: String?
  var tools: AnswerTools
  var format: AnswerFormat
  var options: GenerationOptions
  var stream: Bool
  /// Keeps the response for later requests.
  var store: Bool
  /// Requests with the same key have a beginning in common.
  var promptCacheKey: String?
  /// Narrows whom the prompt shares computed beginnings with.
  var cacheSalt: String?
  /// What a response repeats of its request.
  var echo: Echo

  /// Fields of a request that its response repeats, as the client sent them.
  struct Echo: Sendable {
    var metadata: JinjaValue = [:]
    var tools: JinjaValue = []
    var toolChoice: JinjaValue = "auto"
    var format: JinjaValue = ["type": "text"]
    var parallelToolCalls = true
    var user: String?
  }

  /// Throws ``OpenAIError`` that names the field. `randomSeed` is used when the request has none, `newID` makes an id
  /// with a prefix for items that have none.
  init(body: [UInt8], randomSeed: @autoclosure () -> UInt64, newID: (String) -> String = RandomID.make) throws {
    let body = try RequestReader(body: body)
    model = try body.modelName()
    input = try ResponseItems.input(body, newID: newID)
    instructions = try body.string("instructions")
    previousResponseID = try body.string("previous_response_id")
    promptCacheKey = try body.string("prompt_cache_key")
    cacheSalt = try body.string("cache_salt")
    stream = try body.bool("stream") ?? false
    store = try body.bool("store") ?? true
    echo = Echo()
    echo.user = try body.string("user")
    echo.metadata = try Self.metadata(body)
    echo.parallelToolCalls = try body.bool("parallel_tool_calls") ?? true
    if try body.bool("background") ?? false {
      throw OpenAIError.invalid(
        "background", seen: "true", expected: "false: responses are made while the client waits")
    }
    if let truncation = try body.string("truncation"), truncation != "disabled" {
      throw OpenAIError.invalid("truncation", seen: "'\(truncation)'", expected: "'disabled'")
    }
    for name in ["conversation", "prompt"] {
      if let value = body.value(name) {
        throw body.invalid(name, value, expected: "nothing: a response continues another by previous_response_id")
      }
    }

    tools = AnswerTools(allowsParallelCalls: echo.parallelToolCalls, schemaField: "parameters")
    (tools.functions, echo.tools) = try Self.tools(body)
    tools.choice = try body.toolChoice(names: tools.names, isNested: false)
    echo.toolChoice = body.value("tool_choice") ?? "auto"
    (format, echo.format) = try Self.format(body)

    options = GenerationOptions(sampling: try body.samplingOptions(randomSeed: randomSeed()))
    options.maxTokens = try body.integer("max_output_tokens", 0...Int.max)
    options.stop = try body.stopStrings()
    options.ignoreEOS = try body.bool("ignore_eos") ?? false
    let top = try body.integer("top_logprobs", 0...20)
    let include = try body.list("include") ?? []
    for (index, item) in include.enumerated() where item.string == nil {
      throw OpenAIError.invalid("include.\(index)", seen: item.brief, expected: "a string")
    }
    if include.contains(where: { $0.string == "message.output_text.logprobs" }) { options.logProbabilities = top ?? 0 }
  }

  // MARK: fields

  private static func metadata(_ body: RequestReader) throws -> JinjaValue {
    guard let value = body.value("metadata") else { return [:] }
    let map = try RequestReader(value, path: "metadata")
    if map.fields.count > 16 {
      throw OpenAIError.invalid("metadata", seen: "an object with \(map.fields.count) keys", expected: "at most 16")
    }
    for (key, value) in zip(map.fields.keys, map.fields.values) {
      guard case .string(let name) = key, name.unicodeScalars.count <= 64 else {
        throw OpenAIError.invalid("metadata", seen: "the key \(key.brief)", expected: "keys of at most 64 characters")
      }
      guard case .string(let text) = value, text.unicodeScalars.count <= 512 else {
        throw map.invalid(name, value, expected: "a string of at most 512 characters")
      }
    }
    return value
  }

  /// The functions in the nested form of chat completions, which templates know, and as they were sent.
  private static func tools(_ body: RequestReader) throws -> (nested: [JinjaValue], sent: JinjaValue) {
    let list = try body.list("tools") ?? []
    let nested: [JinjaValue] = try list.enumerated().map { index, value in
      let tool = try RequestReader(value, path: "tools.\(index)")
      guard let type = try tool.string("type") else {
        throw OpenAIError.missing(tool.path("type"), expected: "'function'")
      }
      if type != "function" {
        throw OpenAIError.invalid(tool.path("type"), seen: "'\(type)'", expected: "'function', a tool of the client's")
      }
      guard let name = try tool.string("name"), !name.isEmpty else {
        throw OpenAIError.missing(tool.path("name"), expected: "the function's name")
      }
      var function: JinjaMapping = ["name": .string(name)]
      if let description = try tool.string("description") { function["description"] = .string(description) }
      if let parameters = tool.value("parameters") {
        function["parameters"] = .mapping(try RequestReader(parameters, path: tool.path("parameters")).fields)
      }
      if let strict = try tool.bool("strict") { function["strict"] = .boolean(strict) }
      return ["type": "function", "function": .mapping(function)]
    }
    return (nested, .list(list))
  }

  private static func format(_ body: RequestReader) throws -> (AnswerFormat, JinjaValue) {
    let plain: (AnswerFormat, JinjaValue) = (.text, ["type": "text"])
    guard let text = body.value("text") else { return plain }
    guard let value = try RequestReader(text, path: "text").value("format") else { return plain }
    let format = try RequestReader(value, path: "text.format")
    switch try format.string("type") {
    case "text": return plain
    case "json_object": return (.jsonObject, value)
    case "json_schema":
      guard try format.string("name") != nil else {
        throw OpenAIError.missing(format.path("name"), expected: "the schema's name")
      }
      _ = try format.bool("strict")
      guard let schema = format.value("schema") else {
        throw OpenAIError.missing(format.path("schema"), expected: "a JSON schema")
      }
      guard case .mapping = schema else { throw format.invalid("schema", schema, expected: "an object") }
      return (.jsonSchema(schema), value)
    case let other:
      throw OpenAIError.invalid(
        format.path("type"), seen: other.map { "'\($0)'" } ?? "missing",
        expected: "'text', 'json_object' or 'json_schema'")
    }
  }
}
