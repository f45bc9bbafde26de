import Testing

@testable import ApusCollections

@Suite struct TokenBucketTests {
  @Test func `a second's queries come at once, the next ones at the rate`() {
    var bucket = TokenBucket(rate: 4, at: 10)
    for _ in 0..<4 { #expect(bucket.take(1, rate: 4, at: 10) == nil) }
    #expect(bucket.take(1, rate: 4, at: 10) == 0.25)
    #expect(bucket.take(1, rate: 4, at: 10.2) != nil)
    #expect(bucket.take(1, rate: 4, at: 10.25) == nil)
    // What was not used is kept for a second at most.
    #expect((0..<10).count { _ in bucket.take(1, rate: 4, at: 1000) == nil } == 4)
    // Less than one a second.
    var slow = TokenBucket(rate: 0.1, at: 0)
    #expect(slow.take(1, rate: 0.1, at: 0) == nil && slow.take(1, rate: 0.1, at: 0) == 10)
    #expect(slow.take(1, rate: 0.1, at: 10) == nil)
    // More than can be kept: owed.
    var owing = TokenBucket(rate: 2, at: 0)
    #expect(owing.take(10, rate: 2, at: 0) == nil)
    #expect(owing.take(1, rate: 2, at: 0) == 4.5 && owing.take(1, rate: 2, at: 4.5) == nil)
  }

  @Test func `whatever comes and when, no window has more than its share, and who waits is let in`() {
    let seed = UInt64.random(in: 0...UInt64.max)
    var random = SeededRandom(seed: seed)
    for _ in 0..<50 {
      let rate = Double.random(in: 0.05...50, using: &random)
      let batch = Int.random(in: 1...8, using: &random)
      var bucket = TokenBucket(rate: rate, at: 0)
      var (now, admitted) = (0.0, [(time: Double, count: Int)]())
      for _ in 0..<300 {
        now += Double.random(in: 0...3, using: &random) / rate
        let count = Int.random(in: 1...batch, using: &random)
        if let wait = bucket.take(count, rate: rate, at: now) {
          #expect(wait > 0, "seed \(seed)")
          var early = bucket
          #expect(early.take(count, rate: rate, at: now + wait * 0.99) != nil, "seed \(seed)")
          now += wait
          #expect(bucket.take(count, rate: rate, at: now) == nil, "seed \(seed)")
        }
        admitted.append((now, count))
      }
      // The burst, and what may be owed.
      let allowance = max(rate, 1) + Double(batch - 1) + 1e-6
      for first in admitted.indices {
        var sum = 0
        for last in first..<admitted.count {
          sum += admitted[last].count
          #expect(
            Double(sum) <= rate * (admitted[last].time - admitted[first].time) + allowance, "seed \(seed)")
        }
      }
    }
  }

  @Test func `a meter keeps tenants apart, and forgets who has not asked for long`() {
    let meter = QueryMeter()
    #expect(meter.take(1, of: "a", rate: 1, at: 0) == nil && meter.take(2, of: "a", rate: 1, at: 0) == 1)
    #expect(meter.take(1, of: "b", rate: 1, at: 0) == nil)
    #expect(meter.refused(of: "a") == 2 && meter.refused(of: "b") == 0)
    for i in 0..<5000 { #expect(meter.take(1, of: "name \(i)", rate: 1, at: 100 + Double(i)) == nil) }
    #expect(meter.accountCount < 2048)
    // Whoever has asked just now is remembered.
    #expect(meter.take(1, of: "name 4999", rate: 1, at: 100 + 4999) == 1)
  }
}
