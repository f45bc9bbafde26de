import ApusEngine
import ApusText

/// The body of `POST /v1/completions`, checked.
///
/// Source: OpenAI API reference, "Completions". Fields that change nothing here (`user`, …) are ignored.
struct CompletionRequest: Sendable {
  var model: String
  var prompts: [TextInput]
  /// Gives the prompt back before the answer.
  var echo: Bool
  var options: GenerationOptions
  var stream: Bool
  var includeUsage: Bool
  /// Narrows whom the prompts share computed beginnings with.
  var cacheSalt: String?

  /// The most prompts of a request.
  static let maximumPrompts = 128
  /// OpenAI's default for this route.
  static let defaultMaxTokens = 16

  /// Throws ``OpenAIError`` that names the field. `randomSeed` is used when the request has none.
  init(body: [UInt8], randomSeed: @autoclosure () -> UInt64) throws {
    let body = try RequestReader(body: body)
    model = try body.modelName()
    prompts = try body.textInputs("prompt", atMost: Self.maximumPrompts)
    echo = try body.bool("echo") ?? false
    stream = try body.bool("stream") ?? false
    includeUsage = try body.includeUsage()
    cacheSalt = try body.string("cache_salt")
    try body.requireOne("n")
    try body.requireOne("best_of")
    if let suffix = try body.string("suffix"), !suffix.isEmpty {
      throw OpenAIError.invalid(
        "suffix", seen: "'\(suffix.prefix(40))'", expected: "nothing: text is continued here, not filled in")
    }

    options = GenerationOptions(sampling: try body.samplingOptions(randomSeed: randomSeed()))
    options.maxTokens = try body.integer("max_tokens", 0...Int.max) ?? Self.defaultMaxTokens
    options.stop = try body.stopStrings()
    options.ignoreEOS = try body.bool("ignore_eos") ?? false
    options.logProbabilities = try body.integer("logprobs", 0...20)
    if echo { options.promptLogProbabilities = options.logProbabilities }
  }
}
