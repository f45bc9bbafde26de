import ApusLoad
import ApusText
import ArgumentParser
import Foundation

struct BenchServeCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "serve",
    abstract: "Sends load to an OpenAI-compatible server and measures its answers.",
    discussion: """
      apus bench serve --url http://127.0.0.1:8080 --concurrency 1 --concurrency 4 --concurrency 16
      apus bench serve --url http://127.0.0.1:8080 --rate 2.5 --duration 60 --slo-ttft-ms 500 --slo-itl-ms 80
      apus bench serve --url http://127.0.0.1:8080 --prompt-tokens 16:512 --output-tokens lognormal:64:0.7:256
      apus bench serve --url http://127.0.0.1:8080 --shared-prefix-tokens 512 --requests 64
      apus bench serve --url https://example.org/v1 --model m --data requests.jsonl --api-key-file key.txt --json

      --concurrency is a closed loop: each stream sends its next request when the one before is over. --rate is an open
      loop: requests are sent when they are due, and timed from then, however late earlier ones are. Every value of a
      repeated --concurrency or --rate is a run of its own.

      TTFT is the time to the first token. ITL is every gap between two streamed events with text; the JSON also has
      guidellm's, each request's mean (mean_itl_ms), and TPOT, the time per output token with the first one's wait. Only
      requests that succeed count, in latencies and in rates; refused, broken and cut ones are listed by kind. Goodput
      counts those with TTFT and mean ITL within --slo-ttft-ms and --slo-itl-ms. Tokens are as the server's usage tells,
      or else the events with text.

      Prompts are random English words: about one token each, and a server that has seen none of them has none in its
      prefix cache. The same --seed makes the same prompts and arrival times. A line of --data is
      {"messages": [...]} or {"prompt": "..."}, with "max_tokens" if it likes. A key is read from --api-key-file or
      $APUS_API_KEY. Ctrl-C stops, and reports what was measured so far.
      """)

  @Option(help: "The server: http://HOST:PORT, with or without /v1.")
  var url: String?

  @Option(name: [.customShort("m"), .long], help: "The model's name at the server (default: the first that it lists).")
  var model: String?

  @Option(help: "The route to load.")
  var route = LoadPlan.Route.chat

  @Option(help: "Read the API key from this file.")
  var apiKeyFile: String?

  @Option(parsing: .singleValue, help: "Streams of a closed loop; may be repeated (default: 1).")
  var concurrency: [Int] = []

  @Option(parsing: .singleValue, help: "Requests per second of an open loop; may be repeated.")
  var rate: [Double] = []

  @Option(help: "Gaps of an open loop.")
  var arrivals = ArrivalKind.poisson

  @Option(help: "Requests of each run (default: 32, or 4 a stream if that is more; with --data, its lines).")
  var requests: Int?

  @Option(help: "Seconds in which requests are sent, in place of --requests; running ones finish.")
  var duration: Double?

  @Option(help: "Requests before each run that are not measured.")
  var warmup = 1

  @Option(help: "Tokens of a prompt: \(LengthDistribution.forms).")
  var promptTokens = LengthDistribution.fixed(64)

  @Option(help: "Tokens of an answer, in the same forms.")
  var outputTokens = LengthDistribution.fixed(64)

  @Option(help: "Tokens before each prompt that are the same for all.")
  var sharedPrefixTokens = 0

  @Option(help: "Take requests from this JSONL file.")
  var data: String?

  @Flag(
    name: .customLong("ignore-eos"), inversion: .prefixedNo,
    help: "Ask for all output tokens (ignore_eos: vLLM's name; servers that do not know it may end sooner).")
  var ignoresEOS = true

  @Option(help: "A JSON object whose fields every request carries, such as '{\"cache_prompt\": false}'.")
  var body: String?

  @Option(help: "Good requests have their first token within so many milliseconds.")
  var sloTtftMs: Double?

  @Option(help: "Good requests have a mean inter-token latency of so many milliseconds at most.")
  var sloItlMs: Double?

  @Option(help: "A request that takes more seconds has failed.")
  var timeout = 600.0

  @Option(help: "Makes the load (default: by chance; reported).")
  var seed: UInt64?

  @Option(help: "Write each run's distributions into this folder, in HdrHistogram's text form (.hgrm).")
  var histograms: String?

  @Flag(help: "Print a JSON list, with a row for every second.")
  var json = false

  /// What a duration can hold in seconds, with room; the plan has narrower limits.
  private static let longest = 1e9

  func validate() throws {
    if url == nil {
      throw ValidationError(
        """
        --url is missing. Start a server in another terminal, and name its address:
          apus serve --port 8080
          apus bench serve --url http://127.0.0.1:8080
        """)
    }
    if !concurrency.isEmpty && !rate.isEmpty { throw ValidationError("Give --concurrency or --rate, not both.") }
    for (option, value) in [
      ("--duration", duration), ("--timeout", timeout), ("--slo-ttft-ms", sloTtftMs), ("--slo-itl-ms", sloItlMs),
    ] {
      if let value, !(value > 0 && value <= Self.longest) {
        throw ValidationError("\(option) is \(value), expected a number above 0.")
      }
    }
    if requests != nil && duration != nil { throw ValidationError("Give --requests or --duration, not both.") }
    if data != nil && sharedPrefixTokens != 0 {
      throw ValidationError("--shared-prefix-tokens is for made prompts, not for --data.")
    }
  }

  func run() throws {
    let generator = LoadGenerator(try LoadTarget(url: url ?? "", apiKey: try apiKey()))
    let seed = seed ?? UInt64.random(in: 0...UInt64(UInt32.max))
    var plans = try plans(seed: seed)
    if model == nil {
      let listed = try waitFor { try await generator.models() }
      guard let first = listed.first else { throw LoadError.noModel(url: url ?? "") }
      for place in plans.indices { plans[place].model = first }
    }
    for plan in plans { try plan.validate() }

    var reports: [LoadReport] = []
    var failure: (any Error)?
    let interrupt = Interrupt()
    for plan in plans where failure == nil && reports.last?.wasInterrupted != true {
      do { reports.append(try measure(plan, generator, interrupt)) } catch { failure = error }
    }
    try writeHistograms(reports)
    if json { try JSONOutput.print(reports) } else { printTable(reports) }
    if let failure { throw failure }
    if reports.last?.wasInterrupted == true { throw ExitCode(Interrupt.status) }
    if reports.allSatisfy({ $0.requests.succeeded == 0 }) { throw ExitCode.failure }
  }

  /// Runs one plan with a line of progress; Ctrl-C ends it.
  private func measure(_ plan: LoadPlan, _ generator: LoadGenerator, _ interrupt: Interrupt) throws -> LoadReport {
    let monitor = LoadMonitor()
    return try interrupt.cancelling { cancellation in
      try waitFor {
        let run = Task { try await generator.run(plan, monitor: monitor) }
        let watch = Task {
          while !Task.isCancelled {
            if cancellation.isCancelled { run.cancel() }
            ProgressLine.show(plan, monitor.progress)
            try? await Task.sleep(for: ProgressLine.interval)
          }
        }
        let result = await run.result
        watch.cancel()
        await watch.value
        ProgressLine.clear()
        return try result.get()
      }
    }
  }

  // MARK: plans

  private func plans(seed: UInt64) throws -> [LoadPlan] {
    let records = try data.map { path in
      guard let contents = FileManager.default.contents(atPath: path) else {
        throw LoadError.unreadableFile(path: path, reason: "check the path and its permissions")
      }
      return try PromptRecord.read(lines: String(decoding: contents, as: UTF8.self), file: path)
    }
    let loads: [LoadPlan.Load] =
      rate.isEmpty
      ? (concurrency.isEmpty ? [1] : concurrency).map { .closed(streams: $0) }
      : rate.map { arrivals == .poisson ? .poisson(rate: $0) : .constant(rate: $0) }
    return try loads.enumerated().map { place, load in
      var plan = LoadPlan(
        model: model ?? "", load: load, extent: extent(load, records: records?.count),
        prompts: records.map { .records($0) }
          ?? .synthetic(tokens: promptTokens, sharedPrefix: sharedPrefixTokens),
        // Each run has prompts of its own: the one before has filled the server's prefix cache with others.
        outputTokens: outputTokens, seed: seed &+ UInt64(place))
      plan.route = route
      plan.ignoresEOS = ignoresEOS
      plan.warmUp = warmup
      plan.timeout = .seconds(timeout)
      plan.objective = ServiceObjective(
        timeToFirstToken: sloTtftMs.map { .milliseconds($0) }, interTokenLatency: sloItlMs.map { .milliseconds($0) })
      plan.extraFields = try extraFields()
      return plan
    }
  }

  private static let defaultRequests = 32
  private static let defaultRequestsPerStream = 4

  private func extent(_ load: LoadPlan.Load, records: Int?) -> LoadPlan.Extent {
    if let duration { return .duration(.seconds(duration)) }
    if let requests { return .requests(requests) }
    if let records { return .requests(records) }
    guard case .closed(let streams) = load else { return .requests(Self.defaultRequests) }
    // Too many streams are refused later, with the reason.
    return .requests(max(Self.defaultRequests, min(streams, LoadPlan.mostStreams) * Self.defaultRequestsPerStream))
  }

  private func extraFields() throws -> JinjaMapping {
    guard let body else { return [:] }
    guard let value = try? JinjaValue(json: body), case .mapping(let fields) = value else {
      throw LoadError.invalid(field: "--body", seen: "'\(body)'", expected: "a JSON object")
    }
    return fields
  }

  private func apiKey() throws -> String? {
    guard let path = apiKeyFile else {
      return ProcessInfo.processInfo.environment["APUS_API_KEY"].flatMap { $0.isEmpty ? nil : $0 }
    }
    guard let contents = FileManager.default.contents(atPath: path) else {
      throw LoadError.unreadableFile(path: path, reason: "check the path and its permissions")
    }
    return String(decoding: contents, as: UTF8.self).trimmingCharacters(in: .whitespacesAndNewlines)
  }

  // MARK: output

  private func printTable(_ reports: [LoadReport]) {
    guard let first = reports.first else { return }
    var header = [
      "load", "requests", "failed", "requests/s", "tokens/s", "TTFT ms p50", "p95", "p99", "ITL ms p50", "p95", "p99",
      "e2e s p50",
    ]
    if first.goodput != nil { header += ["good", "good/s"] }
    Terminal.write("\(first.model) on \(first.url), \(first.route) route, seed \(first.seed)\n")
    Terminal.write(Format.table([header] + reports.map(Self.cells)) + "\n")
    for report in reports {
      for failure in report.failures {
        Terminal.write("\(report.load): \(failure.count) × \(failure.kind), such as: \(failure.example)\n")
      }
      if report.wasInterrupted {
        Terminal.write("\(report.load): stopped; \(report.requests.interrupted) running requests do not count\n")
      }
      if let delay = report.sendDelayMs, delay.p99 > Self.notableDelayMs {
        Terminal.write(
          "\(report.load): requests were sent up to \(Format.number(delay.max)) ms late (p99 "
            + "\(Format.number(delay.p99)) ms), and are timed from when they were due\n")
      }
    }
  }

  /// More than a scheduler's ordinary delay on a busy machine.
  private static let notableDelayMs = 10.0

  private static func cells(_ report: LoadReport) -> [String] {
    func percentiles(_ summary: LatencySummary?) -> [String] {
      guard let summary else { return ["", "", ""] }
      return [summary.p50, summary.p95, summary.p99].map(Format.number)
    }
    var cells = [
      report.load, "\(report.requests.succeeded)", "\(report.requests.failed)", Format.number(report.requestsPerS),
      Format.number(report.outputTokensPerS),
    ]
    cells += percentiles(report.ttftMs) + percentiles(report.itlMs)
    cells.append(report.e2eMs.map { Format.number($0.p50 / 1000) } ?? "")
    if let goodput = report.goodput {
      cells += ["\(Format.number(goodput.share * 100)) %", Format.number(goodput.requestsPerS)]
    }
    return cells
  }

  private func writeHistograms(_ reports: [LoadReport]) throws {
    guard let histograms else { return }
    let folder = URL(filePath: histograms)
    do {
      try FileManager.default.createDirectory(at: folder, withIntermediateDirectories: true)
      for report in reports {
        let load = report.load.map { $0.isLetter || $0.isNumber || $0 == "." ? $0 : "-" }
        for (name, histogram) in report.histograms {
          let file = folder.appending(path: String(load) + "-\(name).hgrm")
          try Data(histogram.percentileDistribution.utf8).write(to: file)
        }
      }
    } catch {
      throw LoadError.unwritableFile(path: histograms, reason: error.localizedDescription)
    }
  }
}

enum ArrivalKind: String, CaseIterable, ExpressibleByArgument {
  case poisson, constant
}

extension LoadPlan.Route: ExpressibleByArgument {}

extension LengthDistribution: ExpressibleByArgument {
  public init?(argument: String) { self.init(text: argument) }

  public var defaultValueDescription: String {
    switch self {
    case .fixed(let tokens): "\(tokens)"
    case .uniform(let range): "\(range.lowerBound):\(range.upperBound)"
    case .logNormal(let median, let sigma, let maximum): "lognormal:\(median):\(sigma):\(maximum)"
    }
  }
}

/// One line on stderr that is written over, on a terminal only.
private enum ProgressLine {
  static let interval = Duration.milliseconds(100)

  static func show(_ plan: LoadPlan, _ progress: LoadProgress) {
    guard Terminal.errorIsTerminal else { return }
    if progress.isWarmingUp {
      Terminal.write("\r\u{1B}[K\(plan.load): warm-up", to: STDERR_FILENO)
      return
    }
    let elapsed = Double(progress.elapsed.components.seconds) + Double(progress.elapsed.components.attoseconds) * 1e-18
    let over = progress.succeeded + progress.failed
    var line = "\(plan.load): \(over)"
    if case .requests(let count) = plan.extent { line += " of \(count)" }
    line += " requests, \(progress.sent - over) running"
    if progress.failed > 0 { line += ", \(progress.failed) failed" }
    if elapsed > 0 { line += ", \(Format.number(Double(progress.tokenEvents) / elapsed)) tokens/s" }
    Terminal.write("\r\u{1B}[K\(line), \(Format.seconds(elapsed))", to: STDERR_FILENO)
  }

  static func clear() {
    if Terminal.errorIsTerminal { Terminal.write("\r\u{1B}[K", to: STDERR_FILENO) }
  }
}
