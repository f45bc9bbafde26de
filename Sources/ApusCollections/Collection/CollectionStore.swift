import ApusVectors
import Dispatch
import Foundation
import Synchronization

/// Collections in one folder, each in a folder of its name, opened when they are first asked for.
public final class CollectionStore: Sendable {
  public let embedder: (any TextEmbedder)?

  private static let queue = DispatchQueue(label: "apus-collections", attributes: .concurrent)

  /// Runs what waits for a disk away from the threads that all tasks share.
  public static func blocking<T: Sendable>(_ body: @escaping @Sendable () throws -> T) async throws -> T {
    try await withCheckedThrowingContinuation { continuation in
      queue.async { continuation.resume(with: Result(catching: body)) }
    }
  }

  private let path: String
  private let quotas: TenantQuotas
  private let now: @Sendable () -> Int
  private let uptime: @Sendable () -> Double
  private let opened = Mutex(Opened())

  private struct Opened {
    var collections: [String: VectorCollection] = [:]
    var isClosed = false

    subscript(name: String) -> VectorCollection? {
      get { collections[name] }
      set { collections[name] = newValue }
    }

    func check() throws {
      if isClosed { throw CollectionError.unusable("the store was closed") }
    }
  }

  /// Makes the folder if it is not there. `quotas` hold in every collection for tenants that have none of their own.
  public init(
    _ path: String, embedder: (any TextEmbedder)? = nil, quotas: TenantQuotas = TenantQuotas(),
    now: @escaping @Sendable () -> Int = VectorCollection.systemClock,
    uptime: @escaping @Sendable () -> Double = VectorCollection.systemUptime
  ) throws {
    self.path = path
    self.embedder = embedder
    self.quotas = quotas
    self.now = now
    self.uptime = uptime
    try FileManager.default.createDirectory(atPath: path, withIntermediateDirectories: true)
  }

  private func folder(_ name: String) -> String { "\(path)/\(name)" }

  /// Throws `exists`, `forbidden`, `invalid`, `VectorError.configuration`.
  @discardableResult
  public func create(_ config: CollectionConfig, as principal: Principal) throws -> VectorCollection {
    try principal.requireAdmin("create collections")
    try config.validate()
    return try opened.withLock { opened in
      try opened.check()
      guard !exists(config.name) else { throw CollectionError.exists("the collection '\(config.name)'") }
      let collection = try VectorCollection.create(
        folder(config.name), config, embedder: embedder, quotas: quotas, now: now, uptime: uptime)
      opened[config.name] = collection
      return collection
    }
  }

  /// Makes a collection; one that is there with the same configuration is left as it is. Throws what `create` throws.
  @discardableResult
  public func ensure(_ config: CollectionConfig, as principal: Principal) throws -> VectorCollection {
    do {
      return try create(config, as: principal)
    } catch CollectionError.exists(let what) {
      let made = try collection(config.name)
      guard made.config == config else { throw CollectionError.exists(what) }
      return made
    }
  }

  private func exists(_ name: String) -> Bool { FileManager.default.fileExists(atPath: folder(name) + "/vectors") }

  /// Throws `notFound`.
  public func collection(_ name: String) throws -> VectorCollection {
    try opened.withLock { opened in
      try opened.check()
      if let collection = opened[name] { return collection }
      guard (try? CollectionConfig.validate(name: name)) != nil, exists(name) else {
        throw CollectionError.notFound("the collection '\(name)'")
      }
      let collection = try VectorCollection.open(
        folder(name), embedder: embedder, quotas: quotas, now: now, uptime: uptime)
      opened[name] = collection
      return collection
    }
  }

  /// Names, ascending.
  public func names() throws -> [String] {
    try FileManager.default.contentsOfDirectory(atPath: path)
      .filter { (try? CollectionConfig.validate(name: $0)) != nil && !Self.isDraft($0) && exists($0) }.sorted()
  }

  /// What a crash left of creating or deleting; no name of a collection holds these.
  private static func isDraft(_ name: String) -> Bool { name.contains(".new-") || name.contains(".gone-") }

  /// Deletes a collection and its files. What reads it meanwhile gets errors.
  public func delete(_ name: String, as principal: Principal) throws {
    try principal.requireAdmin("delete collections")
    let collection = try self.collection(name)
    try opened.withLock { opened in
      guard opened.collections.removeValue(forKey: name) != nil else {
        throw CollectionError.notFound("the collection '\(name)'")
      }
      try collection.close()
      // At once and whole: a crash while the files are removed leaves nothing that opens.
      let gone = "\(folder(name)).gone-\(UUID().uuidString)"
      try FileManager.default.moveItem(atPath: folder(name), toPath: gone)
      try FileManager.default.removeItem(atPath: gone)
    }
  }

  /// Makes a snapshot in `snapshots/<collection>/<time>` beside the collections; returns the path.
  public func snapshot(_ name: String, as principal: Principal) throws -> String {
    let folder = "\(path)/.snapshots/\(name)"
    let collection = try collection(name)
    try principal.requireAdmin("make snapshots")
    try FileManager.default.createDirectory(atPath: folder, withIntermediateDirectories: true)
    let target = "\(folder)/\(now())-\(UUID().uuidString.prefix(8))"
    try collection.snapshot(to: target, as: principal)
    return target
  }

  /// What `maintain` did to a collection.
  public enum Maintenance: Sendable {
    /// So many points had expired.
    case deleted(Int)
    case trained(TrainingNeed)
    case failed(any Error)
  }

  /// Deletes what has expired in all open collections, trains those that it would help, and sees that their vectors lie
  /// in memory. One that fails does not keep the others.
  @discardableResult
  public func maintain() -> [(collection: String, done: Maintenance)] {
    let all = opened.withLock { $0.collections.sorted { $0.key < $1.key } }
    return all.flatMap { name, collection in
      var done: [(String, Maintenance)] = []
      do {
        let deleted = try collection.sweep()
        if deleted > 0 { done.append((name, .deleted(deleted))) }
        if let need = try collection.trainIfNeeded() { done.append((name, .trained(need))) }
        try collection.makeResident()
      } catch {
        done.append((name, .failed(error)))
      }
      return done
    }
  }

  /// Maintains until the task is cancelled; `report` gets what was done.
  public func maintainRegularly(
    every interval: Duration = .seconds(60), report: @Sendable (String, Maintenance) -> Void
  ) async throws {
    while true {
      try await Task.sleep(for: interval)
      for (name, done) in try await Self.blocking({ self.maintain() }) { report(name, done) }
    }
  }

  /// Closes all collections, also when one fails, whose error is thrown then. Nothing is opened afterwards.
  public func close() throws {
    let all = opened.withLock { opened in
      defer { opened.collections.removeAll() }
      opened.isClosed = true
      return Array(opened.collections.values)
    }
    let ends = all.map { collection in Result { try collection.close() } }
    for end in ends { try end.get() }
  }
}
