/// The parts of JSON as grammar expressions; rules that are needed twice are made once.
struct JSONSyntax {
  private(set) var characters = CharacterEncoder()
  private let options: JSONGrammarOptions
  private var spaceRule: Int?
  private var characterRule: Int?
  private var stringRule: Int?
  private var numberRule: Int?
  /// Rules of any value, by the levels of nesting it may have.
  private var valueRules: [Int] = []

  /// Digits of an integer part, and of a fraction, where the schema sets no bounds: more are not exact in a double.
  static let longestNumber = 15

  init(options: JSONGrammarOptions) { self.options = options }

  var rules: GrammarRules {
    get { characters.rules }
    // Without a copy, which would make every new rule cost as much as all before it.
    _modify { yield &characters.rules }
  }

  // MARK: Tokens

  mutating func space() -> GrammarExpression {
    guard case .bounded(let limit) = options.whitespace else { return .empty }
    if let spaceRule { return .rule(spaceRule) }
    let blank = GrammarExpression.bytes([0x20...0x20, 0x09...0x09])
    let line = GrammarExpression.sequence([
      .literals([[0x0A], [0x0D, 0x0A]]), .repetition(blank, minimum: 0, maximum: max(limit, 0)),
    ])
    let rule = characters.rules.define("space", .choice([.empty, .text(" "), line]))
    spaceRule = rule
    return .rule(rule)
  }

  mutating func comma() -> GrammarExpression { .sequence([.text(","), space()]) }

  mutating func colon() -> GrammarExpression { .sequence([.text(":"), space()]) }

  /// One character of a string in any of its spellings. Surrogates are escaped in pairs only.
  mutating func character() -> GrammarExpression {
    if let characterRule { return .rule(characterRule) }
    func hex(_ count: Int) -> GrammarExpression {
      .repetition(.bytes([0x30...0x39, 0x41...0x46, 0x61...0x66]), minimum: count, maximum: count)
    }
    let d = GrammarExpression.bytes([0x44...0x44, 0x64...0x64])
    let highSurrogate = GrammarExpression.sequence([d, .bytes([0x38...0x39, 0x41...0x42, 0x61...0x62]), hex(2)])
    let lowSurrogate = GrammarExpression.sequence([d, .bytes([0x43...0x46, 0x63...0x66]), hex(2)])
    let unit = GrammarExpression.choice([
      .sequence([.bytes([0x30...0x39, 0x41...0x43, 0x45...0x46, 0x61...0x63, 0x65...0x66]), hex(3)]),
      .sequence([d, .bytes([0x30...0x37]), hex(2)]),
      .sequence([highSurrogate, .text("\\u"), lowSurrogate]),
    ])
    let escape = GrammarExpression.sequence([
      .text("\\"),
      .choice([.literals("\"\\/bfnrt".utf8.map { [$0] }), .sequence([.text("u"), unit])]),
    ])
    let plain = characters.utf8(CharacterEncoder.escaped.inverted)
    let rule = characters.rules.define("character", .choice([plain, escape]))
    characterRule = rule
    return .rule(rule)
  }

  mutating func string() -> GrammarExpression {
    if let stringRule { return .rule(stringRule) }
    let rule = characters.rules.define("string", string(minimum: 0, maximum: nil))
    stringRule = rule
    return .rule(rule)
  }

  /// A string of `minimum` to `maximum` characters (Unicode scalars).
  mutating func string(minimum: Int, maximum: Int?) -> GrammarExpression {
    .sequence([.text("\""), .repetition(character(), minimum: minimum, maximum: maximum), .text("\"")])
  }

  /// A string whose text matches the pattern, spelled with no more escapes than needed.
  mutating func string(_ pattern: TextPattern) -> GrammarExpression {
    .sequence([.text("\""), characters.json(pattern), .text("\"")])
  }

  /// A string whose text the counted pattern allows: one rule for each of its places.
  mutating func string(_ pattern: CountedPattern) -> GrammarExpression {
    let places = pattern.places.map { _ in characters.rules.reserve("pattern") }
    var sets: [GrammarExpression] = []
    for set in pattern.sets { sets.append(characters.json(set)) }
    for (index, place) in pattern.places.enumerated() {
      var alternatives: [GrammarExpression] = place.canEnd ? [.text("\"")] : []
      for step in place.steps { alternatives.append(.sequence([sets[step.set], .rule(places[step.place])])) }
      characters.rules.set(places[index], .choice(alternatives))
    }
    return .sequence([.text("\""), .rule(places[0])])
  }

  static func quoted(_ text: String) -> [UInt8] { [0x22] + CharacterEncoder.json(text) + [0x22] }

  /// A string, spelled with no more escapes than needed, that is none of `names`. One rule for each prefix of a name.
  mutating func string(except names: [String]) -> GrammarExpression {
    if names.isEmpty { return string() }
    var children: [[UInt32: Int]] = [[:]]
    var isName = [false]
    for name in names {
      var node = 0
      for scalar in name.unicodeScalars {
        if let child = children[node][scalar.value] {
          node = child
        } else {
          children[node][scalar.value] = children.count
          node = children.count
          children.append([:])
          isName.append(false)
        }
      }
      isName[node] = true
    }
    let rest = GrammarExpression.rule(
      characters.rules.define(
        "rest-of-key",
        .sequence([.repetition(characters.sharedJSON(ScalarSet.all), minimum: 0, maximum: nil), .text("\"")])))
    let nodes = children.indices.map { _ in characters.rules.reserve("key") }
    for (node, branches) in children.enumerated() {
      let taken = ScalarSet(branches.keys.map { $0...$0 })
      var alternatives: [GrammarExpression] = [.sequence([characters.sharedJSON(taken.inverted), rest])]
      if !isName[node] { alternatives.append(.text("\"")) }
      for (scalar, child) in branches.sorted(by: { $0.key < $1.key }) {
        alternatives.append(.sequence([characters.json(ScalarSet([scalar...scalar])), .rule(nodes[child])]))
      }
      characters.rules.set(nodes[node], .choice(alternatives))
    }
    return .sequence([.text("\""), .rule(nodes[0])])
  }

  mutating func number() -> GrammarExpression {
    if let numberRule { return .rule(numberRule) }
    let digit = DecimalRange.digit
    let fraction = GrammarExpression.sequence([
      .text("."), .repetition(digit, minimum: 1, maximum: Self.longestNumber),
    ])
    let exponent = GrammarExpression.sequence([
      .literals([[0x65], [0x45]]), .literals([[], [0x2B], [0x2D]]), .repetition(digit, minimum: 1, maximum: 2),
    ])
    let rule = characters.rules.define(
      "number", .sequence([DecimalRange.anyInteger, .optional(fraction), .optional(exponent)]))
    numberRule = rule
    return .rule(rule)
  }

  // MARK: Values

  /// Any value with at most `nesting` levels of objects and arrays.
  mutating func anyValue(nesting: Int) -> GrammarExpression {
    while valueRules.count <= max(nesting, 0) {
      var alternatives = [string(), number(), .literals(["true", "false", "null"].map { Array($0.utf8) })]
      if let inner = valueRules.last { alternatives += [object(of: .rule(inner)), array(of: .rule(inner))] }
      valueRules.append(characters.rules.define("value", .choice(alternatives)))
    }
    return .rule(valueRules[max(nesting, 0)])
  }

  mutating func anyValue() -> GrammarExpression { anyValue(nesting: min(options.nesting, GrammarLimits.nesting)) }

  /// The rule of any object, for the whole text.
  mutating func anyObject() -> Int {
    let inner = anyValue(nesting: min(options.nesting, GrammarLimits.nesting) - 1)
    let object = object(of: inner)
    return characters.rules.define("object", object)
  }

  private mutating func object(of value: GrammarExpression) -> GrammarExpression {
    let pair = GrammarExpression.sequence([string(), colon(), value])
    return braces("{", list(pair, minimum: 1, maximum: nil), canBeEmpty: true, "}")
  }

  private mutating func array(of value: GrammarExpression) -> GrammarExpression {
    braces("[", list(value, minimum: 1, maximum: nil), canBeEmpty: true, "]")
  }

  /// `item`s with commas between; `minimum` is at least 1.
  mutating func list(_ item: GrammarExpression, minimum: Int, maximum: Int?) -> GrammarExpression {
    .sequence([
      item,
      .repetition(.sequence([comma(), item]), minimum: minimum - 1, maximum: maximum.map { $0 - 1 }),
    ])
  }

  /// An object or array around its content, which is not empty itself; nil: there is none.
  mutating func braces(
    _ opening: String, _ content: GrammarExpression?, canBeEmpty: Bool, _ closing: String
  ) -> GrammarExpression {
    guard let content else { return .sequence([.text(opening), space(), .text(closing)]) }
    let inside = GrammarExpression.sequence([content, space()])
    return .sequence([.text(opening), space(), canBeEmpty ? .optional(inside) : inside, .text(closing)])
  }

  /// Exactly this value; objects keep their order.
  mutating func value(_ value: JinjaValue) throws(GrammarError) -> GrammarExpression {
    switch value {
    case .string(let text): return .literal(Self.quoted(text))
    case .list(let items):
      var parts: [GrammarExpression] = []
      for item in items {
        if !parts.isEmpty { parts.append(comma()) }
        parts.append(try self.value(item))
      }
      return braces("[", parts.isEmpty ? nil : .sequence(parts), canBeEmpty: false, "]")
    case .mapping(let mapping):
      var parts: [GrammarExpression] = []
      for (key, value) in zip(mapping.keys, mapping.values) {
        if !parts.isEmpty { parts.append(comma()) }
        parts += [.literal(Self.quoted(key.text)), colon(), try self.value(value)]
      }
      return braces("{", parts.isEmpty ? nil : .sequence(parts), canBeEmpty: false, "}")
    default:
      do {
        return .text(try value.json)
      } catch {
        throw GrammarError(.malformed, path: "#", seen: error.description, expected: "a JSON value")
      }
    }
  }
}
