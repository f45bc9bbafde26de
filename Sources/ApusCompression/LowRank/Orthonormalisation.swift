import ApusKernels

extension Matrix<Double> {
  /// A row that loses more than this of its length depends on the rows before it; what is left is rounding.
  private static var dependent: Double { 1e-12 }

  /// Makes the rows orthonormal, keeping the span of the first 1, 2, 3 … of them; a row that depends on those before it
  /// becomes a random direction.
  ///
  /// Gram–Schmidt, each row twice (Giraud, Langou and Rozložník, "The loss of orthogonality in the Gram-Schmidt
  /// orthogonalization process", 2005). `rows` must be at most `columns`. Complexity: 4 · rows² · columns.
  mutating func orthonormaliseRows(seed: UInt64, on pool: ThreadPool) {
    precondition(rows <= columns, "\(rows) orthonormal rows of \(columns)")
    var random = SplitMix64(seed: seed)
    let (rows, columns) = (rows, columns)
    elements.withUnsafeMutableBufferPointer {
      guard let base = $0.baseAddress else { return }
      for row in 0..<rows {
        let x = base + row * columns
        while !(Self.normalise(x, columns) && Self.project(x, off: base, row, columns, pool)) {
          for i in 0..<columns { x[i] = random.signedUnit() }
        }
      }
    }
  }

  /// Scales `x` to length 1; false when it has none.
  private static func normalise(_ x: MutableDoublePointer, _ count: Int) -> Bool {
    var greatest = 0.0
    for i in 0..<count { greatest = Swift.max(greatest, abs(x[i])) }
    if greatest == 0 { return false }
    var square = 0.0
    for i in 0..<count {
      x[i] /= greatest
      square += x[i] * x[i]
    }
    let length = square.squareRoot()
    for i in 0..<count { x[i] /= length }
    return true
  }

  /// Takes from `x`, of length 1, what lies along the orthonormal rows and makes the rest one of length 1; false when
  /// nothing is left.
  private static func project(
    _ x: MutableDoublePointer, off rows: MutableDoublePointer, _ count: Int, _ columns: Int, _ pool: ThreadPool
  ) -> Bool {
    var products = [Double](repeating: 0, count: Swift.max(1, count))
    for _ in 0..<2 {
      pool.matVec(rows, columns, count, columns, x, &products)
      pool.vecMat(rows, columns, count, columns, products.map { -$0 }, x)
      var square = 0.0
      for i in 0..<columns { square += x[i] * x[i] }
      guard square.squareRoot() > dependent, normalise(x, columns) else { return false }
    }
    return true
  }
}
