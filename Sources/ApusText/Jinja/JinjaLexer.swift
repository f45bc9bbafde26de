/// One token of a template.
struct JinjaToken: Equatable {
  enum Kind: Equatable {
    /// Text outside of tags.
    case text
    case blockBegin, blockEnd, variableBegin, variableEnd
    case name, string, integer, float, symbol
    case end
  }
  var kind: Kind
  var text: String
  var line: Int
}

/// Cuts a template into tokens, with the white-space rules of Jinja under `trim_blocks` and `lstrip_blocks`.
struct JinjaLexer {
  private let source: [UInt8]
  private var position = 0
  private var line = 1
  private var tokens: [JinjaToken] = []
  /// Whether the text at `position` starts a line as far as `lstrip_blocks` is concerned.
  private var lineStarting = true

  private static let limit = 4 << 20

  init(_ source: String) throws(TemplateError) {
    guard source.utf8.count <= Self.limit else {
      throw TemplateError(.limit, "the template has \(source.utf8.count) bytes; at most \(Self.limit) are read")
    }
    // All newlines become \n, and one at the very end is dropped, as Jinja does.
    var bytes: [UInt8] = []
    bytes.reserveCapacity(source.utf8.count)
    var wasCarriageReturn = false
    for byte in source.utf8 {
      if byte == 0x0D {
        bytes.append(0x0A)
      } else if !(byte == 0x0A && wasCarriageReturn) {
        bytes.append(byte)
      }
      wasCarriageReturn = byte == 0x0D
    }
    if bytes.last == 0x0A { bytes.removeLast() }
    self.source = bytes
  }

  static func tokenize(_ source: String) throws(TemplateError) -> [JinjaToken] {
    var lexer = try JinjaLexer(source)
    return try lexer.run()
  }

  private enum Tag {
    case block, variable, comment
  }

  private mutating func run() throws(TemplateError) -> [JinjaToken] {
    while position < source.count {
      guard let (tag, start) = nextTag() else {
        emitText(position, source.count)
        position = source.count
        break
      }
      // A sign after the opening brace controls the white space before the tag.
      let sign = start + 2 < source.count ? source[start + 2] : 0
      let hasSign = sign == UInt8(ascii: "-") || sign == UInt8(ascii: "+")
      var textEnd = start
      if sign == UInt8(ascii: "-") {
        textEnd = strippedEnd(position, start)
      } else if sign != UInt8(ascii: "+") && tag != .variable {
        textEnd = lineStrippedEnd(position, start)
      }
      emitText(position, textEnd)
      line += newlines(textEnd, start)
      position = start + (hasSign ? 3 : 2)
      switch tag {
      case .comment: try skipComment()
      case .variable: try lexTag(.variableBegin, .variableEnd, "}}")
      case .block:
        if try !lexRaw(start) { try lexTag(.blockBegin, .blockEnd, "%}") }
      }
    }
    tokens.append(JinjaToken(kind: .end, text: "", line: line))
    return tokens
  }

  private func nextTag() -> (Tag, Int)? {
    var index = position
    while index + 1 < source.count {
      if source[index] == UInt8(ascii: "{") {
        switch source[index + 1] {
        case UInt8(ascii: "%"): return (.block, index)
        case UInt8(ascii: "{"): return (.variable, index)
        case UInt8(ascii: "#"): return (.comment, index)
        default: break
        }
      }
      index += 1
    }
    return nil
  }

  private mutating func emitText(_ start: Int, _ end: Int) {
    guard start < end else { return }
    tokens.append(JinjaToken(kind: .text, text: String(decoding: source[start..<end], as: UTF8.self), line: line))
    line += newlines(start, end)
    lineStarting = source[end - 1] == 0x0A
  }

  private func newlines(_ start: Int, _ end: Int) -> Int {
    var count = 0
    for index in start..<max(start, end) where source[index] == 0x0A { count += 1 }
    return count
  }

  // MARK: White space

  /// The end of `source[start..<end]` without trailing white space.
  private func strippedEnd(_ start: Int, _ end: Int) -> Int {
    var end = end
    while end > start {
      let (scalar, previous) = UTF8Text.scalarBefore(source, end)
      if previous < start || !JinjaText.isSpace(scalar) { break }
      end = previous
    }
    return end
  }

  /// Drops the blanks between the start of the line and a tag, if nothing else stands there.
  private func lineStrippedEnd(_ start: Int, _ end: Int) -> Int {
    let blank = strippedEnd(start, end)
    var lineStart = end
    while lineStart > start && source[lineStart - 1] != 0x0A { lineStart -= 1 }
    guard lineStart > start || lineStarting else { return end }
    return blank <= lineStart && lineStart < end ? lineStart : end
  }

  private func skipSpace(_ start: Int) -> Int {
    var index = start
    while index < source.count {
      let (scalar, next) = UTF8Text.scalar(source, at: index)
      if !JinjaText.isSpace(scalar) { break }
      index = next
    }
    return index
  }

  /// Moves past the end of a tag whose closing text ends at `end`, and past what its sign lets it swallow.
  private mutating func closeTag(_ start: Int, sign: UInt8, trims: Bool) {
    var end = start
    if sign == UInt8(ascii: "-") {
      end = skipSpace(start)
    } else if sign != UInt8(ascii: "+") && trims && end < source.count && source[end] == 0x0A {
      end += 1
    }
    line += newlines(position, end)
    position = end
    lineStarting = end > 0 && source[end - 1] == 0x0A
  }

  // MARK: Comments and raw blocks

  private mutating func skipComment() throws(TemplateError) {
    var index = position
    while index + 1 < source.count {
      if source[index] == UInt8(ascii: "#") && source[index + 1] == UInt8(ascii: "}") {
        closeTag(index + 2, sign: index > position ? source[index - 1] : 0, trims: true)
        return
      }
      index += 1
    }
    throw TemplateError(.syntax, "a comment is not closed by '#}'", line: line)
  }

  /// `{% raw %}…{% endraw %}`: emits the inside as text. False, with nothing consumed, for other tags.
  private mutating func lexRaw(_ start: Int) throws(TemplateError) -> Bool {
    guard let opened = matchTag("raw", at: start) else { return false }
    closeTag(opened.end, sign: opened.sign, trims: false)
    var index = position
    while index < source.count {
      if source[index] == UInt8(ascii: "{"), let closed = matchTag("endraw", at: index) {
        let sign = source[index + 2]
        var textEnd = index
        if sign == UInt8(ascii: "-") {
          textEnd = strippedEnd(position, index)
        } else if sign != UInt8(ascii: "+") {
          textEnd = lineStrippedEnd(position, index)
        }
        emitText(position, textEnd)
        position = textEnd
        closeTag(closed.end, sign: closed.sign, trims: true)
        return true
      }
      index += 1
    }
    throw TemplateError(.syntax, "'raw' is not closed by 'endraw'", line: line)
  }

  /// Matches `{% name %}` at `start`: the position after it and the sign before its end.
  private func matchTag(_ name: String, at start: Int) -> (end: Int, sign: UInt8)? {
    guard start + 2 < source.count, source[start + 1] == UInt8(ascii: "%") else { return nil }
    var index = start + 2
    if source[index] == UInt8(ascii: "-") || source[index] == UInt8(ascii: "+") { index += 1 }
    index = skipSpace(index)
    guard source[index...].starts(with: name.utf8) else { return nil }
    index = skipSpace(index + name.utf8.count)
    var sign: UInt8 = 0
    if index < source.count, source[index] == UInt8(ascii: "-") || source[index] == UInt8(ascii: "+") {
      sign = source[index]
      index += 1
    }
    return source[index...].starts(with: "%}".utf8) ? (index + 2, sign) : nil
  }

  // MARK: Inside tags

  private mutating func lexTag(
    _ begin: JinjaToken.Kind, _ end: JinjaToken.Kind, _ closing: String
  ) throws(TemplateError) {
    tokens.append(JinjaToken(kind: begin, text: "", line: line))
    let first = UInt8(ascii: closing.unicodeScalars.first ?? "}")
    var brackets: [UInt8] = []
    while true {
      let start = skipSpace(position)
      line += newlines(position, start)
      position = start
      guard position < source.count else {
        throw TemplateError(.syntax, "a tag is not closed by '\(closing)'", line: line)
      }
      let byte = source[position]
      if brackets.isEmpty {
        let hasSign = byte == UInt8(ascii: "-") || (byte == UInt8(ascii: "+") && end == .blockEnd)
        let at = position + (hasSign ? 1 : 0)
        if at + 1 < source.count && source[at] == first && source[at + 1] == UInt8(ascii: "}") {
          tokens.append(JinjaToken(kind: end, text: "", line: line))
          closeTag(at + 2, sign: hasSign ? byte : 0, trims: end == .blockEnd)
          return
        }
      }
      switch byte {
      case UInt8(ascii: "'"), UInt8(ascii: "\""): try lexString(byte)
      case UInt8(ascii: "0")...UInt8(ascii: "9"): try lexNumber()
      default:
        if isNamePart(position) {
          lexName()
        } else {
          try lexSymbol(&brackets)
        }
      }
    }
  }

  private func isNamePart(_ index: Int) -> Bool {
    let byte = source[index]
    if byte < 0x80 {
      return byte == UInt8(ascii: "_") || (byte | 0x20 >= 0x61 && byte | 0x20 <= 0x7A) || (byte >= 0x30 && byte <= 0x39)
    }
    let scalar = UTF8Text.scalar(source, at: index).scalar
    return UnicodeTable.shared.isLetter(scalar) || UnicodeTable.shared.isMark(scalar)
  }

  private mutating func lexName() {
    let start = position
    while position < source.count && isNamePart(position) {
      position += UTF8Text.sequenceLength(source[position])
    }
    emit(.name, start)
  }

  private mutating func emit(_ kind: JinjaToken.Kind, _ start: Int) {
    tokens.append(
      JinjaToken(kind: kind, text: String(decoding: source[start..<position], as: UTF8.self), line: line))
  }

  private mutating func lexNumber() throws(TemplateError) {
    let start = position
    func isDigit(_ index: Int) -> Bool { index < source.count && source[index] >= 0x30 && source[index] <= 0x39 }
    func skipDigits() {
      while isDigit(position) || (position < source.count && source[position] == 0x5F && isDigit(position + 1)) {
        position += 1
      }
    }
    skipDigits()
    var isFloat = false
    if position < source.count && source[position] == UInt8(ascii: ".") && isDigit(position + 1) {
      isFloat = true
      position += 1
      skipDigits()
    }
    if position < source.count && source[position] | 0x20 == UInt8(ascii: "e") {
      var exponent = position + 1
      if exponent < source.count, source[exponent] == UInt8(ascii: "+") || source[exponent] == UInt8(ascii: "-") {
        exponent += 1
      }
      if isDigit(exponent) {
        isFloat = true
        position = exponent
        skipDigits()
      }
    }
    let text = String(decoding: source[start..<position].filter { $0 != 0x5F }, as: UTF8.self)
    tokens.append(JinjaToken(kind: isFloat ? .float : .integer, text: text, line: line))
  }

  private mutating func lexString(_ quote: UInt8) throws(TemplateError) {
    let startLine = line
    var content: [UInt8] = []
    position += 1
    while position < source.count && source[position] != quote {
      if source[position] == UInt8(ascii: "\\") {
        position += 1
        try lexEscape(&content)
      } else {
        if source[position] == 0x0A { line += 1 }
        content.append(source[position])
        position += 1
      }
    }
    guard position < source.count else { throw TemplateError(.syntax, "a string is not closed", line: startLine) }
    position += 1
    tokens.append(JinjaToken(kind: .string, text: String(decoding: content, as: UTF8.self), line: startLine))
  }

  /// Python's string escapes; an unknown one stays as it is.
  private mutating func lexEscape(_ content: inout [UInt8]) throws(TemplateError) {
    guard position < source.count else { return }
    let byte = source[position]
    position += 1
    func hexadecimal(_ digits: Int) throws(TemplateError) {
      let end = position + digits
      guard end <= source.count,
        let value = UInt32(String(decoding: source[position..<end], as: UTF8.self), radix: 16),
        Unicode.Scalar(value) != nil
      else { throw TemplateError(.syntax, "an escape needs \(digits) hexadecimal digits of a scalar", line: line) }
      UTF8Text.append(value, to: &content)
      position = end
    }
    switch byte {
    case UInt8(ascii: "n"): content.append(0x0A)
    case UInt8(ascii: "t"): content.append(0x09)
    case UInt8(ascii: "r"): content.append(0x0D)
    case UInt8(ascii: "b"): content.append(0x08)
    case UInt8(ascii: "f"): content.append(0x0C)
    case UInt8(ascii: "v"): content.append(0x0B)
    case UInt8(ascii: "a"): content.append(0x07)
    case UInt8(ascii: "\\"), UInt8(ascii: "'"), UInt8(ascii: "\""): content.append(byte)
    case 0x0A: line += 1
    case UInt8(ascii: "x"): try hexadecimal(2)
    case UInt8(ascii: "u"): try hexadecimal(4)
    case UInt8(ascii: "U"): try hexadecimal(8)
    case 0x30...0x37:
      var value = UInt32(byte - 0x30)
      var count = 1
      while count < 3 && position < source.count && source[position] >= 0x30 && source[position] <= 0x37 {
        value = value * 8 + UInt32(source[position] - 0x30)
        position += 1
        count += 1
      }
      UTF8Text.append(value, to: &content)
    default:
      content.append(UInt8(ascii: "\\"))
      content.append(byte)
    }
  }

  private static let twoByteSymbols: Set<String> = ["==", "!=", ">=", "<=", "//", "**"]

  private mutating func lexSymbol(_ brackets: inout [UInt8]) throws(TemplateError) {
    let start = position
    if position + 1 < source.count {
      let pair = String(decoding: source[position...(position + 1)], as: UTF8.self)
      if Self.twoByteSymbols.contains(pair) {
        position += 2
        emit(.symbol, start)
        return
      }
    }
    let byte = source[position]
    switch byte {
    case UInt8(ascii: "("): brackets.append(UInt8(ascii: ")"))
    case UInt8(ascii: "["): brackets.append(UInt8(ascii: "]"))
    case UInt8(ascii: "{"): brackets.append(UInt8(ascii: "}"))
    case UInt8(ascii: ")"), UInt8(ascii: "]"), UInt8(ascii: "}"):
      guard brackets.popLast() == byte else {
        throw TemplateError(.syntax, "unexpected '\(Character(Unicode.Scalar(byte)))'", line: line)
      }
    case _ where "+-/*%~.:|,;=<>".utf8.contains(byte): break
    default:
      let scalar = Unicode.Scalar(UTF8Text.scalar(source, at: position).scalar) ?? "?"
      throw TemplateError(.syntax, "unexpected character '\(scalar)'", line: line)
    }
    position += 1
    emit(.symbol, start)
  }
}
