import ApusLoad
import Testing

/// What one answer means, without a network: the state machine is fed by hand.
@Suite struct MeasurementTests {
  private static let role = #"data: {"choices": [{"delta": {"role": "assistant", "content": ""}}]}"# + "\n\n"
  private static func text(_ text: String) -> String {
    #"data: {"choices": [{"delta": {"content": "\#(text)"}, "finish_reason": null}], "usage": null}"# + "\n\n"
  }
  private static let stop = #"data: {"choices": [{"delta": {}, "finish_reason": "length"}]}"# + "\n\n"
  private static let done = "data: [DONE]\n\n"
  private static func usage(_ tokens: Int) -> String {
    #"data: {"choices": [], "usage": {"prompt_tokens": 40, "completion_tokens": \#(tokens), "#
      + #""prompt_tokens_details": {"cached_tokens": 16}}}"# + "\n\n"
  }

  /// Sent at 10 ms though due at 0; the first body comes at 100 ms, each further one 10 ms later.
  private func measure(
    _ bodies: [String], status: Int = 200, type: String? = "text/event-stream", ends: Bool = true
  ) -> RequestMeasurement {
    var measurement = RequestMeasurement(index: 0, arrival: .zero, sent: .milliseconds(10))
    measurement.receiveHead(status: status, contentType: type, at: .milliseconds(50))
    for (place, body) in bodies.enumerated() {
      measurement.receiveBody(Array(body.utf8), at: .milliseconds(100 + 10 * place))
    }
    if ends { measurement.receiveEnd(at: .milliseconds(500)) }
    return measurement
  }

  private func failure(_ measurement: RequestMeasurement) -> RequestFailure.Kind? {
    if case .failed(let failure)? = measurement.outcome { failure.kind } else { nil }
  }

  @Test func measuresCountFromTheIntendedArrival() {
    let request = measure([
      Self.role, Self.text("a"), Self.text("b"), Self.text("c"), Self.stop, Self.usage(3), Self.done,
    ])
    #expect(request.outcome == .succeeded)
    #expect(request.headers == .milliseconds(50))
    // The role alone is no token.
    #expect(request.timeToFirstToken == .milliseconds(110))
    #expect(request.interTokenLatencies == [.milliseconds(10), .milliseconds(10)])
    #expect(request.meanInterTokenLatency == .milliseconds(10))
    #expect(request.timePerOutputToken == .milliseconds(130) / 3)
    // The answer ends with [DONE], not with the connection.
    #expect(request.latency == .milliseconds(160))
    #expect(request.finishReason == "length")
    #expect(request.usage == TokenUsage(promptTokens: 40, completionTokens: 3, cachedTokens: 16))
  }

  @Test func usageCountsTokensWhereEventsDoNot() {
    let request = measure([Self.text("a b"), Self.text("c d e"), Self.stop, Self.usage(5), Self.done])
    #expect(request.outputTokens == 5)
    #expect(request.interTokenLatencies == [.milliseconds(10)])
    #expect(request.meanInterTokenLatency == .milliseconds(10) / 4)
    let without = measure([Self.text("a b"), Self.text("c d e"), Self.stop, Self.done])
    #expect(without.outputTokens == 2 && without.outcome == .succeeded)
  }

  @Test func completionsReasoningAndToolCallsAreTokens() {
    for chunk in [
      #"{"choices": [{"text": "a"}]}"#, #"{"choices": [{"delta": {"reasoning_content": "a"}}]}"#,
      #"{"choices": [{"delta": {"tool_calls": [{"index": 0}]}}]}"#,
    ] {
      #expect(measure(["data: \(chunk)\n\n", Self.done]).tokenTimes.count == 1, "\(chunk)")
    }
  }

  @Test func commentsAndForeignEventsAreNoTokens() {
    let request = measure([": ping\n\n", "event: apus.step\ndata: nonsense\n\n", Self.text("a"), Self.stop, Self.done])
    #expect(request.outcome == .succeeded && request.tokenTimes == [.milliseconds(120)])
  }

  @Test func onlyAWholeStreamIsASuccess() {
    // A finish reason and an ordinary end will do: not every server sends [DONE].
    #expect(measure([Self.text("a"), Self.stop]).outcome == .succeeded)
    #expect(failure(measure([Self.text("a")])) == .cutStream)
    #expect(failure(measure([])) == .cutStream)
    #expect(failure(measure([Self.role, Self.stop, Self.done])) == .emptyAnswer)
    #expect(
      failure(measure([Self.text("a"), #"data: {"error": {"message": "boom"}}"# + "\n\n", Self.done])) == .errorEvent)
    #expect(failure(measure([Self.text("a"), "event: error\ndata: {}\n\n", Self.done])) == .errorEvent)
    #expect(failure(measure(["data: {\n\n", Self.text("a"), Self.done])) == .malformedEvent)
    #expect(failure(measure(["data: [1]\n\n", Self.text("a"), Self.done])) == .malformedEvent)
    #expect(failure(measure([Self.text("a"), Self.done], type: "application/json")) == .notAStream)
    #expect(measure([Self.text("a")], ends: false).outcome == nil)
  }

  @Test func refusalsCarryTheirStatusAndMessage() {
    let body = #"{"error": {"message": "slow down", "type": "rate_limit"}}"#
    let refused = measure([body], status: 429, type: "application/json")
    #expect(refused.outcome == .failed(.init(.status(429), "slow down")))
    // The status says all, even if the body is a good stream or breaks.
    #expect(failure(measure([Self.text("a"), Self.stop, Self.done], status: 201)) == .status(201))
    var broken = measure([], status: 503, ends: false)
    broken.receiveFailure(.init(.connection, "reset"), at: .milliseconds(300))
    #expect(failure(broken) == .status(503))
  }

  @Test func aBrokenConnectionFailsWhatIsNotOverYet() {
    let reset = RequestFailure(.connection, "reset")
    var early = RequestMeasurement(index: 0, arrival: .zero, sent: .zero)
    early.receiveFailure(reset, at: .milliseconds(5))
    #expect(early.outcome == .failed(reset) && early.end == .milliseconds(5))
    var middle = measure([Self.text("a"), Self.stop], ends: false)
    middle.receiveFailure(reset, at: .milliseconds(300))
    #expect(failure(middle) == .cutStream)
    var slow = measure([Self.text("a")], ends: false)
    slow.receiveFailure(.init(.timeout, "deadline"), at: .milliseconds(300))
    #expect(failure(slow) == .timeout)
    var late = measure([Self.text("a"), Self.stop, Self.done], ends: false)
    late.receiveFailure(reset, at: .milliseconds(300))
    #expect(late.outcome == .succeeded && late.end == .milliseconds(120))
    var stopped = measure([Self.text("a")], ends: false)
    stopped.interrupt(at: .milliseconds(300))
    stopped.receiveEnd(at: .milliseconds(400))
    #expect(stopped.outcome == .interrupted && stopped.end == .milliseconds(300))
  }

  @Test func objectivesLookAtFirstTokenAndMeanGap() {
    let request = measure([Self.text("a"), Self.text("b"), Self.stop, Self.done])
    func isMet(_ ttft: Int?, _ itl: Int?) -> Bool {
      ServiceObjective(
        timeToFirstToken: ttft.map { .milliseconds($0) }, interTokenLatency: itl.map { .milliseconds($0) }
      )
      .isMet(by: request)
    }
    #expect(isMet(100, 10) && isMet(nil, 10) && isMet(100, nil))
    #expect(!isMet(99, 10) && !isMet(100, 9))
    #expect(!ServiceObjective().isMet(by: measure([Self.text("a")])))
  }
}
