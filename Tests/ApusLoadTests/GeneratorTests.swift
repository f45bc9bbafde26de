import ApusLoad
import Foundation
import Testing

/// Over real sockets, against a server with known delays. Lower bounds are exact: a timer never fires early. Upper bounds
/// leave room for a busy machine, and are below what a wrong measure would give.
@Suite(.serialized, .timeLimit(.minutes(2))) struct GeneratorTests {
  private func plan(
    _ load: LoadPlan.Load = .closed(streams: 1), _ extent: LoadPlan.Extent = .requests(4), warmUp: Int = 0
  ) -> LoadPlan {
    var plan = LoadPlan(
      model: "m", load: load, extent: extent, prompts: .synthetic(tokens: .fixed(8), sharedPrefix: 0),
      outputTokens: .fixed(6))
    plan.warmUp = warmUp
    return plan
  }

  /// Sent, succeeded, failed and interrupted.
  private func counts(_ report: LoadReport) -> [Int] {
    [report.requests.sent, report.requests.succeeded, report.requests.failed, report.requests.interrupted]
  }

  /// Prompt, cached, output, and requests with usage.
  private func tokens(_ report: LoadReport) -> [Int] {
    [report.tokens.prompt, report.tokens.cached, report.tokens.output, report.tokens.requestsWithUsage]
  }

  @Test func latenciesAreThoseOfTheServer() async throws {
    try await ScriptedServer.with({ _ in .stream(tokens: 6, first: 150, gap: 40) }) { url, server in
      var plan = plan(.closed(streams: 2), .requests(6), warmUp: 1)
      plan.objective = ServiceObjective(timeToFirstToken: .seconds(5), interTokenLatency: .seconds(5))
      let report = try await LoadGenerator.run(plan, url: url)
      #expect(counts(report) == [6, 6, 0, 0])
      // The warm-up is not in the report.
      #expect(server.requests.count == 7)
      let ttft = try #require(report.ttftMs)
      #expect(ttft.count == 6 && ttft.min >= 150 && ttft.p50 < 150 + 100)
      let itl = try #require(report.itlMs)
      #expect(itl.count == 6 * 5 && itl.p50 > 30 && itl.p50 < 70)
      let mean = try #require(report.meanItlMs)
      #expect(mean.count == 6 * 5 && mean.p50 > 35 && mean.p50 < 70)
      let e2e = try #require(report.e2eMs)
      #expect(e2e.min >= 350 && e2e.p50 < 350 + 150)
      let tpot = try #require(report.tpotMs)
      #expect(tpot.count == 36 && tpot.min >= 350 / 6 && tpot.p50 < 500 / 6)
      #expect(tokens(report) == [180, 96, 36, 6])
      // Two streams, three requests each: 1.05 s.
      #expect(report.durationS >= 1.05 && report.durationS < 4)
      #expect(abs(report.outputTokensPerS - 36 / report.durationS) < 1e-9)
      #expect(report.goodput?.requests == 6 && report.goodput?.share == 1)
      #expect(report.finishReasons == ["length": 6])
      #expect(report.perSecond.map(\.outputTokens).reduce(0, +) == 36)
      #expect(report.perSecond.map(\.sent).reduce(0, +) == 6 && report.perSecond.last?.running == 0)
      // One connection a stream, and no more.
      #expect(server.connections <= 2)
      let body = try JSONSerialization.jsonObject(with: Data(server.requests[3].body.utf8)) as? [String: Any]
      #expect(body?["max_tokens"] as? Int == 6 && server.requests[3].head.uri == "/v1/chat/completions")
    }
  }

  @Test func slowRequestsAreNotGood() async throws {
    try await ScriptedServer.with({ .stream(tokens: 3, first: $0 % 2 == 0 ? 1 : 400, gap: 1) }) { url, _ in
      var plan = plan()
      plan.objective = ServiceObjective(timeToFirstToken: .milliseconds(350))
      let report = try await LoadGenerator.run(plan, url: url)
      #expect(report.requests.succeeded == 4 && report.goodput?.requests == 2 && report.goodput?.share == 0.5)
    }
  }

  @Test func eventsCountWithoutUsage() async throws {
    try await ScriptedServer.with({ _ in .stream(tokens: 5, first: 1, gap: 1, usage: false) }) { url, _ in
      let report = try await LoadGenerator.run(plan(), url: url)
      #expect(tokens(report) == [0, 0, 20, 0])
    }
  }

  @Test func anOpenLoopDoesNotWaitForAnswers() async throws {
    try await ScriptedServer.with({ _ in .stream(tokens: 1, first: 500, gap: 0) }) { url, _ in
      let report = try await LoadGenerator.run(plan(.constant(rate: 50), .requests(20)), url: url)
      #expect(report.requests.succeeded == 20)
      // The last one is due at 0.38 s. One after another would take 10 s.
      #expect(report.durationS >= 0.88 && report.durationS < 3)
      #expect((report.perSecond.first?.sent ?? 0) > 10)
    }
  }

  @Test func aDurationEndsTheSendingAndRunningRequestsFinish() async throws {
    try await ScriptedServer.with({ _ in .stream(tokens: 2, first: 60, gap: 60) }) { url, _ in
      for load in [LoadPlan.Load.closed(streams: 2), .poisson(rate: 30)] {
        let report = try await LoadGenerator.run(plan(load, .duration(.milliseconds(500))), url: url)
        #expect(report.requests.succeeded == report.requests.sent && report.requests.failed == 0)
        #expect((4...40).contains(report.requests.sent), "\(load)")
        #expect(report.durationS < 3)
      }
    }
  }

  @Test func cutStreamsAreFailures() async throws {
    try await ScriptedServer.with({ number in
      let whole: [ScriptedServer.Step] = .stream(tokens: 3, first: 1, gap: 1)
      return number % 2 == 0 ? whole : Array(whole.prefix(6)) + [.drop]
    }) { url, _ in
      let report = try await LoadGenerator.run(plan(), url: url)
      #expect(counts(report) == [4, 2, 2, 0])
      #expect(report.failures.map(\.kind) == ["cut_stream"] && report.failures.first?.count == 2)
      // What they brought counts nowhere.
      #expect(report.tokens.output == 6 && report.ttftMs?.count == 2)
    }
  }

  @Test func refusalsAreFailuresAndNotRepeated() async throws {
    let refusal: [ScriptedServer.Step] = [
      .head(429, type: "application/json"), .body(#"{"error": {"message": "slow down"}}"#), .end,
    ]
    try await ScriptedServer.with({ $0 % 4 == 3 ? refusal : .stream(tokens: 2, first: 1, gap: 1) }) { url, server in
      let report = try await LoadGenerator.run(plan(.closed(streams: 1), .requests(8)), url: url)
      #expect(counts(report) == [8, 6, 2, 0])
      #expect(report.failures.map(\.kind) == ["http_429"] && report.failures.first?.count == 2)
      #expect(report.failures.first?.example == "slow down")
      #expect(server.requests.count == 8)
      #expect(report.perSecond.map(\.failed).reduce(0, +) == 2)
    }
  }

  @Test func wholeAnswersAndSlowOnesAreFailures() async throws {
    try await ScriptedServer.with({ number in
      number == 0
        ? [.head(200, type: "application/json"), .body(#"{"choices": []}"#), .end]
        : .stream(tokens: 2, first: 5000, gap: 1)
    }) { url, _ in
      var plan = plan(.closed(streams: 1), .requests(2))
      plan.timeout = .milliseconds(300)
      let report = try await LoadGenerator.run(plan, url: url)
      #expect(report.requests.failed == 2)
      #expect(Set(report.failures.map(\.kind)) == ["not_a_stream", "timeout"])
    }
  }

  @Test func aServerThatIsNotThereStopsTheWarmUpAndIsCountedLater() async throws {
    // A port that was free a moment ago.
    let url = try await ScriptedServer.with({ _ in [] }) { url, _ in url }
    await #expect {
      try await LoadGenerator.run(plan(warmUp: 1), url: url)
    } throws: { error in
      guard case .unusableServer(_, let failure)? = error as? LoadError else { return false }
      return failure.kind == .connection && failure.detail.contains("refused")
    }
    let report = try await LoadGenerator.run(plan(), url: url)
    #expect(counts(report) == [4, 0, 4, 0])
    #expect(report.failures.map(\.kind) == ["connection"])
    #expect(report.requestsPerS == 0 && report.ttftMs == nil)
  }

  @Test func cancellationReportsWhatWasMeasured() async throws {
    try await ScriptedServer.with({ number in
      number < 2 ? .stream(tokens: 2, first: 1, gap: 1) : .stream(tokens: 1000, first: 1, gap: 30)
    }) { url, server in
      for load in [LoadPlan.Load.closed(streams: 2), .constant(rate: 100)] {
        let monitor = LoadMonitor()
        let plan = plan(load, .requests(1000))
        let run = Task { try await LoadGenerator.run(plan, url: url, monitor: monitor) }
        while monitor.progress.tokenEvents < 20 { try await Task.sleep(for: .milliseconds(5)) }
        let start = ContinuousClock.now
        run.cancel()
        let report = try await run.value
        #expect(start.duration(to: .now) < .seconds(2))
        #expect(report.wasInterrupted && report.requests.interrupted > 0 && report.requests.failed == 0)
        if load == .closed(streams: 2) {
          #expect(counts(report) == [4, 2, 0, 2])
          #expect(report.tokens.output == 4)
        }
      }
    }
  }

  @Test func theKeyIsSentAndModelsAreListed() async throws {
    let list: [ScriptedServer.Step] = [
      .head(200, type: "application/json"), .body(#"{"object": "list", "data": [{"id": "a"}, {"id": "b"}]}"#), .end,
    ]
    try await ScriptedServer.with({ $0 == 0 ? list : [.head(401, type: "text/plain"), .body("no"), .end] }) {
      url, server in
      let generator = LoadGenerator(try LoadTarget(url: url, apiKey: "secret"))
      #expect(try await generator.models() == ["a", "b"])
      #expect(server.requests[0].head.headers.first(name: "authorization") == "Bearer secret")
      #expect(server.requests[0].head.uri == "/v1/models")
      await #expect(throws: LoadError.self) { try await generator.models() }
      await #expect {
        try await generator.run(plan(warmUp: 1))
      } throws: { error in
        guard case .unusableServer(_, let failure)? = error as? LoadError else { return false }
        return failure == .init(.status(401), "no")
      }
    }
  }
}
