import ApusKernels

/// Runs a graph without computing anything: its counting arena sees the same allocations as a `CPUDevice`'s, so that its
/// high-water mark is the transient memory the real run will need, to the byte.
public final class PlanningDevice: Device {
  public let arena = Arena.counting()
  private let precision: CPUDevice.Precision

  public init(precision: CPUDevice.Precision) { self.precision = precision }

  public var name: String { "plan" }
  public func planner() -> any Device { PlanningDevice(precision: precision) }
  public func read(_ x: Tensor) -> [Float] { [] }

  public func linear(_ x: Tensor, _ projections: [Projection], activations: ActivationPrecision) {
    temporaries {
      if let layout = CPUDevice.layout(x, projections, activations, precision) { _ = arena.bytes(layout.bytes) }
    }
  }

  public func integers(_ values: [Int32]) -> Tensor { arena.tensor(1, values.count, dtype: .i32) }

  public func unpacked(_ x: Tensor) -> Tensor { x.dtype == .f32 ? x : arena.tensor(x.rows, x.columns) }

  public func topRows(_ probabilities: Tensor, _ k: Int) -> [(rows: [Int32], weights: [Float])] {
    let all = (
      rows: (0..<Int32(probabilities.rows)).map { $0 }, weights: [Float](repeating: 0, count: probabilities.rows)
    )
    return (0..<probabilities.columns).map { $0 < k ? all : ([], []) }
  }

  // The rest needs no workspace.
  public func gatherRows(_ table: Tensor, _ ids: Tensor, into out: Tensor) {}
  public func scatterAddRows(_ x: Tensor, _ ids: Tensor, scale: Tensor, into out: Tensor) {}
  public func rmsNorm(_ x: Tensor, weight: Tensor?, epsilon: Float, into out: Tensor) {}
  public func layerNorm(_ x: Tensor, weight: Tensor?, bias: Tensor?, epsilon: Float, into out: Tensor) {}
  public func rmsNormHeads(_ x: Tensor, headDim: Int, weight: Tensor?, epsilon: Float) {}
  public func rope(
    _ x: Tensor, headDim: Int, rotaryDim: Int, pairing: RotaryPairing, table: Tensor, positions: Tensor
  ) {}
  public func store(_ x: Tensor, heads: Int, in plane: KVPlane, as order: KVOrder, at position: Int) {}
  public func loadRows(_ plane: KVPlane, _ positions: Range<Int>, into out: Tensor) {}
  public func attention(
    _ q: Tensor, _ form: AttentionForm, _ segments: [AttentionSegment], sums: Tensor?, into out: Tensor
  ) {}
  public func projectHeads(
    _ x: Tensor, heads: Int, _ weight: Tensor, kvHeads: Int, bias: Tensor?, transposed: Bool, into out: Tensor
  ) {}
  public func activate(_ activation: Activation, gate: Tensor, up: Tensor?, into out: Tensor) {}
  public func add(_ a: Tensor, _ b: Tensor, into out: Tensor) {}
  public func scale(_ x: Tensor, by factor: Float) {}
  public func softcap(_ x: Tensor, _ cap: Float) {}
  public func softmax(_ x: Tensor) {}
  public func meanRows(_ x: Tensor, _ ranges: [Range<Int>], into out: Tensor) {}
  public func normalizeRows(_ x: Tensor) {}
  public func set(_ x: Tensor, _ values: [Float]) {}
  public func copy(_ x: Tensor, into out: Tensor) {}
  public func clear(_ x: Tensor) {}
}
