import ApusEngine
import ApusText

/// The body of `POST /api/chat` or `POST /api/generate`, checked.
///
/// Source: Ollama's API documentation (docs/api.md) and the types of its Python client. What only changes how Ollama
/// itself runs a model (`keep_alive`, `num_ctx`, `num_thread`, `num_gpu`, …) is checked or ignored: the model is loaded
/// and stays so.
struct OllamaRequest: Sendable {
  var model: String
  var shape: OllamaWriter.Shape
  /// Nil asks for nothing but the model to be loaded.
  var prompt: Prompt?
  /// What a model without a chat template reads instead; nil if it needs one.
  var plainPrompt: String?
  var options: GenerationOptions
  var format: AnswerFormat
  var stream: Bool

  /// Throws ``OpenAIError`` that names the field. `randomSeed` is used when the request has none.
  init(_ shape: OllamaWriter.Shape, body: [UInt8], randomSeed: @autoclosure () -> UInt64) throws {
    let body = try RequestReader(body: body)
    self.shape = shape
    model = try OllamaModel.name(body)
    stream = try body.bool("stream") ?? true
    try OllamaModel.checkKeepAlive(body)
    if let think = body.value("think") {
      guard case .boolean(false) = think else {
        throw body.invalid("think", think, expected: "false: thoughts are not told apart from the answer here")
      }
    }
    format = try Self.format(body)
    options = try OllamaOptions(body).generation(randomSeed: randomSeed())
    let top = try body.integer("top_logprobs", 0...20)
    if try body.bool("logprobs") ?? false {
      options.logProbabilities = top ?? 0
    } else if let top, top > 0 {
      throw OpenAIError.invalid("top_logprobs", seen: "\(top)", expected: "logprobs to be true beside it")
    }
    switch shape {
    case .chat: prompt = try Self.chat(body)
    case .generate: (prompt, plainPrompt) = try Self.generate(body)
    }
  }

  private static func format(_ body: RequestReader) throws -> AnswerFormat {
    switch body.value("format") {
    case nil, .string(""): return .text
    case .string("json"): return .jsonObject
    case .mapping(let schema): return .jsonSchema(.mapping(schema))
    case let value?: throw body.invalid("format", value, expected: "'json' or a JSON Schema")
    }
  }

  // MARK: generate

  private static func generate(_ body: RequestReader) throws -> (Prompt?, plain: String?) {
    // Clients send empty values for what they leave out.
    for (name, reason) in [
      ("suffix", "the model does not fill in"), ("template", "the model's own template is used"),
    ] {
      guard let text = try body.string(name), !text.isEmpty else { continue }
      throw body.invalid(name, .string(text), expected: "nothing: \(reason)")
    }
    if let context = try body.list("context"), !context.isEmpty {
      throw body.invalid("context", .list(context), expected: "nothing: send the conversation to /api/chat")
    }
    try checkImages(body)
    let system = try body.string("system").flatMap { $0.isEmpty ? nil : $0 }
    let isRaw = try body.bool("raw") ?? false
    if isRaw, let system {
      throw body.invalid("system", .string(system), expected: "nothing: a raw prompt is read as it is")
    }
    guard let prompt = try body.string("prompt"), !prompt.isEmpty else { return (nil, nil) }
    if isRaw { return (.text(prompt), nil) }
    let user: JinjaValue = ["role": "user", "content": .string(prompt)]
    guard let system else { return (.chat(messages: [user]), prompt) }
    return (.chat(messages: [["role": "system", "content": .string(system)], user]), nil)
  }

  private static func checkImages(_ reader: RequestReader) throws {
    if let images = try reader.list("images"), !images.isEmpty {
      throw reader.invalid("images", .list(images), expected: "nothing: this model reads text only")
    }
  }

  // MARK: chat

  private static func chat(_ body: RequestReader) throws -> Prompt? {
    var tools: [JinjaValue] = []
    for (index, tool) in (try body.list("tools") ?? []).enumerated() {
      let reader = try RequestReader(tool, path: "tools.\(index)")
      if let type = try reader.string("type"), type != "function" {
        throw reader.invalid("type", .string(type), expected: "'function'")
      }
      guard let function = reader.value("function") else {
        throw OpenAIError.missing(reader.path("function"), expected: "an object with name and parameters")
      }
      let functionReader = try RequestReader(function, path: reader.path("function"))
      guard let name = try functionReader.string("name"), !name.isEmpty else {
        throw OpenAIError.missing(functionReader.path("name"), expected: "the tool's name")
      }
      _ = try functionReader.string("description")
      _ = try functionReader.bool("strict")
      if let parameters = functionReader.value("parameters") {
        _ = try RequestReader(parameters, path: functionReader.path("parameters"))
      }
      var fields = reader.fields
      if reader.value("type") == nil { fields["type"] = "function" }
      tools.append(.mapping(fields))
    }
    var conversation = OllamaConversation()
    let messages = try (body.list("messages") ?? []).enumerated().map { index, message in
      let reader = try RequestReader(message, path: "messages.\(index)")
      try checkImages(reader)
      return try conversation.message(reader)
    }
    return messages.isEmpty ? nil : .chat(messages: messages, tools: tools.isEmpty ? nil : .list(tools))
  }
}

/// Gives calls the ids that templates may show and that Ollama's messages lack: `call_0`, `call_1`, …
private struct OllamaConversation {
  private var callCount = 0
  /// Calls of the last assistant message that no tool message has answered.
  private var open: [(id: String, name: String)] = []

  private static let roles = ["system", "user", "assistant", "tool"]

  mutating func message(_ message: RequestReader) throws -> JinjaValue {
    let role = try message.string("role")
    guard let role, Self.roles.contains(role) else {
      throw OpenAIError.invalid(
        message.path("role"), seen: role.map { "'\($0)'" } ?? "missing",
        expected: "one of " + Self.roles.joined(separator: ", "))
    }
    var fields: JinjaMapping = [
      "role": .string(role), "content": .string(try message.string("content") ?? ""),
    ]
    if let calls = try message.list("tool_calls"), !calls.isEmpty {
      open = []
      fields["tool_calls"] = .list(
        try calls.enumerated().map { try call(RequestReader($1, path: message.path("tool_calls.\($0)"))) })
    }
    if role == "tool" {
      let name = try message.string("tool_name")
      if let name { fields["name"] = .string(name) }
      if let position = open.firstIndex(where: { name == nil || $0.name == name }) {
        fields["tool_call_id"] = .string(open.remove(at: position).id)
      }
    }
    return .mapping(fields)
  }

  private mutating func call(_ call: RequestReader) throws -> JinjaValue {
    guard let value = call.value("function") else {
      throw OpenAIError.missing(call.path("function"), expected: "an object with name and arguments")
    }
    let function = try RequestReader(value, path: call.path("function"))
    guard let name = try function.string("name") else {
      throw OpenAIError.missing(function.path("name"), expected: "the tool's name")
    }
    guard let arguments = function.value("arguments") else {
      throw OpenAIError.missing(function.path("arguments"), expected: "an object")
    }
    _ = try RequestReader(arguments, path: function.path("arguments"))
    let id = "call_\(callCount)"
    callCount += 1
    open.append((id, name))
    return [
      "id": .string(id), "type": "function", "function": ["name": .string(name), "arguments": arguments],
    ]
  }
}

/// The field `options`.
struct OllamaOptions {
  private let reader: RequestReader

  init(_ body: RequestReader) throws { reader = try RequestReader(body.value("options") ?? [:], path: "options") }

  /// Ollama's defaults where the request says nothing (api/types.go, `DefaultOptions`).
  func generation(randomSeed: UInt64) throws -> GenerationOptions {
    var sampling = SamplingOptions()
    sampling.temperature = try reader.number("temperature", 0...100) ?? 0.8
    sampling.topK = try whole("top_k", Int.min...Int.max) ?? 40
    if let topK = sampling.topK, topK <= 0 { sampling.topK = nil }
    sampling.topP = try reader.number("top_p", 0...1) ?? 0.9
    if sampling.topP == 0 { sampling.topP = .leastNonzeroMagnitude }
    sampling.minP = try reader.number("min_p", 0...1) ?? 0
    sampling.typicalP = try reader.number("typical_p", 1e-6...1) ?? 1
    sampling.repetitionPenalty = try reader.number("repeat_penalty", 0.01...100) ?? 1.1
    // −1 looks at the whole context.
    let window = try whole("repeat_last_n", -1...Int.max) ?? 64
    sampling.repetitionWindow = window < 0 ? nil : window
    sampling.presencePenalty = try reader.number("presence_penalty", -2...2) ?? 0
    sampling.frequencyPenalty = try reader.number("frequency_penalty", -2...2) ?? 0
    // −1 is Ollama's word for a seed of chance.
    let seed = try whole("seed", Int.min...Int.max)
    sampling.seed = seed.flatMap { $0 == -1 ? nil : UInt64(bitPattern: Int64($0)) } ?? randomSeed

    var options = GenerationOptions(sampling: sampling)
    // Zero and below let the answer go on until the context is full.
    options.maxTokens = try whole("num_predict", Int.min...Int.max).flatMap { $0 > 0 ? $0 : nil }
    options.stop = try stops()
    _ = try whole("num_ctx", 1...Int.max)
    return options
  }

  /// A whole number, also one written with a point, as Ollama reads them.
  private func whole(_ name: String, _ range: ClosedRange<Int>) throws -> Int? {
    if case .float(let number)? = reader.value(name), let whole = Int(exactly: number), range.contains(whole) {
      return whole
    }
    return try reader.integer(name, range)
  }

  private func stops() throws -> [String] {
    switch reader.value("stop") {
    case nil: return []
    case .string(let text): return [text]
    case .list(let items):
      return try items.enumerated().map { index, item in
        guard case .string(let text) = item else {
          throw OpenAIError.invalid(reader.path("stop.\(index)"), seen: item.brief, expected: "a string")
        }
        return text
      }
    case let value?: throw reader.invalid("stop", value, expected: "an array of strings")
    }
  }
}

/// How requests name models.
enum OllamaModel {
  /// The field `model`, or `name` of earlier versions, without the tag `:latest`.
  static func name(_ body: RequestReader) throws -> String {
    guard let name = try body.string("model") ?? body.string("name"), !name.isEmpty else {
      throw OpenAIError.missing("model", expected: "the name of a loaded model")
    }
    let tag = ":latest"
    return name.hasSuffix(tag) ? String(name.dropLast(tag.count)) : name
  }

  /// A duration, in seconds or as text such as `5m`; models stay loaded whatever it says.
  static func checkKeepAlive(_ body: RequestReader) throws {
    switch body.value("keep_alive") {
    case nil, .integer, .float, .string: break
    case let value?: throw body.invalid("keep_alive", value, expected: "a duration such as '5m', or seconds")
    }
  }
}

/// The body of `POST /api/embed`, or of the older `POST /api/embeddings`, checked.
struct OllamaEmbedRequest: Sendable {
  var model: String
  var inputs: [String]
  /// Cuts texts that are longer than the model reads; otherwise they are an error.
  var isTruncating: Bool
  /// Only the first elements of each vector, normalised again.
  var dimensions: Int?

  init(body: [UInt8]) throws {
    let body = try RequestReader(body: body)
    model = try OllamaModel.name(body)
    try OllamaModel.checkKeepAlive(body)
    isTruncating = try body.bool("truncate") ?? true
    dimensions = try body.integer("dimensions", 1...Int.max)
    switch body.value("input") {
    case .string(let text)?: inputs = [text]
    case .list(let items)?:
      inputs = try items.enumerated().map { index, item in
        guard case .string(let text) = item else {
          throw OpenAIError.invalid("input.\(index)", seen: item.brief, expected: "a string")
        }
        return text
      }
    case nil: throw OpenAIError.missing("input", expected: "a string or an array of strings")
    case let value?: throw body.invalid("input", value, expected: "a string or an array of strings")
    }
  }

  /// The older form: one text in `prompt`.
  init(olderBody body: [UInt8]) throws {
    let body = try RequestReader(body: body)
    model = try OllamaModel.name(body)
    try OllamaModel.checkKeepAlive(body)
    guard let prompt = try body.string("prompt") else {
      throw OpenAIError.missing("prompt", expected: "a string")
    }
    inputs = [prompt]
    isTruncating = true
  }
}
