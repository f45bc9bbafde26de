/// What is wrong with a model's file, written for the person who must act on it.
///
/// Every reader of model files (GGUF, safetensors, their sharded form) and the store's own files throw this one type.
public struct ModelFileError: Error, Sendable, Equatable, CustomStringConvertible {
  /// The class of the problem, for code that must tell them apart.
  public enum Kind: String, Sendable, Equatable, CaseIterable {
    /// The file cannot be opened, mapped or read.
    case unreadable
    /// The disk does not take the file.
    case unwritable
    /// The file ends before what it announces.
    case truncated
    /// The bytes contradict the format.
    case malformed
    /// Well-formed, but a version, type or layout that Apus doesn't read.
    case unsupported
    /// A tensor or a key that was asked for isn't in the file.
    case missing
    /// A key holds another type of value than the one asked for.
    case wrongType
    /// A name appears twice.
    case duplicate
    /// A count or a length is above the documented bound.
    case limit
  }

  public var kind: Kind
  /// The file, as it was given by the caller.
  public var path: String
  /// The tensor, key or field: `tensor 'blk.0.attn_q.weight'`, `key 'general.alignment'`, `header`.
  public var what: String
  /// Byte offset in the file where the problem was seen.
  public var offset: Int?
  public var seen: String
  public var expected: String

  public init(kind: Kind, path: String, what: String, offset: Int? = nil, seen: String, expected: String) {
    self.kind = kind
    self.path = path
    self.what = what
    self.offset = offset
    self.seen = seen
    self.expected = expected
  }

  public var description: String {
    let place = offset.map { " at byte \($0)" } ?? ""
    return "\(path): \(what)\(place): found \(seen), expected \(expected)"
  }
}

extension ModelFileError {
  /// A name from a file, shortened and with control characters escaped, so that hostile names can't garble a terminal.
  static func printable(_ name: String) -> String {
    var result = ""
    for scalar in name.unicodeScalars.prefix(120) {
      result +=
        scalar.value < 0x20 || (0x7F...0x9F).contains(scalar.value) ? scalar.escaped(asASCII: true) : String(scalar)
    }
    return name.unicodeScalars.count > 120 ? result + "…" : result
  }
}
