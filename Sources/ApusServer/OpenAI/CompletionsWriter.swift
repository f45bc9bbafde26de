import ApusEngine
import ApusText

/// Turns the parts of one prompt's answer into the choices of a text completion, streamed or whole: a state machine
/// without I/O.
struct CompletionChoiceWriter: Sendable {
  /// A token's log-probability and the best beside it. A prompt's first token has none.
  private struct Entry: Sendable {
    var token: Int32
    var chosen: Float?
    var top: [TokenLogProbability]
  }

  let index: Int
  /// The prompt, if it is to be given back.
  let echo: String?
  /// The prompt's log-probabilities will come, and the prompt is written with them.
  let scoresPrompt: Bool
  let tokenizer: any Tokenizer
  private var entries: [Entry] = []
  /// Where the next token begins, in Unicode scalars from the beginning of the choice's text.
  private var offset: Int

  init(index: Int, echo: String?, scoresPrompt: Bool = false, tokenizer: any Tokenizer) {
    self.index = index
    self.echo = echo
    self.scoresPrompt = scoresPrompt
    self.tokenizer = tokenizer
    offset = scoresPrompt ? 0 : echo?.unicodeScalars.count ?? 0
  }

  /// The choices that a part causes in a stream, in order; the last carries the reason.
  mutating func pieces(for part: AnswerPart) -> [JinjaValue] {
    switch part {
    case .started: return scoresPrompt ? [] : echo.map { [choice($0)] } ?? []
    case .prompt(let score): return [choice(echo ?? "", Self.entries(of: score))]
    case .text(let text, let reports): return [choice(text, Self.entries(of: reports))]
    case .finished(let end): return [choice("", reason: end.reason)]
    case .callBegan, .callArguments, .callEnded: return []
    }
  }

  /// Takes the parts of an answer that is sent whole; returns its choice with the last one.
  mutating func whole(for part: AnswerPart) -> (choice: JinjaValue, end: AnswerEnd)? {
    switch part {
    case .prompt(let score): entries += Self.entries(of: score)
    case .text(_, let reports): entries += Self.entries(of: reports)
    case .finished(let end): return (choice((echo ?? "") + end.text, entries, reason: end.reason), end)
    case .started, .callBegan, .callArguments, .callEnded: break
    }
    return nil
  }

  private static func entries(of score: Score) -> [Entry] {
    score.tokens.indices.map {
      Entry(token: score.tokens[$0], chosen: score.logProbabilities[$0], top: score.top[$0])
    }
  }

  private static func entries(of reports: [TokenReport]) -> [Entry] {
    reports.map { Entry(token: $0.id, chosen: $0.logProbabilities.chosen, top: $0.logProbabilities.top) }
  }

  private mutating func choice(_ text: String, _ entries: [Entry] = [], reason: AnswerEnd.Reason? = nil) -> JinjaValue {
    [
      "text": .string(text), "index": .integer(index), "logprobs": entries.isEmpty ? .none : logProbabilities(entries),
      "finish_reason": .optional(reason?.completionName),
    ]
  }

  /// Parallel lists, as OpenAI's older route has them.
  private mutating func logProbabilities(_ entries: [Entry]) -> JinjaValue {
    var offsets: [JinjaValue] = []
    for entry in entries {
      offsets.append(.integer(offset))
      // A character counts where its first byte is: the others follow as 10xxxxxx.
      offset += tokenizer.bytes(of: entry.token).count { $0 & 0xC0 != 0x80 }
    }
    return [
      "tokens": .list(entries.map { .string(name(of: $0.token)) }),
      "token_logprobs": .list(entries.map { $0.chosen.map { .logProbability($0) } ?? .none }),
      "top_logprobs": .list(entries.map(best)), "text_offset": .list(offsets),
    ]
  }

  /// The most probable tokens by name, and the chosen one if it is not among them.
  private func best(_ entry: Entry) -> JinjaValue {
    guard let probability = entry.chosen else { return .none }
    var best = JinjaMapping()
    for other in entry.top where best[name(of: other.token)] == nil {
      best[name(of: other.token)] = .logProbability(other.logProbability)
    }
    let chosen = name(of: entry.token)
    if best[chosen] == nil { best[chosen] = .logProbability(probability) }
    return .mapping(best)
  }

  /// A token's text; one that is no whole character is written as `bytes:\xc3`, as OpenAI does.
  private func name(of id: Int32) -> String {
    let bytes = tokenizer.bytes(of: id)
    if let text = String(validating: bytes, as: UTF8.self) { return text }
    return "bytes:" + bytes.map { "\\x" + ($0 < 16 ? "0" : "") + String($0, radix: 16) }.joined()
  }
}

/// What all objects of one text completion have in common.
struct CompletionHeader: Sendable {
  var id: String
  /// Seconds since 1970.
  var created: Int
  var model: String

  func object(choices: [JinjaValue]) -> JinjaValue {
    [
      "id": .string(id), "object": "text_completion", "created": .integer(created), "model": .string(model),
      "choices": .list(choices),
    ]
  }

  /// The tokens that answers took together.
  static func usage(_ ends: [AnswerEnd]) -> JinjaValue {
    let prompt = ends.reduce(0) { $0 + $1.promptTokens }
    let completion = ends.reduce(0) { $0 + $1.completionTokens }
    return [
      "prompt_tokens": .integer(prompt), "completion_tokens": .integer(completion),
      "total_tokens": .integer(prompt + completion),
      "prompt_tokens_details": ["cached_tokens": .integer(ends.reduce(0) { $0 + $1.cachedTokens })],
    ]
  }
}

extension AnswerEnd.Reason {
  /// OpenAI's word in text completions, which has one for the model's end and a stop string.
  var completionName: String {
    switch self {
    case .stop, .stopSequence, .toolCalls: "stop"
    case .length: "length"
    case .cancelled: "cancelled"
    }
  }
}
