/// Which tokens of a vocabulary may come next: one bit a token.
///
/// An immutable value; copies share storage, so a cached mask costs nothing to hand out.
public struct TokenMask: Sendable, Equatable {
  /// Number of tokens that the mask speaks about.
  public let vocabularySize: Int
  private(set) var words: [UInt64]

  init(vocabularySize: Int) {
    self.vocabularySize = vocabularySize
    words = Array(repeating: 0, count: (vocabularySize + 63) / 64)
  }

  @inline(__always)
  mutating func insert(_ token: Int32) { words[Int(token) >> 6] |= 1 << UInt64(token & 63) }

  /// Whether the token may come next; false outside the vocabulary.
  public func contains(_ token: Int32) -> Bool {
    guard token >= 0 && Int(token) < vocabularySize else { return false }
    return words[Int(token) >> 6] >> UInt64(token & 63) & 1 == 1
  }

  /// Number of tokens that may come next. O(vocabulary / 64).
  public var count: Int { words.reduce(0) { $0 + $1.nonzeroBitCount } }

  /// Whether no token may come next. It happens only where the vocabulary cannot spell what the grammar asks for.
  public var isEmpty: Bool { words.allSatisfy { $0 == 0 } }

  /// The tokens that may come next, in order.
  public var tokens: [Int32] {
    var output: [Int32] = []
    for (index, word) in words.enumerated() {
      var rest = word
      while rest != 0 {
        output.append(Int32(index * 64 + rest.trailingZeroBitCount))
        rest &= rest - 1
      }
    }
    return output
  }

  /// Sets the logits of all other tokens, and of what lies beyond the vocabulary, to -infinity. `[vocabulary]`.
  public func apply(to logits: UnsafeMutableBufferPointer<Float>) {
    var position = 0
    let common = min(vocabularySize, logits.count)
    while position < common {
      let end = min(position + 64, common)
      let word = words[position >> 6]
      if word == 0 {
        for index in position..<end { logits[index] = -.infinity }
      } else if word != .max {
        for index in position..<end where word >> UInt64(index & 63) & 1 == 0 { logits[index] = -.infinity }
      }
      position = end
    }
    for index in common..<logits.count { logits[index] = -.infinity }
  }
}
