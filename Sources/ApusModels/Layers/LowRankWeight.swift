import ApusCompute
import ApusKernels

/// The narrow matrix `[rank, columns]` through which one or several low-rank matrices read their input.
public final class DownFactor: Sendable {
  public let weight: any Weight

  public init(_ weight: any Weight) { self.weight = weight }

  public var rank: Int { weight.rows }
}

/// A matrix as the product of two narrow ones: `x · Wᵀ = (x · downᵀ) · upᵀ`.
///
/// Matrices that read the same input (queries, keys and values; gate and up) may share `down`, whose product is computed
/// once for all of them.
public struct LowRankWeight: Weight {
  public let down: DownFactor
  /// `[rows, rank]`.
  public let up: any Weight
  /// Whether the bytes of `down` count here: of those that share it, at one.
  let countsDown: Bool

  public init(down: DownFactor, up: any Weight, countsDown: Bool = true) {
    precondition(up.columns == down.rank, "\(up.columns) columns above a factor of rank \(down.rank)")
    self.down = down
    self.up = up
    self.countsDown = countsDown
  }

  public var rows: Int { up.rows }
  public var columns: Int { down.weight.columns }
  public var byteCount: Int { up.byteCount + (countsDown ? down.weight.byteCount : 0) }
  public var form: String { "rank \(down.rank), \(up.form)" }

  public var factors: FactorPair? { up.stored.map { FactorPair(down: down, up: $0) } }

  public func project(bias: Tensor?, into out: Tensor, _ run: inout LinearRun) {
    let x = run.product(with: down)
    run.apply(up, bias: bias, to: x, into: out)
  }

  public func resident(on device: any Device, _ moved: inout MovedFactors) throws -> any Weight {
    LowRankWeight(
      down: try moved.resident(down, on: device), up: try up.resident(on: device, &moved), countsDown: countsDown)
  }

  public func gather(_ ids: Tensor, into out: Tensor, on device: any Device) {
    preconditionFailure("tables of embeddings are not low-rank: the loader refuses them")
  }
}
