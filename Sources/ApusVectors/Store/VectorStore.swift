import Synchronization

/// A vector index in a folder: every change is in the log before it is acknowledged, checkpoints open by mapping, and
/// nothing that was acknowledged is lost or comes back in a crash.
///
/// ```swift
/// let store = try VectorStore.create("store", VectorConfig(dim: 384))
/// try store.commit([.upsert(id: 1, vector: v, owner: 7, shareWith: [8])])
/// let found = try store.index.search(v, as: 8)
/// ```
///
/// A commit is atomic: after a crash all of it is there or nothing. One that trains or compacts is several: what stands
/// before it, itself, and what follows.
public final class VectorStore: Sendable {
  public let index: VectorIndex
  private let directory: StoreDirectory
  /// Held while changes are logged and applied: the order in the log is the order in memory.
  private let order = Mutex(())
  /// The checkpoint that was opened, while the index works in it.
  private weak let segment: SegmentFile?

  private init(index: VectorIndex, directory: StoreDirectory, segment: SegmentFile? = nil) {
    self.index = index
    self.directory = directory
    self.segment = segment
  }

  /// Makes a store in a folder that does not exist or is empty. Throws `VectorError.configuration`, `DurabilityError`.
  public static func create(_ path: String, _ config: VectorConfig) throws -> VectorStore {
    try create(path, config, layer: SystemFileLayer())
  }

  package static func create(_ path: String, _ config: VectorConfig, layer: any FileLayer) throws -> VectorStore {
    let index = try VectorIndex(config)
    try StoreDirectory.create(path, layer: layer)
    index.spill(to: path)
    let directory = try StoreDirectory(opening: path, layer: layer, load: { _ in }, apply: { _, _, _ in })
    let store = VectorStore(index: index, directory: directory)
    // The configuration is part of the first checkpoint.
    try store.checkpoint()
    return store
  }

  /// Opens a store and replays its log; `replayed` gets each record with its number.
  ///
  /// Throws `DurabilityError` (locked by another process, not a store, damaged: with the way out) and `VectorError`.
  public static func open(
    _ path: String, salvage: Bool = false, replayed: (UInt64, Mutation) throws -> Void = { _, _ in }
  ) throws -> VectorStore {
    try open(path, salvage: salvage, layer: SystemFileLayer(), replayed: replayed)
  }

  package static func open(
    _ path: String, salvage: Bool = false, layer: any FileLayer,
    replayed: (UInt64, Mutation) throws -> Void = { _, _ in }
  ) throws -> VectorStore {
    var index: VectorIndex?
    weak var opened: SegmentFile?
    // Readers see a batch at once, so a replay of single records would publish a million times.
    var batch: [Mutation] = []
    let directory = try StoreDirectory(
      opening: path, layer: layer, options: .init(isSalvaging: salvage, verifiesSegment: true)
    ) { segment in
      guard let segment else {
        throw VectorError.corrupt("\(path) has no checkpoint: it was not completely created")
      }
      opened = segment
      index = try VectorIndex(
        image: { section in
          segment.contains(section.rawValue)
            ? try segment.section(section.rawValue) : UnsafeMutableRawBufferPointer(start: nil, count: 0)
        }, owner: segment)
      index!.spill(to: path)
      // The index works in these two as they are mapped; of the others it has copies.
      for section in ImageSection.allCases
      where section != .floats && section != .slab && segment.contains(section.rawValue) {
        try segment.evict(section.rawValue)
      }
      if segment.contains(ImageSection.floats.rawValue) {
        try segment.evict(ImageSection.floats.rawValue, after: index!.adoptedFloatBytes)
      }
    } apply: { seq, type, payload in
      for part in try payload.withUnsafeBytes({ try Mutation(kind: type, payload: $0) }).parts {
        try replayed(seq, part)
        batch.append(part)
      }
      if batch.count >= 8192 {
        index!.apply(batch)
        batch.removeAll(keepingCapacity: true)
      }
    }
    index!.apply(batch)
    return VectorStore(index: index!, directory: directory, segment: opened)
  }

  /// Moves vectors that queries read from the mapped checkpoint into memory in large pages: queries of small tenants take
  /// 10 to 25 % less time, and the system can no longer take that memory back by itself. Readers and writers go on.
  public func makeResident() throws {
    try index.makeResident { try segment?.evict(ImageSection.floats.rawValue, after: $0) }
  }

  /// What opening found in the files.
  public var report: StoreDirectory.Report { directory.report }

  /// The number of the last record.
  public var lastSequence: UInt64 { directory.log.lastSeq }

  /// Checks all, logs all, applies all, and returns when all is on disk: the number of the last record, and how many
  /// mutations changed something.
  ///
  /// Throws `VectorError` (`unknownVector`, `dimension`, `notFinite`, `zeroVector`, `parameter`), and then nothing has
  /// changed; or `DurabilityError` when the disk refuses: what was not acknowledged may be there or not.
  @discardableResult
  public func commit(_ mutations: [Mutation]) throws -> (sequence: UInt64, changed: Int) {
    let mutations = mutations.flatMap(\.parts)
    guard !mutations.isEmpty else { return (lastSequence, 0) }
    // The copy is made without the lock that writers take.
    if let first = mutations.firstIndex(where: \.isRebuilding) {
      let before = try commit(Array(mutations[..<first]))
      try rebuild(mutations[first])
      let after = try commit(Array(mutations[(first + 1)...]))
      return (lastSequence, before.changed + 1 + after.changed)
    }
    let (sequence, changed) = try order.withLock { _ -> (UInt64, Int) in
      try check(mutations)
      let record = mutations.count == 1 ? mutations[0] : .batch(mutations)
      let sequence = try directory.log.append(type: record.kind, payload: record.payload)
      return (sequence, index.apply(mutations))
    }
    try directory.log.waitDurable(sequence)
    return (sequence, changed)
  }

  /// Readers and writers go on; the state afterwards is as if they had waited.
  private func rebuild(_ mutation: Mutation) throws {
    try index.check(mutation)
    var tree: ClusterTree?
    if case .adoptTree(let bytes) = mutation { tree = try bytes.withUnsafeBytes { try ClusterTree(decoding: $0) } }
    var sequence: UInt64 = 0
    try index.rebuild(over: tree) { snapshot in
      try order.withLock { _ in
        sequence = try directory.log.append(type: mutation.kind, payload: mutation.payload)
        snapshot()
      }
    }
    try directory.log.waitDurable(sequence)
  }

  /// As if the mutations came one after another.
  private func check(_ mutations: [Mutation]) throws {
    // What earlier mutations of this commit make of an id.
    var presence: [VectorID: Bool] = [:]
    for mutation in mutations {
      switch mutation {
      case .delete(let id), .grant(let id, _), .revoke(let id, _):
        switch presence[id] {
        case true?: if case .grant(_, let tenant) = mutation { try VectorWriter.check(tenant) }
        case false?: throw VectorError.unknownVector(id)
        case nil: try index.check(mutation)
        }
        if case .delete = mutation { presence[id] = false }
      default:
        try index.check(mutation)
        if case .upsert(let id, _, _, _) = mutation { presence[id] = true }
      }
    }
  }

  /// Trains a clustering tree on a sample and moves everything over it; the tree enters the log as what it is, so that a
  /// replica need not train. `progress` gets 0…1 and may throw to stop: then nothing has changed.
  public func train(
    _ options: TrainingOptions = TrainingOptions(), sample: Int = VectorIndex.trainingSample,
    progress: (Double) throws -> Void = { _ in }
  ) throws {
    let tree = try index.trainedTree(options, sample: sample, progress: progress)
    try commit([.adoptTree(tree.encoded())])
  }

  /// Fits patience to recalls (`VectorIndex.tune`) and keeps it.
  public func tune(
    targets: [Double], options: SearchOptions = SearchOptions(), queriesPerClass: Int = 2000, seed: UInt64 = 7,
    progress: (Double) throws -> Void = { _ in }
  ) throws {
    let table = try index.tuned(
      targets: targets, options: options, queriesPerClass: queriesPerClass, seed: seed, progress: progress)
    try commit([.tuning(table.encoded())])
  }

  /// Tunes anew for the recalls of before when a tenant has grown beyond the sizes that were tuned; says whether it did.
  @discardableResult
  public func tuneIfGrown(progress: (Double) throws -> Void = { _ in }) throws -> Bool {
    guard index.hasUntunedSizes else { return false }
    try tune(targets: index.tunedTargets, progress: progress)
    return true
  }

  /// Gives the memory of deleted vectors back; their bytes leave the disk with the next `checkpoint(erasing: true)`.
  public func compact() throws { try commit([.compact]) }

  /// Writes the state as it is and forgets the log before it. With `erasing` nothing of the state before stays on disk, and
  /// nothing to fall back to.
  public func checkpoint(erasing: Bool = false) throws {
    // What is being copied is in the log already and not yet in memory.
    try index.withoutRebuilding {
      try order.withLock { _ in
        let last = directory.log.lastSeq
        try directory.checkpoint(through: last, keepsPrevious: !erasing) { writer in
          try index.writeImage(
            section: { try writer.begin($0.rawValue) }, bytes: { try writer.write($0.bytes) })
        }
      }
    }
  }

  /// A copy that opens as a store, in a new or empty folder, while others write.
  public func snapshot(to path: String) throws { try directory.snapshot(to: path) }

  /// Checks all invariants of the index.
  public func verify() throws { try index.verify() }

  /// Ends the log and frees the folder for other processes.
  public func close() throws { try directory.close() }
}
