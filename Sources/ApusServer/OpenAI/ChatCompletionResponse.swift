import ApusEngine

/// Tokens that a request read and wrote.
struct Usage: Codable, Equatable, Sendable {
  var promptTokens: Int
  var completionTokens: Int
  var totalTokens: Int
  var promptTokensDetails: PromptTokensDetails

  struct PromptTokensDetails: Codable, Equatable, Sendable {
    /// Prompt tokens that were not computed again.
    var cachedTokens: Int

    enum CodingKeys: String, CodingKey {
      case cachedTokens = "cached_tokens"
    }
  }

  init(promptTokens: Int, completionTokens: Int, cachedTokens: Int = 0) {
    self.promptTokens = promptTokens
    self.completionTokens = completionTokens
    totalTokens = promptTokens + completionTokens
    promptTokensDetails = .init(cachedTokens: cachedTokens)
  }

  init(_ end: AnswerEnd) {
    self.init(
      promptTokens: end.promptTokens, completionTokens: end.completionTokens, cachedTokens: end.cachedTokens)
  }

  enum CodingKeys: String, CodingKey {
    case promptTokens = "prompt_tokens"
    case completionTokens = "completion_tokens"
    case totalTokens = "total_tokens"
    case promptTokensDetails = "prompt_tokens_details"
  }
}

/// The log-probabilities of an answer's tokens.
struct ChoiceLogProbabilities: Codable, Equatable, Sendable {
  struct Entry: Codable, Equatable, Sendable {
    var token: String
    var logprob: Float
    var bytes: [UInt8]
  }

  struct Token: Codable, Equatable, Sendable {
    var token: String
    var logprob: Float
    var bytes: [UInt8]
    var topLogprobs: [Entry]

    enum CodingKeys: String, CodingKey {
      case token, logprob, bytes
      case topLogprobs = "top_logprobs"
    }
  }

  var content: [Token]
}

/// A call of a tool that the client shall execute.
struct ToolCall: Codable, Equatable, Sendable {
  struct Function: Codable, Equatable, Sendable {
    var name: String
    /// A JSON object, as text.
    var arguments: String
  }

  var id: String
  var type = "function"
  var function: Function
}

/// A whole answer.
struct ChatCompletion: Codable, Equatable, Sendable {
  struct Message: Codable, Equatable, Sendable {
    var role = "assistant"
    var content: String?
    var toolCalls: [ToolCall]?

    enum CodingKeys: String, CodingKey {
      case role, content
      case toolCalls = "tool_calls"
    }

    /// `content` is null, not absent, beside calls.
    func encode(to encoder: any Encoder) throws {
      var container = encoder.container(keyedBy: CodingKeys.self)
      try container.encode(role, forKey: .role)
      try container.encode(content, forKey: .content)
      try container.encodeIfPresent(toolCalls, forKey: .toolCalls)
    }
  }

  struct Choice: Codable, Equatable, Sendable {
    var index = 0
    var message: Message
    var logprobs: ChoiceLogProbabilities?
    var finishReason: String

    enum CodingKeys: String, CodingKey {
      case index, message, logprobs
      case finishReason = "finish_reason"
    }
  }

  var id: String
  var object = "chat.completion"
  /// Seconds since 1970.
  var created: Int
  var model: String
  var choices: [Choice]
  var usage: Usage
}

/// One event of a streamed answer.
struct ChatCompletionChunk: Codable, Equatable, Sendable {
  struct Delta: Codable, Equatable, Sendable {
    /// A piece of a call: the first has id, type and name, the later ones only arguments.
    struct ToolCall: Codable, Equatable, Sendable {
      struct Function: Codable, Equatable, Sendable {
        var name: String?
        var arguments: String
      }
      var index: Int
      var id: String?
      var type: String?
      var function: Function
    }

    var role: String?
    var content: String?
    var toolCalls: [ToolCall]?

    enum CodingKeys: String, CodingKey {
      case role, content
      case toolCalls = "tool_calls"
    }
  }

  struct Choice: Codable, Equatable, Sendable {
    var index = 0
    var delta: Delta
    var logprobs: ChoiceLogProbabilities?
    var finishReason: String?

    enum CodingKeys: String, CodingKey {
      case index, delta, logprobs
      case finishReason = "finish_reason"
    }

    /// `finish_reason` is null, not absent, until the end.
    func encode(to encoder: any Encoder) throws {
      var container = encoder.container(keyedBy: CodingKeys.self)
      try container.encode(index, forKey: .index)
      try container.encode(delta, forKey: .delta)
      try container.encodeIfPresent(logprobs, forKey: .logprobs)
      try container.encode(finishReason, forKey: .finishReason)
    }
  }

  var id: String
  var object = "chat.completion.chunk"
  var created: Int
  var model: String
  var choices: [Choice]
  var usage: Usage?
}

/// A list of models.
struct ModelList: Codable, Sendable {
  struct Model: Codable, Sendable {
    var id: String
    var object = "model"
    var created: Int
    var ownedBy = "apus"
    var contextLength: Int

    enum CodingKeys: String, CodingKey {
      case id, object, created
      case ownedBy = "owned_by"
      case contextLength = "context_length"
    }
  }

  var object = "list"
  var data: [Model]
}
