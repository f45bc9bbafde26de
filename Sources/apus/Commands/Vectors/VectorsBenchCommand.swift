import ApusCollections
import ApusVectors
import ArgumentParser
import Foundation

struct VectorsBenchCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "bench", abstract: "Measures changes, readers, opening, memory, or recall against CPU on a store.",
    discussion: """
      apus vectors bench store --what updates                                  µs per grant, revoke, insert, delete
      apus vectors bench store --what readers --queries q.npy --tenants t.npy  scaling, p99 beside a writer
      apus vectors bench store --what open                                     from the files to a first answer; replay
      apus vectors bench store --what memory --json                            bytes, and RSS for who watches from outside
      apus vectors bench store --what recall --queries q.npy --tenants t.npy --svg curves.svg

      recall draws a curve for each size of tenants: <200, <1000, <5000 and more vectors. Exact search is the truth.

      memory prints {"stage": "before"} with nothing open and {"stage": "open", "bytes": {…}} with every page of the store
      touched; after each it waits for a line on standard input, so that the process can be measured from outside.
      """)

  enum Subject: String, ExpressibleByArgument, CaseIterable { case updates, readers, open, memory, recall }

  @OptionGroup var store: StoreOptions
  @Option(help: "updates, readers, open, memory or recall.")
  var what: Subject
  @Option(help: "The queries.", completion: .file())
  var queries: String?
  @Option(help: "A tenant for each query.", completion: .file())
  var tenants: String?
  @OptionGroup(title: "Search") var search: SearchArguments
  @Option(help: "Seconds of each measurement of readers.")
  var seconds = 3.0
  @Option(help: "Changes a second of the writer.")
  var grantsPerSecond = 5000.0
  @Option(help: "Write recall's curves here.", completion: .file())
  var svg: String?

  func validate() throws {
    if what == .readers || what == .recall, queries == nil || tenants == nil {
      throw ValidationError("--what \(what.rawValue) needs --queries and --tenants.")
    }
  }

  func run() throws {
    if what == .open {
      let r = try VectorBenchmark.opening(store.path)
      return try report(
        r,
        String(
          format: "%d vectors in %.1f ms, first answer after %.1f; %d records replayed in %.2f s\n", r.vectors,
          r.openMs,
          r.firstAnswerMs, r.replay.records, r.replay.seconds))
    }
    if what == .memory { try stage(Stage(stage: "before")) }
    let store = try store.open()
    defer { try? store.close() }
    func input() throws -> VectorQueries {
      try VectorQueries(
        queries: VectorFile(path: queries!), tenants: IntegerFile(path: tenants!), dim: store.index.config.dim)
    }
    switch what {
    case .open: break
    case .memory:
      let memory = try VectorBenchmark.touch(store)
      try stage(Stage(stage: "open", bytes: StoreBytes(memory)))
    case .updates:
      let r = try VectorBenchmark.updates(store)
      try report(
        r,
        String(
          format: "µs: insert %.2f, grant %.2f, revoke %.2f, delete %.2f; %.0f durable grants/s in %d commits\n",
          r.insertUs.mean, r.grantUs.mean, r.revokeUs.mean, r.deleteUs.mean,
          Double(r.durable.grants) / r.durable.seconds, r.durable.commits))
    case .readers:
      try search.prepare(store.index)
      let r = try VectorBenchmark.readers(
        store, queries: try input(), options: search.options, seconds: seconds, rate: grantsPerSecond)
      try report(
        r,
        String(
          format: "%.0f queries/s on one thread, %.0f on two (%.2f×); p99 %.0f µs, beside %.0f grants/s %.0f\n",
          r.threads["1"]!.queriesPerS, r.threads["2"]!.queriesPerS, r.scaling, r.threads["1"]!.p99Us,
          r.writer.grantsPerS, r.writer.p99Us))
    case .recall:
      let curves = try RecallCurves(store.index, queries: try input(), options: search.options)
      if let svg { try Data(curves.svg.utf8).write(to: URL(fileURLWithPath: svg)) }
      try report(curves, curves.table)
    }
  }

  private func report(_ value: some Encodable, _ text: String) throws {
    if store.json { try JSONOutput.print(value) } else { Terminal.write(text) }
  }

  private struct Stage: Encodable {
    var stage: String
    var bytes: StoreBytes?
  }

  private func stage(_ stage: Stage) throws {
    try JSONOutput.print(stage)
    _ = readLine()
  }
}
