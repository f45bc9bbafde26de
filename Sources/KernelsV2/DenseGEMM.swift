import CSIMD
import KernelInterface

// The blocked GEMM after Goto and van de Geijn ("Anatomy of High-Performance Matrix Multiplication", 2008): panels of A
// and B are packed so that the inner loop reads both in order. The tile is 12×32 at v4 (24 of 32 registers) and 6×16
// below (12 of 16).

/// Columns of a B panel.
@inline(__always) private var panelColumns: Int { compiledLevel == 4 ? 32 : 16 }
/// Rows of a full A panel.
@inline(__always) private var panelRows: Int { compiledLevel == 4 ? 12 : 6 }
/// Steps of k that one pass over C takes: an A panel and a B panel of so many steps share the first-level cache.
private let blockSteps = 384
/// Rows of A packed at once. v4 keeps an A panel in L1 and lets B stream from L2 (its tile reads B little); below, the
/// narrow tile reads A less, so that B's panel stays in L1 and the packed A must fit into L2.
@inline(__always) private var blockRows: Int { compiledLevel == 4 ? 1152 : 144 }
@inline(__always) private var blockColumns: Int { compiledLevel == 4 ? 320 : 1536 }

/// Rows of the next A panel when `rest` rows are left: full panels, then 8, 4, 2, 1.
@inline(__always) private func panelHeight(_ rest: Int) -> Int {
  if rest >= panelRows { return panelRows }
  return rest >= 8 ? 8 : rest >= 4 ? 4 : rest >= 2 ? 2 : 1
}

func gemm(_ arguments: borrowing GEMMArguments) {
  let g = copy arguments
  if g.m == 0 || g.n == 0 { return }
  if g.k == 0 || g.alpha == 0 {
    for i in 0..<g.m {
      let c = g.c + i * g.ldc
      for j in 0..<g.n { c[j] = g.beta == 0 ? 0 : g.beta * c[j] }
    }
    return
  }
  let packedA = g.scratch.assumingMemoryBound(to: Float.self)
  let packedB = packedA + blockRows * blockSteps + 64
  // Equal blocks rather than a short last one; the split depends on k alone.
  let passes = (g.k + blockSteps - 1) / blockSteps
  let steps = (g.k + passes - 1) / passes
  for k0 in stride(from: 0, to: g.k, by: steps) {
    let kc = min(steps, g.k - k0)
    let keep = k0 == 0 ? g.beta : 1
    if compiledLevel == 4 {
      for i0 in stride(from: 0, to: g.m, by: blockRows) {
        let mc = min(blockRows, g.m - i0)
        packA(g, i0, mc, k0, kc, packedA)
        for j0 in stride(from: 0, to: g.n, by: blockColumns) {
          let nc = min(blockColumns, g.n - j0)
          packB(g, j0, nc, k0, kc, packedB)
          var i = 0
          while i < mc {
            let rows = panelHeight(mc - i)
            for j in stride(from: 0, to: nc, by: panelColumns) {
              multiply(g, i0 + i, rows, j0 + j, min(panelColumns, nc - j), kc, packedA + i * kc, packedB + j * kc, keep)
            }
            i += rows
          }
        }
      }
    } else {
      for j0 in stride(from: 0, to: g.n, by: blockColumns) {
        let nc = min(blockColumns, g.n - j0)
        packB(g, j0, nc, k0, kc, packedB)
        for i0 in stride(from: 0, to: g.m, by: blockRows) {
          let mc = min(blockRows, g.m - i0)
          packA(g, i0, mc, k0, kc, packedA)
          for j in stride(from: 0, to: nc, by: panelColumns) {
            var i = 0
            while i < mc {
              let rows = panelHeight(mc - i)
              multiply(g, i0 + i, rows, j0 + j, min(panelColumns, nc - j), kc, packedA + i * kc, packedB + j * kc, keep)
              i += rows
            }
          }
        }
      }
    }
  }
}

/// Packs `rows` rows of op(A) from `i0` and `kc` steps from `k0` into panels `[kc][panel height]`.
@inline(never)
private func packA(
  _ g: GEMMArguments, _ i0: Int, _ rows: Int, _ k0: Int, _ kc: Int, _ out: MutableFloatPointer
) {
  var i = 0
  while i < rows {
    let height = panelHeight(rows - i)
    let d = out + i * kc
    if g.transposeA {
      for k in 0..<kc { (d + k * height).update(from: g.a + (k0 + k) * g.lda + i0 + i, count: height) }
    } else {
      let s = g.a + (i0 + i) * g.lda + k0
      var k = 0
      if height > 6 {
        // A store of 16 lanes overwrites the next step's place, which is filled after it; what the last one spills
        // belongs to the next panel (or to nobody: there is room after the panels).
        while k + 16 <= kc {
          transpose16({ $0 < height ? load16(s + $0 * g.lda + k) : .zero }) { store16(d + (k + $0) * height, $1) }
          k += 16
        }
      }
      for r in 0..<height {
        for k in k..<kc { d[k * height + r] = s[r * g.lda + k] }
      }
    }
    i += height
  }
}

/// Packs `columns` columns of op(B) from `j0` and `kc` steps from `k0` into panels `[kc][panelColumns]`, zeros beyond.
@inline(never)
private func packB(
  _ g: GEMMArguments, _ j0: Int, _ columns: Int, _ k0: Int, _ kc: Int, _ out: MutableFloatPointer
) {
  let width = panelColumns
  for j in stride(from: 0, to: columns, by: width) {
    let d = out + j * kc
    let valid = min(width, columns - j)
    if g.transposeB {
      let s = g.b + (j0 + j) * g.ldb + k0
      for v in stride(from: 0, to: width, by: 16) {
        var k = 0
        while k + 16 <= kc {
          transpose16({ v + $0 < valid ? load16(s + (v + $0) * g.ldb + k) : .zero }) {
            store16(d + (k + $0) * width + v, $1)
          }
          k += 16
        }
        for c in v..<v + 16 {
          for k in k..<kc { d[k * width + c] = c < valid ? s[c * g.ldb + k] : 0 }
        }
      }
    } else {
      let s = g.b + k0 * g.ldb + j0 + j
      if valid == width {
        for k in 0..<kc {
          for v in stride(from: 0, to: width, by: 16) { store16(d + k * width + v, load16(s + k * g.ldb + v)) }
        }
      } else {
        for k in 0..<kc {
          for c in 0..<width { d[k * width + c] = c < valid ? s[k * g.ldb + c] : 0 }
        }
      }
    }
  }
}

/// `C = keep · C + alpha · A · B` for one tile at (`i`, `j`) of `rows` × `columns`.
@inline(__always) private func multiply(
  _ g: GEMMArguments, _ i: Int, _ rows: Int, _ j: Int, _ columns: Int, _ kc: Int, _ a: FloatPointer, _ b: FloatPointer,
  _ keep: Float
) {
  let c = g.c + i * g.ldc + j
  let spare = (g.scratch + (KernelTable.scratchBytes - 4096)).assumingMemoryBound(to: Float.self)
  switch rows {
  case 12: tile12(kc, a, b, c, g.ldc, g.alpha, keep, columns, spare)
  case 8: tile8(kc, a, b, c, g.ldc, g.alpha, keep, columns, spare)
  case 6: tile6(kc, a, b, c, g.ldc, g.alpha, keep, columns, spare)
  case 4: tile4(kc, a, b, c, g.ldc, g.alpha, keep, columns, spare)
  case 2: tile2(kc, a, b, c, g.ldc, g.alpha, keep, columns, spare)
  default: tile1(kc, a, b, c, g.ldc, g.alpha, keep, columns, spare)
  }
}

/// The tile product with a constant number of rows.
@inline(__always) private func tile(
  rows: Int, _ kc: Int, _ a: FloatPointer, _ b: FloatPointer, _ c: MutableFloatPointer, _ ldc: Int, _ alpha: Float,
  _ keep: Float, _ columns: Int, _ spare: MutableFloatPointer
) {
  var t = Tile12x2()
  let vectors = panelColumns / 16
  t.accumulate(
    rows: rows, vectors: vectors, steps: kc, a: a, rowA: 1, stepA: rows, b, b + 16, stepB: 4 * panelColumns
  ) { $0.loadUnaligned(as: V16.self) }
  if columns == panelColumns {
    t.update(rows: rows, vectors: vectors, c, stride: ldc, keep: keep, alpha: alpha)
  } else {
    // The right edge goes through a copy of the tile, with the same arithmetic.
    t.store(rows: rows, vectors: vectors, to: spare, stride: panelColumns, last: vectors - 1)
    for r in 0..<rows {
      for v in stride(from: 0, to: columns, by: 16) {
        let (p, count) = (c + r * ldc + v, min(16, columns - v))
        let sum = load16(spare + r * panelColumns + v)
        let old = keep == 0 ? V16.zero : load16(FloatPointer(p), count: count)
        store16(p, keep == 0 ? alpha * sum : fma(keep * old, V16(repeating: alpha), sum), count: count)
      }
    }
  }
}

@inline(never) private func tile12(
  _ kc: Int, _ a: FloatPointer, _ b: FloatPointer, _ c: MutableFloatPointer, _ ldc: Int, _ alpha: Float, _ keep: Float,
  _ columns: Int, _ spare: MutableFloatPointer
) {
  // Only v4 has the registers; below, no panel is so high.
  if compiledLevel == 4 { tile(rows: 12, kc, a, b, c, ldc, alpha, keep, columns, spare) }
}

@inline(never) private func tile8(
  _ kc: Int, _ a: FloatPointer, _ b: FloatPointer, _ c: MutableFloatPointer, _ ldc: Int, _ alpha: Float, _ keep: Float,
  _ columns: Int, _ spare: MutableFloatPointer
) {
  if compiledLevel == 4 { tile(rows: 8, kc, a, b, c, ldc, alpha, keep, columns, spare) }
}

@inline(never) private func tile6(
  _ kc: Int, _ a: FloatPointer, _ b: FloatPointer, _ c: MutableFloatPointer, _ ldc: Int, _ alpha: Float, _ keep: Float,
  _ columns: Int, _ spare: MutableFloatPointer
) {
  if compiledLevel < 4 { tile(rows: 6, kc, a, b, c, ldc, alpha, keep, columns, spare) }
}

@inline(never) private func tile4(
  _ kc: Int, _ a: FloatPointer, _ b: FloatPointer, _ c: MutableFloatPointer, _ ldc: Int, _ alpha: Float, _ keep: Float,
  _ columns: Int, _ spare: MutableFloatPointer
) { tile(rows: 4, kc, a, b, c, ldc, alpha, keep, columns, spare) }

@inline(never) private func tile2(
  _ kc: Int, _ a: FloatPointer, _ b: FloatPointer, _ c: MutableFloatPointer, _ ldc: Int, _ alpha: Float, _ keep: Float,
  _ columns: Int, _ spare: MutableFloatPointer
) { tile(rows: 2, kc, a, b, c, ldc, alpha, keep, columns, spare) }

@inline(never) private func tile1(
  _ kc: Int, _ a: FloatPointer, _ b: FloatPointer, _ c: MutableFloatPointer, _ ldc: Int, _ alpha: Float, _ keep: Float,
  _ columns: Int, _ spare: MutableFloatPointer
) { tile(rows: 1, kc, a, b, c, ldc, alpha, keep, columns, spare) }
