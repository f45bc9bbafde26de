import ApusKernels

/// One of several maps of the same narrow product: `p · weightᵀ + bias`.
public struct FactoredMap {
  /// `[n, rank]`.
  public var weight: Tensor
  /// `[n]` f32.
  public var bias: Tensor?

  public init(_ weight: Tensor, bias: Tensor? = nil) {
    self.weight = weight
    self.bias = bias
  }

  /// Those of some outputs.
  func outputs(_ range: Range<Int>) -> FactoredMap {
    FactoredMap(weight.rows(range), bias: bias?.columns(range))
  }
}

/// Attention of low rank: queries, keys and values are maps of one product `p` of the layer's input.
public struct FactoredAttention {
  /// `[rows, rank]`.
  public var p: Tensor
  public var q, k, v: FactoredMap
  public var form: AttentionForm

  public init(p: Tensor, q: FactoredMap, k: FactoredMap, v: FactoredMap, form: AttentionForm) {
    self.p = p
    self.q = q
    self.k = k
    self.v = v
    self.form = form
  }
}

/// The wide middle of a feed-forward part of low rank: from the product `p` of its input to the product with the narrow
/// factor of its last matrix.
public struct FactoredFeedForward {
  public var activation: Activation
  /// `[rows, rank]`.
  public var p: Tensor
  /// To `[rows, inner]`.
  public var up: FactoredMap
  /// The gate's own product and map; nil when not gated.
  public var gate: (p: Tensor, map: FactoredMap)?
  /// `[rank of the result, inner]`.
  public var down: Tensor

  public init(
    _ activation: Activation, p: Tensor, up: FactoredMap, gate: (p: Tensor, map: FactoredMap)? = nil, down: Tensor
  ) {
    self.activation = activation
    self.p = p
    self.up = up
    self.gate = gate
    self.down = down
  }
}

// How a device computes them that has no kernel of its own for it.
extension Device {
  public var runsDecoders: Bool { true }
  public func resident(_ x: Tensor, _ kind: ParameterKind) throws -> Tensor { x }
  public func read(_ x: Tensor) throws -> [Float] { x.floatArray() }

  public func attention(
    _ q: Tensor, _ k: Tensor, _ v: Tensor, _ form: AttentionForm, _ sequences: [Range<Int>], into out: Tensor
  ) {
    temporaries {
      let blocks = sequences.map { ($0.count + KVPlane.blockTokens - 1) / KVPlane.blockTokens }
      let tokens = blocks.reduce(0, +) * KVPlane.blockTokens
      let keys = arena.tensor(tokens, form.keyHeads * form.headDim)
      let values = arena.tensor(tokens, form.valueHeads * form.valueDim)
      let table = integers((0..<Int32(blocks.max() ?? 0)).map { $0 })
      var first = 0
      let segments = zip(sequences, blocks).map { rows, count in
        let mine = first * KVPlane.blockTokens..<(first + count) * KVPlane.blockTokens
        first += count
        return AttentionSegment(
          rows: rows, firstPosition: 0, keys: KVPlane(keys.rows(mine), table: table),
          values: KVPlane(values.rows(mine), table: table))
      }
      for s in segments {
        store(k.rows(s.rows), heads: form.keyHeads, in: s.keys, as: .columns, at: 0)
        store(v.rows(s.rows), heads: form.valueHeads, in: s.values, as: .rows, at: 0)
      }
      attention(q, form, segments, sums: nil, into: out)
    }
  }

  public func attention(_ factored: FactoredAttention, _ sequences: [Range<Int>], into out: Tensor) {
    attentionByHeads(factored, sequences, into: out)
  }

  /// A few heads after another: their queries, keys and values exist in full, those of the others do not.
  public func attentionByHeads(_ factored: FactoredAttention, _ sequences: [Range<Int>], into out: Tensor) {
    let form = factored.form
    let queriesPerKey = form.heads / form.keyHeads
    let dim = form.headDim
    let group = min(form.keyHeads, max(1, 128 / dim))
    for first in stride(from: 0, to: form.keyHeads, by: group) {
      let kvHeads = first..<min(first + group, form.keyHeads)
      let keys = kvHeads.lowerBound * dim..<kvHeads.upperBound * dim
      let queries = keys.lowerBound * queriesPerKey..<keys.upperBound * queriesPerKey
      var part = form
      part.keyHeads = kvHeads.count
      part.valueHeads = kvHeads.count
      part.heads = kvHeads.count * queriesPerKey
      if !form.slopes.isEmpty {
        part.slopes = Array(form.slopes[first * queriesPerKey..<kvHeads.upperBound * queriesPerKey])
      }
      temporaries {
        let rows = factored.p.rows
        let (q, k) = (arena.tensor(rows, queries.count), arena.tensor(rows, keys.count))
        let v = arena.tensor(rows, keys.count)
        let maps = [
          (factored.q.outputs(queries), q), (factored.k.outputs(keys), k), (factored.v.outputs(keys), v),
        ]
        linear(
          factored.p, maps.map { Projection($0.weight, bias: $0.bias, out: $1) }, activations: .int8x2)
        attention(q, k, v, part, sequences, into: out.columns(queries))
      }
    }
  }

  public func feedForward(_ factored: FactoredFeedForward, into s: Tensor) {
    temporaries {
      let (rows, inner) = (factored.p.rows, factored.down.columns)
      func product(_ p: Tensor, _ map: FactoredMap) -> Tensor {
        let out = arena.tensor(rows, inner)
        linear(p, [Projection(map.weight, bias: map.bias, out: out)], activations: .int8)
        return out
      }
      let up = product(factored.p, factored.up)
      if let gate = factored.gate {
        activate(factored.activation, gate: product(gate.p, gate.map), up: up, into: up)
      } else {
        activate(factored.activation, gate: up, up: nil, into: up)
      }
      linear(up, [Projection(factored.down, out: s)], activations: .int8)
    }
  }
}
