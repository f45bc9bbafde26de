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
  /// No grammar can express the schema, so the arguments may be any object.
  fileprivate var takesAnyObject = false

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
  /// The paths of a grammar's errors begin with a tool's `schemaPath`.
  public func calls(of tools: [ToolSignature], isParallel: Bool) -> GrammarPart {
    .sequence([.text(marker), rest(of: tools, isParallel: isParallel)])
  }

  /// Any text, in which calls that begin must be calls of these tools and end the answer. Errors as those of `calls`.
  public func textOrCalls(of tools: [ToolSignature], isParallel: Bool) -> GrammarPart {
    let rest = rest(of: tools, isParallel: isParallel)
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
  private func rest(of tools: [ToolSignature], isParallel: Bool) -> GrammarPart {
    let call = GrammarPart.choice(tools.map(call))
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

  private func call(of tool: ToolSignature) -> GrammarPart {
    let argumentsKey = self == .llama3 ? "parameters" : "arguments"
    return .sequence([
      .text(#"{"name": "#), .jsonSchema(["const": .string(tool.name)], name: tool.schemaPath),
      .text(", \"\(argumentsKey)\": "), tool.arguments, .text("}"),
    ])
  }
}

extension ToolSignature {
  fileprivate var arguments: GrammarPart {
    if takesAnyObject { return .jsonSchema(["type": "object"], name: schemaPath) }
    let options = JSONGrammarOptions(additionalPropertiesByDefault: false)
    guard let schema = parameters else {
      return .jsonSchema(["type": "object", "properties": [:]], name: schemaPath, options: options)
    }
    var object = schema
    if case .mapping(var fields) = schema, fields["type"] == nil, fields["$ref"] == nil {
      fields["type"] = "object"
      object = .mapping(fields)
    }
    return .jsonSchema(object, name: schemaPath, options: options)
  }

  /// The same, or with any object as arguments where no grammar can express them and none is demanded.
  fileprivate var loosened: ToolSignature {
    if isStrict { return self }
    do throws(GrammarError) {
      _ = try Grammar(arguments)
      return self
    } catch {
      var loose = self
      loose.takesAnyObject = error.kind == .unsupported || error.kind == .limit
      return loose
    }
  }
}

extension Grammar {
  /// The grammar of what a function makes of tools, such as `ToolCallDialect.calls(of:isParallel:)`. Arguments of a tool
  /// that isn't strict may be any object where no grammar can express their schema.
  ///
  /// Throws `GrammarError` as `init(_:name:)`. Each schema is compiled once, if all can be.
  public init(
    of tools: [ToolSignature], name: String, _ part: ([ToolSignature]) -> GrammarPart
  ) throws(GrammarError) {
    do throws(GrammarError) {
      try self.init(part(tools), name: name)
    } catch {
      let loosened = tools.map(\.loosened)
      guard loosened.contains(where: \.takesAnyObject) else { throw error }
      try self.init(part(loosened), name: name)
    }
  }
}
