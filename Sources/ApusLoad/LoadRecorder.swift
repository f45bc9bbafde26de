/// Adds finished requests up: memory does not grow with their number, only with the seconds of the run.
struct LoadRecorder: Sendable {
  private struct Second {
    var sent = 0
    var succeeded = 0
    var failed = 0
    var ended = 0
    var outputTokens = 0
  }

  private struct FailureCount {
    var count = 0
    var example: String
  }

  private let objective: ServiceObjective
  private var ttft = LatencyHistogram()
  private var itl = LatencyHistogram()
  private var meanITL = LatencyHistogram()
  private var tpot = LatencyHistogram()
  private var e2e = LatencyHistogram()
  private var sendDelay = LatencyHistogram()
  private var seconds: [Second] = []
  private var requests = LoadReport.Requests()
  private var tokens = LoadReport.Tokens()
  private var tokenEvents = 0
  private var good = 0
  private var finishReasons: [String: Int] = [:]
  private var failures: [String: FailureCount] = [:]
  private var firstArrival: Duration?
  private var lastEnd: Duration?

  init(objective: ServiceObjective) { self.objective = objective }

  /// Takes a request that is over. O(tokens).
  mutating func record(_ request: RequestMeasurement) {
    guard let outcome = request.outcome, let end = request.end else { return }
    requests.sent += 1
    sendDelay.record(request.sent - request.arrival)
    firstArrival = min(firstArrival ?? request.arrival, request.arrival)
    at(request.sent) { $0.sent += 1 }
    at(end) { $0.ended += 1 }
    switch outcome {
    case .interrupted: requests.interrupted += 1
    case .failed(let failure):
      requests.failed += 1
      lastEnd = max(lastEnd ?? end, end)
      at(end) { $0.failed += 1 }
      failures[failure.kind.name, default: FailureCount(example: failure.detail)].count += 1
    case .succeeded:
      requests.succeeded += 1
      lastEnd = max(lastEnd ?? end, end)
      at(end) { $0.succeeded += 1 }
      recordLatencies(request)
      recordTokens(request, end: end)
      if objective.isMet(by: request) { good += 1 }
      finishReasons[request.finishReason ?? "none", default: 0] += 1
    }
  }

  private mutating func recordLatencies(_ request: RequestMeasurement) {
    if let latency = request.timeToFirstToken { ttft.record(latency) }
    for latency in request.interTokenLatencies { itl.record(latency) }
    // guidellm weighs means over requests by the tokens they are means of.
    if let latency = request.meanInterTokenLatency { meanITL.record(latency, count: request.outputTokens - 1) }
    if let latency = request.timePerOutputToken { tpot.record(latency, count: request.outputTokens) }
    if let latency = request.latency { e2e.record(latency) }
  }

  private mutating func recordTokens(_ request: RequestMeasurement, end: Duration) {
    let total = request.outputTokens
    tokens.output += total
    tokenEvents += request.tokenTimes.count
    if let usage = request.usage {
      tokens.requestsWithUsage += 1
      tokens.prompt += usage.promptTokens
      tokens.cached += usage.cachedTokens
    }
    // An event may carry several tokens: they are spread evenly over the events, and add up to the total.
    let times = request.tokenTimes.isEmpty ? [end] : request.tokenTimes
    for (place, time) in times.enumerated() {
      let share = total * (place + 1) / times.count - total * place / times.count
      at(time) { $0.outputTokens += share }
    }
  }

  private mutating func at(_ time: Duration, _ change: (inout Second) -> Void) {
    let second = max(0, Int(time.components.seconds))
    if second >= seconds.count {
      seconds.append(contentsOf: repeatElement(Second(), count: second + 1 - seconds.count))
    }
    change(&seconds[second])
  }

  /// `cpuSeconds` is what this process computed from the start of the run to `elapsed`.
  func report(
    _ plan: LoadPlan, url: String, cpuSeconds: Double, elapsed: Duration, wasInterrupted: Bool
  ) -> LoadReport {
    let duration = lastEnd.flatMap { end in firstArrival.map { (end - $0).inSeconds } } ?? 0
    func rate(_ count: Int) -> Double { duration > 0 ? Double(count) / duration : 0 }
    var running = 0
    let perSecond = seconds.enumerated().map { second, row in
      running += row.sent - row.ended
      return LoadReport.Second(
        second: second, sent: row.sent, succeeded: row.succeeded, failed: row.failed, running: running,
        outputTokens: row.outputTokens)
    }
    let finished = requests.succeeded + requests.failed
    return LoadReport(
      url: url, model: plan.model, route: plan.route.rawValue, load: plan.load.description, seed: plan.seed,
      durationS: duration, wasInterrupted: wasInterrupted, requests: requests, requestsPerS: rate(requests.succeeded),
      tokens: tokens, outputTokensPerS: rate(tokens.output), promptTokensPerS: rate(tokens.prompt),
      tokensPerEvent: tokenEvents > 0 ? Double(tokens.output) / Double(tokenEvents) : nil,
      ttftMs: ttft.summary, itlMs: itl.summary, meanItlMs: meanITL.summary, tpotMs: tpot.summary, e2eMs: e2e.summary,
      sendDelayMs: sendDelay.summary,
      goodput: objective.isEmpty
        ? nil
        : LoadReport.Goodput(
          sloTtftMs: objective.timeToFirstToken.map { $0.inSeconds * 1000 },
          sloItlMs: objective.interTokenLatency.map { $0.inSeconds * 1000 }, requests: good,
          share: finished > 0 ? Double(good) / Double(finished) : 0, requestsPerS: rate(good)),
      finishReasons: finishReasons,
      failures: failures.map { LoadReport.Failure(kind: $0.key, count: $0.value.count, example: $0.value.example) }
        .sorted { ($1.count, $0.kind) < ($0.count, $1.kind) },
      perSecond: perSecond, generatorCPUShare: elapsed > .zero ? cpuSeconds / elapsed.inSeconds : 0,
      histograms: ["ttft": ttft, "itl": itl, "mean_itl": meanITL, "tpot": tpot, "e2e": e2e, "send_delay": sendDelay])
  }
}
