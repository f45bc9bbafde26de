import ApusCollections
import ApusVectors
import ArgumentParser
import Foundation

struct CollectionsCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "collections",
    abstract: "Texts and vectors of many tenants; each finds its own and what it was granted.",
    discussion: """
      apus collections create library debian --model minilm-l6 --index-field section
      apus collections add library debian paragraphs.jsonl
      apus collections search library debian --tenant science "control a telescope"
      apus collections search library debian --tenant games "control a telescope" --mode hybrid --json
      apus serve -m minilm-l6 --collections library

      STORE is a folder of collections, the one that `apus serve --collections` takes; one process at a time opens a
      collection. Points come as JSON lines: {"id": 7, "text": "…", "tenants": ["owner", "reader"], "payload": {…}}.
      """,
    subcommands: [
      CollectionsCreateCommand.self, CollectionsListCommand.self, CollectionsAddCommand.self,
      CollectionsSearchCommand.self, CollectionsGrantCommand.self, CollectionsRevokeCommand.self,
      CollectionsTenantsCommand.self, CollectionsStatsCommand.self, CollectionsVerifyCommand.self,
      CollectionsDeleteCommand.self,
    ])

  /// Who has the folder may do everything with what is in it.
  static let administrator = Principal(tenant: "apus", isAdmin: true)
}

/// Which folder of collections.
struct CollectionStoreOptions: ParsableArguments {
  @Argument(help: "The folder of collections.", completion: .directory)
  var store: String

  @Flag(help: "Print one JSON object.")
  var json = false

  /// Opens the store for `body` and closes it. Throws `CollectionError.notFound` if there is no such folder.
  func open<T>(_ embedder: CommandEmbedder? = nil, _ body: (CollectionStore) throws -> T) throws -> T {
    guard FileManager.default.fileExists(atPath: store) else {
      throw CollectionError.notFound("the folder '\(store)'")
    }
    return try opening(embedder, body)
  }

  /// As `open`, and makes the folder if there is none.
  func opening<T>(_ embedder: CommandEmbedder? = nil, _ body: (CollectionStore) throws -> T) throws -> T {
    let opened = try CollectionStore(store, embedder: embedder)
    let result = Result { try body(opened) }
    try opened.close()
    return try result.get()
  }
}

/// Which collection.
struct CollectionOptions: ParsableArguments {
  @OptionGroup var folder: CollectionStoreOptions
  @Argument(help: "The collection's name.")
  var name: String

  func open<T>(_ body: (VectorCollection) throws -> T) throws -> T {
    try folder.open { try body($0.collection(name)) }
  }

  /// With the collection's embedding model, where texts will be read.
  func open<T>(_ embedder: CommandEmbedder, reading texts: Bool, _ body: (VectorCollection) throws -> T) throws -> T {
    try folder.open(embedder) { store in
      let collection = try store.collection(name)
      if texts, let model = collection.config.embeddingModel { try embedder.load(model) }
      return try body(collection)
    }
  }
}

struct CollectionsCreateCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "create", abstract: "Makes an empty collection.",
    discussion: """
      apus collections create library debian --model minilm-l6
      apus collections create library images --dim 512 --metric ip
      """)

  @OptionGroup var collection: CollectionOptions
  @OptionGroup var encoder: EncoderArguments
  @Option(help: "Numbers of a vector, where no model says it.")
  var dim: Int?
  @Option(help: "Distance: l2 (squared), ip (inner product) or cosine.")
  var metric = VectorMetric.cosine
  @Option(help: "rabitq keeps one bit a dimension for the first pass, sq8 an int8 copy; none searches f32 only.")
  var quantizer = VectorQuantizer.standard
  @Option(
    name: .customLong("index-field"), parsing: .singleValue,
    help: "A path in payloads that --where and filters may name; may be repeated.")
  var indexedFields: [String] = []

  func validate() throws {
    guard (dim == nil) != (encoder.model == nil) else {
      throw ValidationError("Give --model, whose vectors are taken, or --dim.")
    }
  }

  func run() throws {
    let embedder = CommandEmbedder(encoder)
    let model = try encoder.model.map { try embedder.load($0) }
    let config = CollectionConfig(
      name: collection.name,
      vectors: VectorConfig(
        dim: try model.map { try embedder.dim(of: $0) } ?? dim ?? 0, metric: metric, quantizer: quantizer),
      embeddingModel: model, indexedFields: indexedFields)
    _ = try collection.folder.opening(embedder) { try $0.create(config, as: CollectionsCommand.administrator) }
    if collection.folder.json { try JSONOutput.print(config) }
  }
}

struct CollectionsListCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "list", abstract: "Lists the collections of a folder.", aliases: ["ls"])

  @OptionGroup var folder: CollectionStoreOptions

  func run() throws {
    let configs = try folder.open { store in try store.names().map { try store.collection($0).config } }
    if folder.json { return try JSONOutput.print(configs) }
    let rows = configs.map {
      [
        $0.name, $0.embeddingModel ?? "-", "\($0.vectors.dim)", $0.vectors.metric.rawValue,
        $0.vectors.quantizer.rawValue,
      ]
    }
    Terminal.write(Format.table([["name", "model", "dim", "metric", "quantizer"]] + rows) + "\n")
  }
}

struct CollectionsGrantCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "grant", abstract: "Lets a tenant see points of another's.",
    discussion: "apus collections grant library debian --owner science --tenant games stellarium celestia")

  @OptionGroup var collection: CollectionOptions
  @OptionGroup var change: GrantArguments

  func run() throws {
    let count = try collection.open {
      try $0.grant(change.keys, to: [change.tenant], of: change.owner, as: CollectionsCommand.administrator)
    }
    try change.report(count, json: collection.folder.json)
  }
}

struct CollectionsRevokeCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "revoke", abstract: "Takes points of another's from a tenant.",
    discussion: "apus collections revoke library debian --owner science --tenant games stellarium celestia")

  @OptionGroup var collection: CollectionOptions
  @OptionGroup var change: GrantArguments

  func run() throws {
    let count = try collection.open {
      try $0.revoke(change.keys, from: [change.tenant], of: change.owner, as: CollectionsCommand.administrator)
    }
    try change.report(count, json: collection.folder.json)
  }
}

struct GrantArguments: ParsableArguments {
  @Argument(help: "The points' ids.")
  var ids: [String]
  @Option(help: "Whose points.")
  var owner: String
  @Option(help: "Who may see them, or no longer may.")
  var tenant: String
  @Flag(help: "Ids are strings, also those of digits.")
  var strings = false

  var keys: [PointKey] {
    ids.map { id in
      if !strings, let number = Int64(id), "\(number)" == id { return .integer(number) }
      return .text(id)
    }
  }

  func report(_ count: Int, json: Bool) throws {
    if json { try JSONOutput.print(["changed": count]) } else { Terminal.write("\(count) grants changed\n") }
  }
}

struct CollectionsTenantsCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "tenants", abstract: "Lists tenants, those that see the most first.")

  @OptionGroup var collection: CollectionOptions
  @Option(name: .shortAndLong, help: "Only so many (default: all).")
  var number: Int?

  func run() throws {
    let administrator = CollectionsCommand.administrator
    let all = try collection.open { collection in
      try collection.tenantNames(as: administrator).map { try collection.stats(of: $0, as: administrator) }
    }
    let shown = all.sorted { ($1.visible, $0.tenant) < ($0.visible, $1.tenant) }.prefix(number ?? all.count)
    if collection.folder.json { return try JSONOutput.print(Array(shown)) }
    let rows = shown.map { [$0.tenant, "\($0.owned)", "\($0.visible)", $0.state.rawValue] }
    Terminal.write(Format.table([["tenant", "owns", "sees", "state"]] + rows) + "\n")
  }
}

struct CollectionsStatsCommand: ParsableCommand {
  static let configuration = CommandConfiguration(commandName: "stats", abstract: "What is in a collection.")

  @OptionGroup var collection: CollectionOptions

  func run() throws {
    let stats = try collection.open { try $0.stats(as: CollectionsCommand.administrator) }
    if collection.folder.json { return try JSONOutput.print(stats) }
    Terminal.write(
      """
      points    \(stats.vectors)
      tenants   \(stats.tenants)
      grants    \(stats.grants)
      clusters  \(stats.clusters)

      """)
  }
}

struct CollectionsVerifyCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "verify", abstract: "Checks a collection's index, its catalogue and its words against each other.")

  @OptionGroup var collection: CollectionOptions

  func run() throws {
    try collection.open { try $0.verify() }
    if collection.folder.json { try JSONOutput.print(["verified": true]) } else { Terminal.write("verified\n") }
  }
}

struct CollectionsDeleteCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "delete", abstract: "Deletes a collection and its files.", aliases: ["rm"])

  @OptionGroup var collection: CollectionOptions

  func run() throws {
    try collection.folder.open { try $0.delete(collection.name, as: CollectionsCommand.administrator) }
    if collection.folder.json { try JSONOutput.print(["deleted": true]) }
  }
}
