import HTTPTypes
import Hummingbird

extension Router<ServerContext> {
  /// Refuses the methods that a path does not have, and says which it has. To be called when all routes are there.
  ///
  /// HEAD goes with GET: the router's option `autoGenerateHeadEndpoints` answers it.
  func refuseOtherMethods() {
    let known = Dictionary(grouping: routes, by: \.path.description).mapValues { Set($0.map(\.method)) }
    for (path, var methods) in known {
      if methods.contains(.get) { methods.insert(.head) }
      let allowed = methods.map(\.rawValue).sorted().joined(separator: ", ")
      for method in Self.standardMethods where !methods.contains(method) {
        on(RouterPath(path), method: method) { request, _ -> Response in
          throw OpenAIError.methodNotAllowed(request.method.rawValue, path: request.uri.path, allowed: allowed)
        }
      }
    }
  }

  /// Source: RFC 9110, section 9.3, and RFC 5789.
  private static var standardMethods: [HTTPRequest.Method] {
    [.get, .head, .post, .put, .delete, .connect, .options, .trace, .patch]
  }
}
