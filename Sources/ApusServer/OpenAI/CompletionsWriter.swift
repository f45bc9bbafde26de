import ApusEngine
import ApusText

/// Turns the parts of one prompt's answer into the choices of a text completion, streamed or whole: a state machine
/// without I/O.
struct CompletionChoiceWriter: Sendable {
  let index: Int
  /// The prompt, if it is to be given back.
  let echo: String?
  let tokenizer: any Tokenizer
  private var tokens: [TokenReport] = []
  /// Where the next token begins, in Unicode scalars from the beginning of the choice's text.
  private var offset: Int

  init(index: Int, echo: String?, tokenizer: any Tokenizer) {
    self.index = index
    self.echo = echo
    self.tokenizer = tokenizer
    offset = echo?.unicodeScalars.count ?? 0
  }

  /// The choices that a part causes in a stream, in order; the last carries the reason.
  mutating func pieces(for part: AnswerPart) -> [JinjaValue] {
    switch part {
    case .started: return echo.map { [choice($0)] } ?? []
    case .text(let text, let reports): return [choice(text, reports)]
    case .finished(let end): return [choice("", reason: end.reason)]
    case .callBegan, .callArguments, .callEnded: return []
    }
  }

  /// Takes the parts of an answer that is sent whole; returns its choice with the last one.
  mutating func whole(for part: AnswerPart) -> (choice: JinjaValue, end: AnswerEnd)? {
    switch part {
    case .text(_, let reports): tokens += reports
    case .finished(let end): return (choice((echo ?? "") + end.text, tokens, reason: end.reason), end)
    case .started, .callBegan, .callArguments, .callEnded: break
    }
    return nil
  }

  private mutating func choice(
    _ text: String, _ reports: [TokenReport] = [], reason: AnswerEnd.Reason? = nil
  ) -> JinjaValue {
    [
      "text": .string(text), "index": .integer(index), "logprobs": reports.isEmpty ? .none : logProbabilities(reports),
      "finish_reason": .optional(reason?.completionName),
    ]
  }

  /// Parallel lists, as OpenAI's older route has them.
  private mutating func logProbabilities(_ reports: [TokenReport]) -> JinjaValue {
    var offsets: [JinjaValue] = []
    for report in reports {
      offsets.append(.integer(offset))
      // A character counts where its first byte is: the others follow as 10xxxxxx.
      offset += tokenizer.bytes(of: report.id).count { $0 & 0xC0 != 0x80 }
    }
    return [
      "tokens": .list(reports.map { .string(name(of: $0.id)) }),
      "token_logprobs": .list(reports.map { .logProbability($0.logProbabilities.chosen) }),
      "top_logprobs": .list(reports.map(best)), "text_offset": .list(offsets),
    ]
  }

  /// The most probable tokens by name, and the chosen one if it is not among them.
  private func best(_ report: TokenReport) -> JinjaValue {
    var best = JinjaMapping()
    for entry in report.logProbabilities.top where best[name(of: entry.token)] == nil {
      best[name(of: entry.token)] = .logProbability(entry.logProbability)
    }
    let chosen = name(of: report.id)
    if best[chosen] == nil { best[chosen] = .logProbability(report.logProbabilities.chosen) }
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
