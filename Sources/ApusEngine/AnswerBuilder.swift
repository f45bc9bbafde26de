import ApusText

/// Turns the sampled tokens of one answer into text and decides when it ends: a state machine without a model, the same
/// under one sequence and under a batch.
///
/// ```swift
/// var answer = AnswerBuilder(tokenizer: tokenizer, options: options)
/// while answer.finishReason == nil {
///   if let token = answer.accept(sampledID) { print(token.text) }
/// }
/// print(answer.finish())
/// ```
public struct AnswerBuilder: Sendable {
  /// The answer's tokens so far, without the one that ended it.
  public private(set) var tokens: [Int32] = []
  /// The text given out so far.
  public private(set) var text = ""
  /// Set when the answer has ended.
  public private(set) var finishReason: FinishReason?
  /// The stop string that came.
  public private(set) var stop: String?

  private let tokenizer: any Tokenizer
  private let maxTokens: Int
  private let ignoreEOS: Bool
  private var detokenizer: IncrementalDetokenizer
  private var stops: StopMatcher

  /// `maxTokens` of the options counts; nil there is no limit.
  public init(tokenizer: any Tokenizer, options: GenerationOptions) {
    self.tokenizer = tokenizer
    maxTokens = options.maxTokens ?? .max
    ignoreEOS = options.ignoreEOS
    detokenizer = IncrementalDetokenizer(tokenizer: tokenizer, skipSpecial: true, continuing: true)
    stops = StopMatcher(stops: options.stop)
    if maxTokens <= 0 { finishReason = .length }
  }

  /// UTF-8 bytes of a token's text, more than most have.
  private static let bytesPerToken = 8

  /// Takes memory for so many tokens and their text.
  mutating func reserve(tokens count: Int) {
    tokens.reserveCapacity(count)
    text.reserveCapacity(count * Self.bytesPerToken)
  }

  /// Takes the next token; nil if it ended the answer without belonging to it.
  public mutating func accept(_ token: Int32, logProbabilities: TokenLogProbabilities? = nil) -> GeneratedToken? {
    precondition(finishReason == nil, "the answer has ended")
    let endsAnswer = tokenizer.isEndOfGeneration(token)
    if endsAnswer, !ignoreEOS {
      finishReason = .stop
      return nil
    }
    tokens.append(token)
    let step = stops.append(detokenizer.append(token))
    text += step.text
    if step.stop != nil {
      (finishReason, stop) = (.stopSequence, step.stop)
    } else if tokens.count >= maxTokens {
      finishReason = .length
    }
    return GeneratedToken(id: token, text: step.text, logProbabilities: logProbabilities)
  }

  /// Ends the answer for a reason from outside, such as a full context; the first reason stays.
  public mutating func end(_ reason: FinishReason) {
    if finishReason == nil { finishReason = reason }
  }

  /// The text that was still held back: half a character, or the beginning of a stop string that never came. It belongs
  /// to the answer. Call it once, when the answer has ended.
  public mutating func flush() -> String {
    guard finishReason != .stopSequence else { return "" }
    // The last half character may complete a stop string, or what was held may end in a shorter one.
    let last = stops.append(detokenizer.flush())
    let held = stops.flush()
    if let stop = last.stop ?? held.stop { (finishReason, self.stop) = (.stopSequence, stop) }
    let tail = last.text + held.text
    text += tail
    return tail
  }
}
