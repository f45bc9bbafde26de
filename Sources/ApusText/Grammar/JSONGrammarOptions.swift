/// How a JSON grammar fills the room that JSON and JSON Schema leave.
public struct JSONGrammarOptions: Sendable, Equatable {
  public var whitespace: JSONWhitespace
  /// Levels of objects and arrays where the schema does not say what stands there.
  public var nesting: Int
  /// What an object schema without `additionalProperties` means: JSON Schema says true; many callers mean false.
  public var additionalPropertiesByDefault: Bool

  public init(
    whitespace: JSONWhitespace = .bounded(32), nesting: Int = 16, additionalPropertiesByDefault: Bool = true
  ) {
    self.whitespace = whitespace
    self.nesting = nesting
    self.additionalPropertiesByDefault = additionalPropertiesByDefault
  }
}

/// White space between the tokens of JSON.
///
/// It may stand after `{ [ , :` and before `}` and `]`, and nowhere else: not around the whole text, where a model would
/// go on writing it, and not before `,` and `:`, where nobody does.
public enum JSONWhitespace: Sendable, Equatable {
  /// None at all: the shortest text, and the most forced bytes.
  case none
  /// Nothing, one space, or one line end (LF or CRLF) with at most so many spaces and tabs after it.
  case bounded(Int)
}
