import ApusText
import HTTPTypes
import Hummingbird

/// How a dialect other than OpenAI's writes errors.
protocol ErrorDialect: Sendable {
  /// Every route of the dialect is this path or below it.
  static var prefix: String { get }
  /// `requestID` names the request in the server's logs.
  static func response(_ error: OpenAIError, requestID: String) -> Response
}

/// Turns every error of a dialect's routes, also those of the routes that do not exist, into the dialect's shape. It
/// stands inside ``ErrorMiddleware``, which does the same for all other routes.
struct DialectErrorMiddleware<Dialect: ErrorDialect, Context: RequestContext>: RouterMiddleware {
  let bodyLimit: Int

  init(_ dialect: Dialect.Type, bodyLimit: Int) { self.bodyLimit = bodyLimit }

  func handle(_ request: Request, context: Context, next: (Request, Context) async throws -> Response) async throws
    -> Response
  {
    let path = request.uri.path
    guard path == Dialect.prefix || path.hasPrefix(Dialect.prefix + "/") else {
      return try await next(request, context)
    }
    do {
      return try await next(request, context)
    } catch is CancellationError {
      throw CancellationError()
    } catch {
      let known = OpenAIError(error, path: path, bodyLimit: bodyLimit)
      if known.status == .internalServerError { context.logger.error("\(path): \(error)") }
      var response = Dialect.response(known, requestID: context.id)
      // What the error says beside its body, such as `retry-after`, holds in every dialect.
      for field in try known.response(from: request, context: context).headers
      where field.name != .contentType && field.name != .contentLength {
        response.headers.append(field)
      }
      return response
    }
  }
}

extension Response {
  /// A JSON response whose keys are in the value's order.
  static func compactJSON(_ value: JinjaValue, status: HTTPResponse.Status = .ok) -> Response {
    Response(
      status: status, headers: [.contentType: "application/json; charset=utf-8"],
      body: .init(byteBuffer: ByteBuffer(bytes: CompactJSON.bytes(value))))
  }
}
