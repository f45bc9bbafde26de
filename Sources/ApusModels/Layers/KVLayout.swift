import ApusCompute
import ApusKernels

/// What a layer keeps of each past token: keys and values ready to use, or the narrow rows that they are made from.
///
/// With values as products of two factors, `v = up · p + b`, a sum over tokens is taken of the narrow rows and lifted once,
/// Σ a·v = up · Σ a·p + b, since the weights of a query add up to 1. Keys are kept before norm and rotation; attention
/// lifts them when it needs them, or, where nothing stands between factor and score, takes the query into their space:
/// (up · p) · q = p · (upᵀ · q), and the bias adds the same to all scores. All are exact: a layout changes bytes and time.
public struct KVLayout: Sendable, Hashable, CustomStringConvertible {
  /// Elements of a key's row; nil for finished keys.
  public var keyRank: Int?
  /// Elements of a value's row; nil for whole values.
  public var valueRank: Int?
  /// Keys and values read through one down factor, whose product is kept for both.
  public var isShared: Bool

  public init(keyRank: Int? = nil, valueRank: Int? = nil, isShared: Bool = false) {
    precondition(!isShared || (keyRank == valueRank && keyRank != nil), "one row of two ranks")
    self.keyRank = keyRank
    self.valueRank = valueRank
    self.isShared = isShared
  }

  public static let dense = KVLayout()

  public var description: String {
    switch (keyRank, valueRank) {
    case (nil, nil): "dense"
    case (let k?, nil): "rank-k \(k)"
    case (nil, let v?): "rank-v \(v)"
    case (let k?, let v?): isShared ? "rank-kv \(k), shared" : "rank-kv \(k)/\(v)"
    }
  }
}

/// Which layout a run asks for.
public enum KVLayoutChoice: String, Sendable, CaseIterable {
  case dense
  /// Narrow values, where a layer's values have factors that make a token smaller.
  case rankV = "rank-v"
  /// Narrow keys and values.
  case rankKV = "rank-kv"
  /// What costs least time (`KVCost`); rank-kv where keys and values of one sequence don't fit into the memory otherwise.
  case auto
}

/// The rows that a store keeps of each token for one layer.
public struct KVShape: Sendable, Hashable {
  public struct Rows: Sendable, Hashable {
    public var heads: Int
    /// Elements a head, a multiple of 16.
    public var width: Int
    public var order: KVOrder
    public var elements: Int { heads * width }
  }

  /// Nil: the values' rows serve as keys too.
  public var keys: Rows?
  public var values: Rows

  public init(keys: Rows?, values: Rows) {
    self.keys = keys
    self.values = values
  }

  /// Bytes of a token.
  public func bytesPerToken(_ dtype: DType) -> Int { ((keys?.elements ?? 0) + values.elements) * dtype.blockBytes }

  /// A rank as it is stored: kernels take 16 elements at a time.
  static func padded(_ rank: Int) -> Int { (rank + 15) / 16 * 16 }
}

/// What a past token costs one layer in a decode step, in multiply-adds: the ground on which `auto` chooses.
///
/// Scores take H · headDim of them and sums H · valueDim, with narrow rows H · rank; keys that must be lifted take
/// Hk · headDim · rank more, H the heads and Hk the key heads. Reading a byte takes about as long as `perByte`
/// multiply-adds. All of it grows with the past alike, so that the choice does not depend on the past's length.
struct KVCost {
  /// Two cores of 2025: 200 GFMA/s beside 25 GB/s.
  static let perByte = 8

  var form: AttentionForm
  var keysArePlain: Bool

  func multiplyAdds(_ layout: KVLayout) -> Int {
    let keys =
      switch layout.keyRank {
      case nil: form.heads * form.headDim
      case let rank? where keysArePlain: form.heads * rank
      case let rank?: form.heads * form.headDim + form.keyHeads * form.headDim * rank
      }
    return keys + form.heads * (layout.valueRank ?? form.headDim)
  }

  func perToken(_ layout: KVLayout, bytes: Int) -> Int { multiplyAdds(layout) + Self.perByte * bytes }
}
