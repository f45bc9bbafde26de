/// What may stand at a place of a text, in bytes.
indirect enum GrammarExpression: Sendable {
  /// One byte out of any of the ranges.
  case bytes([ClosedRange<UInt8>])
  /// These bytes.
  case literal([UInt8])
  /// Any one of these byte strings; compiled to a trie.
  case literals([[UInt8]])
  case sequence([GrammarExpression])
  /// Any one of these; none of them can match if the list is empty.
  case choice([GrammarExpression])
  /// `maximum` nil means any number.
  case repetition(GrammarExpression, minimum: Int, maximum: Int?)
  /// What the rule of this number says.
  case rule(Int)

  static let empty = GrammarExpression.sequence([])
  static let never = GrammarExpression.choice([])

  static func optional(_ expression: GrammarExpression) -> GrammarExpression { .choice([expression, .empty]) }
  static func text(_ text: String) -> GrammarExpression { .literal(Array(text.utf8)) }
}

/// A table of named rules; a rule may be referred to before it is set.
struct GrammarRules: Sendable {
  private(set) var expressions: [GrammarExpression] = []
  private(set) var names: [String] = []

  /// A new rule that matches nothing until it is set.
  mutating func reserve(_ name: String) -> Int {
    expressions.append(.never)
    names.append(name)
    return expressions.count - 1
  }

  mutating func set(_ rule: Int, _ expression: GrammarExpression) { expressions[rule] = expression }

  mutating func define(_ name: String, _ expression: GrammarExpression) -> Int {
    let rule = reserve(name)
    expressions[rule] = expression
    return rule
  }

  /// Adds another table's rules behind these; returns how far their numbers move.
  mutating func append(_ other: GrammarRules) -> Int {
    let offset = expressions.count
    expressions += other.expressions.map { $0.moved(by: offset) }
    names += other.names
    return offset
  }
}

extension GrammarExpression {
  /// The same expression for a table in which every rule's number is `offset` higher.
  fileprivate func moved(by offset: Int) -> GrammarExpression {
    switch self {
    case .bytes, .literal, .literals: self
    case .sequence(let parts): .sequence(parts.map { $0.moved(by: offset) })
    case .choice(let parts): .choice(parts.map { $0.moved(by: offset) })
    case .repetition(let part, let minimum, let maximum):
      .repetition(part.moved(by: offset), minimum: minimum, maximum: maximum)
    case .rule(let rule): .rule(rule + offset)
    }
  }
}
