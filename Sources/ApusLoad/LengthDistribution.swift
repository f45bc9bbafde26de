#if canImport(Glibc)
  import Glibc
#elseif canImport(Musl)
  import Musl
#else
  import Darwin
#endif

/// How many tokens prompts or answers have.
public enum LengthDistribution: Sendable, Hashable {
  case fixed(Int)
  case uniform(ClosedRange<Int>)
  /// `exp(log(median) + sigma · normal)`, cut to 1...maximum: many short ones, a few very long ones.
  case logNormal(median: Int, sigma: Double, maximum: Int)

  /// What ``init(text:)`` reads.
  public static let forms = "N, A:B (uniform) or lognormal:MEDIAN:SIGMA:MAXIMUM"

  /// Longer prompts and answers are a slip of the finger: 16 Mi tokens.
  static let limit = 1 << 24

  /// Reads one of ``forms``; nil for anything else. Lengths are 1 to 16 Mi tokens.
  public init?(text: String) {
    let parts = text.split(separator: ":", omittingEmptySubsequences: false)
    func length(_ part: Substring) -> Int? { Int(part).flatMap { (1...Self.limit).contains($0) ? $0 : nil } }
    switch parts.count {
    case 1:
      guard let tokens = length(parts[0]) else { return nil }
      self = .fixed(tokens)
    case 2:
      guard let least = length(parts[0]), let most = length(parts[1]), least <= most else { return nil }
      self = .uniform(least...most)
    case 4 where parts[0] == "lognormal":
      guard let median = length(parts[1]), let sigma = Double(parts[2]), (0...Self.largestSigma).contains(sigma),
        let maximum = length(parts[3]), median <= maximum
      else { return nil }
      self = .logNormal(median: median, sigma: sigma, maximum: maximum)
    default: return nil
    }
  }

  /// At 8, one draw in six is 3,000 times the median: nobody means more.
  private static let largestSigma = 8.0

  func sample(using random: inout SplitMix64) -> Int {
    switch self {
    case .fixed(let tokens): tokens
    case .uniform(let range): Int.random(in: range, using: &random)
    case .logNormal(let median, let sigma, let maximum):
      Int(min(Double(maximum), max(1, (Double(median) * exp(sigma * random.nextNormal())).rounded())))
    }
  }
}
