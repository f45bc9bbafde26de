import Foundation

@testable import ApusEngine

/// The filters written as their definitions say, over full sorted arrays in f64: the oracle of ``Sampler``.
enum SlowSampling {
  /// The probabilities that remain, by token; zero for dropped tokens.
  static func distribution(_ logits: [Float], _ o: SamplingOptions) -> [Double] {
    var p = softmax(logits.map { Double($0) / o.temperature })
    if let k = o.topK { p = keep(p, Array(order(p) { -p[$0] }.prefix(k))) }
    if o.topP < 1 { p = keep(p, prefix(p, order(p) { -p[$0] }, mass: o.topP)) }
    if o.minP > 0 {
      let least = o.minP * p.max()!
      p = keep(p, p.indices.filter { p[$0] >= least })
    }
    if o.typicalP < 1 {
      let entropy = -p.reduce(0) { $1 > 0 ? $0 + $1 * log($1) : $0 }
      p = keep(p, prefix(p, order(p) { p[$0] > 0 ? abs(-log(p[$0]) - entropy) : .infinity }, mass: o.typicalP))
    }
    return p
  }

  static func softmax(_ x: [Double]) -> [Double] {
    let m = x.max()!
    let e = x.map { exp($0 - m) }
    let z = e.reduce(0, +)
    return e.map { $0 / z }
  }

  private static func order(_ p: [Double], by key: (Int) -> Double) -> [Int] {
    p.indices.map { ($0, key($0)) }.sorted { ($0.1, $0.0) < ($1.1, $1.0) }.map(\.0)
  }

  private static func prefix(_ p: [Double], _ order: [Int], mass: Double) -> [Int] {
    var kept: [Int] = []
    var sum = 0.0
    for i in order where kept.isEmpty || sum < mass {
      kept.append(i)
      sum += p[i]
    }
    return kept
  }

  private static func keep(_ p: [Double], _ kept: [Int]) -> [Double] {
    var q = [Double](repeating: 0, count: p.count)
    for i in kept { q[i] = p[i] }
    let z = q.reduce(0, +)
    return q.map { $0 / z }
  }
}

/// Random numbers for tests, from the generator under test's own key space with a printed seed.
struct TestRandom: RandomNumberGenerator {
  private var state: UInt64

  init(seed: UInt64) { state = seed }

  /// SplitMix64 (Steele, Lea, Flood 2014).
  mutating func next() -> UInt64 {
    state &+= 0x9E37_79B9_7F4A_7C15
    var z = state
    z = (z ^ (z >> 30)) &* 0xBF58_476D_1CE4_E5B9
    z = (z ^ (z >> 27)) &* 0x94D0_49BB_1331_11EB
    return z ^ (z >> 31)
  }

  /// Approximately normal logits.
  mutating func logits(_ count: Int, spread: Float) -> [Float] {
    (0..<count).map { _ in
      (0..<4).reduce(Float(0)) { sum, _ in sum + Float.random(in: -1...1, using: &self) } * spread
    }
  }
}

/// The upper tail of the chi-square distribution by the Wilson–Hilferty normal approximation: fine above 3 degrees.
func chiSquareTail(_ statistic: Double, degrees: Int) -> Double {
  let d = Double(degrees)
  let z = (pow(statistic / d, 1 / 3.0) - (1 - 2 / (9 * d))) / (2 / (9 * d)).squareRoot()
  return 0.5 * erfc(z / 2.0.squareRoot())
}

extension Sampler {
  /// Samples from an array.
  mutating func sample(_ logits: [Float], position: Int) throws -> Int32 {
    var copy = logits
    return try copy.withUnsafeMutableBufferPointer { try sample($0, position: position) }
  }
}
