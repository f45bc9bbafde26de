import CSIMD
import KernelInterface
import KernelsV2

#if arch(x86_64)
  import KernelsV3
  import KernelsV4
#endif

#if canImport(Glibc)
  import Glibc
#elseif canImport(Darwin)
  import Darwin
#endif

/// The kernels that this process uses, chosen once from CPUID.
///
/// `APUS_CPU_LEVEL` = `v2`, `v3` or `v4` forces a lower level; a level that the processor lacks, or any other text, is
/// ignored (`requestedLevelProblem` says so).
public enum Kernels {
  /// The highest level that this processor runs.
  public static let detected = CPULevel(rawValue: Int(csimd_cpu_level())) ?? .v2

  /// The levels that this processor runs, lowest first.
  public static var available: [CPULevel] { CPULevel.allCases.filter { table($0) != nil } }

  /// What is wrong with `APUS_CPU_LEVEL`, or nil when it is absent or was obeyed.
  public static var requestedLevelProblem: String? {
    guard let text = getenv("APUS_CPU_LEVEL").map({ String(cString: $0) }), !text.isEmpty else { return nil }
    guard let level = parse(text) else { return "APUS_CPU_LEVEL is \"\(text)\"; expected v2, v3 or v4" }
    if level > detected {
      return "APUS_CPU_LEVEL is \"\(text)\"; this processor's highest level is v\(detected.rawValue)"
    }
    return nil
  }

  /// The kernels of the level in use.
  public static let current: KernelTable = {
    let requested = getenv("APUS_CPU_LEVEL").flatMap { parse(String(cString: $0)) } ?? detected
    return table(min(requested, detected)) ?? makeV2Table()
  }()

  /// The kernels of `level`, or nil when the processor lacks it.
  public static func table(_ level: CPULevel) -> KernelTable? {
    guard level <= detected else { return nil }
    switch level {
    case .v2: return makeV2Table()
    #if arch(x86_64)
      case .v3: return KernelsV3.makeTable(level: .v3)
      case .v4: return KernelsV4.makeTable(level: .v4)
    #else
      case .v3, .v4: return nil
    #endif
    }
  }

  private static func makeV2Table() -> KernelTable { KernelsV2.makeTable(level: .v2) }

  private static func parse(_ text: String) -> CPULevel? {
    switch text {
    case "v2": .v2
    case "v3": .v3
    case "v4": .v4
    default: nil
    }
  }
}
