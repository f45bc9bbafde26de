import KernelInterface

/// A tensor that goes into a new model file: copied from another, or made.
public struct NewTensor: Sendable {
  public enum Content: Sendable {
    case copied(RawTensor)
    /// Rows of `dtype`, one after another.
    case made([UInt8])
  }

  public var name: String
  /// Row-major.
  public var shape: [Int]
  public var dtype: DType
  public var content: Content

  public init(name: String, shape: [Int], dtype: DType, content: Content) {
    self.name = name
    self.shape = shape
    self.dtype = dtype
    self.content = content
  }

  /// The same tensor in another file.
  public init(copying raw: RawTensor) {
    self.init(name: raw.name, shape: raw.shape, dtype: raw.dtype, content: .copied(raw))
  }

  public var byteCount: Int {
    switch content {
    case .copied(let raw): raw.byteCount
    case .made(let bytes): bytes.count
    }
  }

  func withBytes<R>(_ body: (UnsafeRawBufferPointer) throws -> R) rethrows -> R {
    switch content {
    case .copied(let raw): try body(raw.bytes)
    case .made(let bytes): try bytes.withUnsafeBytes(body)
    }
  }
}
