import CSIMD

// Outer-product tiles that live in registers: the inner loop of the f32 GEMM and of both products of attention. Each
// accumulator is one chain over the steps, so that an element's bits depend neither on its place in the tile nor on the
// tile's shape. The members are written out because an array would not stay in registers.

/// Up to 12 rows × 2 vectors of 16 columns.
struct Tile12x2 {
  var c0_0 = V16.zero, c0_1 = V16.zero
  var c1_0 = V16.zero, c1_1 = V16.zero
  var c2_0 = V16.zero, c2_1 = V16.zero
  var c3_0 = V16.zero, c3_1 = V16.zero
  var c4_0 = V16.zero, c4_1 = V16.zero
  var c5_0 = V16.zero, c5_1 = V16.zero
  var c6_0 = V16.zero, c6_1 = V16.zero
  var c7_0 = V16.zero, c7_1 = V16.zero
  var c8_0 = V16.zero, c8_1 = V16.zero
  var c9_0 = V16.zero, c9_1 = V16.zero
  var c10_0 = V16.zero, c10_1 = V16.zero
  var c11_0 = V16.zero, c11_1 = V16.zero

  /// Adds `steps` outer products: row r gets `a[r · rowA + s · stepA]` times the vectors at `b0 + s · stepB`, ….
  /// `rows`, `vectors`, `rowA` and `load` must be constants at the call: they choose the code.
  @inline(__always) mutating func accumulate(
    rows: Int, vectors: Int, steps: Int, a: UnsafePointer<Float>, rowA: Int, stepA: Int, _ b0: UnsafeRawPointer,
    _ b1: UnsafeRawPointer, stepB: Int,
    _ load: (UnsafeRawPointer) -> V16
  ) {
    var a = a
    var offset = 0
    for _ in 0..<steps {
      let v0 = load(b0 + offset)
      let v1 = vectors > 1 ? load(b1 + offset) : v0
      let x = V16(repeating: a[0])
      c0_0 = fma(c0_0, x, v0)
      if vectors > 1 { c0_1 = fma(c0_1, x, v1) }
      if rows > 1 {
        let x = V16(repeating: a[1 * rowA])
        c1_0 = fma(c1_0, x, v0)
        if vectors > 1 { c1_1 = fma(c1_1, x, v1) }
      }
      if rows > 2 {
        let x = V16(repeating: a[2 * rowA])
        c2_0 = fma(c2_0, x, v0)
        if vectors > 1 { c2_1 = fma(c2_1, x, v1) }
      }
      if rows > 3 {
        let x = V16(repeating: a[3 * rowA])
        c3_0 = fma(c3_0, x, v0)
        if vectors > 1 { c3_1 = fma(c3_1, x, v1) }
      }
      if rows > 4 {
        let x = V16(repeating: a[4 * rowA])
        c4_0 = fma(c4_0, x, v0)
        if vectors > 1 { c4_1 = fma(c4_1, x, v1) }
      }
      if rows > 5 {
        let x = V16(repeating: a[5 * rowA])
        c5_0 = fma(c5_0, x, v0)
        if vectors > 1 { c5_1 = fma(c5_1, x, v1) }
      }
      if rows > 6 {
        let x = V16(repeating: a[6 * rowA])
        c6_0 = fma(c6_0, x, v0)
        if vectors > 1 { c6_1 = fma(c6_1, x, v1) }
      }
      if rows > 7 {
        let x = V16(repeating: a[7 * rowA])
        c7_0 = fma(c7_0, x, v0)
        if vectors > 1 { c7_1 = fma(c7_1, x, v1) }
      }
      if rows > 8 {
        let x = V16(repeating: a[8 * rowA])
        c8_0 = fma(c8_0, x, v0)
        if vectors > 1 { c8_1 = fma(c8_1, x, v1) }
      }
      if rows > 9 {
        let x = V16(repeating: a[9 * rowA])
        c9_0 = fma(c9_0, x, v0)
        if vectors > 1 { c9_1 = fma(c9_1, x, v1) }
      }
      if rows > 10 {
        let x = V16(repeating: a[10 * rowA])
        c10_0 = fma(c10_0, x, v0)
        if vectors > 1 { c10_1 = fma(c10_1, x, v1) }
      }
      if rows > 11 {
        let x = V16(repeating: a[11 * rowA])
        c11_0 = fma(c11_0, x, v0)
        if vectors > 1 { c11_1 = fma(c11_1, x, v1) }
      }
      a += stepA
      offset += stepB
    }
  }

  /// Starts from `scales[r]` times row r of `p`, whose rows are `stride` floats apart; vector j lies 16·min(j, last) floats
  /// into a row.
  @inline(__always) mutating func load(
    rows: Int, vectors: Int, from p: UnsafePointer<Float>, stride: Int, last: Int, scales: UnsafePointer<Float>
  ) {
    c0_0 = scales[0] * load16(p + 0 * stride)
    if vectors > 1 { c0_1 = scales[0] * load16(p + 0 * stride + 16 * min(1, last)) }
    if rows > 1 {
      c1_0 = scales[1] * load16(p + 1 * stride)
      if vectors > 1 { c1_1 = scales[1] * load16(p + 1 * stride + 16 * min(1, last)) }
    }
    if rows > 2 {
      c2_0 = scales[2] * load16(p + 2 * stride)
      if vectors > 1 { c2_1 = scales[2] * load16(p + 2 * stride + 16 * min(1, last)) }
    }
    if rows > 3 {
      c3_0 = scales[3] * load16(p + 3 * stride)
      if vectors > 1 { c3_1 = scales[3] * load16(p + 3 * stride + 16 * min(1, last)) }
    }
    if rows > 4 {
      c4_0 = scales[4] * load16(p + 4 * stride)
      if vectors > 1 { c4_1 = scales[4] * load16(p + 4 * stride + 16 * min(1, last)) }
    }
    if rows > 5 {
      c5_0 = scales[5] * load16(p + 5 * stride)
      if vectors > 1 { c5_1 = scales[5] * load16(p + 5 * stride + 16 * min(1, last)) }
    }
    if rows > 6 {
      c6_0 = scales[6] * load16(p + 6 * stride)
      if vectors > 1 { c6_1 = scales[6] * load16(p + 6 * stride + 16 * min(1, last)) }
    }
    if rows > 7 {
      c7_0 = scales[7] * load16(p + 7 * stride)
      if vectors > 1 { c7_1 = scales[7] * load16(p + 7 * stride + 16 * min(1, last)) }
    }
    if rows > 8 {
      c8_0 = scales[8] * load16(p + 8 * stride)
      if vectors > 1 { c8_1 = scales[8] * load16(p + 8 * stride + 16 * min(1, last)) }
    }
    if rows > 9 {
      c9_0 = scales[9] * load16(p + 9 * stride)
      if vectors > 1 { c9_1 = scales[9] * load16(p + 9 * stride + 16 * min(1, last)) }
    }
    if rows > 10 {
      c10_0 = scales[10] * load16(p + 10 * stride)
      if vectors > 1 { c10_1 = scales[10] * load16(p + 10 * stride + 16 * min(1, last)) }
    }
    if rows > 11 {
      c11_0 = scales[11] * load16(p + 11 * stride)
      if vectors > 1 { c11_1 = scales[11] * load16(p + 11 * stride + 16 * min(1, last)) }
    }
  }

  /// Stores the vectors 0…last of each row to `p`, whose rows are `stride` floats apart.
  @inline(__always) func store(
    rows: Int, vectors: Int, to p: UnsafeMutablePointer<Float>, stride: Int, last: Int
  ) {
    store16(p + 0 * stride + 0, c0_0)
    if rows > 1 { store16(p + 1 * stride + 0, c1_0) }
    if rows > 2 { store16(p + 2 * stride + 0, c2_0) }
    if rows > 3 { store16(p + 3 * stride + 0, c3_0) }
    if rows > 4 { store16(p + 4 * stride + 0, c4_0) }
    if rows > 5 { store16(p + 5 * stride + 0, c5_0) }
    if rows > 6 { store16(p + 6 * stride + 0, c6_0) }
    if rows > 7 { store16(p + 7 * stride + 0, c7_0) }
    if rows > 8 { store16(p + 8 * stride + 0, c8_0) }
    if rows > 9 { store16(p + 9 * stride + 0, c9_0) }
    if rows > 10 { store16(p + 10 * stride + 0, c10_0) }
    if rows > 11 { store16(p + 11 * stride + 0, c11_0) }
    if vectors > 1 && last >= 1 {
      store16(p + 0 * stride + 16, c0_1)
      if rows > 1 { store16(p + 1 * stride + 16, c1_1) }
      if rows > 2 { store16(p + 2 * stride + 16, c2_1) }
      if rows > 3 { store16(p + 3 * stride + 16, c3_1) }
      if rows > 4 { store16(p + 4 * stride + 16, c4_1) }
      if rows > 5 { store16(p + 5 * stride + 16, c5_1) }
      if rows > 6 { store16(p + 6 * stride + 16, c6_1) }
      if rows > 7 { store16(p + 7 * stride + 16, c7_1) }
      if rows > 8 { store16(p + 8 * stride + 16, c8_1) }
      if rows > 9 { store16(p + 9 * stride + 16, c9_1) }
      if rows > 10 { store16(p + 10 * stride + 16, c10_1) }
      if rows > 11 { store16(p + 11 * stride + 16, c11_1) }
    }
  }

  /// `C = keep · C + alpha · accumulator` on whole vectors; with `keep` 0, C is not read.
  @inline(__always) func update(
    rows: Int, vectors: Int, _ p: UnsafeMutablePointer<Float>, stride: Int, keep: Float, alpha: Float
  ) {
    let (keep, alpha) = (V16(repeating: keep), V16(repeating: alpha))
    if keep[0] == 0 {
      store16(p + 0 * stride + 0, alpha * c0_0)
      if vectors > 1 { store16(p + 0 * stride + 16, alpha * c0_1) }
      if rows > 1 {
        store16(p + 1 * stride + 0, alpha * c1_0)
        if vectors > 1 { store16(p + 1 * stride + 16, alpha * c1_1) }
      }
      if rows > 2 {
        store16(p + 2 * stride + 0, alpha * c2_0)
        if vectors > 1 { store16(p + 2 * stride + 16, alpha * c2_1) }
      }
      if rows > 3 {
        store16(p + 3 * stride + 0, alpha * c3_0)
        if vectors > 1 { store16(p + 3 * stride + 16, alpha * c3_1) }
      }
      if rows > 4 {
        store16(p + 4 * stride + 0, alpha * c4_0)
        if vectors > 1 { store16(p + 4 * stride + 16, alpha * c4_1) }
      }
      if rows > 5 {
        store16(p + 5 * stride + 0, alpha * c5_0)
        if vectors > 1 { store16(p + 5 * stride + 16, alpha * c5_1) }
      }
      if rows > 6 {
        store16(p + 6 * stride + 0, alpha * c6_0)
        if vectors > 1 { store16(p + 6 * stride + 16, alpha * c6_1) }
      }
      if rows > 7 {
        store16(p + 7 * stride + 0, alpha * c7_0)
        if vectors > 1 { store16(p + 7 * stride + 16, alpha * c7_1) }
      }
      if rows > 8 {
        store16(p + 8 * stride + 0, alpha * c8_0)
        if vectors > 1 { store16(p + 8 * stride + 16, alpha * c8_1) }
      }
      if rows > 9 {
        store16(p + 9 * stride + 0, alpha * c9_0)
        if vectors > 1 { store16(p + 9 * stride + 16, alpha * c9_1) }
      }
      if rows > 10 {
        store16(p + 10 * stride + 0, alpha * c10_0)
        if vectors > 1 { store16(p + 10 * stride + 16, alpha * c10_1) }
      }
      if rows > 11 {
        store16(p + 11 * stride + 0, alpha * c11_0)
        if vectors > 1 { store16(p + 11 * stride + 16, alpha * c11_1) }
      }
    } else {
      store16(p + 0 * stride + 0, fma(keep * load16(p + 0 * stride + 0), alpha, c0_0))
      if vectors > 1 { store16(p + 0 * stride + 16, fma(keep * load16(p + 0 * stride + 16), alpha, c0_1)) }
      if rows > 1 {
        store16(p + 1 * stride + 0, fma(keep * load16(p + 1 * stride + 0), alpha, c1_0))
        if vectors > 1 { store16(p + 1 * stride + 16, fma(keep * load16(p + 1 * stride + 16), alpha, c1_1)) }
      }
      if rows > 2 {
        store16(p + 2 * stride + 0, fma(keep * load16(p + 2 * stride + 0), alpha, c2_0))
        if vectors > 1 { store16(p + 2 * stride + 16, fma(keep * load16(p + 2 * stride + 16), alpha, c2_1)) }
      }
      if rows > 3 {
        store16(p + 3 * stride + 0, fma(keep * load16(p + 3 * stride + 0), alpha, c3_0))
        if vectors > 1 { store16(p + 3 * stride + 16, fma(keep * load16(p + 3 * stride + 16), alpha, c3_1)) }
      }
      if rows > 4 {
        store16(p + 4 * stride + 0, fma(keep * load16(p + 4 * stride + 0), alpha, c4_0))
        if vectors > 1 { store16(p + 4 * stride + 16, fma(keep * load16(p + 4 * stride + 16), alpha, c4_1)) }
      }
      if rows > 5 {
        store16(p + 5 * stride + 0, fma(keep * load16(p + 5 * stride + 0), alpha, c5_0))
        if vectors > 1 { store16(p + 5 * stride + 16, fma(keep * load16(p + 5 * stride + 16), alpha, c5_1)) }
      }
      if rows > 6 {
        store16(p + 6 * stride + 0, fma(keep * load16(p + 6 * stride + 0), alpha, c6_0))
        if vectors > 1 { store16(p + 6 * stride + 16, fma(keep * load16(p + 6 * stride + 16), alpha, c6_1)) }
      }
      if rows > 7 {
        store16(p + 7 * stride + 0, fma(keep * load16(p + 7 * stride + 0), alpha, c7_0))
        if vectors > 1 { store16(p + 7 * stride + 16, fma(keep * load16(p + 7 * stride + 16), alpha, c7_1)) }
      }
      if rows > 8 {
        store16(p + 8 * stride + 0, fma(keep * load16(p + 8 * stride + 0), alpha, c8_0))
        if vectors > 1 { store16(p + 8 * stride + 16, fma(keep * load16(p + 8 * stride + 16), alpha, c8_1)) }
      }
      if rows > 9 {
        store16(p + 9 * stride + 0, fma(keep * load16(p + 9 * stride + 0), alpha, c9_0))
        if vectors > 1 { store16(p + 9 * stride + 16, fma(keep * load16(p + 9 * stride + 16), alpha, c9_1)) }
      }
      if rows > 10 {
        store16(p + 10 * stride + 0, fma(keep * load16(p + 10 * stride + 0), alpha, c10_0))
        if vectors > 1 { store16(p + 10 * stride + 16, fma(keep * load16(p + 10 * stride + 16), alpha, c10_1)) }
      }
      if rows > 11 {
        store16(p + 11 * stride + 0, fma(keep * load16(p + 11 * stride + 0), alpha, c11_0))
        if vectors > 1 { store16(p + 11 * stride + 16, fma(keep * load16(p + 11 * stride + 16), alpha, c11_1)) }
      }
    }
  }
}

/// Up to 6 rows × 4 vectors of 16 columns.
struct Tile6x4 {
  var c0_0 = V16.zero, c0_1 = V16.zero, c0_2 = V16.zero, c0_3 = V16.zero
  var c1_0 = V16.zero, c1_1 = V16.zero, c1_2 = V16.zero, c1_3 = V16.zero
  var c2_0 = V16.zero, c2_1 = V16.zero, c2_2 = V16.zero, c2_3 = V16.zero
  var c3_0 = V16.zero, c3_1 = V16.zero, c3_2 = V16.zero, c3_3 = V16.zero
  var c4_0 = V16.zero, c4_1 = V16.zero, c4_2 = V16.zero, c4_3 = V16.zero
  var c5_0 = V16.zero, c5_1 = V16.zero, c5_2 = V16.zero, c5_3 = V16.zero

  /// Adds `steps` outer products: row r gets `a[r · rowA + s · stepA]` times the vectors at `b0 + s · stepB`, ….
  /// `rows`, `vectors`, `rowA` and `load` must be constants at the call: they choose the code.
  @inline(__always) mutating func accumulate(
    rows: Int, vectors: Int, steps: Int, a: UnsafePointer<Float>, rowA: Int, stepA: Int, _ b0: UnsafeRawPointer,
    _ b1: UnsafeRawPointer, _ b2: UnsafeRawPointer, _ b3: UnsafeRawPointer, stepB: Int,
    _ load: (UnsafeRawPointer) -> V16
  ) {
    var a = a
    var offset = 0
    for _ in 0..<steps {
      let v0 = load(b0 + offset)
      let v1 = vectors > 1 ? load(b1 + offset) : v0
      let v2 = vectors > 2 ? load(b2 + offset) : v0
      let v3 = vectors > 3 ? load(b3 + offset) : v0
      let x = V16(repeating: a[0])
      c0_0 = fma(c0_0, x, v0)
      if vectors > 1 { c0_1 = fma(c0_1, x, v1) }
      if vectors > 2 { c0_2 = fma(c0_2, x, v2) }
      if vectors > 3 { c0_3 = fma(c0_3, x, v3) }
      if rows > 1 {
        let x = V16(repeating: a[1 * rowA])
        c1_0 = fma(c1_0, x, v0)
        if vectors > 1 { c1_1 = fma(c1_1, x, v1) }
        if vectors > 2 { c1_2 = fma(c1_2, x, v2) }
        if vectors > 3 { c1_3 = fma(c1_3, x, v3) }
      }
      if rows > 2 {
        let x = V16(repeating: a[2 * rowA])
        c2_0 = fma(c2_0, x, v0)
        if vectors > 1 { c2_1 = fma(c2_1, x, v1) }
        if vectors > 2 { c2_2 = fma(c2_2, x, v2) }
        if vectors > 3 { c2_3 = fma(c2_3, x, v3) }
      }
      if rows > 3 {
        let x = V16(repeating: a[3 * rowA])
        c3_0 = fma(c3_0, x, v0)
        if vectors > 1 { c3_1 = fma(c3_1, x, v1) }
        if vectors > 2 { c3_2 = fma(c3_2, x, v2) }
        if vectors > 3 { c3_3 = fma(c3_3, x, v3) }
      }
      if rows > 4 {
        let x = V16(repeating: a[4 * rowA])
        c4_0 = fma(c4_0, x, v0)
        if vectors > 1 { c4_1 = fma(c4_1, x, v1) }
        if vectors > 2 { c4_2 = fma(c4_2, x, v2) }
        if vectors > 3 { c4_3 = fma(c4_3, x, v3) }
      }
      if rows > 5 {
        let x = V16(repeating: a[5 * rowA])
        c5_0 = fma(c5_0, x, v0)
        if vectors > 1 { c5_1 = fma(c5_1, x, v1) }
        if vectors > 2 { c5_2 = fma(c5_2, x, v2) }
        if vectors > 3 { c5_3 = fma(c5_3, x, v3) }
      }
      a += stepA
      offset += stepB
    }
  }

  /// Starts from `scales[r]` times row r of `p`, whose rows are `stride` floats apart; vector j lies 16·min(j, last) floats
  /// into a row.
  @inline(__always) mutating func load(
    rows: Int, vectors: Int, from p: UnsafePointer<Float>, stride: Int, last: Int, scales: UnsafePointer<Float>
  ) {
    c0_0 = scales[0] * load16(p + 0 * stride)
    if vectors > 1 { c0_1 = scales[0] * load16(p + 0 * stride + 16 * min(1, last)) }
    if vectors > 2 { c0_2 = scales[0] * load16(p + 0 * stride + 16 * min(2, last)) }
    if vectors > 3 { c0_3 = scales[0] * load16(p + 0 * stride + 16 * min(3, last)) }
    if rows > 1 {
      c1_0 = scales[1] * load16(p + 1 * stride)
      if vectors > 1 { c1_1 = scales[1] * load16(p + 1 * stride + 16 * min(1, last)) }
      if vectors > 2 { c1_2 = scales[1] * load16(p + 1 * stride + 16 * min(2, last)) }
      if vectors > 3 { c1_3 = scales[1] * load16(p + 1 * stride + 16 * min(3, last)) }
    }
    if rows > 2 {
      c2_0 = scales[2] * load16(p + 2 * stride)
      if vectors > 1 { c2_1 = scales[2] * load16(p + 2 * stride + 16 * min(1, last)) }
      if vectors > 2 { c2_2 = scales[2] * load16(p + 2 * stride + 16 * min(2, last)) }
      if vectors > 3 { c2_3 = scales[2] * load16(p + 2 * stride + 16 * min(3, last)) }
    }
    if rows > 3 {
      c3_0 = scales[3] * load16(p + 3 * stride)
      if vectors > 1 { c3_1 = scales[3] * load16(p + 3 * stride + 16 * min(1, last)) }
      if vectors > 2 { c3_2 = scales[3] * load16(p + 3 * stride + 16 * min(2, last)) }
      if vectors > 3 { c3_3 = scales[3] * load16(p + 3 * stride + 16 * min(3, last)) }
    }
    if rows > 4 {
      c4_0 = scales[4] * load16(p + 4 * stride)
      if vectors > 1 { c4_1 = scales[4] * load16(p + 4 * stride + 16 * min(1, last)) }
      if vectors > 2 { c4_2 = scales[4] * load16(p + 4 * stride + 16 * min(2, last)) }
      if vectors > 3 { c4_3 = scales[4] * load16(p + 4 * stride + 16 * min(3, last)) }
    }
    if rows > 5 {
      c5_0 = scales[5] * load16(p + 5 * stride)
      if vectors > 1 { c5_1 = scales[5] * load16(p + 5 * stride + 16 * min(1, last)) }
      if vectors > 2 { c5_2 = scales[5] * load16(p + 5 * stride + 16 * min(2, last)) }
      if vectors > 3 { c5_3 = scales[5] * load16(p + 5 * stride + 16 * min(3, last)) }
    }
  }

  /// Stores the vectors 0…last of each row to `p`, whose rows are `stride` floats apart.
  @inline(__always) func store(
    rows: Int, vectors: Int, to p: UnsafeMutablePointer<Float>, stride: Int, last: Int
  ) {
    store16(p + 0 * stride + 0, c0_0)
    if rows > 1 { store16(p + 1 * stride + 0, c1_0) }
    if rows > 2 { store16(p + 2 * stride + 0, c2_0) }
    if rows > 3 { store16(p + 3 * stride + 0, c3_0) }
    if rows > 4 { store16(p + 4 * stride + 0, c4_0) }
    if rows > 5 { store16(p + 5 * stride + 0, c5_0) }
    if vectors > 1 && last >= 1 {
      store16(p + 0 * stride + 16, c0_1)
      if rows > 1 { store16(p + 1 * stride + 16, c1_1) }
      if rows > 2 { store16(p + 2 * stride + 16, c2_1) }
      if rows > 3 { store16(p + 3 * stride + 16, c3_1) }
      if rows > 4 { store16(p + 4 * stride + 16, c4_1) }
      if rows > 5 { store16(p + 5 * stride + 16, c5_1) }
    }
    if vectors > 2 && last >= 2 {
      store16(p + 0 * stride + 32, c0_2)
      if rows > 1 { store16(p + 1 * stride + 32, c1_2) }
      if rows > 2 { store16(p + 2 * stride + 32, c2_2) }
      if rows > 3 { store16(p + 3 * stride + 32, c3_2) }
      if rows > 4 { store16(p + 4 * stride + 32, c4_2) }
      if rows > 5 { store16(p + 5 * stride + 32, c5_2) }
    }
    if vectors > 3 && last >= 3 {
      store16(p + 0 * stride + 48, c0_3)
      if rows > 1 { store16(p + 1 * stride + 48, c1_3) }
      if rows > 2 { store16(p + 2 * stride + 48, c2_3) }
      if rows > 3 { store16(p + 3 * stride + 48, c3_3) }
      if rows > 4 { store16(p + 4 * stride + 48, c4_3) }
      if rows > 5 { store16(p + 5 * stride + 48, c5_3) }
    }
  }
}
