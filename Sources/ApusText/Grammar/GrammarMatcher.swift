/// Where one sequence stands in a grammar. A value: a copy goes its own way, as a forked sequence needs.
///
///     var matcher = grammar.makeMatcher()
///     while !matcher.isComplete {
///       matcher.mask().apply(to: logits)
///       guard matcher.accept(sample(logits)) else { break }
///     }
public struct GrammarMatcher: Sendable {
  public let grammar: TokenGrammar
  private var automaton: LazyAutomaton
  private var state: Int32
  /// Whether a token that ends the generation was accepted.
  public private(set) var hasEnded = false

  init(grammar: TokenGrammar, automaton: LazyAutomaton, state: Int32) {
    self.grammar = grammar
    self.automaton = automaton
    self.state = state
  }

  /// Whether the text may end here.
  public var canEnd: Bool {
    let state = state
    return automaton.withTable { $0.accepts(state) }
  }

  /// Whether the text is whole and nothing may follow but its end.
  public var isComplete: Bool {
    let state = state
    return hasEnded || automaton.withTable { $0.accepts(state) && !$0.continues(state) }
  }

  /// Goes on by one token; false, and no change, if the grammar does not allow it here.
  ///
  /// A token that ends the generation is allowed where the text may end, and after it only another such token.
  /// O(bytes of the token) once the states are known.
  public mutating func accept(_ token: Int32) -> Bool {
    let vocabulary = grammar.vocabulary
    guard token >= 0 && Int(token) < vocabulary.vocabularySize else { return false }
    if vocabulary.endTokens.contains(token) {
      guard hasEnded || canEnd else { return false }
      hasEnded = true
      return true
    }
    let bytes = vocabulary.texts[Int(token)]
    return !bytes.isEmpty && accept(bytes: bytes)
  }

  /// Goes on by bytes, such as those of `forcedBytes()`; false, and no change, if the grammar does not allow them here.
  public mutating func accept(bytes: some Sequence<UInt8>) -> Bool {
    guard !hasEnded else { return false }
    let latest = grammar.automaton()
    var start = state
    if latest !== automaton {
      let places = automaton.withTable { $0.export(start) }
      start = latest.withTable { $0.adopt(places) }
      automaton = latest
      state = start
    }
    let bytes = Array(bytes)
    let next = automaton.withTable { $0.advance(start, bytes) }
    guard next != AutomatonTable.dead else { return false }
    state = next
    return true
  }

  /// The tokens that may come next. A mask seen before costs a look-up; a new one a walk over the vocabulary.
  ///
  /// For grammars of extreme ambiguity the mask may leave out tokens of several bytes that `accept` would take.
  public func mask() -> TokenMask {
    let vocabulary = grammar.vocabulary
    if hasEnded {
      var mask = TokenMask(vocabularySize: vocabulary.vocabularySize)
      for token in vocabulary.endTokens { mask.insert(token) }
      return mask
    }
    let state = state
    return automaton.withTable { $0.mask(state, vocabulary) }
  }

  /// The bytes that must come next, up to where there is a choice or the text may end; none after the end.
  ///
  /// They may be appended without running the model. Their last token should be chosen with what follows in mind: the
  /// model would often have merged it with the next bytes.
  public func forcedBytes() -> [UInt8] {
    guard !hasEnded else { return [] }
    let state = state
    return automaton.withTable { $0.forcedBytes(state) }
  }

  /// Whether no place was dropped so far, by this sequence or another.
  var isExact: Bool { automaton.withTable { !$0.hasLostPlaces } }

  /// See `AutomatonTable.checkInvariants`.
  func checkInvariants() -> Bool { automaton.withTable { $0.checkInvariants() } }
}
