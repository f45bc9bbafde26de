import ApusCompute
import ApusKernels

/// Attention over rows that are narrower than keys or values (`KVLayout`), in the form that its config allows:
/// - values: Σ a·p over the narrow rows, lifted once a query and head;
/// - keys that nothing is done to: queries go to the narrow rows' space, and attention runs there;
/// - keys that are normalised or rotated: lifted in turns of as many as a cache holds (`KeyLift`), all queries over a turn
///   before the next one. A key is lifted once a pass, whatever the number of queries.
///
/// Exact: what a layout changes is the order of the arithmetic.
struct LowRankAttention {
  private let form: AttentionForm
  private let qkv: any QKV

  init(_ form: AttentionForm, _ qkv: any QKV) {
    self.form = form
    self.qkv = qkv
  }

  // MARK: layout

  func layout(_ parameters: Parameters, _ choice: KVLayoutChoice) -> KVLayout {
    let maps = qkv.maps
    let key = parameters[maps.key.weight]?.factors
    let value = parameters[maps.value.weight]?.factors
    let narrowValues = KVLayout(valueRank: value?.rank)
    let isShared = key != nil && key?.down === value?.down
    let narrow = KVLayout(keyRank: key?.rank, valueRank: value?.rank, isShared: isShared)
    switch choice {
    case .dense: return .dense
    case .rankV: return smallest([.dense, narrowValues])
    case .rankKV: return smallest([.dense, narrowValues, KVLayout(keyRank: key?.rank), narrow])
    case .auto:
      // A window bounds what there is of the past; a bidirectional pass keeps nothing of it, so that its time decides.
      if form.window > 0 { return .dense }
      let cost = KVCost(form: form, keysArePlain: qkv.keysArePlain)
      let all = [.dense, narrowValues] + (qkv.keysArePlain ? [narrow] : [])
      return all.min { a, b in
        form.causal
          ? cost.perToken(a, bytes: bytes(a)) < cost.perToken(b, bytes: bytes(b))
          : cost.multiplyAdds(a) < cost.multiplyAdds(b)
      }!
    }
  }

  /// The one that takes fewest bytes: a choice is only obeyed where it makes a token smaller. Without a past there are no
  /// such bytes, and the choice itself, the last one, decides.
  private func smallest(_ layouts: [KVLayout]) -> KVLayout {
    form.causal ? layouts.min { bytes($0) < bytes($1) }! : layouts.last!
  }

  private func bytes(_ layout: KVLayout) -> Int { shape(layout).bytesPerToken(.f16) }

  func shape(_ layout: KVLayout) -> KVShape {
    func narrow(_ rank: Int, _ order: KVOrder) -> KVShape.Rows {
      KVShape.Rows(heads: 1, width: KVShape.padded(rank), order: order)
    }
    func whole(_ order: KVOrder) -> KVShape.Rows {
      KVShape.Rows(heads: form.keyHeads, width: form.headDim, order: order)
    }
    let values = layout.valueRank.map { narrow($0, .rows) } ?? whole(.rows)
    guard let rank = layout.keyRank else { return KVShape(keys: whole(.columns), values: values) }
    if qkv.keysArePlain { return KVShape(keys: narrow(rank, .columns), values: values) }
    return KVShape(keys: layout.isShared ? nil : narrow(rank, .rows), values: values)
  }

  // MARK: execution

  /// A row a token, its elements beyond the rank zero.
  private struct NarrowRows {
    /// `[rows, padded rank]`.
    var padded: Tensor
    /// `[rows, rank]`.
    var product: Tensor
    var factors: FactorPair

    init(_ factors: FactorPair, rows: Int, _ c: Scope) {
      self.factors = factors
      padded = c.tensor(rows, KVShape.padded(factors.rank))
      product = padded.columns(0..<factors.rank)
      if factors.rank < padded.columns { c.device.clear(padded.columns(factors.rank..<padded.columns)) }
    }

    /// The same rows, lifted by another factor.
    func lifted(by other: FactorPair) -> NarrowRows {
      precondition(other.down === factors.down, "rows of another factor")
      var rows = self
      rows.factors = other
      return rows
    }

    var kept: Scope.Kept { (factors.down, product) }
  }

  /// `x` `[rows, dim]` to the heads' outputs `[rows, heads · headDim]`.
  func callAsFunction(_ x: Tensor, layer: Int, _ layout: KVLayout, into out: Tensor, _ c: Scope) {
    c.temporaries {
      let maps = qkv.maps
      let q = c.tensor(x.rows, form.heads * form.headDim)
      let values = layout.valueRank.map { _ in NarrowRows(c[maps.value.weight].factors!, rows: x.rows, c) }
      let keys = layout.keyRank.map { _ in
        let factors = c[maps.key.weight].factors!
        return layout.isShared ? values!.lifted(by: factors) : NarrowRows(factors, rows: x.rows, c)
      }
      let wholeKeys = keys == nil ? c.tensor(x.rows, form.keyHeads * form.headDim) : nil
      let wholeValues = values == nil ? c.tensor(x.rows, form.keyHeads * form.headDim) : nil
      c.linear(
        x, activations: maps.activations, keeping: values?.kept, layout.isShared ? nil : keys?.kept,
        (maps.query.weight, maps.query.bias, q), wholeKeys.map { (maps.key.weight, maps.key.bias, $0) },
        wholeValues.map { (maps.value.weight, maps.value.bias, $0) })
      qkv.finishQueries(q, at: c.positions, c)
      if let wholeKeys { qkv.finishKeys(wholeKeys, at: c.positions, c) }

      var form = form
      if let values { (form.valueHeads, form.valueDim) = (1, values.padded.columns) }
      let sums = values == nil ? out : c.tensor(x.rows, form.heads * form.valueDim)
      let shape = shape(layout)
      c.kv.withSegments(of: layer, c.batch, on: c.device) { segments in
        for s in segments {
          if let rows = shape.keys {
            let all = keys?.padded ?? wholeKeys!
            c.device.store(all.rows(s.rows), heads: rows.heads, in: s.keys, as: rows.order, at: s.firstPosition)
          }
          let all = values?.padded ?? wholeValues!
          c.device.store(all.rows(s.rows), heads: shape.values.heads, in: s.values, as: .rows, at: s.firstPosition)
        }
        switch keys {
        case nil: c.device.attention(q, form, segments, sums: nil, into: sums)
        case let keys? where qkv.keysArePlain: attendNarrow(q, keys, form, segments, into: sums, c)
        case let keys?: attendLifted(q, keys.factors, form, segments, into: sums, c)
        }
      }
      if let values {
        c.device.projectHeads(
          sums, heads: form.heads, c.device.unpacked(values.factors.up), kvHeads: form.keyHeads,
          bias: maps.value.bias.flatMap { c[$0] }, transposed: false, into: out)
      }
    }
  }

  /// Attention in the space of the narrow keys: of H query heads and one key head.
  private func attendNarrow(
    _ q: Tensor, _ keys: NarrowRows, _ form: AttentionForm, _ segments: [AttentionSegment], into out: Tensor, _ c: Scope
  ) {
    c.temporaries {
      var narrow = form
      narrow.keyHeads = 1
      narrow.headDim = keys.padded.columns
      let queries = c.tensor(q.rows, narrow.heads * narrow.headDim)
      if keys.factors.rank < narrow.headDim { c.device.clear(queries) }
      c.device.projectHeads(
        q, heads: form.heads, c.device.unpacked(keys.factors.up), kvHeads: form.keyHeads, bias: nil, transposed: true,
        into: queries)
      c.device.attention(queries, narrow, segments, sums: nil, into: out)
    }
  }

  /// Attention over keys that are lifted in turns.
  private func attendLifted(
    _ q: Tensor, _ factors: FactorPair, _ form: AttentionForm, _ segments: [AttentionSegment], into out: Tensor,
    _ c: Scope
  ) {
    c.temporaries {
      let lift = KeyLift(factors, bias: qkv.maps.key.bias.flatMap { c[$0] }, keyHeads: form.keyHeads, c)
      let sums = c.tensor(q.rows, 2 * form.heads)
      for segment in segments {
        let end = segment.keyRange.upperBound
        // Turns end where the spans of the attention do, so that no bit depends on them.
        let start = form.window > 0 ? max(0, segment.firstPosition - form.window + 1) / KeyLift.span * KeyLift.span : 0
        for first in stride(from: start, to: end, by: lift.capacity) {
          var turn = segment
          turn.keyRange = first..<min(end, first + lift.capacity)
          turn.keys = lift(turn.keyRange, from: segment.keys, qkv, c)
          (turn.goesOn, turn.isLast) = (first > start, turn.keyRange.upperBound == end)
          c.device.attention(q, form, [turn], sums: sums, into: out)
        }
      }
    }
  }
}
