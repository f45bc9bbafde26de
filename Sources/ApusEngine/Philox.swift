/// The counter-based generator Philox4x32-10: random bits as a pure function of a key and a counter.
///
/// A sampler that draws `bits(counter: position)` needs no generator state, so that the same seed gives the same text
/// whatever else runs in the batch, in which order, or after how many restarts.
///
/// Source: Salmon, Moraes, Dror, Shaw, "Parallel random numbers: as easy as 1, 2, 3" (SC 2011), section 3.3.
public struct Philox: Sendable, Equatable {
  /// The 64-bit key; the low word is the first key word.
  public var key: UInt64

  public init(key: UInt64) { self.key = key }

  /// Ten rounds over a counter of four words.
  public func block(_ counter: SIMD4<UInt32>) -> SIMD4<UInt32> {
    var c = counter
    var k0 = UInt32(truncatingIfNeeded: key)
    var k1 = UInt32(truncatingIfNeeded: key >> 32)
    for _ in 0..<10 {
      let p0 = Self.multiplier0.multipliedFullWidth(by: c[0])
      let p1 = Self.multiplier1.multipliedFullWidth(by: c[2])
      c = SIMD4(p1.high ^ c[1] ^ k0, p1.low, p0.high ^ c[3] ^ k1, p0.low)
      k0 &+= Self.weyl0
      k1 &+= Self.weyl1
    }
    return c
  }

  /// A number in [0, 1) with 53 random bits, for one position of one stream.
  public func uniform(position: UInt64, stream: UInt32 = 0) -> Double {
    let low = UInt32(truncatingIfNeeded: position)
    let high = UInt32(truncatingIfNeeded: position >> 32)
    let b = block(SIMD4(low, high, stream, 0))
    let bits = UInt64(b[1]) << 32 | UInt64(b[0])
    return Double(bits >> 11) * 0x1p-53
  }

  // The constants of the paper: two odd multipliers, and the Weyl increments ⌊2³²·(φ − 1)⌋ and ⌊2³²·(√3 − 1)⌋.
  private static let multiplier0: UInt32 = 0xD251_1F53
  private static let multiplier1: UInt32 = 0xCD9E_8D57
  private static let weyl0: UInt32 = 0x9E37_79B9
  private static let weyl1: UInt32 = 0xBB67_AE85
}
