/// Undoes a JSON string's escapes byte by byte, from after its opening quote. Half a surrogate pair becomes U+FFFD.
struct JSONTextDecoder: Sendable {
  enum Step: Sendable { case more, end, invalid }

  private enum State: Sendable, Equatable {
    case text, escape
    /// In `\u`, with this many digits to come.
    case hex(Int)
  }

  private var state = State.text
  private var unit: UInt16 = 0
  /// The first half of a surrogate pair, whose other half must be the next escape.
  private var high: UInt16?
  /// Let control characters pass, which JSON wants escaped.
  private let allowsControls: Bool

  init(allowsControls: Bool = false) { self.allowsControls = allowsControls }

  /// Nothing is half read.
  var isIdle: Bool { state == .text && high == nil }

  /// Takes the next byte and appends what became known to `output`; of an invalid byte it appends nothing.
  mutating func take(_ byte: UInt8, into output: inout [UInt8]) -> Step {
    switch state {
    case .text:
      if byte == UInt8(ascii: "\\") {
        state = .escape
        return .more
      }
      if byte < 0x20 && !allowsControls { return .invalid }
      flushHigh(into: &output)
      if byte == UInt8(ascii: "\"") { return .end }
      output.append(byte)
    case .escape:
      if byte == UInt8(ascii: "u") {
        unit = 0
        state = .hex(4)
        return .more
      }
      guard let plain = Self.plain(byte) else { return .invalid }
      flushHigh(into: &output)
      output.append(plain)
      state = .text
    case .hex(let left):
      guard let value = byte.hexValue else { return .invalid }
      unit = unit << 4 | value
      state = left > 1 ? .hex(left - 1) : .text
      if left == 1 { endUnit(into: &output) }
    }
    return .more
  }

  private static func plain(_ byte: UInt8) -> UInt8? {
    switch byte {
    case UInt8(ascii: "n"): 0x0A
    case UInt8(ascii: "t"): 0x09
    case UInt8(ascii: "r"): 0x0D
    case UInt8(ascii: "b"): 0x08
    case UInt8(ascii: "f"): 0x0C
    case UInt8(ascii: "\""), UInt8(ascii: "\\"), UInt8(ascii: "/"): byte
    default: nil
    }
  }

  private mutating func flushHigh(into output: inout [UInt8]) {
    if high != nil { Self.append(0xFFFD, to: &output) }
    high = nil
  }

  private mutating func endUnit(into output: inout [UInt8]) {
    if let first = high, unit & 0xFC00 == 0xDC00 {
      high = nil
      Self.append(0x10000 + UInt32(first & 0x3FF) << 10 + UInt32(unit & 0x3FF), to: &output)
      return
    }
    flushHigh(into: &output)
    if unit & 0xFC00 == 0xD800 { high = unit } else { Self.append(UInt32(unit), to: &output) }
  }

  private static func append(_ scalar: UInt32, to output: inout [UInt8]) {
    output += Array(String(Character(Unicode.Scalar(scalar) ?? "\u{FFFD}")).utf8)
  }
}
