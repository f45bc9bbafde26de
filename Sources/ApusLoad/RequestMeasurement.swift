/// What happened to one streamed request, and when: a state machine that is fed with what a connection brings.
///
/// All times are durations since the start of the run, by a monotonic clock.
public struct RequestMeasurement: Sendable {
  public enum Outcome: Sendable, Equatable {
    case succeeded
    case failed(RequestFailure)
    /// The run was stopped while the request was running.
    case interrupted
  }

  private enum Phase: Sendable {
    case waiting
    case streaming
    /// Collects the text of an answer that is not 200, to show it.
    case refused(status: Int, text: [UInt8])
    case over(Outcome)
  }

  /// Place in the plan; negative in the warm-up.
  public let index: Int
  /// When the plan wanted the request to be sent. Latencies count from here, so that a server (or a generator) that makes
  /// later requests wait does not hide their waiting: no coordinated omission.
  public let arrival: Duration
  public let sent: Duration
  /// When the head of the answer came.
  public private(set) var headers: Duration?
  /// When each event with text came. One event is one token with most servers.
  public private(set) var tokenTimes: [Duration] = []
  /// When `[DONE]`, or else the end of the answer, came.
  public private(set) var end: Duration?
  public private(set) var usage: TokenUsage?
  public private(set) var finishReason: String?

  private var phase = Phase.waiting
  private var parser = SSEParser()

  public init(index: Int, arrival: Duration, sent: Duration) {
    self.index = index
    self.arrival = arrival
    self.sent = sent
  }

  /// nil while the request is running.
  public var outcome: Outcome? { if case .over(let outcome) = phase { outcome } else { nil } }

  // MARK: what a connection brings

  public mutating func receiveHead(status: Int, contentType: String?, at time: Duration) {
    guard case .waiting = phase else { return }
    headers = time
    if status != 200 {
      phase = .refused(status: status, text: [])
    } else if let contentType, !contentType.lowercased().hasPrefix("text/event-stream") {
      finish(.failed(.init(.notAStream, "content-type \(contentType), expected text/event-stream")), at: time)
    } else {
      phase = .streaming
    }
  }

  /// Returns how many events with text the bytes completed.
  @discardableResult
  public mutating func receiveBody(_ bytes: some Collection<UInt8>, at time: Duration) -> Int {
    switch phase {
    case .waiting, .over: return 0
    case .refused(let status, var text):
      text.append(contentsOf: bytes.prefix(Self.shownBytes - text.count))
      phase = .refused(status: status, text: text)
      return 0
    case .streaming:
      let before = tokenTimes.count
      var events: [SSEParser.Event] = []
      do throws(SSEParser.TooLong) {
        try parser.consume(bytes) { events.append($0) }
      } catch {
        finish(.failed(.init(.malformedEvent, "an event above \(error.limit) bytes")), at: time)
      }
      for event in events { receive(event, at: time) }
      return tokenTimes.count - before
    }
  }

  /// The connection ended the answer in order.
  public mutating func receiveEnd(at time: Duration) {
    switch phase {
    case .over: break
    case .waiting: finish(.failed(.init(.connection, "no answer")), at: time)
    case .refused(let status, let text): finish(.failed(.init(.status(status), Self.shown(text))), at: time)
    case .streaming:
      if finishReason == nil {
        finish(.failed(.init(.cutStream, "the stream ended after \(tokenTimes.count) tokens")), at: time)
      } else {
        complete(at: time)
      }
    }
  }

  /// The connection broke, or time was up. What comes after `[DONE]` does not matter.
  public mutating func receiveFailure(_ failure: RequestFailure, at time: Duration) {
    switch phase {
    case .over: break
    case .waiting: finish(.failed(failure), at: time)
    case .refused(let status, let text): finish(.failed(.init(.status(status), Self.shown(text))), at: time)
    case .streaming:
      let isTimeout = failure.kind == .timeout
      finish(
        .failed(isTimeout ? failure : .init(.cutStream, "after \(tokenTimes.count) tokens: \(failure.detail)")),
        at: time)
    }
  }

  public mutating func interrupt(at time: Duration) {
    if outcome == nil { finish(.interrupted, at: time) }
  }

  /// Enough of an error's text for a report.
  private static let shownBytes = 2048

  private mutating func receive(_ event: SSEParser.Event, at time: Duration) {
    guard case .streaming = phase else { return }
    if event.name == "error" {
      let text = String(decoding: event.data.prefix(Self.shownBytes), as: UTF8.self)
      finish(.failed(.init(.errorEvent, StreamChunk(json: event.data)?.error ?? text)), at: time)
      return
    }
    // Servers may send events of their own beside the chunks.
    guard event.name == nil || event.name == "message" else { return }
    if event.data.elementsEqual("[DONE]".utf8) {
      complete(at: time)
      return
    }
    guard let chunk = StreamChunk(json: event.data) else {
      finish(.failed(.init(.malformedEvent, Self.shown(event.data))), at: time)
      return
    }
    if let error = chunk.error {
      finish(.failed(.init(.errorEvent, error)), at: time)
      return
    }
    if chunk.hasText { tokenTimes.append(time) }
    if let usage = chunk.usage { self.usage = usage }
    if let reason = chunk.finishReason { finishReason = reason }
  }

  private mutating func complete(at time: Duration) {
    finish(outputTokens > 0 ? .succeeded : .failed(.init(.emptyAnswer, "the stream brought no token")), at: time)
  }

  private mutating func finish(_ outcome: Outcome, at time: Duration) {
    phase = .over(outcome)
    end = time
  }

  /// The message in an error's body, or the body, on one line.
  private static func shown(_ text: [UInt8]) -> String {
    if text.isEmpty { return "no text" }
    if let error = StreamChunk(json: text)?.error { return error }
    let line = String(decoding: text, as: UTF8.self).split(whereSeparator: \.isNewline).joined(separator: " ")
    return line.count > shownCharacters ? line.prefix(shownCharacters) + "…" : line
  }

  private static let shownCharacters = 200
}

// MARK: measures

/// The measures of guidellm 0.8 (`schemas/request_stats.py`), from the intended arrival on.
extension RequestMeasurement {
  /// As the server counted them, or else the events with text.
  public var outputTokens: Int { usage?.completionTokens ?? tokenTimes.count }

  /// TTFT: from arrival to the first token; nil without one.
  public var timeToFirstToken: Duration? { tokenTimes.first.map { $0 - arrival } }

  /// ITL: the gaps between one event with text and the next.
  public var interTokenLatencies: [Duration] { zip(tokenTimes.dropFirst(), tokenTimes).map { $0 - $1 } }

  /// guidellm's inter-token latency: the time from first to last token over the tokens after the first.
  public var meanInterTokenLatency: Duration? {
    guard let first = tokenTimes.first, let last = tokenTimes.last, outputTokens > 1 else { return nil }
    return (last - first) / (outputTokens - 1)
  }

  /// TPOT as guidellm has it: from arrival to the last token over all tokens, so that it includes the first one's wait.
  public var timePerOutputToken: Duration? {
    guard let last = tokenTimes.last, outputTokens > 0 else { return nil }
    return (last - arrival) / outputTokens
  }

  /// From arrival to the end of the answer.
  public var latency: Duration? { end.map { $0 - arrival } }
}

/// What a request must keep to count as good; nil keeps nothing.
public struct ServiceObjective: Sendable, Hashable {
  public var timeToFirstToken: Duration?
  /// Against the request's mean, so that one slow gap does not decide over a long answer.
  public var interTokenLatency: Duration?

  public init(timeToFirstToken: Duration? = nil, interTokenLatency: Duration? = nil) {
    self.timeToFirstToken = timeToFirstToken
    self.interTokenLatency = interTokenLatency
  }

  public var isEmpty: Bool { timeToFirstToken == nil && interTokenLatency == nil }

  /// Whether a request succeeded within all limits. An answer of one token has no gaps to be slow in.
  public func isMet(by request: RequestMeasurement) -> Bool {
    guard request.outcome == .succeeded, let first = request.timeToFirstToken else { return false }
    if let limit = timeToFirstToken, first > limit { return false }
    if let limit = interTokenLatency, let mean = request.meanInterTokenLatency, mean > limit { return false }
    return true
  }
}
