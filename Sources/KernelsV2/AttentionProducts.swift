import CSIMD
import KernelInterface

// The two products of attention, written out for each size of tile and kind of element.

/// The next size that the loops are written for.
@inline(__always) func paddedRows(_ count: Int) -> Int {
  count <= 4 ? count : count <= 6 ? 6 : count <= 8 ? 8 : 12
}

@inline(__always) private func loadFloat(_ p: UnsafeRawPointer) -> V16 { p.loadUnaligned(as: V16.self) }

/// `p[r][key] = q[r] · k[key]` for the keys of the span.
@inline(__always) func scores(_ t: AttentionTile) {
  switch t.rows {
  case 1: t.keys.kind == .f16 ? scores1Half(t) : scores1Float(t)
  case 2: t.keys.kind == .f16 ? scores2Half(t) : scores2Float(t)
  case 3: t.keys.kind == .f16 ? scores3Half(t) : scores3Float(t)
  case 4: t.keys.kind == .f16 ? scores4Half(t) : scores4Float(t)
  case 6: t.keys.kind == .f16 ? scores6Half(t) : scores6Float(t)
  case 8: t.keys.kind == .f16 ? scores8Half(t) : scores8Float(t)
  default: t.keys.kind == .f16 ? scores12Half(t) : scores12Float(t)
  }
}

/// `o[r] = factors[r] · o[r] + Σ p[r][key] · v[key]` over the keys of the span.
@inline(__always) func weightedValues(_ t: AttentionTile) {
  switch t.rows {
  case 1: t.values.kind == .f16 ? values1Half(t) : values1Float(t)
  case 2: t.values.kind == .f16 ? values2Half(t) : values2Float(t)
  case 3: t.values.kind == .f16 ? values3Half(t) : values3Float(t)
  case 4: t.values.kind == .f16 ? values4Half(t) : values4Float(t)
  case 6: t.values.kind == .f16 ? values6Half(t) : values6Float(t)
  case 8: t.values.kind == .f16 ? values8Half(t) : values8Float(t)
  default: t.values.kind == .f16 ? values12Half(t) : values12Float(t)
  }
}

/// Scores of a constant number of rows, `vectors` blocks of 16 keys at a time.
@inline(__always) private func scores12x2(
  _ t: AttentionTile, rows: Int, vectors: Int, size: Int, _ load: (UnsafeRawPointer) -> V16
) {
  let last = t.blocks - 1
  for j in stride(from: 0, to: t.blocks, by: vectors) {
    var acc = Tile12x2()
    acc.accumulate(
      rows: rows, vectors: vectors, steps: t.headDim, a: t.q, rowA: 1, stepA: rows, t.keys(min(j + 0, last)),
      t.keys(min(j + 1, last)),
      stepB: 16 * size, load)
    acc.store(rows: rows, vectors: vectors, to: t.p + j * 16, stride: attentionSpan, last: last - j)
  }
}

/// Weighted values of a constant number of rows, `vectors` · 16 elements of the head at a time.
@inline(__always) private func values12x2(
  _ t: AttentionTile, rows: Int, vectors: Int, size: Int, _ load: (UnsafeRawPointer) -> V16
) {
  // Vectors beyond the head's end repeat the last one and are not stored.
  let edge = t.valueDim - 16
  for i in stride(from: 0, to: t.valueDim, by: 16 * vectors) {
    var acc = Tile12x2()
    acc.load(rows: rows, vectors: vectors, from: t.o + i, stride: t.valueDim, last: (edge - i) / 16, scales: t.factors)
    for block in 0..<t.blocks {
      let v = t.values(block)
      acc.accumulate(
        rows: rows, vectors: vectors, steps: block < t.blocks - 1 ? 16 : t.lastKeys, a: t.p + block * 16,
        rowA: attentionSpan, stepA: 1, v + min(i + 0, edge) * size, v + min(i + 16, edge) * size,
        stepB: t.valueDim * size, load)
    }
    acc.store(rows: rows, vectors: vectors, to: t.o + i, stride: t.valueDim, last: (edge - i) / 16)
  }
}

/// Scores of a constant number of rows, `vectors` blocks of 16 keys at a time.
@inline(__always) private func scores6x4(
  _ t: AttentionTile, rows: Int, vectors: Int, size: Int, _ load: (UnsafeRawPointer) -> V16
) {
  let last = t.blocks - 1
  for j in stride(from: 0, to: t.blocks, by: vectors) {
    var acc = Tile6x4()
    acc.accumulate(
      rows: rows, vectors: vectors, steps: t.headDim, a: t.q, rowA: 1, stepA: rows, t.keys(min(j + 0, last)),
      t.keys(min(j + 1, last)), t.keys(min(j + 2, last)), t.keys(min(j + 3, last)),
      stepB: 16 * size, load)
    acc.store(rows: rows, vectors: vectors, to: t.p + j * 16, stride: attentionSpan, last: last - j)
  }
}

/// Weighted values of a constant number of rows, `vectors` · 16 elements of the head at a time.
@inline(__always) private func values6x4(
  _ t: AttentionTile, rows: Int, vectors: Int, size: Int, _ load: (UnsafeRawPointer) -> V16
) {
  // Vectors beyond the head's end repeat the last one and are not stored.
  let edge = t.valueDim - 16
  for i in stride(from: 0, to: t.valueDim, by: 16 * vectors) {
    var acc = Tile6x4()
    acc.load(rows: rows, vectors: vectors, from: t.o + i, stride: t.valueDim, last: (edge - i) / 16, scales: t.factors)
    for block in 0..<t.blocks {
      let v = t.values(block)
      acc.accumulate(
        rows: rows, vectors: vectors, steps: block < t.blocks - 1 ? 16 : t.lastKeys, a: t.p + block * 16,
        rowA: attentionSpan, stepA: 1, v + min(i + 0, edge) * size, v + min(i + 16, edge) * size,
        v + min(i + 32, edge) * size, v + min(i + 48, edge) * size, stepB: t.valueDim * size, load)
    }
    acc.store(rows: rows, vectors: vectors, to: t.o + i, stride: t.valueDim, last: (edge - i) / 16)
  }
}

@inline(never) private func scores1Half(_ t: AttentionTile) {
  scores6x4(t, rows: 1, vectors: 4, size: 2, loadHalf16)
}

@inline(never) private func scores1Float(_ t: AttentionTile) {
  scores6x4(t, rows: 1, vectors: 4, size: 4, loadFloat)
}

@inline(never) private func values1Half(_ t: AttentionTile) {
  values6x4(t, rows: 1, vectors: 4, size: 2, loadHalf16)
}

@inline(never) private func values1Float(_ t: AttentionTile) {
  values6x4(t, rows: 1, vectors: 4, size: 4, loadFloat)
}

@inline(never) private func scores2Half(_ t: AttentionTile) {
  scores6x4(t, rows: 2, vectors: compiledLevel == 4 ? 4 : 2, size: 2, loadHalf16)
}

@inline(never) private func scores2Float(_ t: AttentionTile) {
  scores6x4(t, rows: 2, vectors: compiledLevel == 4 ? 4 : 2, size: 4, loadFloat)
}

@inline(never) private func values2Half(_ t: AttentionTile) {
  values6x4(t, rows: 2, vectors: compiledLevel == 4 ? 4 : 2, size: 2, loadHalf16)
}

@inline(never) private func values2Float(_ t: AttentionTile) {
  values6x4(t, rows: 2, vectors: compiledLevel == 4 ? 4 : 2, size: 4, loadFloat)
}

@inline(never) private func scores3Half(_ t: AttentionTile) {
  scores6x4(t, rows: 3, vectors: compiledLevel == 4 ? 4 : 1, size: 2, loadHalf16)
}

@inline(never) private func scores3Float(_ t: AttentionTile) {
  scores6x4(t, rows: 3, vectors: compiledLevel == 4 ? 4 : 1, size: 4, loadFloat)
}

@inline(never) private func values3Half(_ t: AttentionTile) {
  values6x4(t, rows: 3, vectors: compiledLevel == 4 ? 4 : 1, size: 2, loadHalf16)
}

@inline(never) private func values3Float(_ t: AttentionTile) {
  values6x4(t, rows: 3, vectors: compiledLevel == 4 ? 4 : 1, size: 4, loadFloat)
}

@inline(never) private func scores4Half(_ t: AttentionTile) {
  scores6x4(t, rows: 4, vectors: compiledLevel == 4 ? 4 : 1, size: 2, loadHalf16)
}

@inline(never) private func scores4Float(_ t: AttentionTile) {
  scores6x4(t, rows: 4, vectors: compiledLevel == 4 ? 4 : 1, size: 4, loadFloat)
}

@inline(never) private func values4Half(_ t: AttentionTile) {
  values6x4(t, rows: 4, vectors: compiledLevel == 4 ? 4 : 1, size: 2, loadHalf16)
}

@inline(never) private func values4Float(_ t: AttentionTile) {
  values6x4(t, rows: 4, vectors: compiledLevel == 4 ? 4 : 1, size: 4, loadFloat)
}

@inline(never) private func scores6Half(_ t: AttentionTile) {
  scores6x4(t, rows: 6, vectors: compiledLevel == 4 ? 4 : 1, size: 2, loadHalf16)
}

@inline(never) private func scores6Float(_ t: AttentionTile) {
  scores6x4(t, rows: 6, vectors: compiledLevel == 4 ? 4 : 1, size: 4, loadFloat)
}

@inline(never) private func values6Half(_ t: AttentionTile) {
  values6x4(t, rows: 6, vectors: compiledLevel == 4 ? 4 : 1, size: 2, loadHalf16)
}

@inline(never) private func values6Float(_ t: AttentionTile) {
  values6x4(t, rows: 6, vectors: compiledLevel == 4 ? 4 : 1, size: 4, loadFloat)
}

@inline(never) private func scores8Half(_ t: AttentionTile) {
  scores12x2(t, rows: 8, vectors: compiledLevel == 4 ? 2 : 1, size: 2, loadHalf16)
}

@inline(never) private func scores8Float(_ t: AttentionTile) {
  scores12x2(t, rows: 8, vectors: compiledLevel == 4 ? 2 : 1, size: 4, loadFloat)
}

@inline(never) private func values8Half(_ t: AttentionTile) {
  values12x2(t, rows: 8, vectors: compiledLevel == 4 ? 2 : 1, size: 2, loadHalf16)
}

@inline(never) private func values8Float(_ t: AttentionTile) {
  values12x2(t, rows: 8, vectors: compiledLevel == 4 ? 2 : 1, size: 4, loadFloat)
}

@inline(never) private func scores12Half(_ t: AttentionTile) {
  scores12x2(t, rows: 12, vectors: compiledLevel == 4 ? 2 : 1, size: 2, loadHalf16)
}

@inline(never) private func scores12Float(_ t: AttentionTile) {
  scores12x2(t, rows: 12, vectors: compiledLevel == 4 ? 2 : 1, size: 4, loadFloat)
}

@inline(never) private func values12Half(_ t: AttentionTile) {
  values12x2(t, rows: 12, vectors: compiledLevel == 4 ? 2 : 1, size: 2, loadHalf16)
}

@inline(never) private func values12Float(_ t: AttentionTile) {
  values12x2(t, rows: 12, vectors: compiledLevel == 4 ? 2 : 1, size: 4, loadFloat)
}
