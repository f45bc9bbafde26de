import Crypto
import Foundation
import HTTPTypes
import Hummingbird

/// The web console at `/`: one page that talks to the same API as every client.
struct ConsoleRoutes: Sendable {
  private let page = ByteBuffer(bytes: PackageResources.console_html)
  private let policy: String

  init() {
    let html = String(decoding: PackageResources.console_html, as: UTF8.self)
    // Nothing but the page's own script and style may run, whatever a model writes.
    policy = [
      "default-src 'none'", "connect-src 'self'", "img-src data:", "base-uri 'none'", "form-action 'none'",
      "frame-ancestors 'none'", "script-src \(Self.source(of: "script", in: html))",
      "style-src \(Self.source(of: "style", in: html))",
    ].joined(separator: "; ")
  }

  func add(to router: some RouterMethods<ServerContext>) {
    router.get("/") { _, _ in
      Response(
        status: .ok,
        headers: [
          .contentType: "text/html; charset=utf-8", .cacheControl: "no-cache", .contentSecurityPolicy: policy,
          .xContentTypeOptions: "nosniff",
        ],
        body: .init(byteBuffer: page))
    }
  }

  /// The hash by which a policy names the page's only element of that tag.
  private static func source(of tag: String, in html: String) -> String {
    guard let open = html.range(of: "<\(tag)"), let begin = html[open.upperBound...].firstIndex(of: ">"),
      let end = html.range(of: "</\(tag)>", range: begin..<html.endIndex)
    else { return "'none'" }
    let content = html[html.index(after: begin)..<end.lowerBound]
    return "'sha256-\(Data(SHA256.hash(data: Data(content.utf8))).base64EncodedString())'"
  }
}
