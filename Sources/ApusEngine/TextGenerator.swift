import ApusModels
import ApusText

/// Generates text with one model, one answer after another.
///
/// It keeps the last sequence's keys and values: a prompt that begins like the last prompt and answer, as each turn of a
/// chat does, is only computed from where it differs.
///
/// ```swift
/// let model = try LoadedModel.load(url)
/// let generator = try TextGenerator(model)
/// let answer = try generator.generate("The capital of France is", .init(maxTokens: 16))
/// print(answer.text)
/// ```
///
/// Not `Sendable`: it belongs to one thread. ``EngineThread`` gives it one.
public final class TextGenerator {
  public let tokenizer: any Tokenizer
  private let runner: any SequenceRunner
  /// How many logits a row has; tokenizers may know fewer ids.
  private let vocabularySize: Int
  private var sequence: SequenceID?
  /// The tokens whose keys and values `sequence` holds.
  private var cached: [Int32] = []

  /// Makes a runner for the model. Throws ``GenerationError/wrongKindOfModel(model:architecture:expected:)`` for an
  /// encoder.
  public convenience init(_ model: LoadedModel, _ options: RunnerOptions = .init()) throws {
    try model.requireGenerator()
    self.init(
      runner: try ModelRunner(model, options), tokenizer: model.tokenizer, vocabularySize: model.vocabularySize)
  }

  /// Generates with any runner.
  public init(runner: any SequenceRunner, tokenizer: any Tokenizer, vocabularySize: Int) {
    self.runner = runner
    self.tokenizer = tokenizer
    self.vocabularySize = vocabularySize
  }

  deinit {
    if let sequence { runner.release(sequence) }
  }

  /// The most tokens that prompt and answer may have together.
  public var contextLength: Int { runner.contextLength }

  /// Bytes that the model and its answers so far have taken.
  public var memory: MemoryReport { runner.memory }

  /// Tokenises the prompt as plain text, with the special tokens that the model expects around it, and generates.
  @discardableResult
  public func generate(
    _ prompt: String, _ options: GenerationOptions, cancellation: Cancellation? = nil,
    onEvent: (GenerationEvent) throws -> Void = { _ in }
  ) throws -> Generation {
    try generate(tokenizer.encode(prompt), options, cancellation: cancellation, onEvent: onEvent)
  }

  /// Generates the continuation of the prompt's tokens.
  ///
  /// `onEvent` sees every step as it happens; what it throws ends the generation and is thrown on. The cancellation is
  /// looked at between steps: the answer so far comes back with the reason `cancelled`.
  ///
  /// Throws ``RunnerError``, ``GenerationError``, ``SamplingError``, and what the runner throws.
  @discardableResult
  public func generate(
    _ prompt: [Int32], _ options: GenerationOptions, cancellation: Cancellation? = nil,
    onEvent: (GenerationEvent) throws -> Void = { _ in }
  ) throws -> Generation {
    let clock = ContinuousClock()
    let start = clock.now
    var context = prompt.isEmpty ? [try beginning()] : prompt
    let promptTokens = context.count
    try check(context, options)
    try fit(&context, options)

    var sampler = try Sampler(options.sampling, vocabularySize: vocabularySize, prompt: context)
    var answer = AnswerBuilder(tokenizer: tokenizer, options: options)
    var matcher = options.grammar?.makeMatcher()
    let sequence = try reuse(context)
    let reused = cached.count
    try onEvent(.started(promptTokens: promptTokens, cached: reused))

    // The prompt but its last chunk fills the KV store; the last chunk's last logits give the first token.
    var pending = context[reused...]
    while pending.count > runner.maxBatchTokens, cancellation?.isCancelled != true {
      try append(pending.prefix(runner.maxBatchTokens), to: sequence)
      pending = pending.dropFirst(runner.maxBatchTokens)
    }
    var firstTokenAt: ContinuousClock.Instant?
    while answer.finishReason == nil {
      if cancellation?.isCancelled == true {
        answer.end(.cancelled)
        break
      }
      // The random number belongs to the token's place in the text, which a shifted context doesn't change.
      let position = promptTokens + answer.tokens.count
      let (token, logProbabilities) = try forward(pending, of: sequence) { logits in
        if let top = options.logProbabilities {
          let (token, report) = try sampler.sample(logits, position: position, top: top, mask: matcher?.mask())
          return (token, TokenLogProbabilities?.some(report))
        }
        return (try sampler.sample(logits, position: position, mask: matcher?.mask()), nil)
      }
      if firstTokenAt == nil { firstTokenAt = clock.now }
      sampler.accept(token)
      if let generated = answer.accept(token, logProbabilities: logProbabilities) { try onEvent(.token(generated)) }
      if matcher?.accept(token) == true, matcher?.isComplete == true { answer.end(.stop) }
      if answer.finishReason == nil {
        if cached.count >= runner.contextLength { try makeRoom(in: sequence, options, &answer) }
        pending = [token]
      }
    }

    let end = clock.now
    let tail = answer.flush()
    let generation = Generation(
      promptTokens: promptTokens, cachedTokens: reused, tokens: answer.tokens, text: answer.text, tail: tail,
      finishReason: answer.finishReason ?? .length, stop: answer.stop,
      timings: .init(
        prefill: (start.duration(to: firstTokenAt ?? end)).inSeconds,
        decode: (firstTokenAt ?? end).duration(to: end).inSeconds,
        prefillTokens: context.count - reused, decodeTokens: max(0, answer.tokens.count - 1)))
    try onEvent(.finished(generation))
    return generation
  }

  /// Forgets the kept sequence.
  public func reset() {
    if let sequence { runner.release(sequence) }
    sequence = nil
    cached.removeAll()
  }

  // MARK: the context

  private func beginning() throws -> Int32 {
    guard let bos = tokenizer.specialTokens.bos else { throw GenerationError.emptyPrompt }
    return bos
  }

  private func check(_ prompt: [Int32], _ options: GenerationOptions) throws {
    let size = vocabularySize
    if let index = prompt.firstIndex(where: { $0 < 0 || $0 >= size }) {
      throw GenerationError.tokenOutOfRange(index: index, token: prompt[index], vocabularySize: size)
    }
    if let most = options.maxTokens, most < 0 {
      throw GenerationError.invalidOption(name: "max_tokens", value: "\(most)", expected: "a whole number ≥ 0")
    }
    if let count = options.logProbabilities, count < 0 || count > size {
      throw GenerationError.invalidOption(
        name: "top_logprobs", value: "\(count)", expected: "a whole number from 0 to \(size)")
    }
    if let count = options.promptLogProbabilities {
      throw GenerationError.invalidOption(
        name: "prompt_logprobs", value: "\(count)", expected: "nothing: a Scorer tells how probable a text is")
    }
    if case .shift(let keep) = options.overflow, keep < 0 || keep >= runner.contextLength / 2 {
      throw GenerationError.invalidOption(
        name: "keep", value: "\(keep)", expected: "0 to \(runner.contextLength / 2 - 1), half of the context")
    }
  }

  /// Sees that the prompt and one token fit (all `maxTokens`, if overflow is an error).
  private func fit(_ context: inout [Int32], _ options: GenerationOptions) throws {
    let limit = runner.contextLength
    switch options.overflow {
    case .error:
      let (needed, overflows) = context.count.addingReportingOverflow(options.maxTokens ?? 1)
      if overflows || needed > limit {
        throw RunnerError.contextOverflow(tokens: overflows ? .max : needed, contextLength: limit)
      }
    case .shift(let keep):
      while context.count >= limit { context.removeSubrange(Self.olderHalf(of: context.count, keep: keep)) }
    }
  }

  /// What a shift drops: the older half of what follows the kept prefix.
  private static func olderHalf(of count: Int, keep: Int) -> Range<Int> {
    keep..<keep + max(1, (count - keep) / 2)
  }

  /// The sequence, cut to what it has in common with the context; the last token is always computed again, because its
  /// logits are wanted.
  private func reuse(_ context: [Int32]) throws -> SequenceID {
    guard let sequence else {
      let made = try runner.makeSequence()
      sequence = made
      cached.removeAll(keepingCapacity: true)
      return made
    }
    var common = 0
    while common < min(cached.count, context.count - 1), cached[common] == context[common] { common += 1 }
    if common < cached.count { truncate(sequence, to: common) }
    return sequence
  }

  private func truncate(_ sequence: SequenceID, to length: Int) {
    runner.truncate(sequence, to: length)
    cached.removeLast(cached.count - length)
  }

  /// Called when the context is full and a token is still to be appended.
  private func makeRoom(in sequence: SequenceID, _ options: GenerationOptions, _ answer: inout AnswerBuilder) throws {
    switch options.overflow {
    case .error: answer.end(.length)
    case .shift(let keep):
      var kept = cached
      kept.removeSubrange(Self.olderHalf(of: kept.count, keep: keep))
      truncate(sequence, to: keep)
      var rest = kept[keep...]
      while !rest.isEmpty {
        try append(rest.prefix(runner.maxBatchTokens), to: sequence)
        rest = rest.dropFirst(runner.maxBatchTokens)
      }
    }
  }

  // MARK: steps

  private func append(_ tokens: ArraySlice<Int32>, to sequence: SequenceID) throws {
    try keepingInStep { try runner.forward([.init(sequence, tokens, logits: .none)]) { _ in } }
    cached += tokens
  }

  private func forward<R>(
    _ tokens: ArraySlice<Int32>, of sequence: SequenceID, _ body: (UnsafeMutableBufferPointer<Float>) throws -> R
  ) throws -> R {
    let result = try keepingInStep {
      try runner.forward([.init(sequence, tokens, logits: .last)]) { try body($0[0]) }
    }
    cached += tokens
    return result
  }

  /// After a failed step nobody knows what the sequence holds: it is given up.
  private func keepingInStep<R>(_ step: () throws -> R) throws -> R {
    do { return try step() } catch {
      reset()
      throw error
    }
  }
}

extension Duration {
  /// Seconds as a number.
  public var inSeconds: Double {
    let (seconds, attoseconds) = components
    return Double(seconds) + Double(attoseconds) * 1e-18
  }
}
