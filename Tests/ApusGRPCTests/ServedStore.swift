import ApusCollections
import Foundation
import GRPCCore
import GRPCNIOTransportHTTP2Posix
import GRPCProtobuf
import Logging
import SwiftProtobuf
import Synchronization
import Testing

@testable import ApusGRPC

typealias Method = WireCollections.Method

/// A store behind a real server on a free port of loopback, with keys of alice, bob and an administrator, and a client
/// that talks to it over HTTP/2.
struct ServedStore: Sendable {
  static let keys = ["alice": "key-of-alice", "bob": "key-of-bob", "admin": "key-of-admin"]

  let store: CollectionStore
  let server: CollectionServer
  let port: Int
  let client: GRPCClient<HTTP2ClientTransport.Posix>

  /// Runs a test; the server leaves when it has ended.
  static func with(
    hasKeys: Bool = true, messageLimit: Int = 16 << 20, drainTimeout: Double = 30, host: String = "127.0.0.1",
    hasTLS: Bool = false, embedder: (any TextEmbedder)? = nil, quotas: TenantQuotas = TenantQuotas(),
    uptime: @escaping @Sendable () -> Double = VectorCollection.systemUptime, roles: Roles = Roles(),
    calls: (any CallLog)? = nil, _ body: @Sendable (ServedStore) async throws -> Void
  ) async throws {
    let folder = NSTemporaryDirectory() + "apus-grpc-" + UUID().uuidString
    defer { try? FileManager.default.removeItem(atPath: folder) }
    let store = try CollectionStore(folder, embedder: embedder, quotas: quotas, uptime: uptime)
    let owners = Dictionary(uniqueKeysWithValues: keys.map { ($1, $0) })
    let callers = hasKeys ? CallerPolicy(keyOwner: { owners[String($0)] }, roles: roles) : CallerPolicy()
    var logger = Logger(label: "test")
    logger.logLevel = .critical
    let server = try CollectionServer(
      store, callers: callers,
      .init(
        host: host, port: 0, tls: hasTLS ? (tlsFile("certificate"), tlsFile("key")) : nil, messageLimit: messageLimit,
        drainTimeout: drainTimeout), calls: calls, logger: logger)
    let (ports, listening) = AsyncStream.makeStream(of: Int.self)
    try await withThrowingTaskGroup(of: Void.self) { group in
      group.addTask {
        defer { listening.finish() }
        try await server.run { port in listening.yield(port) }
      }
      var port: Int?
      for await first in ports {
        port = first
        break
      }
      if let port {
        let client = try transport(port, host: host, hasTLS: hasTLS)
        try await withGRPCClient(transport: client) { client in
          try await body(ServedStore(store: store, server: server, port: port, client: client))
        }
      }
      server.beginGracefulShutdown()
      try await group.waitForAll()
    }
    try store.close()
  }

  /// A self-signed certificate for localhost and its addresses, and its key.
  private static func tlsFile(_ name: String) -> String {
    URL(filePath: #filePath).deletingLastPathComponent().deletingLastPathComponent().path
      + "/Fixtures/tls/\(name).pem"
  }

  private static func transport(
    _ port: Int, host: String = "127.0.0.1", hasTLS: Bool = false
  ) throws -> HTTP2ClientTransport.Posix {
    var security = HTTP2ClientTransport.Posix.TransportSecurity.plaintext
    if hasTLS {
      security = .tls { $0.trustRoots = .certificates([.file(path: tlsFile("certificate"), format: .pem)]) }
    }
    let config = HTTP2ClientTransport.Posix.Config.defaults { $0.http2.authority = "localhost" }
    return host.contains(":")
      ? try .init(target: .ipv6(address: host, port: port), transportSecurity: security, config: config)
      : try .init(target: .ipv4(address: host, port: port), transportSecurity: security, config: config)
  }

  /// The same server, over a connection of its own.
  func withNewConnection(_ body: (ServedStore) async throws -> Void) async throws {
    try await withGRPCClient(transport: try Self.transport(port)) { client in
      try await body(ServedStore(store: store, server: server, port: port, client: client))
    }
  }

  static func metadata(_ caller: String?, tenant: String? = nil) -> Metadata {
    var metadata: Metadata = [:]
    if let caller { metadata.addString("Bearer \(keys[caller] ?? caller)", forKey: "authorization") }
    if let tenant { metadata.addString(tenant, forKey: "x-apus-tenant") }
    return metadata
  }

  /// One request, one answer; `caller` is a name of `keys` or else a key.
  @discardableResult
  func call<Request: Message, Answer: Message>(
    _ method: MethodDescriptor, _ request: Request, as caller: String? = "alice", tenant: String? = nil,
    timeout: Duration? = nil
  ) async throws -> Answer {
    var options = CallOptions.defaults
    options.timeout = timeout
    return try await client.unary(
      request: ClientRequest(message: request, metadata: Self.metadata(caller, tenant: tenant)), descriptor: method,
      serializer: ProtobufSerializer<Request>(), deserializer: ProtobufDeserializer<Answer>(), options: options
    ) { try $0.message }
  }

  @discardableResult
  func create(
    _ name: String = "docs", dim: Int = 4, metric: WireMetric = .l2, model: String? = nil, fields: [String] = [],
    as caller: String = "admin"
  ) async throws -> WireCollection {
    try await call(
      Method.CreateCollection.descriptor,
      WireCollection.with {
        $0.name = name
        $0.dimension = UInt32(dim)
        $0.metric = metric
        if let model { $0.embeddingModel = model }
        $0.indexedFields = fields
      }, as: caller)
  }

  @discardableResult
  func upsert(
    _ points: [WirePoint], in collection: String = "docs", as caller: String = "alice"
  ) async throws -> WireUpsertPointsResponse {
    try await call(
      Method.UpsertPoints.descriptor,
      WireUpsertPointsRequest.with {
        $0.collection = collection
        $0.points = points
      }, as: caller)
  }

  func get(
    _ id: WirePointID, of owner: String? = nil, in collection: String = "docs", as caller: String = "alice"
  ) async throws -> WireVisiblePoint {
    try await call(
      Method.GetPoint.descriptor,
      WireGetPointRequest.with {
        $0.collection = collection
        $0.id = id
        if let owner { $0.owner = owner }
      }, as: caller)
  }

  func search(
    _ query: WireQuery, in collection: String = "docs", as caller: String = "alice"
  ) async throws -> [WireHit] {
    let answer: WireSearchResponse = try await call(
      Method.Search.descriptor,
      WireSearchRequest.with {
        $0.collection = collection
        $0.query = query
      }, as: caller)
    return answer.hits
  }

  func grant(_ ids: [WirePointID], to tenants: [String], as caller: String = "alice") async throws -> Int {
    let answer: WireGrantResponse = try await call(
      Method.Grant.descriptor,
      WireGrantRequest.with {
        $0.collection = "docs"
        $0.ids = ids
        $0.tenants = tenants
      }, as: caller)
    return Int(answer.granted)
  }

  func revoke(_ ids: [WirePointID], from tenants: [String], as caller: String = "alice") async throws -> Int {
    let answer: WireRevokeResponse = try await call(
      Method.Revoke.descriptor,
      WireRevokeRequest.with {
        $0.collection = "docs"
        $0.ids = ids
        $0.tenants = tenants
      }, as: caller)
    return Int(answer.revoked)
  }
}

extension WirePointID: ExpressibleByIntegerLiteral, ExpressibleByStringLiteral {
  public init(integerLiteral value: Int64) { self = .with { $0.integer = value } }
  public init(stringLiteral value: String) { self = .with { $0.text = value } }
}

extension WirePoint {
  init(
    _ id: WirePointID, _ vector: [Float] = [], text: String? = nil, payload: String? = nil, shareWith: [String] = []
  ) {
    self.init()
    self.id = id
    self.vector = vector
    if let text { self.text = text }
    if let payload { self.payload = payload }
    self.shareWith = shareWith
  }
}

extension WireQuery {
  init(_ vector: [Float], k: Int = 10) {
    self.init()
    self.vector = vector
    self.k = UInt32(k)
  }
}

/// What a program sees of an error.
struct Fault: Equatable, CustomStringConvertible {
  var code: RPCError.Code
  var reason: String?
  var field: String?
  var message: String
  var retryAfter: Duration?

  var description: String { "\(code) \(reason ?? "-") \(field ?? "-"): \(message)" }
}

/// The error that a call ends with.
func fault(
  _ body: () async throws -> some Any, sourceLocation: SourceLocation = #_sourceLocation
) async throws -> Fault {
  do {
    let answer = try await body()
    Issue.record("answered with \(answer)", sourceLocation: sourceLocation)
    return Fault(code: .unknown, message: "")
  } catch let error as RPCError {
    let details = try error.unpackGoogleRPCStatus()?.details ?? []
    return Fault(
      code: error.code, reason: details.compactMap(\.errorInfo).first?.reason,
      field: details.compactMap(\.badRequest).first?.violations.first?.field, message: error.message,
      retryAfter: details.compactMap(\.retryInfo).first?.delay)
  }
}

/// Numbers of one call after the other, the same for a seed.
struct SeededRandom: RandomNumberGenerator {
  var state: UInt64

  mutating func next() -> UInt64 {
    state = state &* 6_364_136_223_846_793_005 &+ 1_442_695_040_888_963_407
    return (state ^ (state >> 33)) &* 0x9E37_79B9_7F4A_7C15
  }
}

/// How often a, b, c and d are in a text.
struct Letters: TextEmbedder {
  func dim(of model: String) throws -> Int {
    guard model == "letters" else { throw CollectionError.unknownModel(model, known: ["letters"]) }
    return 4
  }

  func embed(_ texts: [String], model: String) async throws -> [[Float]] {
    texts.map { text in "abcd".map { letter in Float(text.count { $0 == letter }) + 0.01 } }
  }
}
