import CSIMD
import KernelInterface

/// One activation panel at the first k of a tile, and the panel's auxiliary numbers: per block of weights and row
/// −offset · Σa (int32) of the symmetric kinds, s · Σa (f32) of the affine ones.
struct PanelCursor {
  var rows: Int
  var values: UnsafeRawPointer
  var scales: UnsafePointer<Float>
  var aux: UnsafeRawPointer

  /// The same for a part of the rows from `row`; the distances stay those of the panel.
  @inline(__always) func part(_ row: Int) -> PanelCursor {
    PanelCursor(rows: rows, values: values + 4 * row, scales: scales + row, aux: aux + 4 * row)
  }
}

/// `out[m][0..<16] += tile · a[m]` for `R` rows of a panel, over `kc` weights.
///
/// Per block: `acc = Σ u·a` in integers; then `out += acc · (D·s) (+ M · (s·Σa))`, and where two blocks share s,
/// `out += (acc₀·D₀ + acc₁·D₁) · s`.
@inline(__always) func accumulate<Kind: BlockKind, let R: Int>(
  _: Kind.Type, _: InlineArray<R, Void>.Type, _ tile: Tile, _ panel: PanelCursor, panelRows: Int, kc: Int,
  _ out: UnsafeMutablePointer<Float>, _ ldo: Int, first: Bool
) {
  var o = zeros(InlineArray<R, Floats>.self)
  if !first { for m in 0..<R { o[m] = load(out + m * ldo) } }
  var w = UnsafeRawPointer(tile.values)
  var d = UnsafePointer(tile.scales)
  var minimum = UnsafePointer(tile.minimums)
  var a = panel.values
  var s = panel.scales
  var aux = panel.aux
  for _ in 0..<(kc / 32) {
    if Kind.block == 32 {
      let acc = dotBlock(Kind.self, InlineArray<R, Void>.self, w, a, aux, panelRows)
      let scale: Floats = load(d)
      for m in 0..<R { o[m] = csimd_fma(csimd_int_to_float(acc[m]), scale * csimd_splat_float(s + m), o[m]) }
      if Kind.isAffine {
        let offset: Floats = load(minimum)
        let sums = aux.assumingMemoryBound(to: Float.self)
        for m in 0..<R { o[m] = csimd_fma(offset, csimd_splat_float(sums + m), o[m]) }
      }
    } else {
      let acc0 = dotBlock(Kind.self, InlineArray<R, Void>.self, w, a, aux, panelRows)
      let scale0: Floats = load(d)
      var t = zeros(InlineArray<R, Floats>.self)
      for m in 0..<R { t[m] = csimd_int_to_float(acc0[m]) * scale0 }
      let acc1 = dotBlock(
        Kind.self, InlineArray<R, Void>.self, w + 16 * tileRows, a + 16 * panelRows, aux + 4 * panelRows, panelRows)
      let scale1: Floats = load(d + tileRows)
      for m in 0..<R {
        t[m] = csimd_fma(csimd_int_to_float(acc1[m]), scale1, t[m])
        o[m] = csimd_fma(t[m], csimd_splat_float(s + m), o[m])
      }
      if Kind.isAffine {
        let offset0: Floats = load(minimum)
        let offset1: Floats = load(minimum + tileRows)
        let sums = aux.assumingMemoryBound(to: Float.self)
        for m in 0..<R {
          o[m] = csimd_fma(offset0, csimd_splat_float(sums + m), o[m])
          o[m] = csimd_fma(offset1, csimd_splat_float(sums + panelRows + m), o[m])
        }
      }
    }
    w += 32 * tileRows
    a += 32 * panelRows
    d += 32 / Kind.block * tileRows
    minimum += 32 / Kind.block * tileRows
    s += panelRows
    aux += 32 / Kind.block * 4 * panelRows
  }
  for m in 0..<R { store(out + m * ldo, o[m]) }
}

/// `Σ u·a` (less offset · Σa) of one block of weights for `R` rows.
@inline(__always) func dotBlock<Kind: BlockKind, let R: Int>(
  _: Kind.Type, _: InlineArray<R, Void>.Type, _ w: UnsafeRawPointer, _ a: UnsafeRawPointer, _ aux: UnsafeRawPointer,
  _ panelRows: Int
) -> InlineArray<R, Ints> {
  var acc = zeros(InlineArray<R, Ints>.self)
  if Kind.offset != 0 {
    let offsets = aux.assumingMemoryBound(to: Int32.self)
    for m in 0..<R { acc[m] = csimd_splat_int(offsets + m) }
  }
  if compiledLevel != 3 {
    for j in 0..<(Kind.block / 4) {
      let q: Bytes64 = load(w + 64 * j)
      for m in 0..<R { acc[m] = csimd_dot4(acc[m], q, a + (j * panelRows + m) * 4) }
    }
    return acc
  }
  let steps = min(Kind.stepsIn16Bits, Kind.block / 4)
  for group in 0..<(Kind.block / 4 / steps) {
    var low = zeros(InlineArray<R, SIMD16<Int16>>.self)
    var high = zeros(InlineArray<R, SIMD16<Int16>>.self)
    for step in 0..<steps {
      let j = group * steps + step
      for m in 0..<R {
        let x = a + (j * panelRows + m) * 4
        if Kind.isSigned {
          low[m] &+= csimd_dot2_signed(w + 64 * j, x)
          high[m] &+= csimd_dot2_signed(w + 64 * j + 32, x)
        } else {
          low[m] &+= csimd_dot2(w + 64 * j, x)
          high[m] &+= csimd_dot2(w + 64 * j + 32, x)
        }
      }
    }
    for m in 0..<R { acc[m] &+= csimd_join(csimd_widen_pairs(low[m]), csimd_widen_pairs(high[m])) }
  }
  return acc
}

/// A whole panel against a tile.
@inline(__always) private func panelProduct<Kind: BlockKind>(
  _: Kind.Type, _ tile: Tile, _ panel: PanelCursor, kc: Int, _ out: UnsafeMutablePointer<Float>, _ ldo: Int,
  first: Bool
) {
  let rows = panel.rows
  if compiledLevel == 4 && rows == 12 {
    // The next panel's part of `out`: its lines are far apart, and waiting for them costs a tenth of the time.
    for m in 0..<12 { csimd_prefetch_near(out + (12 + m) * ldo) }
    if Kind.block == 32 {
      accumulate(Kind.self, InlineArray<12, Void>.self, tile, panel, panelRows: 12, kc: kc, out, ldo, first: first)
    } else {
      // Three vectors a row do not fit in the registers for 12 rows.
      accumulate(Kind.self, InlineArray<6, Void>.self, tile, panel, panelRows: 12, kc: kc, out, ldo, first: first)
      accumulate(
        Kind.self, InlineArray<6, Void>.self, tile, panel.part(6), panelRows: 12, kc: kc, out + 6 * ldo, ldo,
        first: first)
    }
    return
  }
  // Parts of 4 rows where there are registers for them, and single rows.
  var row = 0
  if compiledLevel >= 3 {
    while row + 4 <= rows {
      accumulate(
        Kind.self, InlineArray<4, Void>.self, tile, panel.part(row), panelRows: rows, kc: kc, out + row * ldo, ldo,
        first: first)
      row += 4
    }
  }
  while row < rows {
    accumulate(
      Kind.self, InlineArray<1, Void>.self, tile, panel.part(row), panelRows: rows, kc: kc, out + row * ldo, ldo,
      first: first)
    row += 1
  }
}

/// `QuantizedMatmulArguments` says what is computed.
func quantizedMatmul(_ arguments: borrowing QuantizedMatmulArguments) {
  let a = copy arguments
  switch a.kind {
  case .q4_0: product(Q4_0.self, a)
  case .q4_1: product(Q4_1.self, a)
  case .q5_0: product(Q5_0.self, a)
  case .q5_1: product(Q5_1.self, a)
  case .q8_0: product(Q8_0.self, a)
  case .q2_K: product(Q2_K.self, a)
  case .q3_K: product(Q3_K.self, a)
  case .q4_K: product(Q4_K.self, a)
  case .q5_K: product(Q5_K.self, a)
  case .q6_K: product(Q6_K.self, a)
  case .f32, .f16, .bf16, .i32: preconditionFailure("quantizedMatmul of the dense kind \(a.kind.name)")
  }
}

/// Never inlined, so that every kind is a function of its own.
@inline(never) private func product<Kind: DirectKind>(_: Kind.Type, _ a: QuantizedMatmulArguments) {
  let done = direct(Kind.self, a)
  if done == a.rowRange.count { return }
  var rest = a
  rest.rowRange = (a.rowRange.lowerBound + done)..<a.rowRange.upperBound
  matmul(Kind.self, rest)
}

/// Rows up to which a tile's chunks of k are worked off before the next tile, so that weights are read in order of
/// their addresses; above, a chunk of the activations stays in L2 while all tiles pass by.
private let fewRows = 24

/// How far ahead weights are fetched at least, in bytes: the latency of memory (100 ns) at its full rate.
private let prefetchBytes = 16 << 10

/// The longest group of rows of one pass, for the auxiliary numbers and the sums of a short tile.
private let maxRowsPerPass = 4096

@inline(__always) private func matmul<Kind: BlockKind>(_: Kind.Type, _ a: QuantizedMatmulArguments) {
  let k = a.layout.k
  let scratch = QuantizedScratch(a.scratch)
  let auxBytesPerRow = k / Kind.block * 4
  // Whole panels of 12 rows: their numbers, and 16 sums per row.
  let pass = min(maxRowsPerPass, scratch.restBytes / (auxBytesPerRow + tileRows * 4)) / 12 * 12
  precondition(pass > 0, "quantizedMatmul: k = \(k) is too long for the scratch memory")
  let panels = a.layout.panelCount
  var panel = 0
  while panel < panels {
    let end = min(panels, panel + pass / 12)
    matmulPanels(Kind.self, a, panel..<end, scratch)
    panel = end
  }
}

@inline(__always) private func matmulPanels<Kind: BlockKind>(
  _: Kind.Type, _ a: QuantizedMatmulArguments, _ panels: Range<Int>, _ scratch: QuantizedScratch
) {
  let k = a.layout.k
  let blocks = k / Kind.block
  let firstRow = a.layout.panel(panels.lowerBound).firstRow
  let lastPanel = a.layout.panel(panels.upperBound - 1)
  let rows = lastPanel.firstRow + lastPanel.rows - firstRow
  let sums = scratch.rest.assumingMemoryBound(to: Float.self)
  let aux = scratch.rest + rows * tileRows * 4
  for i in panels {
    let panel = a.layout.panel(i)
    fillAux(
      a, panel, block: Kind.block, isAffine: Kind.isAffine, offset: Kind.offset,
      aux + (panel.firstRow - firstRow) * blocks * 4, panelRows: panel.rows)
  }

  // Equal chunks of k, each a multiple of the storage block and of 32.
  let unit = max(32, Kind.blockElements)
  let units = k / unit
  let chunks = (units + maxTileK / unit - 1) / (maxTileK / unit)
  let chunk = (units + chunks - 1) / chunks * unit

  let tiles = (a.rowRange.count + tileRows - 1) / tileRows
  // Tiles whose sums are at once the result; the others' are made in `sums`.
  let fullTiles = a.layout.terms == 1 ? a.rowRange.count / tileRows : 0
  let outer = rows > fewRows && a.layout.terms == 1 ? chunks : 1
  let tileBytes = a.rowBytes * tileRows
  let distance = (prefetchBytes + tileBytes - 1) / tileBytes * tileBytes
  for o in 0..<outer {
    for t in 0..<tiles {
      let n = a.rowRange.lowerBound + t * tileRows
      let columns = min(tileRows, a.rowRange.upperBound - n)
      let full = t < fullTiles
      var out = a.out + firstRow * a.ldo + n
      var ldo = a.ldo
      if !full {
        out = sums
        ldo = tileRows
      }
      for inner in (outer == 1 ? 0..<chunks : o..<(o + 1)) {
        let k0 = inner * chunk
        let kc = min(chunk, k - k0)
        if kc <= 0 { break }
        unpackTile(
          Kind.self, a.w + n * a.rowBytes, rowBytes: a.rowBytes, rows: columns, k0: k0, kc: kc, scratch,
          ahead: outer > 1
            ? nil : a.w + n * a.rowBytes + distance + k0 / Kind.blockElements * Kind.blockBytes * tileRows)
        for i in panels {
          let panel = a.layout.panel(i)
          let m = panel.rows
          let base = a.activations + panel.offset
          let cursor = PanelCursor(
            rows: m, values: base + k0 * m,
            scales: (base + a.layout.scalesOffset(m) + k0 / 32 * m * 4).assumingMemoryBound(to: Float.self),
            aux: UnsafeRawPointer(aux) + ((panel.firstRow - firstRow) * blocks + k0 / Kind.block * m) * 4)
          panelProduct(
            Kind.self, scratch.tile, cursor, kc: kc, out + (panel.firstRow - firstRow) * ldo, ldo, first: inner == 0)
        }
      }
      if !full && o == outer - 1 {
        let terms = a.layout.terms
        let target = a.out + firstRow / terms * a.ldo + n
        for m in 0..<(rows / terms) {
          if terms == 2 { addTerms(sums + 2 * m * tileRows) }
          (target + m * a.ldo).update(from: sums + terms * m * tileRows, count: columns)
        }
      }
    }
  }
}

/// A row's second sums are added to its first.
@inline(__always) private func addTerms(_ sums: UnsafeMutablePointer<Float>) {
  let first: Floats = load(sums)
  store(sums, first + load(sums + tileRows, as: Floats.self))
}

/// The auxiliary numbers of a panel: `[k/block][panelRows]`, of which the panel's rows are the first.
@inline(never) private func fillAux(
  _ a: QuantizedMatmulArguments, _ panel: ActivationLayout.Panel, block: Int, isAffine: Bool, offset: Int32,
  _ aux: UnsafeMutableRawPointer, panelRows: Int
) {
  if !isAffine && offset == 0 { return }
  let m = panel.rows
  let base = a.activations + panel.offset
  let sums = (base + a.layout.sumsOffset(m)).assumingMemoryBound(to: Int32.self)
  let scales = (base + a.layout.scalesOffset(m)).assumingMemoryBound(to: Float.self)
  let integers = aux.assumingMemoryBound(to: Int32.self)
  let floats = aux.assumingMemoryBound(to: Float.self)
  for i in 0..<(a.layout.k / block) {
    let scale = scales + i * block / 32 * m
    for row in 0..<m {
      let sum = block == 32 ? sums[2 * i * m + row] &+ sums[(2 * i + 1) * m + row] : sums[i * m + row]
      if isAffine {
        floats[i * panelRows + row] = scale[row] * Float(sum)
      } else {
        integers[i * panelRows + row] = 0 &- offset &* sum
      }
    }
  }
}

/// Few rows, without a tile: as many of the weight rows as make whole tiles. Returns how many weight rows are done.
@inline(__always) private func direct<Kind: DirectKind>(_: Kind.Type, _ a: QuantizedMatmulArguments) -> Int {
  // At v3 more than two rows do not fit in the registers.
  let most = compiledLevel == 4 ? Kind.directRows : compiledLevel == 3 ? 2 : 0
  if a.layout.rows > most { return 0 }
  switch a.layout.rows {
  case 1: return directRows(Kind.self, InlineArray<1, Void>.self, a)
  case 2: return directRows(Kind.self, InlineArray<2, Void>.self, a)
  default: break
  }
  if compiledLevel != 4 { return 0 }
  switch a.layout.rows {
  case 3, 4: return directRows(Kind.self, InlineArray<4, Void>.self, a)
  default: return directRows(Kind.self, InlineArray<8, Void>.self, a)
  }
}

/// `R` rows or a few less, which are then padded with zeros.
@inline(__always) private func directRows<Kind: DirectKind, let R: Int>(
  _: Kind.Type, _: InlineArray<R, Void>.Type, _ a: QuantizedMatmulArguments
) -> Int {
  if R > Kind.directRows { return 0 }
  let rows = a.layout.rows
  let scratch = QuantizedScratch(a.scratch)
  let panel = singlePanel(
    a, rows: R, block: Kind.block, isAffine: Kind.isAffine, offset: Kind.offset, scratch.rest, scratch.restBytes)
  guard let panel else { return 0 }
  let cursor = DirectCursor<R>(panel)
  let tileBytes = a.rowBytes * tileRows
  let distance = (prefetchBytes + tileBytes - 1) / tileBytes * tileBytes
  let fullTiles = a.rowRange.count / tileRows
  for t in 0..<fullTiles {
    let n = a.rowRange.lowerBound + t * tileRows
    let w = a.w + n * a.rowBytes
    var o = zeros(InlineArray<R, Floats>.self)
    Kind.direct(w, a.rowBytes, blocks: a.layout.k / Kind.blockElements, cursor, w + distance, scratch.tile, &o)
    if R > 1 && a.layout.terms == 2 {
      for m in 0..<(R / 2) where R == 2 || 2 * m < rows { store(a.out + m * a.ldo + n, o[2 * m] + o[2 * m + 1]) }
    } else {
      for m in 0..<R where R <= 2 || m < rows { store(a.out + m * a.ldo + n, o[m]) }
    }
  }
  return fullTiles * tileRows
}

/// The activations as one panel of `rows` ≥ the layout's rows, with its auxiliary numbers; nil when `memory` is too small.
@inline(never) private func singlePanel(
  _ a: QuantizedMatmulArguments, rows: Int, block: Int, isAffine: Bool, offset: Int32,
  _ memory: UnsafeMutableRawPointer, _ bytes: Int
) -> PanelCursor? {
  let k = a.layout.k
  let auxBytes = k / block * 4 * rows
  let valuesBytes = (k * rows + k / 32 * 4 * rows + 63) / 64 * 64
  if auxBytes + valuesBytes > bytes { return nil }
  let aux = memory + valuesBytes
  if a.layout.rows == rows {
    fillAux(a, a.layout.panel(0), block: block, isAffine: isAffine, offset: offset, aux, panelRows: rows)
    return PanelCursor(
      rows: rows, values: a.activations,
      scales: (a.activations + a.layout.scalesOffset(rows)).assumingMemoryBound(to: Float.self), aux: aux)
  }
  (memory).initializeMemory(as: UInt8.self, repeating: 0, count: valuesBytes + auxBytes)
  let values = memory.assumingMemoryBound(to: UInt32.self)
  let scales = (memory + k * rows).assumingMemoryBound(to: Float.self)
  for i in 0..<a.layout.panelCount {
    let panel = a.layout.panel(i)
    let source = (a.activations + panel.offset).assumingMemoryBound(to: UInt32.self)
    let sourceScales = (a.activations + panel.offset + a.layout.scalesOffset(panel.rows))
      .assumingMemoryBound(to: Float.self)
    for row in 0..<panel.rows {
      for j in 0..<(k / 4) { values[j * rows + panel.firstRow + row] = source[j * panel.rows + row] }
      for j in 0..<(k / 32) { scales[j * rows + panel.firstRow + row] = sourceScales[j * panel.rows + row] }
    }
    fillAux(
      a, panel, block: block, isAffine: isAffine, offset: offset, aux + 4 * panel.firstRow, panelRows: rows)
  }
  return PanelCursor(rows: rows, values: UnsafeRawPointer(values), scales: scales, aux: aux)
}
