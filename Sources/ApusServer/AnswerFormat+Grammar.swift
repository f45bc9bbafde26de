import ApusEngine
import ApusText

extension AnswerFormat {
  /// The grammar of the format over an engine's vocabulary; nil for text. Throws ``OpenAIError`` that names the part of the
  /// schema, under the request field `path`, that is not supported or too large.
  func grammar(for engine: any TextEngine, path: String) throws -> TokenGrammar? {
    let grammar: Grammar
    do {
      switch self {
      case .text: return nil
      case .jsonObject: grammar = try Grammar.jsonObject()
      case .jsonSchema(let schema): grammar = try Grammar(jsonSchema: schema)
      }
    } catch {
      throw OpenAIError(error, path: path)
    }
    return TokenGrammar(grammar, vocabulary: engine.vocabulary)
  }
}

extension OpenAIError {
  init(_ error: GrammarError, path: String) {
    self.init(
      status: .badRequest, message: "\(path): \(error)", param: path, code: "invalid_value")
  }
}
