/// A set of Unicode scalars, as sorted, disjoint ranges without surrogates.
struct ScalarSet: Sendable, Hashable {
  private(set) var ranges: [ClosedRange<UInt32>]

  static let all = ScalarSet([0...0x10FFFF])
  static let nonASCII = ScalarSet([0x80...0x10FFFF])
  static let empty = ScalarSet([])

  /// Any ranges, in any order; surrogates are left out.
  init(_ parts: [ClosedRange<UInt32>]) {
    var cut: [ClosedRange<UInt32>] = []
    for part in parts {
      if part.lowerBound < 0xD800 { cut.append(part.lowerBound...min(part.upperBound, 0xD7FF)) }
      if part.upperBound > 0xDFFF { cut.append(max(part.lowerBound, 0xE000)...part.upperBound) }
    }
    cut.sort { $0.lowerBound < $1.lowerBound }
    ranges = []
    for part in cut {
      if let last = ranges.last, part.lowerBound <= last.upperBound + 1 {
        ranges[ranges.count - 1] = last.lowerBound...max(last.upperBound, part.upperBound)
      } else {
        ranges.append(part)
      }
    }
  }

  init(_ scalar: Unicode.Scalar) { self.init([scalar.value...scalar.value]) }

  init(_ text: String) { self.init(text.unicodeScalars.map { $0.value...$0.value }) }

  func union(_ other: ScalarSet) -> ScalarSet { ScalarSet(ranges + other.ranges) }

  var inverted: ScalarSet {
    var gaps: [ClosedRange<UInt32>] = []
    var next: UInt32 = 0
    for range in ranges {
      if range.lowerBound > next { gaps.append(next...(range.lowerBound - 1)) }
      next = range.upperBound + 1
    }
    if next <= 0x10FFFF { gaps.append(next...0x10FFFF) }
    return ScalarSet(gaps)
  }

  func subtracting(_ other: ScalarSet) -> ScalarSet { inverted.union(other).inverted }

  func contains(_ scalar: UInt32) -> Bool { ranges.contains { $0.contains(scalar) } }

  var isEmpty: Bool { ranges.isEmpty }

  /// The set as alternatives of byte ranges, one range a byte of UTF-8 (Thompson's construction for UTF-8).
  var utf8Sequences: [[ClosedRange<UInt8>]] {
    var output: [[ClosedRange<UInt8>]] = []
    for range in ranges {
      var start = range.lowerBound
      for border: UInt32 in [0x7F, 0x7FF, 0xFFFF, 0x10FFFF] where start <= border {
        if range.upperBound <= border {
          Self.split(start, range.upperBound, &output)
          break
        }
        Self.split(start, border, &output)
        start = border + 1
      }
    }
    return output
  }

  /// Cuts a range of scalars of one encoded length until every byte position is an independent range.
  private static func split(_ low: UInt32, _ high: UInt32, _ output: inout [[ClosedRange<UInt8>]]) {
    let first = UTF8Text.encode([low])
    let last = UTF8Text.encode([high])
    for tail in 1..<max(first.count, 1) {
      let mask: UInt32 = (1 << (6 * UInt32(tail))) - 1
      guard low & ~mask != high & ~mask else { continue }
      if low & mask != 0 {
        split(low, low | mask, &output)
        split((low | mask) + 1, high, &output)
        return
      }
      if high & mask != mask {
        split(low, (high & ~mask) - 1, &output)
        split(high & ~mask, high, &output)
        return
      }
    }
    output.append(zip(first, last).map { $0...$1 })
  }
}
