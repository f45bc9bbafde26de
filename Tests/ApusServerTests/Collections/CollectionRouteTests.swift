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

/// Collections in a folder of their own behind real keys: those of a, b and the administrator.
private final class CollectionHost: Sendable {
  private let folder = NSTemporaryDirectory() + "apus-routes-" + UUID().uuidString
  private let router: RouterBox

  /// A router is used after it was made, by one test.
  private struct RouterBox: @unchecked Sendable { let router: Router<ServerContext> }

  /// Seconds that a test sets.
  let uptime = Shared(0.0)
  /// Of the embedding model.
  let weights = Shared("1111")

  /// A value that a test changes.
  final class Shared<Value: Sendable>: Sendable {
    private let value: Mutex<Value>
    init(_ value: Value) { self.value = Mutex(value) }
    func withLock<T: Sendable>(_ body: (inout sending Value) -> sending T) -> T { value.withLock(body) }
  }

  init(hasKeys: Bool = true) throws {
    try FileManager.default.createDirectory(atPath: folder, withIntermediateDirectories: true)
    try "a:key-of-a-0\nb:key-of-b-0\nadmin:key-of-admin\n".write(
      toFile: folder + "/keys", atomically: true, encoding: .utf8)
    let keys = hasKeys ? try KeyRing(file: folder + "/keys") : nil
    let router = Router(context: ServerContext.self)
    router.add(middleware: ErrorMiddleware(bodyLimit: 1 << 20))
    let state = ServerState(engines: [], encoders: [], keys: keys)
    router.add(middleware: AccessMiddleware(state: state))
    CollectionRoutes(
      state: state,
      store: try CollectionStore(
        folder + "/collections", embedder: Letters(weights: weights), uptime: { [uptime] in uptime.withLock { $0 } }),
      bodyLimit: 1 << 20
    ).add(to: router)
    self.router = RouterBox(router: router)
  }

  deinit { try? FileManager.default.removeItem(atPath: folder) }

  /// How often a, b, c and d are in a text.
  private struct Letters: TextEmbedder {
    let weights: Shared<String>
    func weightsDigest(of model: String) -> String? { weights.withLock { $0 } }
    func dim(of model: String) throws -> Int {
      guard model == "letters" else { throw CollectionError.unknownModel(model, known: ["letters"]) }
      return 4
    }
    func embed(_ texts: [String], model: String) -> [[Float]] {
      texts.map { text in "abcd".map { letter in Float(text.count { $0 == letter }) + 0.01 } }
    }
  }

  static let keys = ["a": "key-of-a-0", "b": "key-of-b-0", "admin": "key-of-admin"]

  func send(
    _ method: HTTPRequest.Method, _ path: String, _ body: String = "", as name: String? = "a", tenant: String? = nil
  ) async throws -> TestResponse {
    var headers: HTTPFields = [:]
    if let name { headers[.authorization] = "Bearer \(Self.keys[name]!)" }
    if let tenant { headers[.tenant] = tenant }
    let result = Mutex<TestResponse?>(nil)
    try await Application(router: router.router, logger: .quiet).test(.router) { [headers] client in
      let response = try await client.execute(
        uri: "/v1/collections" + path, method: method, headers: headers,
        body: body.isEmpty ? nil : ByteBuffer(string: body)
      ) { $0 }
      result.withLock { $0 = response }
    }
    return try #require(result.withLock { $0 })
  }

  /// The parts of an error that a client sees.
  func error(
    _ method: HTTPRequest.Method, _ path: String, _ body: String = "", as name: String? = "a", tenant: String? = nil
  ) async throws -> String {
    let response = try await send(method, path, body, as: name, tenant: tenant)
    guard response.status.code >= 400 else { return "\(response.status.code) \(response.text)" }
    let error = try JSONDecoder().decode(OpenAIError.Body.self, from: response.body).error
    return "\(response.status.code) \(error.code ?? "-") \(error.param ?? "-")"
  }

  func make() async throws {
    let made = try await send(
      .put, "/docs",
      #"{"dimension": 4, "metric": "l2", "embedding_model": "letters", "indexed_fields": ["lang"]}"#, as: "admin")
    #expect(made.status == .ok, "\(made.text)")
  }

  func put(_ points: String, as name: String = "a") async throws {
    let response = try await send(.put, "/docs/points", #"{"points": [\#(points)]}"#, as: name)
    #expect(response.status == .ok, "\(response.text)")
  }

  func ids(_ body: String, as name: String) async throws -> [String] {
    let response = try await send(.post, "/docs/search", body, as: name)
    return try response.json["data"]?.items?.map { text($0["id"]) } ?? [response.text]
  }
}

@Suite struct CollectionRouteTests {
  @Test func `a collection lives from its making to its deletion`() async throws {
    let host = try CollectionHost()
    #expect(try await host.error(.put, "/docs", #"{"dimension": 4}"#) == "403 forbidden -")
    try await host.make()
    try await host.make()
    #expect(try await host.error(.put, "/docs", #"{"dimension": 5}"#, as: "admin") == "409 already_exists -")
    #expect(
      try await host.send(.get, "/docs").text
        == #"{"object":"collection","name":"docs","dimension":4,"metric":"l2","quantizer":"rabitq","#
        + #""embedding_model":"letters","embedding_weights":"1111","indexed_fields":["lang"]}"#)
    #expect(try await host.send(.get, "").json["data"]?.items?.count == 1)
    #expect(try await host.error(.delete, "/docs") == "403 forbidden -")
    #expect(try await host.send(.delete, "/docs", as: "admin").status == .ok)
    #expect(try await host.error(.get, "/docs") == "404 not_found -")
    #expect(try await host.error(.get, "/..%2Fkeys") == "404 not_found -")
    #expect(try await host.error(.get, "", as: nil) == "401 invalid_api_key -")
  }

  @Test func `points go in and come out, by vector and by text`() async throws {
    let host = try CollectionHost()
    try await host.make()
    try await host.put(
      #"{"id": "x", "vector": [1, 0, 0, 0.1], "text": "heron", "payload": {"lang": "de", "n": [1.5, null]}}, "#
        + #"{"id": 7, "text": "bbbb", "share_with": ["b"]}"#)
    #expect(
      try await host.send(.get, "/docs/points/x").text
        == #"{"id":"x","owner":"a","text":"heron","payload":{"lang":"de","n":[1.5,null]},"expires_at":null,"#
        + #""vector":[1.0,0.0,0.0,0.1]}"#)
    #expect(try await host.ids(#"{"vector": [1, 0, 0, 0], "k": 1}"#, as: "a") == [#""x""#])
    #expect(try await host.ids(#"{"text": "bb", "k": 1}"#, as: "a") == ["7"])
    #expect(try await host.ids(#"{"text": "heron", "mode": "keyword"}"#, as: "a") == [#""x""#])
    #expect(try await host.ids(#"{"text": "heron", "mode": "keyword"}"#, as: "b") == [])
    #expect(try await host.ids(#"{"text": "bb", "mode": "hybrid"}"#, as: "b") == ["7"])
    let filter = #""filter": {"and": [{"field": "lang", "equals": "de"}, {"not": {"field": "lang", "in": ["en"]}}]}"#
    #expect(try await host.ids(#"{"text": "bb", \#(filter)}"#, as: "a") == [#""x""#])
    #expect(try await host.send(.post, "/docs/count", "{\(filter)}").text == #"{"object":"count","count":1}"#)
    let page = try await host.send(.post, "/docs/scroll", #"{"limit": 1}"#).json
    #expect(page["data"]?.items?.first?["vector"] == nil)
    let whole = try await host.send(.post, "/docs/scroll", #"{"limit": 1, "with_vectors": true}"#).json
    #expect(whole["data"]?.items?.first?["vector"]?.items?.isEmpty == false)
    let cursor = try #require(page["next_cursor"]?.string)
    #expect(
      try await host.send(.post, "/docs/scroll", #"{"cursor": "\#(cursor)"}"#).json["data"]?.items?.map {
        text($0["id"])
      } == ["7"])
    #expect(
      try await host.error(.post, "/docs/scroll", #"{"cursor": "\#(cursor)"}"#, as: "b") == "400 invalid_value cursor")
    #expect(try await host.send(.delete, "/docs/points/7").status == .ok)
    #expect(try await host.error(.get, "/docs/points/7?owner=a", as: "b") == "404 not_found -")
  }

  @Test func `only the owner grants, revokes and deletes; absent and foreign look alike`() async throws {
    let host = try CollectionHost()
    try await host.make()
    try await host.put(#"{"id": "x/y z", "vector": [1, 0, 0, 0]}"#)
    let point = "/docs/points/x%2Fy%20z"
    let grants = #"{"tenants": ["b"]}"#
    #expect(try await host.send(.post, point + "/grants", grants).text == #"{"object":"grants","granted":1}"#)
    #expect(try await host.ids(#"{"vector": [1, 0, 0, 0]}"#, as: "b") == [#""x/y z""#])
    for path in [point, point + "?owner=a", "/docs/points/absent", "/docs/points/absent?owner=a"] {
      let (base, query) = (path.prefix { $0 != "?" }, path.drop { $0 != "?" })
      #expect(try await host.error(.delete, path, as: "b") == "404 not_found -")
      #expect(try await host.error(.post, "\(base)/grants\(query)", grants, as: "b") == "404 not_found -")
      #expect(try await host.error(.delete, "\(base)/grants/b\(query)", as: "b") == "404 not_found -")
    }
    let foreign = try await host.send(.get, "/docs/points/absent?owner=a", as: "b")
    try await host.put(#"{"id": "absent", "vector": [1, 0, 0, 0]}"#)
    #expect(try await host.send(.get, "/docs/points/absent?owner=a", as: "b").text == foreign.text)
    #expect(try await host.send(.delete, point + "/grants/b").text == #"{"object":"grants","revoked":1}"#)
    #expect(try await host.ids(#"{"vector": [1, 0, 0, 0]}"#, as: "b") == [])
    #expect(try await host.error(.delete, point + "/grants/a") == "400 invalid_value tenants.0")
  }

  @Test func `a body or header that names another tenant is refused whole`() async throws {
    let host = try CollectionHost()
    try await host.make()
    let good = #"{"id": 1, "vector": [1, 0, 0, 0], "tenant": "a"}"#
    let bad = #"{"id": 2, "vector": [1, 0, 0, 0], "tenant": "b"}"#
    #expect(
      try await host.error(.put, "/docs/points", #"{"points": [\#(good), \#(bad)]}"#)
        == "403 other_tenant points.1.tenant")
    #expect(try await host.send(.post, "/docs/count").text == #"{"object":"count","count":0}"#)
    for path in ["/docs/points", "/docs/search", "/docs/scroll", "/docs/count"] {
      let method: HTTPRequest.Method = path == "/docs/points" ? .put : .post
      #expect(
        try await host.error(method, path, #"{"points": [], "vector": [1, 0, 0, 0], "tenant": "b"}"#)
          == "403 other_tenant tenant")
      #expect(try await host.error(method, path, "{}", tenant: "b") == "403 other_tenant x-apus-tenant")
    }
    try await host.put(good)
    // An administrator may act as anybody.
    let count = try await host.send(.post, "/docs/count", #"{"tenant": "a"}"#, as: "admin", tenant: "a")
    #expect(count.text == #"{"object":"count","count":1}"#)
  }

  @Test func `without keys a header names the tenant`() async throws {
    let host = try CollectionHost(hasKeys: false)
    let made = try await host.send(.put, "/docs", #"{"dimension": 2}"#, as: nil)
    #expect(made.status == .ok)
    for tenant in [nil, "c"] {
      let response = try await host.send(
        .put, "/docs/points", #"{"points": [{"id": 1, "vector": [1, 0]}]}"#, as: nil, tenant: tenant)
      #expect(response.status == .ok)
    }
    #expect(try await host.send(.get, "/docs/tenants/default", as: nil).json["owned"]?.number == 1)
    #expect(try await host.send(.get, "/docs/stats", as: nil, tenant: "c").json["tenant"]?["held"]?.number == 1)
  }

  @Test func `administration is the administrator's`() async throws {
    let host = try CollectionHost()
    try await host.make()
    try await host.put(#"{"id": 1, "vector": [1, 0, 0, 0]}"#)
    for (method, path) in [(.put, "/docs/tenants/a"), (.post, "/docs/train"), (.post, "/docs/snapshot")]
      as [(HTTPRequest.Method, String)]
    {
      #expect(try await host.error(method, path, "{}") == "403 forbidden -")
      #expect(try await host.send(method, path, "{}", as: "admin").status == .ok)
    }
    #expect(try await host.send(.get, "/docs/stats").json["collection"] == nil)
    #expect(try await host.send(.get, "/docs/stats", as: "admin").json["collection"]?["vectors"]?.number == 1)
    let changed = try await host.send(
      .put, "/docs/tenants/a", #"{"quota": 1, "groups": ["team"], "state": "inactive"}"#, as: "admin")
    #expect(
      changed.text.hasPrefix(
        #"{"tenant":"a","state":"inactive","quota":1,"byte_quota":null,"query_quota":null,"groups":["team"],"# + ""
          + #""owned":1,"held":1,"visible":1,"bytes":{"vectors":16,"payloads":8,"grants":8,"total":32},"# + ""
          + #""refused_queries":0,"searches":{"#))
    #expect(try await host.error(.post, "/docs/search", #"{"vector": [1, 0, 0, 0]}"#) == "403 tenant_inactive -")
    _ = try await host.send(.put, "/docs/tenants/a", #"{"state": "active"}"#, as: "admin")
    let more = #"{"points": [{"id": 2, "vector": [1, 0, 0, 0]}]}"#
    #expect(try await host.error(.put, "/docs/points", more) == "403 quota_exceeded points.0")
    _ = try await host.send(.put, "/docs/tenants/a", #"{"quota": null}"#, as: "admin")
    #expect(try await host.send(.put, "/docs/points", more).status == .ok)
    #expect(try await host.error(.get, "/docs/tenants/a", as: "b") == "404 not_found -")
    #expect(try await host.error(.get, "/docs/tenants/a/export", as: "b") == "404 not_found -")
    #expect(try await host.error(.delete, "/docs/tenants/a", as: "b") == "404 not_found -")
    let lines = try await host.send(.get, "/docs/tenants/a/export").text.split(separator: "\n")
    #expect(lines.count == 2 && lines[0] == #"{"id":1,"share_with":[],"vector":[1,0,0,0]}"#)
    #expect(try await host.send(.delete, "/docs/tenants/a?erase=true").text.contains(#""erased":true"#))
    #expect(try await host.error(.get, "/docs/tenants/a") == "404 not_found -")
  }

  @Test func `bytes and queries have quotas, and a refusal says when to come back`() async throws {
    let host = try CollectionHost()
    try await host.make()
    try await host.put(#"{"id": 1, "vector": [1, 0, 0, 0]}"#)
    let changed = try await host.send(
      .put, "/docs/tenants/a", #"{"byte_quota": 70, "query_quota": 2}"#, as: "admin")
    #expect(try changed.json["byte_quota"]?.number == 70 && changed.json["query_quota"]?.number == 2)
    let more = #"{"points": [{"id": 2, "vector": [1, 0, 0, 0], "text": "1234567"}]}"#
    #expect(try await host.error(.put, "/docs/points", more) == "403 quota_exceeded points")
    #expect(try await host.send(.put, "/docs/points", more.replacing("1234567", with: "123456")).status == .ok)
    let ask = (HTTPRequest.Method.post, #"{"vector": [1, 0, 0, 0]}"#)
    for path in ["/docs/search", "/docs/scroll"] {
      #expect(try await host.send(ask.0, path, path == "/docs/search" ? ask.1 : "{}").status == .ok)
    }
    host.uptime.withLock { $0 += 0.4 }
    for path in ["/docs/search", "/docs/scroll", "/docs/count"] {
      let refused = try await host.send(ask.0, path, path == "/docs/search" ? ask.1 : "{}")
      #expect(
        refused.status == .tooManyRequests && refused.headers[HTTPField.Name("retry-after")!] == "1", "\(refused.text)")
      #expect(refused.text.contains(#""code":"rate_limit_exceeded""#) && refused.text.contains("2.0 queries a second"))
    }
    #expect(try await host.send(.get, "/docs/tenants/a").json["refused_queries"]?.number == 3)
    host.uptime.withLock { $0 += 0.1 }
    #expect(try await host.send(ask.0, "/docs/search", ask.1).status == .ok)
    let lifted = try await host.send(
      .put, "/docs/tenants/a", #"{"byte_quota": null, "query_quota": null}"#, as: "admin")
    #expect(lifted.text.contains(#""byte_quota":null,"query_quota":null"#))
    for body in [
      #"{"byte_quota": -1}"#, #"{"query_quota": 0}"#, #"{"query_quota": "2"}"#, #"{"byte_quota": 1.5}"#,
    ] {
      #expect(
        try await host.error(.put, "/docs/tenants/a", body, as: "admin").hasPrefix("400 invalid_value"), "\(body)")
    }
  }

  @Test func `an administrator lists tenants a page at a time`() async throws {
    let host = try CollectionHost()
    try await host.make()
    try await host.put(#"{"id": 1, "vector": [1, 0, 0, 0], "share_with": ["b"]}"#)
    let first = try await host.send(.get, "/docs/tenants?limit=1", as: "admin").json
    #expect(first["data"]?.items?.map { $0["tenant"]?.string } == ["a"] && first["next_after"]?.string == "a")
    let last = try await host.send(.get, "/docs/tenants?after=a", as: "admin")
    let rest = try last.json
    #expect(rest["data"]?.items?.map { $0["tenant"]?.string } == ["b"] && last.text.contains(#""next_after":null"#))
    #expect(rest["data"]?.items?.first?["bytes"]?["total"]?.number == 8)
    #expect(try await host.error(.get, "/docs/tenants") == "403 forbidden -")
    for limit in ["0", "1001", "x", "-1"] {
      #expect(try await host.error(.get, "/docs/tenants?limit=\(limit)", as: "admin") == "400 invalid_value limit")
    }
    let bytes = try await host.send(.get, "/docs/stats", as: "admin").json["collection"]?["bytes"]
    #expect(bytes?["payloads"]?.number == 8 && (bytes?["total"]?.number ?? 0) > 8)
    #expect(try await host.send(.get, "/docs/stats").json["collection"] == nil)
  }

  @Test func `other weights of the model's name are a conflict`() async throws {
    let host = try CollectionHost()
    let made = try await host.send(.put, "/texts", #"{"embedding_model": "letters"}"#, as: "admin")
    #expect(try made.json["embedding_weights"]?.string == "1111")
    let points = #"{"points": [{"id": 1, "text": "ab"}]}"#
    #expect(try await host.send(.put, "/texts/points", points).status == .ok)
    host.weights.withLock { $0 = "2222" }
    let refused = "409 embedding_model_changed embedding_model"
    #expect(try await host.error(.put, "/texts/points", points) == refused)
    #expect(try await host.error(.post, "/texts/search", #"{"text": "ab"}"#) == refused)
    #expect(try await host.send(.post, "/texts/search", #"{"text": "ab", "mode": "keyword"}"#).status == .ok)
  }

  @Test func `wrong fields are named`() async throws {
    let host = try CollectionHost()
    try await host.make()
    for (path, body, expected) in [
      ("/new", "{}", "400 missing_required_parameter dimension"),
      ("/new", #"{"dimension": 0}"#, "400 invalid_value dimension"),
      ("/new", #"{"embedding_model": "sounds"}"#, "404 model_not_found embedding_model"),
      ("/new", #"{"dimension": 4, "embedding_model": "sounds"}"#, "404 model_not_found embedding_model"),
      ("/new", #"{"dimension": 5, "embedding_model": "letters"}"#, "400 invalid_value dimension"),
      ("/new", #"{"dimension": 4, "metric": "max"}"#, "400 invalid_value metric"),
      ("/new", #"{"dimension": 4, "indexed_fields": ["a b"]}"#, "400 invalid_value indexed_fields.0"),
      ("/.new", #"{"dimension": 4}"#, "400 invalid_value name"), ("/docs/points", "[]", "400 invalid_json -"),
      ("/docs/points", "{}", "400 missing_required_parameter points"),
      ("/docs/points", #"{"points": [{}]}"#, "400 missing_required_parameter points.0.id"),
      ("/docs/points", #"{"points": [{"id": true}]}"#, "400 invalid_value points.0.id"),
      ("/docs/points", #"{"points": [{"id": 1}]}"#, "400 invalid_value points.0"),
      ("/docs/points", #"{"points": [{"id": 1, "vector": [1]}]}"#, "400 invalid_value points.0.vector"),
      ("/docs/points", #"{"points": [{"id": 1, "vector": [1, 2, 3, "x"]}]}"#, "400 invalid_value points.0.vector.3"),
      ("/docs/points", #"{"points": [{"id": 1, "vector": [1, 2, 3, 1e99]}]}"#, "400 invalid_value points.0.vector.3"),
      ("/docs/points", #"{"points": [{"id": 1, "text": "a", "payload": 1}]}"#, "400 invalid_value points.0.payload"),
    ] {
      #expect(try await host.error(.put, path, body, as: "admin") == expected, "\(body)")
    }
    let vector = #""vector": [1, 0, 0, 0]"#
    for (path, body, expected) in [
      ("/docs/search", "{}", "400 missing_required_parameter vector"),
      ("/docs/search", #"{"vector": [1, 0]}"#, "400 invalid_value vector"),
      ("/docs/search", #"{"vector": [1, 0, 0, 0], "k": 0}"#, "400 invalid_value k"),
      ("/docs/search", #"{"vector": [1, 0, 0, 0], "mode": "x"}"#, "400 invalid_value mode"),
      ("/docs/search", #"{\#(vector), "filter": {"field": "no", "equals": 1}}"#, "400 invalid_value filter"),
      ("/docs/search", #"{\#(vector), "filter": {"and": [{"field": "lang"}]}}"#, "400 invalid_value filter.and.0"),
      ("/docs/search", #"{"vector": [1, 0, 0, 0], "access": {"and": [{}]}}"#, "400 invalid_value access.and.0"),
      ("/docs/scroll", #"{"limit": 0}"#, "400 invalid_value limit"),
      ("/docs/scroll", #"{"cursor": "x"}"#, "400 invalid_value cursor"),
      ("/docs/points/1/grants", "{}", "400 missing_required_parameter tenants"),
    ] {
      #expect(try await host.error(.post, path, body) == expected, "\(body)")
    }
  }
}
