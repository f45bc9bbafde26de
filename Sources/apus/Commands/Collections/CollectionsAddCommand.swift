import ApusCollections
import ApusVectors
import ArgumentParser
import Foundation

struct CollectionsAddCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "add", abstract: "Stores points from a file of JSON lines, making vectors of their texts.",
    discussion: """
      apus collections add library debian paragraphs.jsonl
      apus collections add library debian notes.jsonl --owner alice

      A line: {"id": 7, "text": "…", "tenants": ["owner", "reader"], "payload": {"section": "science"}}. The first tenant
      owns the point, the others may see it; "vector" takes the place of the model. Points that are there already are
      passed over: an import that was stopped goes on where it was.
      """)

  @OptionGroup var collection: CollectionOptions
  @Argument(help: "The file.", completion: .file())
  var file: String
  @OptionGroup var encoder: EncoderArguments
  @Option(help: "Owns all points (default: the first of each line's tenants).")
  var owner: String?
  @Flag(
    inversion: .prefixedNo,
    help: "Train the clustering tree afterwards if the collection has none, and fit searches to a recall of 0.98.")
  var train = true

  func run() throws {
    let file = try JSONLinesFile(path: file)
    let result = try collection.open(CommandEmbedder(encoder), reading: true) { collection in
      let start = ContinuousClock.now
      let owner = owner
      let report = try waitFor {
        let bar = StepProgress("indexing")
        defer { bar.finish() }
        return try await PointImport(file, into: collection, owner: owner).run { bar.show($0, of: $1) }
      }
      let seconds = start.duration(to: .now).inSeconds
      if train { try Self.train(collection) }
      try collection.checkpoint()
      return AddResult(
        points: report.points, embedded: report.embedded, unchanged: report.unchanged, seconds: seconds,
        textsPerS: seconds > 0 ? Double(report.embedded) / seconds : 0)
    }
    if collection.folder.json { return try JSONOutput.print(result) }
    Terminal.write(
      "\(result.points) points in \(Format.seconds(result.seconds)): \(result.embedded) texts embedded "
        + "(\(Format.number(result.textsPerS)) a second), \(result.unchanged) were there\n")
  }

  private static func train(_ collection: VectorCollection) throws {
    let administrator = CollectionsCommand.administrator
    let stats = try collection.stats(as: administrator)
    guard stats.clusters == 1, stats.vectors > collection.config.vectors.leafCapacity else { return }
    let bar = StepProgress("training")
    defer { bar.finish() }
    try collection.train(targetRecall: targetRecall, as: administrator) { bar.show(Int($0 * 1000), of: 1000) }
  }

  private static let targetRecall = 0.98

  private struct AddResult: Encodable {
    var points: Int
    var embedded: Int
    var unchanged: Int
    var seconds: Double
    var textsPerS: Double
  }
}
