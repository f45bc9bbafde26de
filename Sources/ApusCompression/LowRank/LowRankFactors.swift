import ApusKernels

/// Matrices that read one input, as Wᵢ ≈ upᵢ · down: one matrix, or a group that shares its down factor.
public struct LowRankFactors: Sendable, Equatable {
  /// `[k, n_in]`.
  public let down: Matrix<Float>
  /// One `[n_out, k]` for each matrix of the group, in its order.
  public let ups: [Matrix<Float>]
  /// What to add to each matrix's bias, `[n_out]`: (W − up · down) · μ. Nil when the input's mean was not used.
  public let biasCorrections: [[Float]]?

  public init(down: Matrix<Float>, ups: [Matrix<Float>], biasCorrections: [[Float]]?) {
    self.down = down
    self.ups = ups
    self.biasCorrections = biasCorrections
  }

  /// k.
  public var rank: Int { down.rows }
  /// Numbers in all factors.
  public var parameters: Int { rank * down.columns + ups.reduce(0) { $0 + $1.elements.count } }

  /// The expected squared error of the outputs of `weights` under `metric`, all rows together: E‖(W − up · down) · x‖², of
  /// the centred x when the metric is. Complexity: n_out · n_in · (k + n_in).
  public func loss(of weights: [Matrix<Float>], in metric: InputMetric, on pool: ThreadPool) -> Double {
    zip(weights, ups).reduce(0) { sum, pair in
      let difference = Self.difference(pair.0, pair.1, down, pool)
      let weighted = metric.applied(to: difference, on: pool)
      return zip(weighted.elements, difference.elements).reduce(sum) { $0 + $1.0 * $1.1 }
    }
  }

  /// W − up · down.
  static func difference(
    _ weight: Matrix<Float>, _ up: Matrix<Float>, _ down: Matrix<Float>, _ pool: ThreadPool
  ) -> Matrix<Double> {
    var result = up.multiplied(by: down, on: pool)
    for i in result.elements.indices { result.elements[i] = Double(weight.elements[i]) - result.elements[i] }
    return result
  }
}

/// What became of a matrix or group that was asked to have a rank.
public enum Factorisation: Sendable, Equatable {
  /// Factors with their predicted loss: Σ λⱼ over what was cut, under the metric of the factorisation. Their rank is below
  /// the one asked for when the outputs have no more directions.
  case lowRank(LowRankFactors, predictedLoss: Double)
  /// The rank is not below `breakEven` = n_in · n_out / (n_in + n_out): factors would be as large as the matrix.
  case keepDense(rank: Int, breakEven: Double)
}
