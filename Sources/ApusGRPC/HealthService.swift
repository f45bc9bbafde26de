import GRPCCore

/// The calls of `grpc.health.v1.Health`: a server serves until it is told to leave.
struct HealthService: WireHealth.SimpleServiceProtocol {
  let departure: Departure

  /// The empty name is the server as a whole.
  private static let services: Set<String> = [
    "", WireCollections.descriptor.fullyQualifiedService, WireHealth.descriptor.fullyQualifiedService,
  ]

  private var status: WireHealthCheckResponse.ServingStatus { departure.hasBegun ? .notServing : .serving }

  func check(request: WireHealthCheckRequest, context: ServerContext) async throws -> WireHealthCheckResponse {
    guard Self.services.contains(request.service) else {
      throw RPCError(code: .notFound, message: "the service '\(request.service)' does not exist here")
    }
    return .with { $0.status = status }
  }

  func watch(
    request: WireHealthCheckRequest, response: RPCWriter<WireHealthCheckResponse>, context: ServerContext
  ) async throws {
    let isKnown = Self.services.contains(request.service)
    try await response.write(.with { $0.status = isKnown ? status : .serviceUnknown })
    // The transport cancels every call when the server begins to leave, and nothing else changes.
    if !departure.hasBegun { try await context.cancellation.cancelled }
    if isKnown, departure.hasBegun { try await response.write(.with { $0.status = .notServing }) }
  }
}
