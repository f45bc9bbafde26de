import ApusVectors
import Crypto
import Foundation
import GRDB
import Synchronization

/// Points of many tenants in a folder: a vector store, and a catalogue of what belongs to each vector. Each tenant sees
/// its own points and those that it, or a group of its, was granted; nothing else can be seen, counted or inferred.
///
/// ```swift
/// let docs = try VectorCollection.create("docs", CollectionConfig(name: "docs", vectors: VectorConfig(dim: 384)))
/// try docs.upsert([Point("intro", vector: v, text: "…", shareWith: ["bob"])], as: Principal(tenant: "alice"))
/// let hits = try docs.search(Query(vector: q), as: Principal(tenant: "bob"))
/// ```
///
/// The vector store's log is the only source of truth: the catalogue's changes are records in it, and are applied again
/// from there after a crash. All verbs may be called from any thread; they block on the disk.
public final class VectorCollection: Sendable {
  public let config: CollectionConfig
  public let embedder: (any TextEmbedder)?
  let store: VectorStore
  let catalogue: Catalogue
  let tenants: Mutex<TenantDirectory>
  let cursorKey: SymmetricKey
  /// Seconds since 1970.
  let now: @Sendable () -> Int
  /// Seconds of a clock that never goes back.
  private let uptime: @Sendable () -> Double
  /// For tenants that have no quotas of their own.
  private let defaultQuotas: TenantQuotas
  /// SHA-256 of the embedding model's weights; nil while nobody has said them.
  let weights: Mutex<String?>
  let searchCounts = Mutex<[TenantID: SearchCounts]>([:])
  let meter = QueryMeter()
  /// Why nothing more can be written.
  private let failure = Mutex<String?>(nil)
  /// Vectors ever stored, those that are gone included, when the need of training was last looked at.
  private let lookedAt = Mutex<Int?>(nil)

  public static let systemClock: @Sendable () -> Int = { Int(Date().timeIntervalSince1970) }
  public static let systemUptime: @Sendable () -> Double = { Double(DispatchTime.now().uptimeNanoseconds) / 1e9 }

  private init(
    _ identity: Catalogue.Identity, store: VectorStore, catalogue: Catalogue, embedder: (any TextEmbedder)?,
    quotas: TenantQuotas, now: @escaping @Sendable () -> Int, uptime: @escaping @Sendable () -> Double
  ) throws {
    config = identity.config
    weights = Mutex(identity.weights)
    defaultQuotas = quotas
    self.uptime = uptime
    self.store = store
    self.catalogue = catalogue
    self.embedder = embedder
    self.now = now
    cursorKey = SymmetricKey(data: identity.cursorKey)
    tenants = Mutex(TenantDirectory(try catalogue.pool.read { try Catalogue.tenants(in: $0) }))
  }

  private static func vectors(_ path: String) -> String { "\(path)/vectors" }
  private static func catalogue(_ path: String) -> String { "\(path)/catalogue.sqlite" }

  /// Makes a collection in a folder that does not exist. A crash leaves it whole or not at all.
  ///
  /// Throws `unknownModel` for an embedding model that `embedder` does not have, and `invalid` for a dimension that is not
  /// the model's.
  public static func create(
    _ path: String, _ config: CollectionConfig, embedder: (any TextEmbedder)? = nil,
    quotas: TenantQuotas = TenantQuotas(), now: @escaping @Sendable () -> Int = systemClock,
    uptime: @escaping @Sendable () -> Double = systemUptime
  ) throws -> VectorCollection {
    try create(path, config, embedder: embedder, quotas: quotas, now: now, uptime: uptime, on: Disk())
  }

  /// What a collection's bytes pass on their way: tests put themselves between.
  struct Disk {
    var layer: any FileLayer = SystemFileLayer()
    /// Told of the catalogue's transactions.
    var observer: (any TransactionObserver & Sendable)?
  }

  static func create(
    _ path: String, _ config: CollectionConfig, embedder: (any TextEmbedder)?, quotas: TenantQuotas = TenantQuotas(),
    now: @escaping @Sendable () -> Int = systemClock, uptime: @escaping @Sendable () -> Double = systemUptime,
    on disk: Disk
  ) throws -> VectorCollection {
    try config.validate()
    var weights: String?
    if let model = config.embeddingModel {
      guard let embedder else { throw CollectionError.unknownModel(model, known: []) }
      let dim = try embedder.dim(of: model)
      guard config.vectors.dim == dim else {
        throw CollectionError.invalid(
          path: "dimension", seen: "\(config.vectors.dim)", expected: "\(dim), the size of the vectors of '\(model)'")
      }
      weights = try embedder.weightsDigest(of: model)
    }
    guard !FileManager.default.fileExists(atPath: path) else { throw CollectionError.exists("the folder \(path)") }
    let key = SymmetricKey(size: .bits256).withUnsafeBytes { Data($0) }
    let draft = "\(path).new-\(UUID().uuidString)"
    do {
      try FileManager.default.createDirectory(atPath: draft, withIntermediateDirectories: true)
      let store = try VectorStore.create(vectors(draft), config.vectors, layer: disk.layer)
      let changes = [.collection(config, cursorKey: key)] + (weights.map { [CatalogueChange.weights($0)] } ?? [])
      try store.commit(changes.map { try $0.note() })
      try store.close()
      try FileManager.default.moveItem(atPath: draft, toPath: path)
    } catch {
      try? FileManager.default.removeItem(atPath: draft)
      throw error
    }
    return try open(path, embedder: embedder, quotas: quotas, now: now, uptime: uptime, on: disk)
  }

  /// Opens a collection and brings its catalogue up to the log. With `salvage` a damaged log is read as far as it goes, and
  /// points whose vectors are lost are forgotten.
  ///
  /// Throws `CollectionError.corrupt`, `DurabilityError`, `VectorError`, or GRDB's `DatabaseError`.
  public static func open(
    _ path: String, salvage: Bool = false, embedder: (any TextEmbedder)? = nil,
    quotas: TenantQuotas = TenantQuotas(), now: @escaping @Sendable () -> Int = systemClock,
    uptime: @escaping @Sendable () -> Double = systemUptime
  ) throws -> VectorCollection {
    try open(path, salvage: salvage, embedder: embedder, quotas: quotas, now: now, uptime: uptime, on: Disk())
  }

  static func open(
    _ path: String, salvage: Bool = false, embedder: (any TextEmbedder)?, quotas: TenantQuotas = TenantQuotas(),
    now: @escaping @Sendable () -> Int = systemClock, uptime: @escaping @Sendable () -> Double = systemUptime,
    on disk: Disk
  ) throws -> VectorCollection {
    // The store first: it refuses a second process.
    let held = Mutex<VectorStore?>(nil)
    do {
      guard FileManager.default.fileExists(atPath: vectors(path)) else {
        throw CollectionError.notFound("the collection in \(path)")
      }
      let catalogue = try Catalogue(path: catalogue(path), observer: disk.observer)
      let identity = try catalogue.pool.write { database in
        var applier = try Catalogue.Applier(database)
        let store = try VectorStore.open(vectors(path), salvage: salvage, layer: disk.layer) { sequence, mutation in
          try applier.apply(mutation, sequence: sequence)
        }
        held.withLock { $0 = store }
        try Catalogue.setApplied(store.lastSequence, in: database)
        if salvage { try forgetLostPoints(store.index, in: database) }
        return try Catalogue.identity(in: database)
      }
      guard let identity, let store = held.withLock({ $0 }) else {
        throw CollectionError.corrupt("neither log nor catalogue in \(path) say what the collection is")
      }
      let points = try catalogue.pool.read { try Int.fetchOne($0, sql: "SELECT count(*) FROM point") } ?? 0
      guard points == store.index.stats.vectors || salvage else {
        throw CollectionError.corrupt(
          "\(points) points in the catalogue and \(store.index.stats.vectors) vectors in the store of \(path); "
            + "restore a snapshot, or open with salvage")
      }
      return try VectorCollection(
        identity, store: store, catalogue: catalogue, embedder: embedder, quotas: quotas, now: now, uptime: uptime)
    } catch {
      try? held.withLock { try $0?.close() }
      throw error
    }
  }

  private static func forgetLostPoints(_ index: VectorIndex, in database: Database) throws {
    let ids = try Int64.fetchAll(database, sql: "SELECT id FROM point").map { VectorID($0) }
    var applier = try Catalogue.Applier(database)
    let lost = index.write { writer in ids.filter { !writer.contains($0) } }
    for id in lost { try applier.apply(.delete(id: id)) }
  }

  public func close() throws {
    try catalogue.pool.close()
    try store.close()
  }

  // MARK: writing

  /// Changes that are being put together, in the order of the log.
  struct Batch {
    let database: Database
    private(set) var mutations: [Mutation] = []
    private var applier: Catalogue.Applier
    private var nextVector: Int64
    private var nextTenant: Int64

    fileprivate init(_ database: Database) throws {
      self.database = database
      applier = try Catalogue.Applier(database)
      nextVector = try Catalogue.number("nextVector", in: database)
      nextTenant = try Catalogue.number("nextTenant", in: database)
    }

    /// The catalogue changes at once, so that what follows in the batch sees it.
    mutating func append(_ mutation: Mutation) throws {
      try applier.apply(mutation)
      mutations.append(mutation)
    }

    mutating func append(_ change: CatalogueChange) throws { try append(change.note()) }

    mutating func newVector() -> VectorID {
      nextVector += 1
      return VectorID(nextVector - 1)
    }

    /// The tenant of this name, which is made if there is none.
    mutating func tenant(_ name: String, path: String) throws -> Tenant {
      if let tenant = try Catalogue.tenant(name, in: database) { return tenant }
      try Check.tenant(name, path: path)
      let id = TenantID(nextTenant)
      nextTenant += 1
      try append(.tenant(id: id, name: name))
      return Tenant(id: id, name: name)
    }
  }

  /// Runs `body` alone, then logs and applies what it put together: all of it or, if anything throws, nothing. Returns how
  /// many of the index's mutations changed something.
  @discardableResult
  func write(_ body: (inout Batch) throws -> Void) throws -> Int {
    try catalogue.pool.write { database in
      if let why = failure.withLock({ $0 }) { throw CollectionError.unusable(why) }
      var batch = try Batch(database)
      try body(&batch)
      guard !batch.mutations.isEmpty else { return 0 }
      do {
        let (sequence, changed) = try store.commit(batch.mutations)
        try Catalogue.setApplied(sequence, in: database)
        let all = batch.mutations.contains(where: \.changesTenants) ? try Catalogue.tenants(in: database) : nil
        if let all { tenants.withLock { $0 = TenantDirectory(all) } }
        return changed
      } catch let error as VectorError {
        // Refused before anything was logged.
        throw error
      } catch {
        failure.withLock { $0 = "\(error)" }
        throw error
      }
    }
  }

  // MARK: upkeep

  /// Deletes what has expired, by records in the log; returns how many.
  @discardableResult
  public func sweep() throws -> Int {
    try write { batch in
      let sql = "SELECT id FROM point WHERE expires <= ? ORDER BY id LIMIT ?"
      for id in try Int64.fetchAll(batch.database, sql: sql, arguments: [now(), Self.sweptAtOnce]) {
        try batch.append(.delete(id: VectorID(id)))
      }
    }
  }

  /// Writers wait for no longer than this many deletes take.
  private static let sweptAtOnce = 10_000

  /// Trains the clustering tree and, if asked, fits patience to a recall.
  public func train(
    targetRecall: Double? = nil, as principal: Principal, progress: (Double) throws -> Void = { _ in }
  ) throws {
    try principal.requireAdmin("train a collection")
    try store.train(progress: progress)
    if let targetRecall { try store.tune(targets: [targetRecall]) }
  }

  /// The recall that searches are tuned for where nobody has said another.
  private static let usualRecall = 0.95
  /// The collection is looked at again after so many new vectors.
  private static let vectorsBetweenLooks = 1000

  /// Trains the clustering tree if it would help, and tunes as before; says why it did. Tunes also when only tenants have
  /// grown. Readers and writers go on.
  public func trainIfNeeded() throws -> TrainingNeed? {
    let stats = store.index.stats
    let isDue = lookedAt.withLock { last in
      let stored = stats.vectors + stats.deleted
      guard last.map({ abs(stored - $0) >= Self.vectorsBetweenLooks }) ?? true else { return false }
      last = stored
      return true
    }
    guard isDue else { return nil }
    guard let need = store.index.trainingNeed() else {
      try store.tuneIfGrown()
      return nil
    }
    try store.train()
    let targets = store.index.tunedTargets
    try store.tune(targets: targets.isEmpty ? [Self.usualRecall] : targets)
    return need
  }

  /// Moves the vectors of an opened checkpoint into large pages (`VectorStore.makeResident`), unless they would take much
  /// of the machine's memory, which a mapped file does not.
  public func makeResident() throws {
    let affordable = ProcessInfo.processInfo.physicalMemory / Self.residentShare
    if store.index.memory.vectors <= affordable { try store.makeResident() }
  }

  private static let residentShare: UInt64 = 4

  /// Writes the state of both sides and forgets the log before it.
  public func checkpoint() throws { try checkpoint(erasing: false) }

  func checkpoint(erasing: Bool) throws {
    // No write may fall between the two: what the log forgets must be on the catalogue's disk.
    try catalogue.pool.barrierWriteWithoutTransaction { database in
      try Catalogue.flush(database)
      try store.checkpoint(erasing: erasing)
    }
  }

  /// A copy that opens as a collection, in a folder that does not exist. Readers go on, writers wait.
  public func snapshot(to path: String, as principal: Principal) throws {
    try principal.requireAdmin("make snapshots")
    guard !FileManager.default.fileExists(atPath: path) else { throw CollectionError.exists("the folder \(path)") }
    try FileManager.default.createDirectory(atPath: path, withIntermediateDirectories: true)
    try catalogue.pool.writeWithoutTransaction { database in
      try store.snapshot(to: Self.vectors(path))
      try database.execute(sql: "VACUUM INTO ?", arguments: [Self.catalogue(path)])
    }
  }

  /// Checks the index's invariants, and that each vector has its point.
  public func verify() throws {
    try store.verify()
    try catalogue.pool.write { database in
      let ids = try Int64.fetchAll(database, sql: "SELECT id FROM point").map { VectorID($0) }
      let lost = store.index.write { writer in ids.first { !writer.contains($0) } }
      if let lost { throw CollectionError.corrupt("the point \(lost) has no vector") }
      guard ids.count == store.index.stats.vectors else {
        throw CollectionError.corrupt("\(ids.count) points and \(store.index.stats.vectors) vectors")
      }
      try database.execute(sql: "INSERT INTO point_text (point_text, rank) VALUES ('integrity-check', 1)")
    }
  }

  /// All tenants' figures together: an administrator's.
  public func stats(as principal: Principal) throws -> VectorStats {
    try principal.requireAdmin("see what all tenants have")
    return store.index.stats
  }

  /// What the collection takes: an administrator's.
  public func bytes(as principal: Principal) throws -> CollectionBytes {
    try principal.requireAdmin("see what all tenants have")
    let memory = store.index.memory
    return CollectionBytes(
      vectors: memory.vectors + memory.codes, index: memory.index,
      payloads: Int(try catalogue.pool.read { try Catalogue.number("payloadBytes", in: $0) }))
  }

  /// SHA-256 of the embedding model's weights, in hex; nil while nobody has said them.
  public var weightsDigest: String? { weights.withLock { $0 } }

  // MARK: quotas

  /// A tenant's own quotas, and the defaults where it has none.
  func quotas(of tenant: Tenant?) -> TenantQuotas { tenant?.quotas.over(defaultQuotas) ?? defaultQuotas }

  /// Counts queries of the caller's against its quota, before anything is done for them. Throws `tooManyQueries`.
  public func admit(_ queries: Int = 1, as principal: Principal) throws {
    guard let rate = quotas(of: tenants.withLock { $0[principal.tenant] }).queries else { return }
    if let wait = meter.take(queries, of: principal.tenant, rate: rate, at: uptime()) {
      throw CollectionError.tooManyQueries(tenant: principal.tenant, limit: rate, retryAfter: wait)
    }
  }
}

extension Mutation {
  /// Notes of points are the bulk of all; they come with an upsert.
  fileprivate var changesTenants: Bool {
    switch self {
    case .note(let bytes): !bytes.starts(with: Self.pointNote)
    case .dropTenant, .setGroups: true
    default: false
    }
  }

  private static var pointNote: [UInt8] { Array(#"{"point":"#.utf8) }
}

/// The tenants in memory, for readers.
struct TenantDirectory: Sendable {
  private var byName: [String: Tenant] = [:]
  private var byID: [TenantID: Tenant] = [:]

  init(_ tenants: [Tenant]) {
    for tenant in tenants {
      byName[tenant.name] = tenant
      byID[tenant.id] = tenant
    }
  }

  subscript(name: String) -> Tenant? { byName[name] }
  subscript(id: TenantID) -> Tenant? { byID[id] }
}
