/// Floats as int8 codes, code = x · 127/greatest rounded to the nearest, ties to even: the same on every machine.
enum Int8Codes {
  /// Adding this to a number below 2²² in magnitude leaves the nearest integer in its low bits: what `rounded` does, without
  /// a call for each number on processors that lack an instruction for it.
  private static let rounding: Float = 0x1.8p23

  /// Writes codes of the `count` (a multiple of 16) numbers `x`. Returns the greatest magnitude among these, and the sum of
  /// the codes and of their squares.
  static func encode(
    _ x: UnsafePointer<Float>, count: Int, to codes: UnsafeMutablePointer<Int8>
  ) -> (greatest: Float, sum: Int32, squares: Int32) {
    var magnitudes = SIMD16<Float>()
    for i in stride(from: 0, to: count, by: 16) { magnitudes = SIMD16(x + i).magnitudes.greater(magnitudes) }
    let greatest = magnitudes.max()
    let inverse = 127 / greatest
    // Numbers so small that this is infinite keep their sign alone.
    guard inverse.isFinite else { return encodeTiny(x, count: count, greatest: greatest, to: codes) }
    var (sums, squares) = (SIMD16<Int32>(), SIMD16<Int32>())
    for i in stride(from: 0, to: count, by: 16) {
      let moved = SIMD16(x + i) * inverse + rounding
      let code = unsafeBitCast(moved, to: SIMD16<Int32>.self) &- Int32(bitPattern: rounding.bitPattern)
      sums &+= code
      squares &+= code &* code
      UnsafeMutableRawPointer(codes + i).storeBytes(of: SIMD16<Int8>(truncatingIfNeeded: code), as: SIMD16<Int8>.self)
    }
    return (greatest, sums.wrappedSum(), squares.wrappedSum())
  }

  private static func encodeTiny(
    _ x: UnsafePointer<Float>, count: Int, greatest: Float, to codes: UnsafeMutablePointer<Int8>
  ) -> (greatest: Float, sum: Int32, squares: Int32) {
    var (sum, squares): (Int32, Int32) = (0, 0)
    for i in 0..<count {
      codes[i] = x[i] > 0 ? 127 : x[i] < 0 ? -127 : 0
      sum += Int32(codes[i])
      squares &+= Int32(codes[i]) * Int32(codes[i])
    }
    return (greatest, sum, squares)
  }
}

extension SIMD16<Float> {
  @inline(__always) init(_ x: UnsafePointer<Float>) { self = UnsafeRawPointer(x).loadUnaligned(as: Self.self) }

  @inline(__always) func store(_ x: UnsafeMutablePointer<Float>) {
    UnsafeMutableRawPointer(x).storeBytes(of: self, as: Self.self)
  }

  @inline(__always) var magnitudes: Self { replacing(with: -self, where: self .< 0) }

  /// Lane by lane; no lane is NaN.
  @inline(__always) func greater(_ other: Self) -> Self { replacing(with: other, where: other .> self) }
}
