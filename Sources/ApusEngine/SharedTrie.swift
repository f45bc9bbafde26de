import ApusText
import Synchronization

/// A vocabulary's trie, made when it is first asked for.
final class SharedTrie: Sendable {
  private let tokenizer: any Tokenizer
  private let made = Mutex<VocabularyTrie?>(nil)

  init(_ tokenizer: any Tokenizer) { self.tokenizer = tokenizer }

  var value: VocabularyTrie {
    made.withLock { made in
      if let made { return made }
      let trie = VocabularyTrie(tokenizer)
      made = trie
      return trie
    }
  }
}
