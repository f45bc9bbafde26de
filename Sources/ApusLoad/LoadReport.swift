/// What a load measured, without its warm-up.
///
/// Only requests that succeeded count in latencies, tokens and rates. Distributions are in milliseconds and nil when
/// nothing was measured.
public struct LoadReport: Sendable {
  public struct Requests: Sendable, Equatable, Encodable {
    public var sent = 0
    public var succeeded = 0
    public var failed = 0
    /// Running when the run was stopped.
    public var interrupted = 0
  }

  public struct Tokens: Sendable, Equatable, Encodable {
    /// As the server's usage tells; 0 without it.
    public var prompt = 0
    /// Prompt tokens from a prefix cache, as the server's usage tells.
    public var cached = 0
    /// As the server's usage tells, or else events with text.
    public var output = 0
    public var requestsWithUsage = 0
  }

  public struct Goodput: Sendable, Equatable, Encodable {
    public var sloTtftMs: Double?
    public var sloItlMs: Double?
    /// Requests that kept the objective.
    public var requests: Int
    /// Of those that succeeded or failed.
    public var share: Double
    public var requestsPerS: Double
  }

  public struct Failure: Sendable, Equatable, Encodable {
    /// The name of a ``RequestFailure/Kind``.
    public var kind: String
    public var count: Int
    /// What the first one said.
    public var example: String
  }

  /// One second of the run, counted from its start.
  public struct Second: Sendable, Equatable, Encodable {
    public var second: Int
    public var sent: Int
    public var succeeded: Int
    public var failed: Int
    /// Requests that were sent and not over at the end of the second.
    public var running: Int
    /// Of requests that succeeded, when they came.
    public var outputTokens: Int
  }

  public var url: String
  public var model: String
  public var route: String
  /// For people: `4 streams`, `2.5/s poisson`.
  public var load: String
  public var seed: UInt64
  /// From the first arrival to the end of the last request that was not interrupted.
  public var durationS: Double
  public var wasInterrupted: Bool
  public var requests: Requests
  public var requestsPerS: Double
  public var tokens: Tokens
  public var outputTokensPerS: Double
  public var promptTokensPerS: Double
  /// Above 1 when events carry several tokens; `itlMs` then is the gap between groups of tokens.
  public var tokensPerEvent: Double?
  /// Time to first token, from the intended arrival.
  public var ttftMs: LatencySummary?
  /// Inter-token latency: every gap between two events with text.
  public var itlMs: LatencySummary?
  /// Each request's mean inter-token latency, weighted by its tokens: what guidellm calls inter-token latency.
  public var meanItlMs: LatencySummary?
  /// Time per output token, the first one's wait included, weighted by tokens, as guidellm has it.
  public var tpotMs: LatencySummary?
  /// From the intended arrival to the end of the answer.
  public var e2eMs: LatencySummary?
  /// How late the generator sent requests: part of the latencies above, and no fault of the server.
  public var sendDelayMs: LatencySummary?
  public var goodput: Goodput?
  public var finishReasons: [String: Int]
  /// Most frequent first.
  public var failures: [Failure]
  public var perSecond: [Second]
  /// CPU time of this process over the time of the run: 1 is a whole core.
  public var generatorCPUShare: Double
  /// The distributions above by name: `ttft`, `itl`, `mean_itl`, `tpot`, `e2e`, `send_delay`.
  public var histograms: [String: LatencyHistogram]
}

extension LoadReport: Encodable {
  /// All but the histograms, which have a form of their own (``LatencyHistogram/percentileDistribution``).
  enum CodingKeys: String, CodingKey {
    case url, model, route, load, seed, durationS, wasInterrupted, requests, requestsPerS, tokens, outputTokensPerS
    case promptTokensPerS, tokensPerEvent, ttftMs, itlMs, meanItlMs, tpotMs, e2eMs, sendDelayMs, goodput, finishReasons
    case failures, perSecond
    case generatorCPUShare = "generatorCpuShare"
  }
}
