import ApusEngine
import ApusModels
import ApusText

/// One text of a request, as text or as token ids.
struct TextInput: Sendable {
  enum Content: Sendable, Equatable {
    case text(String)
    case tokens([Int32])
  }

  /// Where it stands in the request, such as `prompt.2`.
  var path: String
  var content: Content

  var prompt: Prompt {
    switch content {
    case .text(let text): .text(text)
    case .tokens(let tokens): .tokens(tokens)
    }
  }

  /// Throws ``OpenAIError`` for an id that the vocabulary does not have.
  func checkTokens(vocabularySize: Int) throws {
    guard case .tokens(let tokens) = content else { return }
    if let index = tokens.firstIndex(where: { Int($0) >= vocabularySize }) {
      throw OpenAIError.invalid(
        "\(path).\(index)", seen: "\(tokens[index])", expected: "a token id from 0 to \(vocabularySize - 1)")
    }
  }
}

extension RequestReader {
  /// A field in the four forms that OpenAI allows for texts: a string, strings, token ids, arrays of token ids.
  func textInputs(_ name: String, atMost limit: Int) throws -> [TextInput] {
    let forms = "a string, an array of strings, an array of token ids or an array of arrays of token ids"
    guard let value = value(name) else { throw OpenAIError.missing(path(name), expected: forms) }
    switch value {
    case .string(let text): return [TextInput(path: path(name), content: .text(text))]
    case .list(let items):
      guard let first = items.first else { throw invalid(name, value, expected: forms) }
      if first.number != nil {
        return [TextInput(path: path(name), content: .tokens(try Self.tokenIDs(items, path: path(name))))]
      }
      if items.count > limit {
        throw OpenAIError.invalid(path(name), seen: "an array of \(items.count)", expected: "at most \(limit) texts")
      }
      let isText = if case .string = first { true } else { false }
      return try items.enumerated().map { index, item in
        let path = path("\(name).\(index)")
        switch item {
        case .string(let text) where isText: return TextInput(path: path, content: .text(text))
        case .list(let ids) where !isText && !ids.isEmpty:
          return TextInput(path: path, content: .tokens(try Self.tokenIDs(ids, path: path)))
        default:
          throw OpenAIError.invalid(
            path, seen: item.brief,
            expected: index == 0 ? "a string, a token id or an array of token ids" : "the same as \(name).0")
        }
      }
    default: throw invalid(name, value, expected: forms)
    }
  }

  /// Token ids; whether the vocabulary has them is the model's to say.
  static func tokenIDs(_ items: [JinjaValue], path: String) throws -> [Int32] {
    try items.enumerated().map { index, item in
      guard let id = item.wholeNumber.flatMap({ Int32(exactly: $0) }), id >= 0 else {
        throw OpenAIError.invalid("\(path).\(index)", seen: item.brief, expected: "a token id, a whole number ≥ 0")
      }
      return id
    }
  }
}

extension OpenAIError {
  /// Runs a body whose errors are about a field: errors of an engine say `messages`, where the prompt stands in a chat.
  static func naming<T>(
    _ field: String, isolation: isolated (any Actor)? = #isolation, _ body: () async throws -> T
  ) async throws -> T {
    do { return try await body() } catch { throw about(field, error) }
  }

  /// The same for what does not wait.
  static func naming<T>(_ field: String, _ body: () throws -> T) throws -> T {
    do { return try body() } catch { throw about(field, error) }
  }

  private static func about(_ field: String, _ error: any Error) -> any Error {
    var known = OpenAIError(error)
    guard known.param == "messages" else { return error }
    known.param = field
    return known
  }
}

extension RequestReader {
  /// The model's name, which every dialect wants.
  func modelName() throws -> String {
    guard let model = try string("model") else {
      throw OpenAIError.missing("model", expected: "the name of a loaded model")
    }
    return model
  }
}
