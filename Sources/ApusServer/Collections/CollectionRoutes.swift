import ApusCollections
import ApusText
import ApusVectors
import Foundation
import HTTPTypes
import Hummingbird

/// The handlers of `/v1/collections`. Who acts comes from the API key, never from a body.
struct CollectionRoutes: Sendable {
  let state: ServerState
  /// Nil keeps no collections: every route says so.
  let store: CollectionStore?
  let bodyLimit: Int

  func add(to router: some RouterMethods<ServerContext>) {
    let root = router.group("v1/collections")
    root.get { try await answer($0, $1, list) }
    root.put(":collection") { try await answer($0, $1, create) }
    root.get(":collection") { try await answer($0, $1, describe) }
    root.delete(":collection") { try await answer($0, $1, delete) }
    let collection = root.group(":collection")
    collection.put("points") { try await answer($0, $1, upsert) }
    collection.get("points/:point") { try await answer($0, $1, getPoint) }
    collection.delete("points/:point") { try await answer($0, $1, deletePoint) }
    collection.post("points/:point/grants") { try await answer($0, $1, grant) }
    collection.delete("points/:point/grants/:tenant") { try await answer($0, $1, revoke) }
    collection.post("search") { try await answer($0, $1, search) }
    collection.post("scroll") { try await answer($0, $1, scroll) }
    collection.post("count") { try await answer($0, $1, count) }
    collection.get("stats") { try await answer($0, $1, stats) }
    collection.post("train") { try await answer($0, $1, train) }
    collection.post("snapshot") { try await answer($0, $1, snapshot) }
    collection.get("tenants") { try await answer($0, $1, tenants) }
    collection.get("tenants/:tenant") { try await answer($0, $1, tenant) }
    collection.put("tenants/:tenant") { try await answer($0, $1, update) }
    collection.delete("tenants/:tenant") { try await answer($0, $1, drop) }
    collection.get("tenants/:tenant/export") { try await answer($0, $1, export) }
  }

  // MARK: calls

  /// A request with who makes it.
  private struct Call: Sendable {
    let request: Request
    let context: ServerContext
    let principal: Principal
    let store: CollectionStore
    let preparation: PreparationPool

    /// A part of the path, decoded.
    func part(_ name: String) throws -> String {
      guard let text = context.parameters.get(name)?.removingPercentEncoding else {
        throw OpenAIError.invalid(name, seen: "no text", expected: "UTF-8 in percent encoding")
      }
      return text
    }

    func query(_ name: String) -> String? { request.uri.queryParameters.get(name) }

    /// A whole number in the path is an integer key, unless `?key=string` says otherwise.
    func key() throws -> PointKey {
      let text = try part("point")
      if query("key") != "string", let number = Int64(text), "\(number)" == text { return .integer(number) }
      return .text(text)
    }

    /// What `read` takes from the body; one that is empty counts as an object without fields.
    func body<T: Sendable>(upTo limit: Int, _ read: @Sendable (RequestReader) throws -> T) async throws -> T {
      let bytes = try await context.body(of: request, upTo: limit)
      return try await preparation.run {
        let reader =
          bytes.readableBytes == 0
          ? try RequestReader([:], path: "") : try RequestReader(body: Array(bytes.readableBytesView))
        try reader.checkTenant(principal)
        return try read(reader)
      }
    }
  }

  private func answer(
    _ request: Request, _ context: ServerContext, _ handler: (Call) async throws -> Response
  ) async throws -> Response {
    do {
      let principal = try principal(of: request, context)
      try principal.validate()
      RequestRecorder.current?.update { $0.tenant = principal.tenant }
      guard let store else { throw OpenAIError.noCollections }
      return try await handler(
        Call(
          request: request, context: context, principal: principal, store: store, preparation: state.preparation))
    } catch let error as CollectionError {
      throw OpenAIError(error)
    } catch let error as VectorError { throw OpenAIError(error) }
  }

  /// Without keys everybody may do everything, and a header says as which tenant.
  private func principal(of request: Request, _ context: ServerContext) throws -> Principal {
    guard
      let principal = state.roles.principal(
        keyOwner: state.keys == nil ? nil : context.principal, naming: request.headers[.tenant])
    else { throw OpenAIError.otherTenant(HTTPField.Name.tenant.rawName) }
    return principal
  }

  private func blocking<T: Sendable>(_ body: @escaping @Sendable () throws -> T) async throws -> T {
    try await CollectionStore.blocking(body)
  }

  private func collection(_ call: Call) async throws -> VectorCollection {
    let name = try call.part("collection")
    return try await blocking { try call.store.collection(name) }
  }

  // MARK: collections

  private func list(_ call: Call) async throws -> Response {
    let collections = try await blocking { try call.store.names().map { try call.store.collection($0) } }
    return .json(["object": "list", "data": .list(collections.map(CollectionJSON.description))])
  }

  /// Makes a collection; one that is there with the same configuration is left as it is.
  private func create(_ call: Call) async throws -> Response {
    let name = try call.part("collection")
    let config = try await call.body(upTo: bodyLimit) {
      try $0.collectionConfig(named: name, embedder: call.store.embedder)
    }
    let made = try await blocking { try call.store.ensure(config, as: call.principal) }
    return .json(CollectionJSON.description(made))
  }

  private func describe(_ call: Call) async throws -> Response {
    .json(CollectionJSON.description(try await collection(call)))
  }

  private func delete(_ call: Call) async throws -> Response {
    let name = try call.part("collection")
    try await blocking { try call.store.delete(name, as: call.principal) }
    return .json(["object": "collection.deleted", "name": .string(name), "deleted": true])
  }

  // MARK: points

  private func upsert(_ call: Call) async throws -> Response {
    let collection = try await collection(call)
    let points = try await call.body(upTo: bodyLimit) { try $0.points(call.principal) }
    // A client that hangs up does not keep the encoder busy.
    let whole = try await call.context.client().whileConnected { try await collection.embedding(points) }
    try await blocking { try collection.upsert(whole, as: call.principal) }
    return .json(["object": "points.upserted", "count": .integer(points.count)])
  }

  private func getPoint(_ call: Call) async throws -> Response {
    let (collection, key, owner) = (try await collection(call), try call.key(), call.query("owner"))
    let point = try await blocking { try collection.get(key, of: owner, as: call.principal) }
    return .json(.mapping(try CollectionJSON.point(point)))
  }

  private func deletePoint(_ call: Call) async throws -> Response {
    let (collection, key, owner) = (try await collection(call), try call.key(), call.query("owner"))
    try await blocking { try collection.delete([key], of: owner, as: call.principal) }
    return .json(["object": "point.deleted", "id": CollectionJSON.key(key), "deleted": true])
  }

  private func grant(_ call: Call) async throws -> Response {
    let (collection, key, owner) = (try await collection(call), try call.key(), call.query("owner"))
    let names = try await call.body(upTo: bodyLimit) { try $0.names("tenants") }
    guard let names else { throw OpenAIError.missing("tenants", expected: "an array of tenants' names") }
    let count = try await blocking { try collection.grant([key], to: names, of: owner, as: call.principal) }
    return .json(["object": "grants", "granted": .integer(count)])
  }

  private func revoke(_ call: Call) async throws -> Response {
    let (collection, key, owner) = (try await collection(call), try call.key(), call.query("owner"))
    let name = try call.part("tenant")
    let count = try await blocking { try collection.revoke([key], from: [name], of: owner, as: call.principal) }
    return .json(["object": "grants", "revoked": .integer(count)])
  }

  // MARK: reading

  private func search(_ call: Call) async throws -> Response {
    let collection = try await collection(call)
    let asked = try await call.body(upTo: bodyLimit) { try $0.query() }
    let query = try await call.context.client().whileConnected {
      try await collection.prepare([asked], as: call.principal)[0]
    }
    let hits = try await blocking { try collection.search(query, as: call.principal) }
    return .json(try CollectionJSON.list(hits))
  }

  private func scroll(_ call: Call) async throws -> Response {
    let collection = try await collection(call)
    let (limit, cursor, access, payload, withVectors) = try await call.body(upTo: bodyLimit) {
      (
        try $0.integer("limit", 1...1000) ?? 100, try $0.string("cursor"), try $0.access(), try $0.filter(),
        try $0.bool("with_vectors") ?? false
      )
    }
    let page = try await blocking {
      try collection.admit(as: call.principal)
      return try collection.scroll(
        limit: limit, cursor: cursor, access: access, payload: payload, withVectors: withVectors, as: call.principal)
    }
    return .json([
      "object": "list", "data": .list(try page.points.map { .mapping(try CollectionJSON.point($0)) }),
      "next_cursor": page.cursor.map { .string($0) } ?? .none,
    ])
  }

  private func count(_ call: Call) async throws -> Response {
    let collection = try await collection(call)
    let (access, payload) = try await call.body(upTo: bodyLimit) { (try $0.access(), try $0.filter()) }
    let count = try await blocking {
      try collection.admit(as: call.principal)
      return try collection.count(access: access, payload: payload, as: call.principal)
    }
    return .json(["object": "count", "count": .integer(count)])
  }

  /// The caller's figures; an administrator also gets those of all.
  private func stats(_ call: Call) async throws -> Response {
    let collection = try await collection(call)
    let answer = try await blocking { () throws -> JinjaMapping in
      var answer: JinjaMapping = ["object": "stats"]
      let own = try? collection.stats(of: call.principal.tenant, as: call.principal)
      answer["tenant"] = own.map(CollectionJSON.stats) ?? JinjaValue.none
      if call.principal.isAdmin {
        answer["collection"] = CollectionJSON.stats(
          try collection.stats(as: call.principal), try collection.bytes(as: call.principal))
      }
      return answer
    }
    return .json(.mapping(answer))
  }

  // MARK: administration

  private func train(_ call: Call) async throws -> Response {
    let collection = try await collection(call)
    let recall = try await call.body(upTo: bodyLimit) { try $0.number("target_recall", 0.01...1) }
    try await blocking { try collection.train(targetRecall: recall, as: call.principal) }
    return .json(["object": "collection.trained", "name": .string(collection.config.name)])
  }

  private func snapshot(_ call: Call) async throws -> Response {
    let name = try call.part("collection")
    let path = try await blocking { try call.store.snapshot(name, as: call.principal) }
    return .json(["object": "snapshot", "path": .string(path)])
  }

  /// All tenants' figures, a page at a time: `?limit=100&after=NAME`.
  private func tenants(_ call: Call) async throws -> Response {
    let collection = try await collection(call)
    let limit = try call.query("limit").map { text in
      guard let limit = Int(text) else { throw OpenAIError.invalid("limit", seen: "'\(text)'", expected: "a number") }
      return limit
    }
    let page = try await blocking {
      try collection.listTenants(after: call.query("after"), limit: limit ?? 100, as: call.principal)
    }
    return .json([
      "object": "list", "data": .list(page.tenants.map { CollectionJSON.stats($0) }),
      "next_after": page.next.map { .string($0) } ?? .none,
    ])
  }

  private func tenant(_ call: Call) async throws -> Response {
    let (collection, name) = (try await collection(call), try call.part("tenant"))
    return .json(CollectionJSON.stats(try await blocking { try collection.stats(of: name, as: call.principal) }))
  }

  private func update(_ call: Call) async throws -> Response {
    let (collection, name) = (try await collection(call), try call.part("tenant"))
    let update = try await call.body(upTo: bodyLimit) { try $0.tenantUpdate() }
    return .json(
      CollectionJSON.stats(
        try await blocking {
          try collection.update(name, update, as: call.principal)
          return try collection.stats(of: name, as: call.principal)
        }))
  }

  /// `?erase=true` also takes the tenant's bytes from all files before it answers.
  private func drop(_ call: Call) async throws -> Response {
    let (collection, name) = (try await collection(call), try call.part("tenant"))
    let erases = call.query("erase") == "true"
    try await blocking {
      if erases {
        try collection.erase(name, as: call.principal)
      } else {
        try collection.drop(name, as: call.principal)
      }
    }
    return .json(["object": "tenant.deleted", "tenant": .string(name), "erased": .boolean(erases), "deleted": true])
  }

  /// JSON lines, read as fast as the client takes them.
  private func export(_ call: Call) async throws -> Response {
    let (collection, name) = (try await collection(call), try call.part("tenant"))
    let first = try await blocking { try collection.exportPage(name, after: 0, as: call.principal) }
    return Response(
      status: .ok, headers: [.contentType: "application/x-ndjson; charset=utf-8"],
      body: ResponseBody { writer in
        var page = first
        while let (lines, last) = page {
          try await writer.write(ByteBuffer(bytes: lines))
          page = try await blocking { try collection.exportPage(name, after: last, as: call.principal) }
        }
        try await writer.finish(nil)
      })
  }
}

extension HTTPField.Name {
  static let tenant = HTTPField.Name("x-apus-tenant")!
}

extension OpenAIError {
  static let noCollections = OpenAIError(
    status: .notFound,
    message: "this server keeps no collections: start it with --collections FOLDER, or with collections: FOLDER in the "
      + "file of --config",
    code: "collections_disabled")

  static func otherTenant(_ param: String) -> OpenAIError {
    OpenAIError(
      status: .forbidden, message: "\(param) names another tenant than the API key's", type: "permission_error",
      param: param, code: "other_tenant")
  }

  /// Seconds that a client is told to wait at most.
  private static let longestWait = 86_400.0

  init(_ error: CollectionError) {
    let message = "\(error)"
    switch error {
    case .notFound: self.init(status: .notFound, message: message, code: "not_found")
    case .forbidden: self.init(status: .forbidden, message: message, type: "permission_error", code: "forbidden")
    case .inactive:
      self.init(status: .forbidden, message: message, type: "permission_error", code: "tenant_inactive")
    case .quotaExceeded(let path, _, _, _):
      self.init(status: .forbidden, message: message, param: path, code: "quota_exceeded")
    case .tooManyQueries(_, _, let wait):
      self.init(status: .tooManyRequests, message: message, type: "rate_limit_error", code: "rate_limit_exceeded")
      // Rounded up: who comes back in time is let in.
      retryAfter = Int(min(wait, Self.longestWait).rounded(.up))
    case .otherWeights:
      self.init(status: .conflict, message: message, param: "embedding_model", code: "embedding_model_changed")
    case .invalid(let path, _, _):
      self.init(status: .badRequest, message: message, param: path, code: "invalid_value")
    case .exists: self.init(status: .conflict, message: message, code: "already_exists")
    case .unknownModel:
      self.init(status: .notFound, message: message, param: "embedding_model", code: "model_not_found")
    case .embedding:
      self.init(status: .badRequest, message: message, param: "text", code: "embedding_failed")
    case .corrupt, .unusable:
      self.init(status: .internalServerError, message: message, type: "server_error", code: "internal_error")
    }
  }

  init(_ error: VectorError) {
    let param: String?
    switch error {
    case .configuration(let field, _, _): param = field == "dim" ? "dimension" : field
    case .parameter(let name, _, _): param = name
    case .dimension, .notFinite, .zeroVector: param = "vector"
    default:
      self = .internalError(error)
      return
    }
    self.init(status: .badRequest, message: "\(error)", param: param, code: "invalid_value")
  }
}
