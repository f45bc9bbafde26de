import ApusText

extension RequestReader {
  /// `tools` of a chat with `tool_choice` and `parallel_tool_calls`. Throws ``OpenAIError``.
  func chatTools() throws -> AnswerTools {
    var answerTools = AnswerTools()
    answerTools.functions = try chatFunctions()
    answerTools.choice = try toolChoice(names: answerTools.names, isNested: true)
    answerTools.allowsParallelCalls = try bool("parallel_tool_calls") ?? true
    return answerTools
  }

  private func chatFunctions() throws -> [JinjaValue] {
    let tools = try list("tools") ?? []
    for (index, value) in tools.enumerated() {
      let tool = try RequestReader(value, path: path("tools.\(index)"))
      guard let type = try tool.string("type") else {
        throw OpenAIError.missing(tool.path("type"), expected: "'function'")
      }
      if type != "function" {
        throw OpenAIError.invalid(tool.path("type"), seen: "'\(type)'", expected: "'function', a tool of the client's")
      }
      guard let value = tool.value("function") else {
        throw OpenAIError.missing(tool.path("function"), expected: "an object with a name")
      }
      let function = try RequestReader(value, path: tool.path("function"))
      guard let name = try function.string("name"), !name.isEmpty else {
        throw OpenAIError.missing(function.path("name"), expected: "the function's name")
      }
      _ = try function.string("description")
      _ = try function.bool("strict")
      if let parameters = function.value("parameters") {
        _ = try RequestReader(parameters, path: function.path("parameters"))
      }
    }
    return tools
  }
}
