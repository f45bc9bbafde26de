import ApusText

/// Which requests are sent when: a value, so that the same plan is the same load on every server.
public struct LoadPlan: Sendable {
  public enum Load: Sendable, Hashable, CustomStringConvertible {
    /// Closed loop: each stream sends its next request when the one before is over.
    case closed(streams: Int)
    /// Open loop: requests per second, with independent gaps, whether or not earlier ones are over.
    case poisson(rate: Double)
    /// Open loop with equal gaps.
    case constant(rate: Double)

    public var description: String {
      switch self {
      case .closed(1): "1 stream"
      case .closed(let streams): "\(streams) streams"
      case .poisson(let rate): "\(rate)/s poisson"
      case .constant(let rate): "\(rate)/s constant"
      }
    }
  }

  public enum Extent: Sendable, Hashable {
    case requests(Int)
    /// No request is sent later than this; running ones finish and count.
    case duration(Duration)
  }

  public enum Route: String, Sendable, CaseIterable {
    case chat
    case completions

    /// After the address that ends with `/v1`.
    var path: String { self == .chat ? "chat/completions" : "completions" }
  }

  public enum Prompts: Sendable {
    /// Random words that differ from request to request, after `sharedPrefix` tokens that all requests begin with.
    case synthetic(tokens: LengthDistribution, sharedPrefix: Int)
    /// Requests in turn, from the first again after the last.
    case records([PromptRecord])
  }

  public var model: String
  public var load: Load
  public var extent: Extent
  public var prompts: Prompts
  /// Becomes `max_tokens`, where a record has none of its own.
  public var outputTokens: LengthDistribution
  public var route = Route.chat
  /// Asks the server to write all `max_tokens`, so that servers do the same work (`ignore_eos`, where it is known).
  public var ignoresEOS = true
  /// Requests that are sent one after another before the measured ones.
  public var warmUp = 1
  public var objective = ServiceObjective()
  /// A request that takes longer has failed.
  public var timeout = Duration.seconds(600)
  /// Fields that every request carries beside (or in place of) the generated ones.
  public var extraFields = JinjaMapping()
  public var seed: UInt64

  public init(
    model: String, load: Load, extent: Extent,
    prompts: Prompts = .synthetic(tokens: .fixed(64), sharedPrefix: 0), outputTokens: LengthDistribution = .fixed(64),
    seed: UInt64 = 0
  ) {
    self.model = model
    self.load = load
    self.extent = extent
    self.prompts = prompts
    self.outputTokens = outputTokens
    self.seed = seed
  }

  /// Streams and requests beyond this are slips of the finger, and would need as many connections.
  public static let mostStreams = 65_536

  /// Throws ``LoadError/invalid(field:seen:expected:)`` for values that make no load.
  public func validate() throws(LoadError) {
    func check(_ isRight: Bool, _ field: String, _ seen: Any, _ expected: String) throws(LoadError) {
      if !isRight { throw .invalid(field: field, seen: "\(seen)", expected: expected) }
    }
    switch load {
    case .closed(let streams):
      try check((1...Self.mostStreams).contains(streams), "concurrency", streams, "1 to \(Self.mostStreams) streams")
    case .poisson(let rate), .constant(let rate):
      try check(
        Self.rates.contains(rate), "rate", rate, "\(Self.rates.lowerBound) to \(Self.rates.upperBound) a second")
    }
    switch extent {
    case .requests(let count): try check(count > 0, "requests", count, "1 or more")
    case .duration(let duration):
      try check(duration > .zero && duration <= Self.longestRun, "duration", duration, "above 0, at most a week")
    }
    switch prompts {
    case .synthetic(_, let sharedPrefix):
      try check(
        (0...LengthDistribution.limit).contains(sharedPrefix), "shared prefix", sharedPrefix,
        "0 to \(LengthDistribution.limit) tokens")
    case .records(let records): try check(!records.isEmpty, "records", "an empty list", "at least one")
    }
    try check(warmUp >= 0, "warm-up", warmUp, "0 or more requests")
    try check(timeout > .zero && timeout <= Self.longestRun, "timeout", timeout, "above 0, at most a week")
    for (field, limit) in [("TTFT", objective.timeToFirstToken), ("ITL", objective.interTokenLatency)] {
      if let limit { try check(limit > .zero, "the limit for \(field)", limit, "above 0") }
    }
  }

  private static let rates = 1e-6...1e6
  private static let longestRun = Duration.seconds(7 * 86_400)

  /// When the requests of an open loop are due; nil in a closed loop.
  public var arrivals: ArrivalTimes? {
    switch load {
    case .closed: nil
    case .poisson(let rate): .poisson(rate: rate, seed: seed)
    case .constant(let rate): .constant(rate: rate)
    }
  }

  /// The JSON body of request `index`, which depends on the plan and the index alone. Negative ones are the warm-up's.
  public func body(_ index: Int) throws(LoadError) -> String {
    var random = SplitMix64(seed: seed, item: index)
    var body: JinjaMapping = ["model": .string(model)]
    var maxTokens = outputTokens.sample(using: &random)
    switch prompts {
    case .synthetic(let tokens, let sharedPrefix):
      var shared = SplitMix64(seed: seed)
      let words =
        SyntheticText.words(sharedPrefix, using: &shared)
        + SyntheticText.words(tokens.sample(using: &random), using: &random)
      add(.text(words.joined(separator: " ")), to: &body)
    case .records(let records):
      // Swift's remainder has the sign of the dividend.
      let record = records[(index % records.count + records.count) % records.count]
      add(record.prompt, to: &body)
      maxTokens = record.maxTokens ?? maxTokens
    }
    body["max_tokens"] = .integer(maxTokens)
    body["temperature"] = 0
    // Servers that keep seeds in 32 bits are many.
    body["seed"] = .integer(Int(truncatingIfNeeded: seed & 0x7FFF_FFFF))
    if ignoresEOS { body["ignore_eos"] = true }
    for (key, value) in zip(extraFields.keys, extraFields.values) { body[key] = value }
    // Without these two there is nothing to measure.
    body["stream"] = true
    body["stream_options"] = ["include_usage": true]
    do {
      return try JinjaValue.mapping(body).json
    } catch {
      throw .invalid(field: "request \(index)", seen: "\(error)", expected: "values that JSON can hold")
    }
  }

  private func add(_ prompt: PromptRecord.Prompt, to body: inout JinjaMapping) {
    switch (route, prompt) {
    case (.chat, .text(let text)): body["messages"] = [["role": "user", "content": .string(text)]]
    case (.chat, .messages(let messages)): body["messages"] = .list(messages)
    case (.completions, .text(let text)): body["prompt"] = .string(text)
    case (.completions, .messages(let messages)): body["prompt"] = .string(PromptRecord.text(of: messages))
    }
  }
}
