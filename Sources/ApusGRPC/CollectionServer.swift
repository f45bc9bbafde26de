import ApusCollections
import GRPCCore
import GRPCNIOTransportHTTP2Posix
import Logging
import NIOCore

/// Serves a store of collections over gRPC: `apus.vectors.v1.Collections` with the rights of the REST interface.
///
/// ```swift
/// let server = try CollectionServer(store, callers: CallerPolicy { keys.principal(for: $0) }, .init(port: 50051))
/// try await server.run()
/// ```
public final class CollectionServer: Sendable {
  public struct Options: Sendable {
    public var host: String
    /// 0 lets the system choose.
    public var port: Int
    /// Files of a certificate chain and its private key, PEM; nil speaks HTTP/2 in plain text.
    public var tls: (certificates: String, privateKey: String)?
    /// A call with a message beyond this many bytes ends with RESOURCE_EXHAUSTED.
    public var messageLimit: Int
    /// How long calls under way may take once the server shall leave, in seconds.
    public var drainTimeout: Double

    public init(
      host: String = "127.0.0.1", port: Int = 50051, tls: (certificates: String, privateKey: String)? = nil,
      messageLimit: Int = 16 << 20, drainTimeout: Double = 30
    ) {
      self.host = host
      self.port = port
      self.tls = tls
      self.messageLimit = messageLimit
      self.drainTimeout = drainTimeout
    }
  }

  private let server: GRPCServer<RecordedTransport>
  private let drainTimeout: Duration
  private let departure = Departure()
  /// Ends when the server shall leave.
  private let staying: AsyncStream<Never>
  private let leave: AsyncStream<Never>.Continuation

  /// `calls` keeps a record of each. Throws if the host has no address.
  public init(
    _ store: CollectionStore, callers: CallerPolicy = CallerPolicy(), _ options: Options = Options(),
    calls: (any CallLog)? = nil, logger: Logger = Logger(label: "apus")
  ) throws {
    drainTimeout = .seconds(options.drainTimeout)
    (staying, leave) = AsyncStream.makeStream(of: Never.self)
    let mark = OversizeMark()
    let http = HTTP2ServerTransport.Posix(
      address: try Self.address(options.host, options.port),
      transportSecurity: options.tls.map {
        .tls(
          certificateChain: [.file(path: $0.certificates, format: .pem)],
          privateKey: .file(path: $0.privateKey, format: .pem))
      } ?? .plaintext,
      config: .defaults { Self.limit(&$0, options, mark) })
    // Whoever asks for the server's health needs no key.
    server = GRPCServer(
      transport: RecordedTransport(
        base: http, log: calls ?? NoCallLog(), mark: mark, messageLimit: options.messageLimit,
        departure: departure),
      services: [CollectionService(store: store, departure: departure), HealthService(departure: departure)],
      interceptorPipeline: [
        .apply(AccessInterceptor(policy: callers, logger: logger), to: .services([WireCollections.descriptor]))
      ])
  }

  private static func address(_ host: String, _ port: Int) throws -> GRPCNIOTransportCore.SocketAddress {
    let resolved = try NIOCore.SocketAddress.makeAddressResolvingHost(host, port: port)
    let text = resolved.ipAddress ?? host
    if case .v6 = resolved { return .ipv6(host: text, port: port) }
    return .ipv4(host: text, port: port)
  }

  /// Calls at once on one connection: each may hold a message of the greatest size.
  private static let callsPerConnection = 128
  /// Connections without a call are closed after this time; clients open them again by themselves.
  private static let idleTime = Duration.seconds(300)
  /// Silent clients are asked after this time whether they are still there.
  private static let keepaliveTime = Duration.seconds(60)
  /// Bytes under way: 64 KiB, the usual size, make bulk uploads wait for the other end of a long line.
  private static let window = 1 << 20

  private static func limit(
    _ config: inout HTTP2ServerTransport.Posix.Config, _ options: Options, _ mark: OversizeMark
  ) {
    // The transport's own limit would reset the stream.
    config.rpc.maxRequestPayloadSize = max(options.messageLimit, OversizeMark.bytes)
    config.channelDebuggingCallbacks.onAcceptHTTP2Stream = { stream in
      stream.eventLoop.makeCompletedFuture {
        try stream.pipeline.syncOperations.addHandler(
          MessageLimiter(limit: options.messageLimit, mark: mark), position: .first)
      }
    }
    config.http2.maxConcurrentStreams = callsPerConnection
    config.http2.targetWindowSize = window
    config.connection.maxIdleTime = idleTime
    config.connection.keepalive.time = keepaliveTime
  }

  /// Serves until `beginGracefulShutdown` or until the task is cancelled; `onListening` gets the port. Throws if the address
  /// cannot be bound.
  public func run(onListening: @escaping @Sendable (Int) async -> Void = { _ in }) async throws {
    let (server, staying, drainTimeout) = (server, staying, drainTimeout)
    try await withThrowingTaskGroup(of: Void.self) { group in
      group.addTask { try await server.serve() }
      group.addTask {
        // Without an address the error of `serve` says why.
        if let address = try? await server.transport.base.listeningAddress {
          await onListening(address.ipv4?.port ?? address.ipv6?.port ?? 0)
        }
        for await _ in staying {}
        try? await Task.sleep(for: drainTimeout)
      }
      // Served to the end, or out of time: the calls that are left are cancelled.
      try await group.next()
      group.cancelAll()
      try await group.waitForAll()
    }
  }

  /// Refuses new calls; `run` returns when those under way have ended, or when their time is over.
  public func beginGracefulShutdown() {
    departure.begin()
    leave.finish()
    server.beginGracefulShutdown()
  }
}
