import Histogram

/// Latencies of a run, in an HdrHistogram of nanoseconds with three significant digits.
public struct LatencyHistogram: Sendable {
  private var histogram = Histogram<UInt64>(numberOfSignificantValueDigits: .three)
  /// In nanoseconds, as recorded: the histogram's own mean is that of its buckets.
  private var sum = 0.0

  public init() {}

  public var count: Int { Int(histogram.totalCount) }

  /// Latencies below zero (two clocks' readings swapped) count as zero.
  public mutating func record(_ latency: Duration, count: Int = 1) {
    guard count > 0 else { return }
    let nanoseconds = max(0, latency.nanoseconds)
    histogram.record(UInt64(nanoseconds), count: UInt64(count))
    sum += Double(nanoseconds) * Double(count)
  }

  /// The smallest recorded latency that `percentile` per cent of all do not exceed (nearest rank), in milliseconds,
  /// within 0.1 %; nil without any.
  public func milliseconds(percentile: Double) -> Double? {
    count == 0 ? nil : Double(histogram.valueAtPercentile(percentile)) / 1e6
  }

  public var summary: LatencySummary? {
    guard count > 0 else { return nil }
    func value(_ percentile: Double) -> Double { milliseconds(percentile: percentile) ?? 0 }
    return LatencySummary(
      count: count, mean: sum / Double(count) / 1e6, min: value(0), p50: value(50), p90: value(90), p95: value(95),
      p99: value(99), max: value(100))
  }

  /// The percentile distribution in milliseconds, in the text form that HdrHistogram's plotters read (.hgrm).
  public var percentileDistribution: String {
    var text = ""
    histogram.outputPercentileDistribution(to: &text, outputValueUnitScalingRatio: 1e6)
    return text
  }
}

/// A distribution in milliseconds.
public struct LatencySummary: Sendable, Equatable, Encodable {
  public var count: Int
  public var mean: Double
  public var min: Double
  public var p50: Double
  public var p90: Double
  public var p95: Double
  public var p99: Double
  public var max: Double
}

extension Duration {
  var nanoseconds: Int64 { components.seconds * 1_000_000_000 + components.attoseconds / 1_000_000_000 }

  /// In seconds.
  var inSeconds: Double { Double(components.seconds) + Double(components.attoseconds) * 1e-18 }
}
