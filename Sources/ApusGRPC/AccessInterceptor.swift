import ApusCollections
import GRPCCore
import Logging

/// Keys of metadata, as the REST interface's headers.
enum MetadataKey {
  static let authorization = "authorization"
  static let apiKey = "x-api-key"
  static let tenant = "x-apus-tenant"
  static let requestID = "x-request-id"
  static let traceParent = "traceparent"
}

/// Lets in who has a key, names who is asking, and gives errors their statuses.
struct AccessInterceptor: ServerInterceptor {
  let policy: CallerPolicy
  let logger: Logger

  func intercept<Input: Sendable, Output: Sendable>(
    request: StreamingServerRequest<Input>, context: ServerContext,
    next: @Sendable (StreamingServerRequest<Input>, ServerContext) async throws -> StreamingServerResponse<Output>
  ) async throws -> StreamingServerResponse<Output> {
    let record = Call.current?.record
    @Sendable func during<T>(_ principal: Principal, _ body: () async throws -> T) async throws -> T {
      do {
        return try await Caller.$principal.withValue(principal) {
          if let record { try await record.during(body) } else { try await body() }
        }
      } catch { throw answer(error, context, record) }
    }
    let principal = try admit(request.metadata, context, record)
    var response = try await during(principal) { try await next(request, context) }
    do {
      var contents = try response.accepted.get()
      let produce = contents.producer
      contents.producer = { writer in try await during(principal) { try await produce(writer) } }
      response.accepted = .success(contents)
      return response
    } catch { throw answer(error, context, record) }
  }

  private func admit(
    _ metadata: Metadata, _ context: ServerContext, _ record: (any CallRecord)?
  ) throws -> Principal {
    do {
      let owner = try policy.owner(
        authorization: metadata.first(MetadataKey.authorization), apiKey: metadata.first(MetadataKey.apiKey))
      let principal = try policy.principal(keyOwner: owner, tenant: metadata.first(MetadataKey.tenant))
      record?.identify(keyOwner: owner, tenant: principal.tenant)
      return principal
    } catch { throw answer(error, context, record) }
  }

  /// What the caller gets of an error. Only the log learns what went wrong inside.
  private func answer(_ error: any Error, _ context: ServerContext, _ record: (any CallRecord)?) -> any Error {
    if let known = CallError(error) {
      Call.current?.fail(known.reason)
      return known
    }
    if error is RPCError { return error }
    logger.error(
      "call failed",
      metadata: [
        "method": .string(context.descriptor.fullyQualifiedMethod), "request_id": .string(record?.id ?? ""),
        "error": .string("\(error)"),
      ])
    Call.current?.fail(CallError.failed.reason)
    return CallError.failed
  }
}
