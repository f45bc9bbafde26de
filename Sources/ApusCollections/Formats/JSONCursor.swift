/// Walks JSON text value by value and builds nothing that isn't asked for. Source: RFC 8259.
struct JSONCursor {
  struct Fault: Error {
    var at: Int
    var seen: String
    var expected: String
  }

  let bytes: [UInt8]
  private(set) var at: Int
  let end: Int

  init(_ bytes: [UInt8], _ range: Range<Int>) {
    self.bytes = bytes
    at = range.lowerBound
    end = range.upperBound
  }

  func fault(_ expected: String, seen: String? = nil, at place: Int? = nil) -> Fault {
    let byte = at < end ? bytes[at] : 0
    let next =
      at >= end ? "the end" : (0x21..<0x7F).contains(byte) ? "'\(Character(UnicodeScalar(byte)))'" : "byte \(byte)"
    return Fault(at: place ?? at, seen: seen ?? next, expected: expected)
  }

  /// The next byte that isn't white space, without taking it; 0 at the end.
  mutating func peek() -> UInt8 {
    while at < end {
      switch bytes[at] {
      case 0x20, 0x09, 0x0A, 0x0D: at += 1
      case let byte: return byte
      }
    }
    return 0
  }

  /// Takes `character` if it is next.
  mutating func take(_ character: Unicode.Scalar) -> Bool {
    guard peek() == UInt8(ascii: character), at < end else { return false }
    at += 1
    return true
  }

  mutating func takeNull() -> Bool {
    guard peek() == UInt8(ascii: "n"), bytes[at..<end].starts(with: "null".utf8) else { return false }
    at += 4
    return true
  }

  /// Calls `body` at the value of each key; `body` must take it.
  mutating func object(_ body: (inout JSONCursor, String) throws(Fault) -> Void) throws(Fault) {
    if !take("{") { throw fault("an object") }
    if take("}") { return }
    repeat {
      let key = try string()
      if !take(":") { throw fault("':'") }
      try body(&self, key)
    } while take(",")
    if !take("}") { throw fault("',' or '}'") }
  }

  /// Calls `body` at each element; `body` must take it.
  mutating func array(_ body: (inout JSONCursor) throws(Fault) -> Void) throws(Fault) {
    if !take("[") { throw fault("an array") }
    if take("]") { return }
    repeat { try body(&self) } while take(",")
    if !take("]") { throw fault("',' or ']'") }
  }

  /// Checks and passes one value.
  mutating func skip(depth: Int = 0) throws(Fault) {
    if depth > VectorFileLimits.jsonDepth { throw fault("at most \(VectorFileLimits.jsonDepth) levels of nesting") }
    switch peek() {
    case UInt8(ascii: "{"): try object { (cursor, _) throws(Fault) in try cursor.skip(depth: depth + 1) }
    case UInt8(ascii: "["): try array { (cursor) throws(Fault) in try cursor.skip(depth: depth + 1) }
    case UInt8(ascii: "\""): _ = try string()
    case UInt8(ascii: "-"), UInt8(ascii: "0")...UInt8(ascii: "9"): _ = try number()
    default:
      for word in ["true", "false", "null"] where bytes[at..<end].starts(with: word.utf8) {
        at += word.utf8.count
        return
      }
      throw fault("a value")
    }
  }

  /// The text of an object, checked and as it stands.
  mutating func objectText() throws(Fault) -> String {
    if peek() != UInt8(ascii: "{") { throw fault("an object") }
    let start = at
    try skip()
    return String(decoding: bytes[start..<at], as: UTF8.self)
  }

  // MARK: Numbers

  /// A number as written: its first 19 digits and the power of ten behind them.
  private struct Number {
    var start: Int
    var isNegative = false
    var isInteger = true
    var digits: UInt64 = 0
    var exponent = 0

    mutating func append(_ digit: UInt64, isFraction: Bool) {
      if digits < 1_000_000_000_000_000_000 {
        digits = digits * 10 + digit
        if isFraction { exponent -= 1 }
      } else if !isFraction {
        exponent += 1
      }
    }
  }

  private mutating func number() throws(Fault) -> Number {
    _ = peek()
    var number = Number(start: at)
    number.isNegative = take("-")
    let first = at
    digits { number.append($0, isFraction: false) }
    guard at > first, at == first + 1 || bytes[first] != UInt8(ascii: "0") else { throw fault("a number") }
    if at < end, bytes[at] == UInt8(ascii: ".") {
      at += 1
      number.isInteger = false
      let start = at
      digits { number.append($0, isFraction: true) }
      if at == start { throw fault("a digit") }
    }
    if at < end, bytes[at] | 0x20 == UInt8(ascii: "e") {
      at += 1
      number.isInteger = false
      let isNegative = at < end && bytes[at] == UInt8(ascii: "-")
      if at < end, isNegative || bytes[at] == UInt8(ascii: "+") { at += 1 }
      let start = at
      var power = 0
      // Beyond any float; more digits change nothing.
      digits { power = min(power * 10 + Int($0), 1_000_000) }
      if at == start { throw fault("a digit") }
      number.exponent += isNegative ? -power : power
    }
    return number
  }

  @inline(__always)
  private mutating func digits(_ body: (UInt64) -> Void) {
    while at < end {
      let digit = bytes[at] &- 0x30
      if digit > 9 { return }
      body(UInt64(digit))
      at += 1
    }
  }

  mutating func integer() throws(Fault) -> Int64 {
    let number = try number()
    let text = String(decoding: bytes[number.start..<at], as: UTF8.self)
    guard number.isInteger, let value = Int64(text) else {
      throw fault("an integer of 64 bits", seen: VectorFileError.printable(text), at: number.start)
    }
    return value
  }

  /// The nearest float.
  ///
  /// Powers of ten up to 10^22 are exact doubles, so the quick way rounds twice, by 2^-53 each, and drops digits from the
  /// 20th on: the double is off by less than 3 units in its last place. Rounding it to float is then right unless it lies
  /// that near to the middle between two floats; the C library decides that case, and those outside of the normal range.
  mutating func float() throws(Fault) -> Float {
    let number = try number()
    if abs(number.exponent) <= 22 {
      let power = Self.powersOfTen[abs(number.exponent)]
      let value = number.exponent < 0 ? Double(number.digits) / power : Double(number.digits) * power
      let fromMiddle = Int(value.bitPattern & 0x1FFF_FFFF) - 0x1000_0000
      if value == 0 || (0x1p-126..<0x1p127).contains(value) && abs(fromMiddle) > 4 {
        return number.isNegative ? -Float(value) : Float(value)
      }
    }
    let text = String(decoding: bytes[number.start..<at], as: UTF8.self)
    guard let value = Float(text), value.isFinite else {
      throw fault("a number that a float can hold", seen: VectorFileError.printable(text), at: number.start)
    }
    return value
  }

  private static let powersOfTen: [Double] = (0...22).map { Double("1e\($0)")! }

  // MARK: Strings

  mutating func string() throws(Fault) -> String {
    if !take("\"") { throw fault("a string") }
    let start = at
    while at < end, bytes[at] != UInt8(ascii: "\""), bytes[at] != UInt8(ascii: "\\"), bytes[at] >= 0x20 { at += 1 }
    var text: String?
    if at < end, bytes[at] == UInt8(ascii: "\"") {
      text = String(validating: bytes[start..<at], as: UTF8.self)
    } else {
      var units = Array(bytes[start..<at])
      while at < end, bytes[at] != UInt8(ascii: "\"") {
        if bytes[at] < 0x20 { throw fault("no control character in a string") }
        if bytes[at] == UInt8(ascii: "\\") {
          units += try escape()
        } else {
          units.append(bytes[at])
          at += 1
        }
      }
      text = String(validating: units, as: UTF8.self)
    }
    if !take("\"") { throw fault("'\"'") }
    guard let text else { throw fault("UTF-8", seen: "a string of other bytes", at: start) }
    return text
  }

  private static let escapes: [UInt8: UInt8] = [
    0x22: 0x22, 0x5C: 0x5C, 0x2F: 0x2F, 0x62: 0x08, 0x66: 0x0C, 0x6E: 0x0A, 0x72: 0x0D, 0x74: 0x09,
  ]

  private mutating func escape() throws(Fault) -> [UInt8] {
    at += 1
    guard at < end, let byte = Self.escapes[bytes[at]] ?? (bytes[at] == UInt8(ascii: "u") ? 0 : nil) else {
      throw fault("an escape such as \\n")
    }
    at += 1
    if byte != 0 { return [byte] }
    let start = at
    var scalar = try hexadecimal()
    if scalar >> 10 == 0x36, at + 1 < end, bytes[at] == UInt8(ascii: "\\"), bytes[at + 1] == UInt8(ascii: "u") {
      at += 2
      let low = try hexadecimal()
      scalar = low >> 10 == 0x37 ? 0x10000 + (scalar & 0x3FF) << 10 + (low & 0x3FF) : scalar
    }
    guard let character = Unicode.Scalar(scalar) else {
      throw fault("a pair of surrogates", seen: "half of one", at: start)
    }
    return Array(String(character).utf8)
  }

  private mutating func hexadecimal() throws(Fault) -> UInt32 {
    let text = bytes[at..<min(at + 4, end)]
    guard text.count == 4, text.allSatisfy({ Character(UnicodeScalar($0)).isHexDigit }),
      let value = UInt32(String(decoding: text, as: UTF8.self), radix: 16)
    else { throw fault("four hexadecimal digits") }
    at += 4
    return value
  }
}
