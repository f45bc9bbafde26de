#if canImport(FoundationEssentials)
  import FoundationEssentials
#else
  import Foundation
#endif

/// What a user may write where a model is wanted.
public enum ModelReference: Sendable, Equatable {
  /// A built-in model.
  case catalogue(CatalogueModel)
  /// A model of the store by its own name.
  case stored(String)
  /// A file or folder of this machine, used in place.
  case path(String)
  /// A file on the web; `sha256` from the address's fragment, `https://…/model.gguf#sha256=…`.
  case url(String, sha256: String?)
  /// `hf:ORG/REPO` (the best GGUF of the repository) or `hf:ORG/REPO:FILE`.
  case hub(repository: String, file: String?)

  /// The reference as a user would write it.
  public var text: String {
    switch self {
    case .catalogue(let model): model.name
    case .stored(let name): name
    case .path(let path): path
    case .url(let url, let sha256): url + (sha256.map { "#sha256=\($0)" } ?? "")
    case .hub(let repository, let file): "hf:\(repository)" + (file.map { ":\($0)" } ?? "")
    }
  }

  /// The name under which the store keeps the model; for a path, the path itself.
  public var name: String {
    switch self {
    case .catalogue(let model): return model.name
    case .stored(let name): return name
    case .path(let path): return path
    case .url(let url, _):
      let last = URL(string: url)?.lastPathComponent ?? "model"
      // Two addresses may end alike.
      let tag = Digest.sha256(Array(url.utf8)).prefix(8)
      return Self.safeName(Self.withoutExtension(last)) + "-" + tag
    case .hub(let repository, let file):
      let base = repository.replacing("/", with: "--")
      guard let file else { return Self.safeName(base) }
      return Self.safeName(base + "--" + Self.withoutExtension(file.replacing("/", with: "--")))
    }
  }

  private static func withoutExtension(_ name: String) -> String {
    for suffix in [".gguf", ".safetensors"] where name.lowercased().hasSuffix(suffix) {
      return String(name.dropLast(suffix.count))
    }
    return name
  }

  /// Letters, digits, `.`, `-`, `_`; never a hidden file.
  static func safeName(_ text: String) -> String {
    let mapped = String(text.map { isSafe($0) ? $0 : "_" }.prefix(200))
    return mapped.isEmpty || mapped.hasPrefix(".") ? "_" + mapped : mapped
  }

  static func isSafeName(_ text: String) -> Bool {
    !text.isEmpty && text.count <= 210 && !text.hasPrefix(".") && text.allSatisfy(isSafe)
  }

  private static func isSafe(_ character: Character) -> Bool {
    character.isASCII && (character.isLetter || character.isNumber || ".-_@".contains(character))
  }

  /// Reads what a user wrote, without looking at the disk: `hf:` and `http(s)://` by their prefix, a path by a `/`, a
  /// leading `.` or `~`, or the ending `.gguf`; else a name.
  ///
  /// Throws `ModelStoreError` of kind `invalidReference`.
  public init(parsing text: String) throws(ModelStoreError) {
    func failure(_ expected: String) -> ModelStoreError {
      ModelStoreError(
        kind: .invalidReference, subject: "model '\(ModelFileError.printable(text))'",
        seen: "a reference that can't be read",
        expected: expected, advice: "Give a name (see: apus model ls), a path, a URL, or hf:ORG/REPO[:FILE].")
    }
    if text.hasPrefix("hf:") {
      let parts = text.dropFirst(3).split(separator: ":", maxSplits: 1, omittingEmptySubsequences: false).map(
        String.init)
      let names = parts[0].split(separator: "/", omittingEmptySubsequences: false).map(String.init)
      guard names.count == 2, names.allSatisfy(Self.isSafeName) else {
        throw failure("hf:ORG/REPO or hf:ORG/REPO:FILE")
      }
      if parts.count == 2 {
        let components = parts[1].split(separator: "/", omittingEmptySubsequences: false)
        guard !parts[1].isEmpty, !components.contains(where: { $0 == ".." || $0 == "." || $0.isEmpty }) else {
          throw failure("a file of the repository after the second colon")
        }
      }
      self = .hub(repository: parts[0], file: parts.count == 2 ? parts[1] : nil)
    } else if text.hasPrefix("http://") || text.hasPrefix("https://") {
      let parts = text.split(separator: "#", maxSplits: 1).map(String.init)
      guard let url = URL(string: parts[0]), url.host()?.isEmpty == false, url.lastPathComponent.count > 1 else {
        throw failure("the address of a file")
      }
      var sha256: String?
      if parts.count == 2, parts[1].hasPrefix("sha256=") {
        let hash = parts[1].dropFirst(7).lowercased()
        guard hash.count == 64, hash.allSatisfy(\.isHexDigit) else { throw failure("64 hex digits after #sha256=") }
        sha256 = hash
      }
      self = .url(parts[0], sha256: sha256)
    } else if text.contains("/") || text.hasPrefix(".") || text.hasPrefix("~") || text.hasSuffix(".gguf") {
      self = .path(text)
    } else if let model = Catalogue.model(text) {
      self = .catalogue(model)
    } else {
      guard Self.isSafeName(text) else { throw failure("letters, digits, '.', '-', '_' and '@' in a name") }
      self = .stored(text)
    }
  }
}
