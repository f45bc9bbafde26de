import ApusCollections
import ApusVectors
import ArgumentParser
import Foundation

struct VectorsCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "vectors",
    abstract: "A vector database in which each tenant sees only what it was granted.",
    discussion: """
      apus vectors create store --dim 384 --metric cosine
      apus vectors import store --vectors base.npy --access access.npz
      apus vectors train store
      apus vectors tune store --target-recall 0.98
      apus vectors search store --queries q.npy --tenants t.npy --out ids.npy --json

      PATH is a folder. One process at a time opens it. Vectors come as npy, npz (FILE.npz:NAME), fvecs, bvecs, fbin,
      u8bin or i8bin; an access matrix is a CSR in an npz (indptr, indices) whose rows are vectors and whose columns are
      tenants.
      """,
    subcommands: [
      VectorsCreateCommand.self, VectorsImportCommand.self, VectorsTrainCommand.self, VectorsTuneCommand.self,
      VectorsSearchCommand.self, VectorsApplyCommand.self, VectorsGrantCommand.self, VectorsRevokeCommand.self,
      VectorsOffloadCommand.self, VectorsLoadCommand.self, VectorsExportCommand.self,
      VectorsStatsCommand.self, VectorsVerifyCommand.self, VectorsCompactCommand.self, VectorsSnapshotCommand.self,
      VectorsBenchCommand.self,
    ])
}

/// What the commands on a store have in common.
struct StoreOptions: ParsableArguments {
  @Argument(help: "The folder of the store.", completion: .directory)
  var path: String

  @Flag(help: "Skip damaged records of the log instead of refusing to open.")
  var salvage = false

  @Flag(help: "Print one JSON object.")
  var json = false

  func open() throws -> VectorStore { try VectorStore.open(path, salvage: salvage) }
}

extension VectorMetric: ExpressibleByArgument {}
extension VectorQuantizer: ExpressibleByArgument {}

struct VectorsCreateCommand: ParsableCommand {
  static let configuration = CommandConfiguration(commandName: "create", abstract: "Makes an empty store.")

  @Argument(help: "The folder; it must not exist or be empty.", completion: .directory)
  var path: String
  @Option(help: "Numbers of a vector.")
  var dim: Int
  @Option(help: "Distance: l2 (squared), ip (inner product) or cosine.")
  var metric = VectorMetric.cosine
  @Option(help: "rabitq keeps one bit a dimension for the first pass, sq8 an int8 copy; none searches f32 only.")
  var quantizer = VectorQuantizer.standard
  @Option(help: "Children of a cluster, 2…64.")
  var branching = 16
  @Option(help: "Vectors of one tenant in one node before its tree goes deeper.")
  var bufferCapacity = 128
  @Option(help: "Training vectors below which a cluster is not split.")
  var leafCapacity = 128

  func run() throws {
    let config = VectorConfig(
      dim: dim, metric: metric, quantizer: quantizer, branching: branching, bufferCapacity: bufferCapacity,
      leafCapacity: leafCapacity)
    try VectorStore.create(path, config).close()
  }
}

struct VectorsImportCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "import", abstract: "Stores vectors from a file; the row number is the id.",
    discussion: "A store that was tuned is tuned anew when tenants outgrow the sizes that it was tuned for.")

  @OptionGroup var store: StoreOptions
  @Option(help: "The vectors.", completion: .file())
  var vectors: String
  @Option(help: "CSR access matrix (npz or spmat).", completion: .file())
  var access: String?
  @Option(help: "Grant all to this tenant, where there is no access matrix.")
  var tenant: TenantID?
  @Option(help: "The id of the first row.")
  var firstID: VectorID = 0
  @Flag(inversion: .prefixedNo, help: "Train the clustering tree afterwards if the store has none.")
  var train = true

  func run() throws {
    guard access == nil || tenant == nil else { throw ValidationError("Give --access or --tenant, not both.") }
    let store = try store.open()
    let start = ContinuousClock.now
    let bar = StepProgress("importing")
    let report = try VectorImport(into: store).run(
      vectors: VectorFile(path: vectors), access: try access.map { try AccessMatrix(path: $0) }, tenant: tenant,
      firstID: firstID
    ) { bar.show($0, of: $1) }
    bar.finish()
    if train && store.index.stats.clusters == 1 && report.vectors > store.index.config.leafCapacity {
      try VectorsTrainCommand.train(store)
    }
    let tuning = StepProgress("tuning for grown tenants")
    if try store.tuneIfGrown(progress: { tuning.show(Int($0 * 1000), of: 1000) }) { tuning.finish() }
    try store.checkpoint()
    try store.close()
    let seconds = start.duration(to: .now).inSeconds
    if self.store.json {
      try JSONOutput.print(ImportResult(vectors: report.vectors, grants: report.grants, seconds: seconds))
    } else {
      Terminal.write("\(report.vectors) vectors, \(report.grants) grants in \(String(format: "%.1f", seconds)) s\n")
    }
  }

  private struct ImportResult: Encodable {
    var vectors: Int
    var grants: Int
    var seconds: Double
  }
}

struct VectorsTrainCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "train", abstract: "Trains the clustering tree on what is stored, and rebuilds over it.")

  @OptionGroup var store: StoreOptions
  @Option(help: "Vectors to train on, at most.")
  var sample = 1 << 18
  @Option(help: "Seed of the sample and of k-means.")
  var seed: UInt64 = 42

  func run() throws {
    let store = try store.open()
    try Self.train(store, sample: sample, seed: seed)
    try store.checkpoint()
    let stats = store.index.stats
    try store.close()
    if self.store.json { try JSONOutput.print(stats) } else { Terminal.write("\(stats.clusters) clusters\n") }
  }

  static func train(_ store: VectorStore, sample: Int = 1 << 18, seed: UInt64 = 42) throws {
    let bar = StepProgress("training")
    try store.train(TrainingOptions(seed: seed), sample: sample) { bar.show(Int($0 * 1000), of: 1000) }
    bar.finish()
  }
}

struct VectorsTuneCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "tune", abstract: "Fits how long searches look to a recall, for each size of tenants.")

  @OptionGroup var store: StoreOptions
  @Option(
    parsing: .upToNextOption, help: "Recalls at k that searches shall reach; the last is for those that name none.")
  var targetRecall: [Double]
  @Option(help: "Results of a search.")
  var k = 10
  @Option(help: "Queries for each size class.")
  var queries = 2000

  func run() throws {
    let store = try store.open()
    let bar = StepProgress("tuning")
    try store.tune(targets: targetRecall, options: SearchOptions(k: k), queriesPerClass: queries) {
      bar.show(Int($0 * 1000), of: 1000)
    }
    bar.finish()
    let tuned = targetRecall.map { target in
      Tuned(
        targetRecall: target,
        classes: (0..<24).map {
          TuneRow(size: 1 << $0, patience: store.index.patience(size: 1 << $0, targetRecall: target).patience)
        })
    }
    try store.close()
    if self.store.json { return try JSONOutput.print(["tuned": tuned]) }
    Terminal.write("lists without improvement after which a search ends, by recall\nvectors of the tenant")
    for one in tuned { Terminal.write(String(format: "  %8.3f", one.targetRecall)) }
    for row in 0..<24 {
      Terminal.write(String(format: "\n%21d", 1 << row))
      for one in tuned { Terminal.write(String(format: "  %8.2f", one.classes[row].patience)) }
    }
    Terminal.write("\n")
  }

  private struct TuneRow: Encodable {
    var size: Int
    var patience: Double
  }
  private struct Tuned: Encodable {
    var targetRecall: Double
    var classes: [TuneRow]
  }
}

struct VectorsStatsCommand: ParsableCommand {
  static let configuration = CommandConfiguration(commandName: "stats", abstract: "What is in a store, and its bytes.")

  @OptionGroup var store: StoreOptions

  func run() throws {
    let store = try store.open()
    let (stats, memory) = (store.index.stats, store.index.memory)
    try store.close()
    if self.store.json {
      try JSONOutput.print(
        StatsResult(
          vectors: stats.vectors, tenants: stats.tenants, grants: stats.grants, deleted: stats.deleted,
          clusters: stats.clusters,
          bytes: StoreBytes(memory)))
      return
    }
    Terminal.write(
      """
      vectors   \(stats.vectors)
      tenants   \(stats.tenants)
      grants    \(stats.grants)
      deleted   \(stats.deleted) (until the next compaction)
      clusters  \(stats.clusters)
      bytes     \(memory.total): vectors \(memory.vectors), codes \(memory.codes), index \(memory.index) \
      (clusters \(memory.clusteringTree), columns \(memory.columns), trees \(memory.trees), tenants \(memory.tenants), offloaded \(memory.offloaded)); on disk only \(memory.onDisk)

      """)
  }

  private struct StatsResult: Encodable {
    var vectors: Int
    var tenants: Int
    var grants: Int
    var deleted: Int
    var clusters: Int
    var bytes: StoreBytes
  }
}

/// Bytes of a store as JSON shows them.
struct StoreBytes: Encodable {
  var vectors: Int
  var codes: Int
  var index: Int
  var total: Int
  /// Of offloaded tenants; in no sum.
  var onDisk: Int

  init(_ memory: VectorMemory) {
    (vectors, codes, index, total) = (memory.vectors, memory.codes, memory.index, memory.total)
    onDisk = memory.onDisk
  }
}

struct VectorsVerifyCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "verify", abstract: "Checks every checksum and every invariant of a store.")

  @OptionGroup var store: StoreOptions

  func run() throws {
    let store = try store.open()
    try store.verify()
    try store.close()
    if self.store.json { try JSONOutput.print(["verified": true]) } else { Terminal.write("verified\n") }
  }
}

struct VectorsCompactCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "compact", abstract: "Gives the memory and the bytes on disk of deleted vectors back.")

  @OptionGroup var store: StoreOptions

  func run() throws {
    let store = try store.open()
    try store.compact()
    try store.checkpoint()
    try store.close()
    if self.store.json { try JSONOutput.print(["compacted": true]) }
  }
}

struct VectorsOffloadCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "offload",
    abstract: "Moves tenants out of memory: their trees, and the vectors that only they have.")

  @OptionGroup var store: StoreOptions
  @Option(name: .customLong("tenant"), parsing: .upToNextOption, help: "The tenants.")
  var tenants: [TenantID]

  func run() throws { try VectorsLoadCommand.commit(tenants.map(Mutation.offload), to: store, compacting: true) }
}

struct VectorsLoadCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "load", abstract: "Brings offloaded tenants back: they find what they would have found.")

  @OptionGroup var store: StoreOptions
  @Option(name: .customLong("tenant"), parsing: .upToNextOption, help: "The tenants.")
  var tenants: [TenantID]

  func run() throws { try Self.commit(tenants.map(Mutation.load), to: store, compacting: false) }

  static func commit(_ mutations: [Mutation], to options: StoreOptions, compacting: Bool) throws {
    let store = try options.open()
    let changed = try store.commit(mutations).changed
    if compacting { try store.compact() }
    try store.checkpoint()
    let memory = store.index.memory
    try store.close()
    if options.json { return try JSONOutput.print(Changed(changed: changed, bytes: StoreBytes(memory))) }
    Terminal.write("\(changed) tenants; \(memory.total) bytes in memory, \(memory.onDisk) on disk only\n")
  }

  private struct Changed: Encodable {
    var changed: Int
    var bytes: StoreBytes
  }
}

struct VectorsSnapshotCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "snapshot", abstract: "Copies a store to a new folder, as it is at one moment.")

  @OptionGroup var store: StoreOptions
  @Option(name: .customLong("to"), help: "The new folder.", completion: .directory)
  var target: String

  func run() throws {
    let store = try store.open()
    try store.snapshot(to: target)
    try store.close()
    if self.store.json { try JSONOutput.print(["snapshot": target]) }
  }
}
