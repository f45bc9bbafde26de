import ApusKernels
import ApusVectors
import Synchronization

#if canImport(Glibc)
  import Glibc
#elseif canImport(Darwin)
  import Darwin
#endif

/// Many queries, each as one tenant, and what each cost.
public struct VectorQueries: Sendable {
  /// `[count, dim]`.
  public var vectors: [Float]
  public var tenants: [TenantID]

  public struct Answers: Sendable {
    /// `[count, k]`, −1 where there were fewer.
    public var ids: [Int64]
    /// Thread CPU microseconds a query.
    public var microseconds: [Float]
    public var scanned: [Int]
  }

  /// Throws `VectorFileError` when the files do not fit each other or the collection.
  public init(queries: VectorFile, tenants: IntegerFile, dim: Int) throws {
    guard queries.dim == dim else {
      throw VectorFileError(
        path: queries.path, field: "dimension", seen: "\(queries.dim)", expected: "\(dim)",
        wayOut: "give queries of the collection's dimension")
    }
    let numbers = try tenants.readAll()
    guard numbers.count == queries.count else {
      throw VectorFileError(
        path: tenants.path, field: "rows", seen: "\(numbers.count)", expected: "\(queries.count), one a query",
        wayOut: "give a tenant for each query")
    }
    self.tenants = try numbers.enumerated().map { row, number in
      guard let tenant = TenantID(exactly: number) else {
        throw VectorFileError(
          path: tenants.path, field: "row \(row)", seen: "\(number)", expected: "a tenant, 0…\(TenantID.max - 1)",
          wayOut: "correct the row")
      }
      return tenant
    }
    var all: [Float] = []
    all.reserveCapacity(queries.count * queries.dim)
    try queries.forEachBatch { _, values in all.append(contentsOf: values) }
    vectors = all
  }

  /// The queries in equal shares on `threads` threads.
  public func run(on index: VectorIndex, options: SearchOptions, threads: Int) throws -> Answers {
    guard threads > 1 else { return try run(on: index, options: options) }
    let parts = Mutex<[Int: Result<Answers, any Error>]>([:])
    ThreadPool(threads: threads).run { thread in
      let range = tenants.count * thread / threads..<tenants.count * (thread + 1) / threads
      let part = Result { try run(on: index, options: options, range: range) }
      parts.withLock { $0[thread] = part }
    }
    var all = Answers(ids: [], microseconds: [], scanned: [])
    let done = parts.withLock { $0 }
    for thread in 0..<threads {
      guard let part = try done[thread]?.get() else { continue }
      all.ids += part.ids
      all.microseconds += part.microseconds
      all.scanned += part.scanned
    }
    return all
  }

  /// One query after another on the calling thread. `range` are rows.
  public func run(
    on index: VectorIndex, options: SearchOptions, range: Range<Int>? = nil, progress: (Int) throws -> Void = { _ in }
  ) throws -> Answers {
    let range = range ?? 0..<tenants.count
    let dim = index.config.dim
    var answers = Answers(ids: [], microseconds: [], scanned: [])
    answers.ids.reserveCapacity(range.count * options.k)
    try vectors.withUnsafeBufferPointer { vectors in
      for row in range {
        let query = UnsafeBufferPointer(rebasing: vectors[row * dim..<(row + 1) * dim])
        let start = threadNanoseconds()
        let result = try index.search(query, as: [tenants[row]], options: options)
        answers.microseconds.append(Float(threadNanoseconds() - start) / 1000)
        answers.scanned.append(result.scanned)
        for i in 0..<options.k {
          answers.ids.append(
            i < result.neighbours.count ? Int64(truncatingIfNeeded: result.neighbours[i].id) : -1)
        }
        try progress(row - range.lowerBound + 1)
      }
    }
    return answers
  }
}

/// CPU time of the calling thread.
func threadNanoseconds() -> UInt64 {
  var time = timespec()
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time)
  return UInt64(time.tv_sec) * 1_000_000_000 + UInt64(time.tv_nsec)
}
