import ApusCompression
import ApusKernels

/// Numbers for property tests: SplitMix64, so that the printed seed brings a failure back.
struct TestRandom: RandomNumberGenerator {
  private var state: UInt64
  init(seed: UInt64) { state = seed }

  mutating func next() -> UInt64 {
    state &+= 0x9e37_79b9_7f4a_7c15
    var z = state
    z = (z ^ (z >> 30)) &* 0xbf58_476d_1ce4_e5b9
    z = (z ^ (z >> 27)) &* 0x94d0_49bb_1331_11eb
    return z ^ (z >> 31)
  }

  /// Uniform in −1 ..< 1.
  mutating func number() -> Double { Double(Int64(bitPattern: next())) * 0x1p-63 }

  mutating func matrix(_ rows: Int, _ columns: Int) -> Matrix<Double> {
    Matrix(rows: rows, columns: columns, elements: (0..<rows * columns).map { _ in number() })
  }

  mutating func floatMatrix(_ rows: Int, _ columns: Int) -> Matrix<Float> {
    Matrix(rows: rows, columns: columns, elements: (0..<rows * columns).map { _ in Float(number()) })
  }

  /// Orthonormal rows `[n, n]`, as a product of reflections.
  mutating func orthogonal(_ n: Int) -> Matrix<Double> {
    var result = Matrix<Double>(zeros: n, n)
    for i in 0..<n { result[i, i] = 1 }
    for _ in 0..<8 {
      let v = (0..<n).map { _ in number() }
      let square = v.reduce(0) { $0 + $1 * $1 }
      for row in 0..<n {
        let product = (0..<n).reduce(0.0) { $0 + result[row, $1] * v[$1] }
        for column in 0..<n { result[row, column] -= 2 * product / square * v[column] }
      }
    }
    return result
  }

  /// A symmetric matrix with these eigenvalues.
  mutating func symmetric(_ values: [Double], on pool: ThreadPool) -> Matrix<Double> {
    let basis = orthogonal(values.count)
    var scaled = basis
    for (row, value) in values.enumerated() {
      for column in values.indices { scaled[row, column] *= value }
    }
    return basis.multiplied(by: scaled, transposeSelf: true, on: pool)
  }
}

extension Matrix<Double> {
  var greatest: Double { elements.reduce(0) { Swift.max($0, abs($1)) } }
  var squaredNorm: Double { elements.reduce(0) { $0 + $1 * $1 } }

  func minus(_ other: Matrix) -> Matrix {
    Matrix(rows: rows, columns: columns, elements: zip(elements, other.elements).map { $0 - $1 })
  }

  /// How far the rows are from orthonormal: the greatest element of X·Xᵀ − I.
  func departureFromOrthonormal(on pool: ThreadPool) -> Double {
    var gram = multiplied(by: self, transposeOther: true, on: pool)
    for i in 0..<rows { gram[i, i] -= 1 }
    return gram.greatest
  }
}

extension SymmetricEigen {
  /// Σ values[j] · vectors[j]ᵀ·vectors[j] over the first `count`.
  func reassembled(_ count: Int? = nil, on pool: ThreadPool) -> Matrix<Double> {
    let kept = vectors.rows(0..<(count ?? values.count))
    var scaled = kept
    for j in 0..<kept.rows {
      for i in 0..<kept.columns { scaled[j, i] *= values[j] }
    }
    return kept.multiplied(by: scaled, transposeSelf: true, on: pool)
  }
}

let testPool = ThreadPool(threads: 2)
