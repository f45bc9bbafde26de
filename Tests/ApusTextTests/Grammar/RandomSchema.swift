import ApusText

/// A random JSON Schema out of the supported subset, as text.
struct RandomSchema {
  private var random: GrammarGenerator
  private static let names = ["a", "ab", "name", "é", "x y", "\\\"q", "id"]
  private static let patterns = [
    "^[a-c]+$", "^(ab|c)*$", "[0-9]{2}", "^x", "z$", "^\\\\d{3}-\\\\d{2}$", "^[^a-y]{1,4}$", "a.c",
  ]
  private static let formats = ["date", "time", "date-time", "uuid", "email", "ipv4"]

  static func make(_ seed: UInt64) -> String {
    var maker = RandomSchema(random: GrammarGenerator(seed: seed))
    let recursive = maker.random.chance(30)
    let schema = maker.schema(depth: 0, recursive: recursive)
    guard recursive else { return schema }
    let leaf = maker.schema(depth: 2, recursive: false)
    let node =
      "{\"type\":\"object\",\"properties\":{\"leaf\":\(leaf),\"next\":{\"anyOf\":[{\"type\":\"null\"},"
      + "{\"$ref\":\"#/$defs/node\"}]}},\"required\":[\"next\"],\"additionalProperties\":false}"
    return "{\"$defs\":{\"node\":\(node)},\"type\":\"array\",\"items\":\(schema),\"maxItems\":3}"
  }

  private init(random: GrammarGenerator) { self.random = random }

  private mutating func schema(depth: Int, recursive: Bool) -> String {
    if recursive && random.chance(20) { return "{\"$ref\":\"#/$defs/node\"}" }
    switch random.below(depth < 3 ? 12 : 7) {
    case 0: return string()
    case 1: return number("integer")
    case 2: return number("number")
    case 3: return "{\"type\":\"\(random.chance(50) ? "boolean" : "null")\",\"title\":\"t\"}"
    case 4: return "{\"enum\":[\"x\",\"y\\n\",3,1.5,null,[1],{\"k\":\"v\"}]}"
    case 5: return "{\"const\":\(random.chance(50) ? "\"fixed\"" : "[true,{}]")}"
    case 6: return "{\"type\":[\"string\",\"null\",\"integer\"],\"maxLength\":3,\"minimum\":-2}"
    case 7: return array(depth: depth, recursive: recursive)
    case 8:
      let parts = (0..<(1 + random.below(3))).map { _ in schema(depth: depth + 1, recursive: recursive) }
      return "{\"anyOf\":[\(parts.joined(separator: ","))],\"description\":\"d\"}"
    case 9:
      let extra = schema(depth: depth + 2, recursive: recursive)
      return "{\"allOf\":[\(object(depth: depth, recursive: recursive, isOpen: true)),"
        + "{\"type\":\"object\",\"properties\":{\"extra\":\(extra)},\"required\":[\"extra\"]}]}"
    default: return object(depth: depth, recursive: recursive, isOpen: random.chance(40))
    }
  }

  private mutating func string() -> String {
    switch random.below(4) {
    case 0: return "{\"type\":\"string\",\"pattern\":\"\(Self.patterns[random.below(Self.patterns.count)])\"}"
    case 1: return "{\"type\":\"string\",\"format\":\"\(Self.formats[random.below(Self.formats.count)])\"}"
    case 2:
      let minimum = random.below(4)
      return "{\"type\":\"string\",\"minLength\":\(minimum),\"maxLength\":\(minimum + random.below(6))}"
    default:
      let pattern = Self.patterns[random.below(Self.patterns.count)]
      return "{\"type\":\"string\",\"pattern\":\"\(pattern)\",\"minLength\":3,\"maxLength\":9}"
    }
  }

  private mutating func number(_ type: String) -> String {
    let low = Int.random(in: -300...300, using: &random)
    let high = low + 1 + random.below(400)
    switch random.below(5) {
    case 0: return "{\"type\":\"\(type)\"}"
    case 1: return "{\"type\":\"\(type)\",\"minimum\":\(low)}"
    case 2: return "{\"type\":\"\(type)\",\"exclusiveMaximum\":\(high).25}"
    case 3: return "{\"type\":\"\(type)\",\"minimum\":\(low).5,\"maximum\":\(high + 1).5}"
    default: return "{\"type\":\"\(type)\",\"exclusiveMinimum\":\(low),\"exclusiveMaximum\":\(high + 1)}"
    }
  }

  private mutating func array(depth: Int, recursive: Bool) -> String {
    let minimum = random.below(3)
    let maximum = minimum + random.below(3)
    var parts = ["\"type\":\"array\"", "\"minItems\":\(minimum)", "\"maxItems\":\(maximum)"]
    if random.chance(30) {
      let first = schema(depth: depth + 1, recursive: recursive)
      parts.append("\"prefixItems\":[\(first),{\"type\":\"boolean\"}]")
    }
    if random.chance(80) { parts.append("\"items\":\(schema(depth: depth + 1, recursive: recursive))") }
    return "{\(parts.joined(separator: ","))}"
  }

  private mutating func object(depth: Int, recursive: Bool, isOpen: Bool) -> String {
    var members: [String] = []
    var required: [String] = []
    for name in Self.names.shuffled(using: &random).prefix(random.below(5)) {
      members.append("\"\(name)\":\(schema(depth: depth + 1, recursive: recursive))")
      if random.chance(50) { required.append("\"\(name)\"") }
    }
    var parts = ["\"type\":\"object\"", "\"properties\":{\(members.joined(separator: ","))}"]
    if random.chance(80) { parts.append("\"required\":[\(required.joined(separator: ","))]") }
    if !isOpen {
      parts.append("\"additionalProperties\":false")
    } else if random.chance(60) {
      parts.append("\"additionalProperties\":\(schema(depth: depth + 2, recursive: false))")
    }
    return "{\(parts.joined(separator: ","))}"
  }
}
