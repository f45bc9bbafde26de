import ApusKernels

/// A symmetric matrix A as Q·T·Qᵀ, T tridiagonal, Q orthogonal.
///
/// Householder reflections in blocks: half of the arithmetic is matrix products (Dongarra, Sorensen and Hammarling, "Block
/// reduction of matrices to condensed forms", 1989; LAPACK's dsytrd).
struct Tridiagonalisation {
  /// `[n]`.
  var diagonal: [Double]
  /// Element i couples i and i + 1; the last is 0. `[n]`.
  var offDiagonal: [Double]
  /// Q, `[n, n]`.
  var basis: Matrix<Double>

  /// Reflections that are applied together.
  private static let blockColumns = 32
  /// Rows that a thread updates at once.
  private static let bandRows = 96
  /// A vector shorter than the root of this, in a matrix of largest element 1, is nothing; its square would be subnormal.
  private static let negligibleSquare = 1e-280

  /// Reduces the symmetric `matrix`, whose largest element should be near 1 and whose upper triangle is read. Complexity:
  /// 2 n³ multiplications and additions, with Q.
  init(_ matrix: consuming Matrix<Double>, on pool: ThreadPool) {
    let n = matrix.rows
    diagonal = Array(repeating: 0, count: n)
    offDiagonal = diagonal
    basis = Matrix(zeros: n, n)
    var scales = diagonal
    var left = [Double](repeating: 0, count: 2 * Self.blockColumns * n)
    var right = left
    matrix.elements.withUnsafeMutableBufferPointer { a in
      left.withUnsafeMutableBufferPointer { left in
        right.withUnsafeMutableBufferPointer { right in
          guard let a = a.baseAddress, let left = left.baseAddress, let right = right.baseAddress else { return }
          for first in stride(from: 0, to: n, by: Self.blockColumns) {
            let end = min(first + Self.blockColumns, n)
            for column in first..<end {
              reduce(column, a, n, 2 * (column - first), left, right, &scales, pool)
            }
            pool.parallelFor(items: n - end, grain: Self.bandRows) { band, _ in
              let row = end + band.lowerBound
              multiplyAdd(
                m: band.count, n: n - row, k: 2 * (end - first), alpha: -1,
                Float64Operand(left + row, stride: n, isTransposed: true), Float64Operand(right + row, stride: n),
                a + row * n + row, ldc: n)
            }
          }
        }
      }
    }
    formBasis(matrix, scales, pool)
  }

  /// Makes row `j` tridiagonal by H = I − scale · v·vᵀ and leaves v in row j of `a`.
  ///
  /// `a` lacks the updates of the block's earlier reflections, A − leftᵀ·right: `left` has the rows v, w, v, w …, `right` the
  /// rows w, v, w, v …, `updates` of each.
  private mutating func reduce(
    _ j: Int, _ a: MutableDoublePointer, _ n: Int, _ updates: Int, _ left: MutableDoublePointer,
    _ right: MutableDoublePointer, _ scales: inout [Double], _ pool: ThreadPool
  ) {
    let row = a + j * n
    let missing = (0..<updates).map { -right[$0 * n + j] }
    pool.vecMat(left + j, n, updates, n - j, missing, row + j)
    diagonal[j] = row[j]
    let length = n - j - 1
    if length == 0 { return }
    let v = row + j + 1
    (scales[j], offDiagonal[j]) = Self.reflect(v, length)

    let w = left + (updates + 1) * n + j + 1
    pool.symVec(a + (j + 1) * (n + 1), n, length, v, w)
    var products = [Double](repeating: 0, count: updates + 1)
    pool.matVec(right + j + 1, n, updates, length, v, &products)
    pool.vecMat(left + j + 1, n, updates, length, products.map { -$0 }, w)
    for i in 0..<length { w[i] *= scales[j] }
    pool.matVec(w, n, 1, length, v, &products)
    let share = -scales[j] / 2 * products[0]
    pool.vecMat(v, n, 1, length, [share], w)

    (left + updates * n + j + 1).update(from: v, count: length)
    (right + updates * n + j + 1).update(from: w, count: length)
    (right + (updates + 1) * n + j + 1).update(from: v, count: length)
  }

  /// Makes `x` the vector v, v[0] = 1, for which (I − scale · v·vᵀ)·x = (norm, 0, 0 …).
  private static func reflect(_ x: MutableDoublePointer, _ count: Int) -> (scale: Double, norm: Double) {
    var square = 0.0
    for i in 1..<max(1, count) { square += x[i] * x[i] }
    let first = x[0]
    x[0] = 1
    if square < negligibleSquare {
      for i in 1..<max(1, count) { x[i] = 0 }
      return (0, first)
    }
    let length = (first * first + square).squareRoot()
    let norm = first > 0 ? -length : length
    for i in 1..<count { x[i] /= first - norm }
    return ((norm - first) / norm, norm)
  }

  /// Q = H₀·H₁·…, block by block from the last: a block of reflections is I − V·T·Vᵀ (Schreiber and Van Loan, "A
  /// storage-efficient WY representation for products of Householder transformations", 1989).
  private mutating func formBasis(_ reflectors: Matrix<Double>, _ scales: [Double], _ pool: ThreadPool) {
    let n = reflectors.rows
    for i in 0..<n { basis[i, i] = 1 }
    for first in stride(from: 0, to: n, by: Self.blockColumns).reversed() {
      let count = min(Self.blockColumns, n - first)
      let start = first + 1
      let width = n - start
      if width <= 0 { continue }
      var v = Matrix<Double>(zeros: count, width)
      for i in 0..<count {
        for column in max(start, first + i + 1)..<max(n, first + i + 1) {
          v[i, column - start] = reflectors[first + i, column]
        }
      }
      let t = Self.triangle(v.multiplied(by: v, transposeOther: true, on: pool), scales[first..<first + count])
      basis.elements.withUnsafeMutableBufferPointer { q in
        v.elements.withUnsafeBufferPointer { v in
          guard let q = q.baseAddress, let v = v.baseAddress else { return }
          let part = q + start * n + start
          var product = Matrix<Double>(zeros: count, width)
          product.elements.withUnsafeMutableBufferPointer {
            pool.multiplyAdd(
              m: count, n: width, k: width, Float64Operand(v, stride: width), Float64Operand(part, stride: n),
              $0.baseAddress!, ldc: width)
          }
          t.multiplied(by: product, on: pool).elements.withUnsafeBufferPointer {
            pool.multiplyAdd(
              m: width, n: width, k: count, alpha: -1, Float64Operand(v, stride: width, isTransposed: true),
              Float64Operand($0.baseAddress!, stride: width), part, ldc: n)
          }
        }
      }
    }
  }

  /// The upper triangular T of a block, from the products of its vectors.
  private static func triangle(_ gram: Matrix<Double>, _ scales: ArraySlice<Double>) -> Matrix<Double> {
    var t = Matrix<Double>(zeros: gram.rows, gram.rows)
    for (i, scale) in scales.enumerated() {
      t[i, i] = scale
      for row in 0..<i {
        t[row, i] = -scale * (row..<i).reduce(0.0) { $0 + t[row, $1] * gram[$1, i] }
      }
    }
    return t
  }
}
