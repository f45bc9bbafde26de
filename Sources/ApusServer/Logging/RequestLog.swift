import ApusEngine
import ApusText
import Foundation
import Logging
import Synchronization

/// The requests under way and those that ended last; writes a line for each that ends.
final class RequestLog: Sendable {
  private struct State {
    var running: [ObjectIdentifier: RequestRecorder] = [:]
    /// The latest last.
    var ended: [RequestRecord] = []
    var counts = RequestCounts()
  }

  /// Requests that ended are kept up to this number.
  static let capacity = 100
  private let state = Mutex(State())
  private let logger: Logger?
  let logsPrompts: Bool
  let spans: SpanFile?

  /// `logger` nil writes no lines, `spans` nil no spans.
  init(logger: Logger? = nil, logsPrompts: Bool = false, spans: SpanFile? = nil) {
    self.logger = logger
    self.logsPrompts = logsPrompts
    self.spans = spans
  }

  /// A request that came.
  func begin(_ record: RequestRecord, trace: TraceParent? = nil) -> RequestRecorder {
    let recorder = RequestRecorder(record, trace: trace, log: self)
    if !record.isProbe { state.withLock { $0.running[ObjectIdentifier(recorder)] = recorder } }
    return recorder
  }

  fileprivate func end(_ recorder: RequestRecorder, _ record: RequestRecord) {
    state.withLock { $0.counts.add(record) }
    if !record.isProbe {
      state.withLock { state in
        state.running[ObjectIdentifier(recorder)] = nil
        state.ended.append(record)
        // Rarely more than needed, so that it is cheap.
        if state.ended.count >= 2 * Self.capacity { state.ended.removeFirst(state.ended.count - Self.capacity) }
      }
      spans?.write(record, trace: recorder.trace)
    }
    guard let logger else { return }
    let status = record.status ?? 0
    // Neither leaving nor what was never there is a fault.
    let isFault = status >= 500 && status != 503 && status != 501
    logger.log(level: isFault ? .error : record.isProbe ? .debug : .info, "request", metadata: record.metadata)
  }

  /// The requests that ended, probes included.
  var counts: RequestCounts { state.withLock { $0.counts } }

  /// Whether a request other than a probe is under way.
  var isAnswering: Bool { state.withLock { !$0.running.isEmpty } }

  /// Requests under way, then those that ended, the latest first; `principal` nil is everybody.
  func records(of principal: String?) -> [RequestRecord] {
    let (running, ended) = state.withLock { (Array($0.running.values), $0.ended.suffix(Self.capacity)) }
    let all = running.map(\.record).sorted { $0.startedAt > $1.startedAt } + ended.reversed()
    guard let principal else { return all }
    return all.filter { $0.principal == principal }
  }
}

/// Fills a request's record while it is answered. Its parts come from several tasks; after the end they count no more.
final class RequestRecorder: Sendable {
  /// The recorder of the request on whose behalf a task runs.
  @TaskLocal static var current: RequestRecorder?

  let trace: TraceParent?
  private let state: Mutex<RequestRecord>
  private let log: RequestLog
  private let start = ContinuousClock.now

  init(_ record: RequestRecord, trace: TraceParent?, log: RequestLog) {
    state = Mutex(record)
    self.trace = trace
    self.log = log
  }

  private var elapsed: Double { start.duration(to: .now).inSeconds }

  /// The record so far.
  var record: RequestRecord { state.withLock { $0 } }

  func update(_ change: (inout RequestRecord) -> Void) {
    state.withLock { if $0.endedAfter == nil { change(&$0) } }
  }

  /// The request is over: the first end counts.
  func end(_ change: (inout RequestRecord) -> Void = { _ in }) {
    let record: RequestRecord? = state.withLock { record in
      guard record.endedAfter == nil else { return nil }
      change(&record)
      if record.submittedAfter != nil, record.finishReason == nil { record.finishReason = "cancelled" }
      record.endedAfter = elapsed
      return record
    }
    if let record { log.end(self, record) }
  }

  // MARK: answers

  func submit(_ prompt: Prompt, for origin: RequestOrigin, tokenizer: any Tokenizer) {
    let text = log.logsPrompts ? Self.text(of: prompt, tokenizer) : nil
    let now = elapsed
    update { record in
      if record.submittedAfter == nil { record.submittedAfter = now }
      record.answerIDs.append(origin.id)
      if let text { record.prompt = (record.prompt.map { $0 + "\n" } ?? "") + text }
    }
  }

  /// An answer's next event, or the error that ended it.
  func take(_ event: Result<GenerationEvent, any Error>, of answer: String) {
    let now = elapsed
    update { record in
      switch event {
      case .success(.started(let promptTokens, let cached)):
        if record.admittedAfter == nil { record.admittedAfter = now }
        record.promptTokens += promptTokens
        record.cachedTokens += cached
      case .success(.prompt): break
      case .success(.token):
        if record.firstTokenAfter == nil { record.firstTokenAfter = now }
        record.countToken(of: answer)
      case .success(.finished(let generation)):
        record.endAnswer(answer, tokens: generation.tokens.count)
        record.finishReason = generation.finishReason.rawValue
        if log.logsPrompts { record.answer = (record.answer.map { $0 + "\n" } ?? "") + generation.text }
      case .failure(let error): record.finishReason = error is CancellationError ? "cancelled" : "error"
      }
    }
  }

  private static func text(of prompt: Prompt, _ tokenizer: any Tokenizer) -> String {
    switch prompt {
    case .text(let text): text
    case .tokens(let tokens): tokenizer.decode(tokens, skipSpecial: false)
    case .chat(let messages, _): String(decoding: CompactJSON.bytes(.list(messages)), as: UTF8.self)
    }
  }
}
