import ApusCompression
import ApusModels
import ArgumentParser
import Foundation

struct SVDVerifyCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "verify", abstract: "Measures what a compressed model lost, on a text that it was not fitted to.",
    discussion: """
      A compressed model knows which lines it was calibrated or chosen with. A text with more than 1 % of such lines is
      refused: what is measured on it says nothing about other texts.
      """)

  /// The note of a model's file: hashes of the lines that it was fitted to.
  static let seenLines = "apus.svd.line_hashes"

  @Argument(help: "The compressed model.")
  var model: String
  @Option(help: "The original.")
  var against: String
  @Option(help: "The text.", completion: .file())
  var text: String
  @Flag(help: "Measure on a text that the model was fitted to, and say so.")
  var allowSeen = false
  @Option(help: "Tokens of it.")
  var tokens = 8192
  @Flag(help: "Print one JSON object.")
  var json = false

  func run() throws {
    let (small, location) = try ModelArgument.load(model)
    let (original, _) = try ModelArgument.load(against)
    guard small.isEncoder == original.isEncoder else {
      throw ValidationError("\(small.name) and \(original.name) are not of one kind.")
    }
    let corpus = try Corpus(path: text, for: original, limit: tokens)
    let seen = try LoadedModel.note(Self.seenLines, of: URL(filePath: location.path)).flatMap(LineHashes.init(base64:))
    if !allowSeen { try seen?.requireUnseen(corpus, "text '\(text)'") }
    var result = Result(
      model: small.name, against: original.name, tokens: corpus.tokens, seenLines: seen?.shared(with: corpus.lines),
      lines: corpus.lines.count, bytes: small.fileBytes, originalBytes: original.fileBytes)
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
    switch result.seenLines {
    case nil: Terminal.note("the model does not say what it was fitted to: see that it was not this text")
    case 0: break
    case let shared?:
      Terminal.note("\(shared) of the text's \(result.lines) lines were in what the model was fitted to")
    }
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
    /// Nil when the model does not say.
    var seenLines: Int?
    var lines: Int
    var bytes: Int
    var originalBytes: Int
    var embeddings: EmbeddingQuality?
    var perplexity: Double?
    var originalPerplexity: Double?
  }
}

extension ExecutionMode: ExpressibleByArgument {}

extension DeviceChoice {
  /// What is compared unless told: on a CPU, streaming is what fusing is on a GPU.
  fileprivate var modes: [ExecutionMode] {
    if case .cpu = self { [.dense, .materialized, .streamed] } else { [.dense, .materialized, .fused] }
  }
}

struct SVDBenchCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "bench", abstract: "Time and memory: the original, low rank at once, low rank streamed.",
    discussion: """
      apus svd bench minilm-l6@svd-0.7 --against minilm-l6 --batch 32 --length 256 --report memory.html
      apus svd bench smollm2-135m@svd-0.9 --against smollm2-135m --batch 1 --length 512

      The modes take turns in one process; medians over the rounds. A decoder's pass is a prefill, and it writes some
      tokens after it. Transient memory is all that a pass takes beside weights, keys and values: planned before it ran,
      and measured.
      """)

  @Argument(help: "The compressed model.")
  var model: String
  @Option(help: "The original.")
  var against: String?
  @Option(
    help:
      "Modes: \(ExecutionMode.allCases.map(\.rawValue).joined(separator: ", ")) (default: all that the device is for).")
  var modes: [ExecutionMode] = []
  @Option(help: "Sequences of a pass.")
  var batch = 32
  @Option(help: "Tokens of each.")
  var length = 256
  @Option(help: "Tokens that a decoder writes after a pass, one a step.")
  var decoded = 32
  @Option(help: "Rows of a piece when streamed.")
  var piece = Execution.standardPiece
  @Option(help: "Rounds.")
  var rounds = 5
  @Option(help: "Threads that compute (default: one a core).")
  var threads: Int?
  @Option(help: "Write a page with memory over time here.", completion: .file(extensions: ["html"]))
  var report: String?
  @Option(help: "cpu, or cuda or cuda:N: a GPU.")
  var device = DeviceChoice.cpu
  @Flag(help: "Print one JSON object.")
  var json = false

  func validate() throws {
    guard batch > 0, length > 0, rounds > 0, piece > 0, decoded >= 0 else {
      throw ValidationError("--batch, --length, --rounds and --piece must be at least 1.")
    }
    if against == nil && (modes.isEmpty || modes.contains(.dense)) {
      throw ValidationError("--against is needed for the mode dense.")
    }
  }

  func run() throws {
    let (small, _) = try ModelArgument.load(model)
    let original = try against.map { try ModelArgument.load($0).model }
    let bench = LowRankBench(
      batch: batch, length: length, decoded: decoded, rounds: rounds, piece: piece, threads: threads,
      options: { device.options($0) })
    let results = try bench.run(modes.isEmpty ? device.modes : modes, small: small, original: original)
    if let report {
      let page = MemoryReportPage(model: small.name, original: original?.name, bench: bench, results: results)
      try Data(page.html.utf8).write(to: URL(filePath: report), options: .atomic)
    }
    if json { return try JSONOutput.print(["modes": results.map(Row.init)]) }
    let header = ["mode", "ms", "decoded tokens/s", "weights MB", "transient MB: planned", "measured"]
    let rows = results.map { result in
      [
        result.mode.rawValue, String(format: "%.1f", result.seconds * 1000),
        result.decodedPerSecond.map(Format.number) ?? "", Format.megabytes(result.weights),
        Format.megabytes(result.transientPlan, decimals: 2), Format.megabytes(result.transientHighWater, decimals: 2),
      ]
    }
    Terminal.write(results[0].device + "\n" + Format.table([header] + rows) + "\n")
  }

  private struct Row: Encodable {
    var mode: String
    var device: String
    var seconds: Double
    var decodedPerSecond: Double?
    var weights: Int
    var transientPlan: Int
    var transientHighWater: Int

    init(_ result: LowRankBench.Result) {
      mode = result.mode.rawValue
      device = result.device
      seconds = result.seconds
      decodedPerSecond = result.decodedPerSecond
      weights = result.weights
      transientPlan = result.transientPlan
      transientHighWater = result.transientHighWater
    }
  }
}

struct SVDPlanCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "plan", abstract: "The largest batch that fits some memory: an encoder's, or of a decoder's prefill.")

  @Argument(help: "The model.")
  var model: String
  @Option(help: "Transient memory in MB, beside weights, keys and values.")
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
    let rows = try [ExecutionMode.materialized, .streamed].map { mode -> Row in
      let runner = try ModelRunner(
        model,
        RunnerOptions(
          threads: 1, contextLength: model.isEncoder ? nil : length, maxBatchTokens: .max,
          execution: mode.execution(piece: piece)))
      func bytes(_ batch: Int) throws -> Int { try runner.plan(Array(repeating: length, count: batch)) }
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
    let cells = rows.map { row in
      [row.mode, "\(row.batch) sequences of \(length) tokens", "\(Format.megabytes(row.bytes, decimals: 2)) MB"]
    }
    Terminal.write(Format.table(cells) + "\n")
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
