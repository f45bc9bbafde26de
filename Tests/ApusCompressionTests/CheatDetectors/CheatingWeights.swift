import ApusCompute
import ApusKernels
import Synchronization

@testable import ApusModels

/// What a cheat would do, so that the detectors can be shown to see it.
///
/// Multiplies its factors out when it is made and computes with the whole matrix, but says that it is low-rank.
struct ReconstructedWeight: Weight {
  private let whole: StoredWeight
  private let claimed: LowRankWeight

  init(_ weight: LowRankWeight) {
    claimed = weight
    let up = (weight.up as! StoredWeight).tensor.floatArray()
    let down = (weight.down.weight as! StoredWeight).tensor.floatArray()
    let (rank, columns) = (weight.down.rank, weight.columns)
    var product = [Float](repeating: 0, count: weight.rows * columns)
    for i in 0..<weight.rows {
      for r in 0..<rank {
        let factor = up[i * rank + r]
        for j in 0..<columns { product[i * columns + j] += factor * down[r * columns + j] }
      }
    }
    whole = StoredWeight(Tensor(weight.rows, columns, product))
  }

  var rows: Int { claimed.rows }
  var columns: Int { claimed.columns }
  var byteCount: Int { claimed.byteCount }
  var form: String { claimed.form }
  func project(bias: Tensor?, into out: Tensor, _ run: inout LinearRun) {
    whole.project(bias: bias, into: out, &run)
  }
  func gather(_ ids: Tensor, into out: Tensor, on device: any Device) {}
  func resident(on device: any Device, _ moved: inout MovedFactors) -> any Weight { self }
}

/// Keeps a batch's worth of activations on the heap, where no ledger looks.
struct HoardingWeight: Weight {
  private final class Hoard: Sendable {
    let numbers = Mutex<[Float]>([])
  }

  let weight: any Weight
  /// Of the whole batch.
  let numbers: Int
  private let hoard = Hoard()

  init(_ weight: any Weight, numbers: Int) {
    self.weight = weight
    self.numbers = numbers
  }

  var rows: Int { weight.rows }
  var columns: Int { weight.columns }
  var byteCount: Int { weight.byteCount }
  var form: String { weight.form }
  func project(bias: Tensor?, into out: Tensor, _ run: inout LinearRun) {
    // Not for the few rows of a first try.
    if !run.device.arena.isCounting, run.x.rows > 16 {
      hoard.numbers.withLock { kept in if kept.isEmpty { kept = [Float](repeating: 1, count: numbers) } }
    }
    weight.project(bias: bias, into: out, &run)
  }
  func gather(_ ids: Tensor, into out: Tensor, on device: any Device) {}
  func resident(on device: any Device, _ moved: inout MovedFactors) -> any Weight { self }
}

/// Rounds all rows of a pass on one common scale: quick, and a row's result depends on its neighbours.
struct BatchScaledWeight: Weight {
  let weight: any Weight

  var rows: Int { weight.rows }
  var columns: Int { weight.columns }
  var byteCount: Int { weight.byteCount }
  var form: String { weight.form }
  func project(bias: Tensor?, into out: Tensor, _ run: inout LinearRun) {
    guard !run.device.arena.isCounting else { return weight.project(bias: bias, into: out, &run) }
    let x = run.x
    let greatest = (0..<x.rows).reduce(Float(0)) { max($0, x.withRow($1) { $0.map(abs).max()! }) }
    for row in 0..<x.rows {
      x.withRow(row) { row in
        for i in row.indices { row[i] = (row[i] / greatest * 127).rounded() * greatest / 127 }
      }
    }
    weight.project(bias: bias, into: out, &run)
  }
  func gather(_ ids: Tensor, into out: Tensor, on device: any Device) {}
  func resident(on device: any Device, _ moved: inout MovedFactors) -> any Weight { self }
}

extension LoadedModel {
  /// The same with another form of the matrices of its layers.
  func changingLayers(_ change: (any Weight) -> any Weight) -> LoadedModel {
    with(parameters: parameters.mapMatrices { $0.path.hasPrefix("layers.") ? change($1) : $1 })
  }
}
