import ApusKernels

/// What calibration learns about the vectors x that go into a linear layer: how many, Σx, Σ|x| and Σx·xᵀ, in f64.
public struct InputStatistics: Sendable, Equatable {
  /// Length of the vectors, n.
  public let size: Int
  /// Vectors seen. Padding is none: the caller gives rows of real tokens only.
  public private(set) var count = 0
  /// Σx, `[n]`.
  public private(set) var sum: [Double]
  /// Σ|x|, `[n]`.
  public private(set) var absoluteSum: [Double]
  /// Σx·xᵀ, the rows of the upper triangle one after another, `[n · (n + 1) / 2]`.
  public private(set) var products: [Double]

  /// Rows whose products are summed on their own before they are added: the sum of many loses less.
  private static let blockRows = 256
  /// Rows of Σx·xᵀ that a thread computes at once.
  private static let bandRows = 96

  /// Statistics of no vector yet, of length `size`.
  public init(size: Int) {
    precondition(size > 0, "vectors of length \(size)")
    self.size = size
    sum = Array(repeating: 0, count: size)
    absoluteSum = sum
    products = Array(repeating: 0, count: Self.packedCount(size))
  }

  init(count: Int, sum: [Double], absoluteSum: [Double], products: [Double]) {
    size = sum.count
    self.count = count
    self.sum = sum
    self.absoluteSum = absoluteSum
    self.products = products
  }

  /// Numbers in the upper triangle of a matrix `[size, size]`.
  static func packedCount(_ size: Int) -> Int { size * (size + 1) / 2 }

  /// Where row `i` of the upper triangle begins.
  private func start(ofRow i: Int) -> Int { i * size - i * (i - 1) / 2 }

  /// Adds the vectors that are the rows of `rows` `[count, n]`.
  ///
  /// The same calls give the same bits, whatever the number of threads. Throws `shape` or, for NaN and infinity,
  /// `notFinite`; nothing is added then. Complexity: count · n² / 2 multiplications and additions.
  public mutating func add(_ rows: Matrix<Float>, on pool: ThreadPool) throws(CompressionError) {
    guard rows.columns == size else {
      throw CompressionError(
        kind: .shape, what: "calibration rows", seen: "\(rows.columns) numbers a row", expected: "\(size)")
    }
    try rows.requireFinite("calibration rows")
    for first in stride(from: 0, to: rows.rows, by: Self.blockRows) {
      addBlock(rows, first..<min(first + Self.blockRows, rows.rows), pool)
    }
    count += rows.rows
  }

  private mutating func addBlock(_ rows: Matrix<Float>, _ range: Range<Int>, _ pool: ThreadPool) {
    let n = size
    for row in range {
      for j in 0..<n {
        let value = Double(rows.elements[row * n + j])
        sum[j] += value
        absoluteSum[j] += abs(value)
      }
    }
    let starts = (0..<n).map(start(ofRow:))
    products.withUnsafeMutableBufferPointer { products in
      let products = products
      rows.elements.withUnsafeBufferPointer { rows in
        guard let x = rows.baseAddress.map({ $0 + range.lowerBound * n }) else { return }
        pool.parallelFor(items: n, grain: Self.bandRows) { band, _ in
          let width = n - band.lowerBound
          var part = [Double](repeating: 0, count: band.count * width)
          part.withUnsafeMutableBufferPointer {
            multiplyAdd(
              m: band.count, n: width, k: range.count,
              Float64Operand(x + band.lowerBound, stride: n, isTransposed: true),
              Float64Operand(x + band.lowerBound, stride: n), $0.baseAddress!, ldc: width)
          }
          for i in band {
            let row = (i - band.lowerBound) * width - band.lowerBound
            for j in i..<n { products[starts[i] + j - i] += part[row + j] }
          }
        }
      }
    }
  }

  /// Adds what `other` has seen. Throws `shape` when its vectors have another length.
  public mutating func merge(_ other: InputStatistics) throws(CompressionError) {
    guard other.size == size else {
      throw CompressionError(
        kind: .shape, what: "statistics to merge", seen: "vectors of \(other.size)", expected: "vectors of \(size)")
    }
    count += other.count
    for i in sum.indices {
      sum[i] += other.sum[i]
      absoluteSum[i] += other.absoluteSum[i]
    }
    for i in products.indices { products[i] += other.products[i] }
  }
}

// MARK: - Moments

/// The second moment of a layer's inputs: E[x·xᵀ], or E[(x − μ)(x − μ)ᵀ] with the mean μ.
public struct InputMoment: Sendable, Equatable {
  /// Symmetric, `[n, n]`.
  public let matrix: Matrix<Double>
  /// μ, `[n]`, when the moment is taken about it; nil when it is taken about 0.
  public let mean: [Double]?

  public init(matrix: Matrix<Double>, mean: [Double]?) {
    self.matrix = matrix
    self.mean = mean
  }

  /// (1 − ρ)·C + ρ·mean(diag C)·I: few samples make directions look silent that are not.
  ///
  /// `rho` is clamped to 0…1. Source: Ledoit and Wolf, "A well-conditioned estimator for large-dimensional covariance
  /// matrices", 2004.
  public func shrunk(_ rho: Double) -> InputMoment {
    let rho = min(max(rho, 0), 1)
    let n = matrix.rows
    var result = matrix
    let trace = (0..<n).reduce(0.0) { $0 + matrix[$1, $1] }
    for i in result.elements.indices { result.elements[i] *= 1 - rho }
    for i in 0..<n { result[i, i] += rho * trace / Double(n) }
    return InputMoment(matrix: result, mean: mean)
  }
}

extension InputStatistics {
  /// Vectors per element of one below which `recommendedShrinkage` is not 0.
  private static let enoughVectors = 10.0

  /// The ρ for `InputMoment.shrunk`: 0 for 10·n vectors or more, else 10⁻³ times what lacks of them as a factor, at most
  /// 10⁻².
  public var recommendedShrinkage: Double {
    let lack = Self.enoughVectors * Double(size) / Double(max(1, count))
    return lack <= 1 ? 0 : min(1e-2, 1e-3 * lack)
  }

  /// E[x·xᵀ]. Throws `missing` when no vector was seen.
  public func secondMoment() throws(CompressionError) -> InputMoment {
    InputMoment(matrix: try unpacked(about: nil), mean: nil)
  }

  /// E[(x − μ)(x − μ)ᵀ]. Throws `missing` when no vector was seen.
  public func covariance() throws(CompressionError) -> InputMoment {
    let mean = sum.map { $0 / Double(max(1, count)) }
    return InputMoment(matrix: try unpacked(about: mean), mean: mean)
  }

  private func unpacked(about mean: [Double]?) throws(CompressionError) -> Matrix<Double> {
    try requireVectors()
    var result = Matrix<Double>(zeros: size, size)
    for i in 0..<size {
      let row = start(ofRow: i) - i
      for j in i..<size {
        let value = products[row + j] / Double(count) - (mean.map { $0[i] * $0[j] } ?? 0)
        result.elements[i * size + j] = value
        result.elements[j * size + i] = value
      }
    }
    return result
  }

  /// Throws `missing` when no vector was seen.
  func requireVectors() throws(CompressionError) {
    guard count > 0 else {
      throw CompressionError(
        kind: .missing, what: "calibration statistics", seen: "no vector", expected: "at least one",
        wayOut: "calibrate on some text first")
    }
  }
}
