import ApusKernels

#if canImport(Glibc)
  import Glibc
#elseif canImport(Musl)
  import Musl
#else
  import Darwin
#endif

/// What an error in a weight costs, given what the layer reads: the loss of Ŵ is tr((W − Ŵ) · C · (W − Ŵ)ᵀ).
///
/// The methods of low-rank compression differ in nothing but C.
public struct InputMetric: Sendable, Equatable {
  enum Form: Sendable, Equatable {
    case identity
    /// `[n]`, not negative.
    case diagonal([Double])
    /// `[n, n]`, symmetric positive semidefinite.
    case full(Matrix<Double>)
  }

  let form: Form
  /// The input's mean, `[n]`, when errors along it are made good by the bias.
  let mean: [Double]?

  /// C = I: every weight counts the same (plain SVD).
  public static let identity = InputMetric(form: .identity, mean: nil)

  /// C of a moment, raw or about the mean. Throws `notFinite`.
  public static func moment(_ moment: InputMoment) throws(CompressionError) -> InputMetric {
    try moment.matrix.requireFinite("second moment of the inputs")
    return InputMetric(form: .full(moment.matrix), mean: moment.mean)
  }

  /// C = diag(`weights`), `[n]`. Throws `notFinite`, and `parameter` when one is negative.
  public static func diagonal(_ weights: [Double]) throws(CompressionError) -> InputMetric {
    guard let bad = weights.firstIndex(where: { !$0.isFinite || $0 < 0 }) else {
      return InputMetric(form: .diagonal(weights), mean: nil)
    }
    throw CompressionError(
      kind: weights[bad].isFinite ? .parameter : .notFinite, what: "weight \(bad) of the inputs",
      seen: "\(weights[bad])", expected: "a finite number that is not negative")
  }

  /// Throws `shape` unless the metric is one of vectors of length `n`.
  func require(inputs n: Int) throws(CompressionError) {
    let size =
      switch form {
      case .identity: n
      case .diagonal(let weights): weights.count
      case .full(let matrix): matrix.rows
      }
    guard size == n else {
      throw CompressionError(
        kind: .shape, what: "metric of the inputs", seen: "size \(size)", expected: "\(n), as the weights have columns")
    }
  }

  /// W · C.
  func applied(to w: Matrix<some MatrixElement>, on pool: ThreadPool) -> Matrix<Double> {
    switch form {
    case .identity: Self.scaled(w, by: nil)
    case .diagonal(let weights): Self.scaled(w, by: weights)
    case .full(let matrix): w.multiplied(by: matrix, on: pool)
    }
  }

  /// W · L for an L with L·Lᵀ = C. Needs no Cholesky factor, which singular moments do not have: L = Q·√Λ, negative
  /// rounding taken as 0.
  func rooted(_ w: Matrix<some MatrixElement>, on pool: ThreadPool) throws(CompressionError) -> Matrix<Double> {
    switch form {
    case .identity: return Self.scaled(w, by: nil)
    case .diagonal(let weights): return Self.scaled(w, by: weights.map { $0.squareRoot() })
    case .full(let matrix):
      let eigen = try SymmetricEigen(matrix, on: pool)
      let product = w.multiplied(by: eigen.vectors, transposeOther: true, on: pool)
      return Self.scaled(product, by: eigen.values.map { max(0, $0).squareRoot() })
    }
  }

  /// W with its columns times `factors`.
  private static func scaled(_ w: Matrix<some MatrixElement>, by factors: [Double]?) -> Matrix<Double> {
    var result = Matrix<Double>(rows: w.rows, columns: w.columns, elements: w.elements.map { Double($0) })
    guard let factors else { return result }
    for row in 0..<w.rows {
      for column in 0..<w.columns { result.elements[row * w.columns + column] *= factors[column] }
    }
    return result
  }
}

/// The published ways to choose the metric.
public enum FactorMethod: Sendable, Equatable {
  /// Plain SVD: the error of the weights themselves.
  case plain
  /// ASVD: column i counts (mean |xᵢ|)^α twice over. Source: Yuan et al., "ASVD: Activation-aware singular value
  /// decomposition for compressing large language models", 2023; α = 0.5 there.
  case activationScaled(alpha: Double)
  /// FWSVD: column i counts its Fisher information, E[grad²] summed over the outputs, `[n]`. Source: Hsu et al., "Language
  /// model compression with weighted low-rank factorization", 2022.
  case fisher([Double])
  /// The error of the outputs over the calibration text; with `centred`, of the outputs less their mean, which the bias
  /// takes over.
  case outputPCA(centred: Bool)

  /// Added to a column's scale or relative Fisher information: a column that was silent in calibration still counts.
  private static let scaleFloor = 1e-6
  private static let fisherFloor = 1e-5

  /// The metric for layers that read an input with these statistics. `outputPCA` shrinks the moment as
  /// `recommendedShrinkage` says.
  ///
  /// Throws `missing` when no vector was seen, `notFinite`, `shape` or `parameter` for weights or an α that make no metric.
  public func metric(for statistics: InputStatistics) throws(CompressionError) -> InputMetric {
    switch self {
    case .plain: return .identity
    case .activationScaled(let alpha):
      try statistics.requireVectors()
      return try .diagonal(
        statistics.absoluteSum.map {
          let scale = pow($0 / Double(statistics.count), alpha) + Self.scaleFloor
          return scale * scale
        })
    case .fisher(let weights):
      let greatest = weights.max() ?? 0
      let metric = try InputMetric.diagonal(weights.map { greatest > 0 ? $0 / greatest + Self.fisherFloor : 1 })
      try metric.require(inputs: statistics.size)
      return metric
    case .outputPCA(let centred):
      let moment = centred ? try statistics.covariance() : try statistics.secondMoment()
      let rho = statistics.recommendedShrinkage
      return try .moment(rho > 0 ? moment.shrunk(rho) : moment)
    }
  }
}
