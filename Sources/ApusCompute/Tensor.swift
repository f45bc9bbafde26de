import ApusKernels

/// A matrix of `rows × columns` in some `DType`, row after row, `rowBytes` apart; a vector is one row.
///
/// A value that points into a `Storage`; copying it copies no elements. Elements of a quantised kind are only reached
/// through a `Device`.
public struct Tensor: @unchecked Sendable {
  // Sendable holds: a tensor is a description (pointer, shape) whose memory `storage` keeps alive; see `Storage` for who
  // may write.
  public let dtype: DType
  public let rows: Int
  public let columns: Int
  /// Bytes from one row to the next.
  public let rowBytes: Int
  /// Where the first row begins: in this process' memory, or in a device's (`isHostMemory`). Only devices look there.
  public let base: UnsafeMutableRawPointer
  let storage: Storage?

  /// A view of memory that `storage` keeps alive (nil: the caller does).
  public init(
    dtype: DType, rows: Int, columns: Int, rowBytes: Int? = nil, base: UnsafeMutableRawPointer, storage: Storage?
  ) {
    self.dtype = dtype
    self.rows = rows
    self.columns = columns
    self.rowBytes = rowBytes ?? dtype.rowBytes(columns)
    self.base = base
    self.storage = storage
  }

  /// A zeroed matrix on the heap.
  public init(
    zeros rows: Int, _ columns: Int, dtype: DType = .f32, ledger: MemoryLedger? = nil,
    line: MemoryLedger.Line = .persistent
  ) {
    let storage = HeapStorage(byteCount: rows * dtype.rowBytes(columns), ledger: ledger, line: line)
    self.init(dtype: dtype, rows: rows, columns: columns, base: storage.base, storage: storage)
  }

  /// An f32 matrix on the heap with the given elements, row after row.
  public init(_ rows: Int, _ columns: Int, _ elements: [Float]) {
    precondition(elements.count == rows * columns, "\(rows)×\(columns) needs \(rows * columns) elements")
    self.init(zeros: rows, columns)
    elements.withUnsafeBytes { base.copyMemory(from: $0.baseAddress!, byteCount: $0.count) }
  }

  /// A matrix on the heap of any kind, from its rows' bytes one after another.
  public init(_ rows: Int, _ columns: Int, dtype: DType, bytes: [UInt8]) {
    precondition(
      bytes.count == rows * dtype.rowBytes(columns), "\(bytes.count) bytes for \(rows)×\(columns) of \(dtype.name)")
    self.init(zeros: rows, columns, dtype: dtype)
    bytes.withUnsafeBytes { base.copyMemory(from: $0.baseAddress!, byteCount: $0.count) }
  }

  /// Whether this process may look at the elements; those in a device's memory only come through `Device.read`.
  @inline(__always) public var isHostMemory: Bool { storage?.isHostMemory ?? true }

  /// Bytes of the elements, without gaps between rows.
  public var byteCount: Int { rows * dtype.rowBytes(columns) }

  /// Elements between rows, for the dense kinds.
  @inline(__always) var stride: Int { rowBytes / dtype.blockBytes * dtype.blockElements }

  @inline(__always) var floats: MutableFloatPointer {
    assert(dtype == .f32)
    return base.assumingMemoryBound(to: Float.self)
  }

  @inline(__always) var constFloats: FloatPointer { FloatPointer(floats) }

  /// Some of the rows, as a view.
  public func rows(_ range: Range<Int>) -> Tensor {
    precondition(range.lowerBound >= 0 && range.upperBound <= rows, "rows \(range) of \(rows)")
    return Tensor(
      dtype: dtype, rows: range.count, columns: columns, rowBytes: rowBytes,
      base: base + range.lowerBound * rowBytes, storage: storage)
  }

  /// Some of the columns, as a view; the range must fall on block boundaries.
  public func columns(_ range: Range<Int>) -> Tensor {
    precondition(range.lowerBound >= 0 && range.upperBound <= columns, "columns \(range) of \(columns)")
    precondition(range.lowerBound % dtype.blockElements == 0, "column \(range.lowerBound) starts inside a block")
    return Tensor(
      dtype: dtype, rows: rows, columns: range.count, rowBytes: rowBytes,
      base: base + dtype.rowBytes(range.lowerBound), storage: storage)
  }

  /// The same elements as another matrix; the rows must be without gaps.
  public func reshaped(_ rows: Int, _ columns: Int) -> Tensor {
    precondition(rows * columns == self.rows * self.columns, "\(self.rows)×\(self.columns) is not \(rows)×\(columns)")
    precondition(self.rows <= 1 || rowBytes == dtype.rowBytes(self.columns), "rows have gaps")
    return Tensor(dtype: dtype, rows: rows, columns: columns, base: base, storage: storage)
  }

  /// Calls `body` with the f32 elements of one row, which live as long as the call.
  public func withRow<R>(_ row: Int, _ body: (UnsafeMutableBufferPointer<Float>) throws -> R) rethrows -> R {
    precondition(dtype == .f32 && row >= 0 && row < rows, "row \(row) of an f32 matrix of \(rows)")
    precondition(isHostMemory, "the matrix is in a device's memory: use Device.read")
    defer { withExtendedLifetime(storage) {} }
    return try body(
      UnsafeMutableBufferPointer(
        start: (base + row * rowBytes).assumingMemoryBound(to: Float.self), count: columns))
  }

  /// A copy of the elements, row after row, of a dense kind or a quantised one (dequantised).
  public func floatArray() -> [Float] {
    precondition(isHostMemory, "the matrix is in a device's memory: use Device.read")
    let kernels = Kernels.current
    return [Float](unsafeUninitializedCapacity: rows * columns) { buffer, count in
      for row in 0..<rows {
        kernels.dequantize(dtype, base + row * rowBytes, columns, buffer.baseAddress! + row * columns)
      }
      count = rows * columns
    }
  }
}
