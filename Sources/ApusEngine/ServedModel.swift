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

  /// Refuses a prompt that has more bytes than the context's tokens could stand for, before work is spent on it. O(bytes).
  func checkLength(of prompt: Prompt, contextLength: Int) throws {
    let bytes =
      switch prompt {
      case .text(let text): text.utf8.count
      case .chat(let messages, _): messages.reduce(0) { $0 + $1.contentBytes }
      case .tokens: 0
      }
    // Only a prompt that looks too long asks for the vocabulary's longest token.
    guard bytes / Self.usualTokenBytes > contextLength else { return }
    let least = bytes / max(1, vocabulary.longestToken)
    if least > contextLength { throw RunnerError.contextOverflow(tokens: least, contextLength: contextLength) }
  }

  private static let usualTokenBytes = 8

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

extension JinjaValue {
  /// Bytes of a message's text.
  fileprivate var contentBytes: Int {
    guard case .mapping(let fields) = self, case .string(let text)? = fields["content"] else { return 0 }
    return text.utf8.count
  }
}
