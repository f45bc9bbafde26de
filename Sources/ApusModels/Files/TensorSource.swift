import KernelInterface

/// A place that tensors are read from by name: a GGUF file, a safetensors file, a folder of them.
public protocol TensorSource: Sendable {
  /// The names of all tensors, in the order of the file.
  var tensorNames: [String] { get }

  /// The tensor called `name`. Complexity: O(1); no bytes are copied or read.
  ///
  /// Throws `ModelFileError`: `missing` when there is none, `unsupported` when Apus doesn't read its type.
  func tensor(_ name: String) throws(ModelFileError) -> RawTensor

  /// True when a tensor called `name` exists, whatever its type. Complexity: O(1).
  func contains(_ name: String) -> Bool
}

/// A tensor where it lies in a mapped file.
///
/// `shape` is row-major, `[rows, columns]`: the last dimension is contiguous (GGUF's `ne` reversed). `bytes` holds
/// `shape` elements of `dtype`, rows of whole blocks, with no gap between rows.
public struct RawTensor: Sendable {
  public let name: String
  public let shape: [Int]
  public let dtype: DType
  /// Offset of the first byte in `owner`.
  public let offset: Int
  public let byteCount: Int
  /// The file that holds the bytes; keep it (or this value) alive while `bytes` is used.
  public let owner: MappedFile

  /// The elements, `byteCount` bytes inside the mapped file. Valid while `owner` lives.
  ///
  /// Aligned as the file aligns it (32 bytes in GGUF by default; safetensors promises 8 at most).
  public var bytes: UnsafeRawBufferPointer {
    UnsafeRawBufferPointer(rebasing: owner.bytes[offset..<offset + byteCount])
  }

  /// The number of elements, the product of `shape`.
  public var elementCount: Int { shape.reduce(1, *) }
}

/// Bytes of `shape` elements of `dtype`, or nil when the product overflows or the last dimension isn't whole blocks.
func checkedByteCount(shape: [Int], dtype: DType) -> Int? {
  guard let columns = shape.last else { return dtype.blockElements == 1 ? dtype.blockBytes : nil }
  guard columns >= 0, columns % dtype.blockElements == 0 else { return nil }
  return checkedProduct(shape.dropLast() + [columns / dtype.blockElements, dtype.blockBytes])
}

/// The product of non-negative factors, or nil when it (or any partial product) overflows.
///
/// Partial products count because a zero must not hide an overflow from code that multiplies in another order.
func checkedProduct(_ factors: some Sequence<Int>) -> Int? {
  var product = 1
  var hasZero = false
  for factor in factors {
    if factor < 0 { return nil }
    if factor == 0 {
      hasZero = true
      continue
    }
    let (next, overflow) = product.multipliedReportingOverflow(by: factor)
    if overflow { return nil }
    product = next
  }
  return hasZero ? 0 : product
}
