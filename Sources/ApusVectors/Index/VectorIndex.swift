import ApusKernels
import KernelInterface
import Synchronization

/// One store of vectors that many tenants share: each query sees the vectors that its tenant was granted, and nothing else
/// can be seen.
///
/// ```swift
/// let index = try VectorIndex(VectorConfig(dim: 384))
/// try index.write { try $0.upsert(7, vector, owner: 1, shareWith: [2, 3]) }  // readers see all of it or nothing
/// let found = try index.search(query, as: 2)
/// ```
///
/// One writer at a time; readers never wait. A query sees each tenant's tree as it was at one moment, and a revoke that
/// has returned is seen by every query that starts afterwards. After Jin et al., "Curator: Efficient Vector Search with
/// Low-Selectivity Filters" (arXiv 2601.01291), without its Bloom filters: tenants' trees are explicit.
public final class VectorIndex: Sendable {
  public let config: VectorConfig
  private let epochs = Epochs()
  /// The generation of readers, kept alive by `writer` until no reader is inside that saw it.
  private let current: Atomic<UInt>
  let writer: Mutex<WriterState>
  /// Held while a generation is copied; it is taken before `writer`.
  private let rebuilding = Mutex(())
  /// One per place in `epochs`: whoever holds the place uses it.
  private let searches: Searches
  /// The tuning of readers, kept alive as `current` is: a lock would be taken by every query.
  private let tuning: Atomic<UInt>

  /// Immutable.
  final class Tuning: Sendable {
    let table: PatienceTable
    init(_ table: PatienceTable) { self.table = table }
  }

  struct WriterState {
    var writer: GenerationWriter
    var tuning: Tuning
    /// Generations and tunings that readers may still be in.
    var retired: [(tag: UInt64, object: AnyObject)] = []
    /// While a generation is copied.
    var journal: ChangeJournal?
  }

  /// `@unchecked Sendable`: element `i` is used only by the thread that holds place `i`.
  private final class Searches: @unchecked Sendable {
    private var all = [TreeSearch?](repeating: nil, count: Epochs.places)
    func use(_ place: Int) -> TreeSearch {
      all.withUnsafeMutableBufferPointer { all in
        if let search = all[place] { return search }
        let search = TreeSearch()
        all[place] = search
        return search
      }
    }
  }

  /// An empty index. Throws `VectorError.configuration`.
  public convenience init(_ config: VectorConfig) throws {
    try config.validate()
    self.init(GenerationWriter(config: config, tree: ClusterTree(dim: config.dim)))
  }

  init(_ writer: GenerationWriter) {
    config = writer.config
    current = Atomic(Self.address(writer.generation))
    let untuned = Tuning(PatienceTable())
    tuning = Atomic(Self.address(untuned))
    self.writer = Mutex(WriterState(writer: writer, tuning: untuned))
    searches = Searches()
  }

  private static func address(_ object: AnyObject) -> UInt {
    UInt(bitPattern: Unmanaged.passUnretained(object).toOpaque())
  }

  // MARK: reading

  /// The vectors of `tenant`, and of the groups that it is in, that are nearest to `query` (`[dim]`): min(k, as many as
  /// it has), nearest first, equals by id. An unknown tenant has none. `filter` and `among` narrow that further.
  ///
  /// Throws `VectorError.dimension`, `.notFinite`, `.zeroVector`, `.parameter`, `.offloaded`.
  public func search(
    _ query: [Float], as tenant: TenantID, filter: AccessFilter? = nil, among: VectorIDSet? = nil,
    options: SearchOptions = SearchOptions()
  ) throws -> SearchResult {
    try query.withUnsafeBufferPointer {
      try search($0, as: [tenant], filter: filter, among: among, options: options)
    }
  }

  /// The same for the union of what several tenants have.
  public func search(
    _ query: UnsafeBufferPointer<Float>, as tenants: [TenantID], filter: AccessFilter? = nil,
    among: VectorIDSet? = nil, options: SearchOptions = SearchOptions()
  ) throws -> SearchResult {
    try options.validate()
    if let depth = filter?.depth, depth > AccessFilter.maximumDepth {
      throw VectorError.parameter(
        "the filter's depth", seen: "\(depth)", expected: "at most \(AccessFilter.maximumDepth)")
    }
    return try read { generation, search in
      try search.prepare(query, encoding: generation.encoding)
      while true {
        let view = RightsView(tenants, in: generation)
        try view.requireWhole()
        if let result = try run(search, view, filter, among, generation, options) { return result }
      }
    }
  }

  /// Whether `tenant` itself was granted `id` at this moment. Takes the writer's lock.
  public func isGranted(_ id: VectorID, to tenant: TenantID) -> Bool {
    writer.withLock { state in
      state.writer.slot(of: id).map { state.writer.tenants(of: $0).contains(tenant) }
        ?? (state.writer.parked[id] == tenant)
    }
  }

  /// Whether a vector has this id at this moment. Takes the writer's lock.
  func contains(_ id: VectorID) -> Bool { writer.withLock { $0.writer.contains(id) } }

  /// The ids that `tenant` may see, its groups' included, and that pass `filter`, ascending. O(n log n). Throws
  /// `VectorError.offloaded`.
  public func ids(of tenant: TenantID, filter: AccessFilter? = nil) throws -> [VectorID] {
    try read { generation, _ in
      let view = RightsView([tenant], in: generation)
      try view.requireWhole()
      return ids(view, filter: filter, in: generation).sorted()
    }
  }

  private func ids(_ view: RightsView, filter: AccessFilter?, in generation: Generation) -> Set<VectorID> {
    let forest = TenantForest(tree: generation.tree, slab: generation.slab, capacity: config.bufferCapacity)
    var ids: Set<VectorID> = []
    for root in view.roots {
      forest.forEachList(root) { slots in
        for slot in slots where filter == nil || view.covers(slot, filter: filter, in: generation) {
          ids.insert(generation.ids[slot])
        }
      }
    }
    return ids
  }

  /// The same, with what offloaded tenants have, which is read from disk. Takes the writer's lock.
  public func idsWithOffloaded(of tenant: TenantID) -> [VectorID] {
    writer.withLock { state in
      let view = RightsView([tenant], in: state.writer.generation)
      var all = ids(view, filter: nil, in: state.writer.generation)
      for tenant in view.offloaded { all.formUnion(state.writer.offloaded[tenant]?.ids() ?? []) }
      return all.sorted()
    }
  }

  /// The stored vector (under cosine: scaled to length 1), or nil when there is none that `tenant` may see. Takes the
  /// writer's lock. Throws `VectorError.offloaded` for one that it sees only by an offloaded tenant's right.
  public func vector(_ id: VectorID, as tenant: TenantID) throws -> [Float]? {
    try writer.withLock { state in
      let generation = state.writer.generation
      let view = RightsView([tenant], in: generation)
      let slot = state.writer.slot(of: id)
      if let slot, view.covers(slot, filter: nil, in: generation) { return generation.vector(at: slot) }
      let granted = slot.map { state.writer.tenants(of: $0) } ?? state.writer.parked[id].map { [$0] } ?? []
      if let away = view.offloaded.first(where: granted.contains) { throw VectorError.offloaded(away) }
      return nil
    }
  }

  /// Offloaded tenants go to a file without a name in `folder` from here on.
  func spill(to folder: String) { writer.withLock { $0.writer.spill = SpillFile(folder: folder) } }

  /// Vectors that a tenant was granted itself, also while it is offloaded.
  public func count(of tenant: TenantID) -> Int {
    read { generation, _ in Int(TenantRoot(generation.roots.load(tenant) ?? 0).count) }
  }

  /// Runs `body` inside an epoch: the generation and all it leads to stay as they are.
  private func read<R>(_ body: (Generation, TreeSearch) throws -> R) rethrows -> R {
    let place = epochs.enter()
    defer { epochs.leave(place) }
    let address = current.load(ordering: .sequentiallyConsistent)
    let generation = Unmanaged<Generation>.fromOpaque(UnsafeRawPointer(bitPattern: address)!)
    return try generation._withUnsafeGuaranteedRef { try body($0, searches.use(place)) }
  }

  /// Of use only inside an epoch.
  private func tuned(_ size: Int, _ target: Double?) -> (patience: Double, target: Double?) {
    let address = tuning.load(ordering: .sequentiallyConsistent)
    return Unmanaged<Tuning>.fromOpaque(UnsafeRawPointer(bitPattern: address)!)._withUnsafeGuaranteedRef {
      $0.table.patience(size: size, target: target)
    }
  }

  /// One attempt; nil when rights changed while it ran and a result was not covered any more.
  private func run(
    _ search: TreeSearch, _ view: RightsView, _ filter: AccessFilter?, _ among: VectorIDSet?,
    _ generation: Generation, _ options: SearchOptions
  ) throws -> SearchResult? {
    search.search(
      view, filter: filter, among: among, in: generation, options: options, capacity: config.bufferCapacity
    ) { size in options.patience.map(Double.init) ?? tuned(size, options.targetRecall).patience }
    var neighbours: [Neighbour] = []
    neighbours.reserveCapacity(search.best.entries.count)
    for entry in search.best.entries {
      let slot = ScoredNumber.number(entry)
      // The exit: a slot leaves only if its own access list says so, whatever the trees said.
      guard view.covers(slot, filter: filter, in: generation) else {
        if view.isCurrent(in: generation) {
          throw VectorError.isolation("slot \(slot), generation of \(generation.tree.nodeCount) clusters")
        }
        return nil
      }
      let distance = generation.encoding.distance(score: ScoredNumber.score(entry))
      neighbours.append(Neighbour(id: generation.ids[slot], distance: distance))
    }
    neighbours.sort { ($0.distance, $0.id) < ($1.distance, $1.id) }
    return SearchResult(
      neighbours: neighbours, scanned: search.scanned, nodes: search.scoredNodes, lists: search.lists)
  }

  // MARK: writing

  /// Makes changes that readers see together when `body` returns, each tenant's at one moment. What `body` did before it
  /// threw stays.
  @discardableResult
  public func write<R>(_ body: (VectorWriter) throws -> R) rethrows -> R {
    try writer.withLock { state in
      defer {
        state.writer.publish(epochs)
        release(&state)
      }
      return try body(VectorWriter(state.writer, journal: state.journal))
    }
  }

  private func release(_ state: inout WriterState) {
    guard !state.retired.isEmpty else { return }
    let oldest = epochs.oldestInside()
    state.retired.removeAll { $0.tag < oldest }
  }

  // MARK: the clustering tree

  /// Trains a clustering tree on a sample of what is stored and rebuilds all tenants' trees over it. Readers and writers
  /// go on. Deleted vectors are gone afterwards and the rest lies in the order of the leaves.
  ///
  /// `progress` gets 0…1 and may throw to stop: then nothing has changed.
  public func train(
    _ options: TrainingOptions = TrainingOptions(), sample limit: Int = trainingSample,
    progress: (Double) throws -> Void = { _ in }
  ) throws {
    rebuild(over: try trainedTree(options, sample: limit, progress: progress))
  }

  /// Copies all that is alive, over `tree` or the same tree, and lets readers see the copy: as it was when `beginning`
  /// called what it is given, and what has changed since.
  func rebuild(over tree: ClusterTree?, beginning: (_ snapshot: () -> Void) throws -> Void) rethrows {
    try rebuilding.withLock { _ in
      let next = try copy(over: tree, beginning: beginning)
      var round = 0
      while let changes = catchUp(next, mustEnd: round == Self.catchUpRounds) {
        Self.apply(changes, to: next)
        round += 1
      }
    }
  }

  func rebuild(over tree: ClusterTree?) { rebuild(over: tree) { $0() } }

  private func copy(
    over tree: ClusterTree?, beginning: (_ snapshot: () -> Void) throws -> Void
  ) rethrows -> GenerationWriter {
    let place = epochs.enter()
    defer { epochs.leave(place) }
    var source: GenerationSnapshot?
    try beginning {
      source = writer.withLock { state in
        state.journal = ChangeJournal()
        return state.writer.snapshot()
      }
    }
    guard let source else { preconditionFailure("a rebuilding began without a snapshot") }
    return GenerationWriter(config: config, copying: source, over: tree ?? source.generation.tree)
  }

  private static let catchUpRounds = 8
  /// Writers wait while so many changes are repeated: a few milliseconds.
  private static let catchUpAtOnce = 1000

  /// Makes `next` the current generation, or takes the changes that it lacks while there are many.
  private func catchUp(_ next: GenerationWriter, mustEnd: Bool) -> [Mutation]? {
    writer.withLock { state in
      let changes = state.journal?.changes ?? []
      guard mustEnd || changes.count <= Self.catchUpAtOnce else {
        state.journal?.changes = []
        return changes
      }
      Self.apply(changes, to: next)
      state.journal = nil
      adopt(next, &state)
      return nil
    }
  }

  private static func apply(_ changes: [Mutation], to next: GenerationWriter) {
    let writer = VectorWriter(next, journal: nil)
    for change in changes { _ = apply(change, writer) }
  }

  /// Runs `body` while no generation is being copied.
  func withoutRebuilding<R>(_ body: () throws -> R) rethrows -> R { try rebuilding.withLock { _ in try body() } }

  /// Trains as `train` does and returns the tree without using it. Writers wait only while the sample is copied.
  func trainedTree(
    _ options: TrainingOptions, sample limit: Int, progress: (Double) throws -> Void
  ) throws -> ClusterTree {
    let sample = writer.withLock { $0.writer.sample(limit, seed: options.seed) }
    return try sample.rows.withUnsafeBufferPointer { rows in
      var training = ClusterTraining(
        config: config, encoding: VectorEncoding(dim: config.dim, metric: config.metric), options: options,
        vectors: rows.baseAddress!, count: sample.count)
      return try training.train(progress: progress)
    }
  }

  /// Rebuilds over the same clustering tree: gives the memory of deleted vectors back. Readers and writers go on.
  public func compact() { rebuild(over: nil) }

  private func adopt(_ next: GenerationWriter, _ state: inout WriterState) {
    next.publish(epochs)
    let old = state.writer.generation
    current.store(Self.address(next.generation), ordering: .sequentiallyConsistent)
    state.retired.append((epochs.advance(), old))
    state.writer = next
    release(&state)
  }

  // MARK: tuning

  /// Fits the patience of each size class of tenants so that recall at `options.k` reaches each of `targets`; the last is
  /// what searches take that name none. Exact search is the truth, and queries are made from what is stored. Other targets
  /// keep what was found for them. Readers and writers go on.
  ///
  /// `progress` gets 0…1 and may throw to stop: then nothing has changed.
  public func tune(
    targets: [Double], options: SearchOptions = SearchOptions(), queriesPerClass: Int = 2000, seed: UInt64 = 7,
    progress: (Double) throws -> Void = { _ in }
  ) throws {
    let table = try tuned(
      targets: targets, options: options, queriesPerClass: queriesPerClass, seed: seed, progress: progress)
    adopt(table)
  }

  /// What `tune` would set.
  func tuned(
    targets: [Double], options: SearchOptions, queriesPerClass: Int, seed: UInt64, progress: (Double) throws -> Void
  ) throws -> PatienceTable {
    try options.validate()
    for target in targets where !(target > 0 && target <= 1) {
      throw VectorError.parameter("target recall", seen: "\(target)", expected: "above 0, at most 1")
    }
    let byClass = writer.withLock { $0.writer.tuningQueries(perClass: queriesPerClass, seed: seed) }
    let total = byClass.values.reduce(0) { $0 + $1.count }
    var done = 0
    let curves = try byClass.sorted { $0.key < $1.key }.map { sizeClass, queries in
      var curves: [TuningQuery.Population: RecallCurve] = [:]
      for query in queries {
        if done % 32 == 0 { try progress(Double(done) / Double(total)) }
        curves[query.population, default: RecallCurve()].add(try recallTrace(query, options))
        done += 1
      }
      return (sizeClass, curves)
    }
    try progress(1)
    return targets.reduce(PatienceTable()) { table, target in
      // The target is for either kind of question.
      let classes = Dictionary(
        uniqueKeysWithValues: curves.map { ($0, $1.values.map { $0.patience(for: target) }.max() ?? 1) })
      return table.merged(with: PatienceTable(target: target, classes: classes))
    }
  }

  func recallTrace(_ query: TuningQuery, _ options: SearchOptions) throws -> RecallTrace {
    try read { generation, search in
      try query.vector.withUnsafeBufferPointer { try search.prepare($0, encoding: generation.encoding) }
      return search.recallTrace(
        RightsView([query.tenant], in: generation), leavingOut: query.id, in: generation, options: options)
    }
  }

  func adopt(_ table: PatienceTable) {
    writer.withLock { state in
      let (old, next) = (state.tuning, Tuning(state.tuning.table.merged(with: table)))
      tuning.store(Self.address(next), ordering: .sequentiallyConsistent)
      state.retired.append((epochs.advance(), old))
      state.tuning = next
      release(&state)
    }
  }

  /// Throws what storing `vector` would throw.
  func check(_ vector: [Float]) throws {
    try vector.withUnsafeBufferPointer { try VectorEncoding(dim: config.dim, metric: config.metric).check($0) }
  }

  /// The patience that a search takes for a tenant of `size` vectors, and the recall that it was tuned for
  /// (`SearchOptions.targetRecall`).
  public func patience(size: Int, targetRecall: Double? = nil) -> (patience: Double, target: Double?) {
    read { _, _ in tuned(size, targetRecall) }
  }

  /// Whether a tenant has grown beyond the sizes that searches were tuned for, so that their patience there is a guess.
  /// O(tenants).
  public var hasUntunedSizes: Bool {
    writer.withLock { state in
      guard let tuned = state.tuning.table.greatestTuned else { return false }
      return state.writer.greatestSize >= 1 << (tuned + 1)
    }
  }

  /// The recalls that searches were tuned for, the latest last.
  public var tunedTargets: [Double] { writer.withLock { $0.tuning.table.targets } }

  // MARK: state

  /// Checks all invariants; throws `VectorError.corrupt`. Writers wait.
  public func verify() throws { try writer.withLock { try $0.writer.verify() } }

  /// The sections of a checkpoint (`ImageSection`). Writers wait.
  func writeImage(
    section: (ImageSection) throws -> Void, bytes: (UnsafeRawBufferPointer) throws -> Void
  ) throws {
    try writer.withLock { try $0.writer.writeImage(tuning: $0.tuning.table, section: section, bytes: bytes) }
  }

  /// The index that `writeImage` wrote.
  convenience init(
    image section: (ImageSection) throws -> UnsafeMutableRawBufferPointer, owner: AnyObject
  ) throws {
    let (writer, table) = try GenerationWriter.readImage(section: section, owner: owner)
    self.init(writer)
    self.writer.withLock { $0.writer.publish(epochs) }
    adopt(table)
  }

  /// Copies the floats that are used where their image lies into memory in large pages: reads in no order cost less there.
  /// Readers and writers go on. `moved` gets how many of the image's bytes are still used, after each chunk.
  func makeResident(moved: (_ adoptedBytes: Int) throws -> Void) rethrows {
    try rebuilding.withLock { _ in
      let floats = writer.withLock { $0.writer.generation.floats }
      while !floats.adoptedChunks.isEmpty {
        let copy = floats.copyOfLastAdopted()
        writer.withLock { _ in floats.replaceLastAdopted(with: copy) }
        try moved(floats.adoptedBytes)
      }
    }
  }

  /// Of the floats of an image, those that are used where they lie.
  var adoptedFloatBytes: Int { writer.withLock { $0.writer.generation.floats.adoptedBytes } }

  public var memory: VectorMemory { writer.withLock { $0.writer.memory } }

  public var stats: VectorStats {
    writer.withLock { state in
      VectorStats(
        vectors: state.writer.liveCount + state.writer.parked.count, deleted: state.writer.deadCount,
        tenants: state.writer.tenants.count,
        grants: state.writer.grantCount, clusters: state.writer.generation.tree.nodeCount)
    }
  }
}

public struct VectorStats: Sendable, Codable, Equatable {
  public var vectors: Int
  /// Deleted since the last compaction.
  public var deleted: Int
  public var tenants: Int
  public var grants: Int
  public var clusters: Int
}

// MARK: - For benchmarks

extension VectorIndex {
  /// At most `count` ids, any as likely as another.
  package func someIDs(_ count: Int, using random: inout some RandomNumberGenerator) -> [VectorID] {
    let all = writer.withLock { state in
      (0..<state.writer.slotCount).filter { state.writer.isAlive($0) }.map { state.writer.generation.ids[$0] }
    }
    return Array(all.shuffled(using: &random).prefix(count))
  }

  /// At most `count` tenants, any as likely as another.
  package func someTenants(_ count: Int, using random: inout some RandomNumberGenerator) -> [TenantID] {
    Array(writer.withLock { Array($0.writer.tenants) }.shuffled(using: &random).prefix(count))
  }

  /// Brings every page of the vectors into memory; returns a mixture of its bytes, so that the reads stay.
  @inline(never) @discardableResult
  package func touchVectors() -> UInt8 {
    writer.withLock { state -> UInt8 in
      let floats = state.writer.generation.floats
      var seen: UInt8 = 0
      for slot in 0..<state.writer.slotCount {
        for byte in stride(from: 0, to: floats.rowBytes, by: 4096) {
          seen ^= floats.row(slot).load(fromByteOffset: byte, as: UInt8.self)
        }
      }
      return seen
    }
  }

  /// The stored vector, whoever may see it; zeros for an unknown id.
  package func anyVector(_ id: VectorID) -> [Float] {
    writer.withLock { state in
      guard let slot = state.writer.slot(of: id) else { return [Float](repeating: 0, count: config.dim) }
      return state.writer.generation.vector(at: slot)
    }
  }
}
