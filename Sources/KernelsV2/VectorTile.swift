import CSIMD
import KernelInterface

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
  /// `rows`, `vectors`, `kind`, `rowA` and `stepA` must be constants at the call: they choose the code.
  @inline(__always) mutating func accumulate(
    rows: Int, vectors: Int, kind: DType, steps: Int, a: UnsafePointer<Float>, rowA: Int, stepA: Int,
    _ b0: UnsafeRawPointer, _ b1: UnsafeRawPointer, stepB: Int
  ) {
    var a = a
    var offset = 0
    for _ in 0..<steps {
      let v0 = loadDense16(kind, b0 + offset)
      let v1 = vectors > 1 ? loadDense16(kind, b1 + offset) : v0
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

  /// Calls `body(row, vector, &accumulator)` for each of `rows` × `vectors` (constants) in turn.
  @inline(__always) mutating func forEach(rows: Int, vectors: Int, _ body: (Int, Int, inout V16) -> Void) {
    body(0, 0, &c0_0)
    if vectors > 1 { body(0, 1, &c0_1) }
    if rows > 1 {
      body(1, 0, &c1_0)
      if vectors > 1 { body(1, 1, &c1_1) }
    }
    if rows > 2 {
      body(2, 0, &c2_0)
      if vectors > 1 { body(2, 1, &c2_1) }
    }
    if rows > 3 {
      body(3, 0, &c3_0)
      if vectors > 1 { body(3, 1, &c3_1) }
    }
    if rows > 4 {
      body(4, 0, &c4_0)
      if vectors > 1 { body(4, 1, &c4_1) }
    }
    if rows > 5 {
      body(5, 0, &c5_0)
      if vectors > 1 { body(5, 1, &c5_1) }
    }
    if rows > 6 {
      body(6, 0, &c6_0)
      if vectors > 1 { body(6, 1, &c6_1) }
    }
    if rows > 7 {
      body(7, 0, &c7_0)
      if vectors > 1 { body(7, 1, &c7_1) }
    }
    if rows > 8 {
      body(8, 0, &c8_0)
      if vectors > 1 { body(8, 1, &c8_1) }
    }
    if rows > 9 {
      body(9, 0, &c9_0)
      if vectors > 1 { body(9, 1, &c9_1) }
    }
    if rows > 10 {
      body(10, 0, &c10_0)
      if vectors > 1 { body(10, 1, &c10_1) }
    }
    if rows > 11 {
      body(11, 0, &c11_0)
      if vectors > 1 { body(11, 1, &c11_1) }
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
  /// `rows`, `vectors`, `kind`, `rowA` and `stepA` must be constants at the call: they choose the code.
  @inline(__always) mutating func accumulate(
    rows: Int, vectors: Int, kind: DType, steps: Int, a: UnsafePointer<Float>, rowA: Int, stepA: Int,
    _ b0: UnsafeRawPointer, _ b1: UnsafeRawPointer, _ b2: UnsafeRawPointer, _ b3: UnsafeRawPointer, stepB: Int
  ) {
    var a = a
    var offset = 0
    for _ in 0..<steps {
      let v0 = loadDense16(kind, b0 + offset)
      let v1 = vectors > 1 ? loadDense16(kind, b1 + offset) : v0
      let v2 = vectors > 2 ? loadDense16(kind, b2 + offset) : v0
      let v3 = vectors > 3 ? loadDense16(kind, b3 + offset) : v0
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

  /// Calls `body(row, vector, &accumulator)` for each of `rows` × `vectors` (constants) in turn.
  @inline(__always) mutating func forEach(rows: Int, vectors: Int, _ body: (Int, Int, inout V16) -> Void) {
    body(0, 0, &c0_0)
    if vectors > 1 { body(0, 1, &c0_1) }
    if vectors > 2 { body(0, 2, &c0_2) }
    if vectors > 3 { body(0, 3, &c0_3) }
    if rows > 1 {
      body(1, 0, &c1_0)
      if vectors > 1 { body(1, 1, &c1_1) }
      if vectors > 2 { body(1, 2, &c1_2) }
      if vectors > 3 { body(1, 3, &c1_3) }
    }
    if rows > 2 {
      body(2, 0, &c2_0)
      if vectors > 1 { body(2, 1, &c2_1) }
      if vectors > 2 { body(2, 2, &c2_2) }
      if vectors > 3 { body(2, 3, &c2_3) }
    }
    if rows > 3 {
      body(3, 0, &c3_0)
      if vectors > 1 { body(3, 1, &c3_1) }
      if vectors > 2 { body(3, 2, &c3_2) }
      if vectors > 3 { body(3, 3, &c3_3) }
    }
    if rows > 4 {
      body(4, 0, &c4_0)
      if vectors > 1 { body(4, 1, &c4_1) }
      if vectors > 2 { body(4, 2, &c4_2) }
      if vectors > 3 { body(4, 3, &c4_3) }
    }
    if rows > 5 {
      body(5, 0, &c5_0)
      if vectors > 1 { body(5, 1, &c5_1) }
      if vectors > 2 { body(5, 2, &c5_2) }
      if vectors > 3 { body(5, 3, &c5_3) }
    }
  }
}
