import ApusText

/// A tool as constrained decoding needs to know it.
public struct ToolSignature: Sendable {
  public var name: String
  /// A JSON Schema of the arguments; nil takes none.
  public var parameters: JinjaValue?
  /// The arguments must fit the schema; else a schema that no grammar can express allows any object.
  public var isStrict: Bool
  /// Where the schema stands in the request, for errors.
  public var schemaPath: String

  public init(name: String, parameters: JinjaValue?, isStrict: Bool = false, schemaPath: String) {
    self.name = name
    self.parameters = parameters
    self.isStrict = isStrict
    self.schemaPath = schemaPath
  }
}

extension ToolCallDialect {
  /// An answer that is calls of these tools and nothing else: one, or any number with `isParallel`.
  ///
  /// Throws `GrammarError` whose path begins with a tool's `schemaPath`.
  public func calls(of tools: [ToolSignature], isParallel: Bool) throws(GrammarError) -> GrammarPart {
    .sequence([.text(marker), try rest(of: tools, isParallel: isParallel)])
  }

  /// Any text, in which calls that begin must be calls of these tools and end the answer. Throws as `calls`.
  public func textOrCalls(of tools: [ToolSignature], isParallel: Bool) throws(GrammarError) -> GrammarPart {
    let rest = try rest(of: tools, isParallel: isParallel)
    switch self {
    case .hermes, .smollm2, .mistral: return .textUntil(marker, then: rest)
    // Only an answer that begins with an object is a call, so only its beginning is bound.
    case .llama3: return .choice([rest, .textNotBeginning(with: "{ \t\r\n")])
    }
  }

  /// The text that begins calls and nothing else; empty if there is none.
  private var marker: String {
    switch self {
    case .hermes, .smollm2: "<tool_call>"
    case .llama3: ""
    case .mistral: "[TOOL_CALLS]"
    }
  }

  /// What follows the marker.
  private func rest(of tools: [ToolSignature], isParallel: Bool) throws(GrammarError) -> GrammarPart {
    var alternatives: [GrammarPart] = []
    for tool in tools { alternatives.append(try call(of: tool)) }
    let call = GrammarPart.choice(alternatives)
    func calls(_ call: GrammarPart, separator: String) -> GrammarPart {
      isParallel ? .list(call, separator: separator) : call
    }
    switch self {
    case .hermes:
      // The marker of the first call is written already.
      let body = GrammarPart.sequence([.text("\n"), call, .text("\n</tool_call>")])
      return calls(body, separator: "\n" + marker)
    case .smollm2: return .sequence([.text("["), calls(call, separator: ", "), .text("]</tool_call>")])
    case .llama3: return calls(call, separator: "; ")
    case .mistral: return .sequence([.text("["), calls(call, separator: ", "), .text("]")])
    }
  }

  private func call(of tool: ToolSignature) throws(GrammarError) -> GrammarPart {
    let argumentsKey = self == .llama3 ? "parameters" : "arguments"
    return .sequence([
      .text(#"{"name": "#), .jsonSchema(["const": .string(tool.name)], name: tool.schemaPath),
      .text(", \"\(argumentsKey)\": "), try arguments(of: tool), .text("}"),
    ])
  }

  private func arguments(of tool: ToolSignature) throws(GrammarError) -> GrammarPart {
    let options = JSONGrammarOptions(additionalPropertiesByDefault: false)
    guard let schema = tool.parameters else {
      return .jsonSchema(["type": "object", "properties": [:]], name: tool.schemaPath, options: options)
    }
    var object = schema
    if case .mapping(var fields) = schema, fields["type"] == nil, fields["$ref"] == nil {
      fields["type"] = "object"
      object = .mapping(fields)
    }
    let part = GrammarPart.jsonSchema(object, name: tool.schemaPath, options: options)
    do throws(GrammarError) {
      _ = try Grammar(part)
    } catch {
      guard !tool.isStrict, error.kind == .unsupported || error.kind == .limit else { throw error }
      return .jsonSchema(["type": "object"], name: tool.schemaPath)
    }
    return part
  }
}
