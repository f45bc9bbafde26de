import ApusKernels
import Foundation
import KernelInterface

/// What the processor can do at most, measured: the limits that shares are computed from.
public struct MachinePeaks: Sendable, Equatable {
  public var threads: Int
  /// Bytes per second that all threads together read from memory.
  public var readBytesPerSecond: Double
  /// f32 operations per second (a fused multiply-add is two).
  public var fmaPerSecond: Double
  /// int8 multiplications and additions per second.
  public var int8PerSecond: Double

  /// Measures for about half a second: the best of several rounds, since everything that disturbs makes it slower.
  public static func measure(threads: Int) -> MachinePeaks {
    let pool = ThreadPool(threads: threads)
    let table = Kernels.current
    return MachinePeaks(
      threads: threads, readBytesPerSecond: readBandwidth(pool, table),
      fmaPerSecond: arithmetic(pool, table.fmaLoop), int8PerSecond: arithmetic(pool, table.int8Loop))
  }

  /// Larger than any last-level cache's share of one process.
  private static let readBytes = 512 << 20
  private static let rounds = 5
  private static let loopSeconds = 0.02

  private static func readBandwidth(_ pool: ThreadPool, _ table: KernelTable) -> Double {
    let memory = UnsafeMutableRawBufferPointer.allocate(byteCount: readBytes, alignment: 4096)
    defer { memory.deallocate() }
    // Pages that were never written are all the same page of zeros.
    memory.initializeMemory(as: UInt8.self, repeating: 1)
    let part = readBytes / pool.threads
    let base = UInt(bitPattern: memory.baseAddress!)
    var best = 0.0
    for _ in 0..<rounds {
      let seconds = time {
        pool.run { thread in
          keep(table.readLoop(UnsafeRawPointer(bitPattern: base)! + thread * part, part))
        }
      }
      best = max(best, Double(part * pool.threads) / seconds)
    }
    return best
  }

  private static func arithmetic(_ pool: ThreadPool, _ loop: @escaping @Sendable (Int) -> Double) -> Double {
    var iterations = 1000
    var operations = 0.0
    while time({ operations = loop(iterations) }) < loopSeconds, iterations < 1 << 40 { iterations *= 2 }
    var best = 0.0
    for _ in 0..<rounds {
      let count = iterations
      let seconds = time { pool.run { _ in keep(UInt64(loop(count))) } }
      best = max(best, operations * Double(pool.threads) / seconds)
    }
    return best
  }

  private static func time(_ body: () -> Void) -> Double {
    let clock = ContinuousClock()
    return clock.measure(body).inSeconds
  }

  /// Uses a result, so that the loop that made it cannot be dropped.
  @inline(never) private static func keep(_ value: UInt64) {}
}

/// The machine as Apus sees it.
public struct MachineReport: Sendable, Equatable {
  public var cpu: String
  /// Instruction sets that matter to the kernels, of those that the processor has.
  public var features: [String]
  /// The kernel level in use.
  public var level: String
  /// The levels that this binary was built for.
  public var builtFor: [String]
  /// What is wrong with `APUS_CPU_LEVEL`, if anything.
  public var levelProblem: String?
  public var cores: Int
  /// Bytes of memory: all, and what programs can still get.
  public var memory: Int
  public var availableMemory: Int

  /// Reads `/proc`; quick.
  public static func current() -> MachineReport {
    let cpuInfo = (try? String(contentsOfFile: "/proc/cpuinfo", encoding: .utf8)) ?? ""
    let memoryInfo = (try? String(contentsOfFile: "/proc/meminfo", encoding: .utf8)) ?? ""
    let wanted = [
      "sse4_2", "avx2", "fma", "f16c", "avx512f", "avx512bw", "avx512_vnni", "avx_vnni", "avx512_bf16", "amx_int8",
    ]
    let flags = Set(field("flags", cpuInfo)?.split(separator: " ").map(String.init) ?? [])
    return MachineReport(
      cpu: field("model name", cpuInfo) ?? "unknown processor", features: wanted.filter(flags.contains),
      level: "v\(Kernels.current.level.rawValue)",
      builtFor: CPULevel.allCases.map { "v\($0.rawValue)" }, levelProblem: Kernels.requestedLevelProblem,
      cores: ThreadPool.availableThreads, memory: kibibytes("MemTotal", memoryInfo),
      availableMemory: kibibytes("MemAvailable", memoryInfo))
  }

  /// The first `key : value` line's value.
  private static func field(_ key: String, _ text: String) -> String? {
    for line in text.split(separator: "\n") where line.hasPrefix(key) {
      guard let colon = line.firstIndex(of: ":") else { continue }
      return line[line.index(after: colon)...].trimmingCharacters(in: .whitespaces)
    }
    return nil
  }

  private static func kibibytes(_ key: String, _ text: String) -> Int {
    (field(key, text)?.split(separator: " ").first.flatMap { Int($0) } ?? 0) * 1024
  }
}
