import ApusCompression
import ApusModels
import ArgumentParser
import Foundation

extension FactorEncoding: ExpressibleByArgument {}

struct SVDCompressCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "compress", abstract: "Makes a smaller model of the store.",
    discussion: """
      apus svd compress minilm-l6 --statistics s --ratio 0.8 --text t.txt      minilm-l6@svd-0.8
      apus svd compress smollm2-135m --statistics s --max-ppl 30 --text t.txt --encoding q8_0
      apus svd compress smollm2-135m --statistics s --ratio 0.9 --text t.txt --sequential corpus.txt
      apus svd compress gemma-3-270m --statistics s --kv rank-kv --kv-rank-k 96 --kv-rank-v 128

      With --allocator sensitivity (the default) --text is what the cost of each layer is measured with; with --min-cosine
      or --max-ppl it is also what the ratio is chosen by.

      --kv gives keys and values factors of their own, so that a run can keep narrow rows of past tokens (--kv-layout of
      run, serve and bench). Alone, all else stays as it is. Of --kv-rank-k and --kv-rank-v one alone leaves the other side
      whole; without ranks each side keeps 99 % of its outputs' energy.
      """)

  enum Allocator: String, ExpressibleByArgument, CaseIterable {
    case sensitivity
    case uniform
    case groupedLoss = "grouped-loss"
  }

  enum Method: String, ExpressibleByArgument, CaseIterable {
    case outputPCA = "output-pca"
    case asvd
    case plain

    var factorMethod: FactorMethod? {
      switch self {
      case .outputPCA: nil
      case .asvd: .activationScaled(alpha: 0.5)
      case .plain: .plain
      }
    }
  }

  enum Part: String, ExpressibleByArgument, CaseIterable {
    case attention
    case feedForward = "feed-forward"
  }

  @Argument(help: "The model.")
  var model: String
  @OptionGroup var kv: KVArguments
  @Option(help: "What calibrate wrote.", completion: .file())
  var statistics: String
  @Option(help: "Parameters of the layers to keep, as a share.")
  var ratio: Double?
  @Option(help: "The least mean cosine to the vectors of the original (encoders); chooses the ratio.")
  var minCosine: Double?
  @Option(help: "The greatest perplexity (decoders); chooses the ratio.")
  var maxPpl: Double?
  @Option(help: "How ranks are shared among layers: \(Allocator.allCases.map(\.rawValue).joined(separator: ", ")).")
  var allocator = Allocator.sensitivity
  @Option(help: "What is kept: \(Method.allCases.map(\.rawValue).joined(separator: ", ")).")
  var method = Method.outputPCA
  @Option(help: "How factors are stored: \(FactorEncoding.allCases.map(\.rawValue).joined(separator: ", ")).")
  var encoding: FactorEncoding?
  @Option(help: "Only these layers: attention, feed-forward (default: both).")
  var parts: [Part] = []
  @Option(help: "A text to measure with.", completion: .file())
  var text: String?
  @Option(help: "Tokens of it.")
  var tokens = 4096
  @Option(
    help: "The text of the calibration: fit each layer to what the compressed layers before it put out (decoders).",
    completion: .file())
  var sequential: String?
  @Option(help: "With --sequential: inputs that are fitted in one pass over that text; 1 is best and slowest.")
  var groupsAtOnce = 1
  @Flag(
    inversion: .prefixedNo,
    help: "With --sequential: let factors make good what the layers before lost, by least squares.")
  var refit = true
  @Option(help: "With --refit: how much it is drawn towards the original, as a share of what a layer reads.")
  var ridge = 1e-2
  @Option(help: "The new model's name (default: NAME@svd-RATIO).")
  var name: String?
  @Option(name: [.customShort("o"), .long], help: "Write a file or folder here instead of the store.")
  var output: String?
  @Flag(help: "Replace a model of that name.")
  var force = false
  @Flag(help: "Print one JSON object.")
  var json = false

  func validate() throws {
    let given = [ratio, minCosine, maxPpl].compactMap { $0 }.count
    guard given == 1 || (given == 0 && kv.isGiven) else {
      throw ValidationError("Give one of --ratio, --min-cosine and --max-ppl, or --kv.")
    }
    if groupsAtOnce < 1 { throw ValidationError("--groups-at-once is \(groupsAtOnce), expected 1 or more.") }
    if !(ridge >= 0) { throw ValidationError("--ridge is \(ridge), expected 0 or more.") }
    if let ratio, !(ratio > 0 && ratio <= 1) {
      throw ValidationError("--ratio is \(ratio), expected above 0, at most 1.")
    }
    if text == nil && given == 1 && (allocator == .sensitivity || ratio == nil) {
      throw ValidationError("--text is needed: the model is measured with it. --allocator uniform does without.")
    }
  }

  /// Nothing but keys and values is cut.
  private var isForKVAlone: Bool { kv.isGiven && ratio == nil && minCosine == nil && maxPpl == nil }

  func run() throws {
    let (model, location) = try ModelArgument.load(model)
    if minCosine != nil && !model.isEncoder { throw ValidationError("--min-cosine is for encoders; use --max-ppl.") }
    if maxPpl != nil && model.isEncoder { throw ValidationError("--max-ppl is for decoders; use --min-cosine.") }
    let digest = try location.weightsDigest()
    let statistics = try CalibrationStatistics(path: statistics, model: digest)
    let chosen = LinearGroup.all(of: model).filter { group in
      parts.isEmpty || parts.contains { group.kind.hasPrefix($0 == .attention ? "attention" : "feedForward") }
    }
    let groups = kv.factors?.separated(chosen, of: model, others: !isForKVAlone) ?? chosen
    let encoding = encoding ?? (location.isFolder ? .f32 : .q8_0)
    let bar = StepProgress("factorising")
    let compressor = try ModelCompressor(
      model, groups: groups, statistics: statistics, method: method.factorMethod, encoding: encoding
    ) { bar.show(Int($0 * 1000), of: 1000) }
    bar.finish()
    let fitted = try sequential.map { path -> Corpus in
      let corpus = try Corpus(path: path, for: model, limit: statistics.tokens)
      guard corpus.digest == statistics.corpus else {
        throw CompressionError(
          kind: .otherSource, what: "text '\(path)'", seen: "SHA-256 \(corpus.digest)",
          expected: "\(statistics.corpus), that of the statistics", wayOut: "give the text that calibrate was given")
      }
      return corpus
    }
    let measured = try text.map { try Corpus(path: $0, for: model, limit: tokens) }
    let (small, quality) = try shrink(compressor, try measured.map { try QualityMeasure(model, $0) }, fitted)
    var seen = statistics.lines
    if let measured { seen.formUnion(measured.lines) }
    let ratioText = String(format: "%.2f", small.ratio).replacing(/0$/, with: "")
    let suffix = isForKVAlone ? kv.kv!.rawValue : "svd-\(ratioText)"
    let place = try CompressedStore(location: location, output: output, force: force).write(
      small, name ?? "\(location.name.split(separator: "/").last ?? "model")@\(suffix)",
      metadata: [
        (key: "apus.svd.source_sha256", value: digest), (key: "apus.svd.corpus_sha256", value: statistics.corpus),
        (key: "apus.svd.method", value: method.rawValue), (key: "apus.svd.allocator", value: allocator.rawValue),
        (key: "apus.svd.ratio", value: String(format: "%.4f", small.ratio)),
        (key: SVDVerifyCommand.seenLines, value: seen.base64),
      ] + (kv.kv.map { [(key: LoadedModel.kvLayoutKey, value: $0.rawValue)] } ?? []))
    let warnings = [ratio.flatMap { small.shortfall(asked: $0) }, small.growth].compactMap { $0 }
    let result = Result(
      model: place, ratio: small.ratio, originalBytes: model.fileBytes, bytes: try Self.bytes(place), quality: quality,
      warnings: warnings, groups: small.groups)
    if json { return try JSONOutput.print(result) }
    let rows = small.groups.map {
      [$0.name, $0.rank.map { "\($0)" } ?? "whole", String(format: "%.4f", $0.relativeLoss)]
    }
    Terminal.write(Format.table([["input", "rank", "loss"]] + rows) + "\n")
    for warning in warnings { Terminal.write("warning: \(warning)\n", to: STDERR_FILENO) }
    Terminal.write(
      String(
        format: "%@: %.3f of the layers' parameters, %.1f MB (the original has %.1f)\n", place, small.ratio,
        Double(result.bytes) / 1e6, Double(result.originalBytes) / 1e6))
    if let quality {
      Terminal.write(
        String(format: "%@ %.4f on \(text ?? "")\n", model.isEncoder ? "mean cosine" : "perplexity", quality))
    }
  }

  /// The model at the ratio asked for, or at the lowest that meets the quality asked for.
  private func shrink(
    _ compressor: ModelCompressor, _ measure: QualityMeasure?, _ corpus: Corpus?
  ) throws -> (CompressedModel, Double?) {
    var sensitivities: [Double]?
    let chosen: any RankAllocator
    switch isForKVAlone ? .uniform : allocator {
    case .uniform: chosen = UniformAllocator()
    case .groupedLoss: chosen = GroupedLossAllocator()
    case .sensitivity:
      chosen = SensitivityAllocator()
      let bar = StepProgress("measuring layers")
      sensitivities = try compressor.sensitivities(progress: { bar.show(Int($0 * 1000), of: 1000) }) {
        try measure!.loss($0)
      }
      bar.finish()
    }
    func small(_ ratio: Double) throws -> CompressedModel {
      let choices = try compressor.ranks(ratio: ratio, by: chosen, sensitivities: sensitivities)
      guard let corpus else { return try compressor.compressed(choices) }
      let bar = StepProgress("fitting layer by layer")
      defer { bar.finish() }
      return try SequentialCompression(
        compressor.model, groups: compressor.groups, encoding: compressor.encoding, method: method.factorMethod,
        groupsAtOnce: groupsAtOnce, refits: refit, ridge: ridge
      ).compressed(choices, on: corpus) { bar.show(Int($0 * 1000), of: 1000) }
    }
    if let ratio = ratio ?? (isForKVAlone ? 1 : nil) {
      let result = try small(ratio)
      return (result, try measure?.quality(result.model))
    }
    let gate = QualityGate(target: minCosine.map { .atLeast($0) } ?? .atMost(maxPpl!))
    let bar = StepProgress("choosing the ratio")
    var tried = 0
    let found = try gate.search { ratio -> Double in
      tried += 1
      bar.show(tried, of: gate.mostEvaluations)
      return try measure!.quality(try small(ratio).model)
    }
    bar.finish()
    guard let accepted = found.accepted else {
      let best = found.trials[0]
      throw CompressionError(
        kind: .parameter, what: minCosine == nil ? "--max-ppl" : "--min-cosine",
        seen: String(format: "%.4f at ratio %.2f", best.quality, best.ratio),
        expected: "\(minCosine ?? maxPpl ?? 0)", wayOut: "ask for less, or give more calibration text")
    }
    return (try small(accepted.ratio), accepted.quality)
  }

  private static func bytes(_ name: String) throws -> Int { try ModelArgument.load(name).model.fileBytes }

  private struct Result: Encodable {
    var model: String
    var ratio: Double
    var originalBytes: Int
    var bytes: Int
    var quality: Double?
    var warnings: [String]
    var groups: [CompressedModel.Group]
  }
}
