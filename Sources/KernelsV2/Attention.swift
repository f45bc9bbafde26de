import CSIMD
import KernelInterface

// Flash attention ("FlashAttention", Dao et al. 2022; online softmax after Milakov and Gimelshein 2018) over the blocked
// KV layout. A tile is up to 12 (v4) or 6 rows; a row is one (query, head) pair of the heads that share a key head, so
// that a key or value read serves all of them. Keys are taken in spans of 128 at fixed positions: scores of the span,
// new maximum, probabilities, then their product with the values.
//
// A row's bits do not depend on its tile: each score and output element is one chain of FMAs, spans start at multiples
// of 128, and a key that a row does not see adds exactly nothing (probability 0).

/// Keys of a span.
let attentionSpan = 128
/// Rows of the greatest tile.
private let mostRows = 12

/// Query heads that read the same keys and the same values are a group.
@inline(__always) private func groups(_ a: AttentionArguments) -> Int { max(a.keyHeads, a.valueHeads) }

/// Which rows a tile has: `count` consecutive ones of the `queries · group` rows of a group, padded to a size that the
/// inner loops are written for.
private struct Tiling {
  var group: Int
  var rows: Int
  var tileRows: Int
  var tiles: Int

  @inline(__always) init(_ a: AttentionArguments) {
    group = a.heads / groups(a)
    rows = a.queries * group
    let most = compiledLevel == 4 ? mostRows : 6
    // With a single group one tile would leave the other threads idle: take two.
    tileRows = groups(a) == 1 && rows > 1 && rows <= most ? (rows + 1) / 2 : most
    tiles = (rows + tileRows - 1) / tileRows
  }
}

func attentionItems(_ arguments: borrowing AttentionArguments) -> Int {
  let a = copy arguments
  return a.queries == 0 ? 0 : Tiling(a).tiles * groups(a)
}

func attention(_ arguments: borrowing AttentionArguments, _ items: Range<Int>, _ scratch: UnsafeMutableRawPointer) {
  let a = copy arguments
  let tiling = Tiling(a)
  for item in items {
    // Late queries see most keys: they go first, so that threads finish together.
    let tile = tiling.tiles - 1 - item % tiling.tiles
    attendTile(a, tiling, groupIndex: item / tiling.tiles, firstRow: tile * tiling.tileRows, scratch)
  }
}

/// One tile's state and the span of keys it is at.
struct AttentionTile {
  /// Rows that the inner loops run: at least `count`.
  var rows: Int
  var count: Int
  var headDim: Int
  var valueDim: Int
  /// Queries `[headDim][rows]`.
  var q: MutableFloatPointer
  /// Scores, then probabilities `[rows][attentionSpan]`.
  var p: MutableFloatPointer
  /// Sums of values `[rows][valueDim]`, not yet divided by the sum of probabilities.
  var o: MutableFloatPointer
  /// What a new maximum leaves of the older sums, a row each.
  var factors: MutableFloatPointer
  /// The head's first element in block 0 of each pool.
  var keys: KVPlane
  var values: KVPlane
  /// The blocks of 16 keys of this span that some row sees, and how many keys of the last one.
  var firstBlock = 0
  var blocks = 0
  var lastKeys = 16

  @inline(__always) func keys(_ block: Int) -> UnsafeRawPointer {
    UnsafeRawPointer(keys.block(firstBlock + block))
  }
  @inline(__always) func values(_ block: Int) -> UnsafeRawPointer {
    UnsafeRawPointer(values.block(firstBlock + block))
  }
}

extension KVPlane {
  /// The plane of one head.
  @inline(__always) fileprivate func head(_ head: Int, width: Int) -> KVPlane {
    var plane = self
    plane.base += head * width * 16 * kind.blockBytes
    return plane
  }
}

@inline(never) private func attendTile(
  _ a: AttentionArguments, _ tiling: Tiling, groupIndex: Int, firstRow: Int, _ scratch: UnsafeMutableRawPointer
) {
  let d = a.headDim
  let count = min(tiling.tileRows, tiling.rows - firstRow)
  let rows = paddedRows(count)
  let memory = scratch.assumingMemoryBound(to: Float.self)
  // Softcap and ALiBi need scaled scores; else the scale is part of the exponential's argument.
  let isPlain = a.softcap <= 0 && a.slopes == nil && a.scale > 0
  // 16 lanes a row quantity: maximum, sum, factor, greatest score, first and last key; then the matrices.
  let (maxima, sums, factors) = (memory, memory + 16, memory + 32)
  let tops = memory + 112
  let (lows, highs) = (UnsafeMutableRawPointer(memory + 48), UnsafeMutableRawPointer(memory + 80))
  let (low, high) = (lows.assumingMemoryBound(to: Int.self), highs.assumingMemoryBound(to: Int.self))
  let p = memory + 128
  let q = p + mostRows * attentionSpan
  let o = q + mostRows * d
  let valueDim = a.valueDim
  var t = AttentionTile(
    rows: rows, count: count, headDim: d, valueDim: valueDim, q: q, p: p, o: o, factors: factors,
    keys: a.keys.head(a.keyHeads == 1 ? 0 : groupIndex, width: d),
    values: a.values.head(a.valueHeads == 1 ? 0 : groupIndex, width: valueDim))

  // What each row sees: keys low ..< high. Padding rows repeat the last row; nothing of them is kept.
  var (least, most) = (Int.max, 0)
  for r in 0..<rows {
    let row = firstRow + min(r, count - 1)
    let position = a.firstPosition + row / tiling.group
    var (from, to) = (a.keyRange.lowerBound, a.keyRange.upperBound)
    if a.causal { to = min(to, position + 1) }
    if a.window > 0 {
      from = max(from, position - a.window + 1)
      if !a.causal { to = min(to, position + a.window) }
    }
    (low[r], high[r]) = (from, max(from, to))
    if from < to { (least, most) = (min(least, from), max(most, to)) }
    let source = a.q + row / tiling.group * a.ldq + (groupIndex * tiling.group + row % tiling.group) * d
    for i in 0..<d { q[i * rows + r] = source[i] }
  }
  store16(maxima, V16(repeating: -.infinity))
  store16(sums, .zero)
  store16(tops, V16(repeating: -.infinity))
  o.update(repeating: 0, count: rows * valueDim)
  if a.goesOn { resume(a, tiling, groupIndex, firstRow, count, o, maxima, sums) }

  var key = least == .max ? most : least / attentionSpan * attentionSpan
  while key < most {
    let from = max(key, least / 16 * 16), to = min(key + attentionSpan, most)
    t.firstBlock = from / 16
    t.blocks = (to + 15) / 16 - t.firstBlock
    t.lastKeys = to - (t.firstBlock + t.blocks - 1) * 16
    scores(t)
    for r in 0..<count {
      let row = firstRow + r
      tops[r] = finishScores(
        a, t, r, low: low[r], high: high[r], slope: a.slopes?[groupIndex * tiling.group + row % tiling.group] ?? 0,
        position: a.firstPosition + row / tiling.group, isPlain: isPlain)
    }
    probabilities(t, tops, maxima, sums, isPlain ? a.scale : 1)
    weightedValues(t)
    key += attentionSpan
  }

  if a.isLast {
    for r in 0..<count {
      let (out, _) = place(a, tiling, groupIndex, firstRow + r)
      let factor = sums[r] > 0 ? 1 / sums[r] : 0
      for i in stride(from: 0, to: valueDim, by: 16) { store16(out + i, load16(o + r * valueDim + i) * factor) }
    }
  } else {
    for r in 0..<count {
      let (out, known) = place(a, tiling, groupIndex, firstRow + r)
      out.update(from: o + r * valueDim, count: valueDim)
      if let known { (known[0], known[1]) = (maxima[r], sums[r]) }
    }
  }
}

/// Where a row's sums of values go, and what is known of it.
@inline(__always) private func place(
  _ a: AttentionArguments, _ tiling: Tiling, _ groupIndex: Int, _ row: Int
) -> (out: MutableFloatPointer, known: MutableFloatPointer?) {
  let (query, head) = (row / tiling.group, groupIndex * tiling.group + row % tiling.group)
  return (a.out + query * a.ldo + head * a.valueDim, a.sums.map { $0 + (query * a.heads + head) * 2 })
}

/// Goes on where the range of keys before this one ended.
@inline(never) private func resume(
  _ a: AttentionArguments, _ tiling: Tiling, _ groupIndex: Int, _ firstRow: Int, _ count: Int, _ o: MutableFloatPointer,
  _ maxima: MutableFloatPointer, _ sums: MutableFloatPointer
) {
  for r in 0..<count {
    let (out, known) = place(a, tiling, groupIndex, firstRow + r)
    (o + r * a.valueDim).update(from: out, count: a.valueDim)
    if let known { (maxima[r], sums[r]) = (known[0], known[1]) }
  }
}

/// Finishes a row's scores of the span (softcap, ALiBi, masks) and returns the greatest.
@inline(__always) private func finishScores(
  _ a: AttentionArguments, _ t: AttentionTile, _ r: Int, low: Int, high: Int, slope: Float, position: Int,
  isPlain: Bool
) -> Float {
  let row = t.p + r * attentionSpan
  var top = V16(repeating: -.infinity)
  for block in 0..<t.blocks {
    let first = (t.firstBlock + block) * 16
    var s = load16(row + block * 16)
    if !isPlain {
      s = s * a.scale
      if a.softcap > 0 { s = a.softcap * tanh16(s / a.softcap) }
      if a.slopes != nil { s = fma(s, csimd_count_from(Float(first - position)), slope) }
    }
    let isWhole = first >= low && first + 16 <= high && a.keyMask == nil
    if !isWhole { s = masked(s, first, low, high, a.keyMask) }
    if !isWhole || !isPlain { store16(row + block * 16, s) }
    top = greater(top, s)
  }
  return max16(top)
}

/// Turns the scores of the span into probabilities relative to each row's new maximum, and updates maxima, sums and
/// factors. `tops` holds the greatest score of each row, before the multiplication with `scale`.
@inline(__always) private func probabilities(
  _ t: AttentionTile, _ tops: MutableFloatPointer, _ maxima: MutableFloatPointer, _ sums: MutableFloatPointer,
  _ scale: Float
) {
  let old = load16(maxima)
  let new = greater(old, load16(tops) * scale)
  store16(maxima, new)
  // A row that has seen nothing yet keeps its zeros: its maximum of −∞ must not meet a score of −∞.
  let shift = greater(new, V16(repeating: -.greatestFiniteMagnitude))
  let factors = exp16(old - shift)
  store16(t.factors, factors)
  store16(tops, shift)
  for r in 0..<t.count {
    let row = t.p + r * attentionSpan
    let shift = V16(repeating: -tops[r])
    var sum = V16.zero
    for block in 0..<t.blocks {
      let e = exp16(fma(shift, load16(row + block * 16), scale))
      store16(row + block * 16, e)
      sum += e
    }
    sums[r] = sums[r] * t.factors[r] + sum16(sum)
  }
}

/// −∞ for the keys of the block at `first` that the row does not see.
@inline(__always) private func masked(
  _ s: V16, _ first: Int, _ low: Int, _ high: Int, _ keyMask: UnsafePointer<UInt8>?
) -> V16 {
  // Positions are whole numbers far below 2²⁴, so f32 holds them.
  let j = csimd_count_from(Float(first))
  let hidden = V16(repeating: -.infinity)
  var s = csimd_where_less(j, V16(repeating: Float(low)), hidden, s)
  s = csimd_where_less(j, V16(repeating: Float(high)), s, hidden)
  if let keyMask {
    if first + 16 <= high {
      s = csimd_mask_bytes(s, keyMask + first)
    } else {
      for lane in 0..<max(0, high - first) where keyMask[first + lane] == 0 { s[lane] = -.infinity }
    }
  }
  return s
}
