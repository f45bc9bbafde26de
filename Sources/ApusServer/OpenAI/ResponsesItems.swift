import ApusText

/// The items that conversations of the Responses API are made of.
enum ResponseItems {
  private static let roles = ["user", "assistant", "system", "developer"]
  private static let types = ["message", "function_call", "function_call_output", "reasoning"]

  // MARK: input

  /// The request's `input`, checked, every item with an id: a string is one message of the user.
  static func input(_ body: RequestReader, newID: (String) -> String) throws -> [JinjaValue] {
    guard let value = body.value("input") else {
      throw OpenAIError.missing("input", expected: "a string or an array of items")
    }
    switch value {
    case .string(let text): return [message(role: "user", text: text, id: newID("msg_"))]
    case .list(let items):
      if items.isEmpty { throw body.invalid("input", value, expected: "at least one item") }
      return try items.enumerated().map { index, item in
        try self.item(RequestReader(item, path: "input.\(index)"), newID: newID)
      }
    default: throw body.invalid("input", value, expected: "a string or an array of items")
    }
  }

  private static func item(_ item: RequestReader, newID: (String) -> String) throws -> JinjaValue {
    let type = try item.string("type") ?? "message"
    switch type {
    case "message":
      guard let role = try item.string("role") else {
        throw OpenAIError.missing(item.path("role"), expected: "one of " + roles.joined(separator: ", "))
      }
      guard roles.contains(role) else {
        throw OpenAIError.invalid(
          item.path("role"), seen: "'\(role)'", expected: "one of " + roles.joined(separator: ", "))
      }
      return message(
        role: role, text: try text(item, "content"), id: try item.string("id") ?? newID("msg_"))
    case "function_call":
      let arguments = try required(item, "arguments", "a JSON object as a string")
      guard case .mapping? = try? JinjaValue(json: arguments) else {
        throw item.invalid("arguments", .string(arguments), expected: "a JSON object as a string")
      }
      return call(
        id: try item.string("id") ?? newID("fc_"), callID: try required(item, "call_id", "the id of the call"),
        name: try required(item, "name", "the function's name"), arguments: arguments)
    case "function_call_output":
      return [
        "id": .string(try item.string("id") ?? newID("fco_")), "type": "function_call_output", "status": "completed",
        "call_id": .string(try required(item, "call_id", "the id of the call that it answers")),
        "output": .string(try text(item, "output")),
      ]
    // What a model thought is not shown to another turn.
    case "reasoning": return .mapping(item.fields)
    default:
      throw OpenAIError.invalid(
        item.path("type"), seen: "'\(type)'", expected: "one of " + types.joined(separator: ", "))
    }
  }

  private static func required(_ item: RequestReader, _ name: String, _ expected: String) throws -> String {
    guard let text = try item.string(name) else { throw OpenAIError.missing(item.path(name), expected: expected) }
    return text
  }

  /// A string, or text parts joined.
  private static func text(_ item: RequestReader, _ name: String) throws -> String {
    let expected = "a string or an array of text parts"
    guard let value = item.value(name) else { throw OpenAIError.missing(item.path(name), expected: expected) }
    switch value {
    case .string(let text): return text
    case .list(let parts):
      return try parts.enumerated().map { index, part in
        let part = try RequestReader(part, path: item.path("\(name).\(index)"))
        guard let type = try part.string("type"), ["input_text", "output_text", "text", "refusal"].contains(type) else {
          throw OpenAIError.invalid(
            part.path("type"), seen: part.value("type")?.brief ?? "missing",
            expected: "'input_text' or 'output_text': this model reads text only")
        }
        return try required(part, type == "refusal" ? "refusal" : "text", "a string")
      }.joined()
    default: throw item.invalid(name, value, expected: expected)
    }
  }

  // MARK: items

  static func message(role: String, text: String, id: String) -> JinjaValue {
    if role == "assistant" {
      return message(id: id, status: "completed", content: [outputText(text)])
    }
    return [
      "id": .string(id), "type": "message", "status": "completed", "role": .string(role),
      "content": [["type": "input_text", "text": .string(text)]],
    ]
  }

  /// A message of the model's.
  static func message(id: String, status: String, content: [JinjaValue]) -> JinjaValue {
    [
      "id": .string(id), "type": "message", "status": .string(status), "role": "assistant", "content": .list(content),
    ]
  }

  static func outputText(_ text: String, logProbabilities: [JinjaValue] = []) -> JinjaValue {
    ["type": "output_text", "text": .string(text), "annotations": [], "logprobs": .list(logProbabilities)]
  }

  static func call(
    id: String, callID: String, name: String, arguments: String, status: String = "completed"
  ) -> JinjaValue {
    [
      "id": .string(id), "type": "function_call", "status": .string(status), "call_id": .string(callID),
      "name": .string(name), "arguments": .string(arguments),
    ]
  }

  // MARK: the conversation

  /// The messages of a conversation as chat templates see them: calls that follow each other, and the text before them,
  /// are one message of the assistant's, and each output is a message of its tool's.
  ///
  /// Throws ``OpenAIError`` for the output of a call that the conversation does not have; `path` is that of the
  /// items after the first `known`.
  static func messages(instructions: String?, _ items: [JinjaValue], known: Int) throws -> [JinjaValue] {
    var messages: [JinjaValue] = instructions.map { [["role": "system", "content": .string($0)]] } ?? []
    var names: [String: String] = [:]
    /// Whether the last message is the assistant's and calls can be added to it.
    var isOpen = false
    for (index, item) in items.enumerated() {
      switch item["type"]?.string {
      case "message":
        let role = item["role"]?.string ?? "user"
        let text = (item["content"]?.items ?? []).compactMap { $0["text"]?.string }.joined()
        // Templates know `system` only.
        messages.append(["role": .string(role == "developer" ? "system" : role), "content": .string(text)])
        isOpen = role == "assistant"
      case "function_call":
        guard let id = item["call_id"]?.string, let name = item["name"]?.string else { continue }
        names[id] = name
        // Clients send arguments as JSON in a string, templates write them out.
        let arguments = item["arguments"]?.string.flatMap { try? JinjaValue(json: $0) } ?? [:]
        let call: JinjaValue = [
          "id": .string(id), "type": "function", "function": ["name": .string(name), "arguments": arguments],
        ]
        if !isOpen { messages.append(["role": "assistant", "content": ""]) }
        let last = messages.removeLast()
        messages.append(last.setting("tool_calls", .list((last["tool_calls"]?.items ?? []) + [call])))
        isOpen = true
      case "function_call_output":
        let id = item["call_id"]?.string ?? ""
        guard let name = names[id] else {
          throw OpenAIError.invalid(
            index < known ? "previous_response_id" : "input.\(index - known).call_id", seen: "'\(id)'",
            expected: "the call_id of a function_call before it")
        }
        messages.append([
          "role": "tool", "tool_call_id": .string(id), "name": .string(name), "content": item["output"] ?? "",
        ])
        isOpen = false
      default: continue
      }
    }
    return messages
  }
}
