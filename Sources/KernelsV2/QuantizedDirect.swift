import CSIMD
import KernelInterface

// Products with one panel of few rows: the weights go from memory through registers into the dot products, without a tile
// between. The same integers, and the same f32 operations in the same order, as `accumulate`, so that a row's result
// does not depend on how many rows there are.

/// The activations of a panel of `R` rows, walked in steps of 32 k.
struct DirectCursor<let R: Int> {
  var values: UnsafeRawPointer
  var scales: UnsafePointer<Float>
  var aux: UnsafeRawPointer

  @inline(__always) init(_ panel: PanelCursor) {
    values = panel.values
    scales = panel.scales
    aux = panel.aux
  }

  @inline(__always) mutating func advance(auxPerStep: Int) {
    values += 32 * R
    scales += R
    aux += 4 * R * auxPerStep
  }

  /// `o += (acc) · (D·s) (+ M · (s·Σa))` for 32 weights that share a scale, given as 8 columns; then the next step.
  @inline(__always) mutating func step<Kind: BlockKind>(
    _: Kind.Type, _ w: InlineArray<8, Dwords>, _ d: Floats, _ minimum: Floats, _ o: inout InlineArray<R, Floats>
  ) {
    var acc = zeros(InlineArray<R, Ints>.self)
    if Kind.offset != 0 {
      let offsets = aux.assumingMemoryBound(to: Int32.self)
      for m in 0..<R { acc[m] = csimd_splat_int(offsets + m) }
    }
    if compiledLevel == 3 {
      dotIn16Bits(Kind.self, w, values, &acc)
    } else {
      // A column is dead after its products, which leaves registers for 8 rows.
      unrolled8 { j in
        let column = unsafeBitCast(w[j], to: Bytes64.self)
        for m in 0..<R { acc[m] = csimd_dot4(acc[m], column, values + 4 * (j * R + m)) }
      }
    }
    for m in 0..<R { o[m] = csimd_fma(csimd_int_to_float(acc[m]), d * csimd_splat_float(scales + m), o[m]) }
    if Kind.isAffine {
      let sums = aux.assumingMemoryBound(to: Float.self)
      for m in 0..<R { o[m] = csimd_fma(minimum, csimd_splat_float(sums + m), o[m]) }
    }
    advance(auxPerStep: 1)
  }
}

extension DirectCursor {
  /// The AVX2 form of 8 dot products of 4: sums of two in 16 bits, added there as often as they cannot overflow.
  @inline(__always) func dotIn16Bits<Kind: BlockKind>(
    _: Kind.Type, _ w: InlineArray<8, Dwords>, _ a: UnsafeRawPointer, _ acc: inout InlineArray<R, Ints>
  ) {
    var low = zeros(InlineArray<R, SIMD16<Int16>>.self)
    var high = zeros(InlineArray<R, SIMD16<Int16>>.self)
    unrolled8 { j in
      for m in 0..<R {
        let x = a + 4 * (j * R + m)
        if Kind.isSigned {
          low[m] &+= csimd_dot2_signed_low(w[j], x)
          high[m] &+= csimd_dot2_signed_high(w[j], x)
        } else {
          low[m] &+= csimd_dot2_low(w[j], x)
          high[m] &+= csimd_dot2_high(w[j], x)
        }
        if (j + 1) % Kind.stepsIn16Bits == 0 || j == 7 {
          acc[m] &+= csimd_join(csimd_widen_pairs(low[m]), csimd_widen_pairs(high[m]))
          low[m] = zeros(SIMD16<Int16>.self)
          high[m] = zeros(SIMD16<Int16>.self)
        }
      }
    }
  }

  /// The same for 4 dot products.
  @inline(__always) func halfDotIn16Bits<Kind: BlockKind>(
    _: Kind.Type, _ w: InlineArray<16, Dwords>, _ first: Int, _ a: UnsafeRawPointer,
    _ acc: inout InlineArray<R, Ints>
  ) {
    var low = zeros(InlineArray<R, SIMD16<Int16>>.self)
    var high = zeros(InlineArray<R, SIMD16<Int16>>.self)
    unrolled4 { j in
      for m in 0..<R {
        let x = a + 4 * (j * R + m)
        low[m] &+= csimd_dot2_low(w[first + j], x)
        high[m] &+= csimd_dot2_high(w[first + j], x)
        if (j + 1) % Kind.stepsIn16Bits == 0 || j == 3 {
          acc[m] &+= csimd_join(csimd_widen_pairs(low[m]), csimd_widen_pairs(high[m]))
          low[m] = zeros(SIMD16<Int16>.self)
          high[m] = zeros(SIMD16<Int16>.self)
        }
      }
    }
  }
}

/// A kind that can be unpacked piece by piece in registers.
protocol DirectKind: BlockKind {
  /// The greatest panel that leaves enough registers.
  static var directRows: Int { get }
  /// The product of `blocks` storage blocks at `p` with the panel under `cursor`.
  static func direct<let R: Int>(
    _ p: UnsafeRawPointer, _ stride: Int, blocks: Int, _ cursor: DirectCursor<R>, _ ahead: UnsafeRawPointer,
    _ tile: Tile, _ o: inout InlineArray<R, Floats>
  )
}

/// Fetches `count` cache lines into L2.
@inline(__always) func prefetchLines(_ p: UnsafeRawPointer, _ count: Int) {
  for i in 0..<count { csimd_prefetch(p + 64 * i) }
}

extension Q4_0: DirectKind {
  static var directRows: Int { 8 }
  @inline(__always) static func direct<let R: Int>(
    _ p: UnsafeRawPointer, _ stride: Int, blocks: Int, _ cursor: DirectCursor<R>, _ ahead: UnsafeRawPointer,
    _ tile: Tile, _ o: inout InlineArray<R, Floats>
  ) {
    var p = p
    var ahead = ahead
    var cursor = cursor
    for _ in 0..<blocks {
      prefetchLines(ahead, 5)
      let d = csimd_load_halves(p, stride)
      cursor.step(Q4_0.self, nibbles(loadColumns(p + 2, stride)), d, .zero, &o)
      p += 18
      ahead += 18 * tileRows
    }
  }
}

extension Q4_1: DirectKind {
  static var directRows: Int { 8 }
  @inline(__always) static func direct<let R: Int>(
    _ p: UnsafeRawPointer, _ stride: Int, blocks: Int, _ cursor: DirectCursor<R>, _ ahead: UnsafeRawPointer,
    _ tile: Tile, _ o: inout InlineArray<R, Floats>
  ) {
    var p = p
    var ahead = ahead
    var cursor = cursor
    // Four blocks are 20 dwords: five loads of 16 bytes give the headers too.
    for _ in 0..<(blocks / 4) {
      prefetchLines(ahead, 5)
      let c0 = loadColumns(p, stride)
      let c1 = loadColumns(p + 16, stride)
      let q0 = Columns(c0: c0.c1, c1: c0.c2, c2: c0.c3, c3: c1.c0)
      cursor.step(Q4_1.self, nibbles(q0), csimd_low_half(c0.c0), csimd_high_half(c0.c0), &o)
      prefetchLines(ahead + 320, 5)
      let c2 = loadColumns(p + 32, stride)
      let q1 = Columns(c0: c1.c2, c1: c1.c3, c2: c2.c0, c3: c2.c1)
      cursor.step(Q4_1.self, nibbles(q1), csimd_low_half(c1.c1), csimd_high_half(c1.c1), &o)
      prefetchLines(ahead + 640, 5)
      let c3 = loadColumns(p + 48, stride)
      let q2 = Columns(c0: c2.c3, c1: c3.c0, c2: c3.c1, c3: c3.c2)
      cursor.step(Q4_1.self, nibbles(q2), csimd_low_half(c2.c2), csimd_high_half(c2.c2), &o)
      prefetchLines(ahead + 960, 5)
      let c4 = loadColumns(p + 64, stride)
      cursor.step(Q4_1.self, nibbles(c4), csimd_low_half(c3.c3), csimd_high_half(c3.c3), &o)
      p += 80
      ahead += 80 * tileRows
    }
    for _ in 0..<(blocks % 4) {
      prefetchLines(ahead, 5)
      let header = csimd_load_dwords(p, stride)
      cursor.step(
        Q4_1.self, nibbles(loadColumns(p + 4, stride)), csimd_low_half(header), csimd_high_half(header), &o)
      p += 20
      ahead += 20 * tileRows
    }
  }
}

extension Q8_0: DirectKind {
  static var directRows: Int { 8 }
  @inline(__always) static func direct<let R: Int>(
    _ p: UnsafeRawPointer, _ stride: Int, blocks: Int, _ cursor: DirectCursor<R>, _ ahead: UnsafeRawPointer,
    _ tile: Tile, _ o: inout InlineArray<R, Floats>
  ) {
    var p = p
    var ahead = ahead
    var cursor = cursor
    let flip = compiledLevel == 3 ? Dwords.zero : splat(0x80)
    for _ in 0..<blocks {
      prefetchLines(ahead, 9)
      let d = csimd_load_halves(p, stride)
      let a = loadColumns(p + 2, stride)
      let b = loadColumns(p + 18, stride)
      cursor.step(
        Q8_0.self,
        [
          a.c0 ^ flip, a.c1 ^ flip, a.c2 ^ flip, a.c3 ^ flip, b.c0 ^ flip, b.c1 ^ flip, b.c2 ^ flip, b.c3 ^ flip,
        ], d, .zero, &o)
      p += 34
      ahead += 34 * tileRows
    }
  }
}

extension Q5_0: DirectKind {
  static var directRows: Int { 8 }
  @inline(__always) static func direct<let R: Int>(
    _ p: UnsafeRawPointer, _ stride: Int, blocks: Int, _ cursor: DirectCursor<R>, _ ahead: UnsafeRawPointer,
    _ tile: Tile, _ o: inout InlineArray<R, Floats>
  ) {
    var p = p
    var ahead = ahead
    var cursor = cursor
    for _ in 0..<blocks {
      prefetchLines(ahead, 6)
      let (d, high) = header(p, stride)
      cursor.step(Q5_0.self, fiveBits(loadColumns(p + 6, stride), high), d, .zero, &o)
      p += 22
      ahead += 22 * tileRows
    }
  }
}

extension Q5_1: DirectKind {
  static var directRows: Int { 8 }
  @inline(__always) static func direct<let R: Int>(
    _ p: UnsafeRawPointer, _ stride: Int, blocks: Int, _ cursor: DirectCursor<R>, _ ahead: UnsafeRawPointer,
    _ tile: Tile, _ o: inout InlineArray<R, Floats>
  ) {
    var p = p
    var ahead = ahead
    var cursor = cursor
    for _ in 0..<blocks {
      prefetchLines(ahead, 6)
      let (header, high) = loadTwoColumns(p, stride)
      let q = fiveBits(loadColumns(p + 8, stride), high)
      cursor.step(Q5_1.self, q, csimd_low_half(header), csimd_high_half(header), &o)
      p += 24
      ahead += 24 * tileRows
    }
  }
}

/// 32 weights in the low (`shift` 0) or high (4) halves of 8 columns.
@inline(__always) private func halves(_ q: InlineArray<8, Dwords>, _ shift: Int32) -> InlineArray<8, Dwords> {
  let mask = splat(0x0f)
  return [
    right(q[0], shift) & mask, right(q[1], shift) & mask, right(q[2], shift) & mask, right(q[3], shift) & mask,
    right(q[4], shift) & mask, right(q[5], shift) & mask, right(q[6], shift) & mask, right(q[7], shift) & mask,
  ]
}

extension Q4_K: DirectKind {
  static var directRows: Int { 8 }
  @inline(__always) static func direct<let R: Int>(
    _ p: UnsafeRawPointer, _ stride: Int, blocks: Int, _ cursor: DirectCursor<R>, _ ahead: UnsafeRawPointer,
    _ tile: Tile, _ o: inout InlineArray<R, Floats>
  ) {
    var p = p
    var ahead = ahead
    var cursor = cursor
    for _ in 0..<blocks {
      setSixBitScales(p, stride, tile, 0)
      for j in 0..<4 {
        prefetchLines(ahead, 9)
        let q = columns32(p + 16 + 32 * j, stride)
        let at = 2 * j * tileRows
        cursor.step(Q4_K.self, halves(q, 0), load(tile.scales + at), load(tile.minimums + at), &o)
        cursor.step(
          Q4_K.self, halves(q, 4), load(tile.scales + at + tileRows), load(tile.minimums + at + tileRows), &o)
        ahead += 36 * tileRows
      }
      p += 144
    }
  }
}

extension Q5_K: DirectKind {
  static var directRows: Int { 8 }
  @inline(__always) static func direct<let R: Int>(
    _ p: UnsafeRawPointer, _ stride: Int, blocks: Int, _ cursor: DirectCursor<R>, _ ahead: UnsafeRawPointer,
    _ tile: Tile, _ o: inout InlineArray<R, Floats>
  ) {
    var p = p
    var ahead = ahead
    var cursor = cursor
    let bit = splat(0x10)
    for _ in 0..<blocks {
      setSixBitScales(p, stride, tile, 0)
      // The fifth bits serve all four quarters; they wait in L1, moved up by 4: bit 2j of a quarter is then at 2j + 4.
      tile.set(0, columns32(p + 16, stride))
      for j in 0..<4 {
        prefetchLines(ahead, 11)
        let q = columns32(p + 48 + 32 * j, stride)
        let at = 2 * j * tileRows
        for half in 0..<2 {
          var w = halves(q, half == 0 ? 0 : 4)
          let shift = Int32(2 * j + half)
          unrolled8 { c in
            let high: Dwords = load(tile.values + 64 * c)
            w[c] = w[c] | left(right(high, shift), 4) & bit
          }
          let n = at + half * tileRows
          cursor.step(Q5_K.self, w, load(tile.scales + n), load(tile.minimums + n), &o)
        }
        ahead += 44 * tileRows
      }
      p += 176
    }
  }
}

extension DirectCursor {
  /// Sixteen of each of four runs of 32 weights: run `i` has columns 4i ..< 4i + 4 of `w`, scale `scales[2i]`; `half` says
  /// which sixteen. Adds acc · D to `t[i]`.
  @inline(__always) func halfStep<Kind: BlockKind>(
    _: Kind.Type, half: Int, _ w: InlineArray<16, Dwords>, _ scales: UnsafePointer<Float>,
    _ t: inout InlineArray<4, InlineArray<R, Floats>>
  ) {
    unrolled4 { i in
      var acc = zeros(InlineArray<R, Ints>.self)
      if Kind.offset != 0 {
        let offsets = (aux + (2 * i + half) * 4 * R).assumingMemoryBound(to: Int32.self)
        for m in 0..<R { acc[m] = csimd_splat_int(offsets + m) }
      }
      if compiledLevel == 3 {
        halfDotIn16Bits(Kind.self, w, 4 * i, values + 4 * (8 * i + 4 * half) * R, &acc)
      } else {
        unrolled4 { j in
          let column = unsafeBitCast(w[4 * i + j], to: Bytes64.self)
          for m in 0..<R { acc[m] = csimd_dot4(acc[m], column, values + 4 * ((8 * i + 4 * half + j) * R + m)) }
        }
      }
      let d: Floats = load(scales + (2 * i + half) * tileRows)
      for m in 0..<R {
        let x = csimd_int_to_float(acc[m])
        t[i][m] = half == 0 ? x * d : csimd_fma(x, d, t[i][m])
      }
    }
  }

  /// `o += t · s (+ M · (s·Σa))` for four runs of 32 weights; then the next 128 k.
  @inline(__always) mutating func finishSteps<Kind: BlockKind>(
    _: Kind.Type, _ t: InlineArray<4, InlineArray<R, Floats>>, _ minimums: UnsafePointer<Float>,
    _ o: inout InlineArray<R, Floats>
  ) {
    unrolled4 { i in
      for m in 0..<R { o[m] = csimd_fma(t[i][m], csimd_splat_float(scales + i * R + m), o[m]) }
      if Kind.isAffine {
        let sums = aux.assumingMemoryBound(to: Float.self) + 2 * i * R
        let offset0: Floats = load(minimums + 2 * i * tileRows)
        let offset1: Floats = load(minimums + (2 * i + 1) * tileRows)
        for m in 0..<R {
          o[m] = csimd_fma(offset0, csimd_splat_float(sums + m), o[m])
          o[m] = csimd_fma(offset1, csimd_splat_float(sums + R + m), o[m])
        }
      }
    }
    values += 128 * R
    scales += 4 * R
    aux += 4 * R * 8
  }
}

extension Q6_K: DirectKind {
  static var directRows: Int { 2 }
  @inline(__always) static func direct<let R: Int>(
    _ p: UnsafeRawPointer, _ stride: Int, blocks: Int, _ cursor: DirectCursor<R>, _ ahead: UnsafeRawPointer,
    _ tile: Tile, _ o: inout InlineArray<R, Floats>
  ) {
    var p = p
    var ahead = ahead
    var cursor = cursor
    for _ in 0..<blocks {
      unpackScales(p, stride, tile, 0)
      for n in 0..<2 {
        var t = zeros(InlineArray<4, InlineArray<R, Floats>>.self)
        unrolled2 { half in
          prefetchLines(ahead, 14)
          ahead += 840
          let a = loadColumns(p + 64 * n + 16 * half, stride)
          let b = loadColumns(p + 64 * n + 32 + 16 * half, stride)
          let h = loadColumns(p + 128 + 32 * n + 16 * half, stride)
          let low: InlineArray<8, Dwords> = [a.c0, a.c1, a.c2, a.c3, b.c0, b.c1, b.c2, b.c3]
          let high: InlineArray<4, Dwords> = [h.c0, h.c1, h.c2, h.c3]
          var w = zeros(InlineArray<16, Dwords>.self)
          let mask = splat(0x0f)
          let top = splat(0x30)
          unrolled4 { c in
            w[c] = low[c] & mask | left(high[c], 4) & top
            w[4 + c] = low[4 + c] & mask | left(high[c], 2) & top
            w[8 + c] = right(low[c], 4) & mask | high[c] & top
            w[12 + c] = right(low[4 + c], 4) & mask | right(high[c], 2) & top
          }
          cursor.halfStep(Q6_K.self, half: half, w, tile.scales + 8 * n * tileRows, &t)
        }
        cursor.finishSteps(Q6_K.self, t, tile.minimums, &o)
      }
      p += 210
    }
  }
}

extension Q3_K: DirectKind {
  static var directRows: Int { 2 }
  @inline(__always) static func direct<let R: Int>(
    _ p: UnsafeRawPointer, _ stride: Int, blocks: Int, _ cursor: DirectCursor<R>, _ ahead: UnsafeRawPointer,
    _ tile: Tile, _ o: inout InlineArray<R, Floats>
  ) {
    var p = p
    var ahead = ahead
    var cursor = cursor
    for _ in 0..<blocks {
      unpackScales(p, stride, tile, 0)
      for n in 0..<2 {
        var t = zeros(InlineArray<4, InlineArray<R, Floats>>.self)
        unrolled2 { half in
          prefetchLines(ahead, 7)
          ahead += 440
          let a = loadColumns(p + 32 + 32 * n + 16 * half, stride)
          let h = loadColumns(p + 16 * half, stride)
          let low: InlineArray<4, Dwords> = [a.c0, a.c1, a.c2, a.c3]
          let high: InlineArray<4, Dwords> = [h.c0, h.c1, h.c2, h.c3]
          var w = zeros(InlineArray<16, Dwords>.self)
          unrolled4 { j in
            unrolled4 { c in
              w[4 * j + c] =
                right(low[c], Int32(2 * j)) & splat(3) | left(right(high[c], Int32(4 * n + j)) & splat(1), 2)
            }
          }
          cursor.halfStep(Q3_K.self, half: half, w, tile.scales + 8 * n * tileRows, &t)
        }
        cursor.finishSteps(Q3_K.self, t, tile.minimums, &o)
      }
      p += 110
    }
  }
}

extension Q2_K: DirectKind {
  static var directRows: Int { 2 }
  @inline(__always) static func direct<let R: Int>(
    _ p: UnsafeRawPointer, _ stride: Int, blocks: Int, _ cursor: DirectCursor<R>, _ ahead: UnsafeRawPointer,
    _ tile: Tile, _ o: inout InlineArray<R, Floats>
  ) {
    var p = p
    var ahead = ahead
    var cursor = cursor
    for _ in 0..<blocks {
      unpackScales(p, stride, tile, 0)
      for n in 0..<2 {
        var t = zeros(InlineArray<4, InlineArray<R, Floats>>.self)
        unrolled2 { half in
          prefetchLines(ahead, 6)
          ahead += 336
          let a = loadColumns(p + 16 + 32 * n + 16 * half, stride)
          let low: InlineArray<4, Dwords> = [a.c0, a.c1, a.c2, a.c3]
          var w = zeros(InlineArray<16, Dwords>.self)
          unrolled4 { j in unrolled4 { c in w[4 * j + c] = right(low[c], Int32(2 * j)) & splat(3) } }
          cursor.halfStep(Q2_K.self, half: half, w, tile.scales + 8 * n * tileRows, &t)
        }
        cursor.finishSteps(Q2_K.self, t, tile.minimums + 8 * n * tileRows, &o)
      }
      p += 84
    }
  }
}
