#if canImport(Glibc)
  import Glibc
#elseif canImport(Musl)
  import Musl
#else
  import Darwin
#endif

/// Random numbers by seed: the same load from the same seed, on every machine.
///
/// Source: Steele, Lea and Flood, "Fast splittable pseudorandom number generators" (OOPSLA 2014).
struct SplitMix64: RandomNumberGenerator {
  private var state: UInt64

  init(seed: UInt64) { state = seed }

  /// A stream of its own for each item, so that item 7 is the same whether or not items 0 to 6 were made.
  init(seed: UInt64, item: Int) {
    var mixer = SplitMix64(seed: seed)
    self.init(seed: mixer.next() ^ (UInt64(bitPattern: Int64(item)) &* 0xD1B5_4A32_D192_ED03))
  }

  mutating func next() -> UInt64 {
    state &+= 0x9E37_79B9_7F4A_7C15
    var z = state
    z = (z ^ (z >> 30)) &* 0xBF58_476D_1CE4_E5B9
    z = (z ^ (z >> 27)) &* 0x94D0_49BB_1331_11EB
    return z ^ (z >> 31)
  }

  /// Uniform in (0, 1]: its logarithm is finite.
  mutating func nextUnit() -> Double { Double((next() >> 11) + 1) * 0x1p-53 }

  /// Exponential with mean 1.
  mutating func nextExponential() -> Double { -log(nextUnit()) }

  /// Normal with mean 0 and deviation 1 (Box and Muller 1958).
  mutating func nextNormal() -> Double { (-2 * log(nextUnit())).squareRoot() * cos(2 * .pi * nextUnit()) }
}
