import ApusKernels
import Testing

/// Numbers for property tests: SplitMix64, so that the printed seed brings a failure back.
struct TestRandom: RandomNumberGenerator {
  private var state: UInt64
  init(seed: UInt64) { state = seed }

  mutating func next() -> UInt64 {
    state &+= 0x9e37_79b9_7f4a_7c15
    var z = state
    z = (z ^ (z >> 30)) &* 0xbf58_476d_1ce4_e5b9
    z = (z ^ (z >> 27)) &* 0x94d0_49bb_1331_11eb
    return z ^ (z >> 31)
  }

  mutating func floats(_ count: Int, in range: ClosedRange<Float> = -1...1) -> [Float] {
    let width = range.upperBound - range.lowerBound
    return (0..<count).map { _ in range.lowerBound + Float(next() >> 40) * 0x1p-24 * width }
  }
}

/// Scratch memory of one thread, as the kernels want it.
final class TestScratch {
  let base = UnsafeMutableRawPointer.allocate(byteCount: KernelTable.scratchBytes, alignment: 64)
  deinit { base.deallocate() }
}

/// Distance of `value` from `expected` in units in the last place of f32 at `expected` (of at least `floor`).
func ulps(_ value: Float, _ expected: Double, floor: Double = 0) -> Double {
  let nearest = Float(expected)
  if value == nearest || (value.isNaN && expected.isNaN) { return 0 }
  guard value.isFinite, nearest.isFinite else { return .infinity }
  let unit = Double(max(nearest.magnitude, Float(floor), .leastNormalMagnitude).ulp)
  return abs(Double(value) - expected) / unit
}

/// The kernels of every level that this processor runs.
let testTables = Kernels.available.map { Kernels.table($0)! }
