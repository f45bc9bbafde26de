import ApusCollections
import ApusVectors
import GRPCCore

/// The calls of `apus.vectors.v1.Collections`, answered by a store.
struct CollectionService: WireCollections.SimpleServiceProtocol {
  let store: CollectionStore
  let departure: Departure

  private func blocking<T: Sendable>(_ body: @escaping @Sendable () throws -> T) async throws -> T {
    try await CollectionStore.blocking(body)
  }

  private func with<T: Sendable>(
    _ name: String, _ body: @escaping @Sendable (VectorCollection, Principal) throws -> T
  ) async throws -> T {
    let caller = try Caller.current
    return try await blocking { try body(try store.collection(name), caller) }
  }

  /// The same for work that takes long and asks the flag whether somebody still waits for its end.
  private func abortable<T: Sendable>(
    _ name: String,
    _ body: @escaping @Sendable (VectorCollection, Principal, Flag) throws -> T
  ) async throws -> T {
    let flag = Flag()
    return try await departure.whileWanted(stop: flag.set) {
      try await with(name) { try body($0, $1, flag) }
    }
  }

  /// Runs the encoder as long as somebody waits for it.
  private func encoding<T: Sendable>(_ work: @escaping @Sendable () async throws -> T) async throws -> T {
    let task = Task(operation: work)
    return try await departure.whileWanted(stop: task.cancel) { try await task.value }
  }

  // MARK: collections

  func listCollections(
    request: WireListCollectionsRequest, context: ServerContext
  ) async throws -> WireListCollectionsResponse {
    let collections = try await blocking { try store.names().map { WireCollection(try store.collection($0)) } }
    return .with { $0.collections = collections }
  }

  func createCollection(request: WireCollection, context: ServerContext) async throws -> WireCollection {
    let caller = try Caller.current
    return try await blocking {
      let config = try request.config(embedder: store.embedder)
      return WireCollection(try store.ensure(config, as: caller))
    }
  }

  func getCollection(request: WireGetCollectionRequest, context: ServerContext) async throws -> WireCollection {
    try await with(request.collection) { collection, _ in WireCollection(collection) }
  }

  func deleteCollection(
    request: WireDeleteCollectionRequest, context: ServerContext
  ) async throws -> WireDeleteCollectionResponse {
    let caller = try Caller.current
    try await blocking { try store.delete(request.collection, as: caller) }
    return .init()
  }

  func trainCollection(
    request: WireTrainCollectionRequest, context: ServerContext
  ) async throws -> WireTrainCollectionResponse {
    let recall = request.hasTargetRecall ? request.targetRecall : nil
    if let recall, !(recall > 0 && recall <= 1) {
      throw CollectionError.invalid(path: "target_recall", seen: "\(recall)", expected: "above 0, at most 1")
    }
    try await abortable(request.collection) { collection, caller, flag in
      try collection.train(targetRecall: recall, as: caller) { _ in try flag.check() }
    }
    return .init()
  }

  func snapshotCollection(
    request: WireSnapshotCollectionRequest, context: ServerContext
  ) async throws -> WireSnapshotCollectionResponse {
    let caller = try Caller.current
    let path = try await blocking { try store.snapshot(request.collection, as: caller) }
    return .with { $0.path = path }
  }

  func getStats(request: WireGetStatsRequest, context: ServerContext) async throws -> WireStats {
    try await with(request.collection) { collection, caller in
      try .with {
        if let own = try? collection.stats(of: caller.tenant, as: caller) { $0.tenant = WireTenant(own) }
        if caller.isAdmin {
          $0.collection = WireCollectionStats(try collection.stats(as: caller), try collection.bytes(as: caller))
        }
      }
    }
  }

  // MARK: points

  func upsertPoints(
    request: WireUpsertPointsRequest, context: ServerContext
  ) async throws -> WireUpsertPointsResponse { try await upsert(request) }

  func streamPoints(
    request: RPCAsyncSequence<WireUpsertPointsRequest, any Error>, response: RPCWriter<WireUpsertPointsResponse>,
    context: ServerContext
  ) async throws {
    for try await batch in request { try await response.write(try await upsert(batch)) }
  }

  private func upsert(_ request: WireUpsertPointsRequest) async throws -> WireUpsertPointsResponse {
    let (collection, points) = try await with(request.collection) { collection, _ in
      (collection, try request.checkedPoints())
    }
    let whole = try await encoding { try await collection.embedding(points) }
    let caller = try Caller.current
    try await blocking { try collection.upsert(whole, as: caller) }
    return .with { $0.count = UInt32(whole.count) }
  }

  func getPoint(request: WireGetPointRequest, context: ServerContext) async throws -> WireVisiblePoint {
    let (key, owner) = (try request.id.key("id"), request.hasOwner ? request.owner : nil)
    return try await with(request.collection) { collection, caller in
      WireVisiblePoint(try collection.get(key, of: owner, as: caller))
    }
  }

  func deletePoints(
    request: WireDeletePointsRequest, context: ServerContext
  ) async throws -> WireDeletePointsResponse {
    let owner = request.hasOwner ? request.owner : nil
    try await with(request.collection) { collection, caller in
      try collection.delete(try WirePointID.keys(request.ids), of: owner, as: caller)
    }
    return .init()
  }

  func scroll(request: WireScrollRequest, context: ServerContext) async throws -> WireScrollResponse {
    try await with(request.collection) { collection, caller in
      try collection.admit(as: caller)
      let page = try collection.scroll(
        limit: request.hasLimit ? Int(request.limit) : Self.usualPage, cursor: request.hasCursor ? request.cursor : nil,
        access: try request.hasAccess ? request.access.filter("access") : nil,
        payload: try request.hasFilter ? request.filter.filter("filter") : nil, as: caller)
      return .with {
        $0.points = page.points.map { WireVisiblePoint($0) }
        if let cursor = page.cursor { $0.nextCursor = cursor }
      }
    }
  }

  private static let usualPage = 100

  func count(request: WireCountRequest, context: ServerContext) async throws -> WireCountResponse {
    try await with(request.collection) { collection, caller in
      try collection.admit(as: caller)
      let count = try collection.count(
        access: try request.hasAccess ? request.access.filter("access") : nil,
        payload: try request.hasFilter ? request.filter.filter("filter") : nil, as: caller)
      return .with { $0.count = UInt64(count) }
    }
  }

  // MARK: grants

  func grant(request: WireGrantRequest, context: ServerContext) async throws -> WireGrantResponse {
    let owner = request.hasOwner ? request.owner : nil
    return try await with(request.collection) { collection, caller in
      let count = try collection.grant(
        try WirePointID.keys(request.ids), to: request.tenants, of: owner, as: caller)
      return .with { $0.granted = UInt64(count) }
    }
  }

  func revoke(request: WireRevokeRequest, context: ServerContext) async throws -> WireRevokeResponse {
    let owner = request.hasOwner ? request.owner : nil
    return try await with(request.collection) { collection, caller in
      let count = try collection.revoke(
        try WirePointID.keys(request.ids), from: request.tenants, of: owner, as: caller)
      return .with { $0.revoked = UInt64(count) }
    }
  }

  // MARK: searches

  func search(request: WireSearchRequest, context: ServerContext) async throws -> WireSearchResponse {
    let (collection, asked) = try await with(request.collection) { collection, _ in
      (collection, try inField("query") { try request.query.query(for: collection.config) })
    }
    let caller = try Caller.current
    let query = try await encoding { try await collection.prepare([asked], as: caller)[0] }
    return try await with(request.collection) { collection, caller in
      WireSearchResponse(try inField("query") { try collection.search(query, as: caller) })
    }
  }

  func searchBatch(request: WireSearchBatchRequest, context: ServerContext) async throws -> WireSearchBatchResponse {
    let (collection, asked) = try await with(request.collection) { collection, _ in
      (collection, try request.checkedQueries(for: collection.config))
    }
    let caller = try Caller.current
    let queries = try await encoding { try await collection.prepare(asked, as: caller) }
    return try await abortable(request.collection) { collection, caller, flag in
      let results = try queries.enumerated().map { i, query in
        try flag.check()
        return WireSearchResponse(try inField("queries.\(i)") { try collection.search(query, as: caller) })
      }
      return .with { $0.results = results }
    }
  }

  // MARK: tenants

  func getTenant(request: WireGetTenantRequest, context: ServerContext) async throws -> WireTenant {
    try await with(request.collection) { collection, caller in
      WireTenant(try collection.stats(of: request.tenant, as: caller))
    }
  }

  func listTenants(request: WireListTenantsRequest, context: ServerContext) async throws -> WireListTenantsResponse {
    try await with(request.collection) { collection, caller in
      let page = try collection.listTenants(
        after: request.hasAfter ? request.after : nil, limit: request.hasLimit ? Int(request.limit) : Self.usualPage,
        as: caller)
      return .with {
        $0.tenants = page.tenants.map { WireTenant($0) }
        if let next = page.next { $0.nextAfter = next }
      }
    }
  }

  func updateTenant(request: WireUpdateTenantRequest, context: ServerContext) async throws -> WireTenant {
    try await with(request.collection) { collection, caller in
      try collection.update(request.tenant, try request.update(), as: caller)
      return WireTenant(try collection.stats(of: request.tenant, as: caller))
    }
  }

  func deleteTenant(
    request: WireDeleteTenantRequest, context: ServerContext
  ) async throws -> WireDeleteTenantResponse {
    try await with(request.collection) { collection, caller in
      if request.erase {
        try collection.erase(request.tenant, as: caller)
      } else {
        try collection.drop(request.tenant, as: caller)
      }
    }
    return .init()
  }

  func exportTenant(
    request: WireExportTenantRequest, response: RPCWriter<WireExportTenantResponse>, context: ServerContext
  ) async throws {
    // A page more only when the one before is taken: as fast as the client reads.
    var last: UInt64? = 0
    while let place = last {
      let page = try await with(request.collection) { collection, caller in
        try collection.exportPage(request.tenant, after: place, as: caller)
      }
      if let page { try await response.write(.with { $0.lines = page.lines }) }
      last = page?.last
    }
  }
}
