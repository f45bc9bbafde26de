import ApusVectors
import Foundation

/// A seeded source of vectors, ids and choices; tests print the seed.
struct TestRandom: RandomNumberGenerator {
  private var state: UInt64

  init(seed: UInt64) { state = seed }

  mutating func next() -> UInt64 {
    state &+= 0x9e37_79b9_7f4a_7c15
    var z = state
    z = (z ^ z >> 30) &* 0xbf58_476d_1ce4_e5b9
    z = (z ^ z >> 27) &* 0x94d0_49bb_1331_11eb
    return z ^ z >> 31
  }

  mutating func below(_ bound: Int) -> Int { Int(next() % UInt64(bound)) }

  /// Near one of a few centres, so that trees have something to cluster.
  mutating func vector(_ dim: Int) -> [Float] {
    let centre = below(12)
    return (0..<dim).map { j in
      Float((centre * 7 + j * j * 13) % 11) / 5 - 1 + Float(next() >> 40) / Float(1 << 24) * 0.6 - 0.3
    }
  }
}

/// The distance as the obvious loop computes it.
func slowDistance(_ a: [Float], _ b: [Float], _ metric: VectorMetric) -> Double {
  func dot(_ a: [Float], _ b: [Float]) -> Double { zip(a, b).reduce(0) { $0 + Double($1.0) * Double($1.1) } }
  switch metric {
  case .l2: return zip(a, b).reduce(0) { $0 + (Double($1.0) - Double($1.1)) * (Double($1.0) - Double($1.1)) }
  case .ip: return -dot(a, b)
  case .cosine: return 1 - dot(a, b) / (dot(a, a) * dot(b, b)).squareRoot()
  }
}

let runsLongTests = ProcessInfo.processInfo.environment["APUS_LONG_TESTS"] != nil
