import ApusEngine
import ApusText
import ApusTools

/// The tools that an answer may or must call, in no dialect.
struct AnswerTools: Sendable {
  enum Choice: Sendable, Equatable {
    /// The model decides.
    case auto, none
    /// The answer must call a tool.
    case required
    /// The answer must call this tool.
    case function(String)
  }

  /// In the form of chat completions, which templates know.
  var functions: [JinjaValue] = []
  var choice = Choice.auto
  /// False ends an answer's calls after the first.
  var allowsParallelCalls = true
  /// Where a tool's schema stands beneath its entry of `tools` in the request, for errors.
  var schemaField = "function.parameters"

  /// What the template shows the model; nil if it may call nothing.
  var offered: JinjaValue? { functions.isEmpty || choice == .none ? nil : .list(functions) }

  /// Whether the answer is calls and nothing else.
  var mustCall: Bool {
    switch choice {
    case .auto, .none: false
    case .required, .function: offered != nil
    }
  }

  var names: [String] { functions.compactMap { $0["function"]?["name"]?.string } }

  private var signatures: [ToolSignature] {
    functions.enumerated().compactMap { index, tool in
      guard let function = tool["function"], let name = function["name"]?.string else { return nil }
      if case .function(let only) = choice, only != name { return nil }
      var isStrict = false
      if case .boolean(true)? = function["strict"] { isStrict = true }
      return ToolSignature(
        name: name, parameters: function["parameters"], isStrict: isStrict,
        schemaPath: "tools.\(index).\(schemaField)")
    }
  }

  /// Finds the calls in an answer; nil if there is nothing to call. A model whose template shows no way to write calls
  /// is made to write Hermes', which it does only where it must call.
  func parser(for engine: any TextEngine) -> ToolCallParser? {
    if offered == nil { return nil }
    switch choice {
    case .none: return nil
    case .required, .function: return ToolCallParser(dialect: engine.toolCallDialect ?? .hermes, tools: names)
    case .auto:
      // Calls without the dialect's marker are not held to a strict tool's schema, so they don't count then.
      let isStrict = signatures.contains(where: \.isStrict)
      return engine.toolCallDialect.map { ToolCallParser(dialect: $0, tools: isStrict ? [] : names) }
    }
  }

  /// What the whole answer must be: calls where they are required, else the format or calls; nil binds nothing.
  ///
  /// Throws ``OpenAIError`` that names the part of a schema which is not supported or too large; the format's stands at
  /// `formatPath` of the request.
  func grammar(
    for engine: any TextEngine, format: AnswerFormat = .text, formatPath: String
  ) throws -> TokenGrammar? {
    do throws(GrammarError) {
      let format = format.part(path: formatPath)
      guard let calls = calls(dialect: engine.toolCallDialect, beside: format) else {
        guard let format else { return nil }
        return TokenGrammar(try Grammar(format, name: formatPath), vocabulary: engine.vocabulary)
      }
      return TokenGrammar(try Grammar(of: signatures, name: "tools", calls), vocabulary: engine.vocabulary)
    } catch {
      throw OpenAIError(error)
    }
  }

  /// The whole answer made of tools, if it is bound to call them or to something else.
  private func calls(
    dialect: ToolCallDialect?, beside format: GrammarPart?
  ) -> (([ToolSignature]) -> GrammarPart)? {
    if offered == nil { return nil }
    let isParallel = allowsParallelCalls
    switch choice {
    case .none: return nil
    case .required, .function: return { (dialect ?? .hermes).calls(of: $0, isParallel: isParallel) }
    case .auto:
      guard let dialect else { return nil }
      if let format { return { .choice([format, dialect.calls(of: $0, isParallel: isParallel)]) } }
      guard signatures.contains(where: \.isStrict) else { return nil }
      return { dialect.textOrCalls(of: $0, isParallel: isParallel) }
    }
  }
}

extension TextEngine {
  /// How the model writes calls, as its chat template shows; nil if it was not trained to.
  var toolCallDialect: ToolCallDialect? { chatTemplate.flatMap { ToolCallDialect.detect(template: $0.source) } }
}

extension AnswerFormat {
  /// Nil for text. `path` is where the schema stands in the request.
  func part(path: String) -> GrammarPart? {
    switch self {
    case .text: nil
    case .jsonObject: .jsonSchema(["type": "object"], name: path)
    case .jsonSchema(let schema): .jsonSchema(schema, name: path)
    }
  }
}

extension OpenAIError {
  /// `field` of the request holds the grammar; nil where the error's own path begins with it.
  init(_ error: GrammarError, field: String? = nil) {
    self.init(
      status: .badRequest, message: field.map { "\($0): \(error)" } ?? "\(error)",
      param: field ?? String(error.path.prefix { $0 != "#" }), code: "invalid_value")
  }
}

extension RequestReader {
  /// `tool_choice` of OpenAI's dialects, for tools of these names. `isNested` is chat completions' form, where the name
  /// stands in `function`. Throws ``OpenAIError``.
  func toolChoice(names: [String], isNested: Bool) throws -> AnswerTools.Choice {
    guard let value = value("tool_choice") else { return .auto }
    switch value {
    case .string("none"): return .none
    case .string("auto"): return .auto
    case .string("required"):
      if names.isEmpty { throw invalid("tool_choice", value, expected: "tools beside it") }
      return .required
    case .mapping:
      var choice = try RequestReader(value, path: "tool_choice")
      guard try choice.string("type") == "function" else {
        throw OpenAIError.invalid(
          "tool_choice.type", seen: choice.value("type")?.brief ?? "missing", expected: "'function'")
      }
      if isNested {
        guard let function = choice.value("function") else {
          throw OpenAIError.missing("tool_choice.function", expected: "an object with the name of one of the tools")
        }
        choice = try RequestReader(function, path: "tool_choice.function")
      }
      guard let name = try choice.string("name") else {
        throw OpenAIError.missing(choice.path("name"), expected: "the name of one of the tools")
      }
      if !names.contains(name) {
        throw OpenAIError.invalid(choice.path("name"), seen: "'\(name)'", expected: "the name of one of the tools")
      }
      return .function(name)
    default:
      throw invalid(
        "tool_choice", value, expected: "'none', 'auto', 'required' or an object with the type 'function' and a name")
    }
  }
}
