#if canImport(Glibc)
  import Glibc
#else
  import Foundation
#endif

/// A token with its natural-logarithm probability.
public struct TokenLogProbability: Sendable, Equatable {
  public var token: Int32
  public var logProbability: Float

  public init(token: Int32, logProbability: Float) {
    self.token = token
    self.logProbability = logProbability
  }
}

/// How probable a token was under the model's own distribution (before bias, penalties, temperature and filters), and the
/// most probable tokens beside it, in descending order.
public struct TokenLogProbabilities: Sendable, Equatable {
  public var chosen: Float
  public var top: [TokenLogProbability]

  public init(chosen: Float, top: [TokenLogProbability]) {
    self.chosen = chosen
    self.top = top
  }
}

/// log softmax of one row of logits.
public struct LogSoftmax {
  private let logits: UnsafeBufferPointer<Float>
  /// log Σ eˣ.
  public let normalizer: Double

  /// O(vocabulary). The pointer must outlive this value.
  public init(_ logits: UnsafeBufferPointer<Float>) {
    self.logits = logits
    let maximum = VectorMath.maximum(logits).value
    var mass = 0.0
    for start in stride(from: 0, to: logits.count, by: VectorMath.blockSize) {
      let range = start..<min(start + VectorMath.blockSize, logits.count)
      mass += VectorMath.blockSum(logits, range, maximum: maximum, scale: 1, weighted: false).mass
    }
    normalizer = Double(maximum) + log(mass)
  }

  /// The log-probability of a token.
  public subscript(token: Int32) -> Float { Float(Double(logits[Int(token)]) - normalizer) }

  /// The `count` most probable tokens in descending order, the lower id among equals. O(vocabulary · log count) at worst.
  public func top(_ count: Int) -> [TokenLogProbability] {
    guard count > 0 else { return [] }
    var best: [TokenLogProbability] = []
    best.reserveCapacity(min(count, logits.count) + 1)
    var least = -Float.infinity
    for (i, x) in logits.enumerated() where best.count < count || x > least {
      // Insertion into a short sorted list: after the first few tokens it almost never happens.
      guard !x.isNaN else { continue }
      var low = 0
      var high = best.count
      while low < high {
        let middle = (low + high) / 2
        if best[middle].logProbability >= x { low = middle + 1 } else { high = middle }
      }
      best.insert(TokenLogProbability(token: Int32(i), logProbability: x), at: low)
      if best.count > count { best.removeLast() }
      if best.count == count { least = best[count - 1].logProbability }
    }
    return best.map { .init(token: $0.token, logProbability: Float(Double($0.logProbability) - normalizer)) }
  }

  /// The chosen token's log-probability with the `count` best beside it.
  public func callAsFunction(chosen: Int32, top count: Int) -> TokenLogProbabilities {
    TokenLogProbabilities(chosen: self[chosen], top: top(count))
  }
}
