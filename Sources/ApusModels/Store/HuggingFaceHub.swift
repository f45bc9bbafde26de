#if canImport(FoundationEssentials)
  import FoundationEssentials
#else
  import Foundation
#endif

/// The addresses and answers of the Hugging Face hub, as pure functions.
///
/// Source: the hub's API documentation (`/api/models/{repo}/tree/{revision}`, `/{repo}/resolve/{revision}/{path}`).
struct HuggingFaceHub: Sendable {
  /// `HF_ENDPOINT`, or the public hub.
  var endpoint: String
  /// `HF_TOKEN`.
  var token: String?

  init(environment: [String: String]) {
    let configured = environment["HF_ENDPOINT"].flatMap { $0.isEmpty ? nil : $0 } ?? "https://huggingface.co"
    endpoint = configured.hasSuffix("/") ? String(configured.dropLast()) : configured
    token = environment["HF_TOKEN"].flatMap { $0.isEmpty ? nil : $0 }
  }

  var headers: [(String, String)] { token.map { [("Authorization", "Bearer \($0)")] } ?? [] }

  func listing(_ repository: String) -> String {
    "\(endpoint)/api/models/\(repository)/tree/main?recursive=true"
  }

  func file(_ repository: String, _ path: String) -> String {
    // RFC 3986, section 2.3: the unreserved characters, and the separators of the path.
    let plain = Set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-._~/".utf8)
    let encoded = path.utf8.map { byte in
      plain.contains(byte) ? String(UnicodeScalar(byte)) : "%" + Digest.hex([byte]).uppercased()
    }.joined()
    return "\(endpoint)/\(repository)/resolve/main/\(encoded)"
  }

  struct Entry: Equatable, Sendable {
    var path: String
    /// Bytes.
    var size: Int
    /// Known for files in large-file storage, which all weights are.
    var sha256: String?
  }

  static func parseListing(_ data: Data, url: String) throws(ModelStoreError) -> [Entry] {
    struct Item: Decodable {
      struct LFS: Decodable { var oid: String }
      var type: String
      var path: String
      var size: Int?
      var lfs: LFS?
    }
    do {
      return try JSONDecoder().decode([Item].self, from: data).filter { $0.type == "file" }.map {
        Entry(path: $0.path, size: $0.size ?? 0, sha256: $0.lfs?.oid.lowercased())
      }
    } catch {
      throw ModelStoreError(
        kind: .malformed, subject: url, seen: "an answer that isn't the hub's file list", expected: "its JSON",
        advice: "Check HF_ENDPOINT.")
    }
  }

  /// Quantisations in order of preference: quality for the size first, then smaller, then larger ones.
  static let preferredKinds = [
    "Q4_K_M", "Q4_K_S", "Q5_K_M", "Q4_0", "Q4_1", "Q5_K_S", "Q6_K", "Q8_0", "Q5_0", "Q5_1", "Q3_K_L", "Q3_K_M",
    "Q3_K_S",
    "Q2_K", "BF16", "F16", "F32",
  ]

  /// The files that make the model: one GGUF (the preferred kind), or, in a repository without GGUF, safetensors with
  /// their configuration and tokenizer.
  static func choose(_ entries: [Entry], repository: String) throws(ModelStoreError) -> (files: [Entry], isFolder: Bool)
  {
    let gguf = entries.filter { entry in
      let name = entry.path.lowercased()
      // Projectors for images and the pieces of split files are not models by themselves.
      return name.hasSuffix(".gguf") && !name.contains("mmproj") && name.firstRange(of: "-of-0") == nil
    }
    for kind in preferredKinds {
      let matching = gguf.filter { isKind(kind, $0.path) }.sorted {
        ($0.path.count, $0.path) < ($1.path.count, $1.path)
      }
      if let best = matching.first { return ([best], false) }
    }
    if let smallest = gguf.min(by: { ($0.size, $0.path) < ($1.size, $1.path) }) { return ([smallest], false) }
    let names = Set(entries.map(\.path))
    guard names.contains("config.json"), names.contains("tokenizer.json"),
      names.contains("model.safetensors") || names.contains("model.safetensors.index.json")
    else {
      let seen = entries.prefix(8).map(\.path).joined(separator: ", ")
      throw ModelStoreError(
        kind: .notFound, subject: "hf:\(repository)", seen: entries.isEmpty ? "no files" : "files \(seen)",
        expected: "a .gguf, or model.safetensors with config.json and tokenizer.json",
        advice: "Look for a repository with GGUF files of the model, or name a file: hf:\(repository):FILE.")
    }
    let isSingle = names.contains("model.safetensors")
    let files = entries.filter { entry in
      let name = entry.path
      if name.hasSuffix(".safetensors") {
        return isSingle ? name == "model.safetensors" : name.hasPrefix("model-") && !name.contains("/")
      }
      return name == "1_Pooling/config.json"
        || !name.contains("/") && (name.hasSuffix(".json") || name.hasSuffix(".jinja") || name == "vocab.txt")
    }
    return (files, true)
  }

  /// True when `path` has `kind` as a word: `Q4_K` isn't `Q4_K_M`, `F16` isn't `BF16`.
  private static func isKind(_ kind: String, _ path: String) -> Bool {
    let name = path.split(separator: "/").last.map(String.init)?.uppercased() ?? ""
    func isWord(_ character: Character?) -> Bool { character.map { $0.isLetter || $0.isNumber || $0 == "_" } ?? false }
    return name.ranges(of: kind).contains { range in
      let before = range.lowerBound == name.startIndex ? nil : name[name.index(before: range.lowerBound)]
      let after = range.upperBound == name.endIndex ? nil : name[range.upperBound]
      return !isWord(before) && !isWord(after)
    }
  }
}
