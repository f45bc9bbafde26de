import ApusText
import HTTPTypes
import Hummingbird

/// Errors in Anthropic's shape: `{"type": "error", "error": {"type", "message"}, "request_id"}`.
///
/// Source: Anthropic API reference, "Errors".
enum AnthropicErrors: ErrorDialect {
  static let prefix = "/v1/messages"

  static func response(_ error: OpenAIError, requestID: String) -> Response {
    let id = Self.requestID(requestID)
    // Anthropic's clients know 529 for a server that takes no more work, and treat 503 as a fault.
    let status = error.status == .serviceUnavailable ? overloaded : error.status
    var response = Response.json(
      .mapping(["type": "error", "error": Self.error(error), "request_id": .string(id)]), status: status)
    response.headers[.anthropicRequestID] = id
    return response
  }

  /// The event that ends a stream which cannot be finished.
  static func event(_ error: OpenAIError) -> [UInt8] {
    MessagesWriter.event("error", ["error": Self.error(error)])
  }

  private static func error(_ error: OpenAIError) -> JinjaValue {
    .mapping(["type": .string(type(of: error.status)), "message": .string(error.message)])
  }

  /// The request's id in a response's header and in an error.
  static func requestID(_ id: String) -> String { "req_" + id }

  static let overloaded = HTTPResponse.Status(code: 529, reasonPhrase: "Overloaded")

  static func type(of status: HTTPResponse.Status) -> String {
    switch status.code {
    case 401: "authentication_error"
    case 403: "permission_error"
    case 404: "not_found_error"
    case 408: "timeout_error"
    case 413: "request_too_large"
    case 429: "rate_limit_error"
    case 503, 529: "overloaded_error"
    case 504: "timeout_error"
    case 400..<500: "invalid_request_error"
    default: "api_error"
    }
  }
}

extension HTTPField.Name {
  static let anthropicRequestID = HTTPField.Name("request-id")!
}
