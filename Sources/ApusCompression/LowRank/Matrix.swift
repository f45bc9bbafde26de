import ApusKernels

/// A number that matrices are made of: f32 for weights and factors, f64 for the arithmetic on them.
public protocol MatrixElement: BinaryFloatingPoint, Sendable {
  /// The numbers at `base` as the f64 kernels take them.
  static func operand(_ base: UnsafePointer<Self>, stride: Int, isTransposed: Bool) -> Float64Operand
}

extension Double: MatrixElement {
  public static func operand(_ base: UnsafePointer<Double>, stride: Int, isTransposed: Bool) -> Float64Operand {
    Float64Operand(base, stride: stride, isTransposed: isTransposed)
  }
}

extension Float: MatrixElement {
  public static func operand(_ base: UnsafePointer<Float>, stride: Int, isTransposed: Bool) -> Float64Operand {
    Float64Operand(base, stride: stride, isTransposed: isTransposed)
  }
}

/// A dense matrix in row-major order.
public struct Matrix<Element: MatrixElement>: Sendable, Equatable {
  public let rows: Int
  public let columns: Int
  /// `[rows, columns]`.
  public var elements: [Element]

  /// A matrix of `elements` `[rows, columns]`, which must be as many as the shape says.
  public init(rows: Int, columns: Int, elements: [Element]) {
    precondition(
      rows >= 0 && columns >= 0 && elements.count == rows * columns,
      "\(elements.count) elements for a matrix [\(rows), \(columns)]")
    self.rows = rows
    self.columns = columns
    self.elements = elements
  }

  /// A matrix `[rows, columns]` of zeros.
  public init(zeros rows: Int, _ columns: Int) {
    self.init(rows: rows, columns: columns, elements: Array(repeating: 0, count: rows * columns))
  }

  public subscript(row: Int, column: Int) -> Element {
    get { elements[row * columns + column] }
    set { elements[row * columns + column] = newValue }
  }

  /// The matrix of some of the rows. Complexity: O(result).
  public func rows(_ range: Range<Int>) -> Matrix {
    Matrix(
      rows: range.count, columns: columns,
      elements: Array(elements[range.lowerBound * columns..<range.upperBound * columns]))
  }

  /// The matrix `[columns, rows]` with rows and columns exchanged.
  public var transposed: Matrix {
    var result = Matrix(zeros: columns, rows)
    for i in 0..<rows {
      for j in 0..<columns { result.elements[j * rows + i] = elements[i * columns + j] }
    }
    return result
  }

  /// Throws when an element is NaN or infinite; `what` names the matrix in the error.
  func requireFinite(_ what: String) throws(CompressionError) {
    guard let index = elements.firstIndex(where: { !$0.isFinite }) else { return }
    throw CompressionError(
      kind: .notFinite, what: what, seen: "\(elements[index]) at [\(index / columns), \(index % columns)]",
      expected: "finite numbers")
  }
}

extension Matrix {
  /// A, or Aᵀ, times B, or Bᵀ, in f64, on all threads of `pool`. The result does not depend on their number.
  public func multiplied<Other>(
    by other: Matrix<Other>, transposeSelf isTransposed: Bool = false, transposeOther isOtherTransposed: Bool = false,
    on pool: ThreadPool
  ) -> Matrix<Double> {
    let (m, k) = isTransposed ? (columns, rows) : (rows, columns)
    let (otherRows, n) = isOtherTransposed ? (other.columns, other.rows) : (other.rows, other.columns)
    precondition(k == otherRows, "a product [\(m), \(k)] · [\(otherRows), \(n)]")
    var result = Matrix<Double>(zeros: m, n)
    elements.withUnsafeBufferPointer { a in
      other.elements.withUnsafeBufferPointer { b in
        result.elements.withUnsafeMutableBufferPointer { c in
          guard let a = a.baseAddress, let b = b.baseAddress, let c = c.baseAddress else { return }
          pool.multiplyAdd(
            m: m, n: n, k: k, Element.operand(a, stride: columns, isTransposed: isTransposed),
            Other.operand(b, stride: other.columns, isTransposed: isOtherTransposed), c, ldc: n)
        }
      }
    }
    return result
  }
}
