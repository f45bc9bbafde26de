import ApusCollections
import ApusVectors
import ArgumentParser
import Foundation

struct VectorsBenchCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "bench", abstract: "Measures changes, readers, opening, or recall against CPU on a store.",
    discussion: """
      apus vectors bench store --what updates                                  µs per grant, revoke, insert, delete
      apus vectors bench store --what readers --queries q.npy --tenants t.npy  scaling, p99 beside a writer
      apus vectors bench store --what open                                     seconds from the files to a first query
      apus vectors bench store --what recall --queries q.npy --tenants t.npy --svg curves.svg

      recall draws a curve for each size of tenants: <200, <1000, <5000 and more vectors. Exact search is the truth.
      """)

  enum Subject: String, ExpressibleByArgument, CaseIterable { case updates, readers, open, recall }

  @OptionGroup var store: StoreOptions
  @Option(help: "updates, readers, open or recall.")
  var what: Subject
  @Option(help: "The queries.", completion: .file())
  var queries: String?
  @Option(help: "A tenant for each query.", completion: .file())
  var tenants: String?
  @OptionGroup(title: "Search") var search: SearchArguments
  @Option(help: "Seconds of each measurement of readers.")
  var seconds = 3.0
  @Option(help: "Grants a second of the writer.")
  var rate = 5000.0
  @Option(help: "Write recall's curves here.", completion: .file())
  var svg: String?

  func validate() throws {
    if what == .readers || what == .recall, queries == nil || tenants == nil {
      throw ValidationError("--what \(what.rawValue) needs --queries and --tenants.")
    }
  }

  func run() throws {
    let clock = ContinuousClock()
    let start = clock.now
    let store = try store.open()
    let opened = start.duration(to: clock.now).inSeconds
    defer { try? store.close() }
    func input() throws -> VectorQueries {
      try VectorQueries(
        queries: VectorFile(path: queries!), tenants: IntegerFile(path: tenants!), dim: store.index.config.dim)
    }
    switch what {
    case .open:
      let result = OpenResult(openMs: opened * 1000, vectors: store.index.stats.vectors)
      try report(result, String(format: "%d vectors in %.1f ms\n", result.vectors, result.openMs))
    case .updates:
      let r = try VectorBenchmark.updates(store)
      try report(
        r,
        String(
          format: "µs: insert %.2f, grant %.2f, revoke %.2f, delete %.2f; %.0f durable grants/s (%d a commit)\n",
          r.insertUs, r.grantUs, r.revokeUs, r.deleteUs, r.durableGrantsPerS, r.batch))
    case .readers:
      try search.prepare(store.index)
      let r = try VectorBenchmark.readers(
        store, queries: try input(), options: search.options, seconds: seconds, rate: rate)
      try report(
        r,
        String(
          format: "%.0f queries/s on one thread, %.0f on two (%.2f×); p99 %.0f µs, beside %.0f grants/s %.0f\n",
          r.oneThreadQps, r.twoThreadsQps, r.scaling, r.idleP99Us, r.grantsPerS, r.writingP99Us))
    case .recall:
      let curves = try RecallCurves(store.index, queries: try input(), options: search.options)
      if let svg { try Data(curves.svg.utf8).write(to: URL(fileURLWithPath: svg)) }
      try report(curves, curves.table)
    }
  }

  private func report(_ value: some Encodable, _ text: String) throws {
    if store.json { try JSONOutput.print(value) } else { Terminal.write(text) }
  }

  private struct OpenResult: Encodable {
    var openMs: Double
    var vectors: Int
  }
}
