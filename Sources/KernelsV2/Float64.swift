import KernelInterface

// Linear algebra in f64, for factorisations. The product is blocked and packed as in DenseGEMM.swift, with one tile of
// 6 × 16 at v4 and 6 × 8 below (12 vector registers of each); packing fills up with zeros, so there is no other.

/// One register at v4, two at v3, four at v2.
private typealias V8 = SIMD8<Double>

@inline(__always) private func load8(_ p: DoublePointer) -> V8 { UnsafeRawPointer(p).loadUnaligned(as: V8.self) }
@inline(__always) private func store8(_ p: MutableDoublePointer, _ v: V8) {
  UnsafeMutableRawPointer(p).storeBytes(of: v, as: V8.self)
}

/// `acc + a · b`: one rounding where the level has FMA, two at v2 (where `addProduct` would call `fma` lane by lane).
@inline(__always) private func fma(_ acc: V8, _ a: V8, _ b: V8) -> V8 {
  compiledLevel >= 3 ? acc.addingProduct(a, b) : acc + a * b
}
@inline(__always) private func fma(_ acc: Double, _ a: Double, _ b: Double) -> Double {
  compiledLevel >= 3 ? acc.addingProduct(a, b) : acc + a * b
}

private let rowsOfTile = 6
@inline(__always) private var columnsOfTile: Int { compiledLevel == 4 ? 16 : 8 }
/// Steps of k that one pass over C takes: a panel of B (24 kB at v4) stays in the first-level cache.
private let blockSteps = 192
/// What is packed of A and B together stays below 1 MB, a second-level cache.
private let blockRows = 120
private let blockColumns = 512

// MARK: product

func float64GEMM(_ arguments: borrowing Float64GEMMArguments) {
  let g = copy arguments
  if g.m == 0 || g.n == 0 || g.k == 0 { return }
  let packedA = g.scratch.assumingMemoryBound(to: Double.self)
  let packedB = packedA + blockRows * blockSteps
  // Equal blocks rather than a short last one; the split depends on k alone.
  let passes = (g.k + blockSteps - 1) / blockSteps
  let steps = (g.k + passes - 1) / passes
  for k0 in stride(from: 0, to: g.k, by: steps) {
    let kc = min(steps, g.k - k0)
    for j0 in stride(from: 0, to: g.n, by: blockColumns) {
      let nc = min(blockColumns, g.n - j0)
      pack(g.b.advanced(row: k0, column: j0), across: g.b.isTransposed, nc, columnsOfTile, kc, packedB)
      for i0 in stride(from: 0, to: g.m, by: blockRows) {
        let mc = min(blockRows, g.m - i0)
        pack(g.a.advanced(row: i0, column: k0), across: !g.a.isTransposed, mc, rowsOfTile, kc, packedA)
        for j in stride(from: 0, to: nc, by: columnsOfTile) {
          for i in stride(from: 0, to: mc, by: rowsOfTile) {
            multiply(
              packedA + i * kc, packedB + j * kc, kc, g.alpha, g.c + (i0 + i) * g.ldc + j0 + j, g.ldc,
              rows: min(rowsOfTile, mc - i), columns: min(columnsOfTile, nc - j))
          }
        }
      }
    }
  }
}

/// Packs `count` rows of A (columns of B) of `kc` steps into panels `[kc][width]`, zeros beyond. `across`: the steps lie
/// next to each other in memory, else the rows (columns) do.
@inline(never) private func pack(
  _ source: Float64Operand, across: Bool, _ count: Int, _ width: Int, _ kc: Int, _ out: MutableDoublePointer
) {
  if source.isFloat32 {
    let p = source.base.assumingMemoryBound(to: Float.self)
    pack({ Double(p[$0]) }, source.stride, across, count, width, kc, out)
  } else {
    let p = source.base.assumingMemoryBound(to: Double.self)
    pack({ p[$0] }, source.stride, across, count, width, kc, out)
  }
}

@inline(__always) private func pack(
  _ number: (Int) -> Double, _ stride: Int, _ across: Bool, _ count: Int, _ width: Int, _ kc: Int,
  _ out: MutableDoublePointer
) {
  var i = 0
  while i < count {
    let d = out + i * kc
    let valid = min(width, count - i)
    if valid < width { d.update(repeating: 0, count: width * kc) }
    if across {
      for r in 0..<valid {
        for k in 0..<kc { d[k * width + r] = number((i + r) * stride + k) }
      }
    } else {
      for k in 0..<kc {
        for r in 0..<valid { d[k * width + r] = number(k * stride + i + r) }
      }
    }
    i += width
  }
}

/// `C += alpha · A · B` for one tile of packed panels. Each accumulator is one chain over the steps.
@inline(never) private func multiply(
  _ a: DoublePointer, _ b: DoublePointer, _ kc: Int, _ alpha: Double, _ c: MutableDoublePointer, _ ldc: Int, rows: Int,
  columns: Int
) {
  var c0 = V8.zero, c1 = V8.zero, c2 = V8.zero, c3 = V8.zero, c4 = V8.zero, c5 = V8.zero
  var d0 = V8.zero, d1 = V8.zero, d2 = V8.zero, d3 = V8.zero, d4 = V8.zero, d5 = V8.zero
  var (a, b) = (a, b)
  for _ in 0..<kc {
    let v = load8(b)
    c0 = fma(c0, V8(repeating: a[0]), v)
    c1 = fma(c1, V8(repeating: a[1]), v)
    c2 = fma(c2, V8(repeating: a[2]), v)
    c3 = fma(c3, V8(repeating: a[3]), v)
    c4 = fma(c4, V8(repeating: a[4]), v)
    c5 = fma(c5, V8(repeating: a[5]), v)
    if compiledLevel == 4 {
      let w = load8(b + 8)
      d0 = fma(d0, V8(repeating: a[0]), w)
      d1 = fma(d1, V8(repeating: a[1]), w)
      d2 = fma(d2, V8(repeating: a[2]), w)
      d3 = fma(d3, V8(repeating: a[3]), w)
      d4 = fma(d4, V8(repeating: a[4]), w)
      d5 = fma(d5, V8(repeating: a[5]), w)
    }
    a += rowsOfTile
    b += columnsOfTile
  }
  add(c0, d0, alpha, c, columns)
  if rows > 1 { add(c1, d1, alpha, c + ldc, columns) }
  if rows > 2 { add(c2, d2, alpha, c + 2 * ldc, columns) }
  if rows > 3 { add(c3, d3, alpha, c + 3 * ldc, columns) }
  if rows > 4 { add(c4, d4, alpha, c + 4 * ldc, columns) }
  if rows > 5 { add(c5, d5, alpha, c + 5 * ldc, columns) }
}

/// Adds `alpha` times a row of the tile to C; the right edge lane by lane, with the same arithmetic.
@inline(__always) private func add(_ low: V8, _ high: V8, _ alpha: Double, _ c: MutableDoublePointer, _ columns: Int) {
  if columns == columnsOfTile {
    store8(c, fma(load8(c), low, V8(repeating: alpha)))
    if compiledLevel == 4 { store8(c + 8, fma(load8(c + 8), high, V8(repeating: alpha))) }
  } else {
    for j in 0..<min(8, columns) { c[j] = fma(c[j], low[j], alpha) }
    if compiledLevel == 4, columns > 8 {
      for j in 8..<columns { c[j] = fma(c[j], high[j - 8], alpha) }
    }
  }
}

// MARK: vectors

/// `(a, lda, rows, n, x, y)`: y[i] = Σ_j a[i, j] · x[j]; four rows share what is read of x. A row's bits do not depend on
/// how many there are.
func float64MatVec(
  _ a: DoublePointer, _ lda: Int, _ rows: Int, _ n: Int, _ x: DoublePointer, _ y: MutableDoublePointer
) {
  var i = 0
  while i + 4 <= rows {
    let (a0, a1, a2, a3) = (a + i * lda, a + (i + 1) * lda, a + (i + 2) * lda, a + (i + 3) * lda)
    var s0 = V8.zero, s1 = V8.zero, s2 = V8.zero, s3 = V8.zero
    var j = 0
    while j + 8 <= n {
      let v = load8(x + j)
      s0 = fma(s0, load8(a0 + j), v)
      s1 = fma(s1, load8(a1 + j), v)
      s2 = fma(s2, load8(a2 + j), v)
      s3 = fma(s3, load8(a3 + j), v)
      j += 8
    }
    y[i] = rest(s0, a0, x, j, n)
    y[i + 1] = rest(s1, a1, x, j, n)
    y[i + 2] = rest(s2, a2, x, j, n)
    y[i + 3] = rest(s3, a3, x, j, n)
    i += 4
  }
  while i < rows {
    let row = a + i * lda
    var s = V8.zero
    var j = 0
    while j + 8 <= n {
      s = fma(s, load8(row + j), load8(x + j))
      j += 8
    }
    y[i] = rest(s, row, x, j, n)
    i += 1
  }
}

/// The lanes of `s` as a tree of halves, and the products from `j` on.
@inline(__always) private func rest(_ s: V8, _ a: DoublePointer, _ x: DoublePointer, _ j: Int, _ n: Int) -> Double {
  let h = s.lowHalf + s.highHalf
  var sum = (h[0] + h[2]) + (h[1] + h[3])
  for j in j..<n { sum = fma(sum, a[j], x[j]) }
  return sum
}

/// `(a, lda, rows, n, x, y)`: y[j] += Σ_i x[i] · a[i, j], rows in ascending order.
func float64VecMat(
  _ a: DoublePointer, _ lda: Int, _ rows: Int, _ n: Int, _ x: DoublePointer, _ y: MutableDoublePointer
) {
  var j = 0
  while j + 16 <= n {
    var (s0, s1) = (load8(y + j), load8(y + j + 8))
    for i in 0..<rows {
      let v = V8(repeating: x[i])
      s0 = fma(s0, v, load8(a + i * lda + j))
      s1 = fma(s1, v, load8(a + i * lda + j + 8))
    }
    store8(y + j, s0)
    store8(y + j + 8, s1)
    j += 16
  }
  while j < n {
    var s = y[j]
    for i in 0..<rows { s = fma(s, x[i], a[i * lda + j]) }
    y[j] = s
    j += 1
  }
}

/// `(a, lda, rows, n, x, y)`: what the rows in the range of the upper triangle of a symmetric matrix `[n, n]` add to
/// y = a · x. Each element is read once and used on both sides of the diagonal; below it nothing is read.
func float64SymVec(
  _ a: DoublePointer, _ lda: Int, _ rows: Range<Int>, _ n: Int, _ x: DoublePointer, _ y: MutableDoublePointer
) {
  var i = rows.lowerBound
  while i + 4 <= rows.upperBound {
    let (a0, a1, a2, a3) = (a + i * lda, a + (i + 1) * lda, a + (i + 2) * lda, a + (i + 3) * lda)
    for r in 0..<4 {
      let row = a + (i + r) * lda
      y[i + r] = fma(y[i + r], row[i + r], x[i + r])
      for c in i + r + 1..<i + 4 {
        y[i + r] = fma(y[i + r], row[c], x[c])
        y[c] = fma(y[c], row[c], x[i + r])
      }
    }
    let (x0, x1) = (V8(repeating: x[i]), V8(repeating: x[i + 1]))
    let (x2, x3) = (V8(repeating: x[i + 2]), V8(repeating: x[i + 3]))
    var s0 = V8.zero, s1 = V8.zero, s2 = V8.zero, s3 = V8.zero
    var j = i + 4
    while j + 8 <= n {
      let v = load8(x + j)
      let (r0, r1, r2, r3) = (load8(a0 + j), load8(a1 + j), load8(a2 + j), load8(a3 + j))
      s0 = fma(s0, r0, v)
      s1 = fma(s1, r1, v)
      s2 = fma(s2, r2, v)
      s3 = fma(s3, r3, v)
      store8(y + j, fma(fma(fma(fma(load8(y + j), r0, x0), r1, x1), r2, x2), r3, x3))
      j += 8
    }
    y[i] += rest(s0, a0, x, j, n)
    y[i + 1] += rest(s1, a1, x, j, n)
    y[i + 2] += rest(s2, a2, x, j, n)
    y[i + 3] += rest(s3, a3, x, j, n)
    while j < n {
      y[j] = fma(fma(fma(fma(y[j], a0[j], x[i]), a1[j], x[i + 1]), a2[j], x[i + 2]), a3[j], x[i + 3])
      j += 1
    }
    i += 4
  }
  while i < rows.upperBound {
    let row = a + i * lda
    for j in i..<n { y[i] = fma(y[i], row[j], x[j]) }
    for j in i + 1..<max(n, i + 1) { y[j] = fma(y[j], row[j], x[i]) }
    i += 1
  }
}

// MARK: rotations

/// Turns the rows of a panel `[rows][16]` by the sweeps, one after another. `coefficients` holds cosine and sine of every
/// rotation in order; a rotation of rows i and i + 1 makes row i + 1 = s · row i + c · row i + 1 and
/// row i = c · row i − s · row i + 1.
func rotatePanel(
  _ panel: MutableDoublePointer, _ sweeps: UnsafePointer<RotationSweep>, _ count: Int, _ coefficients: DoublePointer
) {
  var p = coefficients
  for sweep in 0..<count {
    var row = panel + sweeps[sweep].top * RotationSweep.panelColumns
    var (f0, f1) = (load8(row), load8(row + 8))
    for _ in 0..<sweeps[sweep].count {
      let (c, s) = (V8(repeating: p[0]), V8(repeating: p[1]))
      let below = row
      row -= RotationSweep.panelColumns
      let (z0, z1) = (load8(row), load8(row + 8))
      store8(below, fma(c * f0, s, z0))
      store8(below + 8, fma(c * f1, s, z1))
      f0 = fma(c * z0, -s, f0)
      f1 = fma(c * z1, -s, f1)
      p += 2
    }
    store8(row, f0)
    store8(row + 8, f1)
  }
}
