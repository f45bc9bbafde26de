import ApusText
import Foundation
import Testing

@Suite struct SchemaWalks {
  static let pieces = [
    "{\"", "\": ", "\":", "\",", ", \"", "\"}", "\"]", "]}", "}}", ", ", "\n  ", "\n", " {", "true", "false", "null",
    "10", "12",
    "ab", "abc", "name", "x y", "\\\"q", "\\n", "\\u00e9", "é", "日本", "🎉", "-01", "2024-", "T12", "Z\"", "extra",
    "next", "leaf",
  ]
  static let vocabulary = FixtureVocabulary.bytes(and: pieces)
  static let trie = VocabularyTrie(vocabulary)

  /// A text of the grammar: some random tokens, then those that end it soonest. nil if it does not end.
  static func walk(_ grammar: Grammar, _ random: inout GrammarGenerator) -> String? {
    var matcher = TokenGrammar(grammar, vocabulary: trie).makeMatcher()
    var bytes: [UInt8] = []
    let freeSteps = random.below(60)
    let closing = Array("\"}]nulltruefasbcxz0123456789.-:,@TZ".utf8)
    for step in 0..<3_000 {
      let mask = matcher.mask()
      if mask.contains(vocabulary.end) && (step >= freeSteps || matcher.isComplete) {
        return String(validating: bytes, as: UTF8.self)
      }
      let tokens = mask.tokens.filter { $0 != vocabulary.end }
      let token: Int32?
      if step < freeSteps {
        // Half of the time a printable one: most allowed tokens are pieces of rare characters.
        let plain = tokens.filter { $0 >= 0x20 && $0 < 0x7F || $0 >= 256 }
        token = (random.chance(90) && !plain.isEmpty ? plain : tokens).randomElement(using: &random)
      } else {
        // A pattern may ask for more characters than the first choice has.
        let closers = closing.filter { mask.contains(Int32($0)) }
        let isQuote = closers.first == UInt8(ascii: "\"")
        // Letters of the patterns come often, or `a.c` would hardly ever be met by chance.
        let letters = closers.filter { "abc".utf8.contains($0) }
        let closer =
          isQuote || random.chance(30)
          ? closers.first
          : (random.chance(60) && !letters.isEmpty ? letters : closers).randomElement(using: &random)
        token = closer.map(Int32.init) ?? tokens.randomElement(using: &random)
      }
      guard let token, matcher.accept(token) else { return nil }
      bytes += vocabulary.bytes(of: token)
    }
    return nil
  }

  @Test("Random texts of random schemas are valid under a slow validator")
  func validity() throws {
    let environment = ProcessInfo.processInfo.environment
    let seed = environment["APUS_GRAMMAR_SEED"].flatMap { UInt64($0) } ?? UInt64.random(in: 0...UInt64.max)
    let count = environment["APUS_GRAMMAR_SCHEMAS"].flatMap { Int($0) } ?? 60
    print("seed: \(seed)")
    var random = GrammarGenerator(seed: seed)
    var samples = ""
    var walked = 0
    for _ in 0..<count {
      let schema = RandomSchema.make(random.next())
      let grammar: Grammar
      do throws(GrammarError) {
        grammar = try Grammar(
          jsonSchema: schema, options: .init(whitespace: random.chance(50) ? .none : .bounded(6), nesting: 3))
      } catch {
        // Some of them contradict themselves.
        #expect([.unsatisfiable, .unsupported].contains(error.kind), "\(schema): \(error)")
        continue
      }
      let validator = SchemaValidator(document: try JinjaValue(json: schema))
      for _ in 0..<4 {
        let text = Self.walk(grammar, &random)
        #expect(text != nil, "\(schema) should come to an end")
        guard let text else { continue }
        walked += 1
        let value = try JinjaValue(json: text)
        #expect(validator.isValid(value), "\(schema) has \(text)")
        samples += schema + "\t" + (try JinjaValue.string(text).json) + "\n"
      }
    }
    #expect(walked > count)
    // For the comparison with a reference validator: validate.py reads lines of schema, tab, text as a JSON string.
    if let path = environment["APUS_GRAMMAR_SAMPLES"] {
      try samples.write(toFile: path, atomically: true, encoding: .utf8)
    }
  }
}
