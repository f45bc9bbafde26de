import ApusCollections
import ApusVectors
import GRPCCore
import GRPCProtobuf

/// What a call ends with: a status, and for programs a reason and the path of the field at fault.
struct CallError: Error, Equatable {
  var code: RPCError.Code
  var message: String
  /// What kind of fault, in the words of the REST interface's codes.
  var reason: String
  /// The path of a field, such as `points.3.vector.17`.
  var field: String?
  /// When it is worth trying again.
  var retryAfter: Duration?

  static let domain = "apus"

  static func unauthenticated(_ message: String) -> CallError {
    CallError(code: .unauthenticated, message: message, reason: "invalid_api_key")
  }

  static let otherTenant = CallError(
    code: .permissionDenied, message: "\(MetadataKey.tenant) names another tenant than the API key's",
    reason: "other_tenant")

  static func tooLarge(_ size: Int, limit: Int) -> CallError {
    CallError(
      code: .resourceExhausted,
      message: "a message of the call has \(size) bytes, expected at most \(limit): send what it holds in several",
      reason: "request_too_large")
  }

  /// Nothing of what went wrong inside is for callers: it may name files, or what others have.
  static let failed = CallError(
    code: .internalError, message: "the server could not do it; its log says why", reason: "internal_error")

  /// A field that a message lacks.
  static func missing(_ path: String, expected: String) -> CollectionError {
    .invalid(path: path, seen: "nothing", expected: expected)
  }

  init(
    code: RPCError.Code, message: String, reason: String, field: String? = nil, retryAfter: Duration? = nil
  ) {
    self.code = code
    self.message = message
    self.reason = reason
    self.field = field
    self.retryAfter = retryAfter
  }

  /// Nil for errors of the server's own, which callers must not see.
  init?(_ error: any Error) {
    switch error {
    case let error as CallError: self = error
    case let error as CollectionError: self.init(error)
    case let error as VectorError: self.init(error)
    case is CancellationError:
      self.init(code: .cancelled, message: "the call was cancelled", reason: "cancelled")
    default: return nil
    }
  }

  private init?(_ error: CollectionError) {
    let message = "\(error)"
    switch error {
    case .notFound: self.init(code: .notFound, message: message, reason: "not_found")
    case .forbidden: self.init(code: .permissionDenied, message: message, reason: "forbidden")
    case .inactive: self.init(code: .permissionDenied, message: message, reason: "tenant_inactive")
    case .quotaExceeded(let path, _, _, _):
      self.init(code: .resourceExhausted, message: message, reason: "quota_exceeded", field: path)
    case .tooManyQueries(_, _, let wait):
      self.init(
        code: .resourceExhausted, message: message, reason: "rate_limit_exceeded", retryAfter: .seconds(wait))
    case .otherWeights:
      self.init(
        code: .failedPrecondition, message: message, reason: "embedding_model_changed", field: "embedding_model")
    case .invalid(let path, _, _):
      self.init(code: .invalidArgument, message: message, reason: "invalid_value", field: path)
    case .exists: self.init(code: .alreadyExists, message: message, reason: "already_exists")
    case .unknownModel:
      self.init(code: .notFound, message: message, reason: "model_not_found", field: "embedding_model")
    case .embedding:
      self.init(code: .invalidArgument, message: message, reason: "embedding_failed", field: "text")
    case .corrupt, .unusable: return nil
    }
  }

  private init?(_ error: VectorError) {
    let field: String
    switch error {
    case .configuration(let name, _, _): field = name == "dim" ? "dimension" : name
    case .parameter(let name, _, _): field = name.replacing(" ", with: "_")
    case .dimension, .notFinite, .zeroVector: field = "vector"
    default: return nil
    }
    self.init(code: .invalidArgument, message: "\(error)", reason: "invalid_value", field: field)
  }
}

extension CallError: RPCErrorConvertible {
  private var status: GoogleRPCStatus {
    var details: [ErrorDetails] = [.errorInfo(reason: reason, domain: Self.domain)]
    if let retryAfter { details.append(.retryInfo(delay: retryAfter)) }
    if let field { details.append(.badRequest(violations: [.init(field: field, description: message)])) }
    return GoogleRPCStatus(code: code, message: message, details: details)
  }

  var rpcErrorCode: RPCError.Code { code }
  var rpcErrorMessage: String { message }
  var rpcErrorMetadata: Metadata { status.rpcErrorMetadata }
}

/// What the paths of an error begin with where a request holds what the store checks.
func inField<T>(_ prefix: String, _ body: () throws -> T) throws -> T {
  do {
    return try body()
  } catch CollectionError.invalid(let path, let seen, let expected) {
    throw CollectionError.invalid(path: "\(prefix).\(path)", seen: seen, expected: expected)
  } catch VectorError.parameter(let name, let seen, let expected) {
    throw CollectionError.invalid(
      path: "\(prefix).\(name.replacing(" ", with: "_"))", seen: seen, expected: expected)
  }
}
