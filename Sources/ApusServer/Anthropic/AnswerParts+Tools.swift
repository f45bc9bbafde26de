import ApusEngine
import ApusText
import ApusTools

extension AnswerParts {
  /// Looks for calls if the prompt offers tools and the engine's model writes calls in a way that is known.
  init(of engine: any TextEngine, tools: JinjaValue?) {
    var names: [String] = []
    if case .list(let items)? = tools {
      names = items.compactMap { tool in
        guard case .mapping(let fields) = tool, case .mapping(let function)? = fields["function"],
          case .string(let name)? = function["name"]
        else { return nil }
        return name
      }
    }
    guard !names.isEmpty, let dialect = engine.toolCallDialect else {
      self.init(tools: nil)
      return
    }
    self.init(tools: ToolCallParser(dialect: dialect, tools: names))
  }
}
