/// Walks JSON text in a mapped file token by token, building nothing: for headers whose shape is known, from files that
/// nobody vouches for.
///
/// Depth is bounded, numbers that are asked for as integers are checked for overflow, and every error says where it is.
/// Source: RFC 8259.
struct JSONScanner {
  static let maximumDepth = 32

  let file: MappedFile
  private let bytes: UnsafeRawBufferPointer
  private(set) var offset: Int
  let end: Int
  var what: String

  /// Scans `range` of the file's bytes.
  init(_ file: MappedFile, _ range: Range<Int>, what: String) {
    self.file = file
    bytes = file.bytes
    offset = range.lowerBound
    end = range.upperBound
    self.what = what
  }

  func error(
    _ kind: ModelFileError.Kind = .malformed, at place: Int? = nil, seen: String, expected: String
  ) -> ModelFileError {
    ModelFileError(kind: kind, path: file.path, what: what, offset: place ?? offset, seen: seen, expected: expected)
  }

  /// The next byte that isn't white space, without taking it; nil at the end.
  mutating func peek() -> UInt8? {
    while offset < end {
      switch bytes[offset] {
      case 0x20, 0x09, 0x0A, 0x0D: offset += 1
      case let byte: return byte
      }
    }
    return nil
  }

  private func describeNext() -> String {
    guard offset < end else { return "the end of the text" }
    let byte = bytes[offset]
    return (0x21..<0x7F).contains(byte) ? "'\(Character(UnicodeScalar(byte)))'" : "byte 0x\(String(byte, radix: 16))"
  }

  /// Takes `character`, or throws.
  mutating func expect(_ character: Unicode.Scalar) throws(ModelFileError) {
    guard peek() == UInt8(ascii: character) else { throw error(seen: describeNext(), expected: "'\(character)'") }
    offset += 1
  }

  /// Nothing but white space may be left.
  mutating func expectEnd() throws(ModelFileError) {
    if peek() != nil { throw error(seen: describeNext(), expected: "nothing more") }
  }

  /// Calls `body` for each member of the object that starts here, with its key; `body` must take the value.
  mutating func object(
    keyLimit: Int, _ body: (inout JSONScanner, String) throws(ModelFileError) -> Void
  ) throws(ModelFileError) {
    try expect("{")
    if peek() == UInt8(ascii: "}") {
      offset += 1
      return
    }
    while true {
      let key = try string(atMost: keyLimit)
      try expect(":")
      try body(&self, key)
      if peek() == UInt8(ascii: ",") {
        offset += 1
        continue
      }
      try expect("}")
      return
    }
  }

  /// The array of at most `limit` non-negative integers that starts here.
  mutating func integers(atMost limit: Int, _ field: String) throws(ModelFileError) -> [Int] {
    try expect("[")
    var result: [Int] = []
    if peek() == UInt8(ascii: "]") {
      offset += 1
      return result
    }
    while true {
      if result.count == limit {
        throw error(.limit, seen: "\(field) of more than \(limit) numbers", expected: "at most \(limit)")
      }
      result.append(try integer(field))
      if peek() == UInt8(ascii: ",") {
        offset += 1
        continue
      }
      try expect("]")
      return result
    }
  }

  /// A non-negative integer below 2^63, written as digits only.
  mutating func integer(_ field: String) throws(ModelFileError) -> Int {
    _ = peek()
    let start = offset
    var value = 0
    while offset < end, case let digit = bytes[offset], (0x30...0x39).contains(digit) {
      let (shifted, overflow) = value.multipliedReportingOverflow(by: 10)
      let (sum, carry) = shifted.addingReportingOverflow(Int(digit - 0x30))
      if overflow || carry {
        throw error(at: start, seen: "a number above 2^63 in \(field)", expected: "a number of elements or bytes")
      }
      value = sum
      offset += 1
    }
    let isFraction = offset < end && [0x2E, 0x45, 0x65].contains(bytes[offset])
    guard offset > start, !isFraction else {
      throw error(seen: "\(describeNext()) in \(field)", expected: "a non-negative integer in digits")
    }
    if bytes[start] == 0x30 && offset - start > 1 {
      throw error(at: start, seen: "a number with a leading zero in \(field)", expected: "JSON")
    }
    return value
  }

  /// A string of at most `limit` bytes as written, with escapes resolved.
  mutating func string(atMost limit: Int) throws(ModelFileError) -> String {
    try expect("\"")
    let start = offset
    var decoded: [UInt8] = []
    var hasEscapes = false
    while true {
      guard offset < end else { throw error(at: start, seen: "the end of the text in a string", expected: "'\"'") }
      if offset - start > limit {
        throw error(.limit, at: start, seen: "a string above \(limit) bytes", expected: "at most \(limit)")
      }
      let byte = bytes[offset]
      if byte == UInt8(ascii: "\"") { break }
      if byte < 0x20 { throw error(seen: "a control character in a string", expected: "an escape") }
      if byte == UInt8(ascii: "\\") {
        if !hasEscapes {
          decoded = Array(bytes[start..<offset])
          hasEscapes = true
        }
        offset += 1
        decoded.append(contentsOf: Array(String(try escape()).utf8))
      } else {
        if hasEscapes { decoded.append(byte) }
        offset += 1
      }
    }
    let text =
      hasEscapes
      ? String(validating: decoded, as: UTF8.self) : String(validating: bytes[start..<offset], as: UTF8.self)
    guard let text else { throw error(at: start, seen: "a string that is not UTF-8", expected: "UTF-8") }
    offset += 1
    return text
  }

  private mutating func escape() throws(ModelFileError) -> Unicode.Scalar {
    guard offset < end else { throw error(seen: "the end of the text in a string", expected: "an escape") }
    let byte = bytes[offset]
    offset += 1
    switch byte {
    case UInt8(ascii: "\""), UInt8(ascii: "\\"), UInt8(ascii: "/"): return Unicode.Scalar(byte)
    case UInt8(ascii: "b"): return "\u{8}"
    case UInt8(ascii: "f"): return "\u{C}"
    case UInt8(ascii: "n"): return "\n"
    case UInt8(ascii: "r"): return "\r"
    case UInt8(ascii: "t"): return "\t"
    case UInt8(ascii: "u"):
      let unit = try hexUnit()
      if let scalar = Unicode.Scalar(unit) { return scalar }
      // A surrogate: the first of a pair, or an error.
      guard unit < 0xDC00, offset + 1 < end, bytes[offset] == UInt8(ascii: "\\"), bytes[offset + 1] == UInt8(ascii: "u")
      else { throw error(seen: "half of a surrogate pair", expected: "a pair") }
      offset += 2
      let low = try hexUnit()
      guard (0xDC00..<0xE000).contains(low) else { throw error(seen: "half of a surrogate pair", expected: "a pair") }
      return Unicode.Scalar(0x10000 + (UInt32(unit) - 0xD800) << 10 + (UInt32(low) - 0xDC00))!
    default: throw error(at: offset - 1, seen: "an unknown escape", expected: "JSON")
    }
  }

  private mutating func hexUnit() throws(ModelFileError) -> UInt16 {
    guard offset + 4 <= end else { throw error(seen: "the end of the text in a string", expected: "four hex digits") }
    var value: UInt16 = 0
    for _ in 0..<4 {
      guard let digit = Character(UnicodeScalar(bytes[offset])).hexDigitValue, bytes[offset] < 0x80 else {
        throw error(seen: describeNext(), expected: "four hex digits")
      }
      value = value << 4 | UInt16(digit)
      offset += 1
    }
    return value
  }

  /// Passes over any value.
  mutating func skipValue(depth: Int = 1) throws(ModelFileError) {
    if depth > Self.maximumDepth {
      throw error(.limit, seen: "values nested \(depth) deep", expected: "at most \(Self.maximumDepth) levels")
    }
    switch peek() {
    case UInt8(ascii: "{"):
      try object(keyLimit: end - offset) { scanner, _ throws(ModelFileError) in
        try scanner.skipValue(depth: depth + 1)
      }
    case UInt8(ascii: "["):
      offset += 1
      if peek() == UInt8(ascii: "]") {
        offset += 1
        return
      }
      while true {
        try skipValue(depth: depth + 1)
        if peek() == UInt8(ascii: ",") {
          offset += 1
          continue
        }
        try expect("]")
        return
      }
    case UInt8(ascii: "\""): _ = try string(atMost: end - offset)
    case UInt8(ascii: "t"): try literal("true")
    case UInt8(ascii: "f"): try literal("false")
    case UInt8(ascii: "n"): try literal("null")
    default:
      let start = offset
      while offset < end, case let byte = bytes[offset], (0x30...0x39).contains(byte) || "+-.eE".utf8.contains(byte) {
        offset += 1
      }
      if offset == start { throw error(seen: describeNext(), expected: "a JSON value") }
    }
  }

  private mutating func literal(_ text: StaticString) throws(ModelFileError) {
    for index in 0..<text.utf8CodeUnitCount {
      guard offset < end, bytes[offset] == text.utf8Start[index] else {
        throw error(seen: describeNext(), expected: "\(text)")
      }
      offset += 1
    }
  }
}
