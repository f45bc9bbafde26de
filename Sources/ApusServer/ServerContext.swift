import ApusEngine
import Hummingbird
import NIOCore
import Synchronization

/// What a handler knows of its request, with the connection that it came by.
struct ServerContext: RequestContext {
  var coreContext: CoreRequestContextStorage
  private let channel: any Channel
  /// Who is asking.
  var principal = Self.anonymous
  /// Everybody on a server without keys.
  static let anonymous = "anonymous"

  init(source: ApplicationRequestContextSource) {
    coreContext = .init(source: source)
    channel = source.channel
  }

  /// The request's whole body. One that is too large or too slow is an error, and the connection of one that is too slow
  /// is closed: what is left of it would never end.
  func body(
    of request: Request, upTo limit: Int, within seconds: Int = Self.longestUpload
  ) async throws -> ByteBuffer {
    let body = request.body
    return try await withThrowingTaskGroup(of: ByteBuffer?.self) { group in
      group.addTask { try await body.collect(upTo: limit) }
      group.addTask {
        try await Task.sleep(for: .seconds(seconds))
        return nil
      }
      defer { group.cancelAll() }
      if let buffer = try await group.next() ?? nil { return buffer }
      channel.eventLoop.scheduleTask(in: Self.timeToAnswer) { [channel] in channel.close(mode: .all, promise: nil) }
      throw OpenAIError.tooSlow(seconds: seconds)
    }
  }

  /// Seconds.
  private static let longestUpload = 60
  /// Until a connection is closed whose error is on its way.
  private static let timeToAnswer = TimeAmount.seconds(1)

  /// The client that asks. It hops to the connection's event loop.
  func client() async throws -> ConnectedClient {
    let watch = try await channel.eventLoop.submit { [channel] in
      let pipeline = channel.pipeline.syncOperations
      if let watch = try? pipeline.handler(type: InputWatch.self) { return watch }
      let watch = InputWatch()
      try pipeline.addHandler(watch, position: .first)
      return watch
    }.get()
    return ConnectedClient(request: id, watch: watch)
  }
}

/// The client of one request: when it hangs up, what runs for it is cancelled.
struct ConnectedClient: Sendable {
  fileprivate let request: String
  /// The connection's, which the first request that needs it adds.
  fileprivate let watch: InputWatch

  /// Runs a body in a task that is cancelled when the client hangs up.
  func whileConnected<T: Sendable>(_ body: @escaping @Sendable () async throws -> T) async throws -> T {
    let task = Task { try await body() }
    let action = watch.add(for: request) { task.cancel() }
    defer { watch.remove(action) }
    return try await withTaskCancellationHandler {
      try await task.value
    } onCancel: {
      task.cancel()
    }
  }

  /// The engine's answer, which is cancelled when the client hangs up, also while it is being streamed.
  func answer(
    from engine: any TextEngine, to prompt: Prompt, _ options: GenerationOptions, for origin: RequestOrigin
  ) async throws -> AnswerStream {
    let answer = try await engine.answer(prompt, options, for: origin)
    _ = watch.add(for: request, answer.events.cancellation)
    return answer
  }
}

/// Knows when the other side closes its half of a connection. Hanging up first closes the input; the channel itself only
/// closes when a write fails.
fileprivate final class InputWatch: ChannelInboundHandler, Sendable {
  typealias InboundIn = NIOAny

  private struct State {
    var isClosed = false
    /// Whose actions these are: requests follow each other on a connection, and what has ended is not told.
    var request = ""
    var actions: [Int: @Sendable () -> Void] = [:]
    var count = 0
  }
  private let state = Mutex(State())

  /// Calls the action when the client hangs up, or now if it has.
  func add(for request: String, _ action: @escaping @Sendable () -> Void) -> Int {
    let (number, isClosed) = state.withLock { state in
      if state.request != request {
        state.request = request
        state.actions.removeAll()
      }
      state.count += 1
      state.actions[state.count] = action
      return (state.count, state.isClosed)
    }
    if isClosed { action() }
    return number
  }

  func remove(_ number: Int) { state.withLock { $0.actions[number] = nil } }

  private func close() {
    let actions = state.withLock { state in
      state.isClosed = true
      defer { state.actions.removeAll() }
      return state.actions.values.map { $0 }
    }
    for action in actions { action() }
  }

  func userInboundEventTriggered(context: ChannelHandlerContext, event: Any) {
    if case .inputClosed? = event as? ChannelEvent { close() }
    context.fireUserInboundEventTriggered(event)
  }

  func channelInactive(context: ChannelHandlerContext) {
    close()
    context.fireChannelInactive()
  }
}
