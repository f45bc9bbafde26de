import Synchronization

/// A grammar bound to a vocabulary: what the sequences that follow one grammar share.
///
/// States and masks that one sequence has visited are ready for all others. Memory is bounded: beyond some 20,000 states
/// or 8 MB of masks the automaton is begun anew, and sequences move over with their next token.
public final class TokenGrammar: Sendable {
  public let grammar: Grammar
  public let vocabulary: VocabularyTrie
  private let current: Mutex<LazyAutomaton>

  public init(_ grammar: Grammar, vocabulary: VocabularyTrie) {
    self.grammar = grammar
    self.vocabulary = vocabulary
    current = Mutex(LazyAutomaton(grammar.network))
  }

  /// The state of a sequence that has generated nothing yet.
  public func makeMatcher() -> GrammarMatcher {
    let automaton = automaton()
    return GrammarMatcher(grammar: self, automaton: automaton, state: automaton.start)
  }

  /// The automaton for the next step, a new one if the last is full.
  func automaton() -> LazyAutomaton {
    current.withLock { automaton in
      if automaton.withTable({ $0.isFull }) { automaton = LazyAutomaton(grammar.network) }
      return automaton
    }
  }
}

extension TokenGrammar: Equatable {
  /// A grammar is equal to itself only: comparing what two allow is not decidable.
  public static func == (a: TokenGrammar, b: TokenGrammar) -> Bool { a === b }
}
