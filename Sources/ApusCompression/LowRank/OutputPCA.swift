import ApusKernels

/// The principal directions of what linear layers put out, from which factors of any rank are cut.
///
/// Of all matrices of rank k, Ŵ = U_k·U_kᵀ·W loses least under a metric C, with U_k the leading eigenvectors of W·C·Wᵀ: this
/// is Eckart and Young's theorem for W·√C, and it needs no inverse of C. What is lost is the sum of the eigenvalues cut.
/// The layers of a group read one input and share the down factor U_kᵀ·W.
public struct OutputPCA: Sendable {
  /// Eigenvalues of W·C·Wᵀ, descending, not negative: what each rank adds. As many as the smaller side of W, or fewer where
  /// only leading ones were computed.
  public let spectrum: [Double]
  /// tr(W·C·Wᵀ): what is lost with rank 0.
  public let energy: Double
  /// How many directions stand out of the rounding of W·C·Wᵀ.
  public let numericalRank: Int
  /// n_in · n_out / (n_in + n_out), the rank at which factors are as large as the matrices.
  public let breakEven: Double

  /// The group's matrices on top of each other, `[n_out, n_in]`.
  private let weights: Matrix<Float>
  private let outputs: [Int]
  private let mean: [Double]?
  /// Orthonormal rows; row j belongs to `spectrum[j]`. At least `numericalRank` and at least one.
  private let directions: Matrix<Double>

  /// The directions of one matrix `[n_out, n_in]`, or of a group with the same n_in.
  ///
  /// Works on the smaller side of the stacked matrices. `leading` says how many directions will be used at most: less than
  /// a quarter of them are computed alone, by subspace iteration. Throws `shape`, `notFinite` or `parameter`. Complexity: about
  /// 5 · min(n_in, n_out)³ and, when n_in is smaller, as much for the metric; and the products W·C·Wᵀ.
  public init(
    of group: [Matrix<Float>], in metric: InputMetric, leading: Int? = nil, on pool: ThreadPool
  ) throws {
    guard let inputs = group.first?.columns, inputs > 0,
      group.allSatisfy({ $0.columns == inputs && $0.rows > 0 })
    else {
      throw CompressionError(
        kind: .shape, what: "matrices to factorise", seen: "\(group.map { [$0.rows, $0.columns] })",
        expected: "at least one, all with as many columns as the first")
    }
    for (index, matrix) in group.enumerated() { try matrix.requireFinite("matrix \(index) to factorise") }
    try metric.require(inputs: inputs)
    outputs = group.map(\.rows)
    let total = outputs.reduce(0, +)
    weights = Matrix(rows: total, columns: inputs, elements: group.flatMap(\.elements))
    mean = metric.mean
    breakEven = Double(inputs) * Double(total) / Double(inputs + total)
    let smaller = min(inputs, total)
    if let leading, !(1...smaller).contains(leading) {
      throw CompressionError(
        kind: .parameter, what: "leading directions", seen: "\(leading)", expected: "between 1 and \(smaller)")
    }
    let weighted = metric.applied(to: weights, on: pool)
    energy = max(0, zip(weighted.elements, weights.elements).reduce(0.0) { $0 + $1.0 * Double($1.1) })

    let eigen: SymmetricEigen
    if let leading, 4 * leading < smaller {
      let stacked = weights
      eigen = try SubspaceIteration().leading(leading, n: total, on: pool) { vectors in
        let inner = vectors.multiplied(by: stacked, on: pool)
        return metric.applied(to: inner, on: pool).multiplied(by: stacked, transposeOther: true, on: pool)
      }
      directions = eigen.vectors
    } else if total <= inputs {
      eigen = try SymmetricEigen(weighted.multiplied(by: weights, transposeOther: true, on: pool), on: pool)
      directions = eigen.vectors
    } else {
      let rooted = try metric.rooted(weights, on: pool)
      eigen = try SymmetricEigen(rooted.multiplied(by: rooted, transposeSelf: true, on: pool), on: pool)
      // Of the lengths √λ, which is rounding where λ is.
      let count = max(1, Self.numericalRank(eigen.values, total))
      var images = eigen.vectors.rows(0..<count).multiplied(by: rooted, transposeOther: true, on: pool)
      images.orthonormaliseRows(seed: 1, on: pool)
      directions = images
    }
    spectrum = eigen.values.map { max(0, $0) }
    numericalRank = Self.numericalRank(spectrum, max(inputs, total))
  }

  private static func numericalRank(_ spectrum: [Double], _ size: Int) -> Int {
    let floor = max(0, spectrum.first ?? 0) * Double(size) * .ulpOfOne
    return spectrum.firstIndex { $0 <= floor } ?? spectrum.count
  }

  /// What a rank loses: Σ λⱼ over j ≥ `rank`.
  public func predictedLoss(rank: Int) -> Double {
    spectrum.count == min(weights.rows, weights.columns)
      ? spectrum.dropFirst(rank).reversed().reduce(0, +) : max(0, energy - spectrum.prefix(rank).reduce(0, +))
  }

  /// The factors of a rank, in f32, each column of up as long as its row of down.
  ///
  /// `keepingDense` false gives factors of a rank that spares no parameters too. Throws `parameter` when `rank` is below 1,
  /// or above the leading directions when those were computed alone.
  public func factorise(
    rank: Int, keepingDense: Bool = true, on pool: ThreadPool
  ) throws(CompressionError) -> Factorisation {
    guard rank >= 1 else {
      throw CompressionError(
        kind: .parameter, what: "rank", seen: "\(rank)", expected: "at least 1",
        wayOut: "a matrix without outputs is dropped by the caller, not factorised")
    }
    if keepingDense && Double(rank) >= breakEven { return .keepDense(rank: rank, breakEven: breakEven) }
    guard rank <= spectrum.count else {
      throw CompressionError(
        kind: .parameter, what: "rank", seen: "\(rank)", expected: "at most the \(spectrum.count) leading directions",
        wayOut: "compute more of them")
    }
    let kept = min(rank, max(1, numericalRank))
    let basis = directions.rows(0..<kept)
    let (down, up) = balanced(basis, basis.multiplied(by: weights, on: pool))
    let ups = zip(outputs, outputs.indices.map { outputs[..<$0].reduce(0, +) })
      .map { up.rows($0.1..<$0.1 + $0.0) }
    let factors = LowRankFactors(down: down, ups: ups, biasCorrections: biasCorrections(down, ups, pool))
    return .lowRank(factors, predictedLoss: predictedLoss(rank: kept))
  }

  /// Down and up in f32, from U_kᵀ and U_kᵀ·W: both sides of a rank get the same length, so that neither loses more when
  /// they are quantised.
  private func balanced(_ basis: Matrix<Double>, _ projected: Matrix<Double>) -> (Matrix<Float>, Matrix<Float>) {
    var (down, up) = (projected, basis)
    for j in 0..<basis.rows {
      let range = j * down.columns..<(j + 1) * down.columns
      let length = down.elements[range].reduce(0.0) { $0 + $1 * $1 }.squareRoot()
      let scale = length > 0 ? length.squareRoot() : 1
      for i in range { down.elements[i] /= scale }
      for i in j * up.columns..<(j + 1) * up.columns { up.elements[i] *= scale }
    }
    func narrow(_ matrix: Matrix<Double>) -> Matrix<Float> {
      Matrix(rows: matrix.rows, columns: matrix.columns, elements: matrix.elements.map { Float($0) })
    }
    return (narrow(down), narrow(up.transposed))
  }

  private func biasCorrections(_ down: Matrix<Float>, _ ups: [Matrix<Float>], _ pool: ThreadPool) -> [[Float]]? {
    guard let mean else { return nil }
    let column = Matrix<Double>(rows: mean.count, columns: 1, elements: mean)
    let dense = weights.multiplied(by: column, on: pool).elements
    let inner = down.multiplied(by: column, on: pool)
    var first = 0
    return ups.map { up in
      defer { first += up.rows }
      return zip(dense[first...], up.multiplied(by: inner, on: pool).elements).map { Float($0 - $1) }
    }
  }
}
