import ApusEngine

/// Tokens that a request read and wrote.
struct Usage: Codable, Equatable, Sendable {
  var promptTokens: Int
  var completionTokens: Int
  var totalTokens: Int

  init(promptTokens: Int, completionTokens: Int) {
    self.promptTokens = promptTokens
    self.completionTokens = completionTokens
    totalTokens = promptTokens + completionTokens
  }

  enum CodingKeys: String, CodingKey {
    case promptTokens = "prompt_tokens"
    case completionTokens = "completion_tokens"
    case totalTokens = "total_tokens"
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

/// A whole answer.
struct ChatCompletion: Codable, Equatable, Sendable {
  struct Message: Codable, Equatable, Sendable {
    var role = "assistant"
    var content: String
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
    var role: String?
    var content: String?
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

extension FinishReason {
  /// OpenAI has one word for the model's end and a stop string.
  var openAIName: String {
    switch self {
    case .stop, .stopSequence: "stop"
    case .length: "length"
    case .cancelled: "cancelled"
    }
  }
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
