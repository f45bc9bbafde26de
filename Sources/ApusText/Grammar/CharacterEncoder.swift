/// Writes characters and patterns of characters as bytes: in plain UTF-8, or as they stand inside a JSON string.
struct CharacterEncoder: Sendable {
  var rules = GrammarRules()
  private var nonASCIIRule: Int?
  private var escapesRule: Int?
  private var setRules: [ScalarSet: Int] = [:]

  /// Characters that are written with an escape inside a JSON string: those that must be, and DEL, which may stand there
  /// but which nobody means to write.
  static let escaped = ScalarSet([0x00...0x1F, 0x22...0x22, 0x5C...0x5C, 0x7F...0x7F])

  /// The set's UTF-8. All of the non-ASCII characters at once share one rule: they are most of every large set.
  mutating func utf8(_ set: ScalarSet) -> GrammarExpression {
    var single: [ClosedRange<UInt8>] = []
    var alternatives: [GrammarExpression] = []
    var rest = set
    if ScalarSet.nonASCII.ranges.allSatisfy({ whole in
      set.ranges.contains { $0.lowerBound <= whole.lowerBound && $0.upperBound >= whole.upperBound }
    }) {
      alternatives.append(.rule(nonASCII()))
      rest = set.subtracting(.nonASCII)
    }
    for sequence in rest.utf8Sequences {
      if sequence.count == 1 {
        single.append(sequence[0])
      } else {
        alternatives.append(.sequence(sequence.map { .bytes([$0]) }))
      }
    }
    if !single.isEmpty { alternatives.append(.bytes(single)) }
    return alternatives.count == 1 ? alternatives[0] : .choice(alternatives)
  }

  private mutating func nonASCII() -> Int {
    if let nonASCIIRule { return nonASCIIRule }
    let sequences = ScalarSet.nonASCII.utf8Sequences
    let rule = rules.define("non-ascii", .choice(sequences.map { .sequence($0.map { .bytes([$0]) }) }))
    nonASCIIRule = rule
    return rule
  }

  /// The set as JSON writes it inside a string: plain where it can be, else by the shortest escape.
  mutating func json(_ set: ScalarSet) -> GrammarExpression {
    var alternatives: [GrammarExpression] = []
    let plain = set.subtracting(Self.escaped)
    if !plain.isEmpty { alternatives.append(utf8(plain)) }
    let escapes = set.subtracting(plain)
    if escapes == Self.escaped {
      alternatives.append(.rule(allEscapes()))
    } else if !escapes.isEmpty {
      alternatives.append(.literals(escapes.ranges.flatMap { $0.map(Self.escape) }))
    }
    return alternatives.count == 1 ? alternatives[0] : .choice(alternatives)
  }

  /// The same, as a rule that equal sets share.
  mutating func sharedJSON(_ set: ScalarSet) -> GrammarExpression {
    if let known = setRules[set] { return .rule(known) }
    let rule = rules.define("characters", json(set))
    setRules[set] = rule
    return .rule(rule)
  }

  /// Most sets have all of them or none.
  private mutating func allEscapes() -> Int {
    if let escapesRule { return escapesRule }
    let rule = rules.define("escape", .literals(Self.escaped.ranges.flatMap { $0.map(Self.escape) }))
    escapesRule = rule
    return rule
  }

  /// The shortest escape of a character that needs one.
  private static func escape(_ scalar: UInt32) -> [UInt8] {
    switch scalar {
    case 0x22: Array("\\\"".utf8)
    case 0x5C: Array("\\\\".utf8)
    case 0x08: Array("\\b".utf8)
    case 0x09: Array("\\t".utf8)
    case 0x0A: Array("\\n".utf8)
    case 0x0C: Array("\\f".utf8)
    case 0x0D: Array("\\r".utf8)
    default: Array(("\\u" + JinjaValue.hex(scalar, digits: 4)).utf8)
    }
  }

  /// A text's bytes inside a JSON string.
  static func json(_ text: String) -> [UInt8] {
    var output: [UInt8] = []
    for scalar in text.unicodeScalars {
      if escaped.contains(scalar.value) {
        output += escape(scalar.value)
      } else {
        UTF8Text.append(scalar.value, to: &output)
      }
    }
    return output
  }

  mutating func utf8(_ pattern: TextPattern) -> GrammarExpression {
    switch pattern {
    case .characters(let set): return utf8(set)
    case .sequence(let parts): return .sequence(parts.map { utf8($0) })
    case .choice(let parts): return .choice(parts.map { utf8($0) })
    case .repetition(let part, let minimum, let maximum):
      return .repetition(utf8(part), minimum: minimum, maximum: maximum)
    }
  }

  mutating func json(_ pattern: TextPattern) -> GrammarExpression {
    switch pattern {
    case .characters(let set): return json(set)
    case .sequence(let parts): return .sequence(parts.map { json($0) })
    case .choice(let parts): return .choice(parts.map { json($0) })
    case .repetition(let part, let minimum, let maximum):
      return .repetition(json(part), minimum: minimum, maximum: maximum)
    }
  }
}
