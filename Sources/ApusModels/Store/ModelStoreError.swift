/// What kept the model store from doing as asked, with the way out.
public struct ModelStoreError: Error, Sendable, Equatable, CustomStringConvertible {
  /// The class of the problem, for code that must tell them apart.
  public enum Kind: String, Sendable, Equatable, CaseIterable {
    /// The text names no model that can be found.
    case unknownModel
    /// The text can't be read as a name, path, URL or `hf:` reference.
    case invalidReference
    /// The network is needed and switched off by `APUS_OFFLINE`.
    case offline
    /// The network failed after all tries.
    case network
    /// The server says that there is no such thing.
    case notFound
    /// The server wants (other) credentials.
    case forbidden
    /// A server's or the store's own data can't be understood.
    case malformed
    /// The bytes aren't those that were announced.
    case hashMismatch
    /// No space left on the disk, or the quota is used up.
    case diskFull
    /// The cache can't be written.
    case readOnly
    /// Another failure of the file system.
    case fileSystem
  }

  public var kind: Kind
  /// The model, file or URL in question.
  public var subject: String
  public var seen: String
  public var expected: String
  /// What to do about it.
  public var advice: String

  public init(kind: Kind, subject: String, seen: String, expected: String, advice: String) {
    self.kind = kind
    self.subject = subject
    self.seen = seen
    self.expected = expected
    self.advice = advice
  }

  public var description: String { "\(subject): found \(seen), expected \(expected). \(advice)" }
}
