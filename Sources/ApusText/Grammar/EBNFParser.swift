/// Reads llama.cpp's GBNF notation: `name ::= "literal" [class] other-name ( … | … ) item? item* item+ item{m,n} # comment`.
struct EBNFParser {
  private let scalars: [Unicode.Scalar]
  private let byteCount: Int
  private var position = 0
  private var ruleNumbers: [String: Int] = [:]
  /// Where a rule was first referred to, until it is defined.
  private var undefined: [String: Int] = [:]
  private var defined: Set<String> = []
  private(set) var characters = CharacterEncoder()

  init(_ source: String) {
    byteCount = source.utf8.count
    scalars = byteCount <= GrammarLimits.sourceBytes ? Array(source.unicodeScalars) : []
  }

  private var next: Unicode.Scalar? { position < scalars.count ? scalars[position] : nil }

  private func error(
    _ kind: GrammarError.Kind, _ seen: String, _ expected: String, at place: Int? = nil
  ) -> GrammarError {
    let place = place ?? position
    let line = 1 + scalars[..<min(place, scalars.count)].reduce(0) { $0 + ($1 == "\n" ? 1 : 0) }
    return GrammarError(kind, path: "ebnf, line \(line)", seen: seen, expected: expected)
  }

  private var seenHere: String { next.map { "'\($0)'" } ?? "the end" }

  /// The number of the rule `root`.
  mutating func parse() throws(GrammarError) -> Int {
    try GrammarLimits.check(bytes: byteCount, path: "ebnf")
    skipSpace(newlines: true)
    while next != nil {
      try rule()
      skipSpace(newlines: true)
    }
    if let (name, place) = undefined.min(by: { $0.value < $1.value }) {
      throw error(.malformed, "the rule '\(name)', which is not defined", "a definition '\(name) ::= …'", at: place)
    }
    guard defined.contains("root"), let root = ruleNumbers["root"] else {
      throw error(.malformed, "no rule 'root'", "a definition 'root ::= …'")
    }
    return root
  }

  private mutating func skipSpace(newlines: Bool) {
    while let scalar = next {
      switch scalar {
      case " ", "\t": position += 1
      case "\r", "\n":
        guard newlines else { return }
        position += 1
      case "#": while let scalar = next, scalar != "\n", scalar != "\r" { position += 1 }
      default: return
      }
    }
  }

  private static func isName(_ scalar: Unicode.Scalar) -> Bool {
    scalar == "-" || RegularExpression.word.contains(scalar.value)
  }

  private mutating func name() throws(GrammarError) -> String {
    let start = position
    while let scalar = next, Self.isName(scalar) { position += 1 }
    guard position > start else { throw error(.malformed, seenHere, "a rule's name") }
    return String(String.UnicodeScalarView(scalars[start..<position]))
  }

  private mutating func number(of name: String) -> Int {
    if let number = ruleNumbers[name] { return number }
    let number = characters.rules.reserve(name)
    ruleNumbers[name] = number
    return number
  }

  private mutating func rule() throws(GrammarError) {
    let start = position
    let name = try name()
    guard defined.insert(name).inserted else {
      throw error(.malformed, "a second definition of '\(name)'", "one definition of each rule", at: start)
    }
    skipSpace(newlines: false)
    for mark: Unicode.Scalar in [":", ":", "="] {
      guard next == mark else { throw error(.malformed, seenHere, "'::=' after a rule's name") }
      position += 1
    }
    skipSpace(newlines: true)
    let number = number(of: name)
    characters.rules.set(number, try alternatives(depth: 0))
    undefined[name] = nil
    guard next == nil || next == "\n" || next == "\r" else {
      throw error(.malformed, seenHere, "an item, '|' or a new line")
    }
  }

  private mutating func alternatives(depth: Int) throws(GrammarError) -> GrammarExpression {
    guard depth <= GrammarLimits.nesting else {
      throw error(.limit, "\(depth) groups within each other", "at most \(GrammarLimits.nesting)")
    }
    var parts = [try sequence(depth: depth)]
    while isAtBar() {
      position += 1
      skipSpace(newlines: true)
      parts.append(try sequence(depth: depth))
    }
    return parts.count == 1 ? parts[0] : .choice(parts)
  }

  /// Whether an alternative follows, also at the beginning of the next line; moves to its bar.
  private mutating func isAtBar() -> Bool {
    let start = position
    skipSpace(newlines: true)
    if next == "|" { return true }
    position = start
    return false
  }

  private mutating func sequence(depth: Int) throws(GrammarError) -> GrammarExpression {
    var items: [GrammarExpression] = []
    while let scalar = next {
      let item: GrammarExpression
      switch scalar {
      case "\"": item = try literal()
      case "[": item = characters.utf8(try characterClass())
      case ".":
        position += 1
        item = characters.utf8(.all)
      case "(":
        position += 1
        skipSpace(newlines: true)
        item = try alternatives(depth: depth + 1)
        skipSpace(newlines: true)
        guard next == ")" else { throw error(.malformed, seenHere, "')'") }
        position += 1
      case _ where Self.isName(scalar):
        let start = position
        let name = try name()
        if !defined.contains(name) && undefined[name] == nil { undefined[name] = start }
        item = .rule(number(of: name))
      default: return .sequence(items)
      }
      items.append(try repeated(item))
      skipSpace(newlines: depth > 0)
    }
    return .sequence(items)
  }

  private mutating func repeated(_ item: GrammarExpression) throws(GrammarError) -> GrammarExpression {
    skipSpace(newlines: false)
    switch next {
    case "*":
      position += 1
      return .repetition(item, minimum: 0, maximum: nil)
    case "+":
      position += 1
      return .repetition(item, minimum: 1, maximum: nil)
    case "?":
      position += 1
      return .optional(item)
    case "{":
      position += 1
      skipSpace(newlines: false)
      let minimum = next == "," ? 0 : try count()
      var maximum: Int? = minimum
      skipSpace(newlines: false)
      if next == "," {
        position += 1
        skipSpace(newlines: false)
        maximum = next == "}" ? nil : try count()
        skipSpace(newlines: false)
      }
      guard next == "}" else { throw error(.malformed, seenHere, "'}'") }
      position += 1
      if let maximum, maximum < minimum {
        throw error(.malformed, "{\(minimum),\(maximum)}", "a maximum that is not below the minimum")
      }
      return .repetition(item, minimum: minimum, maximum: maximum)
    default: return item
    }
  }

  private mutating func count() throws(GrammarError) -> Int {
    let start = position
    var value = 0
    while let scalar = next, RegularExpression.digits.contains(scalar.value) {
      value = value * 10 + Int(scalar.value - 0x30)
      guard value <= GrammarLimits.repetitions else {
        throw error(.limit, "a repetition count above \(GrammarLimits.repetitions)", "a smaller count")
      }
      position += 1
    }
    guard position > start else { throw error(.malformed, seenHere, "a number") }
    return value
  }

  private mutating func literal() throws(GrammarError) -> GrammarExpression {
    position += 1
    var bytes: [UInt8] = []
    while let scalar = next, scalar != "\"" { UTF8Text.append(try character(scalar), to: &bytes) }
    guard next != nil else { throw error(.malformed, "the end", "'\"'") }
    position += 1
    return .literal(bytes)
  }

  private mutating func characterClass() throws(GrammarError) -> ScalarSet {
    position += 1
    let isNegated = next == "^"
    if isNegated { position += 1 }
    var ranges: [ClosedRange<UInt32>] = []
    while let scalar = next, scalar != "]" {
      let low = try character(scalar)
      if next == "-", position + 1 < scalars.count, scalars[position + 1] != "]" {
        position += 1
        let high = try character(scalars[position])
        guard low <= high else { throw error(.malformed, "a range with its ends out of order", "first-last") }
        ranges.append(low...high)
      } else {
        ranges.append(low...low)
      }
    }
    guard next != nil else { throw error(.malformed, "the end", "']'") }
    position += 1
    let set = ScalarSet(ranges)
    let result = isNegated ? set.inverted : set
    guard !result.isEmpty else { throw error(.malformed, "an empty class", "at least one character") }
    return result
  }

  /// One character of a literal or class, escapes read.
  private mutating func character(_ scalar: Unicode.Scalar) throws(GrammarError) -> UInt32 {
    position += 1
    guard scalar == "\\" else {
      guard scalar != "\n" else { throw error(.malformed, "a line end inside quotes", "\\n") }
      return scalar.value
    }
    guard let letter = next else { throw error(.malformed, "the end", "a character after '\\'") }
    position += 1
    switch letter {
    case "n": return 0x0A
    case "r": return 0x0D
    case "t": return 0x09
    case "x": return try hexadecimal(digits: 2)
    case "u": return try hexadecimal(digits: 4)
    case "U": return try hexadecimal(digits: 8)
    case "\\", "\"", "[", "]", "-", "^": return letter.value
    default: throw error(.malformed, "'\\\(letter)'", "\\n \\r \\t \\xHH \\uHHHH \\UHHHHHHHH or an escaped symbol")
    }
  }

  private mutating func hexadecimal(digits: Int) throws(GrammarError) -> UInt32 {
    var value: UInt32 = 0
    for _ in 0..<digits {
      guard let scalar = next, scalar.isASCII, let digit = Character(scalar).hexDigitValue else {
        throw error(.malformed, seenHere, "\(digits) hexadecimal digits")
      }
      value = value << 4 | UInt32(digit)
      position += 1
    }
    guard Unicode.Scalar(value) != nil else { throw error(.malformed, "a surrogate", "a Unicode scalar") }
    return value
  }
}
