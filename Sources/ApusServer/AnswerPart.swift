import ApusEngine

/// What a client is told of an answer, in no dialect: each dialect's writer turns these parts into its own objects.
///
/// In order: `started`, perhaps `prompt`, then `text` and calls as they come, then `finished`. The parts of one call follow each other:
/// `callBegan`, `callArguments`…, `callEnded`.
enum AnswerPart: Sendable, Equatable {
  /// The prompt was read; `cached` of its tokens were not computed again.
  case started(promptTokens: Int, cached: Int)
  /// How probable the prompt is, where the client wants to know.
  case prompt(Score)
  /// Text for the reader, never part of a call. Log-probabilities are those of the tokens since the last part.
  case text(String, [TokenReport])
  /// The model calls a tool: the `index`-th call of the answer, under an id of ours.
  case callBegan(index: Int, id: String, name: String)
  /// The next piece of the call's arguments; all pieces together are one JSON object.
  case callArguments(index: Int, json: String)
  case callEnded(index: Int)
  case finished(AnswerEnd)
}

/// A token with its log-probabilities.
struct TokenReport: Sendable, Equatable {
  var id: Int32
  var logProbabilities: TokenLogProbabilities
}

/// How an answer ended, and what it took.
struct AnswerEnd: Sendable, Equatable {
  enum Reason: Sendable, Equatable {
    /// The model ended it.
    case stop
    /// The most tokens were written, or the context is full.
    case length
    /// A stop string came.
    case stopSequence
    /// It ended with calls that the client shall execute.
    case toolCalls
    case cancelled
  }

  var reason: Reason
  /// The stop string that came.
  var stopSequence: String?
  /// The whole text for the reader.
  var text: String
  var promptTokens: Int
  /// Of the prompt's tokens, those that were not computed again.
  var cachedTokens: Int
  var completionTokens: Int
}
