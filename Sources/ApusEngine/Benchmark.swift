import ApusModels

/// Measures a model's speed: how fast it reads prompts, and how fast it writes one or several answers.
public struct Benchmark {
  public enum Kind: String, Sendable, CaseIterable {
    /// One sequence, one token a step.
    case decode
    /// One prompt.
    case prefill
    /// Several sequences, one token each a step.
    case batch
  }

  public struct Options: Sendable {
    /// Sequences; 1 for decode and prefill.
    public var batch: Int
    /// Tokens of the prompt (prefill) or tokens written per sequence.
    public var tokens: Int
    /// Tokens of the prompt before decoding begins.
    public var prompt: Int
    public var rounds: Int

    public init(batch: Int = 1, tokens: Int, prompt: Int = 16, rounds: Int = 5) {
      self.batch = batch
      self.tokens = tokens
      self.prompt = prompt
      self.rounds = rounds
    }
  }

  public struct Result: Sendable, Equatable {
    public var threads: Int
    public var batch: Int
    public var tokens: Int
    /// Tokens per second of each round, all sequences together.
    public var rates: [Double]
    /// Bytes of weights that one step reads, and operations (two a matrix element) that one token takes.
    public var bytesPerStep: Int
    public var operationsPerToken: Int
    /// Bytes of keys and values that a token takes.
    public var kvBytesPerToken: Int

    public var median: Double {
      let sorted = rates.sorted()
      let middle = sorted.count / 2
      return sorted.count % 2 == 1 ? sorted[middle] : (sorted[middle - 1] + sorted[middle]) / 2
    }

    /// The share of the measured read bandwidth that reading the weights takes.
    public func bandwidthShare(_ peaks: MachinePeaks) -> Double {
      median / Double(batch) * Double(bytesPerStep) / peaks.readBytesPerSecond
    }

    /// The share of the measured f32 peak that the model's multiplications and additions take; beyond 1 where int8 is
    /// faster than f32.
    public func fmaShare(_ peaks: MachinePeaks) -> Double {
      median * Double(operationsPerToken) / peaks.fmaPerSecond
    }
  }

  private let model: LoadedModel
  private let runnerOptions: RunnerOptions

  public init(_ model: LoadedModel, _ runnerOptions: RunnerOptions = .init()) {
    self.model = model
    self.runnerOptions = runnerOptions
  }

  /// Runs one warm-up and the rounds. Throws ``GenerationError/invalidOption(name:value:expected:)``, and `RunnerError`
  /// for a length beyond the context.
  public func run(_ kind: Kind, _ options: Options) throws -> Result {
    for (name, value) in [
      ("batch", options.batch), ("tokens", options.tokens), ("prompt", options.prompt), ("rounds", options.rounds),
    ] where value < 1 {
      throw GenerationError.invalidOption(name: name, value: "\(value)", expected: "a whole number ≥ 1")
    }
    let batch = kind == .batch ? options.batch : 1
    let length = kind == .prefill ? options.tokens : options.prompt + options.tokens
    var runnerOptions = runnerOptions
    runnerOptions.contextLength = min(max(length, 16), model.contextLength)
    runnerOptions.maxSequences = batch
    runnerOptions.maxBatchTokens = max(runnerOptions.maxBatchTokens, batch)
    let runner = try ModelRunner(model, runnerOptions)
    var rates: [Double] = []
    for round in 0...options.rounds {
      let rate =
        kind == .prefill
        ? try prefill(runner, options.tokens, round)
        : try decode(runner, batch, options.tokens, options.prompt, round)
      if round > 0 { rates.append(rate) }
    }
    return Result(
      threads: runner.threads, batch: batch, tokens: options.tokens, rates: rates,
      bytesPerStep: model.bytesPerStep, operationsPerToken: 2 * model.matrixElementsPerToken,
      kvBytesPerToken: runner.kvBytesPerToken)
  }

  private func prompt(_ count: Int, _ salt: Int) -> [Int32] {
    // Ordinary tokens in no order: what a token is does not change the work.
    (0..<count).map { Int32(($0 &* 7919 &+ salt &* 104_729 &+ 100) % model.vocabularySize) }
  }

  private func fill(_ runner: ModelRunner, _ sequence: SequenceID, _ tokens: [Int32]) throws {
    let chunk = runner.options.maxBatchTokens
    for start in stride(from: 0, to: tokens.count, by: chunk) {
      let end = min(start + chunk, tokens.count)
      try runner.forward([
        .init(sequence, tokens[start..<end], logits: end == tokens.count ? .last : .none)
      ]) { _ in }
    }
  }

  private func prefill(_ runner: ModelRunner, _ tokens: Int, _ round: Int) throws -> Double {
    let sequence = try runner.makeSequence()
    defer { runner.release(sequence) }
    let ids = prompt(tokens, round)
    let clock = ContinuousClock()
    let start = clock.now
    try fill(runner, sequence, ids)
    return Double(tokens) / start.duration(to: clock.now).inSeconds
  }

  private func decode(_ runner: ModelRunner, _ batch: Int, _ tokens: Int, _ promptLength: Int, _ round: Int) throws
    -> Double
  {
    var sequences: [SequenceID] = []
    defer { for sequence in sequences { runner.release(sequence) } }
    for index in 0..<batch {
      let sequence = try runner.makeSequence()
      sequences.append(sequence)
      try fill(runner, sequence, prompt(promptLength, round &* batch &+ index))
    }
    var next = [Int32](repeating: 0, count: batch)
    var step = TokenBatch()
    let clock = ContinuousClock()
    let start = clock.now
    for _ in 0..<tokens {
      step.removeAll()
      for row in 0..<batch { step.append(sequences[row], CollectionOfOne(next[row])) }
      try runner.forward(step) { logits in
        for row in 0..<batch { next[row] = Int32(VectorMath.maximum(UnsafeBufferPointer(logits[row])).index) }
      }
    }
    return Double(batch * tokens) / start.duration(to: clock.now).inSeconds
  }
}
