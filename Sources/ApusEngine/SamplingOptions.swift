/// How the next token is chosen from the logits.
///
/// The steps run in this order, that of Hugging Face transformers and vLLM; each one sees what the earlier ones left,
/// renormalised:
///
/// 1. ``logitBias`` is added.
/// 2. ``repetitionPenalty``, then ``frequencyPenalty`` and ``presencePenalty`` change the logits of tokens seen before.
/// 3. ``temperature`` divides; at 0 the greatest logit wins (the lowest id among equals) and the rest is skipped.
/// 4. ``topK``, 5. ``topP``, 6. ``minP``, 7. ``typicalP`` drop tokens; at least one stays.
/// 8. One token is drawn with a number that depends on the seed and on the token's position only.
public struct SamplingOptions: Sendable, Equatable {
  /// The logits are divided by this; 0 is greedy.
  public var temperature: Double
  /// Keeps the k most probable tokens; nil keeps all.
  public var topK: Int?
  /// Keeps the smallest set of most probable tokens whose mass is at least p (Holtzman et al. 2020, section 3.1); 1
  /// keeps all.
  public var topP: Double
  /// Keeps tokens at least this fraction as probable as the most probable one (Nguyen et al. 2024); 0 keeps all.
  public var minP: Double
  /// Keeps the tokens whose surprisal is nearest to the distribution's entropy, until their mass is at least p (Meister
  /// et al. 2023, equation 4); 1 keeps all.
  public var typicalP: Double
  /// Divides positive logits, and multiplies negative ones, of tokens in the prompt or the answer (Keskar et al. 2019,
  /// section 4.1); 1 is off.
  public var repetitionPenalty: Double
  /// How many of the latest tokens the repetition penalty looks at; nil is all of them.
  public var repetitionWindow: Int?
  /// Subtracted once from the logit of every token that the answer already contains; 0 is off.
  public var presencePenalty: Double
  /// Subtracted, per occurrence, from the logit of every token that the answer already contains; 0 is off.
  public var frequencyPenalty: Double
  /// Added to the logits of these tokens. −100 bans in practice, −infinity bans.
  public var logitBias: [Int32: Float]
  /// The key of the random numbers.
  public var seed: UInt64

  /// Greedy decoding.
  public static let greedy = SamplingOptions(temperature: 0)

  public init(
    temperature: Double = 1, topK: Int? = nil, topP: Double = 1, minP: Double = 0, typicalP: Double = 1,
    repetitionPenalty: Double = 1, repetitionWindow: Int? = nil, presencePenalty: Double = 0,
    frequencyPenalty: Double = 0, logitBias: [Int32: Float] = [:], seed: UInt64 = 0
  ) {
    self.temperature = temperature
    self.topK = topK
    self.topP = topP
    self.minP = minP
    self.typicalP = typicalP
    self.repetitionPenalty = repetitionPenalty
    self.repetitionWindow = repetitionWindow
    self.presencePenalty = presencePenalty
    self.frequencyPenalty = frequencyPenalty
    self.logitBias = logitBias
    self.seed = seed
  }

  /// Throws ``SamplingError/invalidOption(name:value:expected:)`` for the first value outside its range.
  public func validate(vocabularySize: Int? = nil) throws {
    func check(_ holds: Bool, _ name: String, _ value: some CustomStringConvertible, _ expected: String) throws {
      if !holds { throw SamplingError.invalidOption(name: name, value: value.description, expected: expected) }
    }
    try check(temperature >= 0 && temperature.isFinite, "temperature", temperature, "a finite number ≥ 0")
    if let topK { try check(topK >= 1, "top_k", topK, "a whole number ≥ 1") }
    try check(topP > 0 && topP <= 1, "top_p", topP, "a number in (0, 1]")
    try check(minP >= 0 && minP <= 1, "min_p", minP, "a number in [0, 1]")
    try check(typicalP > 0 && typicalP <= 1, "typical_p", typicalP, "a number in (0, 1]")
    try check(
      repetitionPenalty > 0 && repetitionPenalty.isFinite, "repetition_penalty", repetitionPenalty,
      "a finite number > 0")
    if let repetitionWindow {
      try check(repetitionWindow >= 0, "repetition_window", repetitionWindow, "a whole number ≥ 0")
    }
    try check(presencePenalty.isFinite, "presence_penalty", presencePenalty, "a finite number")
    try check(frequencyPenalty.isFinite, "frequency_penalty", frequencyPenalty, "a finite number")
    for (token, bias) in logitBias {
      try check(
        token >= 0 && Int(token) < vocabularySize ?? .max, "logit_bias", "token \(token)",
        vocabularySize.map { "a token id below \($0)" } ?? "a token id ≥ 0")
      try check(!bias.isNaN && bias < .infinity, "logit_bias", bias, "a number below infinity")
    }
  }
}

/// What is wrong with sampling options, or with the logits.
public enum SamplingError: Error, Equatable, CustomStringConvertible {
  /// An option is outside its range.
  case invalidOption(name: String, value: String, expected: String)
  /// No logit is a number to choose from: all are −infinity or NaN, or one is +infinity.
  case noChoice(position: Int, vocabularySize: Int)

  public var description: String {
    switch self {
    case .invalidOption(let name, let value, let expected):
      "\(name) is \(value), expected \(expected)"
    case .noChoice(let position, let size):
      "the \(size) logits at position \(position) hold no finite greatest value: the weights are damaged, or "
        + "logit_bias bans every token"
    }
  }
}
