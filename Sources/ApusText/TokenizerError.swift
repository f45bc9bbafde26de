/// Why a tokenizer could not be built: what was wrong, where, and what would have been right.
public enum TokenizerError: Error, Sendable, Equatable, CustomStringConvertible {
  /// The text is not JSON; `offset` counts bytes from its start.
  case malformedJSON(offset: Int, expected: String)
  /// The value at `path` (a key path such as `model.vocab` or `tokenizer.ggml.merges[17]`) cannot be used.
  case invalidValue(path: String, seen: String, expected: String)
  /// The value at `path` is well-formed but names something that is not implemented.
  case unsupported(path: String, seen: String, expected: String)

  public var description: String {
    switch self {
    case .malformedJSON(let offset, let expected):
      "tokenizer JSON is malformed at byte \(offset): expected \(expected)"
    case .invalidValue(let path, let seen, let expected):
      "tokenizer key \(path) holds \(seen); expected \(expected)"
    case .unsupported(let path, let seen, let expected):
      "tokenizer key \(path) asks for \(seen), which is not supported; supported: \(expected)"
    }
  }
}
