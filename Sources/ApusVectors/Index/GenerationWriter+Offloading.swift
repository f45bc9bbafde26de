extension GenerationWriter {
  /// Moves a tenant's tree, and the vectors that nobody else was granted, out of memory. The rows come back with the next
  /// generation, as those of deleted vectors. False when the tenant is offloaded already. O(what it has).
  func offload(_ tenant: TenantID) -> Bool {
    guard offloaded[tenant] == nil else { return false }
    let root = self.root(of: tenant)
    let own = forest.slots(root.root).filter { tenants(of: $0) == [tenant] }
    let rowBytes = generation.encoding.floatRowBytes
    var bytes: [UInt8] = []
    bytes.append(littleEndian: UInt32(own.count))
    for slot in own { bytes.append(littleEndian: generation.ids[slot]) }
    for slot in own { bytes.append(littleEndian: owners[slot]) }
    forest.pack(root.root, ids: generation.ids, to: &bytes)
    for slot in own { bytes += UnsafeRawBufferPointer(start: generation.floats.row(slot), count: rowBytes) }
    let packed = PackedTenant(bytes, rowBytes: rowBytes, spill: spill)
    for slot in own {
      parked[generation.ids[slot]] = tenant
      forget(slot)
    }
    forest.drop(root.root)
    keep(OffloadedTenant(packed: packed, count: Int(root.count)), of: tenant)
    return true
  }

  /// Brings back what `offload` moved away, with what has changed since. False when the tenant was not offloaded. O(what it
  /// has).
  func load(_ tenant: TenantID) -> Bool {
    guard let state = offloaded.removeValue(forKey: tenant) else { return false }
    var root: UInt32 = 0
    state.packed.withBytes { bytes in
      for i in 0..<state.packed.vectorCount where !state.removed.contains(state.packed.id(i, bytes)) {
        let slot = unpark(i, of: state.packed, bytes)
        setAccess([tenant], of: slot)
      }
      func slot(_ id: VectorID) -> UInt32? {
        guard !state.removed.contains(id) else { return nil }
        guard let slot = self.slot(of: id) else {
          preconditionFailure("tenant \(tenant) has \(id), which is not there")
        }
        return slot
      }
      var tree = state.packed.tree(bytes)
      if tree.remaining > 0 {
        do {
          root =
            state.isShaped
            ? try forest.unpack(&tree, slot: slot)
            : Self.canonical(try Self.packedIDs(&tree).compactMap(slot).sorted(), &forest, generation.paths)
        } catch { preconditionFailure("tenant \(tenant): \(error)") }
      }
    }
    for id in state.added.sorted() {
      guard let slot = self.slot(of: id), let grown = forest.granting(slot, in: root, paths: generation.paths) else {
        preconditionFailure("tenant \(tenant) was granted \(id), which is not there or twice")
      }
      root = grown
    }
    if parked.isEmpty { parked = [:] }
    setRoot(TenantRoot(root: root, count: UInt32(state.count)), of: tenant)
    return true
  }

  private static func canonical(_ slots: [UInt32], _ forest: inout TenantForest, _ paths: Column<UInt64>) -> UInt32 {
    slots.isEmpty ? 0 : forest.build(slots, cluster: 0, level: 0, paths: paths)
  }

  private static func packedIDs(_ tree: inout ByteReader) throws -> [VectorID] {
    var ids: [VectorID] = []
    while tree.remaining > 0 {
      let word = try tree.next(UInt32.self)
      if word == InnerBlock.tag {
        _ = try tree.next(UInt64.self)
      } else {
        for _ in 0..<word { ids.append(try tree.next(UInt64.self)) }
      }
    }
    return ids
  }

  // MARK: changes meanwhile

  /// Notes that an offloaded tenant has `id` now, or has it no more; false when the tenant is not offloaded.
  func note(_ id: VectorID, isGranted: Bool, to tenant: TenantID) -> Bool {
    guard var state = offloaded[tenant] else { return false }
    // Copied only if something else still holds it: a rebuilding.
    offloaded[tenant] = nil
    if isGranted {
      state.added.insert(id)
    } else if state.added.remove(id) == nil {
      state.removed.insert(id)
    }
    state.count += isGranted ? 1 : -1
    keep(state, of: tenant)
    return true
  }

  /// Brings one vector back that was out of memory with its only tenant, which stays where it is: nil when there is none.
  func recall(_ id: VectorID) -> UInt32? {
    guard let tenant = parked[id], var state = offloaded[tenant] else { return nil }
    let slot = state.packed.withBytes { bytes -> UInt32? in
      (0..<state.packed.vectorCount).first { state.packed.id($0, bytes) == id }.map {
        unpark($0, of: state.packed, bytes)
      }
    }
    guard let slot else { preconditionFailure("vector \(id) is not with tenant \(tenant), its only one") }
    setAccess([tenant], of: slot)
    state.removed.insert(id)
    state.added.insert(id)
    keep(state, of: tenant)
    return slot
  }

  /// Deletes a vector that is out of memory; false when it is not.
  func deleteParked(_ id: VectorID) -> Bool {
    guard let tenant = parked.removeValue(forKey: id) else { return false }
    countParkedGrantGone()
    return note(id, isGranted: false, to: tenant)
  }

  /// The vector takes a new slot, without rights.
  private func unpark(_ i: Int, of packed: PackedTenant, _ bytes: UnsafeRawBufferPointer) -> UInt32 {
    let (id, owner) = (packed.id(i, bytes), packed.owner(i, bytes))
    parked[id] = nil
    return insert(id, copying: packed.row(i, bytes), owner: owner == .max ? nil : owner)
  }

  func keep(_ state: OffloadedTenant, of tenant: TenantID) {
    offloaded[tenant] = state
    setRoot(TenantRoot(root: TenantRoot.offloaded, count: UInt32(state.count)), of: tenant)
  }

  // MARK: checks

  /// Throws `VectorError.corrupt` unless what each offloaded tenant has is what access lists say.
  func verifyOffloaded() throws -> [TenantID: Set<VectorID>] {
    var all: [TenantID: Set<VectorID>] = [:]
    for (tenant, state) in offloaded {
      let ids = state.ids()
      all[tenant] = Set(ids)
      guard root(of: tenant).root == TenantRoot.offloaded, ids.count == state.count, all[tenant]!.count == ids.count,
        Int(root(of: tenant).count) == state.count
      else { throw VectorError.corrupt("the offloaded tenant \(tenant) has \(ids.count) of \(state.count) vectors") }
      for id in ids {
        let isKnown = slot(of: id).map { tenants(of: $0).contains(tenant) } ?? (parked[id] == tenant)
        if !isKnown { throw VectorError.corrupt("the offloaded tenant \(tenant) has \(id) without a right to it") }
      }
    }
    for (id, tenant) in parked where slot(of: id) != nil || all[tenant]?.contains(id) != true {
      throw VectorError.corrupt("vector \(id) is out of memory with tenant \(tenant), and not")
    }
    return all
  }

  // MARK: as bytes

  /// Offloaded tenants, ascending: heads `[tenant u32][is shaped u32][count u32][removed u32][added u32][bytes u64]` with
  /// the ids of both sets behind each, after their number (u32); then the packed bytes.
  func writeOffloaded(_ bytes: (UnsafeRawBufferPointer) throws -> Void) throws {
    let all = offloaded.sorted { $0.key < $1.key }
    var heads: [UInt8] = []
    heads.append(littleEndian: UInt32(all.count))
    for (tenant, state) in all {
      for number in [
        tenant, state.isShaped ? 1 : 0, UInt32(state.count), UInt32(state.removed.count), UInt32(state.added.count),
      ] { heads.append(littleEndian: number) }
      heads.append(littleEndian: UInt64(state.packed.byteCount))
      for id in state.removed.sorted() + state.added.sorted() { heads.append(littleEndian: id) }
    }
    try heads.withUnsafeBytes(bytes)
    for (_, state) in all { try state.packed.withBytes(bytes) }
  }

  /// Takes over what `writeOffloaded` wrote. Throws `VectorError.corrupt`.
  func adoptOffloaded(_ bytes: UnsafeRawBufferPointer, owner: AnyObject) throws {
    var reader = ByteReader(bytes, what: "offloaded tenants")
    struct Head {
      var tenant: TenantID
      var isShaped: Bool
      var count: Int
      var removed: Set<VectorID>
      var added: Set<VectorID>
      var byteCount: Int
    }
    var heads: [Head] = []
    for _ in 0..<(try reader.next(UInt32.self)) {
      let numbers = try (0..<5).map { _ in try reader.next(UInt32.self) }
      let byteCount = Int(truncatingIfNeeded: try reader.next(UInt64.self))
      let removed = try (0..<numbers[3]).map { _ in try reader.next(UInt64.self) }
      let added = try (0..<numbers[4]).map { _ in try reader.next(UInt64.self) }
      heads.append(
        Head(
          tenant: numbers[0], isShaped: numbers[1] != 0, count: Int(numbers[2]), removed: Set(removed),
          added: Set(added), byteCount: byteCount))
    }
    for head in heads {
      let packed = try PackedTenant(
        mapped: try reader.take(head.byteCount), rowBytes: generation.encoding.floatRowBytes, owner: owner)
      packed.withBytes { bytes in
        for i in 0..<packed.vectorCount {
          let id = packed.id(i, bytes)
          if !head.removed.contains(id) { parked[id] = head.tenant }
        }
      }
      keep(
        OffloadedTenant(
          packed: packed, count: head.count, isShaped: head.isShaped, removed: head.removed, added: head.added),
        of: head.tenant)
    }
  }
}
