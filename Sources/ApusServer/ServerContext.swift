import Hummingbird
import NIOCore

/// What a handler knows of its request, with the connection that it came by.
struct ServerContext: RequestContext {
  var coreContext: CoreRequestContextStorage
  private let channel: any Channel
  /// Who is asking.
  var principal = "anonymous"

  init(source: ApplicationRequestContextSource) {
    coreContext = .init(source: source)
    channel = source.channel
  }

  /// Runs a body in a task that is cancelled when the client hangs up.
  func untilDisconnected<T: Sendable>(_ body: @escaping @Sendable () async throws -> T) async throws -> T {
    let task = Task { try await body() }
    // Hanging up first closes the input; the channel itself only closes when a write fails.
    let watch = InputWatch { task.cancel() }
    try await channel.pipeline.addHandler(watch, position: .first).get()
    // The connection may live on: it must not keep the handler. A closed channel has dropped it already.
    defer { channel.pipeline.removeHandler(watch, promise: nil) }
    return try await withTaskCancellationHandler {
      try await task.value
    } onCancel: {
      task.cancel()
    }
  }
}

/// Calls an action when the other side closes its half of a connection.
private final class InputWatch: ChannelInboundHandler, RemovableChannelHandler, Sendable {
  typealias InboundIn = NIOAny
  private let action: @Sendable () -> Void

  init(_ action: @escaping @Sendable () -> Void) { self.action = action }

  func userInboundEventTriggered(context: ChannelHandlerContext, event: Any) {
    if case .inputClosed? = event as? ChannelEvent { action() }
    context.fireUserInboundEventTriggered(event)
  }

  func channelInactive(context: ChannelHandlerContext) {
    action()
    context.fireChannelInactive()
  }
}
