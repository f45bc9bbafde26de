import ApusCompression
import ApusModels
import ArgumentParser
import Foundation

struct SVDCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "svd",
    abstract: "Compresses models by low rank, and measures what that saves.",
    discussion: """
      apus svd calibrate minilm-l6 --text corpus.txt -o minilm.stats
      apus svd spectrum minilm-l6 --statistics minilm.stats
      apus svd compress minilm-l6 --statistics minilm.stats --ratio 0.8 --text corpus.txt
      apus embed -m minilm-l6@svd-0.8 "a swift" "a bird"
      apus svd verify minilm-l6@svd-0.8 --against minilm-l6 --text other.txt
      apus svd bench minilm-l6@svd-0.8 --against minilm-l6 --batch 32 --length 256
      apus svd plan minilm-l6@svd-0.8 --memory 64 --length 256
      apus svd merge minilm-l6@svd-0.8 -o dense
      apus svd import factors.safetensors --base smollm2-135m

      A compressed model is a model of the store like any other: run, chat, embed and serve take it.
      """,
    subcommands: [
      SVDCalibrateCommand.self, SVDSpectrumCommand.self, SVDCompressCommand.self, SVDVerifyCommand.self,
      SVDBenchCommand.self, SVDPlanCommand.self, SVDMergeCommand.self, SVDImportCommand.self,
    ])
}

/// A model as an argument.
enum ModelArgument {
  static func load(_ name: String) throws -> (model: LoadedModel, location: ModelLocation) {
    var options = ModelOptions()
    options.name = name
    let location = try options.locate()
    return (try location.load(), location)
  }
}

struct SVDCalibrateCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "calibrate", abstract: "Gathers statistics of what goes into a model's layers.",
    discussion: """
      An encoder reads a line of the text at a time, a decoder the text in windows of 512 tokens. A calibration that was
      broken off goes on where it was when it is called again with the same text and file.
      """)

  @Argument(help: "The model.")
  var model: String
  @Option(help: "The text, like what the model will read.", completion: .file())
  var text: String
  @Option(help: "Tokens to read, at most.")
  var tokens = 65_536
  @Option(name: [.customShort("o"), .long], help: "Write the statistics here.", completion: .file())
  var output: String
  @Option(help: "Threads that compute (default: one a core).")
  var threads: Int?
  @Flag(help: "Print one JSON object.")
  var json = false

  func run() throws {
    let (model, location) = try ModelArgument.load(model)
    let corpus = try Corpus(path: text, for: model, limit: tokens)
    let digest = try location.weightsDigest()
    var statistics = CalibrationStatistics(model: digest, corpus: corpus.digest)
    if FileManager.default.fileExists(atPath: output) {
      statistics = try CalibrationStatistics(path: output, model: digest, corpus: corpus.digest)
    }
    let bar = StepProgress("calibrating")
    try Calibration(model, threads: threads).run(
      corpus, into: &statistics, progress: { bar.show($0, of: corpus.tokens) },
      checkpoint: { try $0.write(to: output) })
    bar.finish()
    let short = statistics.inputs.filter { $0.value.recommendedShrinkage > 0 }.map(\.key).sorted()
    if json {
      return try JSONOutput.print(
        Result(model: model.name, tokens: statistics.tokens, inputs: statistics.inputs.count, shortInputs: short))
    }
    Terminal.write("\(statistics.inputs.count) inputs, \(statistics.tokens) tokens: \(output)\n")
    if let first = short.first {
      Terminal.write(
        "warning: \(short.count) inputs (\(first), …) have seen fewer than 10 vectors for each of their numbers; their "
          + "statistics are shrunk. More text would be better.\n", to: STDERR_FILENO)
    }
  }

  private struct Result: Encodable {
    var model: String
    var tokens: Int
    var inputs: Int
    var shortInputs: [String]
  }
}

struct SVDSpectrumCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "spectrum", abstract: "Shows how fast the outputs of each layer can be given up.")

  @Argument(help: "The model.")
  var model: String
  @Option(help: "What calibrate wrote.", completion: .file())
  var statistics: String
  @Option(help: "Draw the curves here.", completion: .file(extensions: ["svg"]))
  var svg: String?
  @Flag(help: "Print one JSON object.")
  var json = false

  func run() throws {
    let (model, location) = try ModelArgument.load(model)
    let statistics = try CalibrationStatistics(path: statistics, model: location.weightsDigest())
    let bar = StepProgress("factorising")
    let compressor = try ModelCompressor(model, statistics: statistics) { bar.show(Int($0 * 1000), of: 1000) }
    bar.finish()
    if let svg {
      var chart = SpectrumChart()
      for (i, layer) in compressor.layers().enumerated() {
        chart.add(layer.kind, spectrum: compressor.spectrum(i), breakEven: layer.breakEven)
      }
      try Data(chart.svg.utf8).write(to: URL(filePath: svg), options: .atomic)
    }
    let rows = compressor.groups.indices.map { i in
      Row(compressor.groups[i], compressor.layers()[i], compressor.spectrum(i))
    }
    if json { return try JSONOutput.print(["groups": rows]) }
    let header = ["input", "matrices", "smaller below", "rank for 90 %", "95 %", "99 % of the energy"]
    let cells = rows.map { row in
      [row.name, "\(row.rows) × \(row.columns)", "\(Int(row.breakEven))"]
        + [row.rank90, row.rank95, row.rank99].map { "\($0)" }
    }
    Terminal.write(Format.table([header] + cells) + "\n")
  }

  private struct Row: Encodable {
    var name: String
    var rows: Int
    var columns: Int
    var breakEven: Double
    var rank90: Int
    var rank95: Int
    var rank99: Int
    var spectrum: [Double]

    init(_ group: LinearGroup, _ layer: RankedLayer, _ spectrum: [Double]) {
      name = group.name
      rows = group.rows
      columns = group.columns
      breakEven = layer.breakEven
      self.spectrum = spectrum
      let total = spectrum.reduce(0, +)
      func rank(_ share: Double) -> Int {
        var sum = 0.0
        return
          (spectrum.firstIndex { value in
            sum += value
            return sum >= share * total
          } ?? 0) + 1
      }
      (rank90, rank95, rank99) = (rank(0.9), rank(0.95), rank(0.99))
    }
  }
}
