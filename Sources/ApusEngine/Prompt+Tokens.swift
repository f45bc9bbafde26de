import ApusModels
import ApusText

extension LoadedModel {
  /// The tokens of a prompt. Throws ``GenerationError/noChatTemplate(model:)`` and `TemplateError`.
  ///
  /// A caller with many chats keeps a ``ChatFormatter``, which costs a pass over the vocabulary.
  public func tokens(of prompt: Prompt) throws -> [Int32] {
    switch prompt {
    case .text(let text): tokenizer.encode(text)
    case .tokens(let tokens): tokens
    case .chat(let messages, let tools): try ChatFormatter(self).tokens(messages: messages, tools: tools)
    }
  }
}
