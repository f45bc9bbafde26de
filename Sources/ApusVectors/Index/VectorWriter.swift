/// Changes to an index, by the vectors' ids; of use only inside `VectorIndex.write`.
public struct VectorWriter {
  private let writer: GenerationWriter
  private let journal: ChangeJournal?

  init(_ writer: GenerationWriter, journal: ChangeJournal?) {
    self.writer = writer
    self.journal = journal
  }

  private func slot(_ id: VectorID) throws -> UInt32 {
    guard let slot = resident(id) else { throw VectorError.unknownVector(id) }
    return slot
  }

  /// A vector that is out of memory comes back.
  private func resident(_ id: VectorID) -> UInt32? { writer.slot(of: id) ?? writer.recall(id) }

  public func contains(_ id: VectorID) -> Bool { writer.contains(id) }

  /// Stores `vector` (`[dim]`), granted to `owner` (if any) and `shareWith`. An id that is there gets the new vector and
  /// keeps its owner and its grants, to which `shareWith` is added. Returns true when the id was new.
  ///
  /// Throws `dimension`, `notFinite`, `zeroVector`, `parameter` (a tenant number out of range), and then has changed
  /// nothing.
  @discardableResult
  public func upsert(
    _ id: VectorID, _ vector: UnsafeBufferPointer<Float>, owner: TenantID?, shareWith: some Sequence<TenantID>
  ) throws -> Bool {
    try owner.map(Self.check)
    for tenant in shareWith { try Self.check(tenant) }
    func note() {
      journal?.changes.append(.upsert(id: id, vector: Array(vector), owner: owner, shareWith: Array(shareWith)))
    }
    guard let old = resident(id) else {
      // It checks the vector before it changes anything.
      let slot = try writer.insert(id, vector, owner: owner)
      note()
      if let owner { _ = writer.grant(slot, to: owner) }
      for tenant in shareWith { _ = writer.grant(slot, to: tenant) }
      return true
    }
    let (oldOwner, tenants) = (writer.owner(of: old), writer.tenants(of: old))
    try writer.generation.encoding.check(vector)
    note()
    writer.delete(old)
    let slot = try writer.insert(id, vector, owner: oldOwner)
    for tenant in tenants { _ = writer.grant(slot, to: tenant) }
    for tenant in shareWith { _ = writer.grant(slot, to: tenant) }
    return false
  }

  @discardableResult
  public func upsert(_ id: VectorID, _ vector: [Float], owner: TenantID?, shareWith: [TenantID] = []) throws -> Bool {
    try vector.withUnsafeBufferPointer { try upsert(id, $0, owner: owner, shareWith: shareWith) }
  }

  /// False when the tenant had it. Throws `unknownVector`.
  @discardableResult
  public func grant(_ id: VectorID, to tenant: TenantID) throws -> Bool {
    try Self.check(tenant)
    let slot = try slot(id)
    journal?.changes.append(.grant(id: id, tenant: tenant))
    return writer.grant(slot, to: tenant)
  }

  /// The greatest number stands for nobody.
  static func check(_ tenant: TenantID) throws {
    guard tenant != .max else {
      throw VectorError.parameter("tenant", seen: "\(tenant)", expected: "0…\(TenantID.max - 1)")
    }
  }

  /// False when the tenant did not have it. Throws `unknownVector`.
  @discardableResult
  public func revoke(_ id: VectorID, from tenant: TenantID) throws -> Bool {
    let slot = try slot(id)
    journal?.changes.append(.revoke(id: id, tenant: tenant))
    return writer.revoke(slot, from: tenant)
  }

  /// Takes the vector from everybody. Throws `unknownVector`.
  public func delete(_ id: VectorID) throws {
    guard writer.contains(id) else { throw VectorError.unknownVector(id) }
    journal?.changes.append(.delete(id: id))
    if writer.deleteParked(id) { return }
    writer.delete(try slot(id))
  }

  /// Takes everything from the tenant, its groups included; the vectors stay. Returns how many it had.
  @discardableResult
  public func dropTenant(_ tenant: TenantID) -> Int {
    journal?.changes.append(.dropTenant(tenant))
    return writer.dropTenant(tenant)
  }

  /// `tenant` also sees what `groups` were granted, and what their groups were.
  public func setGroups(_ groups: [TenantID], of tenant: TenantID) {
    journal?.changes.append(.setGroups(tenant: tenant, groups: groups))
    writer.setGroups(groups, of: tenant)
  }

  /// Moves the tenant's tree, and the vectors that nobody else was granted, out of memory: searches as the tenant, and as
  /// members of it, throw `VectorError.offloaded` until `load`. Changes of rights go on and are noted. The memory of the
  /// vectors comes back with the next compaction or training. False when it was offloaded before.
  @discardableResult
  public func offload(_ tenant: TenantID) -> Bool {
    journal?.changes.append(.offload(tenant))
    return writer.offload(tenant)
  }

  /// Brings an offloaded tenant back; it finds what it would have found had it stayed. False when it was not offloaded.
  @discardableResult
  public func load(_ tenant: TenantID) -> Bool {
    journal?.changes.append(.load(tenant))
    return writer.load(tenant)
  }

  /// Who was granted a vector, ascending. Throws `unknownVector`.
  public func tenants(of id: VectorID) throws -> [TenantID] {
    if let only = writer.parked[id] { return [only] }
    return writer.tenants(of: try slot(id))
  }

  public func owner(of id: VectorID) throws -> TenantID? { writer.owner(of: try slot(id)) }
}
