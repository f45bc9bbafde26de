import CSIMD
import KernelInterface

// out = x·Wᵀ with W stored `[n, k]`: both operands run along k, so the tile takes dot products and nothing is
// transposed. The order of additions depends on k alone: k is cut into passes, lane l of an accumulator sums every 16th
// (8th) k of a pass, a tree adds the lanes, and the passes follow one another. A few rows of x read the weights straight
// from memory; many rows share a group of weight rows that is widened to f32 and packed once.

/// Lanes of the tile's vectors.
@inline(__always) private var lanes: Int { compiledLevel == 4 ? 16 : 8 }
/// Weight rows of a tile.
@inline(__always) private var groupRows: Int { compiledLevel == 4 ? 8 : 4 }
/// Weight rows that are packed together: x streams by once for all of them.
private let packedRows = 8
/// Rows of x of a full tile.
private let fullRows = 3
/// The longest pass over k: 8 weight rows of so many floats leave room for x in a first-level cache of 32 kB.
private let longestPass = 512
/// A pass is whole blocks of every quantised kind.
private let passGrain = 256
/// Rows of x that one sweep over the weights serves: with a pass of k they stay in the second-level cache.
private let sweepRows = 126
/// Up to so many rows of x, dense weights are converted on their way from memory into registers.
private let directRows = 6

/// Where in the scratch the parts lie, in floats.
private enum Place {
  /// A packed group of weight rows: 8 · 512.
  static let group = 0
  /// One weight row before it is packed: 512.
  static let row = 8 << 10
  /// The zero-filled tails of x and w.
  static let tails = 9 << 10
  /// The packed rows of x: 126 · 512.
  static let x = 16 << 10
}

func floatMatmul(_ arguments: borrowing FloatMatmulArguments) {
  let a = copy arguments
  if a.rows == 0 || a.rowRange.isEmpty { return }
  if a.k == 0 {
    for m in 0..<a.rows { for n in a.rowRange { a.out[m * a.ldo + n] = 0 } }
    return
  }
  let passes = (a.k + longestPass - 1) / longestPass
  let pass = ((a.k + passes - 1) / passes + passGrain - 1) / passGrain * passGrain
  for m0 in stride(from: 0, to: a.rows, by: sweepRows) {
    let rows = min(sweepRows, a.rows - m0)
    for k0 in stride(from: 0, to: a.k, by: pass) {
      let part = Pass(m0: m0, rows: rows, k0: k0, kc: min(pass, a.k - k0))
      if part.whole > 0 {
        if rows > directRows || a.kind.isQuantized { packed(a, part) } else { direct(a, part) }
      }
      if part.tail > 0 { tail(a, part) }
    }
  }
}

/// Some rows of x and some consecutive k.
private struct Pass {
  var m0: Int
  var rows: Int
  var k0: Int
  var kc: Int
  /// The steps of 16; what is left over is a pass of its own.
  @inline(__always) var whole: Int { kc & ~15 }
  @inline(__always) var tail: Int { kc & 15 }
}

/// Few rows of x over dense weights: full groups are read where they lie.
@inline(never) private func direct(_ a: FloatMatmulArguments, _ p: Pass) {
  var n = a.rowRange.lowerBound
  while n + groupRows <= a.rowRange.upperBound {
    let w = a.w + n * a.rowBytes + p.k0 * a.kind.blockBytes
    var m = 0
    while m < p.rows {
      let height = m + fullRows <= p.rows ? fullRows : 1
      let x = a.x + (p.m0 + m) * a.ldx + p.k0
      let out = a.out + (p.m0 + m) * a.ldo + n
      dot(
        height, a.kind, p.whole, w, a.rowBytes, lanes * a.kind.blockBytes, x, a.ldx, lanes, out, a.ldo, groupRows,
        p.k0 > 0)
      m += height
    }
    n += groupRows
  }
  if n < a.rowRange.upperBound {
    let scratch = a.scratch.assumingMemoryBound(to: Float.self)
    packX(a, p, scratch + Place.x)
    packedGroup(a, p, n, scratch)
  }
}

/// Any number of rows and any kind: x and each group of weight rows are packed as f32, in the order of the inner loop.
@inline(never) private func packed(_ a: FloatMatmulArguments, _ p: Pass) {
  let scratch = a.scratch.assumingMemoryBound(to: Float.self)
  packX(a, p, scratch + Place.x)
  for n in stride(from: a.rowRange.lowerBound, to: a.rowRange.upperBound, by: packedRows) {
    packedGroup(a, p, n, scratch)
  }
}

/// Copies `count` floats at `source` to every `step`-th vector of `out`.
@inline(__always) private func scatter(_ source: FloatPointer, _ count: Int, _ out: MutableFloatPointer, _ step: Int) {
  var d = out
  for k in stride(from: 0, to: count, by: lanes) {
    if lanes == 16 { store16(d, load16(source + k)) } else { store8(d, load8(source + k)) }
    d += step
  }
}

/// Rows of x in tiles `[k/lanes][3][lanes]`, those left over one by one.
@inline(__always) private func packX(_ a: FloatMatmulArguments, _ p: Pass, _ out: MutableFloatPointer) {
  var m = 0
  while m < p.rows {
    let height = m + fullRows <= p.rows ? fullRows : 1
    for r in 0..<height {
      scatter(a.x + (p.m0 + m + r) * a.ldx + p.k0, p.whole, out + m * p.whole + r * lanes, height * lanes)
    }
    m += height
  }
}

/// Widens the weight rows at `n`, as many as make two tiles at v3 and one at v4, and multiplies all packed rows of x with
/// them.
@inline(__always) private func packedGroup(
  _ a: FloatMatmulArguments, _ p: Pass, _ n: Int, _ scratch: MutableFloatPointer
) {
  let count = min(packedRows, a.rowRange.upperBound - n)
  let tiles = (count + groupRows - 1) / groupRows
  let tileFloats = groupRows * p.whole
  let group = scratch + Place.group
  for i in 0..<tiles * groupRows {
    // A short tile repeats its last row; what comes of it is not written.
    let source = a.w + (n + min(i, count - 1)) * a.rowBytes + p.k0 / a.kind.blockElements * a.kind.blockBytes
    let place = group + i / groupRows * tileFloats + i % groupRows * lanes
    if a.kind == .f32 {
      scatter(source.assumingMemoryBound(to: Float.self), p.whole, place, groupRows * lanes)
    } else {
      let row = scratch + Place.row
      // Quantised rows are whole blocks, and so are their passes.
      dequantizeAny(a.kind, source, a.kind.isQuantized ? p.kc : p.whole, row)
      scatter(row, p.whole, place, groupRows * lanes)
    }
  }
  var m = 0
  while m < p.rows {
    let height = m + fullRows <= p.rows ? fullRows : 1
    for tile in 0..<tiles {
      let first = tile * groupRows
      dot(
        height, .f32, p.whole, UnsafeRawPointer(group + tile * tileFloats), lanes * 4, groupRows * lanes * 4,
        scratch + Place.x + m * p.whole, lanes, height * lanes, a.out + (p.m0 + m) * a.ldo + n + first, a.ldo,
        min(groupRows, count - first), p.k0 > 0)
    }
    m += height
  }
}

/// What a pass leaves over of a multiple of 16: one step over copies that are filled up with zeros.
@inline(never) private func tail(_ a: FloatMatmulArguments, _ p: Pass) {
  let x = a.scratch.assumingMemoryBound(to: Float.self) + Place.tails
  let w = x + fullRows * 16
  let k = p.k0 + p.whole
  for n in stride(from: a.rowRange.lowerBound, to: a.rowRange.upperBound, by: groupRows) {
    let count = min(groupRows, a.rowRange.upperBound - n)
    for i in 0..<groupRows {
      let source = a.w + (n + min(i, count - 1)) * a.rowBytes + k * a.kind.blockBytes
      store16(w + i * 16, loadDense16(a.kind, source, count: p.tail))
    }
    var m = p.m0
    while m < p.m0 + p.rows {
      let height = m + fullRows <= p.m0 + p.rows ? fullRows : 1
      for r in 0..<height { store16(x + r * 16, load16(a.x + (m + r) * a.ldx + k, count: p.tail)) }
      dot(
        height, .f32, 16, UnsafeRawPointer(w), 64, lanes * 4, x, 16, lanes, a.out + m * a.ldo + n, a.ldo, count, k > 0)
      m += height
    }
  }
}

/// `out[m, i] (+)= Σ x[m]·w[i]` over `k` (a multiple of 16) for `rows` (3 or 1) rows of x and `count` weight rows.
/// A vector's step along k is `stepW` bytes in w and `stepX` floats in x.
@inline(__always) private func dot(
  _ rows: Int, _ kind: DType, _ k: Int, _ w: UnsafeRawPointer, _ rowW: Int, _ stepW: Int, _ x: FloatPointer, _ ldx: Int,
  _ stepX: Int,
  _ out: MutableFloatPointer, _ ldo: Int, _ count: Int, _ add: Bool
) {
  if rows == fullRows {
    switch kind {
    case .f16: dot3F16(k, w, rowW, stepW, x, ldx, stepX, out, ldo, count, add)
    case .bf16: dot3BF16(k, w, rowW, stepW, x, ldx, stepX, out, ldo, count, add)
    default: dot3F32(k, w, rowW, stepW, x, ldx, stepX, out, ldo, count, add)
    }
  } else {
    switch kind {
    case .f16: dot1F16(k, w, rowW, stepW, x, stepX, out, count, add)
    case .bf16: dot1BF16(k, w, rowW, stepW, x, stepX, out, count, add)
    default: dot1F32(k, w, rowW, stepW, x, stepX, out, count, add)
    }
  }
}

@inline(never) private func dot3F32(
  _ k: Int, _ w: UnsafeRawPointer, _ rowW: Int, _ stepW: Int, _ x: FloatPointer, _ ldx: Int, _ stepX: Int,
  _ out: MutableFloatPointer, _ ldo: Int,
  _ count: Int,
  _ add: Bool
) {
  dot3(
    k, w, rowW, stepW, x, ldx, stepX, out, ldo, count, add, { loadDense16(.f32, $0) }, { loadDense8(.f32, $0) })
}

@inline(never) private func dot3F16(
  _ k: Int, _ w: UnsafeRawPointer, _ rowW: Int, _ stepW: Int, _ x: FloatPointer, _ ldx: Int, _ stepX: Int,
  _ out: MutableFloatPointer, _ ldo: Int,
  _ count: Int,
  _ add: Bool
) {
  dot3(
    k, w, rowW, stepW, x, ldx, stepX, out, ldo, count, add, { loadDense16(.f16, $0) }, { loadDense8(.f16, $0) })
}

@inline(never) private func dot3BF16(
  _ k: Int, _ w: UnsafeRawPointer, _ rowW: Int, _ stepW: Int, _ x: FloatPointer, _ ldx: Int, _ stepX: Int,
  _ out: MutableFloatPointer, _ ldo: Int,
  _ count: Int,
  _ add: Bool
) {
  dot3(
    k, w, rowW, stepW, x, ldx, stepX, out, ldo, count, add, { loadDense16(.bf16, $0) }, { loadDense8(.bf16, $0) })
}

@inline(never) private func dot1F32(
  _ k: Int, _ w: UnsafeRawPointer, _ rowW: Int, _ stepW: Int, _ x: FloatPointer, _ stepX: Int,
  _ out: MutableFloatPointer, _ count: Int,
  _ add: Bool
) {
  dot1(
    k, w, rowW, stepW, x, stepX, out, count, add, { loadDense16(.f32, $0) }, { loadDense8(.f32, $0) })
}

@inline(never) private func dot1F16(
  _ k: Int, _ w: UnsafeRawPointer, _ rowW: Int, _ stepW: Int, _ x: FloatPointer, _ stepX: Int,
  _ out: MutableFloatPointer, _ count: Int,
  _ add: Bool
) {
  dot1(
    k, w, rowW, stepW, x, stepX, out, count, add, { loadDense16(.f16, $0) }, { loadDense8(.f16, $0) })
}

@inline(never) private func dot1BF16(
  _ k: Int, _ w: UnsafeRawPointer, _ rowW: Int, _ stepW: Int, _ x: FloatPointer, _ stepX: Int,
  _ out: MutableFloatPointer, _ count: Int,
  _ add: Bool
) {
  dot1(
    k, w, rowW, stepW, x, stepX, out, count, add, { loadDense16(.bf16, $0) }, { loadDense8(.bf16, $0) })
}

/// Three rows of x with a constant way to load weights.
@inline(__always) private func dot3(
  _ k: Int, _ w: UnsafeRawPointer, _ rowW: Int, _ stepW: Int, _ x: FloatPointer, _ ldx: Int, _ stepX: Int,
  _ out: MutableFloatPointer, _ ldo: Int, _ count: Int, _ add: Bool, _ wide: (UnsafeRawPointer) -> V16,
  _ narrow: (UnsafeRawPointer) -> SIMD8<Float>
) {
  if compiledLevel == 4 {
    var t = DotTile8x3()
    t.accumulate(steps: k / 16, w: w, rowW: rowW, stepW: stepW, x: x, ldx: ldx, stepX: stepX, wide)
    write(t.sums0, out, count, add)
    write(t.sums1, out + ldo, count, add)
    write(t.sums2, out + 2 * ldo, count, add)
  } else {
    var t = DotTile4x3()
    t.accumulate(steps: k / 8, w: w, rowW: rowW, stepW: stepW, x: x, ldx: ldx, stepX: stepX, narrow)
    write(t.sums0, out, count, add)
    write(t.sums1, out + ldo, count, add)
    write(t.sums2, out + 2 * ldo, count, add)
  }
}

/// One row of x.
@inline(__always) private func dot1(
  _ k: Int, _ w: UnsafeRawPointer, _ rowW: Int, _ stepW: Int, _ x: FloatPointer, _ stepX: Int,
  _ out: MutableFloatPointer,
  _ count: Int, _ add: Bool, _ wide: (UnsafeRawPointer) -> V16, _ narrow: (UnsafeRawPointer) -> SIMD8<Float>
) {
  if compiledLevel == 4 {
    var t = DotTile8x1()
    t.accumulate(steps: k / 16, w: w, rowW: rowW, stepW: stepW, x: x, stepX: stepX, wide)
    write(t.sums0, out, count, add)
  } else {
    var t = DotTile4x1()
    t.accumulate(steps: k / 8, w: w, rowW: rowW, stepW: stepW, x: x, stepX: stepX, narrow)
    write(t.sums0, out, count, add)
  }
}

@inline(__always) private func write(_ sums: SIMD8<Float>, _ out: MutableFloatPointer, _ count: Int, _ add: Bool) {
  let p = UnsafeMutableRawPointer(out)
  if count == 8 {
    p.storeBytes(of: add ? p.loadUnaligned(as: SIMD8<Float>.self) + sums : sums, as: SIMD8<Float>.self)
  } else {
    for i in 0..<count { out[i] = add ? out[i] + sums[i] : sums[i] }
  }
}

@inline(__always) private func write(_ sums: SIMD4<Float>, _ out: MutableFloatPointer, _ count: Int, _ add: Bool) {
  let p = UnsafeMutableRawPointer(out)
  if count == 4 {
    p.storeBytes(of: add ? p.loadUnaligned(as: SIMD4<Float>.self) + sums : sums, as: SIMD4<Float>.self)
  } else {
    for i in 0..<count { out[i] = add ? out[i] + sums[i] : sums[i] }
  }
}

/// `count` elements of any kind, a multiple of its block, to f32.
func dequantizeAny(_ kind: DType, _ source: UnsafeRawPointer, _ count: Int, _ out: MutableFloatPointer) {
  if kind.isQuantized { dequantizeBlocks(kind, source, count, out) } else { dequantizeDense(kind, source, count, out) }
}
