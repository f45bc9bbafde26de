import ApusCollections
import ApusVectors
import ArgumentParser
import Foundation

/// How a search looks, as options of commands.
struct SearchArguments: ParsableArguments {
  @Option(help: "Results a query.")
  var k = 10
  @Option(help: "Recall to reach: takes the store's tuning, or tunes first.")
  var targetRecall: Double?
  @Option(help: "Lists without improvement after which a search ends, whatever tuning says.")
  var patience: Int?
  @Option(help: "Tenants of at most so many vectors are scanned in f32.")
  var exactThreshold = SearchOptions().exactThreshold
  @Option(help: "Candidates per result that are ranked again in f32.")
  var rerank = SearchOptions().rerankFactor
  @Flag(help: "Scan every vector of the tenant in f32.")
  var exact = false

  var options: SearchOptions {
    SearchOptions(
      k: k, patience: patience, targetRecall: targetRecall, exactThreshold: exactThreshold, rerankFactor: rerank,
      exact: exact)
  }

  /// Tunes for `targetRecall` if the store was not, for this process only.
  func prepare(_ index: VectorIndex) throws {
    guard let targetRecall, patience == nil, !exact,
      index.patience(size: 1, targetRecall: targetRecall).target != targetRecall
    else { return }
    let bar = StepProgress("tuning")
    try index.tune(targets: [targetRecall], options: options) { bar.show(Int($0 * 1000), of: 1000) }
    bar.finish()
  }
}

struct VectorsSearchCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "search", abstract: "Answers queries, each as one tenant.",
    discussion: """
      apus vectors search store --queries q.npy --tenants t.npy --k 10 --target-recall 0.98 --out ids.npy --json

      q.npy is [queries, dim], t.npy [queries]; ids.npy becomes int64 [queries, k], −1 where there are fewer. Times are
      CPU microseconds of the searching thread.
      """)

  @OptionGroup var store: StoreOptions
  @Option(help: "The queries.", completion: .file())
  var queries: String
  @Option(help: "A tenant for each query.", completion: .file())
  var tenants: String
  @OptionGroup(title: "Search") var search: SearchArguments
  @Option(help: "Threads.")
  var threads = 1
  @Flag(help: "Before those that are measured, bring the vectors into memory, as a server does, and answer all once.")
  var warm = false
  @Option(help: "Write the ids here.", completion: .file())
  var out: String?
  @Option(help: "Write each query's CPU microseconds here.", completion: .file())
  var times: String?

  func validate() throws {
    guard (1...64).contains(threads) else { throw ValidationError("--threads must be between 1 and 64.") }
  }

  func run() throws {
    let store = try store.open()
    let index = store.index
    let queries = try VectorQueries(
      queries: VectorFile(path: queries), tenants: IntegerFile(path: tenants), dim: index.config.dim)
    try search.prepare(index)
    if warm {
      try store.makeResident()
      _ = try queries.run(on: index, options: search.options, threads: threads)
    }
    let start = ContinuousClock.now
    let answers = try queries.run(on: index, options: search.options, threads: threads)
    let seconds = start.duration(to: .now).inSeconds
    try store.close()
    if let out {
      var writer = try NPYWriter<Int64>(path: out, columns: search.k)
      try writer.append(answers.ids)
      try writer.finish()
    }
    if let times {
      var writer = try NPYWriter<Float>(path: times)
      try writer.append(answers.microseconds)
      try writer.finish()
    }
    let result = SearchReport(answers, seconds: seconds)
    if self.store.json {
      try JSONOutput.print(result)
    } else {
      Terminal.write(
        String(
          format: "%d queries in %.2f s; CPU mean %.1f µs, median %.1f, p99 %.1f; %.0f vectors scanned a query\n",
          result.queries, seconds, result.cpuUs.mean, result.cpuUs.p50, result.cpuUs.p99, result.scanned.mean))
    }
  }
}

/// The JSON of `vectors search`.
struct SearchReport: Encodable {
  struct Microseconds: Encodable {
    var mean: Double
    var p50: Double
    var p99: Double
  }
  struct Scanned: Encodable { var mean: Double }

  var queries: Int
  var seconds: Double
  var cpuUs: Microseconds
  var scanned: Scanned

  init(_ answers: VectorQueries.Answers, seconds: Double) {
    let times = answers.microseconds.sorted()
    func quantile(_ q: Double) -> Double {
      times.isEmpty ? 0 : Double(times[min(times.count - 1, Int(q * Double(times.count)))])
    }
    queries = times.count
    self.seconds = seconds
    cpuUs = Microseconds(
      mean: times.isEmpty ? 0 : times.reduce(0) { $0 + Double($1) } / Double(times.count), p50: quantile(0.5),
      p99: quantile(0.99))
    scanned = Scanned(
      mean: answers.scanned.isEmpty ? 0 : Double(answers.scanned.reduce(0, +)) / Double(answers.scanned.count))
  }
}

struct VectorsGrantCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "grant", abstract: "Lets tenants see vectors: rows (id, tenant) of a file.")

  @OptionGroup var store: StoreOptions
  @OptionGroup var change: PairsArguments

  func run() throws { try change.run(store, revoke: false) }
}

struct VectorsRevokeCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "revoke", abstract: "Takes vectors from tenants: rows (id, tenant) of a file.")

  @OptionGroup var store: StoreOptions
  @OptionGroup var change: PairsArguments

  func run() throws { try change.run(store, revoke: true) }
}

struct PairsArguments: ParsableArguments {
  @Option(help: "int64 [n, 2]: id, tenant.", completion: .file())
  var pairs: String

  func run(_ options: StoreOptions, revoke: Bool) throws {
    let store = try options.open()
    let file = try IntegerFile(path: pairs, columns: 2)
    let start = ContinuousClock.now
    let bar = StepProgress(revoke ? "revoking" : "granting")
    let changed = try VectorImport(into: store).change(file, revoke: revoke) { bar.show($0, of: $1) }
    bar.finish()
    let seconds = start.duration(to: .now).inSeconds
    try store.close()
    if options.json {
      try JSONOutput.print(PairsResult(pairs: file.count, changed: changed, seconds: seconds))
    } else {
      Terminal.write("\(changed) of \(file.count) pairs changed something\n")
    }
  }

  private struct PairsResult: Encodable {
    var pairs: Int
    var changed: Int
    var seconds: Double
  }
}

struct VectorsExportCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "export", abstract: "Writes what one tenant may see: JSON lines with id, vector and tenants.")

  @OptionGroup var store: StoreOptions
  @Option(help: "Whose vectors.")
  var tenant: TenantID
  @Option(help: "The file.", completion: .file())
  var out: String

  func run() throws {
    let store = try store.open()
    var writer = try JSONLinesWriter(path: out)
    var count = 0
    for id in try store.index.ids(of: tenant) {
      guard let vector = try store.index.vector(id, as: tenant) else { continue }
      // Who else has it is not the tenant's business.
      try writer.append(
        VectorRecord(
          id: .integer(Int64(truncatingIfNeeded: id)), vector: vector))
      count += 1
    }
    try writer.finish()
    try store.close()
    if self.store.json { try JSONOutput.print(["vectors": count]) } else { Terminal.write("\(count) vectors\n") }
  }
}
