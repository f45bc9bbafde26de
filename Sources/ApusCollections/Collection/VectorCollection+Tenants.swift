import ApusVectors
import Foundation
import GRDB

extension VectorCollection {
  /// The tenant `name`, for itself or an administrator; to others it does not exist.
  private func known(_ name: String, _ principal: Principal) throws -> Tenant {
    guard principal.isAdmin || principal.tenant == name, let tenant = tenants.withLock({ $0[name] }) else {
      throw CollectionError.notFound("the tenant")
    }
    return tenant
  }

  /// Changes a tenant or group, which is made if there is none. Throws `forbidden`, `invalid`.
  ///
  /// An offloaded one leaves memory before this returns, and an active or inactive one is back in it.
  public func update(_ name: String, _ update: TenantUpdate, as principal: Principal) throws {
    try principal.requireAdmin("change tenants")
    try update.validate()
    try write { batch in
      let tenant = try batch.tenant(name, path: "tenant")
      let (state, quotas) = (update.state ?? tenant.state, update.applied(to: tenant.quotas))
      if state != tenant.state || quotas != tenant.quotas {
        try batch.append(Self.settings(of: tenant, state, quotas))
      }
      // Offloading twice takes what was granted in between.
      if update.state == .offloaded {
        try batch.append(.offload(tenant.id))
      } else if update.state != nil && tenant.state == .offloaded {
        try batch.append(.load(tenant.id))
      }
      if let names = update.groups {
        let groups = try names.enumerated().map { try batch.tenant($1, path: "groups.\($0)").id }
        try batch.append(.setGroups(tenant: tenant.id, groups: Set(groups).subtracting([tenant.id]).sorted()))
      }
    }
    // The rows of what only the tenant had are free with the next generation.
    let stats = store.index.stats
    if update.state == .offloaded && Double(stats.deleted) > Self.deletedShare * Double(stats.vectors + stats.deleted) {
      try store.compact()
    }
  }

  /// A compaction copies what lives: it must be worth its work.
  private static let deletedShare = 0.1

  private static func settings(
    of tenant: Tenant, _ state: TenantState, _ quotas: TenantQuotas
  ) -> CatalogueChange {
    .settings(id: tenant.id, state: state, quota: quotas.vectors, byteQuota: quotas.bytes, queryQuota: quotas.queries)
  }

  /// The figures of a tenant, for itself or an administrator. Throws `notFound`.
  public func stats(of name: String, as principal: Principal) throws -> TenantStats {
    let tenant = try known(name, principal)
    return try catalogue.pool.read { try figures(tenant, as: principal, in: $0) }
  }

  private func figures(_ tenant: Tenant, as principal: Principal, in database: Database) throws -> TenantStats {
    let groups = tenants.withLock { all in tenant.groups.compactMap { all[$0]?.name } }
    let usage = try Catalogue.usage(of: tenant.id, in: database)
    let expired =
      try Int.fetchOne(
        database.cachedStatement(sql: "SELECT count(*) FROM point WHERE expires <= ? AND +owner = ?"),
        arguments: [now(), Int64(tenant.id)]) ?? 0
    let held = store.index.count(of: tenant.id)
    return TenantStats(
      tenant: tenant.name, state: tenant.state, quotas: quotas(of: tenant), groups: groups.sorted(),
      owned: usage.points - expired, held: held,
      visible: groups.isEmpty ? held : store.index.idsWithOffloaded(of: tenant.id).count,
      bytes: TenantBytes(points: usage.points, payloads: usage.payloads, held: held, dim: config.vectors.dim),
      refusedQueries: meter.refused(of: tenant.name),
      searches: principal.isAdmin ? searchCounts.withLock { $0[tenant.id] } ?? SearchCounts() : nil)
  }

  /// Figures of many tenants.
  public struct TenantPage: Sendable, Equatable {
    public var tenants: [TenantStats]
    /// The last name, after which the next page begins; nil after the last page.
    public var next: String?
  }

  public static let maximumTenantPage = 1000

  /// All tenants' figures in the order of their names' bytes, at most `limit`: an administrator's. Throws `forbidden`,
  /// `invalid`.
  public func listTenants(
    after name: String? = nil, limit: Int = 100, as principal: Principal
  ) throws -> TenantPage {
    try principal.requireAdmin("list tenants")
    guard (1...Self.maximumTenantPage).contains(limit) else {
      throw CollectionError.invalid(path: "limit", seen: "\(limit)", expected: "1 to \(Self.maximumTenantPage)")
    }
    return try catalogue.pool.read { database in
      let found = try Catalogue.tenants(after: name, count: limit + 1, in: database)
      let page = try found.prefix(limit).map { try figures($0, as: principal, in: database) }
      return TenantPage(tenants: page, next: found.count > limit ? page.last?.tenant : nil)
    }
  }

  /// All tenants' names, for an administrator.
  public func tenantNames(as principal: Principal) throws -> [String] {
    try principal.requireAdmin("list tenants")
    return try catalogue.pool.read { try String.fetchAll($0, sql: "SELECT name FROM tenant ORDER BY name") }
  }

  // MARK: leaving

  /// Forgets a tenant: its name, its rights, and the points that nobody else was granted. Points that it shared stay with
  /// those who see them, without an owner. A tenant that forgets itself does not shake off what an administrator has set:
  /// its quotas stay with its name. Throws `notFound`, and `inactive` for itself.
  public func drop(_ name: String, as principal: Principal) throws {
    let tenant = try known(name, principal)
    try write { batch in
      guard let latest = try Catalogue.tenant(name, in: batch.database), latest.id == tenant.id else {
        throw CollectionError.notFound("the tenant")
      }
      try Self.checkActive(latest, unless: principal)
      let visible = store.index.idsWithOffloaded(of: tenant.id)
      let own = try store.index.write { writer in
        try visible.filter { id in try writer.contains(id) && writer.tenants(of: id) == [tenant.id] }
      }
      for id in own { try batch.append(.delete(id: id)) }
      for member in try Catalogue.tenants(in: batch.database) where member.groups.contains(tenant.id) {
        try batch.append(.setGroups(tenant: member.id, groups: member.groups.filter { $0 != tenant.id }))
      }
      try batch.append(.dropTenant(tenant.id))
      if !principal.isAdmin && latest.quotas != TenantQuotas() {
        let empty = try batch.tenant(name, path: "tenant")
        try batch.append(Self.settings(of: empty, latest.state, latest.quotas))
      }
    }
  }

  /// Drops a tenant and takes its bytes from all files: log, segments, catalogue and journal. The work of a compaction and
  /// a checkpoint, O(collection). What stays is in snapshots made before.
  public func erase(_ name: String, as principal: Principal) throws {
    try drop(name, as: principal)
    try store.compact()
    try catalogue.erase()
    try checkpoint(erasing: true)
  }

  // MARK: export

  private struct ExportLine: Encodable {
    var id: PointKey
    var vector: [Float]
    var text: String?
    var expires_at: Int?
    var share_with: [String]
  }

  /// Every point that a tenant owns, a JSON object a line: id, vector (under cosine: of length 1), text, payload, expiry and
  /// who else may see it; what `upsert` takes. For itself, while it is active, or an administrator. Each line is whole; all
  /// together are not of one moment.
  public func export(
    _ name: String, as principal: Principal, to write: (Data) throws -> Void
  ) throws {
    var last: UInt64 = 0
    while let page = try exportPage(name, after: last, as: principal) {
      try write(page.lines)
      last = page.last
    }
  }

  /// The next lines of an export, and where to go on; nil at the end. Throws `notFound`, `inactive` (offloaded).
  public func exportPage(
    _ name: String, after last: UInt64, as principal: Principal
  ) throws -> (lines: Data, last: UInt64)? {
    let tenant = try known(name, principal)
    try Self.checkActive(tenant, unless: principal)
    if tenant.state == .offloaded { throw CollectionError.inactive(tenant: name, state: .offloaded) }
    let points = try catalogue.pool.read { database in
      try Row.fetchAll(
        database, sql: "SELECT * FROM point WHERE owner = ? AND id > ? ORDER BY id LIMIT ?",
        arguments: [Int64(tenant.id), Int64(last), Self.exportedAtOnce]
      ).map(Catalogue.point)
    }
    guard let end = points.last else { return nil }
    var lines = Data()
    for point in points where !isExpired(point) {
      guard let vector = try asking({ try store.index.vector(point.id, as: tenant.id) }) else { continue }
      let grantees = try store.index.write { writer in
        try writer.contains(point.id) ? writer.tenants(of: point.id) : []
      }
      let names = tenants.withLock { all in grantees.filter { $0 != tenant.id }.compactMap { all[$0]?.name } }
      lines += try Self.exportLine(point, vector: vector, sharedWith: names.sorted())
    }
    return (lines, end.id)
  }

  private static func exportLine(_ point: PointRecord, vector: [Float], sharedWith names: [String]) throws -> Data {
    let encoder = JSONEncoder()
    encoder.outputFormatting = [.sortedKeys, .withoutEscapingSlashes]
    var line = try encoder.encode(
      ExportLine(
        id: point.key, vector: vector, text: point.text, expires_at: point.expiresAt, share_with: names))
    if let payload = point.payload {
      // Its text as it came: numbers keep their form.
      line.removeLast()
      line += Data(#","payload":\#(payload)}"#.utf8)
    }
    line.append(UInt8(ascii: "\n"))
    return line
  }

  private static let exportedAtOnce = 256
}
