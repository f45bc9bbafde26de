import ApusCompression
import ApusModels
import ArgumentParser
import Foundation

extension FactorLayout: ExpressibleByArgument {}

struct SVDImportCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "import", abstract: "Takes over the factors of a published low-rank checkpoint.",
    discussion: """
      apus svd import factors.safetensors --base smollm2-135m
      apus svd import FOLDER --base minilm-l6 --layout flash-svd -o small

      The factors take the place of the base's matrices; biases, norms and embeddings that the checkpoint changed come
      along. PyTorch's own files are not read: they run code. The message says how to convert one.
      """)

  @Argument(help: "A safetensors file, or a folder of them.", completion: .file())
  var checkpoint: String
  @Option(help: "The model that it was made from.")
  var base: String
  @Option(
    help: "auto, or \(FactorLayout.allCases.map(\.rawValue).joined(separator: ", ")).",
    transform: { text in
      if text == "auto" { return nil }
      guard let layout = FactorLayout(rawValue: text) else { throw ValidationError("--layout is '\(text)'.") }
      return layout
    })
  var layout: FactorLayout??
  @Option(help: "How factors are stored: \(FactorEncoding.allCases.map(\.rawValue).joined(separator: ", ")).")
  var encoding: FactorEncoding?
  @Option(help: "The new model's name (default: BASE@svd-LAYOUT).")
  var name: String?
  @Option(name: [.customShort("o"), .long], help: "Write a file or folder here instead of the store.")
  var output: String?
  @Flag(help: "Replace a model of that name.")
  var force = false
  @Flag(help: "Print one JSON object.")
  var json = false

  func run() throws {
    let (base, location) = try ModelArgument.load(base)
    let read = try FactorCheckpoint(path: checkpoint, layout: layout ?? nil)
    let small = try FactorImport(into: base, encoding: encoding ?? (location.isFolder ? .f32 : .q8_0)).model(from: read)
    let store = CompressedStore(location: location, output: output, force: force)
    let place = try store.write(
      small, name ?? "\(location.name.split(separator: "/").last ?? "model")@svd-\(read.layout.rawValue)",
      metadata: [
        (key: "apus.svd.source_sha256", value: try location.weightsDigest()),
        (key: "apus.svd.method", value: "import of \(read.layout.rawValue)"),
        (key: "apus.svd.ratio", value: String(format: "%.4f", small.ratio)),
      ])
    let whole = small.groups.count { $0.rank == nil }
    if json {
      return try JSONOutput.print(
        Result(
          model: place, layout: read.layout.rawValue, ratio: small.ratio, multipliedOut: whole, groups: small.groups))
    }
    let rows = small.groups.map {
      [$0.name, $0.rank.map { "\($0)" } ?? "multiplied out", String(format: "%.4f", $0.relativeLoss)]
    }
    Terminal.write(Format.table([["matrix", "rank", "loss of the matrix"]] + rows) + "\n")
    if whole > 0 {
      Terminal.note("\(whole) matrices were multiplied out: their factors would take more room than they do")
    }
    Terminal.write(
      "\(place): \(read.layout.rawValue), \(small.groups.count) matrices, "
        + String(format: "%.3f of their parameters\n", small.ratio))
  }

  private struct Result: Encodable {
    var model: String
    var layout: String
    var ratio: Double
    var multipliedOut: Int
    var groups: [CompressedModel.Group]
  }
}

/// Where a compressed model goes: a file or folder that was named, or the store.
struct CompressedStore {
  let location: ModelLocation
  let output: String?
  let force: Bool

  /// The place, as the user may name it.
  func write(_ small: CompressedModel, _ name: String, metadata: [(key: String, value: String)]) throws -> String {
    let (changes, source) = (small.changes, URL(filePath: location.path))
    if let output {
      try LoadedModel.rewrite(source, changes, metadata: metadata, to: URL(filePath: output))
      return output
    }
    let (isFolder, force, base) = (location.isFolder, force, location.name)
    let placed = try waitFor {
      try await ModelStore().install(name, source: "svd:\(base)", isFolder: isFolder, replaces: force) { path in
        try LoadedModel.rewrite(source, changes, metadata: metadata, to: URL(filePath: path))
      }
    }
    return placed.name
  }
}
