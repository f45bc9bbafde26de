#if canImport(Glibc)
  import Glibc
#elseif canImport(Musl)
  import Musl
#else
  import Darwin
#endif

/// Layers of a kind share the kind's reduction by the logarithm of what each would lose: the more, the less it is cut.
///
/// With L the root of a layer's tail at the uniform ratio, its reduction is proportional to 1 / ln L. The published rule
/// fails where L ≤ 1 (the logarithm changes its sign or vanishes) although L has no natural unit; there, all L of the kind
/// are scaled so that the smallest is e. A reduction is at most that of rank 1; what it cannot take the others do.
/// Source: Wang et al., "SVD-LLM V2: Optimizing singular value truncation for large language model compression", 2025.
public struct GroupedLossAllocator: RankAllocator {
  public init() {}

  public func ranks(for layers: [RankedLayer], budget: Int) throws(CompressionError) -> [RankChoice] {
    try requireFinite(layers)
    let dense = layers.reduce(0) { $0 + $1.denseParameters }
    if budget >= dense { return layers.map { _ in .dense } }
    let ratio = Double(budget) / Double(dense)
    var choices = layers.map { $0.choice(ratio: ratio) }
    let compressible = layers.indices.filter { layers[$0].highestRank >= 1 }
    for members in Dictionary(grouping: compressible, by: { layers[$0].kind }).values {
      let shares = Self.shares(members.map { layers[$0].tailRoot(choices[$0]) })
      for (index, reduction) in zip(members, Self.reductions(shares, members.map { layers[$0] }, ratio)) {
        choices[index] = layers[index].choice(ratio: 1 - reduction)
      }
    }
    return try checked(choices, layers, budget)
  }

  /// 1 / ln L, after scaling where a logarithm would not be positive.
  static func shares(_ losses: [Double]) -> [Double] {
    let floored = losses.map { max($0, .leastNormalMagnitude) }
    let smallest = floored.min() ?? 1
    return floored.map { 1 / (smallest > 1 ? log($0) : 1 + log($0 / smallest)) }
  }

  /// The reductions t · share, each at most that of rank 1, with the t at which the layers together keep `ratio` of their
  /// parameters.
  private static func reductions(_ shares: [Double], _ layers: [RankedLayer], _ ratio: Double) -> [Double] {
    let most = layers.map { 1 - 1 / $0.breakEven }
    let wanted = (1 - ratio) * Double(layers.reduce(0) { $0 + $1.denseParameters })
    func reductions(_ t: Double) -> [Double] { zip(shares, most).map { min(t * $0.0, $0.1) } }
    func removed(_ t: Double) -> Double {
      zip(reductions(t), layers).reduce(0) { $0 + $1.0 * Double($1.1.denseParameters) }
    }
    var (low, high) = (0.0, zip(most, shares).map { $0.0 / $0.1 }.max() ?? 0)
    // What is removed grows with t: 100 halvings pin it down to rounding.
    for _ in 0..<100 {
      let middle = (low + high) / 2
      if removed(middle) < wanted { low = middle } else { high = middle }
    }
    return reductions(high)
  }
}

extension RankedLayer {
  /// The root of what a choice loses.
  fileprivate func tailRoot(_ choice: RankChoice) -> Double {
    guard case .rank(let rank) = choice else { return 0 }
    return tail(rank).squareRoot()
  }
}
