import Synchronization

/// What an engine has done and is doing, for metrics and for people. A copy: reading it never waits for the engine.
public struct EngineStats: Sendable {
  /// A sequence that the engine holds.
  public struct Sequence: Sendable {
    public enum State: String, Sendable {
      case waiting
      case prefilling
      case decoding
      /// Its reader is behind.
      case paused
    }
    public var id: String
    public var state: State
    public var promptTokens: Int
    public var generatedTokens: Int
    public var cachedTokens: Int
    /// Seconds since it was submitted.
    public var age: Double
  }

  public var sequences: [Sequence] = []
  public var running: Int { sequences.count { $0.state != .waiting } }
  public var waiting: Int { sequences.count { $0.state == .waiting } }

  /// Blocks of 16 tokens: all, those in use by sequences or kept for later prompts, and of these those only kept.
  public var blocks = 0
  public var blocksUsed = 0
  public var blocksCached = 0

  // Since the start.
  public var steps = 0
  public var promptTokens = 0
  public var cachedTokens = 0
  public var generatedTokens = 0
  public var preemptions = 0
  /// Finished answers by reason; `error` for those that failed.
  public var finished: [String: Int] = [:]
  /// Requests that were refused, by reason.
  public var refused: [String: Int] = [:]

  /// Seconds from submission to the first token, between a sequence's tokens, in the queue, and in all.
  public var timeToFirstToken = LatencyHistogram()
  public var interTokenLatency = LatencyHistogram()
  public var queueTime = LatencyHistogram()
  public var totalTime = LatencyHistogram()

  /// Tokens per second over the last seconds.
  public var decodeRate = 0.0
  public var prefillRate = 0.0

  /// Seconds that the engine's thread spent in the model's forward passes, and beside them (planning, sampling, handing
  /// out tokens, taking requests), idle time left out.
  public var forwardTime = 0.0
  public var overheadTime = 0.0

  public init() {}

  /// With the counts of an earlier engine of the same model.
  func adding(_ past: EngineStats) -> EngineStats {
    var sum = self
    sum.steps += past.steps
    sum.promptTokens += past.promptTokens
    sum.cachedTokens += past.cachedTokens
    sum.generatedTokens += past.generatedTokens
    sum.preemptions += past.preemptions
    sum.forwardTime += past.forwardTime
    sum.overheadTime += past.overheadTime
    sum.finished.merge(past.finished, uniquingKeysWith: +)
    sum.refused.merge(past.refused, uniquingKeysWith: +)
    sum.timeToFirstToken.add(past.timeToFirstToken)
    sum.interTokenLatency.add(past.interTokenLatency)
    sum.queueTime.add(past.queueTime)
    sum.totalTime.add(past.totalTime)
    return sum
  }
}

/// The outside's copy of an engine's figures.
final class PublishedStats: Sendable {
  private let stats = Mutex(EngineStats())

  var value: EngineStats { stats.withLock { $0 } }

  /// Takes over the figures, and leaves the engine the memory of the list that was here.
  func renew(from fresh: inout EngineStats) {
    stats.withLock { stats in
      swap(&stats, &fresh)
      var list: [EngineStats.Sequence] = []
      swap(&list, &fresh.sequences)
      fresh = stats
      swap(&list, &fresh.sequences)
    }
  }
}

/// Counts seconds in fixed buckets, as Prometheus does: bucket i counts values ≤ `bounds[i]`, cumulatively when written.
public struct LatencyHistogram: Sendable {
  /// Seconds.
  public static let bounds: [Double] = [
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60,
  ]
  /// One more than bounds: the last counts what is beyond all.
  public var counts: [Int] { tally.indices.map { tally[$0] } }
  /// In the value itself, so that copies of the figures share no memory that the next step would have to copy.
  private var tally = SIMD16<Int>.zero
  public private(set) var sum = 0.0
  public var count: Int { tally.wrappedSum() }

  public init() {}

  public mutating func record(_ seconds: Double) {
    tally[Self.bounds.firstIndex { seconds <= $0 } ?? Self.bounds.count] += 1
    sum += seconds
  }

  mutating func add(_ other: LatencyHistogram) {
    tally &+= other.tally
    sum += other.sum
  }
}

/// Tokens per second, forgetting with a time constant of some seconds.
struct RateMeter {
  private static let timeConstant = 3.0
  private var tokens = 0.0
  private var last: Double?

  mutating func add(_ count: Int, at now: Double) {
    decay(to: now)
    tokens += Double(count)
  }

  mutating func rate(at now: Double) -> Double {
    decay(to: now)
    return tokens / Self.timeConstant
  }

  private mutating func decay(to now: Double) {
    if let last, now > last { tokens *= 1 / (1 + (now - last) / Self.timeConstant) }
    last = now
  }
}
