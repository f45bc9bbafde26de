import ApusKernels

/// Eigenvalues and eigenvectors of a symmetric matrix: A = Σ values[j] · vectors[j]ᵀ·vectors[j].
public struct SymmetricEigen: Sendable, Equatable {
  /// Descending. `[count]`.
  public let values: [Double]
  /// Row j is the eigenvector of `values[j]`, of length 1, its greatest component positive (the first, among components
  /// that are equal but for rounding). `[count, n]`.
  public let vectors: Matrix<Double>

  init(values: [Double], vectors: Matrix<Double>) {
    self.values = values
    self.vectors = vectors
  }

  /// All eigenvalues and eigenvectors of a square `matrix`, of which the upper triangle is read.
  ///
  /// Householder tridiagonalisation, then QL with implicit shifts. The result does not depend on the number of threads.
  /// Throws `notFinite`, `shape`, or `notConverged`. Complexity: about 5 n³ multiplications and additions, 4 n² numbers of
  /// memory.
  public init(_ matrix: Matrix<Double>, on pool: ThreadPool) throws(CompressionError) {
    let n = matrix.rows
    guard matrix.columns == n else {
      throw CompressionError(
        kind: .shape, what: "symmetric matrix", seen: "[\(n), \(matrix.columns)]", expected: "as many rows as columns")
    }
    try matrix.requireFinite("symmetric matrix")
    let largest = matrix.elements.reduce(0.0) { max($0, abs($1)) }
    // A power of two, so that scaling is exact; squares neither overflow nor vanish.
    let scale = largest == 0 ? 1 : Double(sign: .plus, exponent: largest.exponent, significand: 1)
    let scaled = Matrix(rows: n, columns: n, elements: matrix.elements.map { $0 / scale })
    let solved = try ImplicitQL(Tridiagonalisation(scaled, on: pool), on: pool)
    let order = solved.diagonal.indices.sorted {
      (-solved.diagonal[$0], $0) < (-solved.diagonal[$1], $1)
    }
    values = order.map { solved.diagonal[$0] * scale }
    var vectors = Matrix<Double>(zeros: n, n)
    for (row, j) in order.enumerated() {
      for i in 0..<n { vectors.elements[row * n + i] = solved.component(i, of: j) }
    }
    vectors.makeSignsCanonical()
    self.vectors = vectors
  }
}

extension Matrix<Double> {
  /// Negates the rows whose greatest component is negative.
  mutating func makeSignsCanonical() {
    for row in 0..<rows {
      let range = row * columns..<(row + 1) * columns
      let greatest = elements[range].reduce(0.0) { max($0, abs($1)) }
      // Components that differ by rounding alone count as equal, or rounding would choose the sign.
      let leader = elements[range].first { abs($0) >= greatest * (1 - 1e-8) }
      guard let leader, leader < 0 else { continue }
      for index in range { elements[index] = -elements[index] }
    }
  }
}
