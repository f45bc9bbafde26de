import ApusText

/// How an answer is generated: sampling, and when it ends.
public struct GenerationOptions: Sendable, Equatable {
  /// What happens when prompt and answer do not fit into the context.
  public enum Overflow: Sendable, Equatable {
    /// ``ContextOverflow`` is thrown before any work if prompt and `maxTokens` cannot fit.
    case error
    /// When the context is full, the older half of what follows the first `keep` tokens is dropped and the rest computed
    /// again. The model then no longer sees the dropped text.
    case shift(keep: Int)
  }

  public var sampling: SamplingOptions
  /// The most tokens in the answer; nil lets it go on until the context is full.
  public var maxTokens: Int?
  /// The answer ends before the first of these strings; empty strings are ignored.
  public var stop: [String]
  /// Goes on after the model's end-of-sequence tokens, which then appear in `tokens` and not in the text.
  public var ignoreEOS: Bool
  /// Reports the log-probability of each token, with this many of the best beside it; nil reports none.
  public var logProbabilities: Int?
  /// Reports the log-probabilities of the prompt's tokens too, with this many of the best at each place; nil reports none.
  /// Such a prompt is computed whole, whatever is known of its beginning.
  public var promptLogProbabilities: Int?
  public var overflow: Overflow
  /// What the answer must be a text of; the answer ends when nothing more can follow. Nil allows everything.
  public var grammar: TokenGrammar?

  public init(
    sampling: SamplingOptions = .greedy, maxTokens: Int? = nil, stop: [String] = [], ignoreEOS: Bool = false,
    logProbabilities: Int? = nil, promptLogProbabilities: Int? = nil, overflow: Overflow = .error,
    grammar: TokenGrammar? = nil
  ) {
    self.sampling = sampling
    self.maxTokens = maxTokens
    self.stop = stop
    self.ignoreEOS = ignoreEOS
    self.logProbabilities = logProbabilities
    self.promptLogProbabilities = promptLogProbabilities
    self.overflow = overflow
    self.grammar = grammar
  }
}

/// Why an answer ended.
public enum FinishReason: String, Sendable, Codable {
  /// The model ended it with an end-of-sequence token.
  case stop
  /// `maxTokens` were generated, or the context is full.
  case length
  /// One of the stop strings came.
  case stopSequence = "stop_sequence"
  /// The caller cancelled it.
  case cancelled
}

/// One token of an answer.
public struct GeneratedToken: Sendable, Equatable {
  public var id: Int32
  /// The text that became certain with this token: whole characters only, and never the beginning of a stop string.
  /// Often empty; all deltas together are the answer's text.
  public var text: String
  public var logProbabilities: TokenLogProbabilities?

  public init(id: Int32, text: String, logProbabilities: TokenLogProbabilities? = nil) {
    self.id = id
    self.text = text
    self.logProbabilities = logProbabilities
  }
}

/// What happened while a prompt was read and an answer written, in order: `started`, `prompt` if asked for, `token`…,
/// `finished`.
public enum GenerationEvent: Sendable {
  /// The prompt has been tokenised; `cached` of its tokens were in the KV store already.
  case started(promptTokens: Int, cached: Int)
  /// How probable the prompt is.
  case prompt(Score)
  case token(GeneratedToken)
  case finished(Generation)
}

/// A whole answer.
public struct Generation: Sendable, Equatable {
  /// Wall time in seconds, from a monotonic clock.
  public struct Timings: Sendable, Equatable {
    /// From the call to the first sampled token.
    public var prefill: Double
    /// From the first sampled token to the end.
    public var decode: Double
    /// Prompt tokens that were computed (not found in the KV store).
    public var prefillTokens: Int
    /// Tokens after the first, which prefill gave.
    public var decodeTokens: Int

    public var prefillTokensPerSecond: Double { prefill > 0 ? Double(prefillTokens) / prefill : 0 }
    public var decodeTokensPerSecond: Double { decode > 0 ? Double(decodeTokens) / decode : 0 }

    public init(prefill: Double, decode: Double, prefillTokens: Int, decodeTokens: Int) {
      self.prefill = prefill
      self.decode = decode
      self.prefillTokens = prefillTokens
      self.decodeTokens = decodeTokens
    }
  }

  public var promptTokens: Int
  /// Of the prompt's tokens, those whose keys and values were there already.
  public var cachedTokens: Int
  /// The answer's tokens, without the end-of-sequence token that ended it.
  public var tokens: [Int32]
  /// The answer's text, without the stop string.
  public var text: String
  /// The text that no token's delta carried: what the detokeniser or the stop matcher still held at the end.
  public var tail: String
  public var finishReason: FinishReason
  /// The stop string that ended the answer, if one did.
  public var stop: String?
  public var timings: Timings

  public init(
    promptTokens: Int, cachedTokens: Int = 0, tokens: [Int32], text: String, tail: String, finishReason: FinishReason,
    stop: String? = nil, timings: Timings
  ) {
    self.promptTokens = promptTokens
    self.cachedTokens = cachedTokens
    self.tokens = tokens
    self.text = text
    self.tail = tail
    self.finishReason = finishReason
    self.stop = stop
    self.timings = timings
  }
}

/// What a generator cannot do, in terms of the request.
public enum GenerationError: Error, Equatable, CustomStringConvertible {
  /// The prompt has no tokens, and the model no beginning-of-sequence token that could stand for it.
  case emptyPrompt
  /// A token id that the model's vocabulary does not have.
  case tokenOutOfRange(index: Int, token: Int32, vocabularySize: Int)
  /// A number that makes no sense.
  case invalidOption(name: String, value: String, expected: String)
  /// The model makes embeddings and no text, or the other way round.
  case wrongKindOfModel(model: String, architecture: String, expected: String)
  /// The model has no chat template.
  case noChatTemplate(model: String)
  /// The engine has been stopped.
  case stopped

  public var description: String {
    switch self {
    case .emptyPrompt:
      "the prompt is empty, and the model has no beginning-of-sequence token to start from: give it some text"
    case .tokenOutOfRange(let index, let token, let size):
      "token \(index) of the input is \(token), expected an id from 0 to \(size - 1)"
    case .invalidOption(let name, let value, let expected):
      "\(name) is \(value), expected \(expected)"
    case .wrongKindOfModel(let model, let architecture, let expected):
      "\(model) has the architecture \(architecture), expected \(expected)"
    case .noChatTemplate(let model):
      "\(model) has no chat template (it is a base model): give it a plain prompt, or pick an instruction-tuned model"
    case .stopped:
      "the engine has been stopped"
    }
  }
}
