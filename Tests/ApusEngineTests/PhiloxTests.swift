import Testing

@testable import ApusEngine

@Suite struct PhiloxTests {
  /// The known-answer vectors that the authors ship with Random123 (kat_vectors, philox4x32 10).
  @Test func givesTheAuthorsKnownAnswers() {
    let ones = UInt32.max
    #expect(Philox(key: 0).block(.zero) == SIMD4(0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8))
    #expect(
      Philox(key: .max).block(SIMD4(ones, ones, ones, ones))
        == SIMD4(0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd))
    #expect(
      Philox(key: 0x299f_31d0_a409_3822).block(SIMD4(0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344))
        == SIMD4(0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1))
  }

  @Test func uniformNumbersFillTheUnitIntervalEvenly() {
    let random = Philox(key: 42)
    var bins = [Int](repeating: 0, count: 64)
    let count = 64_000
    for i in 0..<count {
      let u = random.uniform(position: UInt64(i))
      bins[Int(u * 64)] += 1
    }
    let expected = Double(count) / 64
    let statistic = bins.reduce(0.0) { $0 + (Double($1) - expected) * (Double($1) - expected) / expected }
    #expect(chiSquareTail(statistic, degrees: 63) > 1e-4)
  }

  @Test func streamsAndKeysDiffer() {
    #expect(Philox(key: 1).uniform(position: 5) != Philox(key: 2).uniform(position: 5))
    #expect(Philox(key: 1).uniform(position: 5) != Philox(key: 1).uniform(position: 5, stream: 1))
    #expect(Philox(key: 1).uniform(position: 5) != Philox(key: 1).uniform(position: 1 << 32 + 5))
  }
}
