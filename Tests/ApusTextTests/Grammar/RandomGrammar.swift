/// A random context-free grammar over three letters, as GBNF text and as plain rules for the slow recogniser.
struct RandomGrammar {
  private(set) var text = ""
  private(set) var rules: [[[EarleyRecognizer.Symbol]]] = []
  private let names: Int

  init(_ random: inout GrammarGenerator) {
    names = 1 + random.below(4)
    rules = Array(repeating: [], count: names)
    for rule in 0..<names {
      text += "\(Self.name(rule)) ::= "
      rules[rule] = alternatives(&random, depth: 0)
      text += "\n"
    }
  }

  private static func name(_ rule: Int) -> String { rule == 0 ? "root" : "r\(rule)" }

  private mutating func alternatives(_ random: inout GrammarGenerator, depth: Int) -> [[EarleyRecognizer.Symbol]] {
    var output: [[EarleyRecognizer.Symbol]] = []
    for index in 0..<(1 + random.below(3)) {
      if index > 0 { text += " | " }
      var sequence: [EarleyRecognizer.Symbol] = []
      for _ in 0..<random.below(4) { sequence += item(&random, depth: depth) }
      if sequence.isEmpty { text += "\"\"" }
      output.append(sequence)
    }
    return output
  }

  private mutating func item(_ random: inout GrammarGenerator, depth: Int) -> [EarleyRecognizer.Symbol] {
    var symbols: [EarleyRecognizer.Symbol]
    switch random.below(depth < 2 ? 6 : 5) {
    case 0:
      let literal = (0..<(1 + random.below(2))).map { _ in UInt8(ascii: "a") + UInt8(random.below(3)) }
      text += "\"\(String(decoding: literal, as: UTF8.self))\""
      symbols = literal.map { .bytes([$0]) }
    case 1, 2:
      let first = UInt8(ascii: "a") + UInt8(random.below(2))
      text += "[\(Character(Unicode.Scalar(first)))-c]"
      symbols = [.bytes(Set(first...UInt8(ascii: "c")))]
    case 3, 4:
      let rule = random.below(names)
      text += Self.name(rule)
      symbols = [.rule(rule)]
    default:
      text += "("
      let inner = alternatives(&random, depth: depth + 1)
      text += ")"
      symbols = [add(inner)]
    }
    switch random.below(8) {
    case 0:
      text += "?"
      symbols = [add([[], symbols])]
    case 1, 2:
      let loop = add([])
      rules[rules.count - 1] = [[], symbols + [loop]]
      let isPlus = random.chance(50)
      text += isPlus ? "+" : "*"
      symbols = isPlus ? symbols + [loop] : [loop]
    case 3:
      let minimum = random.below(3)
      let maximum = minimum + random.below(3)
      text += "{\(minimum),\(maximum)}"
      let once = symbols
      symbols = []
      for _ in 0..<minimum { symbols += once }
      for _ in minimum..<maximum { symbols.append(add([[], once])) }
    default: break
    }
    text += " "
    return symbols
  }

  private mutating func add(_ alternatives: [[EarleyRecognizer.Symbol]]) -> EarleyRecognizer.Symbol {
    rules.append(alternatives)
    return .rule(rules.count - 1)
  }
}
