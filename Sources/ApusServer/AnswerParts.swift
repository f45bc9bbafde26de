import ApusEngine
import ApusTools

/// Turns an engine's events into what a client is told: text and tool calls apart. A state machine without I/O, the same
/// under every dialect.
struct AnswerParts: Sendable {
  private var calls: ToolCallParser?
  private let allowsParallelCalls: Bool
  /// The answer is calls and nothing else.
  private let mustCall: Bool
  private var hasCalls = false
  private var text = ""
  /// Reports of tokens whose text has not been told yet.
  private var reports: [TokenReport] = []

  /// `tools` nil takes everything for text. Without parallel calls those after the first are left out. `mustCall` says
  /// that a grammar let the model write nothing but calls.
  init(tools: ToolCallParser?, allowsParallelCalls: Bool = true, mustCall: Bool = false) {
    calls = tools
    self.allowsParallelCalls = allowsParallelCalls
    self.mustCall = mustCall
  }

  init(of engine: any TextEngine, tools: AnswerTools) {
    self.init(
      tools: tools.parser(for: engine), allowsParallelCalls: tools.allowsParallelCalls,
      mustCall: tools.mustCall)
  }

  /// The parts that an event causes, in order.
  mutating func parts(for event: GenerationEvent) -> [AnswerPart] {
    switch event {
    case .started(let promptTokens, let cached): return [.started(promptTokens: promptTokens, cached: cached)]
    case .prompt(let score): return [.prompt(score)]
    case .token(let token):
      if let report = token.logProbabilities { reports.append(TokenReport(id: token.id, logProbabilities: report)) }
      return parts(of: token.text)
    case .finished(let generation):
      var parts = parts(of: generation.tail)
      parts += end(isCut: generation.finishReason != .stop)
      if !reports.isEmpty { parts.append(.text("", takeReports())) }
      parts.append(
        .finished(
          AnswerEnd(
            reason: reason(of: generation), stopSequence: generation.stop, text: text,
            promptTokens: generation.promptTokens, cachedTokens: generation.cachedTokens,
            completionTokens: generation.tokens.count)))
      return parts
    }
  }

  /// What was held back. Of a call that was cut, the name and the arguments so far, as OpenAI and vLLM stream them, and no
  /// text: the reason tells that it is not whole.
  private mutating func end(isCut: Bool) -> [AnswerPart] {
    guard let events = calls?.finish(isCut: isCut) else { return [] }
    return events.compactMap { event in
      if isCut, mustCall, case .text = event { return nil }
      return part(for: event)
    }
  }

  private mutating func parts(of delta: String) -> [AnswerPart] {
    // A token without text waits for the one that completes a character; its log-probability goes with it.
    if delta.isEmpty { return [] }
    guard let events = calls?.append(delta) else {
      text += delta
      return [.text(delta, takeReports())]
    }
    return events.compactMap { part(for: $0) }
  }

  private mutating func part(for event: ToolCallParser.Event) -> AnswerPart? {
    switch event {
    case .callBegan(let index, _), .arguments(let index, _), .callEnded(let index):
      if index > 0, !allowsParallelCalls { return nil }
    case .text: break
    }
    switch event {
    case .text(let delta):
      // Models put a line break before a call, which is no text for a reader.
      if hasCalls && delta.allSatisfy(\.isWhitespace) { return nil }
      text += delta
      return .text(delta, takeReports())
    case .callBegan(let index, let name):
      hasCalls = true
      return .callBegan(index: index, id: RandomID.make("call_"), name: name)
    case .arguments(let index, let json): return .callArguments(index: index, json: json)
    case .callEnded(let index): return .callEnded(index: index)
    }
  }

  private mutating func takeReports() -> [TokenReport] {
    defer { reports.removeAll() }
    return reports
  }

  private func reason(of generation: Generation) -> AnswerEnd.Reason {
    switch generation.finishReason {
    case .stop: hasCalls ? .toolCalls : .stop
    // A call that a stop string cut is none to execute.
    case .stopSequence: hasCalls && calls?.outcomes.last != .cut ? .toolCalls : .stopSequence
    case .length: .length
    case .cancelled: .cancelled
    }
  }
}
