import ApusEngine
import ApusModels
import ArgumentParser
import Foundation

struct DoctorCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "doctor",
    abstract: "Shows what this machine can do, and what is missing.",
    discussion: """
      apus doctor
      apus doctor --threads 1 --json

      Bandwidth and peaks are measured for about a second; other programs that run make them lower.
      """)

  @Option(help: "Threads to measure with (default: one a core).")
  var threads: Int?

  @Flag(help: "Print one JSON object.")
  var json = false

  func validate() throws {
    if let threads, threads < 1 { throw ValidationError("--threads is \(threads), expected 1 or more.") }
  }

  func run() throws {
    let machine = MachineReport.current()
    let peaks = MachinePeaks.measure(threads: threads ?? machine.cores)
    let result = DoctorResult(machine, peaks, ModelStore())
    if json { return try JSONOutput.print(result) }
    let lines: [[String]] = [
      ["cpu", result.cpu], ["instruction sets", result.features.joined(separator: " ")],
      ["kernels", "\(result.level) of \(result.builtFor.joined(separator: ", "))"],
      ["threads", "\(result.threads) of \(result.cores) cores"],
      ["memory", "\(Format.bytes(result.memoryBytes)), \(Format.bytes(result.memoryAvailableBytes)) available"],
      ["read bandwidth", "\(Format.number(result.memoryBandwidthGbS)) GB/s"],
      ["f32 peak", "\(Format.number(result.fmaPeakGflops)) GFLOP/s"],
      ["int8 peak", "\(Format.number(result.int8PeakGops)) Gop/s"],
      ["cache", result.cache],
      ["models", result.models.isEmpty ? "none" : result.models.joined(separator: ", ")],
      ["version", result.version],
    ]
    Terminal.write(Format.table(lines) + "\n")
    for problem in result.missing { Terminal.write("missing: \(problem)\n") }
  }
}

/// The JSON of `doctor`.
struct DoctorResult: Encodable {
  var version = Version.text
  var cpu: String
  var features: [String]
  var level: String
  var builtFor: [String]
  var threads: Int
  var cores: Int
  var memoryBytes: Int
  var memoryAvailableBytes: Int
  var memoryBandwidthGbS: Double
  var fmaPeakGflops: Double
  var int8PeakGops: Double
  var cache: String
  var models: [String]
  /// What is missing or wrong, a sentence each.
  var missing: [String] = []

  init(_ machine: MachineReport, _ peaks: MachinePeaks, _ store: ModelStore) {
    cpu = machine.cpu
    features = machine.features
    level = machine.level
    builtFor = machine.builtFor
    threads = peaks.threads
    cores = machine.cores
    memoryBytes = machine.memory
    memoryAvailableBytes = machine.availableMemory
    memoryBandwidthGbS = peaks.readBytesPerSecond / 1e9
    fmaPeakGflops = peaks.fmaPerSecond / 1e9
    int8PeakGops = peaks.int8PerSecond / 1e9
    cache = store.home
    models = []
    do { models = try store.list().map(\.name) } catch { missing.append("\(error)") }
    if let problem = machine.levelProblem { missing.append(problem) }
    if !models.contains(Catalogue.defaultModel) {
      missing.append("the default model: apus model pull \(Catalogue.defaultModel)")
    }
    if FileManager.default.fileExists(atPath: store.home), !FileManager.default.isWritableFile(atPath: store.home) {
      missing.append("permission to write to \(store.home): no model can be pulled; set APUS_HOME to another folder")
    }
    if store.isOffline { missing.append("the network: APUS_OFFLINE is set, nothing can be pulled") }
    if machine.level == "v2" {
      missing.append("AVX2: the portable kernels run, many times slower")
    }
  }
}
