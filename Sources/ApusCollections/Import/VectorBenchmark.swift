import ApusKernels
import ApusVectors
import Synchronization

#if canImport(Glibc)
  import Glibc
#elseif canImport(Darwin)
  import Darwin
#endif

/// What changes cost, how readers share a machine, and how fast a store opens.
public enum VectorBenchmark {
  /// CPU microseconds of one change in memory, each a session of its own.
  public struct Updates: Sendable, Codable {
    public var insertUs: Double
    public var grantUs: Double
    public var revokeUs: Double
    public var deleteUs: Double
    /// Grants a second that are on disk, `batch` to a commit.
    public var durableGrantsPerS: Double
    public var batch: Int
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
    func each(_ n: Int, _ body: (Int) throws -> Void) rethrows -> Double {
      let start = threadNanoseconds()
      for i in 0..<n { try body(i) }
      return Double(threadNanoseconds() - start) / 1000 / Double(n)
    }
    let grant = try each(pairs.count) { i in try index.write { _ = try $0.grant(pairs[i].0, to: pairs[i].1) } }
    let revoke = try each(pairs.count) { i in try index.write { _ = try $0.revoke(pairs[i].0, from: pairs[i].1) } }
    let vectors = ids.prefix(2000).map { index.anyVector($0) }
    let first = VectorID(1) << 60
    let insert = try each(vectors.count) { i in
      try index.write { _ = try $0.upsert(first + VectorID(i), vectors[i], owner: tenants[i % tenants.count]) }
    }
    let delete = try each(vectors.count) { i in try index.write { try $0.delete(first + VectorID(i)) } }
    let batch = 256
    let clock = ContinuousClock()
    let start = clock.now
    var done = 0
    while done < pairs.count {
      let part = pairs[done..<min(done + batch, pairs.count)]
      try store.commit(part.map { .grant(id: $0.0, tenant: $0.1) })
      done += part.count
    }
    let seconds = start.duration(to: clock.now).inSeconds
    try store.commit(pairs.map { .revoke(id: $0.0, tenant: $0.1) })
    return Updates(
      insertUs: insert, grantUs: grant, revokeUs: revoke, deleteUs: delete,
      durableGrantsPerS: Double(pairs.count) / seconds, batch: batch)
  }

  public struct Readers: Sendable, Codable {
    public var oneThreadQps: Double
    public var twoThreadsQps: Double
    public var scaling: Double
    /// Wall-clock microseconds of one reader, alone and beside a writer.
    public var idleP99Us: Double
    public var writingP99Us: Double
    public var grantsPerS: Double
  }

  /// Queries of `queries` for `seconds` each: one thread, two threads, one beside a writer of `rate` grants a second.
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
    return Readers(
      oneThreadQps: one.qps, twoThreadsQps: two.qps, scaling: two.qps / one.qps, idleP99Us: one.p99,
      writingP99Us: result.withLock { $0.p99 }, grantsPerS: Double(made.load(ordering: .relaxed)) / elapsed)
  }
}

extension Duration {
  var inSeconds: Double { Double(components.seconds) + Double(components.attoseconds) * 1e-18 }
}
