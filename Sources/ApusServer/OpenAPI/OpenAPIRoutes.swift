import Hummingbird

/// The handler of `/openapi.json`. It is made last, from the routes that the server then has.
struct OpenAPIRoutes: Sendable {
  private let document: [UInt8]

  init(_ document: APIDocument) { self.document = CompactJSON.bytes(document.json) }

  /// Adds the route to a router that has all its others.
  static func add(to router: Router<ServerContext>, version: String, models: APIDocument.Models) {
    let known = router.routes.map { (method: $0.method.rawValue, path: $0.path.description) }
    let document = APIDocument(version: version, models: models)
      .limited(to: known + [(method: "GET", path: "/openapi.json")])
    router.get("openapi.json", use: OpenAPIRoutes(document).read)
  }

  @Sendable func read(_ request: Request, _ context: some RequestContext) -> Response { .json(bytes: document) }
}
