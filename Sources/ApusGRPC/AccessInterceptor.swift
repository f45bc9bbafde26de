import ApusCollections
import GRPCCore
import Logging

/// Keys of metadata, as the REST interface's headers.
enum MetadataKey {
  static let authorization = "authorization"
  static let apiKey = "x-api-key"
  static let tenant = "x-apus-tenant"
}

/// Lets in who has a key, names who is asking, gives errors their statuses, and writes a line of the log a call.
struct AccessInterceptor: ServerInterceptor {
  let policy: CallerPolicy
  let logger: Logger

  func intercept<Input: Sendable, Output: Sendable>(
    request: StreamingServerRequest<Input>, context: ServerContext,
    next: @Sendable (StreamingServerRequest<Input>, ServerContext) async throws -> StreamingServerResponse<Output>
  ) async throws -> StreamingServerResponse<Output> {
    let begun = ContinuousClock.now
    var tenant = "-"
    do {
      let principal = try principal(request.metadata)
      tenant = principal.tenant
      var response = try await Caller.$principal.withValue(principal) { try await next(request, context) }
      var contents = try response.accepted.get()
      let produce = contents.producer
      contents.producer = { writer in
        do {
          let trailer = try await Caller.$principal.withValue(principal) { try await produce(writer) }
          log(context, principal.tenant, since: begun, error: nil)
          return trailer
        } catch { throw answer(error, context, principal.tenant, since: begun) }
      }
      response.accepted = .success(contents)
      return response
    } catch { throw answer(error, context, tenant, since: begun) }
  }

  private func principal(_ metadata: Metadata) throws -> Principal {
    func first(_ key: String) -> String? { metadata[stringValues: key].first { _ in true } }
    return try policy.principal(
      authorization: first(MetadataKey.authorization).map { $0[...] },
      apiKey: first(MetadataKey.apiKey).map { $0[...] }, tenant: first(MetadataKey.tenant))
  }

  /// What the caller gets of an error.
  private func answer(
    _ error: any Error, _ context: ServerContext, _ tenant: String, since begun: ContinuousClock.Instant
  ) -> any Error {
    log(context, tenant, since: begun, error: error)
    if let error = CallError(error) { return error }
    return error is RPCError ? error : CallError.failed
  }

  private func log(
    _ context: ServerContext, _ tenant: String, since begun: ContinuousClock.Instant, error: (any Error)?
  ) {
    let seen = error.map { CallError($0)?.code ?? ($0 as? RPCError)?.code ?? .internalError }
    var metadata: Logger.Metadata = [
      "method": .string(context.descriptor.method), "tenant": .string(tenant),
      "status": .string(seen.map { "\($0)" } ?? "ok"), "duration": .string("\(begun.duration(to: .now))"),
    ]
    if let error, seen == .internalError {
      metadata["error"] = .string("\(error)")
      logger.error("call", metadata: metadata)
    } else {
      logger.info("call", metadata: metadata)
    }
  }
}
