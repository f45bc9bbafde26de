/// What is wrong with a file of vectors, integers, records or access rights, and what to do about it.
public struct VectorFileError: Error, Sendable, Equatable, CustomStringConvertible {
  /// The file, as the caller named it.
  public var path: String
  /// The header field, member, row or line: `npy header`, `member 'base.npy', shape`, `line 17, column 4`.
  public var field: String
  public var seen: String
  public var expected: String
  public var wayOut: String

  public init(path: String, field: String, seen: String, expected: String, wayOut: String) {
    self.path = path
    self.field = field
    self.seen = seen
    self.expected = expected
    self.wayOut = wayOut
  }

  public var description: String { "\(path): \(field): found \(seen), expected \(expected); \(wayOut)" }

  static let copyAgain = "the file is damaged or incomplete, copy it again"

  /// Text from a file, shortened and with control characters escaped, so that hostile names can't garble a terminal.
  static func printable(_ text: some StringProtocol) -> String {
    let scalars = text.unicodeScalars
    return scalars.prefix(80).map { scalar in
      scalar.value < 0x20 || (0x7F...0x9F).contains(scalar.value) ? scalar.escaped(asASCII: true) : String(scalar)
    }.joined() + (scalars.dropFirst(80).isEmpty ? "" : "…")
  }
}

/// Bounds on what a file may announce; all are far above what collections hold.
public enum VectorFileLimits {
  /// Numbers in a row; the index's own bound.
  public static let columns = 65_536
  /// Bytes of an npy header: numpy's own bound; a plain array's has about 100.
  public static let npyHeaderBytes = 10_000
  public static let archiveMembers = 65_536
  /// Bytes of a zip archive's directory.
  public static let archiveDirectoryBytes = 16 << 20
  /// Bytes of output for one byte of input: more than deflate can reach (zlib, technical details: 1032) is forged.
  public static let deflateRatio = 1032
  /// Numbers that are read into memory at once where a file is asked for as a whole.
  public static let wholeNumbers = 1 << 27
  /// Grants of an access matrix that are read at a time.
  public static let grants = 1 << 26
  /// Bytes of a line of JSON.
  public static let lineBytes = 16 << 20
  /// Levels of nesting in JSON.
  public static let jsonDepth = 64
}
