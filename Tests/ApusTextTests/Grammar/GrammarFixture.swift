import ApusText
import Testing

/// A vocabulary of given texts, then one token that ends a generation and one control token.
struct FixtureVocabulary: Tokenizer {
  var texts: [[UInt8]]
  var specialTokens = SpecialTokens()
  let decodingStyle = DecodingStyle.plain

  init(_ texts: [[UInt8]]) {
    self.texts = texts
    specialTokens.eos = Int32(texts.count)
    specialTokens.endOfGeneration = [Int32(texts.count)]
  }

  init(_ texts: [String]) { self.init(texts.map { Array($0.utf8) }) }

  /// Every byte, and some texts of several bytes.
  static func bytes(and texts: [String]) -> FixtureVocabulary {
    FixtureVocabulary((0...255).map { [UInt8($0)] } + texts.map { Array($0.utf8) })
  }

  var end: Int32 { Int32(texts.count) }
  var control: Int32 { end + 1 }
  var vocabularySize: Int { texts.count + 2 }

  /// Not used by grammars: the text's bytes, which are the first tokens of `bytes(and:)`.
  func encode(_ text: String, options: EncodingOptions) -> [Int32] { text.utf8.map { Int32($0) } }

  func bytes(of id: Int32) -> [UInt8] {
    if id >= 0 && id < end { return texts[Int(id)] }
    return id == end ? Array("</s>".utf8) : id == control ? Array("<|x|>".utf8) : []
  }

  func kind(of id: Int32) -> TokenKind { id >= 0 && id < end ? .normal : id <= control && id >= 0 ? .control : .unused }
}

/// A small seeded generator (SplitMix64), so that a failing case can be repeated.
struct GrammarGenerator: RandomNumberGenerator {
  private var state: UInt64
  init(seed: UInt64) { state = seed }

  mutating func next() -> UInt64 {
    state &+= 0x9E37_79B9_7F4A_7C15
    var z = state
    z = (z ^ (z >> 30)) &* 0xBF58_476D_1CE4_E5B9
    z = (z ^ (z >> 27)) &* 0x94D0_49BB_1331_11EB
    return z ^ (z >> 31)
  }

  mutating func chance(_ percent: Int) -> Bool { Int.random(in: 0..<100, using: &self) < percent }

  mutating func below(_ count: Int) -> Int { Int.random(in: 0..<count, using: &self) }
}

extension Grammar {
  private static let everyByte = VocabularyTrie(FixtureVocabulary.bytes(and: []))

  func matcher() -> GrammarMatcher { TokenGrammar(self, vocabulary: Self.everyByte).makeMatcher() }

  /// Whether the grammar holds the whole text.
  func holds(_ text: String) -> Bool {
    var matcher = matcher()
    return matcher.accept(bytes: text.utf8) && matcher.canEnd
  }

  /// Whether some text of the grammar begins so.
  func begins(_ text: String) -> Bool {
    var matcher = matcher()
    return matcher.accept(bytes: text.utf8)
  }
}

/// Checks which texts a grammar holds.
func expect(
  _ grammar: Grammar, holds: [String], refuses: [String], sourceLocation: SourceLocation = #_sourceLocation
) {
  for text in holds {
    #expect(grammar.holds(text), "should hold \(text.debugDescription)", sourceLocation: sourceLocation)
  }
  for text in refuses {
    #expect(!grammar.holds(text), "should refuse \(text.debugDescription)", sourceLocation: sourceLocation)
  }
}

extension GrammarMatcher {
  /// Goes on by bytes that the grammar must allow.
  mutating func advance(_ bytes: some Sequence<UInt8>, sourceLocation: SourceLocation = #_sourceLocation) {
    let isAllowed = accept(bytes: bytes)
    #expect(isAllowed, sourceLocation: sourceLocation)
  }

  /// Goes on by a token and says whether it was allowed.
  func allows(_ token: Int32) -> Bool {
    var copy = self
    return copy.accept(token)
  }
}

/// The error of a grammar that should be refused.
func refusal(_ make: () throws(GrammarError) -> Grammar) -> GrammarError? {
  do throws(GrammarError) {
    _ = try make()
    return nil
  } catch {
    return error
  }
}
