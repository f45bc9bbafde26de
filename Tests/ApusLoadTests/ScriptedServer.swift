import NIOCore
import NIOHTTP1
import NIOPosix
import Synchronization

/// An HTTP server on this machine that answers each request by a script with known delays.
final class ScriptedServer: Sendable {
  enum Step: Sendable {
    case head(Int, type: String)
    case body(String)
    case wait(milliseconds: Int64)
    case end
    /// Closes the connection in the middle.
    case drop
  }

  struct Request: Sendable {
    var head: HTTPRequestHead
    var body: String
  }

  private let seen = Mutex<[Request]>([])
  private let connectionCount = Mutex(0)

  var requests: [Request] { seen.withLock { $0 } }
  var connections: Int { connectionCount.withLock { $0 } }

  /// Runs `body` with the address of a server whose request number n (from 0) is answered by `script(n)`.
  static func with<T>(
    _ script: @escaping @Sendable (Int) -> [Step], _ body: (String, ScriptedServer) async throws -> T
  ) async throws -> T {
    let server = ScriptedServer()
    let channel = try await ServerBootstrap(group: MultiThreadedEventLoopGroup.singleton)
      .serverChannelOption(.socketOption(.so_reuseaddr), value: 1)
      .childChannelInitializer { channel in
        server.connectionCount.withLock { $0 += 1 }
        return channel.pipeline.configureHTTPServerPipeline().flatMapThrowing {
          try channel.pipeline.syncOperations.addHandler(Handler(server, script))
        }
      }
      .bind(host: "127.0.0.1", port: 0).get()
    let result: Result<T, any Error>
    do {
      result = .success(try await body("http://127.0.0.1:\(channel.localAddress?.port ?? 0)", server))
    } catch {
      result = .failure(error)
    }
    try await channel.close()
    return try result.get()
  }

  private func take(_ request: Request) -> Int {
    seen.withLock { seen in
      seen.append(request)
      return seen.count - 1
    }
  }

  private final class Handler: ChannelInboundHandler {
    typealias InboundIn = HTTPServerRequestPart
    typealias OutboundOut = HTTPServerResponsePart

    private let server: ScriptedServer
    private let script: @Sendable (Int) -> [Step]
    private var head: HTTPRequestHead?
    private var body = ""

    init(_ server: ScriptedServer, _ script: @escaping @Sendable (Int) -> [Step]) {
      self.server = server
      self.script = script
    }

    func channelRead(context: ChannelHandlerContext, data: NIOAny) {
      switch unwrapInboundIn(data) {
      case .head(let head):
        self.head = head
        body = ""
      case .body(let buffer): body += String(buffer: buffer)
      case .end:
        guard let head else { return }
        let number = server.take(Request(head: head, body: body))
        play(script(number)[...], context)
      }
    }

    private func play(_ steps: ArraySlice<Step>, _ context: ChannelHandlerContext) {
      var steps = steps
      while let step = steps.popFirst() {
        switch step {
        case .head(let status, let type):
          let head = HTTPResponseHead(
            version: .http1_1, status: .init(statusCode: status), headers: ["content-type": type])
          context.writeAndFlush(wrapOutboundOut(.head(head)), promise: nil)
        case .body(let text):
          context.writeAndFlush(wrapOutboundOut(.body(.byteBuffer(ByteBuffer(string: text)))), promise: nil)
        case .end: context.writeAndFlush(wrapOutboundOut(.end(nil)), promise: nil)
        case .drop: context.close(promise: nil)
        case .wait(let milliseconds):
          let rest = steps
          let bound = NIOLoopBound((self, context), eventLoop: context.eventLoop)
          context.eventLoop.scheduleTask(in: .milliseconds(milliseconds)) {
            let (handler, context) = bound.value
            if context.channel.isActive { handler.play(rest, context) }
          }
          return
        }
      }
    }

    func errorCaught(context: ChannelHandlerContext, error: any Error) { context.close(promise: nil) }
  }
}

extension [ScriptedServer.Step] {
  /// A stream of `tokens` tokens: the first after `first` milliseconds, the others `gap` apart.
  static func stream(tokens: Int, first: Int64, gap: Int64, usage: Bool = true) -> [ScriptedServer.Step] {
    var steps: [ScriptedServer.Step] = [
      .head(200, type: "text/event-stream; charset=utf-8"),
      .body(#"data: {"choices": [{"delta": {"role": "assistant", "content": ""}}], "usage": null}"# + "\n\n"),
    ]
    for token in 0..<tokens {
      steps.append(.wait(milliseconds: token == 0 ? first : gap))
      steps.append(.body(#"data: {"choices": [{"delta": {"content": "x"}}], "usage": null}"# + "\n\n"))
    }
    steps.append(.body(#"data: {"choices": [{"delta": {}, "finish_reason": "length"}]}"# + "\n\n"))
    if usage {
      steps.append(
        .body(
          #"data: {"choices": [], "usage": {"prompt_tokens": 30, "completion_tokens": \#(tokens), "#
            + #""prompt_tokens_details": {"cached_tokens": 16}}}"# + "\n\n"))
    }
    return steps + [.body("data: [DONE]\n\n"), .end]
  }
}
