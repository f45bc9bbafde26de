import ApusKernels
import KernelInterface

/// The writer's side of a generation. One thread at a time holds it.
///
/// Changes are made in a **session**: readers see nothing of it until `publish`, which shows each tenant's tree at once.
///
/// `@unchecked Sendable`: only the holder of the index's writer lock touches it.
final class GenerationWriter: @unchecked Sendable {
  let config: VectorConfig
  let generation: Generation
  var forest: TenantForest
  private var idTable = IDTable()
  private(set) var access = PublishedColumn<UInt32>()
  private var roots = PublishedColumn<UInt64>()
  private(set) var groups = PublishedColumn<UInt32>()
  /// The tenant that owns a slot; `.max` for none.
  let owners: Column<UInt32>
  /// Slots given out so far, the dead ones included: slots are used again only by the next generation.
  private(set) var slotCount: UInt32 = 0
  private(set) var deadCount = 0
  private(set) var grantCount = 0
  /// Tenants that have a vector or a group or are offloaded, ascending.
  private(set) var tenants = SortedNumbers()
  var offloaded: [TenantID: OffloadedTenant] = [:]
  /// Vectors that are out of memory with their only tenant.
  var parked: [VectorID: TenantID] = [:]
  /// Where offloaded tenants go.
  var spill = SpillFile()
  private let kernels = Kernels.current

  init(config: VectorConfig, tree: ClusterTree, expecting count: Int = 0) {
    self.config = config
    let encoding = VectorEncoding(dim: config.dim, metric: config.metric)
    let slab = Slab()
    let floats = ChunkedRows(rowBytes: encoding.floatRowBytes, shift: Self.shift(encoding.floatRowBytes))
    let codes = encoding.rowBytes(of: config.quantizer).map { ChunkedRows(rowBytes: $0, shift: Self.shift($0)) }
    owners = Column()
    idTable = IDTable(expecting: count)
    generation = Generation(
      encoding: encoding, quantizer: config.quantizer, tree: tree, slab: slab, floats: floats, codes: codes,
      ids: Column(), paths: Column(),
      access: access.reader, roots: roots.reader, groups: groups.reader)
    forest = TenantForest(tree: tree, slab: slab, capacity: config.bufferCapacity)
  }

  /// Over the memory of an image; `adopt` completes it.
  init(
    config: VectorConfig, tree: ClusterTree, encoding: VectorEncoding, parts: ImageParts, slotCount: UInt32,
    grantCount: Int
  ) {
    self.config = config
    self.slotCount = slotCount
    self.grantCount = grantCount
    owners = parts.owners
    generation = Generation(
      encoding: encoding, quantizer: config.quantizer, tree: tree, slab: parts.slab, floats: parts.floats,
      codes: parts.codes, ids: parts.ids,
      paths: parts.paths, access: access.reader, roots: roots.reader, groups: groups.reader)
    forest = TenantForest(tree: tree, slab: parts.slab, capacity: config.bufferCapacity)
  }

  /// Takes over the lists of an image: dead slots, a handle per slot, and `[tenant u32][groups u32][root u64]` each.
  func adopt(
    dead: UnsafeRawBufferPointer, access: UnsafeRawBufferPointer, tenants: UnsafeRawBufferPointer, slabUnits: Int
  ) throws {
    func checked(_ handle: UInt32) throws -> UInt32 {
      guard Int(handle & ~InnerBlock.tag) < max(slabUnits, 1) else {
        throw VectorError.corrupt("handle \(handle) in a slab of \(slabUnits) units")
      }
      return handle
    }
    var deadReader = ByteReader(dead, what: "dead slots")
    var next = slotCount
    if deadReader.remaining > 0 { next = try deadReader.next(UInt32.self) }
    idTable = IDTable(expecting: Int(slotCount))
    var accessReader = ByteReader(access, what: "access lists")
    for slot in 0..<slotCount {
      self.access.ensure(slot)
      let handle = try checked(try accessReader.next(UInt32.self))
      if handle != 0 { self.access[slot] = handle }
      if slot == next {
        deadCount += 1
        next = deadReader.remaining > 0 ? try deadReader.next(UInt32.self) : slotCount
      } else {
        idTable.insert(generation.ids[slot], slot: slot, ids: generation.ids)
      }
    }
    var reader = ByteReader(tenants, what: "tenants")
    while reader.remaining > 0 {
      let tenant = try reader.next(UInt32.self)
      let list = try checked(try reader.next(UInt32.self))
      let root = TenantRoot(try reader.next(UInt64.self))
      if list != 0 {
        groups.ensure(tenant)
        groups[tenant] = list
      }
      if root.root != TenantRoot.offloaded { _ = try checked(root.root) }
      setRoot(root, of: tenant)
      self.tenants.insert(tenant)
    }
  }

  /// Chunks of about 16 MiB.
  static func shift(_ rowBytes: Int) -> Int {
    var shift = 0
    while rowBytes << (shift + 1) <= 16 << 20 && shift < 16 { shift += 1 }
    return shift
  }

  /// Vectors that are in memory and not deleted.
  var liveCount: Int { Int(slotCount) - deadCount }

  func slot(of id: VectorID) -> UInt32? { idTable.slot(of: id, ids: generation.ids) }

  func contains(_ id: VectorID) -> Bool { slot(of: id) != nil || parked[id] != nil }

  /// The tenants that were granted a slot, ascending.
  func tenants(of slot: UInt32) -> [TenantID] { forest.numbers(access[slot]) }

  func owner(of slot: UInt32) -> TenantID? { owners[slot] == .max ? nil : owners[slot] }

  func root(of tenant: TenantID) -> TenantRoot {
    roots.exists(tenant) ? TenantRoot(roots[tenant]) : TenantRoot(root: 0, count: 0)
  }

  func setRoot(_ root: TenantRoot, of tenant: TenantID) {
    roots.ensure(tenant)
    roots[tenant] = root.word
    if root.count > 0 || root.root != 0 { tenants.insert(tenant) } else { forgetIfEmpty(tenant) }
  }

  /// Rights are counted also of vectors that are out of memory.
  func countParkedGrantGone() { grantCount -= 1 }

  /// Gives a slot without rights its access list.
  func setAccess(_ tenants: [TenantID], of slot: UInt32) { access[slot] = forest.makeList(tenants) }

  func groups(of tenant: TenantID) -> [TenantID] {
    groups.exists(tenant) ? forest.numbers(groups[tenant]) : []
  }

  /// A dead slot has no place in the table of ids.
  func isAlive(_ slot: UInt32) -> Bool { self.slot(of: generation.ids[slot]) == slot }

  // MARK: changes

  /// Stores a new vector, of which nobody can see anything until it is granted. `id` must be new, and the vector is
  /// checked: throws `dimension`, `notFinite`, `zeroVector` and then has changed nothing.
  func insert(_ id: VectorID, _ vector: UnsafeBufferPointer<Float>, owner: TenantID?) throws -> UInt32 {
    let slot = slotCount
    guard slot < UInt32.max - 1 else { throw VectorError.full("\(slot) slots; compact it") }
    ensureSlot(slot)
    let row = generation.floats.row(slot).assumingMemoryBound(to: Float.self)
    try generation.encoding.encode(vector, to: row)
    finishInsert(id, slot: slot, owner: owner)
    return slot
  }

  /// The same with a row that was encoded before, from another generation.
  func insert(_ id: VectorID, copying row: UnsafeRawPointer, owner: TenantID?) -> UInt32 {
    let slot = slotCount
    ensureSlot(slot)
    generation.floats.row(slot).copyMemory(from: row, byteCount: generation.encoding.floatRowBytes)
    finishInsert(id, slot: slot, owner: owner)
    return slot
  }

  private func ensureSlot(_ slot: UInt32) {
    generation.floats.ensure(slot)
    generation.codes?.ensure(slot)
    generation.ids.rows.ensure(slot)
    generation.paths.rows.ensure(slot)
    owners.rows.ensure(slot)
    access.ensure(slot)
  }

  private func finishInsert(_ id: VectorID, slot: UInt32, owner: TenantID?) {
    let encoding = generation.encoding
    let floats = generation.floats.row(slot).assumingMemoryBound(to: Float.self)
    if config.quantizer == .sq8, let codes = generation.codes {
      encoding.encodeCodes(floats, to: codes.row(slot))
      generation.paths[slot] = generation.tree.path(codeRow: codes.row(slot), kernels: kernels)
    } else {
      withUnsafeTemporaryAllocation(byteCount: encoding.codeRowBytes, alignment: 64) {
        encoding.encodeCodes(floats, to: $0.baseAddress!)
        generation.paths[slot] = generation.tree.path(codeRow: $0.baseAddress!, kernels: kernels)
      }
      if let codes = generation.codes { generation.bits?.encode(floats, to: codes.row(slot)) }
    }
    generation.ids[slot] = id
    owners[slot] = owner ?? .max
    idTable.insert(id, slot: slot, ids: generation.ids)
    slotCount += 1
  }

  /// False when the tenant had it. O(depth + C) numbers move.
  func grant(_ slot: UInt32, to tenant: TenantID) -> Bool {
    guard let list = forest.adding(tenant, to: access[slot]) else { return false }
    access[slot] = list
    grantCount += 1
    if note(generation.ids[slot], isGranted: true, to: tenant) { return true }
    roots.ensure(tenant)
    var root = TenantRoot(roots[tenant])
    if root.count == 0 { tenants.insert(tenant) }
    guard let grown = forest.granting(slot, in: root.root, paths: generation.paths) else {
      preconditionFailure("tenant \(tenant) had slot \(slot) in its tree but not in its access list")
    }
    root = TenantRoot(root: grown, count: root.count + 1)
    roots[tenant] = root.word
    return true
  }

  /// False when the tenant did not have it.
  func revoke(_ slot: UInt32, from tenant: TenantID) -> Bool {
    guard let list = forest.removing(tenant, from: access[slot]) else { return false }
    access[slot] = list
    removeFromTree(slot, of: tenant)
    return true
  }

  private func removeFromTree(_ slot: UInt32, of tenant: TenantID) {
    grantCount -= 1
    if note(generation.ids[slot], isGranted: false, to: tenant) { return }
    let root = TenantRoot(roots[tenant])
    guard let shrunk = forest.revoking(slot, in: root.root, paths: generation.paths) else {
      preconditionFailure("tenant \(tenant) had slot \(slot) in its access list but not in its tree")
    }
    roots[tenant] = TenantRoot(root: shrunk, count: root.count - 1).word
    forgetIfEmpty(tenant)
  }

  /// Takes the vector from all tenants; its slot stays dead until the next generation.
  func delete(_ slot: UInt32) {
    for tenant in forest.numbers(access[slot]) { removeFromTree(slot, of: tenant) }
    forget(slot)
  }

  /// Frees the id and the access list of a slot, which is dead from here on.
  func forget(_ slot: UInt32) {
    forest.dropList(access[slot])
    access[slot] = 0
    idTable.remove(generation.ids[slot], ids: generation.ids)
    deadCount += 1
  }

  /// Takes all vectors from a tenant; the vectors stay. Returns how many it had.
  func dropTenant(_ tenant: TenantID) -> Int {
    _ = load(tenant)
    let root = self.root(of: tenant)
    for slot in forest.slots(root.root) {
      access[slot] = forest.removing(tenant, from: access[slot]) ?? access[slot]
    }
    forest.drop(root.root)
    if root.root != 0 { roots[tenant] = 0 }
    setGroups([], of: tenant)
    grantCount -= Int(root.count)
    forgetIfEmpty(tenant)
    return Int(root.count)
  }

  func setGroups(_ list: [TenantID], of tenant: TenantID) {
    guard !list.isEmpty || groups.exists(tenant) else { return }
    groups.ensure(tenant)
    forest.dropList(groups[tenant])
    groups[tenant] = forest.makeList(Set(list).sorted())
    if list.isEmpty { forgetIfEmpty(tenant) } else { tenants.insert(tenant) }
  }

  private func forgetIfEmpty(_ tenant: TenantID) {
    if root(of: tenant).count == 0 && groups(of: tenant).isEmpty && offloaded[tenant] == nil { tenants.remove(tenant) }
  }

  /// Shows the session to readers. Lists of rights first: a reader that finds a right missing looks again.
  func publish(_ epochs: Epochs) {
    forest.seal()
    access.publish()
    groups.publish()
    roots.publish()
    forest.reclaim(epochs)
  }

  // MARK: training and tuning

  /// Vectors of the tenant that has most, of those that are not offloaded.
  var greatestSize: Int {
    tenants.members.reduce(0) { offloaded[$1] == nil ? max($0, Int(root(of: $1).count)) : $0 }
  }

  /// At most `limit` vectors, any as likely as another, as `[count, padded]` f32.
  func sample(_ limit: Int, seed: UInt64) -> (rows: [Float], count: Int) {
    var random = SplitMix64(state: seed)
    var slots = (0..<slotCount).filter { isAlive($0) }
    slots.keepRandom(limit, using: &random)
    let padded = generation.encoding.padded
    let rows = [Float](unsafeUninitializedCapacity: max(1, slots.count * padded)) { rows, count in
      for (i, slot) in slots.enumerated() {
        UnsafeMutableRawPointer(rows.baseAddress! + i * padded).copyMemory(
          from: generation.floats.row(slot), byteCount: padded * 4)
      }
      if slots.isEmpty { rows[0] = 0 }
      count = max(1, slots.count * padded)
    }
    return (rows, slots.count)
  }

  /// Queries by size class of the tenants that they are asked as.
  ///
  /// Half are vectors of the tenant itself and half vectors of anybody: a query from outside of a tenant's clusters needs
  /// more patience than one from inside.
  func tuningQueries(perClass: Int, seed: UInt64) -> [Int: [TuningQuery]] {
    var random = SplitMix64(state: seed)
    var byClass: [Int: [TenantID]] = [:]
    for tenant in tenants {
      let count = root(of: tenant).count
      if count > 0 && offloaded[tenant] == nil {
        byClass[PatienceTable.sizeClass(Int(count)), default: []].append(tenant)
      }
    }
    var queries: [Int: [TuningQuery]] = [:]
    func query(_ population: TuningQuery.Population, _ slot: UInt32, _ tenant: TenantID) -> TuningQuery {
      TuningQuery(
        population: population, vector: generation.vector(at: slot), id: generation.ids[slot], tenant: tenant)
    }
    for (sizeClass, members) in byClass.sorted(by: { $0.key < $1.key }) {
      // Every tenant of the class in turn, from a random one on.
      var next = Int(random.next() % UInt64(members.count))
      var slots: [TenantID: [UInt32]] = [:]
      // Each is compared with all that its tenant has.
      let affordable = Self.tuningComparisons >> (sizeClass + 1)
      for i in 0..<min(perClass, max(Self.fewestTuningQueries, affordable)) {
        let tenant = members[next]
        next = (next + 1) % members.count
        if i % 2 == 0 {
          if slots[tenant] == nil { slots[tenant] = forest.slots(root(of: tenant).root) }
          let own = slots[tenant]!
          queries[sizeClass, default: []].append(
            query(.own, own[Int(random.next() % UInt64(own.count))], tenant))
        } else {
          let slot = UInt32(random.next() % UInt64(slotCount))
          if isAlive(slot) { queries[sizeClass, default: []].append(query(.anybodys, slot, tenant)) }
        }
      }
    }
    return queries
  }

  private static let tuningComparisons = 1 << 25
  private static let fewestTuningQueries = 400

  // MARK: another generation

  /// What is there now; no session may be open.
  func snapshot() -> GenerationSnapshot {
    let slots = (0..<slotCount).filter { isAlive($0) }
    return GenerationSnapshot(
      generation: generation, slots: slots, access: slots.map { access[$0] }, owners: owners,
      tenants: Array(tenants), groups: tenants.map { groups.exists($0) ? groups[$0] : 0 }, offloaded: offloaded,
      parked: parked, spill: spill)
  }

  /// A copy of all that lived over another clustering tree, in the order of its leaves; the same input gives the same
  /// slots and the same trees.
  convenience init(config: VectorConfig, copying source: GenerationSnapshot, over tree: ClusterTree) {
    self.init(config: config, tree: tree, expecting: source.slots.count)
    let (old, encoding) = (source.generation, generation.encoding)
    let order = withUnsafeTemporaryAllocation(byteCount: encoding.codeRowBytes, alignment: 64) { row in
      source.slots.indices.map { i -> (path: UInt64, id: VectorID, index: Int) in
        let floats = old.floats.row(source.slots[i]).assumingMemoryBound(to: Float.self)
        encoding.encodeCodes(floats, to: row.baseAddress!)
        return (tree.path(codeRow: row.baseAddress!, kernels: kernels), old.ids[source.slots[i]], i)
      }
    }.sorted { ($0.path, $0.id) < ($1.path, $1.id) }
    var members: [TenantID: [UInt32]] = [:]
    for (_, id, i) in order {
      let slot = source.slots[i]
      let owner = source.owners[slot]
      let new = insert(id, copying: old.floats.row(slot), owner: owner == .max ? nil : owner)
      let granted = source.numbers(source.access[i])
      access[new] = forest.makeList(granted)
      grantCount += granted.count
      for tenant in granted where source.offloaded[tenant] == nil { members[tenant, default: []].append(new) }
    }
    (parked, spill) = (source.parked, source.spill)
    grantCount += parked.count
    for (tenant, state) in source.offloaded.sorted(by: { $0.key < $1.key }) {
      var state = state
      state.isShaped = false
      keep(state, of: tenant)
    }
    for (tenant, groups) in zip(source.tenants, source.groups) {
      if let slots = members[tenant] {
        let root = forest.build(slots, cluster: 0, level: 0, paths: generation.paths)
        roots.ensure(tenant)
        roots[tenant] = TenantRoot(root: root, count: UInt32(slots.count)).word
      }
      setGroups(source.numbers(groups), of: tenant)
      tenants.insert(tenant)
    }
  }

  // MARK: checks

  /// Checks all invariants, and that trees and access lists say the same; throws `VectorError.corrupt`.
  func verify() throws {
    try generation.tree.verify()
    let elsewhere = try verifyOffloaded()
    var (live, granted) = (0, parked.count)
    for slot in 0..<slotCount where isAlive(slot) {
      live += 1
      let tenants = forest.numbers(access[slot])
      granted += tenants.count
      for (i, tenant) in tenants.enumerated() {
        if i > 0 && tenants[i - 1] >= tenant { throw VectorError.corrupt("access list of slot \(slot) out of order") }
        let holds =
          elsewhere[tenant]?.contains(generation.ids[slot])
          ?? forest.contains(slot, path: generation.paths[slot], in: root(of: tenant).root)
        guard holds else {
          throw VectorError.corrupt("slot \(slot) is granted to tenant \(tenant), whose tree lacks it")
        }
      }
    }
    guard live == liveCount, live == idTable.count else {
      throw VectorError.corrupt("\(live) live vectors, \(liveCount) counted, \(idTable.count) ids")
    }
    var held = 0
    for tenant in tenants {
      let root = root(of: tenant)
      let count = try elsewhere[tenant]?.count ?? forest.verify(root.root, paths: generation.paths)
      guard count == root.count else {
        throw VectorError.corrupt("tenant \(tenant) has \(count) vectors in its tree and \(root.count) counted")
      }
      held += count
    }
    // Every right is in a tree and there are as many slots in trees as rights: so they are the same.
    guard held == granted, held == grantCount else {
      throw VectorError.corrupt("\(held) slots in trees, \(granted) rights, \(grantCount) counted")
    }
  }

  /// Bytes by part; `vectors` are the f32 rows.
  var memory: VectorMemory {
    let rowBytes = generation.encoding.floatRowBytes
    return VectorMemory(
      vectors: Int(slotCount) * rowBytes,
      codes: generation.codes.map { Int(slotCount) * $0.rowBytes } ?? 0,
      clusteringTree: generation.tree.nodeCount * (14 + generation.tree.centroids.rowBytes),
      // Two states of the access handle, id, path and owner.
      columns: Int(slotCount) * (8 + 8 + 8 + 4) + idTable.bytes,
      trees: generation.slab.usedBytes, tenants: roots.bytes + groups.bytes,
      // A dictionary is at most three quarters full.
      offloaded: parked.capacity * 16 + offloaded.values.reduce(0) { $0 + $1.residentBytes },
      onDisk: offloaded.values.reduce(0) { $0 + $1.packed.byteCount - $1.packed.residentBytes })
  }
}
