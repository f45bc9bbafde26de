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

/// On whose behalf a request is answered.
public struct RequestOrigin: Sendable, Hashable {
  /// The request's name, in logs and for `fork`; unique among those under way.
  public var id: String
  /// Who is asking.
  public var principal: String
  /// Only prompts of the same namespace share computed beginnings.
  public var namespace: String

  public init(id: String, principal: String = "anonymous", namespace: String = "") {
    self.id = id
    self.principal = principal
    self.namespace = namespace
  }
}

/// An answer on its way.
public struct AnswerStream: Sendable {
  public var promptTokens: Int
  /// `started`, `token`…, `finished`; or an error. Dropping them cancels the answer.
  public var events: AnswerEvents

  public init(promptTokens: Int, events: AnswerEvents) {
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
  /// Nil for a base model.
  var chatTemplate: ChatTemplate? { get }
  /// The tokenizer's, for grammars; made once.
  var vocabulary: VocabularyTrie { get }
  /// The tokens of a prompt, as `answer` would read it. Throws what `answer` would.
  func tokens(of prompt: Prompt) throws -> [Int32]
  /// Suspends until the request has been checked and taken, so that one that cannot be answered fails here and not in a
  /// stream.
  func answer(_ prompt: Prompt, _ options: GenerationOptions, for origin: RequestOrigin) async throws -> AnswerStream
  /// Answers what waits, refuses the rest.
  func stop()
  /// What the engine has done and is doing; never waits for it.
  var stats: EngineStats { get }
  /// From now on at most so many requests may wait; those that wait already stay.
  func limitQueue(to count: Int)
}

extension TextEngine {
  /// For an engine without a queue.
  public func limitQueue(to count: Int) {}

  /// An answer for nobody in particular.
  public func answer(_ prompt: Prompt, _ options: GenerationOptions) async throws -> AnswerStream {
    let id = String(UInt64.random(in: 0 ... .max), radix: 36)
    return try await answer(prompt, options, for: RequestOrigin(id: "answer-" + id))
  }
}

/// Turns texts into vectors with one encoder: the contract between servers and encoders.
public protocol EmbeddingEngine: Sendable {
  /// The model's name.
  var name: String { get }
  /// The most tokens of one input.
  var contextLength: Int { get }
  /// Elements of a vector.
  var dimensions: Int { get }
  /// SHA-256 of the weights, in hex; nil where they are no file's.
  var weightsDigest: String? { get }
  var tokenizer: any Tokenizer { get }
  /// One normalised vector an input `[tokens]`, in order. Throws ``RunnerError``.
  func embed(_ inputs: [[Int32]]) async throws -> [[Float]]
  func stop()
}

extension EmbeddingEngine {
  public var weightsDigest: String? { nil }
}
