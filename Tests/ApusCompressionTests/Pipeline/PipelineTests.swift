import ApusCompute
import ApusKernels
import ApusText
import Foundation
import Testing

@testable import ApusCompression
@testable import ApusModels

@Suite struct PipelineTests {
  private func encoder() throws -> LoadedModel { try RandomModel.encoder(seed: 3) }
  private func decoder() throws -> LoadedModel { try RandomModel.decoder(seed: 4) }
  private func text(_ lines: Int, seed: UInt64) -> String { RandomModel.text(lines, seed: seed) }

  private func calibrated(_ model: LoadedModel, _ corpus: Corpus) throws -> CalibrationStatistics {
    var statistics = CalibrationStatistics(model: "m", corpus: corpus.digest)
    try Calibration(model, threads: 2).run(corpus, into: &statistics)
    return statistics
  }

  @Test func `groups are the matrices that read one input, and nothing else`() throws {
    let groups = LinearGroup.all(of: try decoder())
    #expect(
      groups.map(\.name)
        == (0..<2).flatMap { layer in
          ["attention.input", "attention.output", "feedForward.input", "feedForward.hidden"].map {
            "layers.\(layer).\($0)"
          }
        })
    #expect(
      groups[0].members == ["query", "key", "value"].map { "layers.0.attention.\($0).weight" }
        && groups[0].rows == 128 && groups[0].columns == 64)
    #expect(groups[2].members.count == 2 && groups[3].columns == 96)
  }

  @Test func `a calibration that stops goes on to the same statistics, to the bit`() throws {
    let model = try encoder()
    let corpus = Corpus(text: text(900, seed: 5), for: model)
    let whole = try calibrated(model, corpus)
    #expect(whole.tokens == corpus.tokens)
    #expect(whole.inputs.values.allSatisfy { $0.count == corpus.tokens })
    struct Stop: Error {}
    var kept: CalibrationStatistics?
    var part = CalibrationStatistics(model: "m", corpus: corpus.digest)
    #expect(throws: Stop.self) {
      try Calibration(model, threads: 2).run(corpus, into: &part) { _ in
      } checkpoint: {
        kept = $0
        throw Stop()
      }
    }
    var resumed = try #require(kept)
    #expect(resumed.tokens > 0 && resumed.tokens < corpus.tokens)
    try Calibration(model, threads: 1).run(corpus, into: &resumed)
    #expect(resumed == whole)
  }

  @Test func `all ranks give the model back, and fewer come nearer with each`() throws {
    let model = try encoder()
    let corpus = Corpus(text: text(400, seed: 6), for: model)
    let compressor = try ModelCompressor(model, statistics: try calibrated(model, corpus), threads: 2)
    let fresh = Corpus(text: text(60, seed: 7), for: model).sequences
    let reference = try ModelQuality.embeddings(model, fresh, threads: 2)
    func cosine(_ ratio: Double) throws -> Double {
      let small = try compressor.compressed(compressor.ranks(ratio: ratio, by: UniformAllocator()))
      #expect(small.ratio <= ratio && small.model.parameters.byteCount < model.parameters.byteCount)
      return ModelQuality.meanCosine(reference, try ModelQuality.embeddings(small.model, fresh, threads: 2))
    }
    let cosines = try [0.1, 0.3, 0.6, 0.9].map(cosine)
    #expect(cosines == cosines.sorted() && cosines[3] > 0.97, "\(cosines)")
    let kept = try compressor.compressed(compressor.groups.map { _ in .dense })
    #expect(try ModelQuality.embeddings(kept.model, fresh, threads: 2) == reference)
    #expect(kept.ratio == 1 && kept.changes.factors.isEmpty)
  }

  @Test func `the layer that hurts most gets the most`() throws {
    let model = try encoder()
    let corpus = Corpus(text: text(200, seed: 8), for: model)
    let compressor = try ModelCompressor(model, statistics: try calibrated(model, corpus), threads: 2)
    var tried: [String] = []
    // A loss that only cares about one input's matrices.
    let sensitivities = try compressor.sensitivities { small in
      let cut = small.parameters.specs.filter { small.parameters.matrix($0.path) is LowRankWeight }.map(\.path)
      tried += cut
      return cut.contains("layers.1.feedForward.up.weight") ? 1 : 0.001
    }
    #expect(Set(tried) == Set(compressor.groups.flatMap(\.members)) && tried.count == Set(tried).count)
    let choices = try compressor.ranks(ratio: 0.5, by: SensitivityAllocator(), sensitivities: sensitivities)
    let index = try #require(compressor.groups.firstIndex { $0.name == "layers.1.feedForward.input" })
    #expect(choices[index] == .dense, "\(choices)")
  }

  @Test func `layer after layer fits each to what those before have become`() throws {
    let model = try decoder()
    let corpus = Corpus(text: text(500, seed: 12), for: model, limit: 8000)
    let compressor = try ModelCompressor(model, statistics: try calibrated(model, corpus), threads: 2)
    let choices = try compressor.ranks(ratio: 0.5, by: UniformAllocator())
    let once = try compressor.compressed(choices)
    // All layers in one pass are the same as no sequence.
    let together = try SequentialCompression(model, groupsAtOnce: 8, refits: false, exact: true, threads: 2)
      .compressed(choices, on: corpus)
    let sequences = Corpus(text: text(40, seed: 13), for: model).sequences
    let perplexity = try ModelQuality.perplexity(once.model, sequences, threads: 2)
    #expect(try ModelQuality.perplexity(together.model, sequences, threads: 2) == perplexity)
    let sequential = try SequentialCompression(model, groupsAtOnce: 4, refits: false, exact: true, threads: 2)
      .compressed(choices, on: corpus)
    #expect(sequential.groups.map(\.name) == compressor.groups.map(\.name))
    #expect(sequential.changes.replaced == once.changes.replaced)
    #expect(sequential.changes.factors.map(\.name).sorted() == once.changes.factors.map(\.name).sorted())
    // The first layer reads what it read before; the second what the first has become.
    for (factor, before) in zip(
      sequential.changes.factors.sorted { $0.name < $1.name }, once.changes.factors.sorted { $0.name < $1.name })
    {
      #expect(factor.name == before.name && factor.shape == before.shape)
      let isSame = factor.withBytes { a in before.withBytes { b in a.elementsEqual(b) } }
      #expect(isSame == factor.name.hasPrefix("layers.0."), "\(factor.name)")
    }
  }

  @Test func `refitted factors come nearer to the original than those that are not`() throws {
    for model in [try decoder(), try encoder()] {
      let corpus = Corpus(text: text(700, seed: 12), for: model, limit: 8000)
      let compressor = try ModelCompressor(model, statistics: try calibrated(model, corpus), threads: 2)
      let choices = try compressor.ranks(ratio: 0.5, by: UniformAllocator())
      func error(_ refits: Bool) throws -> Double {
        let small = try SequentialCompression(model, refits: refits, threads: 2).compressed(choices, on: corpus)
        return try distance(model, small.model, Corpus(text: text(60, seed: 14), for: model))
      }
      let (plain, fitted) = (try error(false), try error(true))
      #expect(fitted < 0.97 * plain, "\(fitted), \(plain)")
    }
  }

  /// Mean squared difference of what the last layer's feed-forward part reads.
  private func distance(_ a: LoadedModel, _ b: LoadedModel, _ corpus: Corpus) throws -> Double {
    let last = Array(LinearGroup.all(of: a).suffix(2).prefix(1))
    func rows(_ model: LoadedModel) throws -> [Float] {
      let seen = Rows()
      try SilentPass(model.tapped(last) { seen.elements += $1.elements }, threads: 1, exact: true).run(corpus.sequences)
      return seen.elements
    }
    let (x, y) = (try rows(a), try rows(b))
    return zip(x, y).reduce(0.0) { $0 + Double(($1.0 - $1.1) * ($1.0 - $1.1)) } / Double(x.count)
  }

  /// `@unchecked Sendable`: one thread fills it.
  private final class Rows: @unchecked Sendable {
    var elements: [Float] = []
  }

  @Test(arguments: FactorEncoding.allCases)
  func `stored factors are read back within the error of their kind`(encoding: FactorEncoding) throws {
    var random = TestRandom(seed: 9)
    let values = (0..<64 * 96).map { i in Float.random(in: -1...1, using: &random) * (i % 700 == 0 ? 20 : 1) }
    let back = Tensor(64, 96, dtype: encoding.dtype, bytes: encoding.encode(values)).floatArray()
    for block in stride(from: 0, to: values.count, by: 32) {
      let greatest = values[block..<block + 32].map(abs).max()!
      let error = (block..<block + 32).map { abs(values[$0] - back[$0]) }.max()!
      let bound: Float =
        switch encoding {
        case .f32: 0
        case .bf16: greatest / 256
        // Half a step, and the rounding of the scale.
        case .q8_0: greatest / 127 * 0.5 + greatest / 1500
        // The far end of the scale is cut.
        case .q4_0: greatest / 8 * 1.01
        }
      #expect(error <= bound, "\(encoding), block \(block / 32): \(error) > \(bound)")
    }
    #expect(
      Tensor(1, 32, dtype: encoding.dtype, bytes: encoding.encode([Float](repeating: 0, count: 32))).floatArray()
        .allSatisfy { $0 == 0 })
  }

  @Test func `ranks fit the blocks that store them`() throws {
    let model = try decoder()
    let corpus = Corpus(text: text(300, seed: 10), for: model)
    let compressor = try ModelCompressor(
      model, statistics: try calibrated(model, corpus), encoding: .q8_0, threads: 2)
    let small = try compressor.compressed(compressor.ranks(ratio: 0.9, by: UniformAllocator()))
    #expect(
      small.groups.allSatisfy { $0.rank.map { $0 % 32 == 0 } ?? true } && small.groups.contains { $0.rank != nil })
    let perplexity = try ModelQuality.perplexity(small.model, corpus.sequences, threads: 2)
    #expect(perplexity.isFinite && perplexity > 1)
  }

  @Test func `keys and values get factors of their own, and all else stays`() throws {
    let original = try decoder()
    var config = original.config as! CausalLM
    var windowed = config.layers[0] as! Block
    var attention = windowed.attention as! Attention
    attention.window = 8
    windowed.attention = attention
    config.layers[0] = windowed
    let model = try RandomModel.make(config, seed: 4)
    let corpus = Corpus(text: text(60, seed: 9), for: model)
    let statistics = try calibrated(model, corpus)
    let all = LinearGroup.all(of: model)
    func cut(_ ranks: KVFactors.Ranks, _ layers: KVFactors.Layers = .all, others: Bool = false) throws -> LoadedModel {
      let groups = KVFactors(ranks: ranks, layers: layers).separated(all, of: model, others: others)
      let compressor = try ModelCompressor(model, groups: groups, statistics: statistics, threads: 2)
      return try compressor.compressed(try compressor.ranks()).model
    }
    func factors(_ model: LoadedModel, _ layer: Int, _ part: String) -> FactorPair? {
      model.parameters.matrix("layers.\(layer).attention.\(part).weight")!.factors
    }
    // Break-even of 32 × 64 is 21: what is kept in a cache need not spare parameters.
    let separate = try cut(.separate(key: .fixed(7), value: .fixed(30)))
    for layer in 0..<2 { #expect(factors(separate, layer, "key")?.rank == 7) }
    // The first layer's input is one of few letters, which span fewer directions.
    #expect(factors(separate, 0, "value")!.rank < 30 && factors(separate, 1, "value")?.rank == 30)
    #expect(factors(separate, 1, "query") == nil)
    let growing = try cut(.shared(.fixed(20)), .growing)
    #expect(factors(growing, 0, "key") == nil && factors(growing, 0, "value") == nil)
    #expect(factors(growing, 1, "key")?.down === factors(growing, 1, "value")?.down)
    #expect(factors(growing, 1, "key")?.rank == 20)
    let one = try cut(.separate(key: .fixed(16), value: nil))
    #expect(factors(one, 1, "key")?.rank == 16 && factors(one, 1, "value") == nil)
    // All directions: the model itself, in every layout.
    let whole = try cut(.separate(key: .fixed(32), value: .fixed(32)))
    let perplexity = try ModelQuality.perplexity(model, corpus.sequences)
    #expect(abs(try ModelQuality.perplexity(whole, corpus.sequences) / perplexity - 1) < 1e-3)
    // A share of the energy: more of it, more ranks.
    let little = try cut(.separate(key: .energy(0.5), value: nil)),
      much = try cut(.separate(key: .energy(0.99), value: nil))
    #expect(factors(little, 1, "key")!.rank < factors(much, 1, "key")?.rank ?? 32)
    // Beside others, which keep the allocator's budget.
    let groups = KVFactors(ranks: .separate(key: .fixed(9), value: nil)).separated(all, of: model)
    #expect(groups.flatMap(\.members).sorted() == all.flatMap(\.members).sorted())
    #expect(groups.reduce(0) { $0 + $1.parameters } == all.reduce(0) { $0 + $1.parameters })
    let compressor = try ModelCompressor(model, groups: groups, statistics: statistics, threads: 2)
    let both = try compressor.compressed(try compressor.ranks(ratio: 0.5)).model
    #expect(factors(both, 1, "key")?.rank == 9)
    #expect(factors(both, 1, "query")?.down === factors(both, 1, "value")?.down && factors(both, 1, "query") != nil)
    #expect(throws: CompressionError.self) { try cut(.separate(key: .fixed(33), value: nil)) }
  }

  @Test func `perplexity is what the definition gives`() throws {
    let model = try decoder()
    let ids = Array("the quick brown fox".utf8).map(Int32.init)
    let runner = try ModelRunner(model, RunnerOptions(threads: 1))
    let sequence = try runner.makeSequence()
    let loss = try runner.forward([.init(sequence, ids, logits: .all)]) { logits in
      (0..<ids.count - 1).reduce(0.0) { sum, row in
        let all = logits[row].map(Double.init)
        return sum + log(all.reduce(0) { $0 + exp($1) }) - all[Int(ids[row + 1])]
      }
    }
    let expected = exp(loss / Double(ids.count - 1))
    #expect(abs(try ModelQuality.perplexity(model, [ids], threads: 1) / expected - 1) < 1e-4)
  }

  @Test func `a chart has a line for each layer, from all lost to what break-even leaves`() {
    var chart = SpectrumChart()
    chart.add("attention.input", spectrum: [8, 4, 2, 1, 1], breakEven: 3)
    chart.add("feedForward.hidden", spectrum: [1, 1], breakEven: 2)
    chart.add("silent", spectrum: [0, 0], breakEven: 2)
    let lines = chart.svg.split(separator: "\n").filter { $0.contains("stroke-opacity") }
    #expect(lines.count == 2)
    // Rank 0 loses all, rank 1 half, which is log10(1/2) / −4 of the height.
    #expect(lines[0].contains("M60.0 60.0L273.3 85.6"), "\(lines)")
    #expect(chart.svg.contains("attention.input") && !chart.svg.contains("silent"))
  }

  @Test func `rank correlation and neighbours are those of the definitions`() {
    #expect(ModelQuality.spearman([1, 2, 3, 4], [10, 20, 30, 40]) == 1)
    #expect(ModelQuality.spearman([1, 2, 3, 4], [4, 3, 2, 1]) == -1)
    #expect(abs(ModelQuality.spearman([1, 2, 2, 4], [1, 3, 2, 4]) - 0.9486832980505138) < 1e-12)
    let vectors: [[Float]] = (0..<30).map { i in [cosf(Float(i)), sinf(Float(i))] }
    #expect(
      ModelQuality.compare(vectors, vectors) == EmbeddingQuality(cosine: 1, spearman: 1, recall: 1)
        || abs(ModelQuality.compare(vectors, vectors).cosine - 1) < 1e-6)
  }
}
