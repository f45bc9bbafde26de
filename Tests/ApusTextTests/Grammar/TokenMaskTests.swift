@testable import ApusText
import Testing

@Suite struct TokenMasks {
  /// All texts of one to three letters out of three, some twice, and bytes that no grammar here allows.
  static let vocabulary: FixtureVocabulary = {
    let letters = ["a", "b", "c"]
    var texts = letters + letters.flatMap { a in letters.map { a + $0 } }
    texts += letters.flatMap { a in texts.filter { $0.count == 2 }.map { a + $0 } }
    return FixtureVocabulary(texts + ["ab", "a", "", "x", "ax", "abcabc"])
  }()

  @Test("On random grammars every mask equals trying each token on a slow recogniser")
  func masksAgainstEarley() throws {
    let seed = UInt64.random(in: 0...UInt64.max)
    print("seed: \(seed)")
    var random = GrammarGenerator(seed: seed)
    let trie = VocabularyTrie(Self.vocabulary)
    var compiled = 0
    var masks = 0
    var inexact = 0
    while compiled < 60 {
      let source = RandomGrammar(&random)
      var reference = EarleyRecognizer(source.rules)
      let grammar: Grammar
      do throws(GrammarError) {
        grammar = try Grammar(ebnf: source.text)
      } catch {
        // Left-recursive and empty ones; the latter must be empty for the recogniser too.
        if error.kind == .unsatisfiable { #expect(!reference.begins, "\(source.text)") }
        #expect([.unsatisfiable, .unsupported].contains(error.kind), "\(error)")
        continue
      }
      compiled += 1
      var matcher = TokenGrammar(grammar, vocabulary: trie).makeMatcher()
      var text: [UInt8] = []
      for _ in 0..<6 {
        #expect(reference.begins)
        let mask = matcher.mask()
        guard matcher.isExact else {
          inexact += 1
          let isSound = mask.tokens.filter { $0 != Self.vocabulary.end }.allSatisfy { token in
            reference.advanced(by: Self.vocabulary.bytes(of: token)).begins
          }
          #expect(isSound && (reference.ends || !matcher.canEnd), "\(source.text) after \(text)")
          break
        }
        #expect(matcher.canEnd == reference.ends, "\(source.text) after \(text)")
        masks += 1
        var wrong: [Int32] = []
        for token in 0..<Self.vocabulary.end {
          let bytes = Self.vocabulary.bytes(of: token)
          let isAllowed = !bytes.isEmpty && reference.advanced(by: bytes).begins
          if mask.contains(token) != isAllowed { wrong.append(token) }
          if matcher.allows(token) != isAllowed { wrong.append(token) }
        }
        #expect(wrong.isEmpty, "\(source.text) after \(String(decoding: text, as: UTF8.self)): \(wrong)")
        #expect(mask.contains(Self.vocabulary.end) == reference.ends)
        #expect(!mask.contains(Self.vocabulary.control))
        let forced = matcher.forcedBytes()
        for count in 0..<min(forced.count, 6) {
          let further = reference.advanced(by: forced[..<count])
          #expect(!further.ends)
          for byte in UInt8(ascii: "a")...UInt8(ascii: "c") {
            #expect(further.advanced(by: [byte]).begins == (byte == forced[count]))
          }
        }
        let choices = mask.tokens.filter { $0 != Self.vocabulary.end }
        guard let token = choices.randomElement(using: &random), matcher.accept(token) else { break }
        text += Self.vocabulary.bytes(of: token)
        reference = reference.advanced(by: Self.vocabulary.bytes(of: token))
        #expect(matcher.checkInvariants())
      }
    }
    #expect(masks > 2 * inexact, "\(masks) masks compared, \(inexact) grammars too ambiguous")
  }

  @Test("A refused token changes nothing, a copy goes its own way, and the end is final")
  func valueSemantics() throws {
    let trie = VocabularyTrie(Self.vocabulary)
    var matcher = TokenGrammar(try Grammar(regex: "ab(c|a)?"), vocabulary: trie).makeMatcher()
    let before = matcher.mask()
    for token in [1, -1, Self.vocabulary.end, Self.vocabulary.control, Int32(Self.vocabulary.vocabularySize)] {
      let isAccepted = matcher.accept(token)
      #expect(!isAccepted, "token \(token)")
    }
    #expect(matcher.mask() == before)
    #expect(matcher.forcedBytes() == Array("ab".utf8))
    matcher.advance("a".utf8)
    var fork = matcher
    fork.advance("bc".utf8)
    #expect(fork.isComplete && !matcher.canEnd)
    #expect(fork.mask().tokens == [Self.vocabulary.end])
    let hasEnded = fork.accept(Self.vocabulary.end)
    #expect(hasEnded && fork.hasEnded && fork.isComplete && !fork.allows(0))
    #expect(fork.mask().tokens == [Self.vocabulary.end] && fork.forcedBytes().isEmpty)
    matcher.advance("b".utf8)
    #expect(matcher.canEnd && !matcher.isComplete && matcher.forcedBytes().isEmpty)
  }

  @Test("Applying a mask leaves the allowed logits and no others")
  func logits() throws {
    let trie = VocabularyTrie(Self.vocabulary)
    let mask = TokenGrammar(try Grammar(regex: "a[ab]*"), vocabulary: trie).makeMatcher().mask()
    var logits = (0..<(Self.vocabulary.vocabularySize + 70)).map { Float($0) }
    logits.withUnsafeMutableBufferPointer { mask.apply(to: $0) }
    for (token, value) in logits.enumerated() {
      #expect(value == (mask.contains(Int32(token)) ? Float(token) : -.infinity))
    }
    #expect(mask.count == mask.tokens.count && !mask.isEmpty)
    #expect(mask.tokens.contains(0) && !mask.tokens.contains(1))
    var short: [Float] = [1, 2]
    short.withUnsafeMutableBufferPointer { mask.apply(to: $0) }
    #expect(short == [1, -.infinity])
  }

  @Test("Tokens that cut through a character are allowed where the character is")
  func splitCharacters() throws {
    let pieces: [[UInt8]] = [
      [0xC3], [0xA9], [0xC3, 0xA9], [0xF0, 0x9F], [0x9F], [0x8E], [0x89], [0xFF], [0xED], [0xA0], [0x22],
    ]
    let vocabulary = FixtureVocabulary(pieces)
    var matcher = TokenGrammar(
      try Grammar(jsonSchema: #"{"type":"string","maxLength":2}"#), vocabulary: VocabularyTrie(vocabulary)
    ).makeMatcher()
    matcher.advance("\"".utf8)
    #expect(matcher.mask().tokens == [0, 2, 3, 8, 10])
    matcher.advance([0xED])
    #expect(matcher.mask().tokens == [4, 5, 6])
    // U+D7xx needs 0x80 to 0x9F after 0xED: no surrogates.
    #expect(!matcher.allows(9))
  }

  @Test("Many threads on one grammar see the same masks")
  func threads() async throws {
    let grammar = TokenGrammar(try Grammar(regex: "([ab]{2,5}c)*"), vocabulary: VocabularyTrie(Self.vocabulary))
    func trace(_ seed: UInt64) -> [[Int32]] {
      var random = GrammarGenerator(seed: seed)
      var matcher = grammar.makeMatcher()
      var output: [[Int32]] = []
      for _ in 0..<60 {
        let tokens = matcher.mask().tokens
        output.append(tokens)
        guard let token = tokens.filter({ $0 != Self.vocabulary.end }).randomElement(using: &random) else { break }
        guard matcher.accept(token) else { break }
      }
      return output
    }
    let expected = (0..<8).map { trace(UInt64($0)) }
    await withTaskGroup(of: (Int, [[Int32]]).self) { group in
      for index in 0..<8 { group.addTask { (index, trace(UInt64(index))) } }
      for await (index, result) in group { #expect(result == expected[index]) }
    }
  }

  @Test("A full automaton is begun anew and sequences move over")
  func renewal() throws {
    // Every depth and every count is a state of its own: some 100,000 of them.
    let grammar = TokenGrammar(
      try Grammar(ebnf: "root ::= \"(\" root \")\" | [a-c]{0,1000000}"),
      vocabulary: VocabularyTrie(FixtureVocabulary.bytes(and: [])))
    var matcher = grammar.makeMatcher()
    let depth = 30_000
    for _ in 0..<depth { matcher.advance("(".utf8) }
    var open = matcher
    for _ in 0..<depth { matcher.advance("a".utf8) }
    for _ in 0..<depth { matcher.advance(")".utf8) }
    #expect(matcher.isComplete)
    open.advance("abc)".utf8)
    #expect(!open.canEnd)
    open.advance(Array(repeating: UInt8(ascii: ")"), count: depth - 1))
    #expect(open.isComplete)
  }
}

@Suite struct HostileGrammars {
  static let sources: [(name: String, make: @Sendable () throws(GrammarError) -> Grammar)] = {
    let deep = String(repeating: "(", count: 100_000)
    let huge = String(repeating: "a", count: 10_000_000)
    let optional = String(repeating: "a?", count: 60_000)
    let wide = "{\"enum\":[" + (0..<60_000).map { "\"k\($0)\"" }.joined(separator: ",") + "]}"
    var references = "{\"$defs\":{\"d0\":{\"type\":\"null\"}"
    for level in 1...60 {
      let part = "{\"$ref\":\"#/$defs/d\(level - 1)\"}"
      references += ",\"d\(level)\":{\"allOf\":[\(part),\(part)]}"
    }
    references += "},\"$ref\":\"#/$defs/d60\"}"
    let doubling = references
    let product =
      "{\"allOf\":["
      + (0..<12).map { _ in "{\"anyOf\":[" + (0..<6).map { "{\"minimum\":\($0)}" }.joined(separator: ",") + "]}" }
      .joined(separator: ",") + "]}"
    let nested = String(repeating: "{\"items\":", count: 200) + "{}" + String(repeating: "}", count: 200)
    let deeper = String(repeating: "{\"items\":", count: 20_000) + "{}" + String(repeating: "}", count: 20_000)
    let members = "{\"properties\":{" + (0..<12_000).map { "\"k\($0)\":{}" }.joined(separator: ",") + "}}"
    let chain = (0..<9_000).map { "r\($0) ::= r\($0 + 1) | \"\"\n" }.joined() + "r9000 ::= \"a\"\nroot ::= r0 \"b\""
    return [
      ("a regex of 10 MB", { () throws(GrammarError) in try Grammar(regex: huge) }),
      ("100,000 groups", { () throws(GrammarError) in try Grammar(regex: deep) }),
      ("60,000 optional letters", { () throws(GrammarError) in try Grammar(regex: optional) }),
      ("a grammar of 10 MB", { () throws(GrammarError) in try Grammar(ebnf: "root ::= \"" + huge + "\"") }),
      ("100,000 groups of GBNF", { () throws(GrammarError) in try Grammar(ebnf: "root ::= " + deep) }),
      ("a schema of 10 MB", { () throws(GrammarError) in try Grammar(jsonSchema: "{\"const\":\"" + huge + "\"}") }),
      ("an enumeration of 500 kB", { () throws(GrammarError) in try Grammar(jsonSchema: wide) }),
      ("2^60 merged references", { () throws(GrammarError) in try Grammar(jsonSchema: doubling) }),
      ("6^12 combined alternatives", { () throws(GrammarError) in try Grammar(jsonSchema: product) }),
      ("20,000 nested schemas", { () throws(GrammarError) in try Grammar(jsonSchema: deeper) }),
      ("12,000 properties", { () throws(GrammarError) in try Grammar(jsonSchema: members) }),
      ("a chain of 9,000 rules", { () throws(GrammarError) in try Grammar(ebnf: chain) }),
      ("a choice of 10 MB", { () throws(GrammarError) in try Grammar(choice: [huge]) }),
      (
        "an endless allOf",
        { () throws(GrammarError) in try Grammar(jsonSchema: ##"{"allOf":[{"$ref":"#"},{"type":"null"}]}"##) }
      ),
      (
        "200 nested schemas",
        { () throws(GrammarError) in
          let grammar = try Grammar(jsonSchema: nested)
          throw GrammarError(.limit, path: "", seen: "\(grammar.stateCount) states, which are few", expected: "")
        }
      ),
    ]
  }()

  @Test("Bombs are refused with an error and no crash", arguments: sources.indices)
  func bombs(_ index: Int) {
    let start = ContinuousClock.now
    let error = refusal(Self.sources[index].make)
    // Far above what any takes in a debug build, far below what one whose cost is quadratic would.
    #expect(ContinuousClock.now - start < .seconds(10), "\(Self.sources[index].name)")
    #expect(error != nil, "\(Self.sources[index].name) should be refused")
    #expect((error?.description.utf8.count ?? 0) < 2_000)
  }

  @Test("Counted repetitions within each other cost no states")
  func nestedCounts() throws {
    let grammar = try Grammar(regex: "((a{1000}){1000}b?){1000}")
    #expect(grammar.stateCount < 50)
    #expect(grammar.begins(String(repeating: "a", count: 5_000)))
  }

  @Test("An extremely ambiguous grammar loses texts, but none of its prefixes is a dead end")
  func ambiguity() throws {
    let grammar = try Grammar(regex: "(a|b)*a(a|b){600}(c|d)")
    var matcher = grammar.matcher()
    var random = GrammarGenerator(seed: 1)
    for _ in 0..<1_500 {
      matcher.advance([random.chance(50) ? UInt8(ascii: "a") : UInt8(ascii: "b")])
      #expect(!matcher.mask().isEmpty)
    }
  }
}
