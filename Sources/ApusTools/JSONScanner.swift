extension UInt8 {
  /// JSON's white space (RFC 8259, section 2).
  var isJSONSpace: Bool { self == 0x20 || self == 0x0A || self == 0x0D || self == 0x09 }

  fileprivate var isDigit: Bool { self >= 0x30 && self <= 0x39 }

  /// The value of a hexadecimal digit.
  var hexValue: UInt16? {
    switch self {
    case 0x30...0x39: UInt16(self - 0x30)
    case 0x41...0x46: UInt16(self - 0x41 + 10)
    case 0x61...0x66: UInt16(self - 0x61 + 10)
    default: nil
    }
  }
}

/// Checks one JSON value that arrives byte by byte (RFC 8259), keeping nothing but where it is in the grammar.
///
///     var scanner = JSONScanner()
///     for byte in #"{"a": [1, "x"#.utf8 { _ = scanner.take(byte) }
///     scanner.closing  // the bytes of "]} that would end it here
///
/// O(1) a byte and in memory: at most `maximumDepth` levels.
struct JSONScanner: Sendable {
  /// One bit a level in `levels`.
  static let maximumDepth = 64

  private enum State: Sendable, Equatable {
    case value, firstElement, firstKey, key, colon
    /// In a string.
    case text, escape
    /// In `\u`, with this many digits to come.
    case hex(Int)
    case number(Number)
    /// In `true`, `false` or `null`, before the byte at this index.
    case word(Word, Int)
    /// After a value, in a container.
    case next
    case finished
  }

  private enum Number: Sendable { case minus, zero, integer, point, fraction, exponent, exponentSign, exponentDigits }

  private enum Word: Sendable { case yes, no, null }

  private var state = State.value
  /// Bit i tells what level i is: 1 an object, 0 an array.
  private var levels: UInt64 = 0
  private var depth = 0
  private var isKey = false
  /// The unit of the `\u` escape that is being read, or of the one just before here.
  private var unit: UInt16 = 0
  private var followsHighSurrogate = false

  /// The value is complete. A number at the root is complete only when `settle` has seen the byte after it.
  var isFinished: Bool { state == .finished }

  /// No value has begun yet.
  var isAtStart: Bool { state == .value && depth == 0 }

  /// In a string that is a value, not in one of its escapes: the next byte, if a control character, must be escaped.
  var isInText: Bool { state == .text && !isKey }

  /// Everything so far, followed by `closing`, is valid JSON: nothing that could still become something else (a number,
  /// a word, a key, an escape, half a surrogate pair, a comma or an opening bracket) stands last.
  var isSafe: Bool {
    switch state {
    case .text: !isKey && !followsHighSurrogate
    case .next, .finished: true
    default: false
    }
  }

  /// What ends all that is open.
  var closing: [UInt8] {
    var bytes: [UInt8] = isInText ? [UInt8(ascii: "\"")] : []
    for level in (0..<depth).reversed() {
      bytes.append(levels >> UInt64(level) & 1 == 1 ? UInt8(ascii: "}") : UInt8(ascii: "]"))
    }
    return bytes
  }

  /// Ends a number that `byte` does not continue; true if it did. Call it before `take`: a number shows its end only by
  /// the byte after it.
  mutating func settle(before byte: UInt8) -> Bool {
    guard case .number(let number) = state, Self.advanced(number, byte) == nil else { return false }
    switch number {
    case .zero, .integer, .fraction, .exponentDigits:
      endValue()
      return true
    case .minus, .point, .exponent, .exponentSign: return false
    }
  }

  /// Takes the next byte; false, with nothing changed, if JSON does not allow it here. Control characters are let pass
  /// in strings that are values, since the caller can escape them.
  mutating func take(_ byte: UInt8) -> Bool {
    switch state {
    case .text: return takeText(byte)
    case .escape: return takeEscape(byte)
    case .hex(let left): return takeHex(byte, left)
    case .number(let number):
      guard let next = Self.advanced(number, byte) else { return false }
      state = .number(next)
      return true
    case .word(let word, let index):
      let bytes = Self.bytes(of: word)
      guard byte == bytes[index] else { return false }
      if index + 1 == bytes.count { endValue() } else { state = .word(word, index + 1) }
      return true
    default: break
    }
    if byte.isJSONSpace { return true }
    switch (state, byte) {
    case (.firstElement, UInt8(ascii: "]")): return close()
    case (.value, _), (.firstElement, _): return beginValue(byte)
    case (.firstKey, UInt8(ascii: "}")): return close()
    case (.firstKey, UInt8(ascii: "\"")), (.key, UInt8(ascii: "\"")):
      isKey = true
      state = .text
      return true
    case (.colon, UInt8(ascii: ":")):
      state = .value
      return true
    case (.next, UInt8(ascii: ",")):
      state = isInObject ? .key : .value
      return true
    case (.next, UInt8(ascii: "}")): return isInObject && close()
    case (.next, UInt8(ascii: "]")): return !isInObject && close()
    default: return false
    }
  }

  private static let yes = Array("true".utf8)
  private static let no = Array("false".utf8)
  private static let null = Array("null".utf8)

  private static func bytes(of word: Word) -> [UInt8] {
    switch word {
    case .yes: yes
    case .no: no
    case .null: null
    }
  }

  // MARK: Containers

  private var isInObject: Bool { depth > 0 && levels >> UInt64(depth - 1) & 1 == 1 }

  private mutating func open(object: Bool) -> Bool {
    guard depth < Self.maximumDepth else { return false }
    let bit: UInt64 = 1 << UInt64(depth)
    levels = object ? levels | bit : levels & ~bit
    depth += 1
    state = object ? .firstKey : .firstElement
    return true
  }

  private mutating func close() -> Bool {
    depth -= 1
    endValue()
    return true
  }

  private mutating func endValue() { state = depth == 0 ? .finished : .next }

  private mutating func beginValue(_ byte: UInt8) -> Bool {
    switch byte {
    case UInt8(ascii: "{"): return open(object: true)
    case UInt8(ascii: "["): return open(object: false)
    case UInt8(ascii: "\""):
      isKey = false
      state = .text
    case UInt8(ascii: "t"): state = .word(.yes, 1)
    case UInt8(ascii: "f"): state = .word(.no, 1)
    case UInt8(ascii: "n"): state = .word(.null, 1)
    case UInt8(ascii: "-"): state = .number(.minus)
    case UInt8(ascii: "0"): state = .number(.zero)
    case 0x31...0x39: state = .number(.integer)
    default: return false
    }
    return true
  }

  // MARK: Strings

  private mutating func takeText(_ byte: UInt8) -> Bool {
    switch byte {
    case UInt8(ascii: "\""):
      if isKey { state = .colon } else { endValue() }
    case UInt8(ascii: "\\"):
      state = .escape
      return true
    case 0..<0x20: if isKey { return false }
    default: break
    }
    followsHighSurrogate = false
    return true
  }

  private mutating func takeEscape(_ byte: UInt8) -> Bool {
    switch byte {
    case UInt8(ascii: "u"):
      unit = 0
      state = .hex(4)
    case UInt8(ascii: "\""), UInt8(ascii: "\\"), UInt8(ascii: "/"), UInt8(ascii: "b"), UInt8(ascii: "f"),
      UInt8(ascii: "n"), UInt8(ascii: "r"), UInt8(ascii: "t"):
      followsHighSurrogate = false
      state = .text
    default: return false
    }
    return true
  }

  private mutating func takeHex(_ byte: UInt8, _ left: Int) -> Bool {
    guard let value = byte.hexValue else { return false }
    unit = unit << 4 | value
    if left > 1 {
      state = .hex(left - 1)
    } else {
      followsHighSurrogate = unit & 0xFC00 == 0xD800
      state = .text
    }
    return true
  }

  // MARK: Numbers

  /// The state after one more byte of a number; nil if the byte does not continue it.
  private static func advanced(_ number: Number, _ byte: UInt8) -> Number? {
    let startsExponent = byte | 0x20 == UInt8(ascii: "e")
    switch number {
    case .minus: return byte == UInt8(ascii: "0") ? .zero : byte.isDigit ? .integer : nil
    case .zero: return byte == UInt8(ascii: ".") ? .point : startsExponent ? .exponent : nil
    case .integer:
      return byte.isDigit ? .integer : byte == UInt8(ascii: ".") ? .point : startsExponent ? .exponent : nil
    case .point: return byte.isDigit ? .fraction : nil
    case .fraction: return byte.isDigit ? .fraction : startsExponent ? .exponent : nil
    case .exponent:
      if byte == UInt8(ascii: "+") || byte == UInt8(ascii: "-") { return .exponentSign }
      return byte.isDigit ? .exponentDigits : nil
    case .exponentSign, .exponentDigits: return byte.isDigit ? .exponentDigits : nil
    }
  }
}
