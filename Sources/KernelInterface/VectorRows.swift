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

/// Where the one-bit form of a vector lies (RaBitQ): `[base f32][factor f32][error f32][unused f32][bits]`, rounded up to 64
/// bytes. Bit i says whether element i of the rotated, centred vector is positive.
public enum BitLayout {
  public static let bitsOffset = 16

  /// Elements after rotation.
  @inlinable public static func bits(dim: Int) -> Int { (dim + 63) & ~63 }
  /// Bytes of a row.
  @inlinable public static func bytes(dim: Int) -> Int { (bitsOffset + bits(dim: dim) / 8 + 63) & ~63 }
}

/// A query against bit rows: its rotated, centred form as int8 codes.
public struct BitQuery {
  /// `[bits]` int8.
  public var codes: UnsafePointer<Int8>
  /// A multiple of 64.
  public var count: Int
  /// The sum of the codes.
  public var sum: Int32
  /// What turns a signed sum of codes into a product.
  public var scale: Float
  /// Added to every bound.
  public var base: Float
  /// What multiplies a row's error.
  public var error: Float

  @inlinable public init(
    codes: UnsafePointer<Int8>, count: Int, sum: Int32, scale: Float, base: Float, error: Float
  ) {
    self.codes = codes
    self.count = count
    self.sum = sum
    self.scale = scale
    self.base = base
    self.error = error
  }
}
