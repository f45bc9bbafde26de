import ApusKernels
import ApusVectors
import Foundation
import Synchronization

#if canImport(Glibc)
  import Glibc
#elseif canImport(Darwin)
  import Darwin
#endif

/// What changes cost, how readers share a machine, how fast a store opens and what it holds of memory.
public enum VectorBenchmark {
  /// Microseconds.
  public struct Times: Sendable, Codable {
    public var mean: Double
    public var p50: Double
    public var p99: Double

    init(_ microseconds: [Double]) {
      let sorted = microseconds.sorted()
      mean = sorted.reduce(0, +) / Double(sorted.count)
      p50 = sorted[sorted.count / 2]
      p99 = sorted[sorted.count * 99 / 100]
    }
  }

  public struct Durable: Sendable, Codable {
    public var grants: Int
    public var seconds: Double
    /// Each a wait for the disk.
    public var commits: Int
  }

  /// Thread CPU time of one change in memory, each a session of its own, less what reading the clock costs.
  public struct Updates: Sendable, Codable {
    public var insertUs: Times
    public var grantUs: Times
    public var revokeUs: Times
    public var deleteUs: Times
    public var durable: Durable
  }

  /// Changes nothing for good: what it grants it revokes, what it inserts it deletes. Needs 1,000 vectors at least.
  public static func updates(_ store: VectorStore, count: Int = 20_000, seed: UInt64 = 1) throws -> Updates {
    let index = store.index
    var random = SplitMix64(state: seed)
    let ids = index.someIDs(count, using: &random)
    guard ids.count >= 1000 else {
      throw VectorError.parameter("vectors in the store", seen: "\(ids.count)", expected: "at least 1000")
    }
    let tenants = index.someTenants(1000, using: &random)
    // Pairs that are not granted yet, tenants as they are in the store.
    var pairs: [(VectorID, TenantID)] = []
    while pairs.count < count {
      let pair = (ids[Int(random.next() % UInt64(ids.count))], tenants[Int(random.next() % UInt64(tenants.count))])
      if try index.write({ try $0.grant(pair.0, to: pair.1) }) {
        try index.write { try $0.revoke(pair.0, from: pair.1) }
        pairs.append(pair)
      }
    }
    let clock = each(2000) { _ in }.sorted()[1000]
    func times(_ n: Int, _ body: (Int) throws -> Void) rethrows -> Times {
      Times(try each(n, body).map { max(0, $0 - clock) })
    }
    let grant = try times(pairs.count) { i in try index.write { _ = try $0.grant(pairs[i].0, to: pairs[i].1) } }
    let revoke = try times(pairs.count) { i in try index.write { _ = try $0.revoke(pairs[i].0, from: pairs[i].1) } }
    let vectors = ids.prefix(5000).map { index.anyVector($0) }
    let first = VectorID(1) << 60
    let insert = try times(vectors.count) { i in
      try index.write { _ = try $0.upsert(first + VectorID(i), vectors[i], owner: tenants[i % tenants.count]) }
    }
    let delete = try times(vectors.count) { i in try index.write { try $0.delete(first + VectorID(i)) } }
    let batch = 256
    let start = ContinuousClock.now
    var durable = Durable(grants: 0, seconds: 0, commits: 0)
    while durable.grants < pairs.count {
      let part = pairs[durable.grants..<min(durable.grants + batch, pairs.count)]
      try store.commit(part.map { .grant(id: $0.0, tenant: $0.1) })
      durable.grants += part.count
      durable.commits += 1
    }
    durable.seconds = start.duration(to: .now).inSeconds
    try store.commit(pairs.map { .revoke(id: $0.0, tenant: $0.1) })
    return Updates(insertUs: insert, grantUs: grant, revokeUs: revoke, deleteUs: delete, durable: durable)
  }

  /// CPU microseconds of each of `n` calls.
  private static func each(_ n: Int, _ body: (Int) throws -> Void) rethrows -> [Double] {
    try (0..<n).map { i in
      let start = threadNanoseconds()
      try body(i)
      return Double(threadNanoseconds() - start) / 1000
    }
  }

  public struct Opening: Sendable, Codable {
    public struct Replay: Sendable, Codable {
      public var records: Int
      public var seconds: Double
    }
    public var vectors: Int
    /// Wall time until a query may be asked.
    public var openMs: Double
    /// Wall time from the beginning until one was answered.
    public var firstAnswerMs: Double
    public var replay: Replay
  }

  /// Opens the store at `path` and asks it, then opens a copy that has a log of `records` grants to replay. The copy is a
  /// folder beside the store, made of links, and goes afterwards.
  public static func opening(_ path: String, records: Int = 200_000, seed: UInt64 = 1) throws -> Opening {
    var random = SplitMix64(state: seed)
    let copy = path + ".opening-\(getpid())"
    defer { try? FileManager.default.removeItem(atPath: copy) }
    let query: [Float]
    let pairs: [Mutation]
    do {
      let store = try VectorStore.open(path)
      defer { try? store.close() }
      let (ids, tenants) = (store.index.someIDs(4000, using: &random), store.index.someTenants(1000, using: &random))
      guard let id = ids.first, !tenants.isEmpty else {
        throw VectorError.parameter("vectors and tenants in the store", seen: "0", expected: "at least 1 of each")
      }
      query = store.index.anyVector(id)
      pairs = (0..<records).map { _ in
        .grant(
          id: ids[Int(random.next() % UInt64(ids.count))], tenant: tenants[Int(random.next() % UInt64(tenants.count))])
      }
      try store.snapshot(to: copy)
    }
    let begun = ContinuousClock.now
    let store = try VectorStore.open(path)
    let opened = begun.duration(to: .now).inSeconds
    guard case .grant(_, let tenant) = pairs[0] else { preconditionFailure("grants only") }
    _ = try store.index.search(query, as: tenant)
    let answered = begun.duration(to: .now).inSeconds
    let vectors = store.index.stats.vectors
    try store.close()
    func reopen() throws -> Double {
      let begun = ContinuousClock.now
      let store = try VectorStore.open(copy)
      let seconds = begun.duration(to: .now).inSeconds
      try store.close()
      return seconds
    }
    let bare = try reopen()
    let grown = try VectorStore.open(copy)
    try grown.commit(pairs)
    try grown.close()
    let replay = Opening.Replay(records: records, seconds: max(1e-9, try reopen() - bare))
    return Opening(vectors: vectors, openMs: opened * 1000, firstAnswerMs: answered * 1000, replay: replay)
  }

  public struct Readers: Sendable, Codable {
    /// Wall-clock figures of `threads` readers together.
    public struct Pace: Sendable, Codable {
      public var queriesPerS: Double
      public var p99Us: Double
    }
    /// One reader beside a writer.
    public struct Writer: Sendable, Codable {
      public var grantsPerS: Double
      public var queriesPerS: Double
      public var p99Us: Double
    }
    /// By number of threads: "1" and "2".
    public var threads: [String: Pace]
    public var writer: Writer
    public var scaling: Double { threads["2"]!.queriesPerS / threads["1"]!.queriesPerS }
  }

  /// Queries of `queries` for `seconds` each: one thread, two threads, one beside a writer of `rate` changes a second, every
  /// other one a revoke.
  public static func readers(
    _ store: VectorStore, queries: VectorQueries, options: SearchOptions, seconds: Double = 3, rate: Double = 5000
  ) throws -> Readers {
    let index = store.index
    let dim = index.config.dim
    /// Queries a second and the p99 of one query's wall time in microseconds.
    @Sendable func read(threads: Int) -> (qps: Double, p99: Double) {
      let times = Mutex<[Float]>([])
      let clock = ContinuousClock()
      let start = clock.now
      ThreadPool(threads: threads).run { thread in
        var own: [Float] = []
        var row = queries.tenants.count * thread / threads
        queries.vectors.withUnsafeBufferPointer { vectors in
          while start.duration(to: clock.now).inSeconds < seconds {
            let query = UnsafeBufferPointer(rebasing: vectors[row * dim..<(row + 1) * dim])
            let begun = clock.now
            _ = try? index.search(query, as: [queries.tenants[row]], options: options)
            own.append(Float(begun.duration(to: clock.now).inSeconds * 1e6))
            row = (row + 1) % queries.tenants.count
          }
        }
        let done = own
        times.withLock { $0 += done }
      }
      let elapsed = start.duration(to: clock.now).inSeconds
      let sorted = times.withLock { $0.sorted() }
      return (Double(sorted.count) / elapsed, Double(sorted[sorted.count * 99 / 100]))
    }
    _ = read(threads: 1)
    let one = read(threads: 1)
    let two = read(threads: 2)
    // The writer is a thread of its own that sleeps between changes.
    let stop = Atomic<Bool>(false)
    let made = Atomic<Int>(0)
    var random = SplitMix64(state: 3)
    let ids = index.someIDs(4000, using: &random)
    let tenants = index.someTenants(200, using: &random)
    let result = Mutex<(qps: Double, p99: Double)>((0, 0))
    let clock = ContinuousClock()
    let start = clock.now
    ThreadPool(threads: 2).run { thread in
      if thread == 0 {
        let seen = read(threads: 1)
        result.withLock { $0 = seen }
        stop.store(true, ordering: .releasing)
        return
      }
      var i = 0
      while !stop.load(ordering: .acquiring) {
        let due = Int(start.duration(to: clock.now).inSeconds * rate)
        while i < due {
          let (id, tenant) = (ids[i / 2 % ids.count], tenants[i / 2 % tenants.count])
          let grants = i % 2 == 0
          _ = try? index.write { grants ? try $0.grant(id, to: tenant) : try $0.revoke(id, from: tenant) }
          i += 1
        }
        made.store(i, ordering: .relaxed)
        usleep(200)
      }
    }
    let elapsed = start.duration(to: clock.now).inSeconds
    let beside = result.withLock { $0 }
    return Readers(
      threads: ["1": .init(queriesPerS: one.qps, p99Us: one.p99), "2": .init(queriesPerS: two.qps, p99Us: two.p99)],
      writer: .init(
        grantsPerS: Double(made.load(ordering: .relaxed)) / elapsed, queriesPerS: beside.qps, p99Us: beside.p99))
  }

  /// Brings the whole store into memory and reads every vector and every list once; returns its bytes as the index counts
  /// them.
  public static func touch(_ store: VectorStore) throws -> VectorMemory {
    try store.makeResident()
    store.index.touchVectors()
    try store.verify()
    return store.index.memory
  }
}

extension Duration {
  var inSeconds: Double { Double(components.seconds) + Double(components.attoseconds) * 1e-18 }
}
