public typealias DoublePointer = UnsafePointer<Double>
public typealias MutableDoublePointer = UnsafeMutablePointer<Double>

/// A factor of an f64 matrix product: row-major numbers in memory, f64 or f32 (widened as they are read), as they lie or
/// transposed.
public struct Float64Operand {
  public var base: UnsafeRawPointer
  /// Numbers between the rows in memory.
  public var stride: Int
  /// True when the factor is the transpose of what lies in memory.
  public var isTransposed: Bool
  /// True for f32 numbers.
  public var isFloat32: Bool

  @inlinable public init(_ base: DoublePointer, stride: Int, isTransposed: Bool = false) {
    self.base = UnsafeRawPointer(base)
    self.stride = stride
    self.isTransposed = isTransposed
    isFloat32 = false
  }

  @inlinable public init(_ base: FloatPointer, stride: Int, isTransposed: Bool = false) {
    self.base = UnsafeRawPointer(base)
    self.stride = stride
    self.isTransposed = isTransposed
    isFloat32 = true
  }

  /// The factor from `row` and `column` of its own on.
  @inlinable public func advanced(row: Int, column: Int) -> Float64Operand {
    var result = self
    let offset = isTransposed ? column * stride + row : row * stride + column
    result.base = base + offset * (isFloat32 ? 4 : 8)
    return result
  }
}

/// `C[m, n] += alpha · A[m, k] · B[k, n]` in f64, any m, n, k ≥ 0. An element's bits depend on k, alpha and the numbers
/// that go into it, not on m, n or its place: threads share a product by taking blocks of C.
public struct Float64GEMMArguments {
  public var m: Int
  public var n: Int
  public var k: Int
  public var alpha: Double
  public var a: Float64Operand
  public var b: Float64Operand
  public var c: MutableDoublePointer
  /// Numbers between the rows of C.
  public var ldc: Int
  /// At least `KernelTable.scratchBytes`, 64-byte aligned, private to the calling thread.
  public var scratch: UnsafeMutableRawPointer

  @inlinable public init(
    m: Int, n: Int, k: Int, alpha: Double = 1, a: Float64Operand, b: Float64Operand, c: MutableDoublePointer, ldc: Int,
    scratch: UnsafeMutableRawPointer
  ) {
    self.m = m
    self.n = n
    self.k = k
    self.alpha = alpha
    self.a = a
    self.b = b
    self.c = c
    self.ldc = ldc
    self.scratch = scratch
  }
}

/// Plane rotations of neighbouring rows, bottom up, as one sweep of the implicit QL algorithm makes them: the first turns
/// rows `top − 1` and `top`, the next `top − 2` and `top − 1`, `count` in all.
public struct RotationSweep {
  public var top: Int
  public var count: Int

  @inlinable public init(top: Int, count: Int) {
    self.top = top
    self.count = count
  }

  /// Columns of a panel that `rotatePanel` works on: rows of 128 bytes, one after another.
  public static let panelColumns = 16
}
