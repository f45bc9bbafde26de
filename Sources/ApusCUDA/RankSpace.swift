import ApusCompute

/// Attention's factors multiplied out into the space of the narrow product p, which heads share:
/// `score(i, j) = (p_i · mix + shift) · p_j` and `out_i = (Σ_j weight_ij p_j) · lift + bias`.
///
/// With q = p Uqᵀ + bq and k = p Ukᵀ + bk, q_i · k_j = p_i UqᵀUk p_j + bq Uk p_j and terms that are the same for all j,
/// which the softmax takes away; weights add up to 1, so the bias of values is added once.
struct RankSpaceTables {
  /// `[heads, rank, rank]`.
  var mix: [Float]
  /// `[heads, rank]`.
  var shift: [Float]?
  /// `[heads, rank, headDim]`.
  var lift: [Float]

  /// - Parameters: `q`, `k`, `v` are `[heads · headDim, rank]`, `queryBias` `[heads · headDim]`. O(heads · headDim · rank²).
  init(heads: Int, headDim: Int, rank: Int, q: [Float], k: [Float], v: [Float], queryBias: [Float]?) {
    var mix = [Double](repeating: 0, count: heads * rank * rank)
    var shift = [Double](repeating: 0, count: heads * rank)
    lift = [Float](repeating: 0, count: heads * rank * headDim)
    for head in 0..<heads {
      for d in 0..<headDim {
        let row = (head * headDim + d) * rank
        for b in 0..<rank {
          let key = Double(k[row + b])
          shift[head * rank + b] += Double(queryBias?[head * headDim + d] ?? 0) * key
          lift[(head * rank + b) * headDim + d] = v[row + b]
          for a in 0..<rank { mix[(head * rank + a) * rank + b] += Double(q[row + a]) * key }
        }
      }
    }
    self.mix = mix.map(Float.init)
    self.shift = queryBias == nil ? nil : shift.map(Float.init)
  }
}

/// The tables of one layer in a device's memory.
struct RankSpace {
  /// Which factors they were made of.
  struct Key: Hashable {
    private let bases: [UnsafeMutableRawPointer?]

    init(_ factored: FactoredAttention) {
      bases = [factored.q, factored.k, factored.v].flatMap { [$0.weight.base, $0.bias?.base] }
    }
  }

  var mix: Tensor
  var shift: Tensor?
  var lift: Tensor
  var bias: Tensor?
  /// Keeps the factors alive: their addresses are the key.
  var sources: FactoredAttention?
}
