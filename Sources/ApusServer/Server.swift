import ApusCollections
import ApusEngine
import ApusGRPC
import ApusModels
import Foundation
import HTTPTypes
import Hummingbird
import HummingbirdCore
import HummingbirdTLS
import Logging
import NIOCore
import NIOSSL
import ServiceLifecycle
import Synchronization
import UnixSignals

/// Where and how the server listens.
public struct ServerOptions: Sendable {
  /// A certificate chain and its private key, PEM files.
  public struct TLS: Sendable {
    public var certificates: String
    public var privateKey: String

    public init(certificates: String, privateKey: String) {
      self.certificates = certificates
      self.privateKey = privateKey
    }
  }

  public var host: String
  /// 0 lets the system choose.
  public var port: Int
  /// Listen on this Unix socket instead of host and port.
  public var unixSocket: String?
  public var tls: TLS?
  /// Request bodies beyond this many bytes are refused with status 413.
  public var bodyLimit: Int
  /// Nil lets everybody in.
  public var keys: KeyRing?
  /// Who of the keys' owners is an administrator.
  public var roles: Roles
  /// Web pages of these origins may use the API; `*` is every origin.
  public var allowedOrigins: [String]
  /// How long answers under way may take after SIGTERM, in seconds.
  public var drainTimeout: Double
  /// A SQLite file for responses that clients ask to be stored; nil stores none.
  public var responseDatabase: String?
  /// A folder for collections of vectors; nil keeps none.
  public var collections: String?
  /// Where collections are also served over gRPC, on the same host; 0 lets the system choose, nil serves none.
  public var grpcPort: Int?
  /// What tenants of collections may have and ask who have no quotas of their own.
  public var tenantQuotas: TenantQuotas
  /// Write prompts and answers to the log, which otherwise never holds what was said.
  public var logsPrompts: Bool
  /// Append the spans of each request to this file, as OTLP's JSON, a line a request.
  public var traceFile: String?
  /// Called on SIGHUP, beside reading the keys again. What it throws is logged, and everything stays as it was.
  public var reload: (@Sendable () throws -> ReloadedSettings)?

  public init(
    host: String = "127.0.0.1", port: Int = 8080, unixSocket: String? = nil, tls: TLS? = nil,
    bodyLimit: Int = 16 << 20, keys: KeyRing? = nil, roles: Roles = Roles(), allowedOrigins: [String] = [],
    drainTimeout: Double = 30, responseDatabase: String? = nil, collections: String? = nil, grpcPort: Int? = nil,
    tenantQuotas: TenantQuotas = TenantQuotas(), logsPrompts: Bool = false, traceFile: String? = nil,
    reload: (@Sendable () throws -> ReloadedSettings)? = nil
  ) {
    self.host = host
    self.port = port
    self.unixSocket = unixSocket
    self.tls = tls
    self.bodyLimit = bodyLimit
    self.keys = keys
    self.roles = roles
    self.allowedOrigins = allowedOrigins
    self.drainTimeout = drainTimeout
    self.responseDatabase = responseDatabase
    self.collections = collections
    self.grpcPort = grpcPort
    self.tenantQuotas = tenantQuotas
    self.logsPrompts = logsPrompts
    self.traceFile = traceFile
    self.reload = reload
  }
}

/// Settings that a running server takes over, read again.
public struct ReloadedSettings: Sendable {
  /// Seconds.
  public var drainTimeout: Double
  /// Requests of a model that may wait; what waits already stays.
  public var maxQueue: Int
  /// Settings that changed and hold from now on, and those that changed and need a restart, by name.
  public var changed: [String]
  public var unchangeable: [String]

  public init(drainTimeout: Double, maxQueue: Int, changed: [String], unchangeable: [String]) {
    self.drainTimeout = drainTimeout
    self.maxQueue = maxQueue
    self.changed = changed
    self.unchangeable = unchangeable
  }
}

/// Serves engines over HTTP, in the dialects of OpenAI, Anthropic and Ollama.
///
/// ```swift
/// let engine = try await BatchEngine(try LoadedModel.load(url))
/// try await Server([engine], .init(port: 8080)).run()
/// ```
public struct Server: Sendable {
  private let state: ServerState
  private let store: (any ResponseStore)?
  private let collections: CollectionStore?
  private let grpc: CollectionServer?
  private let spans: SpanFile?
  private let options: ServerOptions
  private let logger: Logger

  /// `files` tell clients of the models' sizes and formats, by the models' names. Throws if the database of stored
  /// responses, the folder of collections or the file for spans can't be opened.
  public init(
    _ engines: [any TextEngine], encoders: [any EmbeddingEngine] = [], files: [ModelDescription] = [],
    _ options: ServerOptions = .init(), logger: Logger = Logger(label: "apus")
  ) throws {
    store = try options.responseDatabase.map { try SQLiteResponseStore(path: $0) }
    spans = try options.traceFile.map { try SpanFile(path: $0) }
    state = ServerState(
      engines: engines, encoders: encoders, files: files, keys: options.keys, roles: options.roles,
      requests: RequestLog(logger: logger, logsPrompts: options.logsPrompts, spans: spans))
    let embedder = EngineEmbedder(encoders, preparation: state.preparation)
    collections = try options.collections.map {
      try CollectionStore($0, embedder: embedder, quotas: options.tenantQuotas)
    }
    if let collections, let port = options.grpcPort {
      grpc = try Self.collectionServer(collections, port: port, options, state.requests, logger)
    } else {
      grpc = nil
    }
    self.options = options
    self.logger = logger
  }

  private static func collectionServer(
    _ store: CollectionStore, port: Int, _ options: ServerOptions, _ calls: any CallLog, _ logger: Logger
  ) throws -> CollectionServer {
    var callers = CallerPolicy(roles: options.roles)
    if let keys = options.keys { callers.keyOwner = { key in keys.principal(for: key) } }
    var settings = CollectionServer.Options(
      host: options.host, port: port, messageLimit: options.bodyLimit, drainTimeout: options.drainTimeout)
    if let tls = options.tls { settings.tls = (tls.certificates, tls.privateKey) }
    return try CollectionServer(store, callers: callers, settings, calls: calls, logger: logger)
  }

  /// Every route.
  func router() -> Router<ServerContext> {
    let router = Router(context: ServerContext.self, options: .autoGenerateHeadEndpoints)
    router.add(middleware: RequestMiddleware(log: state.requests))
    if !options.allowedOrigins.isEmpty {
      router.add(middleware: OriginMiddleware(allowed: options.allowedOrigins))
    }
    router.add(middleware: ErrorMiddleware(bodyLimit: options.bodyLimit))
    router.add(middleware: AccessMiddleware(state: state))
    let limit = options.bodyLimit
    StatusRoutes(state: state).add(to: router)
    ConsoleRoutes().add(to: router)
    ChatRoutes(state: state, bodyLimit: limit).add(to: router)
    CompletionRoutes(state: state, bodyLimit: limit).add(to: router)
    ResponseRoutes(state: state, bodyLimit: limit, store: store).add(to: router)
    EmbeddingRoutes(state: state, bodyLimit: limit).add(to: router)
    TokenizeRoutes(state: state, bodyLimit: limit).add(to: router)
    MessagesRoutes(state: state, bodyLimit: limit).add(to: router)
    OllamaRoutes(state: state, bodyLimit: limit).add(to: router)
    CollectionRoutes(state: state, store: collections, bodyLimit: limit).add(to: router)
    OpenAPIRoutes.add(
      to: router, version: StatusRoutes.version,
      models: .init(
        text: state.engines.map(\.name), embedding: state.encoders.map(\.name),
        contextLength: state.engines.map(\.contextLength).max() ?? 0))
    router.refuseOtherMethods()
    return router
  }

  /// Idle connections, and those that never finish their request's head, are closed after this time.
  private static let idleTimeout = TimeAmount.seconds(60)
  /// Bytes of all header fields of a request, and how many there may be.
  private static let headerLimit = (bytes: 32 << 10, count: 100)

  /// The HTTP service; `onListening` gets the port.
  func application(onListening: @escaping @Sendable (Int) async -> Void = { _ in }) throws -> some ApplicationProtocol {
    let http = HTTPServerBuilder.http1(
      configuration: .init(
        idleTimeout: Self.idleTimeout,
        httpDecoderConfiguration: .init(
          maxHeaderFieldSize: Self.headerLimit.bytes, maxHeaderListSize: Self.headerLimit.bytes,
          maxHeaderFieldCount: Self.headerLimit.count)))
    let address: BindAddress =
      options.unixSocket.map { .unixDomainSocket(path: $0) } ?? .hostname(options.host, port: options.port)
    return Application(
      router: router(),
      server: try options.tls.map { try .tls(http, tlsConfiguration: Self.configuration($0)) } ?? http,
      configuration: .init(address: address, serverName: "apus"),
      onServerRunning: { channel in await onListening(channel.localAddress?.port ?? 0) }, logger: logger)
  }

  private static func configuration(_ tls: ServerOptions.TLS) throws -> TLSConfiguration {
    try .makeServerConfiguration(
      certificateChain: NIOSSLCertificate.fromPEMFile(tls.certificates).map { .certificate($0) },
      privateKey: .privateKey(NIOSSLPrivateKey(file: tls.privateKey, format: .pem)))
  }

  /// Serves until SIGTERM or SIGINT, then lets running answers finish; a second signal ends it at once. Throws if the
  /// address cannot be bound.
  public func run(onListening: @escaping @Sendable (Int) async -> Void = { _ in }) async throws {
    // A socket file that an earlier server left is in the way of the new one.
    if let path = options.unixSocket { unlink(path) }
    // Services end in reverse order: first new work is refused, then connections close, then collections, then the
    // engines stop.
    let drain = DrainService(state: state, grpc: grpc, timeout: Mutex(options.drainTimeout))
    let upkeep: [any Service] = collections.map { [CollectionService(store: $0, logger: logger)] } ?? []
    let calls: [any Service] = grpc.map { [GRPCService(server: $0, logger: logger)] } ?? []
    let services: [any Service] =
      [EngineService(state: state)] + upkeep + calls + [
        try application(onListening: onListening), drain,
        SignalService(state: state, drain: drain, reload: options.reload, logger: logger),
      ]
    let group = ServiceGroup(
      configuration: .init(services: services, gracefulShutdownSignals: [.sigterm, .sigint], logger: logger))
    defer { spans?.flush() }
    try await group.run()
  }
}

/// Stops the engines' threads after the HTTP service has ended.
private struct EngineService: Service {
  let state: ServerState

  func run() async throws {
    try await gracefulShutdown()
    for engine in state.engines { engine.stop() }
    for encoder in state.encoders { encoder.stop() }
  }
}

/// Deletes what expires in collections and trains what has grown while the server runs, and closes them after the HTTP
/// service has ended.
private struct CollectionService: Service {
  let store: CollectionStore
  let logger: Logger

  func run() async throws {
    let (store, logger) = (store, logger)
    do {
      try await cancelWhenGracefulShutdown {
        try await store.maintainRegularly { name, done in
          switch done {
          case .deleted(let count):
            logger.info("expired points deleted", metadata: ["collection": "\(name)", "points": "\(count)"])
          case .trained(let need):
            logger.notice("collection trained", metadata: ["collection": "\(name)", "because": "\(need)"])
          case .failed(let error):
            logger.error("collection not maintained", metadata: ["collection": "\(name)", "error": "\(error)"])
          }
        }
      }
    } catch is CancellationError {}
    // Also when the server could not start. It waits for a disk.
    try await CollectionStore.blocking { try store.close() }
  }
}

/// Answers gRPC calls until the drain has begun and the last one has ended.
private struct GRPCService: Service {
  let server: CollectionServer
  let logger: Logger

  func run() async throws {
    try await server.run { logger.notice("listening for gRPC", metadata: ["port": "\($0)"]) }
    // A service that ends before its turn would end the others.
    try await gracefulShutdown()
  }
}

/// Refuses new work when the server shall leave, and waits for what is under way.
private final class DrainService: Service {
  let state: ServerState
  let grpc: CollectionServer?
  /// Seconds.
  let timeout: Mutex<Double>
  private static let pollInterval = Duration.milliseconds(20)

  init(state: ServerState, grpc: CollectionServer?, timeout: consuming Mutex<Double>) {
    self.state = state
    self.grpc = grpc
    self.timeout = timeout
  }

  func run() async throws {
    try await gracefulShutdown()
    state.drain()
    grpc?.beginGracefulShutdown()
    let start = ContinuousClock.now
    // A load balancer needs a moment to see that the server is not ready.
    repeat {
      try await Task.sleep(for: Self.pollInterval)
    } while !state.isIdle
      && start.duration(to: .now).inSeconds < timeout.withLock { $0 }
  }
}

/// Ends the process at once on a second SIGTERM or SIGINT, and reads keys and limits again on SIGHUP.
private struct SignalService: Service {
  let state: ServerState
  let drain: DrainService
  let reload: (@Sendable () throws -> ReloadedSettings)?
  let logger: Logger
  /// As shells report it.
  private static let signalStatus: Int32 = 128

  func run() async throws {
    await cancelWhenGracefulShutdown {
      for await _ in await UnixSignalsSequence(trapping: .sighup) {
        reloadKeys()
        reloadSettings()
      }
    }
    Task.detached {
      for await signal in await UnixSignalsSequence(trapping: .sigterm, .sigint) {
        exit(Self.signalStatus + (signal == .sigint ? SIGINT : SIGTERM))
      }
    }
  }

  private func reloadKeys() {
    guard let keys = state.keys else { return }
    do {
      try keys.reload()
      logger.notice("the API keys were read again")
    } catch {
      logger.error("the API keys stay as they were: \(error)")
    }
  }

  private func reloadSettings() {
    guard let reload else { return }
    do {
      let settings = try reload()
      drain.timeout.withLock { $0 = settings.drainTimeout }
      for engine in state.engines { engine.limitQueue(to: settings.maxQueue) }
      logger.notice(
        "the configuration was read again",
        metadata: ["changed": .array(settings.changed.map { .string($0) })])
      if !settings.unchangeable.isEmpty {
        logger.warning(
          "some changes need a restart", metadata: ["settings": .array(settings.unchangeable.map { .string($0) })])
      }
    } catch {
      logger.error("the settings stay as they were: \(error)")
    }
  }
}

/// Lets web pages of other origins use the API.
struct OriginMiddleware: RouterMiddleware {
  let allowed: [String]

  private static let methods = "GET, POST, PUT, DELETE, OPTIONS"
  private static let headers =
    "authorization, content-type, x-api-key, anthropic-version, x-request-id, traceparent, "
    + HTTPField.Name.tenant.canonicalName
  private static let exposedHeaders = "x-request-id"

  func handle(_ request: Request, context: ServerContext, next: (Request, ServerContext) async throws -> Response)
    async throws -> Response
  {
    guard let origin = request.headers[.origin] else { return try await next(request, context) }
    let isAllowed = allowed.contains("*") || allowed.contains(origin)
    var response =
      request.method == .options && isAllowed ? Response(status: .noContent) : try await next(request, context)
    if isAllowed {
      response.headers[.accessControlAllowOrigin] = origin
      response.headers[.vary] = "origin"
      response.headers[.accessControlAllowMethods] = Self.methods
      response.headers[.accessControlAllowHeaders] = Self.headers
      response.headers[.accessControlExposeHeaders] = Self.exposedHeaders
    }
    return response
  }
}
