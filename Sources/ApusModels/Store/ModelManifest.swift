#if canImport(FoundationEssentials)
  import FoundationEssentials
#else
  import Foundation
#endif

/// What the store knows about a model that it holds: `models/NAME.json` beside `models/NAME.gguf` or `models/NAME/`.
public struct ModelManifest: Codable, Sendable, Equatable {
  public struct File: Codable, Sendable, Equatable {
    /// Relative to `models/` for a model of one file, to the model's folder else.
    public var path: String
    /// Bytes.
    public var size: Int
    public var sha256: String

    public init(path: String, size: Int, sha256: String) {
      self.path = path
      self.size = size
      self.sha256 = sha256
    }
  }

  /// Of this format.
  public var version = 1
  public var name: String
  /// As a user would write it: a built-in name, a URL, `hf:…`, or `link:PATH`.
  public var source: String
  public var licence: String?
  public var isFolder: Bool
  public var files: [File]
  /// True when the hashes were known beforehand (catalogue, hub, or given by the user) and the bytes had them.
  public var isVerified: Bool
  /// When the model was put in place, ISO 8601 in UTC.
  public var pulledAt: String

  /// Bytes on the disk.
  public var size: Int { files.reduce(0) { $0 + $1.size } }

  static func now() -> String { Date.now.formatted(.iso8601) }

  func encoded() -> Data {
    let encoder = JSONEncoder()
    encoder.outputFormatting = [.prettyPrinted, .sortedKeys, .withoutEscapingSlashes]
    // Strings, integers and flags: nothing that the encoder can refuse.
    return (try? encoder.encode(self)) ?? Data()
  }
}
