/// When the requests of an open loop are due, counted from the start of the run: a sequence without an end.
///
/// Poisson arrivals have independent exponential gaps; they depend on the seed only.
public struct ArrivalTimes: Sequence, IteratorProtocol, Sendable {
  private enum Gaps {
    case exponential(SplitMix64)
    case constant
  }

  private var gaps: Gaps
  private let rate: Double
  private var count = 0
  /// In units of the mean gap.
  private var time = 0.0

  private init(_ gaps: Gaps, rate: Double) {
    self.gaps = gaps
    self.rate = rate
  }

  /// `rate` is in requests per second, above 0.
  public static func poisson(rate: Double, seed: UInt64) -> ArrivalTimes {
    // A stream apart from those of the prompts, which are numbered from 0 (and from −1 downwards in the warm-up).
    ArrivalTimes(.exponential(SplitMix64(seed: seed, item: .min)), rate: rate)
  }

  /// `rate` is in requests per second, above 0; the first one is due at once.
  public static func constant(rate: Double) -> ArrivalTimes { ArrivalTimes(.constant, rate: rate) }

  public mutating func next() -> Duration? {
    switch gaps {
    case .exponential(var random):
      time += random.nextExponential()
      gaps = .exponential(random)
    case .constant:
      time = Double(count)
    }
    count += 1
    return .seconds(time / rate)
  }
}
