#if canImport(FoundationEssentials)
  import FoundationEssentials
#else
  import Foundation
#endif

/// An OpenAI-compatible server: where its routes are, and the key for them.
public struct LoadTarget: Sendable, Hashable {
  /// Without a slash at the end: `http://127.0.0.1:8080/v1`.
  public let base: String
  let apiKey: String?

  /// `url` may leave `/v1` away; a path of its own is kept. Throws ``LoadError/invalid(field:seen:expected:)``.
  public init(url: String, apiKey: String? = nil) throws(LoadError) {
    guard let components = URLComponents(string: url), components.scheme == "http" || components.scheme == "https",
      components.host?.isEmpty == false, components.query == nil, components.fragment == nil
    else {
      throw .invalid(field: "url", seen: "'\(url)'", expected: "an address such as http://127.0.0.1:8080")
    }
    var base = url[...]
    while base.hasSuffix("/") { base.removeLast() }
    self.base = components.path.allSatisfy { $0 == "/" } ? base + "/v1" : String(base)
    if let apiKey, apiKey.isEmpty || !apiKey.utf8.allSatisfy({ (0x21...0x7E).contains($0) }) {
      throw .invalid(field: "the API key", seen: "a text with spaces or other characters", expected: "printable ASCII")
    }
    self.apiKey = apiKey
  }

  func url(_ route: String) -> String { base + "/" + route }
}
