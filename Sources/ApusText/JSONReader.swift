/// A pull parser for JSON: the caller walks objects and arrays and takes or skips values, so that a file of any size
/// needs memory only for what is kept. Depth is bounded; every error carries its byte offset.
struct JSONReader {
  /// Deeper nesting is refused: it protects the stack of the caller.
  static let maximumDepth = 256

  let bytes: [UInt8]
  private(set) var position: Int
  private var depth = 0

  init(_ bytes: [UInt8], at position: Int = 0) {
    self.bytes = bytes
    self.position = position
  }

  private func error(_ expected: String) -> TokenizerError { .malformedJSON(offset: position, expected: expected) }

  /// The first byte of the next value, or nil at the end.
  mutating func peek() -> UInt8? {
    while position < bytes.count {
      switch bytes[position] {
      case 0x20, 0x0A, 0x0D, 0x09: position += 1
      default: return bytes[position]
      }
    }
    return nil
  }

  mutating func end() throws(TokenizerError) {
    if peek() != nil { throw error("the end of the text") }
  }

  private mutating func take(_ character: Character, _ expected: String) throws(TokenizerError) {
    guard let byte = peek(), byte == character.asciiValue else { throw error(expected) }
    position += 1
  }

  // MARK: Walking

  /// Calls `body` for each key with the reader at its value; `body` must take or skip exactly that value.
  mutating func object(
    _ body: (_ key: String, _ reader: inout JSONReader) throws(TokenizerError) -> Void
  ) throws(TokenizerError) {
    try enter("{", "an object")
    if peek() == UInt8(ascii: "}") {
      position += 1
      depth -= 1
      return
    }
    while true {
      let key = try string()
      try take(":", "':'")
      try body(key, &self)
      guard let byte = peek() else { throw error("',' or '}'") }
      position += 1
      if byte == UInt8(ascii: ",") { continue }
      if byte == UInt8(ascii: "}") { break }
      position -= 1
      throw error("',' or '}'")
    }
    depth -= 1
  }

  /// As `object`, with each key's bytes in a buffer that is reused: for objects with very many keys.
  mutating func objectBytes(
    _ buffer: inout [UInt8],
    _ body: (_ key: [UInt8], _ reader: inout JSONReader) throws(TokenizerError) -> Void
  ) throws(TokenizerError) {
    try enter("{", "an object")
    if peek() == UInt8(ascii: "}") {
      position += 1
      depth -= 1
      return
    }
    while true {
      buffer.removeAll(keepingCapacity: true)
      try string(into: &buffer)
      try take(":", "':'")
      try body(buffer, &self)
      guard let byte = peek() else { throw error("',' or '}'") }
      position += 1
      if byte == UInt8(ascii: ",") { continue }
      if byte == UInt8(ascii: "}") { break }
      position -= 1
      throw error("',' or '}'")
    }
    depth -= 1
  }

  /// An integer of at most nine digits; nil, with nothing consumed, for anything else.
  mutating func smallInteger() throws(TokenizerError) -> Int32? {
    _ = peek()
    var index = position
    var value: Int32 = 0
    while index < bytes.count && bytes[index] >= 0x30 && bytes[index] <= 0x39 && index - position < 9 {
      value = value * 10 + Int32(bytes[index] - 0x30)
      index += 1
    }
    guard index > position, index < bytes.count else { return nil }
    switch bytes[index] {
    case 0x2C, 0x7D, 0x20, 0x0A, 0x0D, 0x09: break
    default: return nil
    }
    position = index
    return value
  }

  /// Calls `body` for each element with its index and the reader at it.
  mutating func array(
    _ body: (_ index: Int, _ reader: inout JSONReader) throws(TokenizerError) -> Void
  ) throws(TokenizerError) {
    try enter("[", "an array")
    if peek() == UInt8(ascii: "]") {
      position += 1
      depth -= 1
      return
    }
    var index = 0
    while true {
      try body(index, &self)
      index += 1
      guard let byte = peek() else { throw error("',' or ']'") }
      position += 1
      if byte == UInt8(ascii: ",") { continue }
      if byte == UInt8(ascii: "]") { break }
      position -= 1
      throw error("',' or ']'")
    }
    depth -= 1
  }

  private mutating func enter(_ opening: Character, _ expected: String) throws(TokenizerError) {
    try take(opening, expected)
    depth += 1
    if depth > Self.maximumDepth { throw error("at most \(Self.maximumDepth) levels of nesting") }
  }

  // MARK: Values

  /// Skips one value, keeping nothing.
  mutating func skip() throws(TokenizerError) {
    switch peek() {
    case UInt8(ascii: "{"): try object { (_, reader) throws(TokenizerError) in try reader.skip() }
    case UInt8(ascii: "["): try array { (_, reader) throws(TokenizerError) in try reader.skip() }
    case UInt8(ascii: "\""): try skipString()
    default: _ = try scalarValue()
    }
  }

  private mutating func skipString() throws(TokenizerError) {
    position += 1
    while position < bytes.count {
      switch bytes[position] {
      case UInt8(ascii: "\""):
        position += 1
        return
      case UInt8(ascii: "\\"): position += 2
      default: position += 1
      }
    }
    position = min(position, bytes.count)
    throw error("a closing '\"'")
  }

  /// A value as a tree. Costs memory in proportion to the text.
  mutating func value() throws(TokenizerError) -> JinjaValue {
    switch peek() {
    case UInt8(ascii: "{"):
      var mapping = JinjaMapping()
      try object { (key, reader) throws(TokenizerError) in mapping[key] = try reader.value() }
      return .mapping(mapping)
    case UInt8(ascii: "["):
      var items: [JinjaValue] = []
      try array { (_, reader) throws(TokenizerError) in items.append(try reader.value()) }
      return .list(items)
    case UInt8(ascii: "\""): return .string(try string())
    default: return try scalarValue()
    }
  }

  private mutating func scalarValue() throws(TokenizerError) -> JinjaValue {
    guard let byte = peek() else { throw error("a value") }
    switch byte {
    case UInt8(ascii: "t"): return try word("true", .boolean(true))
    case UInt8(ascii: "f"): return try word("false", .boolean(false))
    case UInt8(ascii: "n"): return try word("null", .none)
    case UInt8(ascii: "-"), UInt8(ascii: "0")...UInt8(ascii: "9"): return try number()
    default: throw error("a value")
    }
  }

  private mutating func word(_ text: String, _ value: JinjaValue) throws(TokenizerError) -> JinjaValue {
    guard bytes[position...].starts(with: text.utf8) else { throw error("a value") }
    position += text.utf8.count
    return value
  }

  private mutating func number() throws(TokenizerError) -> JinjaValue {
    let start = position
    var isInteger = true
    if bytes[position] == UInt8(ascii: "-") { position += 1 }
    let firstDigit = position
    digits()
    guard position > firstDigit, bytes[firstDigit] != UInt8(ascii: "0") || position == firstDigit + 1 else {
      throw error("a number")
    }
    if position < bytes.count && bytes[position] == UInt8(ascii: ".") {
      isInteger = false
      position += 1
      let fraction = position
      digits()
      if position == fraction { throw error("a digit") }
    }
    if position < bytes.count && bytes[position] | 0x20 == UInt8(ascii: "e") {
      isInteger = false
      position += 1
      if position < bytes.count && (bytes[position] == UInt8(ascii: "+") || bytes[position] == UInt8(ascii: "-")) {
        position += 1
      }
      let exponent = position
      digits()
      if position == exponent { throw error("a digit") }
    }
    let text = String(decoding: bytes[start..<position], as: UTF8.self)
    if isInteger, let integer = Int(text) { return .integer(integer) }
    guard let double = Double(text) else { throw error("a number") }
    return .float(double)
  }

  private mutating func digits() {
    while position < bytes.count && bytes[position] >= 0x30 && bytes[position] <= 0x39 { position += 1 }
  }

  /// A string's text.
  mutating func string() throws(TokenizerError) -> String {
    var buffer: [UInt8] = []
    guard peek() == UInt8(ascii: "\"") else { throw error("a string") }
    // Most strings have no escapes: one pass finds the end and decodes in place.
    var end = position + 1
    while end < bytes.count && bytes[end] != UInt8(ascii: "\"") && bytes[end] != UInt8(ascii: "\\") { end += 1 }
    if end < bytes.count && bytes[end] == UInt8(ascii: "\"") {
      let text = String(decoding: bytes[(position + 1)..<end], as: UTF8.self)
      position = end + 1
      return text
    }
    try string(into: &buffer)
    return String(decoding: buffer, as: UTF8.self)
  }

  /// Appends a string's bytes to `output`. Invalid UTF-8 passes through; lone surrogates become U+FFFD.
  mutating func string(into output: inout [UInt8]) throws(TokenizerError) {
    guard peek() == UInt8(ascii: "\"") else { throw error("a string") }
    position += 1
    while position < bytes.count {
      let byte = bytes[position]
      switch byte {
      case UInt8(ascii: "\""):
        position += 1
        return
      case UInt8(ascii: "\\"):
        position += 1
        try escape(into: &output)
      case 0..<0x20: throw error("no control characters in a string")
      default:
        output.append(byte)
        position += 1
      }
    }
    throw error("a closing '\"'")
  }

  private mutating func escape(into output: inout [UInt8]) throws(TokenizerError) {
    guard position < bytes.count else { throw error("an escape") }
    let byte = bytes[position]
    position += 1
    switch byte {
    case UInt8(ascii: "n"): output.append(0x0A)
    case UInt8(ascii: "t"): output.append(0x09)
    case UInt8(ascii: "r"): output.append(0x0D)
    case UInt8(ascii: "b"): output.append(0x08)
    case UInt8(ascii: "f"): output.append(0x0C)
    case UInt8(ascii: "\""), UInt8(ascii: "\\"), UInt8(ascii: "/"): output.append(byte)
    case UInt8(ascii: "u"):
      var scalar = try hexUnit()
      if scalar >= 0xD800 && scalar < 0xDC00, position + 1 < bytes.count, bytes[position] == UInt8(ascii: "\\"),
        bytes[position + 1] == UInt8(ascii: "u")
      {
        let mark = position
        position += 2
        let low = try hexUnit()
        if low >= 0xDC00 && low < 0xE000 {
          scalar = 0x10000 + (scalar - 0xD800) << 10 + (low - 0xDC00)
        } else {
          position = mark
        }
      }
      UTF8Text.append(scalar >= 0xD800 && scalar < 0xE000 ? 0xFFFD : scalar, to: &output)
    default:
      position -= 1
      throw error("an escape such as \\n")
    }
  }

  private mutating func hexUnit() throws(TokenizerError) -> UInt32 {
    guard position + 4 <= bytes.count else { throw error("four hexadecimal digits") }
    var value: UInt32 = 0
    for byte in bytes[position..<(position + 4)] {
      guard let digit = Character(Unicode.Scalar(byte)).hexDigitValue else { throw error("four hexadecimal digits") }
      value = value << 4 | UInt32(digit)
    }
    position += 4
    return value
  }
}
