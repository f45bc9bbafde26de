/// A regular expression in the common subset of ECMAScript, Python and RE2, as alternatives that may be anchored.
struct RegularExpression: Sendable {
  struct Branch: Sendable {
    var pattern: TextPattern
    var startsAnchored: Bool
    var endsAnchored: Bool
  }

  private(set) var branches: [Branch] = []

  /// Throws `GrammarError` at `path` for what is outside the subset.
  init(_ source: String, path: String) throws(GrammarError) {
    try GrammarLimits.check(bytes: source.utf8.count, limit: GrammarLimits.regexBytes, path: path)
    var parser = Parser(scalars: Array(source.unicodeScalars), path: path)
    branches = try parser.alternation(depth: 0)
    if parser.position < parser.scalars.count {
      throw parser.error(.malformed, "')' without '('", "balanced parentheses")
    }
  }

  /// The texts in which the expression matches somewhere, as JSON Schema's `pattern` means it.
  var searched: TextPattern {
    .choice(
      branches.map { branch in
        .sequence(
          (branch.startsAnchored ? [] : [.anything]) + [branch.pattern] + (branch.endsAnchored ? [] : [.anything]))
      })
  }

  static let digits = ScalarSet([0x30...0x39])
  static let word = ScalarSet([0x30...0x39, 0x41...0x5A, 0x5F...0x5F, 0x61...0x7A])
  static let space = ScalarSet([0x09...0x0D, 0x20...0x20])
  /// `\S` leaves out what any of the dialects takes for white space.
  static let anySpace = ScalarSet([
    0x09...0x0D, 0x1C...0x20, 0x85...0x85, 0xA0...0xA0, 0x1680...0x1680, 0x2000...0x200A, 0x2028...0x2029,
    0x202F...0x202F, 0x205F...0x205F, 0x3000...0x3000, 0xFEFF...0xFEFF,
  ])
  static let lineEnds = ScalarSet([0x0A...0x0A, 0x0D...0x0D, 0x2028...0x2029])

  private struct Parser {
    let scalars: [Unicode.Scalar]
    let path: String
    var position = 0

    var next: Unicode.Scalar? { position < scalars.count ? scalars[position] : nil }

    func error(_ kind: GrammarError.Kind, _ seen: String, _ expected: String) -> GrammarError {
      GrammarError(kind, path: "\(path), character \(position)", seen: seen, expected: expected)
    }

    mutating func take(_ scalar: Unicode.Scalar) -> Bool {
      guard next == scalar else { return false }
      position += 1
      return true
    }

    mutating func alternation(depth: Int) throws(GrammarError) -> [Branch] {
      guard depth <= GrammarLimits.nesting else {
        throw error(.limit, "\(depth) groups within each other", "at most \(GrammarLimits.nesting)")
      }
      var branches = try branch(depth: depth)
      while take("|") { branches += try branch(depth: depth) }
      return branches
    }

    /// One alternative; several if it is a group of alternatives with anchors of their own.
    private mutating func branch(depth: Int) throws(GrammarError) -> [Branch] {
      var items: [TextPattern] = []
      var startsAnchored = false
      var endsAnchored = false
      while let scalar = next, scalar != "|", scalar != ")" {
        if endsAnchored && scalar != "$" {
          throw error(.unsupported, "text after '$'", "'$' at the end of an alternative")
        }
        switch scalar {
        case "^":
          guard items.isEmpty else {
            throw error(.unsupported, "'^' after text", "'^' at the beginning of an alternative")
          }
          startsAnchored = true
          position += 1
        case "$":
          endsAnchored = true
          position += 1
        case "(":
          let start = position
          let inner = try group(depth: depth)
          if inner.contains(where: { $0.startsAnchored || $0.endsAnchored }) {
            let isWhole = items.isEmpty && !startsAnchored && (next == nil || next == "|" || next == ")")
            guard isWhole else {
              position = start
              throw error(.unsupported, "an anchor inside a group", "anchors at the ends of whole alternatives")
            }
            return inner
          }
          items.append(try quantified(inner.count == 1 ? inner[0].pattern : .choice(inner.map(\.pattern))))
        default:
          items.append(try quantified(.characters(try character())))
        }
      }
      return [Branch(pattern: .sequence(items), startsAnchored: startsAnchored, endsAnchored: endsAnchored)]
    }

    private mutating func group(depth: Int) throws(GrammarError) -> [Branch] {
      position += 1
      if take("?") {
        if take("P") || next == "<" {
          guard take("<"), next != "=", next != "!" else {
            throw error(.unsupported, "lookbehind or a named reference", "groups (…), (?:…) and (?<name>…)")
          }
          while let scalar = next, scalar != ">" {
            guard RegularExpression.word.contains(scalar.value) else {
              throw error(.malformed, "'\(scalar)' in a group's name", "letters, digits and '_'")
            }
            position += 1
          }
          guard take(">") else { throw error(.malformed, "the end of the expression", "'>'") }
        } else if !take(":") {
          throw error(
            .unsupported, "'(?\(next.map(String.init) ?? "")' (lookahead, a flag or another extension)",
            "groups (…), (?:…) and (?<name>…)")
        }
      }
      let inner = try alternation(depth: depth + 1)
      guard take(")") else { throw error(.malformed, "the end of the expression", "')'") }
      return inner
    }

    private mutating func quantified(_ item: TextPattern) throws(GrammarError) -> TextPattern {
      guard let scalar = next else { return item }
      var minimum = 0
      var maximum: Int?
      switch scalar {
      case "*": position += 1
      case "+":
        position += 1
        minimum = 1
      case "?":
        position += 1
        maximum = 1
      case "{":
        position += 1
        minimum = try number()
        maximum = minimum
        if take(",") { maximum = next == "}" ? nil : try number() }
        guard take("}") else { throw error(.malformed, seenHere, "'}' (write \\{ for a brace)") }
        if let maximum, maximum < minimum {
          throw error(.malformed, "{\(minimum),\(maximum)}", "a maximum that is not below the minimum")
        }
      default: return item
      }
      // A lazy quantifier matches the same texts as a greedy one.
      _ = take("?")
      if let scalar = next, scalar == "*" || scalar == "+" || scalar == "{" {
        throw error(.unsupported, "'\(scalar)' after a quantifier", "one quantifier for each item")
      }
      return .repetition(item, minimum: minimum, maximum: maximum)
    }

    private var seenHere: String { next.map { "'\($0)'" } ?? "the end of the expression" }

    private mutating func number() throws(GrammarError) -> Int {
      var value = 0
      let start = position
      while let scalar = next, RegularExpression.digits.contains(scalar.value) {
        value = value * 10 + Int(scalar.value - 0x30)
        guard value <= GrammarLimits.repetitions else {
          throw error(.limit, "a repetition count above \(GrammarLimits.repetitions)", "a smaller count")
        }
        position += 1
      }
      guard position > start else { throw error(.malformed, seenHere, "a number (write \\{ for a brace)") }
      return value
    }

    private mutating func character() throws(GrammarError) -> ScalarSet {
      guard let scalar = next else { throw error(.malformed, seenHere, "a character") }
      switch scalar {
      case ".":
        position += 1
        return RegularExpression.lineEnds.inverted
      case "[": return try characterClass()
      case "\\": return try escape(inClass: false)
      case "*", "+", "?", "{":
        throw error(.malformed, "'\(scalar)' with nothing to repeat", "an item before the quantifier")
      default:
        position += 1
        return ScalarSet(scalar)
      }
    }

    private mutating func characterClass() throws(GrammarError) -> ScalarSet {
      position += 1
      let isNegated = take("^")
      var ranges: [ClosedRange<UInt32>] = []
      while !take("]") {
        guard next != nil else { throw error(.malformed, seenHere, "']'") }
        let low = try classItem()
        let isRange = next == "-" && position + 1 < scalars.count && scalars[position + 1] != "]"
        guard isRange else {
          ranges += low.ranges
          continue
        }
        position += 1
        let high = try classItem()
        guard let first = low.single, let last = high.single, first <= last else {
          throw error(.malformed, "a range with ends out of order or that are no characters", "first-last")
        }
        ranges.append(first...last)
      }
      let set = ScalarSet(ranges)
      let result = isNegated ? set.inverted : set
      guard !result.isEmpty else { throw error(.malformed, "an empty class", "at least one character") }
      return result
    }

    private mutating func classItem() throws(GrammarError) -> ScalarSet {
      guard let scalar = next else { throw error(.malformed, seenHere, "']'") }
      if scalar == "\\" { return try escape(inClass: true) }
      position += 1
      return ScalarSet(scalar)
    }

    private mutating func escape(inClass: Bool) throws(GrammarError) -> ScalarSet {
      position += 1
      guard let scalar = next else { throw error(.malformed, seenHere, "a character after '\\'") }
      position += 1
      switch scalar {
      case "d": return RegularExpression.digits
      case "D": return RegularExpression.digits.inverted
      case "w": return RegularExpression.word
      case "W": return RegularExpression.word.inverted
      case "s": return RegularExpression.space
      case "S": return RegularExpression.anySpace.inverted
      case "n": return ScalarSet("\n")
      case "r": return ScalarSet("\r")
      case "t": return ScalarSet("\t")
      case "f": return ScalarSet("\u{C}")
      case "v": return ScalarSet("\u{B}")
      case "0": return ScalarSet("\0")
      case "b" where inClass: return ScalarSet("\u{8}")
      case "x": return ScalarSet(try hexadecimal(digits: 2))
      case "u": return ScalarSet(try take("{") ? bracedScalar() : hexadecimal(digits: 4))
      default:
        let isLetterOrDigit =
          scalar.isASCII && RegularExpression.word.contains(scalar.value) && scalar != "_"
        guard !isLetterOrDigit else {
          position -= 1
          throw error(
            .unsupported, "'\\\(scalar)'",
            "\\d \\D \\w \\W \\s \\S \\n \\r \\t \\f \\v \\0 \\xHH \\uHHHH and escaped symbols")
        }
        return ScalarSet(scalar)
      }
    }

    private mutating func hexadecimal(digits: Int) throws(GrammarError) -> Unicode.Scalar {
      var value: UInt32 = 0
      for _ in 0..<digits {
        guard let scalar = next, let digit = Character(scalar).hexDigitValue, scalar.isASCII else {
          throw error(.malformed, seenHere, "\(digits) hexadecimal digits")
        }
        value = value << 4 | UInt32(digit)
        position += 1
      }
      guard let scalar = Unicode.Scalar(value) else {
        throw error(.unsupported, "a surrogate", "a Unicode scalar, such as \\u{1F600}")
      }
      return scalar
    }

    private mutating func bracedScalar() throws(GrammarError) -> Unicode.Scalar {
      var value: UInt32 = 0
      let start = position
      while let scalar = next, scalar.isASCII, let digit = Character(scalar).hexDigitValue, position - start < 6 {
        value = value << 4 | UInt32(digit)
        position += 1
      }
      guard position > start, take("}"), let scalar = Unicode.Scalar(value) else {
        throw error(.malformed, seenHere, "up to six hexadecimal digits of a Unicode scalar, then '}'")
      }
      return scalar
    }
  }
}

extension ScalarSet {
  /// The one scalar of the set; nil if there are more or none.
  var single: UInt32? {
    guard ranges.count == 1, ranges[0].lowerBound == ranges[0].upperBound else { return nil }
    return ranges[0].lowerBound
  }
}
