import HTTPTypes
import Hummingbird

/// Lets in who has a key, names who is asking, and turns new work away while the server is leaving.
struct AccessMiddleware: RouterMiddleware {
  let state: ServerState

  /// Probes, figures and the page itself: nothing of a caller is in them.
  static let open: Set<String> = ["/", "/health", "/ready", "/metrics", "/version", "/openapi.json"]

  func handle(_ request: Request, context: ServerContext, next: (Request, ServerContext) async throws -> Response)
    async throws -> Response
  {
    if Self.open.contains(request.uri.path) { return try await next(request, context) }
    if state.isDraining { throw OpenAIError.stopping }
    var context = context
    if let keys = state.keys {
      let key =
        request.headers[.authorization].flatMap { $0.hasPrefix("Bearer ") ? $0.dropFirst(7) : nil }
        ?? request.headers[.apiKey].map { $0[...] }
      guard let key else { throw OpenAIError.unauthorized("this server wants an API key: authorization: Bearer KEY") }
      guard let principal = keys.principal(for: key) else { throw OpenAIError.unauthorized("the API key is not known") }
      context.principal = principal
    }
    let principal = context.principal
    RequestRecorder.current?.update { $0.principal = principal }
    return try await next(request, context)
  }
}

extension HTTPField.Name {
  static let apiKey = HTTPField.Name("x-api-key")!
  static let requestID = HTTPField.Name("x-request-id")!
  static let retryAfter = HTTPField.Name("retry-after")!
}
