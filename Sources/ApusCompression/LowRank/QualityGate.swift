/// Finds how far a model can be compressed before a measured quality misses its target.
public struct QualityGate: Sendable {
  /// What a good model's measure is.
  public enum Target: Sendable, Equatable {
    /// At least this: a cosine similarity, an accuracy.
    case atLeast(Double)
    /// At most this: a perplexity, a loss.
    case atMost(Double)

    /// NaN meets no target.
    func isMet(by quality: Double) -> Bool {
      switch self {
      case .atLeast(let bound): quality >= bound
      case .atMost(let bound): quality <= bound
      }
    }
  }

  /// A ratio that was tried.
  public struct Trial: Sendable, Equatable {
    public let ratio: Double
    public let quality: Double
    public let isMet: Bool
  }

  /// What the search found.
  public struct Outcome: Sendable, Equatable {
    /// The lowest ratio that was measured to meet the target; nil when the highest one missed it: then none is known that
    /// meets it.
    public let accepted: Trial?
    /// All that was measured, in order.
    public let trials: [Trial]
    /// True when the target may be met by less than `accepted`, but the evaluations were used up.
    public let isCutShort: Bool
  }

  public var target: Target
  /// Ratios of kept parameters to search.
  public var ratios: ClosedRange<Double>
  /// The search ends when the lowest ratio that passed is this close to the highest one that failed below it.
  public var tolerance: Double
  /// Measurements to make, at most; 1 or more.
  public var mostEvaluations: Int

  public init(
    target: Target, ratios: ClosedRange<Double> = 0.2...0.95, tolerance: Double = 0.01, mostEvaluations: Int = 8
  ) {
    precondition(mostEvaluations >= 1 && tolerance >= 0, "\(mostEvaluations) evaluations, tolerance \(tolerance)")
    self.target = target
    self.ratios = ratios
    self.tolerance = tolerance
    self.mostEvaluations = mostEvaluations
  }

  /// Bisects, trying the highest ratio first and the lowest second. Quality need not grow with the ratio everywhere: the
  /// result is always one that was measured to pass. Throws what `measure` throws.
  public func search<Failure: Error>(_ measure: (Double) throws(Failure) -> Double) throws(Failure) -> Outcome {
    var trials: [Trial] = []
    var accepted: Trial?
    var (low, high) = (ratios.lowerBound, ratios.upperBound)
    var next = high
    while trials.count < mostEvaluations {
      let quality = try measure(next)
      let trial = Trial(ratio: next, quality: quality, isMet: target.isMet(by: quality))
      trials.append(trial)
      if trial.isMet {
        accepted = trial
        high = next
      } else {
        low = next
      }
      // A first failure too: nothing lies above the highest ratio.
      if high - low <= tolerance {
        return Outcome(accepted: accepted, trials: trials, isCutShort: false)
      }
      next = trials.count == 1 ? low : (low + high) / 2
    }
    return Outcome(accepted: accepted, trials: trials, isCutShort: true)
  }
}
