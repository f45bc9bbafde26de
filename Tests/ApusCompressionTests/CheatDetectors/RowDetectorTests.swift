import ApusCompute
import ApusKernels
import Foundation
import Testing

@testable import ApusCompression
@testable import ApusModels

/// Is a sequence's result its own, and the same however it is computed? (The specification's cheat e, and its shapes.)
@Suite struct RowDetectorTests {
  private static let lengths = [1, 2, 31, 32, 33, 97]

  /// Vectors of the sequences in this order, with so many tokens in a pass.
  private func embed(
    _ model: LoadedModel, _ sequences: [[Int32]], _ execution: Execution, tokens: Int = 4096, threads: Int = 1
  ) throws -> [[Float]] {
    try ModelRunner(model, RunnerOptions(threads: threads, maxBatchTokens: tokens, execution: execution))
      .embed(sequences)
  }

  /// Does a sequence's vector depend on what else is in the pass?
  private func dependsOnNeighbours(_ model: LoadedModel, seed: UInt64) throws -> Bool {
    var random = TestRandom(seed: seed)
    let sequences = RandomModel.sequences(Self.lengths + Self.lengths, seed: seed)
    let alone = try sequences.map { try embed(model, [$0], .whole)[0] }
    for round in 0..<6 {
      let order = sequences.indices.shuffled(using: &random)
      // Others than those that were asked for, where padding would be.
      let strangers = RandomModel.sequences([5, 64, 17], seed: seed + UInt64(round))
      let pass = strangers + order.map { sequences[$0] }
      let execution: Execution = round % 2 == 0 ? .streamed(rows: [1, 24, 128][round / 2]) : .whole
      let out = try embed(model, pass, execution, tokens: [4096, 100, 33][round % 3], threads: 1 + round % 2)
      for (place, index) in order.enumerated() where out[strangers.count + place] != alone[index] { return true }
    }
    return false
  }

  @Test func `neighbours, order, pieces and threads do not change a bit, and a common scale is seen`() throws {
    let seed: UInt64 = 43
    print("seed \(seed)")
    let model = RandomModel.lowRank(try RandomModel.encoder(seed: 1), rank: 7, seed: 2)
    #expect(try !dependsOnNeighbours(model, seed: seed))
    #expect(try dependsOnNeighbours(model.changingLayers(BatchScaledWeight.init), seed: seed))
  }

  /// Ranks, dim, heads and width of a head: heads may be wider together than the model.
  private static let shapes: [(rank: Int, dim: Int, heads: Int, headDim: Int)] = [
    (1, 48, 3, 16), (7, 64, 4, 32), (16, 64, 2, 16), (31, 48, 2, 48), (33, 64, 4, 16), (17, 64, 4, 16), (23, 48, 3, 16),
  ]

  @Test(arguments: shapes.indices)
  func `streamed is whole to the bit, and both are the product of the factors`(index: Int) throws {
    let shape = Self.shapes[index]
    let whole = try RandomModel.encoder(
      dim: shape.dim, heads: shape.heads, headDim: shape.headDim, hidden: 80, context: 512, seed: 1)
    let model = RandomModel.lowRank(whole, rank: shape.rank, seed: 2)
    let sequences = RandomModel.sequences(Self.lengths + [512], seed: 3)
    let once = try embed(model, sequences, .whole)
    for rows in [1, 57, 128] {
      #expect(try embed(model, sequences, .streamed(rows: rows), threads: 2) == once, "pieces of \(rows)")
    }
    let product = model.changingLayers { $0 is LowRankWeight ? ReconstructedWeight($0 as! LowRankWeight) : $0 }
    for (a, b) in zip(try embed(product, sequences, .whole), once) {
      let difference = zip(a, b).reduce(Float(0)) { max($0, abs($1.0 - $1.1)) }
      #expect(difference < 2e-5, "rank \(shape.rank)")
    }
  }

  @Test func `huge scores stay finite and within the values; a row that sees itself alone gets its value`() throws {
    let seed: UInt64 = 47
    print("seed \(seed)")
    var random = TestRandom(seed: seed)
    let (heads, headDim, rows) = (3, 16, 97)
    func tensor(_ scale: Double) -> Tensor {
      Tensor(rows, heads * headDim, (0..<rows * heads * headDim).map { _ in Float(random.number() * scale) })
    }
    let (q, k, v) = (tensor(30 * 30), tensor(30), tensor(2))
    let out = Tensor(zeros: rows, heads * headDim)
    let device = CPUDevice(threads: 2, arena: Arena(capacity: 1 << 20, ledger: MemoryLedger()))
    var batch = Batch()
    batch.append(sequence: 0, rows: rows, firstPosition: 0)
    for window in [0, 1] {
      let form = AttentionForm(
        heads: heads, kvHeads: heads, headDim: headDim, causal: true, window: window, scale: 0.25)
      let rows = { (order: KVOrder) in KVShape.Rows(heads: heads, width: headDim, order: order) }
      let store = TransientKVStore([KVShape(keys: rows(.columns), values: rows(.rows))])
      store.withSegments(of: 0, batch, on: device) { segments in
        device.store(k, heads: heads, in: segments[0].keys, as: .columns, at: 0)
        device.store(v, heads: heads, in: segments[0].values, as: .rows, at: 0)
        device.attention(q, form, segments, sums: nil, into: out)
      }
      let (mixed, values) = (out.floatArray(), v.floatArray())
      let greatest = values.map(abs).max()!
      #expect(mixed.allSatisfy { $0.isFinite && abs($0) <= greatest * 1.001 })
      if window == 1 {
        #expect(zip(mixed, values).allSatisfy { abs($0 - $1) <= 1e-3 * greatest })
      }
    }
  }

  @Test func `a NaN among a model's numbers stops its calibration by name`() throws {
    let model = try RandomModel.encoder(seed: 1)
    let broken = model.with(
      parameters: model.parameters.mapMatrices { spec, weight in
        guard spec.path == "layers.0.feedForward.up.weight" else { return weight }
        var numbers = (weight as! StoredWeight).tensor.floatArray()
        numbers[17] = .nan
        return StoredWeight(Tensor(weight.rows, weight.columns, numbers))
      })
    let corpus = Corpus(text: RandomModel.text(20, seed: 1), for: broken)
    var statistics = CalibrationStatistics(model: "m", corpus: corpus.digest)
    #expect {
      try Calibration(broken, threads: 1).run(corpus, into: &statistics)
    } throws: { error in
      guard let error = error as? CompressionError else { return false }
      return error.kind == .notFinite && error.what.contains("layers.0.feedForward.hidden")
    }
  }
}
