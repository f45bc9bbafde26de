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
    if case .vectors(let count) = update.quota, count < 0 {
      throw CollectionError.invalid(path: "quota", seen: "\(count)", expected: "0 or more")
    }
    try write { batch in
      let tenant = try batch.tenant(name, path: "tenant")
      if update.state != nil || update.quota != nil {
        var quota = tenant.quota
        switch update.quota {
        case .unlimited?: quota = nil
        case .vectors(let count)?: quota = count
        case nil: break
        }
        let state = update.state ?? tenant.state
        try batch.append(.settings(id: tenant.id, state: state, quota: quota))
        if state == .offloaded {
          try batch.append(.offload(tenant.id))
        } else if tenant.state == .offloaded {
          try batch.append(.load(tenant.id))
        }
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

  /// The figures of a tenant, for itself or an administrator. Throws `notFound`.
  public func stats(of name: String, as principal: Principal) throws -> TenantStats {
    let tenant = try known(name, principal)
    let groups = tenants.withLock { all in tenant.groups.compactMap { all[$0]?.name } }
    let owned = try catalogue.pool.read { database in
      try Int.fetchOne(
        database, sql: "SELECT count(*) FROM point WHERE owner = ? AND (expires IS NULL OR expires > ?)",
        arguments: [Int64(tenant.id), now()]) ?? 0
    }
    return TenantStats(
      tenant: name, state: tenant.state, quota: tenant.quota, groups: groups.sorted(), owned: owned,
      held: store.index.count(of: tenant.id), visible: store.index.idsWithOffloaded(of: tenant.id).count,
      searches: principal.isAdmin ? searchCounts.withLock { $0[tenant.id] } ?? SearchCounts() : nil)
  }

  /// All tenants' names, for an administrator.
  public func tenantNames(as principal: Principal) throws -> [String] {
    try principal.requireAdmin("list tenants")
    return try catalogue.pool.read { try String.fetchAll($0, sql: "SELECT name FROM tenant ORDER BY name") }
  }

  // MARK: leaving

  /// Forgets a tenant: its name, its rights, and the points that nobody else was granted. Points that it shared stay with
  /// those who see them, without an owner. Throws `notFound`.
  public func drop(_ name: String, as principal: Principal) throws {
    let tenant = try known(name, principal)
    try write { batch in
      guard try Catalogue.tenant(name, in: batch.database)?.id == tenant.id else {
        throw CollectionError.notFound("the tenant")
      }
      let visible = store.index.idsWithOffloaded(of: tenant.id)
      let own = try store.index.write { writer in
        try visible.filter { id in try writer.contains(id) && writer.tenants(of: id) == [tenant.id] }
      }
      for id in own { try batch.append(.delete(id: id)) }
      for member in try Catalogue.tenants(in: batch.database) where member.groups.contains(tenant.id) {
        try batch.append(.setGroups(tenant: member.id, groups: member.groups.filter { $0 != tenant.id }))
      }
      try batch.append(.dropTenant(tenant.id))
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
  /// who else may see it; what `upsert` takes. For itself or an administrator. Each line is whole; all together are not of
  /// one moment.
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
