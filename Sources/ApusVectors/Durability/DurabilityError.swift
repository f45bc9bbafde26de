/// What went wrong between the store and its disk, written for the person who must act on it.
public struct DurabilityError: Error, Sendable, Equatable, CustomStringConvertible {
  /// The class of the problem, for code that must tell them apart.
  public enum Kind: String, Sendable, Equatable, CaseIterable {
    /// No space or quota left.
    case diskFull
    /// The system refused an operation, or the device failed.
    case inputOutput
    /// Another process (or another object of this one) has the folder.
    case locked
    /// The folder holds something else, or nothing.
    case notAStore
    /// The bytes contradict their checksum or the format.
    case damaged
    /// A file that must be there isn't.
    case missing
    /// Written by a version that this program doesn't read.
    case unsupported
    /// A size beyond the documented bound.
    case limit
    /// An earlier failure left it unknown what is on the disk: only opening the store again tells.
    case failed
    /// The log was closed.
    case closed
  }

  public var kind: Kind
  /// The file or folder.
  public var path: String
  /// The operation or the part of the file: `fdatasync`, `record`, `section 'ids'`.
  public var what: String
  /// Byte offset in the file where the problem was seen.
  public var offset: Int?
  public var seen: String
  public var expected: String
  /// The way out, as a sentence; empty when there is nothing to say.
  public var advice: String

  public init(
    _ kind: Kind, _ path: String, _ what: String, offset: Int? = nil, seen: String, expected: String,
    advice: String = ""
  ) {
    self.kind = kind
    self.path = path
    self.what = what
    self.offset = offset
    self.seen = seen
    self.expected = expected
    self.advice = advice
  }

  public var description: String {
    let place = offset.map { " at byte \($0)" } ?? ""
    return "\(path): \(what)\(place): found \(seen), expected \(expected)" + (advice.isEmpty ? "" : ". \(advice)")
  }
}
