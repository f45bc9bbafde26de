import ApusVectors
import Crypto
import Foundation
import GRDB

extension VectorCollection {
  public static let maximumBatch = 10_000

  /// The tenant that acts; nil when nothing is known of it, which sees nothing. Throws `inactive`.
  func active(_ principal: Principal) throws -> Tenant? {
    guard let tenant = tenants.withLock({ $0[principal.tenant] }) else { return nil }
    try Self.checkActive(tenant)
    return tenant
  }

  /// Runs what asks the index; a tenant or a group of its that is out of memory is refused as the offloaded that it is.
  func asking<R>(_ body: () throws -> R) throws -> R {
    do { return try body() } catch VectorError.offloaded(let tenant) {
      throw CollectionError.inactive(tenant: tenants.withLock { $0[tenant]?.name } ?? "", state: .offloaded)
    }
  }

  static func checkActive(_ tenant: Tenant) throws {
    guard tenant.state == .active else { throw CollectionError.inactive(tenant: tenant.name, state: tenant.state) }
  }

  /// An administrator may act on a tenant in any state.
  static func checkActive(_ tenant: Tenant, unless principal: Principal) throws {
    if !principal.isAdmin { try checkActive(tenant) }
  }

  /// The tenant whose points are changed: the caller itself; an administrator may name another.
  private func owner(_ name: String?, _ principal: Principal, in database: Database) throws -> Tenant {
    guard name == nil || name == principal.tenant || principal.isAdmin,
      let tenant = try Catalogue.tenant(name ?? principal.tenant, in: database)
    else { throw CollectionError.notFound("the point") }
    if tenant.name == principal.tenant && !principal.isAdmin { try Self.checkActive(tenant) }
    return tenant
  }

  // MARK: points

  /// Stores points of the caller's own; one whose key is there is replaced and keeps its grants. All or none.
  ///
  /// Throws `invalid` with the path of what is wrong, `quotaExceeded`, `inactive`.
  public func upsert(_ points: [Point], as principal: Principal) throws {
    try check(points)
    try write { batch in
      let owner = try batch.tenant(principal.tenant, path: "tenant")
      try Self.checkActive(owner)
      var quotas = QuotaCheck(self, caller: owner.id, in: batch.database)
      for (i, point) in points.enumerated() {
        let path = "points.\(i)"
        let grantees = try point.shareWith.enumerated().map {
          try batch.tenant($1, path: "\(path).share_with.\($0)")
        }
        var old = try Catalogue.point(point.key, of: owner.id, in: batch.database)
        // What has expired is gone already, with its grants.
        if let gone = old, isExpired(gone) {
          try batch.append(.delete(id: gone.id))
          old = nil
        }
        let id = old?.id ?? batch.newVector()
        for tenant in [owner] + grantees { try quotas.take(tenant, id: old?.id, path: path) }
        try batch.append(
          .point(
            PointRecord(
              id: id, owner: owner.id, key: point.key, text: point.text, payload: point.payload,
              expiresAt: point.expiresAt)))
        try batch.append(.upsert(id: id, vector: point.vector!, owner: owner.id, shareWith: grantees.map(\.id)))
      }
      try quotas.checkBytes(path: "points")
    }
  }

  private func check(_ points: [Point]) throws {
    guard points.count <= Self.maximumBatch else {
      throw CollectionError.invalid(
        path: "points", seen: "\(points.count) points", expected: "at most \(Self.maximumBatch)")
    }
    var keys: Set<PointKey> = []
    for (i, point) in points.enumerated() {
      let path = "points.\(i)"
      try Check.key(point.key, path: "\(path).id")
      guard keys.insert(point.key).inserted else {
        throw CollectionError.invalid(path: "\(path).id", seen: "\(point.key) again", expected: "each key once")
      }
      guard let vector = point.vector else {
        throw CollectionError.invalid(path: "\(path).vector", seen: "nothing", expected: "a vector")
      }
      try Check.vector(
        vector, dim: config.vectors.dim, hasDirection: config.vectors.metric == .cosine, path: "\(path).vector")
      try point.text.map { try Check.text($0, path: "\(path).text") }
      try point.payload.map { try Check.payload($0, path: "\(path).payload") }
      if let expires = point.expiresAt, expires <= now() {
        throw CollectionError.invalid(path: "\(path).expires_at", seen: "\(expires)", expected: "a time to come")
      }
    }
  }

  /// Fills in the vectors of points that have only text, by the collection's model. Throws `embedding`,
  /// `invalid`, `unknownModel`, `otherWeights`.
  public func embedding(_ points: [Point]) async throws -> [Point] {
    var points = points
    let missing = points.indices.filter { points[$0].vector == nil }
    for i in missing where points[i].text == nil {
      throw CollectionError.invalid(path: "points.\(i)", seen: "neither vector nor text", expected: "one of them")
    }
    let vectors = try await embed(missing.map { points[$0].text! }, path: missing.first.map { "points.\($0)" } ?? "")
    for (i, vector) in zip(missing, vectors) { points[i].vector = vector }
    return points
  }

  func embed(_ texts: [String], path: String) async throws -> [[Float]] {
    if texts.isEmpty { return [] }
    guard let model = config.embeddingModel else {
      throw CollectionError.invalid(
        path: "\(path).vector", seen: "nothing", expected: "a vector: the collection has no embedding model")
    }
    guard let embedder else { throw CollectionError.unknownModel(model, known: []) }
    try await checkWeights(of: model, embedder)
    let vectors = try await embedder.embed(texts, model: model)
    guard vectors.count == texts.count, vectors.allSatisfy({ $0.count == config.vectors.dim }) else {
      throw CollectionError.embedding(
        "'\(model)' made \(vectors.count) vectors of \(vectors.first?.count ?? 0) numbers; "
          + "expected \(texts.count) of \(config.vectors.dim)")
    }
    return vectors
  }

  /// The collection's vectors are those of one model: whoever answers to its name must have the weights that made them. A
  /// collection that does not know them takes those of the first.
  private func checkWeights(of model: String, _ embedder: any TextEmbedder) async throws {
    guard let seen = try embedder.weightsDigest(of: model) else { return }
    let expected: String
    if let known = weightsDigest {
      expected = known
    } else {
      expected = try await CollectionStore.blocking { try self.adoptWeights(seen) }
    }
    guard seen == expected else { throw CollectionError.otherWeights(model: model, seen: seen, expected: expected) }
  }

  /// The weights that the collection knows from now on: these, unless others came first.
  private func adoptWeights(_ digest: String) throws -> String {
    var known = digest
    try write { batch in
      if let first = try Catalogue.identity(in: batch.database)?.weights {
        known = first
      } else {
        try batch.append(.weights(digest))
      }
    }
    weights.withLock { $0 = known }
    return known
  }

  func isExpired(_ point: PointRecord) -> Bool { point.expiresAt.map { $0 <= now() } ?? false }

  func visible(_ point: PointRecord, vector: [Float]? = nil) -> VisiblePoint {
    VisiblePoint(
      key: point.key, owner: tenants.withLock { $0[point.owner]?.name }, text: point.text, payload: point.payload,
      expiresAt: point.expiresAt, vector: vector)
  }

  /// A point of the caller's own or, with `owner`, one of another tenant's that the caller may see. Throws `notFound`.
  public func get(_ key: PointKey, of owner: String? = nil, as principal: Principal) throws -> VisiblePoint {
    guard let caller = try active(principal),
      let tenant = tenants.withLock({ $0[owner ?? principal.tenant] }),
      let point = try catalogue.pool.read({ try Catalogue.point(key, of: tenant.id, in: $0) }), !isExpired(point),
      let vector = try asking({ try store.index.vector(point.id, as: caller.id) })
    else { throw CollectionError.notFound("the point") }
    return visible(point, vector: vector)
  }

  /// The caller's own points, or, for an administrator, those of `owner`. Throws `notFound`; all or none.
  private func own(_ keys: [PointKey], of owner: Tenant, in database: Database) throws -> [PointRecord] {
    try keys.map { key in
      guard let point = try Catalogue.point(key, of: owner.id, in: database), !isExpired(point) else {
        throw CollectionError.notFound("the point")
      }
      return point
    }
  }

  /// Throws `notFound` unless all are the caller's own (an administrator may name the owner), and then none is deleted.
  public func delete(_ keys: [PointKey], of owner: String? = nil, as principal: Principal) throws {
    try write { batch in
      let owner = try self.owner(owner, principal, in: batch.database)
      for point in try own(Array(Set(keys)), of: owner, in: batch.database) { try batch.append(.delete(id: point.id)) }
    }
  }

  /// Lets tenants and groups see points of the caller's own; returns how many grants are new. All or none.
  @discardableResult
  public func grant(
    _ keys: [PointKey], to names: [String], of owner: String? = nil, as principal: Principal
  ) throws -> Int {
    try write { batch in
      let owner = try self.owner(owner, principal, in: batch.database)
      let points = try own(keys, of: owner, in: batch.database)
      let grantees = try names.enumerated().map { try batch.tenant($1, path: "tenants.\($0)") }
      var quotas = QuotaCheck(self, caller: owner.id, in: batch.database)
      for point in points {
        for tenant in grantees {
          try quotas.take(tenant, id: point.id, path: "tenants")
          try batch.append(.grant(id: point.id, tenant: tenant.id))
        }
      }
      try quotas.checkBytes(path: "tenants")
    }
  }

  /// Takes the right to see points of the caller's own from tenants; returns how many had it. Once it has returned, nobody
  /// sees them by that right any more.
  @discardableResult
  public func revoke(
    _ keys: [PointKey], from names: [String], of owner: String? = nil, as principal: Principal
  ) throws -> Int {
    try write { batch in
      let owner = try self.owner(owner, principal, in: batch.database)
      let points = try own(keys, of: owner, in: batch.database)
      for (i, name) in names.enumerated() {
        guard name != owner.name else {
          throw CollectionError.invalid(
            path: "tenants.\(i)", seen: "the owner", expected: "another tenant: an owner deletes what it must not see")
        }
        guard let tenant = try Catalogue.tenant(name, in: batch.database) else { continue }
        for point in points { try batch.append(.revoke(id: point.id, tenant: tenant.id)) }
      }
    }
  }

  // MARK: lists

  /// Points that the caller may see and that pass the conditions. O(n log n) in what it may see.
  public func count(
    access: TenantFilter? = nil, payload: PayloadFilter? = nil, as principal: Principal
  ) throws -> Int {
    guard let caller = try active(principal) else { return 0 }
    let ids = try asking { try store.index.ids(of: caller.id, filter: access.map(resolve)) }
    return try catalogue.pool.read { database in
      guard let among = try condition(payload, visible: ids, in: database) else { return ids.count }
      return ids.count { among.contains($0) }
    }
  }

  public struct Page: Sendable, Equatable {
    public var points: [VisiblePoint]
    /// Where the next page begins, for this caller only; nil after the last.
    public var cursor: String?
  }

  /// The caller's visible points that pass the conditions, the oldest first, `limit` a page. Throws `invalid` for a cursor
  /// that this collection did not make for this tenant.
  public func scroll(
    limit: Int = 100, cursor: String? = nil, access: TenantFilter? = nil, payload: PayloadFilter? = nil,
    withVectors: Bool = false, as principal: Principal
  ) throws -> Page {
    guard (1...1000).contains(limit) else {
      throw CollectionError.invalid(path: "limit", seen: "\(limit)", expected: "1 to 1000")
    }
    let start = try cursor.map { try open($0, for: principal.tenant) } ?? 0
    guard let caller = try active(principal) else { return Page(points: [], cursor: nil) }
    let visible = try asking { try store.index.ids(of: caller.id, filter: access.map(resolve)) }
    let (ids, points) = try catalogue.pool.read { database in
      let among = try condition(payload, visible: visible, in: database)
      let ids = visible.lazy.filter { $0 > start && among?.contains($0) ?? true }.prefix(limit + 1)
      return (Array(ids), try Catalogue.points(Array(ids.prefix(limit)), in: database))
    }
    return Page(
      points: try ids.prefix(limit).compactMap { id in
        guard let point = points[id] else { return nil }
        if !withVectors { return self.visible(point) }
        // Without a vector it has been revoked or deleted since.
        return try asking { try store.index.vector(id, as: caller.id) }.map { self.visible(point, vector: $0) }
      },
      cursor: ids.count > limit ? try seal(ids[limit - 1], for: principal.tenant) : nil)
  }

  /// A place in a list that says nothing, can't be made up, and that only the tenant can give back.
  private func seal(_ id: VectorID, for tenant: String) throws -> String {
    let place = withUnsafeBytes(of: id.littleEndian) { Data($0) }
    return try ChaChaPoly.seal(place, using: cursorKey, authenticating: Data(tenant.utf8)).combined
      .base64EncodedString()
  }

  private func open(_ cursor: String, for tenant: String) throws -> VectorID {
    guard let data = Data(base64Encoded: cursor), let box = try? ChaChaPoly.SealedBox(combined: data),
      let place = try? ChaChaPoly.open(box, using: cursorKey, authenticating: Data(tenant.utf8)), place.count == 8
    else { throw CollectionError.invalid(path: "cursor", seen: "an unknown cursor", expected: "one of a page before") }
    return place.enumerated().reduce(0) { $0 | VectorID($1.element) << VectorID(8 * $1.offset) }
  }
}
