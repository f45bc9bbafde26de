import ApusModels
import ApusText

/// One request inside the engine: its tokens, how far they are computed, and where its answer goes. Lives on the engine's
/// thread.
final class EngineSequence {
  let id: String
  let namespace: BlockName
  let options: GenerationOptions
  let promptTokens: Int
  let channel: EventChannel
  let submitted: Double

  /// Prompt and answer.
  var tokens: [Int32]
  /// Tokens whose keys and values are there: of the first `computed`.
  var computed = 0
  /// Of the prompt, those that another sequence had computed.
  var cached = 0
  /// The runner's sequence while it runs; nil while it waits.
  var slot: SequenceID?
  /// Whole blocks that the prefix tree knows.
  var published = 0
  var sampler: Sampler
  var answer: AnswerBuilder
  /// Where in the grammar the answer is.
  var matcher: GrammarMatcher?
  var hasStarted = false
  var isPaused = false
  /// Why it can't go on.
  var failure: (any Error)?

  /// Seconds of the engine's clock.
  var admitted: Double?
  var firstTokenAt: Double?
  var lastTokenAt: Double?

  init(
    id: String, namespace: BlockName, tokens: [Int32], options: GenerationOptions, tokenizer: any Tokenizer,
    vocabularySize: Int, channel: EventChannel, submitted: Double
  ) throws {
    self.id = id
    self.namespace = namespace
    self.tokens = tokens
    self.options = options
    promptTokens = tokens.count
    self.channel = channel
    self.submitted = submitted
    sampler = try Sampler(options.sampling, vocabularySize: vocabularySize, prompt: tokens)
    answer = AnswerBuilder(tokenizer: tokenizer, options: options)
    matcher = options.grammar?.makeMatcher()
  }

  /// Tokens that are still to be computed before the next one can be sampled.
  var pending: Int { tokens.count - computed }
  /// One token a step, as opposed to a prompt (or, after a preemption, everything so far).
  var isDecoding: Bool { pending == 1 && tokens.count > promptTokens }

  func blocks(for tokens: Int) -> Int { (tokens + kvBlockTokens - 1) / kvBlockTokens }

  func report(at now: Double) -> EngineStats.Sequence {
    .init(
      id: id, state: slot == nil ? .waiting : isPaused ? .paused : isDecoding ? .decoding : .prefilling,
      promptTokens: promptTokens, generatedTokens: answer.tokens.count, cachedTokens: cached, age: now - submitted)
  }
}
