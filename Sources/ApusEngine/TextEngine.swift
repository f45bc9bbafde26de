import ApusModels
import ApusText

/// What an engine is asked to continue.
public enum Prompt: Sendable {
  /// Plain text.
  case text(String)
  case tokens([Int32])
  /// Messages, and tools if any, as the model's chat template sees them.
  case chat(messages: [JinjaValue], tools: JinjaValue? = nil)
}

/// An answer on its way.
public struct AnswerStream: Sendable {
  public var promptTokens: Int
  /// `started`, `token`…, `finished`; or an error. Dropping the stream cancels the answer.
  public var events: AsyncThrowingStream<GenerationEvent, any Error>

  public init(promptTokens: Int, events: AsyncThrowingStream<GenerationEvent, any Error>) {
    self.promptTokens = promptTokens
    self.events = events
  }
}

/// Answers requests with one model: the contract between servers and engines.
public protocol TextEngine: Sendable {
  /// The model's name.
  var name: String { get }
  var contextLength: Int { get }
  var tokenizer: any Tokenizer { get }
  /// The tokens of a prompt, as `answer` would read it. Throws what `answer` would.
  func tokens(of prompt: Prompt) throws -> [Int32]
  /// Suspends until the prompt has been checked and its answer has begun, so that a request that cannot be answered fails
  /// here and not in a stream. Cancelling the task cancels the answer.
  func answer(_ prompt: Prompt, _ options: GenerationOptions) async throws -> AnswerStream
  /// Answers what waits, refuses the rest.
  func stop()
}

/// Turns texts into vectors with one encoder: the contract between servers and encoders.
public protocol EmbeddingEngine: Sendable {
  /// The model's name.
  var name: String { get }
  /// The most tokens of one input.
  var contextLength: Int { get }
  /// Elements of a vector.
  var dimensions: Int { get }
  var tokenizer: any Tokenizer { get }
  /// One normalised vector an input `[tokens]`, in order. Throws ``RunnerError``.
  func embed(_ inputs: [[Int32]]) async throws -> [[Float]]
  func stop()
}

/// An engine that answers one request after another, in the order of arrival, on a thread of its own.
public final class SerialEngine: TextEngine {
  public let name: String
  public let contextLength: Int
  public let tokenizer: any Tokenizer
  private let model: LoadedModel
  /// Nil for a model without a template.
  private let formatter: ChatFormatter?
  private let thread: EngineThread<TextGenerator>

  /// Makes the runner on the engine's thread and waits for it. Throws what `TextGenerator.init` throws.
  public init(_ model: LoadedModel, _ options: RunnerOptions = .init()) async throws {
    self.model = model
    name = model.name
    tokenizer = model.tokenizer
    formatter = model.chatTemplate == nil ? nil : try ChatFormatter(model)
    thread = EngineThread(name: "apus-engine") { try TextGenerator(model, options) }
    contextLength = try await thread.run { $0.contextLength }
  }

  public func stop() { thread.stop() }

  public func tokens(of prompt: Prompt) throws -> [Int32] {
    if case .chat(let messages, let tools) = prompt, let formatter {
      return try formatter.tokens(messages: messages, tools: tools)
    }
    return try model.tokens(of: prompt)
  }

  public func answer(_ prompt: Prompt, _ options: GenerationOptions) async throws -> AnswerStream {
    let cancellation = Cancellation()
    let (events, sink) = AsyncThrowingStream<GenerationEvent, any Error>.makeStream()
    sink.onTermination = { _ in cancellation.cancel() }
    let promptTokens: Int = try await withTaskCancellationHandler {
      try await withCheckedThrowingContinuation { continuation in
        let isAccepted = thread.enqueue { [self] generator in
          var hasStarted = false
          do {
            if cancellation.isCancelled { throw CancellationError() }
            let generator = try generator.get()
            let tokens = try tokens(of: prompt)
            try generator.generate(tokens, options, cancellation: cancellation) { event in
              if case .started(let promptTokens, _) = event {
                hasStarted = true
                continuation.resume(returning: promptTokens)
              }
              sink.yield(event)
            }
            sink.finish()
          } catch {
            if hasStarted { sink.finish(throwing: error) } else { continuation.resume(throwing: error) }
          }
        }
        if !isAccepted { continuation.resume(throwing: GenerationError.stopped) }
      }
    } onCancel: {
      cancellation.cancel()
    }
    return AnswerStream(promptTokens: promptTokens, events: events)
  }
}
