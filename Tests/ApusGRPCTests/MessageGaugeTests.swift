import NIOCore
import Testing

@testable import ApusGRPC

@Suite struct MessageGaugeTests {
  private static func framed(_ size: Int, using random: inout some RandomNumberGenerator) -> ByteBuffer {
    var frame = ByteBuffer()
    frame.writeInteger(UInt8(0))
    frame.writeInteger(UInt32(size))
    for _ in 0..<size { frame.writeInteger(UInt8.random(in: 0 ... .max, using: &random)) }
    return frame
  }

  @Test func `however a body is cut, all passes up to the first message that is too large`() {
    let seed = UInt64.random(in: 0...UInt64.max)
    var random = SeededRandom(state: seed)
    for _ in 0..<2000 {
      let limit = Int.random(in: 0...20, using: &random)
      var (body, allowed, tooLarge) = (ByteBuffer(), ByteBuffer(), Int?.none)
      for _ in 0..<Int.random(in: 0...6, using: &random) {
        let size = Int.random(in: 0...max(1, limit + (Bool.random(using: &random) ? 1 : 0)), using: &random)
        var frame = Self.framed(size, using: &random)
        body.writeImmutableBuffer(frame)
        if size > limit && tooLarge == nil { tooLarge = size }
        if tooLarge == nil { allowed.writeBuffer(&frame) }
      }
      if tooLarge == nil, Bool.random(using: &random) {
        // A prefix that never ends.
        let rest = ByteBuffer(repeating: 0, count: Int.random(in: 1...4, using: &random))
        body.writeImmutableBuffer(rest)
        allowed.writeImmutableBuffer(rest)
      }
      var (gauge, passed, found) = (MessageGauge(limit: limit), ByteBuffer(), Int?.none)
      while body.readableBytes > 0, found == nil {
        let part = body.readSlice(length: Int.random(in: 1...max(1, body.readableBytes), using: &random))!
        let (bytes, size) = gauge.take(part)
        passed.writeImmutableBuffer(bytes)
        found = size
      }
      if found == nil { passed.writeImmutableBuffer(gauge.held) }
      #expect(passed == allowed && found == tooLarge, "seed \(seed)")
    }
  }

  @Test func `only a server's own marks are marks`() {
    let (mark, other) = (OversizeMark(), OversizeMark())
    for size in [0, 1, 1 << 31, Int(UInt32.max)] {
      #expect(mark.size(in: mark.message(size: size)) == size)
      #expect(other.size(in: mark.message(size: size)) == nil)
    }
    #expect(mark.message(size: 1).count == OversizeMark.bytes)
    #expect(mark.size(in: [UInt8]()) == nil && mark.size(in: Array(mark.message(size: 1).dropLast())) == nil)
  }
}
