import ApusKernels

/// What a layer reads behind compressed layers, x̂, against what it read in the original, x: the moments of x̂, and Σx and
/// Σx·x̂ᵀ, in f64.
public struct ShiftedInputs: Sendable, Equatable {
  /// Of x̂.
  public private(set) var shifted: InputStatistics
  /// Σx, `[n]`.
  private var sum: [Double]
  /// Σx·x̂ᵀ, `[n, n]`.
  private var products: Matrix<Double>

  public init(size: Int) {
    shifted = InputStatistics(size: size)
    sum = Array(repeating: 0, count: size)
    products = Matrix(zeros: size, size)
  }

  /// Adds pairs: row i of both `[count, n]` is the same token. Throws `shape` or `notFinite`; nothing is added then.
  public mutating func add(
    original: Matrix<Float>, shifted rows: Matrix<Float>, on pool: ThreadPool
  ) throws(CompressionError) {
    let n = shifted.size
    guard original.rows == rows.rows, original.columns == n else {
      throw CompressionError(
        kind: .shape, what: "inputs of the original", seen: "[\(original.rows), \(original.columns)]",
        expected: "[\(rows.rows), \(n)], as behind the compressed layers")
    }
    try original.requireFinite("inputs of the original")
    try shifted.add(rows, on: pool)
    for row in 0..<original.rows {
      for j in 0..<n { sum[j] += Double(original.elements[row * n + j]) }
    }
    products.elements.withUnsafeMutableBufferPointer { c in
      original.elements.withUnsafeBufferPointer { x in
        rows.elements.withUnsafeBufferPointer { y in
          guard let c = c.baseAddress, let x = x.baseAddress, let y = y.baseAddress else { return }
          pool.multiplyAdd(
            m: n, n: n, k: original.rows, Float64Operand(x, stride: n, isTransposed: true),
            Float64Operand(y, stride: n), c, ldc: n)
        }
      }
    }
  }

  /// Matrices that give from x̂ what others give from x, and what to add to their biases, `[n_out]` each.
  public struct Refit: Sendable, Equatable {
    public var matrices: [Matrix<Float>]
    /// Nil unless the moments were taken about the means.
    public var biasShifts: [[Float]]?
  }

  /// The least-squares matrices B of ‖W·x − B·x̂‖²: B = W + W·(S − Ĉ)·(Ĉ + ρ·I)⁻¹ with S = E[x·x̂ᵀ], Ĉ = E[x̂·x̂ᵀ], about
  /// the means when `centred`.
  ///
  /// ρ is `ridge` times the mean of Ĉ's diagonal: it draws B towards W, not towards 0, and makes up for a singular Ĉ. A
  /// low-rank fit of B under Ĉ is the best one of W·x from x̂ (reduced-rank regression), so factors of B include the refit
  /// of the outer factor. Sources: Wang et al., "SVD-LLM", 2024, §3.3 (the refit on compressed inputs); Izenman,
  /// "Reduced-rank regression for the multivariate linear model", 1975. Throws `missing`, `notConverged`. Complexity:
  /// about 7 · n³ + n_out · n².
  public func refit(
    _ weights: [Matrix<Float>], centred: Bool, ridge: Double, on pool: ThreadPool
  ) throws(CompressionError) -> Refit {
    let n = shifted.size
    let moment = centred ? try shifted.covariance() : try shifted.secondMoment()
    let count = Double(shifted.count)
    let mean = sum.map { $0 / count }
    var difference = products
    for i in 0..<n {
      for j in 0..<n {
        let cross = products[i, j] / count - (moment.mean.map { mean[i] * $0[j] } ?? 0)
        difference[i, j] = cross - moment.matrix[i, j]
      }
    }
    let eigen = try SymmetricEigen(moment.matrix, on: pool)
    let floor = ridge * (0..<n).reduce(0.0) { $0 + moment.matrix[$1, $1] } / Double(n)
    var turned = difference.multiplied(by: eigen.vectors, transposeOther: true, on: pool)
    let inverse = eigen.values.map { value -> Double in
      let value = max(0, value) + floor
      return value > 0 ? 1 / value : 0
    }
    for i in 0..<n { for j in 0..<n { turned[i, j] *= inverse[j] } }
    let correction = turned.multiplied(by: eigen.vectors, on: pool)
    var refit = Refit(matrices: [], biasShifts: centred ? [] : nil)
    for weight in weights {
      var fitted = weight.multiplied(by: correction, on: pool)
      for i in fitted.elements.indices { fitted.elements[i] += Double(weight.elements[i]) }
      let narrow = Matrix<Float>(rows: fitted.rows, columns: n, elements: fitted.elements.map { Float($0) })
      if let shiftedMean = moment.mean {
        let before = weight.multiplied(by: Matrix(rows: n, columns: 1, elements: mean), on: pool).elements
        let after = narrow.multiplied(by: Matrix(rows: n, columns: 1, elements: shiftedMean), on: pool).elements
        refit.biasShifts?.append(zip(before, after).map { Float($0 - $1) })
      }
      refit.matrices.append(narrow)
    }
    return refit
  }
}
