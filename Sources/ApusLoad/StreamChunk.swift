import ApusText

/// Tokens of one request, as the server counted them.
public struct TokenUsage: Sendable, Hashable {
  public var promptTokens: Int
  public var completionTokens: Int
  /// Prompt tokens that a prefix cache held.
  public var cachedTokens: Int

  public init(promptTokens: Int, completionTokens: Int, cachedTokens: Int = 0) {
    self.promptTokens = promptTokens
    self.completionTokens = completionTokens
    self.cachedTokens = cachedTokens
  }
}

/// What a load generator needs to know of one chunk of a streamed chat completion or completion.
///
/// Source: OpenAI API reference, "The chat completion chunk object". Reasoning (`reasoning_content`, or `reasoning`) and
/// arguments of tool calls are tokens like any text.
struct StreamChunk: Equatable {
  /// Whether the chunk brings text; the first chunk of a chat, with the role alone, does not.
  var hasText = false
  var finishReason: String?
  var usage: TokenUsage?
  var error: String?

  /// nil for JSON that is not a chunk.
  init?(json bytes: [UInt8]) {
    guard let value = try? JinjaValue(json: bytes), case .mapping(let chunk) = value else { return nil }
    switch chunk["error"] {
    case nil, .some(.none), .some(.boolean(false)), .some(.string("")): break
    case .some(let error):
      self.error = Self.message(of: error)
      return
    }
    if case .mapping(let usage)? = chunk["usage"] { self.usage = TokenUsage(usage) }
    guard case .list(let choices)? = chunk["choices"] else {
      // A server's own events carry no choices; only usage makes such an object a chunk.
      if usage == nil { return nil }
      return
    }
    guard case .mapping(let choice)? = choices.first else { return }
    if case .string(let reason)? = choice["finish_reason"] { finishReason = reason }
    if case .string(let text)? = choice["text"], !text.isEmpty { hasText = true }
    if case .mapping(let delta)? = choice["delta"] {
      for key in ["content", "reasoning_content", "reasoning", "refusal"] {
        if case .string(let text)? = delta[key], !text.isEmpty { hasText = true }
      }
      if case .list(let calls)? = delta["tool_calls"], !calls.isEmpty { hasText = true }
    }
  }

  /// The message of OpenAI's error object, or of what others send in its place.
  static func message(of error: JinjaValue) -> String {
    if case .string(let text) = error { return text }
    if case .mapping(let fields) = error, case .string(let text)? = fields["message"] { return text }
    return (try? error.json) ?? "an error"
  }
}

extension TokenUsage {
  private static let believable = 0...(1 << 32)

  fileprivate init?(_ usage: JinjaMapping) {
    guard case .integer(let completion)? = usage["completion_tokens"] else { return nil }
    var prompt = 0
    if case .integer(let tokens)? = usage["prompt_tokens"] { prompt = tokens }
    var cached = 0
    if case .mapping(let details)? = usage["prompt_tokens_details"],
      case .integer(let tokens)? = details["cached_tokens"]
    {
      cached = tokens
    }
    // Sums of believable counts cannot overflow.
    guard [prompt, completion, cached].allSatisfy(Self.believable.contains) else { return nil }
    self.init(promptTokens: prompt, completionTokens: completion, cachedTokens: cached)
  }
}
