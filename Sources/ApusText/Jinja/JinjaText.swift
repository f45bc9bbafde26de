#if canImport(Glibc)
  import Glibc
#elseif canImport(Musl)
  import Musl
#else
  import Darwin
#endif

/// Python's string operations, on code points and bytes rather than on Swift's grapheme clusters.
enum JinjaText {
  /// `str.isspace` for one scalar.
  static func isSpace(_ scalar: UInt32) -> Bool {
    if scalar < 0x80 {
      return scalar == 0x20 || (scalar >= 0x09 && scalar <= 0x0D) || (scalar >= 0x1C && scalar <= 0x1F)
    }
    return UnicodeTable.shared.isWhitespace(scalar)
  }

  static func power(_ a: Double, _ b: Double) -> Double { pow(a, b) }

  /// Where `pattern` first occurs in `text` at or after `start`. Linear for the short patterns of templates; the
  /// caller charges for it.
  static func find(_ pattern: [UInt8], in text: [UInt8], from start: Int) -> Int? {
    guard let first = pattern.first else { return start <= text.count ? start : nil }
    var index = start
    while index + pattern.count <= text.count {
      if text[index] == first && text[index..<(index + pattern.count)].elementsEqual(pattern) { return index }
      index += 1
    }
    return nil
  }

  static func findLast(_ pattern: [UInt8], in text: [UInt8]) -> Int? {
    var index = text.count - pattern.count
    while index >= 0 {
      if text[index..<(index + pattern.count)].elementsEqual(pattern) { return index }
      index -= 1
    }
    return nil
  }

  static func text(_ bytes: some Collection<UInt8>) -> String { String(decoding: bytes, as: UTF8.self) }

  /// `str.strip` and its halves; without characters, white space goes.
  static func strip(_ text: String, _ characters: String?, left: Bool, right: Bool) -> String {
    let scalars = Array(text.unicodeScalars)
    let set = characters.map { Set($0.unicodeScalars) }
    func drops(_ scalar: Unicode.Scalar) -> Bool { set?.contains(scalar) ?? isSpace(scalar.value) }
    var start = 0
    var end = scalars.count
    while left && start < end && drops(scalars[start]) { start += 1 }
    while right && end > start && drops(scalars[end - 1]) { end -= 1 }
    var view = String.UnicodeScalarView()
    view.append(contentsOf: scalars[start..<end])
    return String(view)
  }

  /// `str.replace`; a negative count replaces all.
  static func replace(
    _ text: String, _ old: String, _ new: String, _ count: Int, _ interpreter: inout JinjaInterpreter
  ) throws(TemplateError) -> String {
    let source = Array(text.utf8)
    let pattern = Array(old.utf8)
    try interpreter.chargeBytes(source.count)
    var output: [UInt8] = []
    var position = 0
    var done = 0
    if pattern.isEmpty {
      while count < 0 || done < count {
        output += new.utf8
        try interpreter.chargeBytes(new.utf8.count)
        done += 1
        guard position < source.count else { break }
        let next = position + UTF8Text.sequenceLength(source[position])
        output += source[position..<next]
        position = next
      }
      return Self.text(output + source[position...])
    }
    while count < 0 || done < count, let found = find(pattern, in: source, from: position) {
      output += source[position..<found]
      output += new.utf8
      try interpreter.chargeBytes(new.utf8.count)
      position = found + pattern.count
      done += 1
    }
    return Self.text(output + source[position...])
  }

  /// `str.split`; without a separator, at runs of white space.
  static func split(_ text: String, _ separator: String?, _ limit: Int) -> [JinjaValue] {
    let source = Array(text.utf8)
    var parts: [JinjaValue] = []
    var position = 0
    if let separator {
      let pattern = Array(separator.utf8)
      while limit < 0 || parts.count < limit, let found = find(pattern, in: source, from: position) {
        parts.append(.string(Self.text(source[position..<found])))
        position = found + pattern.count
      }
      parts.append(.string(Self.text(source[position...])))
      return parts
    }
    func skip(_ start: Int, spaces: Bool) -> Int {
      var index = start
      while index < source.count {
        let (scalar, next) = UTF8Text.scalar(source, at: index)
        if isSpace(scalar) != spaces { break }
        index = next
      }
      return index
    }
    while true {
      position = skip(position, spaces: true)
      if position >= source.count { return parts }
      if limit >= 0 && parts.count >= limit {
        parts.append(.string(strip(Self.text(source[position...]), nil, left: false, right: true)))
        return parts
      }
      let end = skip(position, spaces: false)
      parts.append(.string(Self.text(source[position..<end])))
      position = end
    }
  }

  /// `str.rsplit` with a separator.
  static func splitFromEnd(_ text: String, _ separator: String, _ limit: Int) -> [JinjaValue] {
    var rest = Array(text.utf8)
    let pattern = Array(separator.utf8)
    var parts: [JinjaValue] = []
    while limit < 0 || parts.count < limit, let found = findLast(pattern, in: rest) {
      parts.append(.string(Self.text(rest[(found + pattern.count)...])))
      rest.removeSubrange(found...)
    }
    parts.append(.string(Self.text(rest)))
    return parts.reversed()
  }

  /// `str.splitlines`
  static func lines(_ text: String, keepEnds: Bool = false) -> [String] {
    var lines: [String] = []
    var line = String.UnicodeScalarView()
    var isOpen = false
    let scalars = Array(text.unicodeScalars)
    var index = 0
    while index < scalars.count {
      let scalar = scalars[index]
      switch scalar.value {
      case 0x0A...0x0D, 0x1C...0x1E, 0x85, 0x2028, 0x2029:
        if keepEnds { line.append(scalar) }
        if scalar.value == 0x0D && index + 1 < scalars.count && scalars[index + 1].value == 0x0A {
          index += 1
          if keepEnds { line.append(scalars[index]) }
        }
        lines.append(String(line))
        line = String.UnicodeScalarView()
        isOpen = false
      default:
        line.append(scalar)
        isOpen = true
      }
      index += 1
    }
    if isOpen { lines.append(String(line)) }
    return lines
  }

  static func capitalized(_ text: String) -> String {
    guard let first = text.unicodeScalars.first else { return text }
    var rest = String.UnicodeScalarView()
    rest.append(contentsOf: text.unicodeScalars.dropFirst())
    return first.properties.titlecaseMapping + String(rest).lowercased()
  }

  /// `str.title`: a capital after everything that is no cased letter.
  static func titled(_ text: String) -> String {
    var output = ""
    var follows = false
    for scalar in text.unicodeScalars {
      output += follows ? scalar.properties.lowercaseMapping : scalar.properties.titlecaseMapping
      follows = scalar.properties.isCased
    }
    return output
  }

  /// Jinja's `title` filter: a capital after white space and opening brackets and dashes.
  static func titleFiltered(_ text: String) -> String {
    var output = ""
    var startsWord = true
    for scalar in text.unicodeScalars {
      let isBreak = isSpace(scalar.value) || "-({[<".unicodeScalars.contains(scalar)
      if isBreak {
        output.unicodeScalars.append(scalar)
        startsWord = true
      } else {
        output += startsWord ? scalar.properties.uppercaseMapping : scalar.properties.lowercaseMapping
        startsWord = false
      }
    }
    return output
  }

  /// The text with HTML's special characters as references.
  static func escaped(_ text: String) -> String {
    var output = ""
    for scalar in text.unicodeScalars {
      switch scalar {
      case "&": output += "&amp;"
      case "<": output += "&lt;"
      case ">": output += "&gt;"
      case "\"": output += "&#34;"
      case "'": output += "&#39;"
      default: output.unicodeScalars.append(scalar)
      }
    }
    return output
  }

  static func count(_ text: String) -> Int { text.unicodeScalars.count }

  /// Indices of Python's slice `[start:stop:step]` over `count` items.
  static func sliceIndices(
    _ count: Int, _ start: Int?, _ stop: Int?, _ step: Int?, _ interpreter: JinjaInterpreter
  ) throws(TemplateError) -> [Int] {
    let step = step ?? 1
    if step == 0 { throw interpreter.error(.type, "a slice's step must not be 0") }
    func clamp(_ value: Int, _ low: Int, _ high: Int) -> Int {
      let absolute = value < 0 ? (value < -count ? low : value + count) : value
      return min(max(absolute, low), high)
    }
    var indices: [Int] = []
    if step > 0 {
      var index = start.map { clamp($0, 0, count) } ?? 0
      let end = stop.map { clamp($0, 0, count) } ?? count
      while index < end {
        indices.append(index)
        if step >= count { break }
        index += step
      }
    } else {
      var index = start.map { clamp($0, -1, count - 1) } ?? count - 1
      let end = stop.map { clamp($0, -1, count - 1) } ?? -1
      while index > end {
        indices.append(index)
        if step <= -count { break }
        index += step
      }
    }
    return indices
  }

  /// `format % values` with `%s`, `%d`, `%i`, `%x`, `%r`, `%f` (with precision) and `%%`.
  static func percentFormat(
    _ format: String, _ values: JinjaValue, _ interpreter: JinjaInterpreter
  ) throws(TemplateError) -> String {
    var arguments: [JinjaValue]
    if case .list(let items) = values { arguments = items } else { arguments = [values] }
    arguments.reverse()
    var output = ""
    let scalars = Array(format.unicodeScalars)
    var index = 0
    while index < scalars.count {
      guard scalars[index] == "%" else {
        output.unicodeScalars.append(scalars[index])
        index += 1
        continue
      }
      index += 1
      var precision: Int?
      if index < scalars.count && scalars[index] == "." {
        index += 1
        var digits = 0
        while index < scalars.count, let digit = Int(String(scalars[index])) {
          digits = min(digits * 10 + digit, 100)
          index += 1
        }
        precision = digits
      }
      guard index < scalars.count else { throw interpreter.error(.type, "incomplete '%' format") }
      let conversion = scalars[index]
      index += 1
      if conversion == "%" {
        output += "%"
        continue
      }
      guard let value = arguments.popLast() else { throw interpreter.error(.type, "too few values for '%' format") }
      switch conversion {
      case "s": output += value.text
      case "r": output += JinjaValue.list([value]).text.dropFirst().dropLast()
      case "d", "i":
        guard let number = value.asDouble, number.magnitude < 9e18 else {
          throw interpreter.error(.type, "'%d' needs a number, found a \(value.typeName)")
        }
        output += String(value.asInteger ?? Int(number))
      case "x":
        guard let number = value.asInteger else { throw interpreter.error(.type, "'%x' needs an integer") }
        output += String(number, radix: 16)
      case "f":
        guard let number = value.asDouble else { throw interpreter.error(.type, "'%f' needs a number") }
        output += fixed(number, precision ?? 6)
      default: throw interpreter.error(.unsupported, "the format '%\(conversion)'")
      }
    }
    if !arguments.isEmpty { throw interpreter.error(.type, "too many values for '%' format") }
    return output
  }

  /// `"{} {name}".format(…)` with plain fields.
  static func braceFormat(
    _ format: String, _ arguments: JinjaInterpreter.Arguments, _ interpreter: JinjaInterpreter
  ) throws(TemplateError) -> String {
    var output = ""
    var next = 0
    let scalars = Array(format.unicodeScalars)
    var index = 0
    while index < scalars.count {
      let scalar = scalars[index]
      index += 1
      if scalar == "}" {
        if index < scalars.count && scalars[index] == "}" { index += 1 }
        output += "}"
        continue
      }
      if scalar != "{" {
        output.unicodeScalars.append(scalar)
        continue
      }
      if index < scalars.count && scalars[index] == "{" {
        output += "{"
        index += 1
        continue
      }
      var name = ""
      while index < scalars.count && scalars[index] != "}" {
        name.unicodeScalars.append(scalars[index])
        index += 1
      }
      index += 1
      let value: JinjaValue?
      if name.isEmpty {
        value = next < arguments.positional.count ? arguments.positional[next] : nil
        next += 1
      } else if let position = Int(name) {
        value = arguments.positional.indices.contains(position) ? arguments.positional[position] : nil
      } else {
        value = arguments.named(name)
      }
      guard let value else {
        throw interpreter.error(.type, "'format' has no value for the field '{\(name)}'")
      }
      output += value.text
    }
    return output
  }

  /// A number with `digits` decimals, rounded half to even on the exact value as C does.
  static func fixed(_ number: Double, _ digits: Int) -> String {
    var buffer = [CChar](repeating: 0, count: 512)
    let written = withVaList([Int32(min(digits, 100)), number]) { vsnprintf(&buffer, buffer.count, "%.*f", $0) }
    return text(buffer.prefix(max(0, Int(written))).map { UInt8(bitPattern: $0) })
  }
}

/// The time that `strftime_now` tells.
public struct TemplateClock: Sendable, Equatable {
  /// Seconds since 1970 in UTC; nil asks the system.
  public var unixTime: Int?
  /// Tell UTC rather than local time.
  public var usesUTC: Bool

  public init(unixTime: Int? = nil, usesUTC: Bool = false) {
    self.unixTime = unixTime
    self.usesUTC = usesUTC
  }

  /// C's `strftime`; formats of more than 256 bytes and results of more than 1,024 are cut off.
  func format(_ format: String) -> String {
    var seconds = time_t(unixTime ?? Int(time(nil)))
    var parts = tm()
    if usesUTC { gmtime_r(&seconds, &parts) } else { localtime_r(&seconds, &parts) }
    var buffer = [CChar](repeating: 0, count: 1024)
    let written = strftime(&buffer, buffer.count, String(format.unicodeScalars.prefix(256)), &parts)
    return JinjaText.text(buffer.prefix(written).map { UInt8(bitPattern: $0) })
  }
}
