import ApusModels
import ApusText
import Synchronization

/// A text generator with what every engine for it needs beside the weights: made once, shared by engines that come and go.
struct ServedModel: Sendable {
  let model: LoadedModel
  private let trie: SharedTrie
  /// Nil for a model without a template.
  private let formatter: ChatFormatter?

  /// Throws ``GenerationError/wrongKindOfModel(model:architecture:expected:)`` for an encoder. O(vocabulary).
  init(_ model: LoadedModel) throws {
    try model.requireGenerator()
    self.model = model
    trie = SharedTrie(model.tokenizer)
    formatter = model.chatTemplate == nil ? nil : try ChatFormatter(model)
  }

  var vocabulary: VocabularyTrie { trie.value }

  /// The most tokens of one sequence under these options.
  func contextLength(_ options: RunnerOptions) -> Int { options.contextLength ?? min(model.contextLength, 4096) }

  /// Throws ``GenerationError/noChatTemplate(model:)`` and `TemplateError`.
  func tokens(of prompt: Prompt) throws -> [Int32] {
    if case .chat(let messages, let tools) = prompt, let formatter {
      return try formatter.tokens(messages: messages, tools: tools)
    }
    return try model.tokens(of: prompt)
  }
}

/// A vocabulary's trie, made when it is first asked for.
private final class SharedTrie: Sendable {
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
