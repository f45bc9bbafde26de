/// What stops a compression, written for the person who must act on it.
public struct CompressionError: Error, Sendable, Equatable, CustomStringConvertible {
  /// The class of the problem, for code that must tell them apart.
  public enum Kind: String, Sendable, Equatable, CaseIterable {
    /// A NaN or an infinity among the numbers.
    case notFinite
    /// Matrices, statistics or weights that do not fit each other.
    case shape
    /// The eigensolver's iteration did not end.
    case notConverged
    /// Statistics of another model, corpus or format.
    case otherSource
    /// Something that was asked for is not there.
    case missing
    /// A rank, ratio, budget or other parameter outside its range.
    case parameter
    /// A text to measure with that the model was fitted to.
    case seenText
    /// Tensors of a checkpoint whose layout is not known.
    case layout
    /// A file that runs code when it is read.
    case pickle
    /// The file system refused.
    case file
  }

  public var kind: Kind
  /// The matrix, input, parameter or file that failed.
  public var what: String
  public var seen: String
  public var expected: String
  /// What to do about it; empty when `expected` says it all.
  public var wayOut: String

  public init(kind: Kind, what: String, seen: String, expected: String, wayOut: String = "") {
    self.kind = kind
    self.what = what
    self.seen = seen
    self.expected = expected
    self.wayOut = wayOut
  }

  public var description: String {
    "\(what): found \(seen), expected \(expected)" + (wayOut.isEmpty ? "" : "; \(wayOut)")
  }
}
