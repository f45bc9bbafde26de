import ApusCollections
import ApusText
import Foundation
import HTTPTypes
import Hummingbird
import HummingbirdTesting
import Logging
import Synchronization
import Testing

@testable import ApusServer

/// Collections as the whole server has them.
@Suite struct CollectionServerTests {
  /// A folder that is removed with the test.
  private final class Folder: Sendable {
    let path = NSTemporaryDirectory() + "apus-server-collections-" + UUID().uuidString
    deinit { try? FileManager.default.removeItem(atPath: path) }
  }

  private let folder = Folder()

  private func server(_ change: (inout ServerOptions) -> Void = { _ in }) throws -> Server {
    var options = ServerOptions(port: 0, collections: folder.path)
    change(&options)
    return try Server([FakeEngine()], encoders: [FakeEncoder()], options, logger: .quiet)
  }

  private func send(
    _ server: Server, _ method: HTTPRequest.Method, _ path: String, _ body: String = "", tenant: String? = nil,
    headers: HTTPFields = [:]
  ) async throws -> TestResponse {
    var headers = headers
    if let tenant { headers[.tenant] = tenant }
    return try await server.application().test(.router) { [headers] client in
      try await client.execute(
        uri: path, method: method, headers: headers, body: body.isEmpty ? nil : ByteBuffer(string: body)
      ) { $0 }
    }
  }

  private static let texts = #"{"points": [{"id": 1, "text": "aaab"}, {"id": 2, "text": "heron c"}]}"#

  @Test func `text goes in and is found by the encoder that runs, by its tenants only`() async throws {
    let server = try server()
    let docs = "/v1/collections/docs"
    let made = try await send(server, .put, docs, #"{"embedding_model": "encoder"}"#)
    #expect(try made.json["dimension"]?.number == 3, "\(made.text)")
    #expect(try await send(server, .put, docs + "/points", Self.texts, tenant: "anna").status == .ok)
    for (query, ids) in [
      (#"{"text": "aaa", "k": 1}"#, ["1"]), (#"{"text": "ccc", "k": 1}"#, ["2"]),
      (#"{"text": "heron", "mode": "keyword"}"#, ["2"]), (#"{"text": "heron c", "mode": "hybrid", "k": 1}"#, ["2"]),
    ] {
      let anna = try await send(server, .post, docs + "/search", query, tenant: "anna")
      #expect(try anna.json["data"]?.items?.map { text($0["id"]) } == ids, "\(query): \(anna.text)")
      #expect(try await send(server, .post, docs + "/search", query, tenant: "bert").json["data"]?.items?.count == 0)
    }
    let unknown = try await send(server, .put, "/v1/collections/new", #"{"embedding_model": "other"}"#)
    #expect(unknown.status == .notFound && unknown.text.contains("expected one of encoder"), "\(unknown.text)")
    #expect(try await send(server, .patch, docs).headers[.allow] == "DELETE, GET, HEAD, PUT")
  }

  @Test func `a server without a folder says how to get collections, on every route`() async throws {
    let server = try server { $0.collections = nil }
    let routes = server.router().routes.filter { $0.path.description.hasPrefix("/v1/collections") }
    var tried = 0
    for route in routes where !["CONNECT", "TRACE", "OPTIONS", "PATCH"].contains(route.method.rawValue) {
      let path = route.path.description.replacing(/:\w+/, with: "x")
      let response = try await send(server, route.method, path, #"{"dimension": 2}"#)
      if response.status == .methodNotAllowed || route.method == .head { continue }
      tried += 1
      #expect(response.status == .notFound, "\(route.method) \(path)")
      let error = try JSONDecoder().decode(OpenAIError.Body.self, from: response.body).error
      #expect(error.code == "collections_disabled" && error.message.contains("--collections FOLDER"))
    }
    #expect(tried == 20)
  }

  @Test func `every collection route is described, and no other`() throws {
    let document = APIDocument(version: "1")
    let described = document.operations.filter { $0.dialect == .collections }.map {
      APIDocument.shape($0.method.rawValue, $0.path)
    }
    let router = Router(context: ServerContext.self)
    CollectionRoutes(state: ServerState(engines: [], encoders: [], keys: nil), store: nil, bodyLimit: 1).add(to: router)
    #expect(Set(described) == Set(router.routes.map { APIDocument.shape($0.method.rawValue, $0.path.description) }))
    #expect(described.count == 20)
  }

  @Test func `web pages may store points and name a tenant`() async throws {
    let server = try server { $0.allowedOrigins = ["https://app.example"] }
    let response = try await send(
      server, .options, "/v1/collections/docs/points",
      headers: [.origin: "https://app.example", .accessControlRequestMethod: "PUT"])
    #expect(response.status == .noContent)
    let methods = response.headers[.accessControlAllowMethods]?.split(separator: ", ") ?? []
    let headers = response.headers[.accessControlAllowHeaders]?.split(separator: ", ") ?? []
    #expect(methods.contains("PUT") && headers.contains("x-apus-tenant") && headers.contains("authorization"))
    let foreign = try await send(
      server, .options, "/v1/collections/docs/points", headers: [.origin: "https://other.example"])
    #expect(foreign.headers[.accessControlAllowMethods] == nil)
  }

  @Test func `a key without a name keeps what is its own when lines come and go`() async throws {
    let keys = folder.path + ".keys"
    defer { try? FileManager.default.removeItem(atPath: keys) }
    try "first-key-1\nsecond-key-1\nadmin:admin-key-1\n".write(toFile: keys, atomically: true, encoding: .utf8)
    let ring = try KeyRing(file: keys)
    let server = try server { $0.keys = ring }
    func ask(_ method: HTTPRequest.Method, _ path: String, _ body: String, _ key: String) async throws -> TestResponse {
      try await send(
        server, method, "/v1/collections/docs" + path, body, headers: [.authorization: "Bearer \(key)"])
    }
    #expect(try await ask(.put, "", #"{"embedding_model": "encoder"}"#, "admin-key-1").status == .ok)
    #expect(try await ask(.put, "", #"{"embedding_model": "encoder"}"#, "first-key-1").status == .forbidden)
    #expect(try await ask(.put, "/points", Self.texts, "first-key-1").status == .ok)
    #expect(try await ask(.post, "/count", "{}", "second-key-1").json["count"]?.number == 0)
    // The second key moves to the first one's line.
    try "second-key-1\nadmin:admin-key-1\n".write(toFile: keys, atomically: true, encoding: .utf8)
    try ring.reload()
    #expect(try await ask(.post, "/count", "{}", "second-key-1").json["count"]?.number == 0)
    #expect(try await ask(.post, "/count", "{}", "first-key-1").status == .unauthorized)
  }

  @Test func `the keys' roles say who is an administrator`() async throws {
    let keys = folder.path + ".keys"
    defer { try? FileManager.default.removeItem(atPath: keys) }
    try "ops:ops-key-1\nadmin:admin-key-1\n".write(toFile: keys, atomically: true, encoding: .utf8)
    let ring = try KeyRing(file: keys)
    let server = try server {
      $0.keys = ring
      $0.roles = Roles(["ops": .admin, "admin": .tenant])
    }
    let body = #"{"embedding_model": "encoder"}"#
    func make(_ key: String) async throws -> HTTPResponse.Status {
      try await send(server, .put, "/v1/collections/docs", body, headers: [.authorization: "Bearer \(key)"]).status
    }
    #expect(try await make("admin-key-1") == .forbidden)
    #expect(try await make("ops-key-1") == .ok)
  }

  @Test func `requests to collections are recorded with their tenant, and counted by route`() async throws {
    let lines = WrittenLines()
    let server = try Server(
      [FakeEngine()], encoders: [FakeEncoder()], ServerOptions(port: 0, collections: folder.path),
      logger: lines.logger(.json))
    let docs = "/v1/collections/docs"
    _ = try await send(server, .put, docs, #"{"embedding_model": "encoder"}"#)
    _ = try await send(server, .put, docs + "/points", Self.texts, tenant: "anna")
    _ = try await send(server, .get, docs + "/points/none", tenant: "bert")
    let requests = try await lines.requests(3)
    #expect(requests.map { $0["tenant"]?.string } == ["default", "anna", "bert"])
    #expect(requests.map { $0["principal"]?.string } == Array(repeating: "anonymous", count: 3))
    let metrics = try await send(server, .get, "/metrics").text
    let counted =
      #"apus_requests_total{interface="http",method="GET",route="/v1/collections/{collection}/points/{point}","# + ""
      + #"status="404"} 1.0"#
    #expect(metrics.contains(counted), "\(metrics)")
    #expect(!metrics.contains("anna") && !metrics.contains("none"))
  }

  @Test func `a server that ends closes its collections`() async throws {
    let server = try server()
    let (ports, port) = AsyncStream.makeStream(of: Int.self)
    let running = Task { try await server.run { port.yield($0) } }
    var iterator = ports.makeAsyncIterator()
    let listening = try #require(await iterator.next())
    func ask(_ request: String, _ body: String) async throws -> String {
      let socket = try ReadingSocket(port: listening)
      defer { socket.close() }
      try socket.send("\(request) HTTP/1.1\r\nhost: x\r\ncontent-length: \(body.utf8.count)\r\n\r\n\(body)")
      return try await socket.read(until: "\r\n")
    }
    #expect(try await ask("PUT /v1/collections/docs", #"{"embedding_model": "encoder"}"#) == "HTTP/1.1 200 OK\r\n")
    #expect(try await ask("PUT /v1/collections/docs/points", Self.texts) == "HTTP/1.1 200 OK\r\n")
    // It has the folder for itself.
    #expect(throws: (any Error).self) { try VectorCollection.open(folder.path + "/docs") }
    running.cancel()
    _ = await running.result
    let docs = try VectorCollection.open(folder.path + "/docs")
    #expect(try docs.count(as: Principal(tenant: Principal.defaultTenant)) == 2)
    try docs.close()
  }
}
