import Foundation
import HTTPTypes
import Hummingbird

/// An error in the shape that OpenAI's clients read: `{"error": {"message", "type", "param", "code"}}`.
struct OpenAIError: Error, Equatable {
  var status: HTTPResponse.Status
  var message: String
  var type = "invalid_request_error"
  /// The request field that is wrong, as a path such as `messages.0.role`.
  var param: String?
  var code: String?
  /// The methods that the route has, where another was asked for.
  var allowedMethods: String?
  /// Seconds after which it is worth trying again, where that is known.
  var retryAfter: Int?

  static func invalid(_ param: String, seen: String, expected: String) -> OpenAIError {
    OpenAIError(
      status: .badRequest, message: "\(param) is \(seen), expected \(expected)", param: param, code: "invalid_value")
  }

  static func missing(_ param: String, expected: String) -> OpenAIError {
    OpenAIError(
      status: .badRequest, message: "\(param) is missing, expected \(expected)", param: param,
      code: "missing_required_parameter")
  }

  static func malformedJSON(_ reason: String) -> OpenAIError {
    OpenAIError(
      status: .badRequest, message: "the request's body is not a JSON object: \(reason)", code: "invalid_json")
  }

  static func unknownModel(_ name: String, known: [String]) -> OpenAIError {
    OpenAIError(
      status: .notFound, message: "the model '\(name)' does not exist here; loaded: \(known.joined(separator: ", "))",
      param: "model", code: "model_not_found")
  }

  static func contextLengthExceeded(tokens: Int, contextLength: Int) -> OpenAIError {
    OpenAIError(
      status: .badRequest,
      message: "prompt and answer take at least \(tokens) tokens and the model's context is \(contextLength) tokens: "
        + "shorten the messages or max_tokens",
      param: "messages", code: "context_length_exceeded")
  }

  static func methodNotAllowed(_ method: String, path: String, allowed: String) -> OpenAIError {
    OpenAIError(
      status: .methodNotAllowed, message: "\(path) has no method \(method), expected one of \(allowed)",
      code: "method_not_allowed", allowedMethods: allowed)
  }

  static func tooSlow(seconds: Int) -> OpenAIError {
    OpenAIError(
      status: .requestTimeout, message: "the request's body did not arrive within \(seconds) seconds",
      code: "request_timeout")
  }

  static func tooLarge(limit: Int) -> OpenAIError {
    OpenAIError(
      status: .contentTooLarge, message: "the request's body is larger than \(limit) bytes", code: "request_too_large")
  }

  static func unauthorized(_ message: String) -> OpenAIError {
    OpenAIError(status: .unauthorized, message: message, type: "authentication_error", code: "invalid_api_key")
  }

  static func overloaded(_ message: String) -> OpenAIError {
    OpenAIError(status: .tooManyRequests, message: message, type: "overloaded_error", code: "queue_full")
  }

  static let stopping = OpenAIError(
    status: .serviceUnavailable, message: "the server is stopping", type: "server_error", code: "server_stopping")

  static func internalError(_ error: any Error) -> OpenAIError {
    OpenAIError(status: .internalServerError, message: "\(error)", type: "server_error", code: "internal_error")
  }

  // MARK: the response

  struct Body: Codable, Equatable {
    struct Inner: Codable, Equatable {
      var message: String
      var type: String
      var param: String?
      var code: String?

      /// Clients expect the keys also where there is no value.
      func encode(to encoder: any Encoder) throws {
        var container = encoder.container(keyedBy: CodingKeys.self)
        try container.encode(message, forKey: .message)
        try container.encode(type, forKey: .type)
        try container.encode(param, forKey: .param)
        try container.encode(code, forKey: .code)
      }
    }
    var error: Inner
  }

  var body: Body { Body(error: .init(message: message, type: type, param: param, code: code)) }

  /// Header fields that go with the error.
  var headers: HTTPFields {
    switch status {
    case .tooManyRequests: [.retryAfter: "\(retryAfter ?? 1)"]
    case .serviceUnavailable: [.retryAfter: "5", .connection: "close"]
    case .unauthorized: [.wwwAuthenticate: "Bearer"]
    case .methodNotAllowed: [.allow: allowedMethods ?? ""]
    default: [:]
    }
  }
}

/// Errors in OpenAI's shape, which also the routes of no dialect have.
enum OpenAIErrors: ErrorDialect {
  static let prefix = ""

  static func response(_ error: OpenAIError, requestID: String) throws -> Response {
    try .json(error.body, status: error.status)
  }
}

extension Response {
  /// A JSON response.
  static func json(_ value: some Encodable, status: HTTPResponse.Status = .ok) throws -> Response {
    let data = try JSON.encode(value)
    return Response(
      status: status, headers: [.contentType: "application/json; charset=utf-8"],
      body: .init(byteBuffer: ByteBuffer(bytes: data)))
  }
}

/// How the server writes JSON: one line, keys in a fixed order, `/` unescaped.
enum JSON {
  static func encode(_ value: some Encodable) throws -> Data {
    let encoder = JSONEncoder()
    encoder.outputFormatting = [.withoutEscapingSlashes, .sortedKeys]
    return try encoder.encode(value)
  }
}
