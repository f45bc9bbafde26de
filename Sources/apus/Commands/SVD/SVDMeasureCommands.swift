import ApusCompression
import ApusModels
import ArgumentParser
import Foundation

struct SVDVerifyCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "verify", abstract: "Measures what a compressed model lost, on a text.")

  @Argument(help: "The compressed model.")
  var model: String
  @Option(help: "The original.")
  var against: String
  @Option(help: "The text; it should not be the one of the calibration.", completion: .file())
  var text: String
  @Option(help: "Tokens of it.")
  var tokens = 8192
  @Flag(help: "Print one JSON object.")
  var json = false

  func run() throws {
    let (small, _) = try ModelArgument.load(model)
    let (original, _) = try ModelArgument.load(against)
    guard small.isEncoder == original.isEncoder else {
      throw ValidationError("\(small.name) and \(original.name) are not of one kind.")
    }
    let corpus = try Corpus(path: text, for: original, limit: tokens)
    var result = Result(
      model: small.name, against: original.name, tokens: corpus.tokens, bytes: small.fileBytes,
      originalBytes: original.fileBytes)
    if original.isEncoder {
      result.embeddings = ModelQuality.compare(
        try ModelQuality.embeddings(original, corpus.sequences), try ModelQuality.embeddings(small, corpus.sequences))
    } else {
      result.perplexity = try ModelQuality.perplexity(small, corpus.sequences)
      result.originalPerplexity = try ModelQuality.perplexity(original, corpus.sequences)
    }
    if json { return try JSONOutput.print(result) }
    Terminal.write(
      String(
        format: "%d tokens; %.1f MB, the original has %.1f\n", result.tokens, Double(result.bytes) / 1e6,
        Double(result.originalBytes) / 1e6))
    if let quality = result.embeddings {
      Terminal.write(
        String(
          format: "mean cosine %.4f, Spearman of similarities %.4f, recall@10 %.4f\n", quality.cosine, quality.spearman,
          quality.recall))
    } else if let perplexity = result.perplexity, let before = result.originalPerplexity {
      Terminal.write(
        String(format: "perplexity %.3f, the original's %.3f (%.3f times)\n", perplexity, before, perplexity / before))
    }
  }

  private struct Result: Encodable {
    var model: String
    var against: String
    var tokens: Int
    var bytes: Int
    var originalBytes: Int
    var embeddings: EmbeddingQuality?
    var perplexity: Double?
    var originalPerplexity: Double?
  }
}

/// How a model of low rank is executed, beside the original.
enum SVDMode: String, ExpressibleByArgument, CaseIterable {
  /// The original, all rows at once.
  case dense
  /// The compressed model, all rows at once: every intermediate result is as large as the batch.
  case materialized
  /// The compressed model in pieces of the rows.
  case streamed
  /// The compressed model by the device's operations for low rank.
  case fused

  func options(threads: Int?, tokens: Int, piece: Int) -> RunnerOptions {
    let execution: Execution =
      switch self {
      case .dense, .materialized: .whole
      case .streamed: .streamed(rows: piece)
      case .fused: .fused(rows: max(piece, Execution.standardFusedPiece))
      }
    return RunnerOptions(threads: threads, maxBatchTokens: tokens, execution: execution)
  }
}

extension DeviceChoice {
  /// What is compared unless told: on a CPU, streaming is what fusing is on a GPU.
  fileprivate var modes: [SVDMode] {
    if case .cpu = self { [.dense, .materialized, .streamed] } else { [.dense, .materialized, .fused] }
  }
}

struct SVDBenchCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "bench", abstract: "Time and memory of an encoder: the original, low rank at once, low rank streamed.",
    discussion: """
      apus svd bench minilm-l6@svd-0.7 --against minilm-l6 --batch 32 --length 256

      The modes take turns in one process; medians over the rounds. Transient memory is all that a pass takes beside
      weights: planned before it ran, and measured.
      """)

  @Argument(help: "The compressed model.")
  var model: String
  @Option(help: "The original.")
  var against: String?
  @Option(
    help: "Modes: \(SVDMode.allCases.map(\.rawValue).joined(separator: ", ")) (default: all that the device is for).")
  var modes: [SVDMode] = []
  @Option(help: "Sequences of a pass.")
  var batch = 32
  @Option(help: "Tokens of each.")
  var length = 256
  @Option(help: "Rows of a piece when streamed.")
  var piece = Execution.standardPiece
  @Option(help: "Rounds.")
  var rounds = 5
  @Option(help: "Threads that compute (default: one a core).")
  var threads: Int?
  @Option(help: "cpu, or cuda or cuda:N: a GPU.")
  var device = DeviceChoice.cpu
  @Flag(help: "Print one JSON object.")
  var json = false

  func validate() throws {
    guard batch > 0, length > 0, rounds > 0, piece > 0 else {
      throw ValidationError("--batch, --length, --rounds and --piece must be at least 1.")
    }
    if against == nil && (modes.isEmpty || modes.contains(.dense)) {
      throw ValidationError("--against is needed for the mode dense.")
    }
  }

  func run() throws {
    let (small, _) = try ModelArgument.load(model)
    let original = try against.map { try ModelArgument.load($0).model }
    let modes = modes.isEmpty ? device.modes : modes
    var random = SystemRandomNumberGenerator()
    let sequences = (0..<batch).map { _ in
      (0..<length).map { _ in Int32.random(in: 0..<Int32(small.vocabularySize), using: &random) }
    }
    let runners = try modes.map {
      try ModelRunner(
        $0 == .dense ? original! : small,
        device.options($0.options(threads: threads, tokens: batch * length, piece: piece)))
    }
    var seconds = modes.map { _ in [Double]() }
    // The first round warms up.
    for round in 0...rounds {
      for (i, runner) in runners.enumerated() {
        let start = ContinuousClock.now
        _ = try runner.embed(sequences)
        if round > 0 { seconds[i].append(start.duration(to: .now).inSeconds) }
      }
    }
    let rows = modes.indices.map { i in
      Row(
        mode: modes[i].rawValue, device: runners[i].deviceName, seconds: seconds[i].sorted()[rounds / 2],
        weights: runners[i].memory.weights, transientPlan: runners[i].memory.transientPlan,
        transientHighWater: runners[i].memory.transientHighWater)
    }
    if json { return try JSONOutput.print(["modes": rows]) }
    Terminal.write("\(rows[0].device)\n")
    Terminal.write("mode              ms   weights MB   transient MB: planned   measured\n")
    for row in rows {
      Terminal.write(
        "\(row.mode.padding(toLength: 12, withPad: " ", startingAt: 0))"
          + String(
            format: "%8.1f   %10.1f   %21.2f   %8.2f\n", row.seconds * 1000, Double(row.weights) / 1e6,
            Double(row.transientPlan) / 1e6, Double(row.transientHighWater) / 1e6))
    }
  }

  private struct Row: Encodable {
    var mode: String
    var device: String
    var seconds: Double
    var weights: Int
    var transientPlan: Int
    var transientHighWater: Int
  }
}

struct SVDPlanCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "plan", abstract: "The largest batch that an encoder can take within some memory.")

  @Argument(help: "The model.")
  var model: String
  @Option(help: "Transient memory in MB, beside the weights.")
  var memory: Double
  @Option(help: "Tokens of a sequence.")
  var length = 256
  @Option(help: "Rows of a piece when streamed.")
  var piece = Execution.standardPiece
  @Flag(help: "Print one JSON object.")
  var json = false

  func run() throws {
    let (model, _) = try ModelArgument.load(model)
    let limit = Int(memory * 1e6)
    let rows = try [SVDMode.materialized, .streamed].map { mode -> Row in
      let runner = try ModelRunner(model, mode.options(threads: 1, tokens: .max, piece: piece))
      func bytes(_ batch: Int) throws -> Int {
        try runner.plan(encoding: Array(repeating: length, count: batch))
      }
      // Doubled while it fits, then halved between.
      var (fits, fails) = (0, 1)
      while fails <= Self.mostSequences, try bytes(fails) <= limit { (fits, fails) = (fails, fails * 2) }
      while fails - fits > 1 {
        let middle = (fits + fails) / 2
        if try bytes(middle) <= limit { fits = middle } else { fails = middle }
      }
      return Row(mode: mode.rawValue, batch: fits, bytes: fits > 0 ? try bytes(fits) : 0)
    }
    if json { return try JSONOutput.print(["plans": rows]) }
    for row in rows {
      Terminal.write(
        "\(row.mode.padding(toLength: 12, withPad: " ", startingAt: 0))"
          + String(
            format: "%6d sequences of %d tokens in %.2f MB\n", row.batch, length, Double(row.bytes) / 1e6))
    }
  }

  private static let mostSequences = 1 << 16

  private struct Row: Encodable {
    var mode: String
    var batch: Int
    var bytes: Int
  }
}

struct SVDMergeCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "merge", abstract: "Multiplies the factors out: a model that other tools load.")

  @Argument(help: "The compressed model.")
  var model: String
  @Option(name: [.customShort("o"), .long], help: "Write the folder or file here.", completion: .file())
  var output: String

  func run() throws {
    let (model, location) = try ModelArgument.load(model)
    let changes = try LowRankMerge.changes(model, isFolder: location.isFolder)
    try LoadedModel.rewrite(URL(filePath: location.path), changes, metadata: [], to: URL(filePath: output))
    Terminal.write("\(changes.matrices.count) matrices: \(output)\n")
  }
}
