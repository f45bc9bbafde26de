import ApusCompute
import ApusKernels
import Foundation
import Testing

@testable import ApusCompression
@testable import ApusModels

/// Is less computed when the rank falls? (The specification's cheat b: factors that are multiplied out when they are
/// loaded.)
@Suite struct WorkDetectorTests {
  private static func dense() throws -> LoadedModel {
    try RandomModel.encoder(dim: 384, heads: 12, headDim: 32, hidden: 1536, layers: 1, seed: 1)
  }

  private static let lengths = [48, 48, 48, 48]

  private func reconstructed(_ model: LoadedModel) -> LoadedModel {
    model.changingLayers { ReconstructedWeight($0 as! LowRankWeight) }
  }

  // MARK: operations

  /// Multiplications in the products of a pass over `lengths`.
  private func multiplications(_ model: LoadedModel) -> Int {
    let device = CountingDevice()
    var batch = Batch()
    for (i, length) in Self.lengths.enumerated() { batch.append(sequence: i, rows: length, firstPosition: 0) }
    // Keys and values whole: what a narrow layout computes besides is not what is counted here.
    let layouts = model.module.layers.map { _ in KVLayout.dense }
    let scope = Scope(
      device: device, parameters: model.parameters, mode: .eval, batch: batch,
      positions: device.integers(batch.positions),
      kv: TransientKVStore(zip(model.module.layers, layouts).map { $0.attention.kvShape($1) }), kvLayouts: layouts,
      rotary: RotaryTables(ledger: MemoryLedger()), execution: .whole, buffers: PassBuffers())
    _ = model.module.hidden(device.integers([Int32](repeating: 0, count: batch.rows)), scope)
    return device.multiplications
  }

  @Test(arguments: [1, 7, 48, 191])
  func `multiplications are those of the factors, and those of a whole matrix are seen`(rank: Int) throws {
    let model = RandomModel.lowRank(try Self.dense(), rank: rank, seed: 2)
    let expected = LinearGroup.all(of: model).reduce(0) { $0 + 192 * rank * ($1.rows + $1.columns) }
    #expect(multiplications(model) == expected)
    let whole = multiplications(try Self.dense())
    #expect(multiplications(reconstructed(model)) == whole && whole > expected)
  }

  // MARK: time

  /// Seconds of this thread's processor time for a pass, the least of some rounds that take turns.
  private func seconds(_ models: [LoadedModel]) throws -> [Double] {
    let runners = try models.map { try ModelRunner($0, RunnerOptions(threads: 1)) }
    let sequences = RandomModel.sequences(Self.lengths, seed: 3)
    var least = models.map { _ in Double.infinity }
    for _ in 0..<9 {
      for (i, runner) in runners.enumerated() {
        let start = threadSeconds()
        _ = try runner.embed(sequences)
        least[i] = min(least[i], threadSeconds() - start)
      }
    }
    return least
  }

  private func threadSeconds() -> Double {
    var time = timespec()
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time)
    return Double(time.tv_sec) + Double(time.tv_nsec) * 1e-9
  }

  /// Does time fall with rank as it must? `seconds` at rank 1, at a quarter of the width, and dense.
  private func fallsWithRank(_ seconds: [Double]) -> Bool {
    seconds[0] * 3 < seconds[2] && seconds[0] < seconds[1] && seconds[1] < 0.85 * seconds[2]
  }

  @Test func `time falls with rank, rank 1 is several times faster than dense, and a whole matrix is seen`() throws {
    let dense = try Self.dense()
    let small = [1, 96].map { RandomModel.lowRank(dense, rank: $0, seed: 2) }
    let honest = try seconds(small + [dense])
    #expect(fallsWithRank(honest), "\(honest)")
    let cheating = try seconds(small.map(reconstructed) + [dense])
    #expect(!fallsWithRank(cheating), "\(cheating)")
  }
}

/// Counts the multiplications of products, and computes nothing.
private final class CountingDevice: Device {
  private let plan = PlanningDevice(precision: .exact)
  private(set) var multiplications = 0

  var arena: Arena { plan.arena }
  var name: String { "count" }
  func planner() -> any Device { plan.planner() }

  func linear(_ x: Tensor, _ projections: [Projection], activations: ActivationPrecision) {
    multiplications += projections.reduce(0) { $0 + x.rows * x.columns * $1.weight.rows }
    plan.linear(x, projections, activations: activations)
  }

  func integers(_ values: [Int32]) -> Tensor { plan.integers(values) }
  func topRows(_ probabilities: Tensor, _ k: Int) -> [(rows: [Int32], weights: [Float])] {
    plan.topRows(probabilities, k)
  }
  func gatherRows(_ table: Tensor, _ ids: Tensor, into out: Tensor) {}
  func scatterAddRows(_ x: Tensor, _ ids: Tensor, scale: Tensor, into out: Tensor) {}
  func rmsNorm(_ x: Tensor, weight: Tensor?, epsilon: Float, into out: Tensor) {}
  func layerNorm(_ x: Tensor, weight: Tensor?, bias: Tensor?, epsilon: Float, into out: Tensor) {}
  func rmsNormHeads(_ x: Tensor, headDim: Int, weight: Tensor?, epsilon: Float) {}
  func rope(_ x: Tensor, headDim: Int, rotaryDim: Int, pairing: RotaryPairing, table: Tensor, positions: Tensor) {}
  func store(_ x: Tensor, heads: Int, in plane: KVPlane, as order: KVOrder, at position: Int) {}
  func loadRows(_ plane: KVPlane, _ positions: Range<Int>, into out: Tensor) {}
  func attention(
    _ q: Tensor, _ form: AttentionForm, _ segments: [AttentionSegment], sums: Tensor?, into out: Tensor
  ) {}
  func unpacked(_ x: Tensor) -> Tensor { plan.unpacked(x) }
  func projectHeads(
    _ x: Tensor, heads: Int, _ weight: Tensor, kvHeads: Int, bias: Tensor?, transposed: Bool, into out: Tensor
  ) {}
  func activate(_ activation: Activation, gate: Tensor, up: Tensor?, into out: Tensor) {}
  func add(_ a: Tensor, _ b: Tensor, into out: Tensor) {}
  func scale(_ x: Tensor, by factor: Float) {}
  func softcap(_ x: Tensor, _ cap: Float) {}
  func softmax(_ x: Tensor) {}
  func meanRows(_ x: Tensor, _ ranges: [Range<Int>], into out: Tensor) {}
  func normalizeRows(_ x: Tensor) {}
  func set(_ x: Tensor, _ values: [Float]) {}
  func copy(_ x: Tensor, into out: Tensor) {}
  func clear(_ x: Tensor) {}
}
