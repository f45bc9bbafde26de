import ApusModels
import ApusText

/// A conversation with one model: it keeps the messages, and the generator keeps their keys and values, so that each turn
/// computes only what is new.
///
/// ```swift
/// let chat = try ChatSession(model, system: "You answer in one sentence.")
/// let answer = try chat.send("What is a swift?") { print($0, terminator: "") }
/// ```
///
/// Not `Sendable`: it belongs to one thread.
public final class ChatSession {
  /// The conversation so far; the system message, if any, comes first.
  public private(set) var messages: [ChatMessage] = []
  public var options: GenerationOptions
  private let formatter: ChatFormatter
  private let generator: TextGenerator

  /// Throws ``GenerationError/noChatTemplate(model:)``, and what ``TextGenerator`` throws.
  public init(
    _ model: LoadedModel, system: String? = nil, options: GenerationOptions = .init(), runner: RunnerOptions = .init()
  ) throws {
    formatter = try ChatFormatter(model)
    generator = try TextGenerator(model, runner)
    self.options = options
    self.system = system
    reset()
  }

  /// The system message; changing it begins a new conversation.
  public var system: String? {
    didSet { reset() }
  }

  /// Begins a new conversation.
  /// Bytes that the model and the conversation so far have taken.
  public var memory: MemoryReport { generator.memory }

  public func reset() {
    messages = system.map { [ChatMessage(role: "system", content: $0)] } ?? []
  }

  /// Says something and waits for the answer, whose text `onText` sees as it is written.
  ///
  /// A cancelled answer stays in the conversation as far as it got. After an error, such as a full context, the
  /// conversation is as before.
  @discardableResult
  public func send(
    _ text: String, cancellation: Cancellation? = nil, onText: (String) throws -> Void = { _ in }
  ) throws -> Generation {
    let asked = messages + [ChatMessage(role: "user", content: text)]
    let prompt = try formatter.tokens(messages: asked.map(\.jinjaValue))
    let answer = try generator.generate(prompt, options, cancellation: cancellation) { event in
      switch event {
      case .started, .prompt: break
      case .token(let token): if !token.text.isEmpty { try onText(token.text) }
      case .finished(let generation): if !generation.tail.isEmpty { try onText(generation.tail) }
      }
    }
    messages = asked + [ChatMessage(role: "assistant", content: answer.text)]
    return answer
  }
}
