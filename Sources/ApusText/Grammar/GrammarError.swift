/// Why a grammar was refused: where, what was found there and what would have been accepted.
public struct GrammarError: Error, Sendable, Equatable, CustomStringConvertible {
  public enum Kind: String, Sendable {
    /// The source does not follow its own syntax.
    case malformed
    /// The source is well-formed but asks for something outside the supported subset.
    case unsupported
    /// No text satisfies the grammar.
    case unsatisfiable
    /// The grammar is larger or deeper than allowed.
    case limit
  }

  public var kind: Kind
  /// The place: a JSON pointer such as `#/properties/age/minimum`, or `regex, character 17`.
  public var path: String
  public var seen: String
  public var expected: String

  /// Longer quotations of the source are cut.
  private static let longestQuotation = 120

  public init(_ kind: Kind, path: String, seen: String, expected: String) {
    self.kind = kind
    self.path = path
    self.seen =
      seen.unicodeScalars.count <= Self.longestQuotation
      ? seen : String(String.UnicodeScalarView(seen.unicodeScalars.prefix(Self.longestQuotation))) + "…"
    self.expected = expected
  }

  public var description: String {
    switch kind {
    case .malformed: "\(path) holds \(seen); expected \(expected)"
    case .unsupported: "\(path) asks for \(seen), which is not supported; supported: \(expected)"
    case .unsatisfiable: "\(path): \(seen), so no text satisfies it; expected \(expected)"
    case .limit: "\(path): the grammar is too large: \(seen); expected \(expected)"
    }
  }
}
