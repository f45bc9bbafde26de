import ApusEngine
import Foundation
import HTTPTypes
import Hummingbird
import Logging
import ServiceLifecycle

/// Where and how the server listens.
public struct ServerOptions: Sendable {
  public var host: String
  /// 0 lets the system choose.
  public var port: Int
  /// Request bodies beyond this many bytes are refused with status 413.
  public var bodyLimit: Int

  public init(host: String = "127.0.0.1", port: Int = 8080, bodyLimit: Int = 16 << 20) {
    self.host = host
    self.port = port
    self.bodyLimit = bodyLimit
  }
}

/// Serves engines over HTTP in OpenAI's dialect.
///
/// ```swift
/// let engine = try await SerialEngine(try LoadedModel.load(url))
/// try await Server([engine], .init(port: 8080)).run()
/// ```
public struct Server: Sendable {
  private let chat: ChatRoutes
  private let options: ServerOptions
  private let logger: Logger

  public init(_ engines: [any TextEngine], _ options: ServerOptions = .init(), logger: Logger = Logger(label: "apus")) {
    chat = ChatRoutes(engines: engines, bodyLimit: options.bodyLimit)
    self.options = options
    self.logger = logger
  }

  /// Every route.
  func router() -> Router<ServerContext> {
    let router = Router(context: ServerContext.self)
    router.add(middleware: ErrorMiddleware(bodyLimit: options.bodyLimit))
    router.get("health") { _, _ in try Response.json(["status": "ok"]) }
    router.group("v1")
      .get("models", use: chat.models)
      .get("models/:name", use: chat.model)
      .post("chat/completions", use: chat.completions)
    return router
  }

  /// The HTTP service; `onListening` gets the port.
  func application(onListening: @escaping @Sendable (Int) async -> Void = { _ in }) -> some ApplicationProtocol {
    Application(
      router: router(),
      configuration: .init(address: .hostname(options.host, port: options.port), serverName: "apus"),
      onServerRunning: { channel in await onListening(channel.localAddress?.port ?? 0) }, logger: logger)
  }

  /// Serves until SIGTERM or SIGINT, then lets running answers finish. Throws if the address cannot be bound.
  public func run(onListening: @escaping @Sendable (Int) async -> Void = { _ in }) async throws {
    let services: [any Service] = [EngineService(engines: chat.engines), application(onListening: onListening)]
    let group = ServiceGroup(
      configuration: .init(services: services, gracefulShutdownSignals: [.sigterm, .sigint], logger: logger))
    try await group.run()
  }
}

/// Stops the engines' threads after the HTTP service has ended: services end in reverse order.
private struct EngineService: Service {
  let engines: [any TextEngine]

  func run() async throws {
    try await gracefulShutdown()
    for engine in engines { engine.stop() }
  }
}
