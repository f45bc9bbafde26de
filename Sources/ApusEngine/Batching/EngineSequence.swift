import ApusModels
import ApusText

/// One request inside the engine: its tokens, how far they are computed, and where its answer goes. Lives on the engine's
/// thread.
final class EngineSequence {
  let id: String
  let options: GenerationOptions
  let promptTokens: Int
  let channel: EventChannel
  let submitted: Double

  /// Prompt and answer.
  var tokens: [Int32]
  /// Of the whole blocks of the tokens.
  var names: BlockNames
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
  /// What is known of the prompt's log-probabilities; nil when nobody wants to know, or knows already.
  var score: Score?
  var hasStarted = false
  var isPaused = false
  /// Why it can't go on.
  var failure: (any Error)?

  /// Its number among all admissions: a younger sequence has a greater one.
  var admission = 0
  /// The last plan that it has a part in.
  var plan = 0
  /// Blocks that it was admitted for and has not taken yet.
  var promised = 0

  /// Seconds of the engine's clock.
  var admitted: Double?
  var firstTokenAt: Double?
  var lastTokenAt: Double?

  init(
    id: String, namespace: BlockName, tokens: [Int32], options: GenerationOptions, tokenizer: any Tokenizer,
    vocabularySize: Int, channel: EventChannel, submitted: Double
  ) throws {
    self.id = id
    self.tokens = tokens
    names = BlockNames(namespace: namespace)
    self.options = options
    promptTokens = tokens.count
    self.channel = channel
    self.submitted = submitted
    sampler = try Sampler(options.sampling, vocabularySize: vocabularySize, prompt: tokens)
    answer = AnswerBuilder(tokenizer: tokenizer, options: options)
    matcher = options.grammar?.makeMatcher()
    score = options.promptLogProbabilities.map { _ in Score(of: tokens) }
  }

  /// Answers longer than this many tokens allocate again while they grow.
  private static let reservedAnswer = 4096

  /// Takes the memory that an answer needs, so that steps don't.
  func reserveAnswer(contextLength: Int) {
    let length = min(options.maxTokens ?? .max, contextLength - promptTokens, Self.reservedAnswer)
    tokens.reserveCapacity(promptTokens + max(0, length) + 1)
    answer.reserve(tokens: max(0, length) + 1)
    sampler.reserve(tokens: max(0, length) + 1)
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
