/// Rows of one length that lie in chunks of `1 << shift` rows, so that a store can grow without moving one.
///
/// Row `r` starts at `chunks[r >> shift] + (r & (1 << shift − 1)) · stride`.
public struct RowChunks {
  public var chunks: UnsafePointer<UnsafeMutableRawPointer?>
  public var shift: Int
  /// Bytes between rows.
  public var stride: Int

  @inlinable public init(chunks: UnsafePointer<UnsafeMutableRawPointer?>, shift: Int, stride: Int) {
    self.chunks = chunks
    self.shift = shift
    self.stride = stride
  }

  @inlinable public func row(_ r: UInt32) -> UnsafeRawPointer {
    let chunk = chunks[Int(r) >> shift].unsafelyUnwrapped
    return UnsafeRawPointer(chunk + (Int(r) & (1 << shift - 1)) * stride)
  }
}

/// Where the int8 form of a vector lies: `[scale f32][offset f32][codes int8]`, the codes padded with zeros to a multiple
/// of 32. Element = scale · code, codes in −127…127.
public enum CodeLayout {
  public static let codesOffset = 8

  /// Codes of a row with their padding.
  @inlinable public static func codes(dim: Int) -> Int { (dim + 31) & ~31 }
  /// Bytes of a row.
  @inlinable public static func bytes(dim: Int) -> Int { codesOffset + codes(dim: dim) }
}

/// A query against code rows: its own codes and what turns their products into scores.
public struct CodeQuery {
  /// `[codes]` int8.
  public var codes: UnsafePointer<Int8>
  /// A multiple of 32.
  public var count: Int
  /// The sum of the query's codes.
  public var sum: Int32
  public var factor: Float
  /// 1 where the rows' offsets count, 0 where they do not.
  public var offsetFactor: Float

  @inlinable public init(codes: UnsafePointer<Int8>, count: Int, sum: Int32, factor: Float, offsetFactor: Float) {
    self.codes = codes
    self.count = count
    self.sum = sum
    self.factor = factor
    self.offsetFactor = offsetFactor
  }
}
