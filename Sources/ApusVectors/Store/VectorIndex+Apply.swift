extension VectorIndex {
  /// Throws what applying `mutation` now would make of a bad caller: `unknownVector`, `dimension`, `notFinite`,
  /// `zeroVector`, `corrupt` (a tree that is none). Nothing has changed afterwards.
  func check(_ mutation: Mutation) throws {
    switch mutation {
    case .upsert(_, let vector, let owner, let shareWith):
      try check(vector)
      try owner.map(VectorWriter.check)
      for tenant in shareWith { try VectorWriter.check(tenant) }
    case .delete(let id), .grant(let id, _), .revoke(let id, _):
      if case .grant(_, let tenant) = mutation { try VectorWriter.check(tenant) }
      guard contains(id) else { throw VectorError.unknownVector(id) }
    case .adoptTree(let bytes):
      let tree = try bytes.withUnsafeBytes { try ClusterTree(decoding: $0) }
      guard tree.dim == config.dim else { throw VectorError.dimension(seen: tree.dim, expected: config.dim) }
    case .tuning(let bytes): _ = try bytes.withUnsafeBytes { try PatienceTable(decoding: $0) }
    case .offload(let tenant), .load(let tenant): try VectorWriter.check(tenant)
    case .dropTenant, .setGroups, .compact, .note: break
    case .batch(let parts): for part in parts { try check(part) }
    }
  }

  /// Makes the changes, which readers see together. One that `check` would refuse changes nothing: a log may hold
  /// it, and every replica passes over it alike. Returns how many changed something.
  @discardableResult
  func apply(_ mutations: some Sequence<Mutation>) -> Int {
    var changed = 0
    var session: [Mutation] = []
    func flush() {
      guard !session.isEmpty else { return }
      changed += write { writer in session.count { Self.apply($0, writer) } }
      session.removeAll(keepingCapacity: true)
    }
    for mutation in mutations.lazy.flatMap(\.parts) {
      switch mutation {
      case .adoptTree(let bytes):
        flush()
        if let tree = try? bytes.withUnsafeBytes({ try ClusterTree(decoding: $0) }), tree.dim == config.dim {
          rebuild(over: tree)
          changed += 1
        }
      case .compact:
        flush()
        compact()
        changed += 1
      case .tuning(let bytes):
        if let table = try? bytes.withUnsafeBytes({ try PatienceTable(decoding: $0) }) {
          adopt(table)
          changed += 1
        }
      case .note: break
      default: session.append(mutation)
      }
    }
    flush()
    return changed
  }

  static func apply(_ mutation: Mutation, _ writer: VectorWriter) -> Bool {
    do {
      switch mutation {
      case .upsert(let id, let vector, let owner, let shareWith):
        try writer.upsert(id, vector, owner: owner, shareWith: shareWith)
        return true
      case .delete(let id):
        try writer.delete(id)
        return true
      case .grant(let id, let tenant): return try writer.grant(id, to: tenant)
      case .revoke(let id, let tenant): return try writer.revoke(id, from: tenant)
      case .dropTenant(let tenant): return writer.dropTenant(tenant) > 0
      case .setGroups(let tenant, let groups):
        writer.setGroups(groups, of: tenant)
        return true
      case .offload(let tenant): return tenant != .max && writer.offload(tenant)
      case .load(let tenant): return writer.load(tenant)
      case .adoptTree, .compact, .tuning, .note, .batch: return false
      }
    } catch { return false }
  }
}
