import ApusKernels
import Foundation

/// What a subject measures: named rates, in alternation with the peak of the arithmetic, reported as a table or JSON.
final class BenchmarkRun {
  struct Row {
    var name: String
    var threads: Int
    /// Billions of operations (or bytes) per second, one value a round.
    var rates: [Double]
    var unit: String
    /// The limit's rate in the same rounds.
    var limits: [Double]
    var limitName: String
  }

  let kernels: KernelTable
  let rounds: Int
  private(set) var rows: [Row] = []

  init(kernels: KernelTable, rounds: Int) {
    self.kernels = kernels
    self.rounds = rounds
  }

  /// Seconds of processor time of the calling thread, which other load on the machine disturbs least.
  static func threadSeconds() -> Double {
    var t = timespec()
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t)
    return Double(t.tv_sec) + Double(t.tv_nsec) * 1e-9
  }

  static func wallSeconds() -> Double {
    var t = timespec()
    clock_gettime(CLOCK_MONOTONIC, &t)
    return Double(t.tv_sec) + Double(t.tv_nsec) * 1e-9
  }

  /// What a measurement is held against.
  enum Limit {
    /// The loop of independent FMAs: work counts floating-point operations.
    case arithmetic
    /// The loop of independent int8 dot products: work counts multiplications and additions.
    case integers
    /// The loop of wide loads over 256 MB: work counts bytes that must come from memory.
    case memory

    var unit: String {
      switch self {
      case .arithmetic: "GFLOP/s"
      case .integers: "GOP/s"
      case .memory: "GB/s"
      }
    }
    var name: String {
      switch self {
      case .arithmetic: "fma peak"
      case .integers: "int8 peak"
      case .memory: "read bandwidth"
      }
    }
  }

  /// Memory for the read loop, far larger than the caches; touched once.
  private lazy var wide: UnsafeMutableRawPointer = {
    let p = UnsafeMutableRawPointer.allocate(byteCount: Self.wideBytes, alignment: 64)
    p.initializeMemory(as: UInt8.self, repeating: 1, count: Self.wideBytes)
    return p
  }()
  private static let wideBytes = 256 << 20

  /// Measures `body`, which does `work` operations (or reads `work` bytes) on the pool's threads, in alternation with the
  /// limit on as many threads.
  ///
  /// One thread is timed by its processor time, several by the clock on the wall.
  func measure(_ name: String, work: Double, limit: Limit = .arithmetic, pool: ThreadPool, body: () -> Void) {
    let clock = pool.threads == 1 ? Self.threadSeconds : Self.wallSeconds
    let kernels = kernels
    // 20 ms of FMAs a thread is long against the pool's wake-up.
    let iterations = 4_000_000
    let bytes = Self.wideBytes / pool.threads
    let memory = UnsafeRawPointer(wide)
    body()
    var start = clock()
    body()
    let repeats = max(1, Int(0.05 / max(clock() - start, 1e-7)))
    var rates: [Double] = [], limits: [Double] = []
    for _ in 0..<rounds {
      start = clock()
      pool.run { thread in
        switch limit {
        case .arithmetic: keepAlive(kernels.fmaLoop(iterations))
        case .integers: keepAlive(kernels.int8Loop(iterations))
        case .memory: keepAlive(Double(kernels.readLoop(memory + thread * bytes, bytes)))
        }
      }
      let seconds = clock() - start
      let done =
        switch limit {
        case .arithmetic: kernels.fmaLoop(1) * Double(iterations)
        case .integers: kernels.int8Loop(1) * Double(iterations)
        case .memory: Double(bytes)
        }
      limits.append(Double(pool.threads) * done / seconds * 1e-9)
      start = clock()
      for _ in 0..<repeats { body() }
      rates.append(work * Double(repeats) / (clock() - start) * 1e-9)
    }
    rows.append(
      Row(
        name: name, threads: pool.threads, rates: rates, unit: limit.unit, limits: limits, limitName: limit.name))
  }

  func add(_ row: Row) { rows.append(row) }

  static func median(_ values: [Double]) -> Double {
    let sorted = values.sorted()
    return sorted[sorted.count / 2]
  }

  func report(json: Bool) {
    var load = [Double](repeating: 0, count: 3)
    getloadavg(&load, 3)
    if json {
      let list = rows.map { row -> [String: Any] in
        [
          "name": row.name, "threads": row.threads, "unit": row.unit, "median": Self.median(row.rates),
          "min": row.rates.min()!, "max": row.rates.max()!, "limit": row.limitName,
          "limit_median": Self.median(row.limits), "share": share(row),
        ]
      }
      let object: [String: Any] = ["level": "v\(kernels.level.rawValue)", "load": load, "rows": list]
      let data = try! JSONSerialization.data(withJSONObject: object, options: [.prettyPrinted, .sortedKeys])
      print(String(decoding: data, as: UTF8.self))
      return
    }
    print("level v\(kernels.level.rawValue), load \(load.map { String(format: "%.2f", $0) }.joined(separator: " "))")
    for row in rows {
      print(
        row.name.padding(toLength: 44, withPad: " ", startingAt: 0)
          + String(
            format: "%d thread(s)  %7.1f %@ (%.1f…%.1f)  %.2f of the %@ %.1f", row.threads, Self.median(row.rates),
            row.unit, row.rates.min()!, row.rates.max()!, share(row), row.limitName, Self.median(row.limits)))
    }
  }

  /// The median over rounds of rate / limit.
  private func share(_ row: Row) -> Double { Self.median(zip(row.rates, row.limits).map { $0 / $1 }) }
}

/// Uses a value, so that the loop that computed it is not dropped.
@inline(never) func keepAlive(_ value: Double) { if value == -1 { print(value) } }

/// `count` floats in −1…1 that do not depend on anything but their index.
func benchmarkFloats(_ count: Int) -> UnsafeMutablePointer<Float> {
  let p = UnsafeMutableRawPointer.allocate(byteCount: max(count, 1) * 4, alignment: 64).bindMemory(
    to: Float.self, capacity: count)
  for i in 0..<count { p[i] = Float((i &* 2_654_435_761) & 0xffff) / 32768 - 1 }
  return p
}
