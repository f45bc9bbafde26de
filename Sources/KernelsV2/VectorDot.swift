import CSIMD
import KernelInterface

// Dot-product tiles that live in registers: the inner loop of x·Wᵀ, where both operands run along k. A lane holds the sum
// of every 16th (8th) k, so that one row alone and a row among many add in the same order and give the same bits.

@inline(__always) func store8(_ p: UnsafeMutablePointer<Float>, _ v: SIMD8<Float>) {
  UnsafeMutableRawPointer(p).storeBytes(of: v, as: SIMD8<Float>.self)
}

@inline(__always) func load8(_ p: UnsafePointer<Float>) -> SIMD8<Float> {
  UnsafeRawPointer(p).loadUnaligned(as: SIMD8<Float>.self)
}

/// 8 weight rows × 3 rows of x, 16 lanes: 24 of v4's 32 registers.
struct DotTile8x3 {
  var a0_0 = V16.zero, a0_1 = V16.zero, a0_2 = V16.zero, a0_3 = V16.zero, a0_4 = V16.zero, a0_5 = V16.zero,
    a0_6 = V16.zero, a0_7 = V16.zero
  var a1_0 = V16.zero, a1_1 = V16.zero, a1_2 = V16.zero, a1_3 = V16.zero, a1_4 = V16.zero, a1_5 = V16.zero,
    a1_6 = V16.zero, a1_7 = V16.zero
  var a2_0 = V16.zero, a2_1 = V16.zero, a2_2 = V16.zero, a2_3 = V16.zero, a2_4 = V16.zero, a2_5 = V16.zero,
    a2_6 = V16.zero, a2_7 = V16.zero

  /// Adds `steps` products of 16 consecutive k: weight row i at `w + i · rowW`, row m of x at `x + m · ldx`.
  /// The next 16 are `stepW` bytes and `stepX` floats on; `load` reads 16 weights.
  @inline(__always) mutating func accumulate(
    steps: Int, w: UnsafeRawPointer, rowW: Int, stepW: Int, x: UnsafePointer<Float>, ldx: Int, stepX: Int,
    _ load: (UnsafeRawPointer) -> V16
  ) {
    var (w, x) = (w, x)
    for _ in 0..<steps {
      let x0 = load16(x)
      let x1 = load16(x + 1 * ldx)
      let x2 = load16(x + 2 * ldx)
      let w0 = load(w)
      a0_0 = fma(a0_0, x0, w0)
      a1_0 = fma(a1_0, x1, w0)
      a2_0 = fma(a2_0, x2, w0)
      let w1 = load(w + 1 * rowW)
      a0_1 = fma(a0_1, x0, w1)
      a1_1 = fma(a1_1, x1, w1)
      a2_1 = fma(a2_1, x2, w1)
      let w2 = load(w + 2 * rowW)
      a0_2 = fma(a0_2, x0, w2)
      a1_2 = fma(a1_2, x1, w2)
      a2_2 = fma(a2_2, x2, w2)
      let w3 = load(w + 3 * rowW)
      a0_3 = fma(a0_3, x0, w3)
      a1_3 = fma(a1_3, x1, w3)
      a2_3 = fma(a2_3, x2, w3)
      let w4 = load(w + 4 * rowW)
      a0_4 = fma(a0_4, x0, w4)
      a1_4 = fma(a1_4, x1, w4)
      a2_4 = fma(a2_4, x2, w4)
      let w5 = load(w + 5 * rowW)
      a0_5 = fma(a0_5, x0, w5)
      a1_5 = fma(a1_5, x1, w5)
      a2_5 = fma(a2_5, x2, w5)
      let w6 = load(w + 6 * rowW)
      a0_6 = fma(a0_6, x0, w6)
      a1_6 = fma(a1_6, x1, w6)
      a2_6 = fma(a2_6, x2, w6)
      let w7 = load(w + 7 * rowW)
      a0_7 = fma(a0_7, x0, w7)
      a1_7 = fma(a1_7, x1, w7)
      a2_7 = fma(a2_7, x2, w7)
      w += stepW
      x += stepX
    }
  }

  /// The sums of row 0: one lane a weight row.
  @inline(__always) var sums0: SIMD8<Float> { csimd_lane_sums8(a0_0, a0_1, a0_2, a0_3, a0_4, a0_5, a0_6, a0_7) }
  /// The sums of row 1: one lane a weight row.
  @inline(__always) var sums1: SIMD8<Float> { csimd_lane_sums8(a1_0, a1_1, a1_2, a1_3, a1_4, a1_5, a1_6, a1_7) }
  /// The sums of row 2: one lane a weight row.
  @inline(__always) var sums2: SIMD8<Float> { csimd_lane_sums8(a2_0, a2_1, a2_2, a2_3, a2_4, a2_5, a2_6, a2_7) }
}

/// 8 weight rows × 1 row of x, 16 lanes.
struct DotTile8x1 {
  var a0_0 = V16.zero, a0_1 = V16.zero, a0_2 = V16.zero, a0_3 = V16.zero, a0_4 = V16.zero, a0_5 = V16.zero,
    a0_6 = V16.zero, a0_7 = V16.zero

  /// Adds `steps` products of 16 consecutive k: weight row i at `w + i · rowW`.
  /// The next 16 are `stepW` bytes and `stepX` floats on; `load` reads 16 weights.
  @inline(__always) mutating func accumulate(
    steps: Int, w: UnsafeRawPointer, rowW: Int, stepW: Int, x: UnsafePointer<Float>, stepX: Int,
    _ load: (UnsafeRawPointer) -> V16
  ) {
    var (w, x) = (w, x)
    for _ in 0..<steps {
      let x0 = load16(x)
      let w0 = load(w)
      a0_0 = fma(a0_0, x0, w0)
      let w1 = load(w + 1 * rowW)
      a0_1 = fma(a0_1, x0, w1)
      let w2 = load(w + 2 * rowW)
      a0_2 = fma(a0_2, x0, w2)
      let w3 = load(w + 3 * rowW)
      a0_3 = fma(a0_3, x0, w3)
      let w4 = load(w + 4 * rowW)
      a0_4 = fma(a0_4, x0, w4)
      let w5 = load(w + 5 * rowW)
      a0_5 = fma(a0_5, x0, w5)
      let w6 = load(w + 6 * rowW)
      a0_6 = fma(a0_6, x0, w6)
      let w7 = load(w + 7 * rowW)
      a0_7 = fma(a0_7, x0, w7)
      w += stepW
      x += stepX
    }
  }

  /// The sums of row 0: one lane a weight row.
  @inline(__always) var sums0: SIMD8<Float> { csimd_lane_sums8(a0_0, a0_1, a0_2, a0_3, a0_4, a0_5, a0_6, a0_7) }
}

/// 4 weight rows × 3 rows of x, 8 lanes: 12 of v3's 16 registers.
struct DotTile4x3 {
  var a0_0 = SIMD8<Float>.zero, a0_1 = SIMD8<Float>.zero, a0_2 = SIMD8<Float>.zero, a0_3 = SIMD8<Float>.zero
  var a1_0 = SIMD8<Float>.zero, a1_1 = SIMD8<Float>.zero, a1_2 = SIMD8<Float>.zero, a1_3 = SIMD8<Float>.zero
  var a2_0 = SIMD8<Float>.zero, a2_1 = SIMD8<Float>.zero, a2_2 = SIMD8<Float>.zero, a2_3 = SIMD8<Float>.zero

  /// Adds `steps` products of 8 consecutive k: weight row i at `w + i · rowW`, row m of x at `x + m · ldx`.
  /// The next 8 are `stepW` bytes and `stepX` floats on; `load` reads 8 weights.
  @inline(__always) mutating func accumulate(
    steps: Int, w: UnsafeRawPointer, rowW: Int, stepW: Int, x: UnsafePointer<Float>, ldx: Int, stepX: Int,
    _ load: (UnsafeRawPointer) -> SIMD8<Float>
  ) {
    var (w, x) = (w, x)
    for _ in 0..<steps {
      let x0 = load8(x)
      let x1 = load8(x + 1 * ldx)
      let x2 = load8(x + 2 * ldx)
      let w0 = load(w)
      a0_0 = csimd_fma8(a0_0, x0, w0)
      a1_0 = csimd_fma8(a1_0, x1, w0)
      a2_0 = csimd_fma8(a2_0, x2, w0)
      let w1 = load(w + 1 * rowW)
      a0_1 = csimd_fma8(a0_1, x0, w1)
      a1_1 = csimd_fma8(a1_1, x1, w1)
      a2_1 = csimd_fma8(a2_1, x2, w1)
      let w2 = load(w + 2 * rowW)
      a0_2 = csimd_fma8(a0_2, x0, w2)
      a1_2 = csimd_fma8(a1_2, x1, w2)
      a2_2 = csimd_fma8(a2_2, x2, w2)
      let w3 = load(w + 3 * rowW)
      a0_3 = csimd_fma8(a0_3, x0, w3)
      a1_3 = csimd_fma8(a1_3, x1, w3)
      a2_3 = csimd_fma8(a2_3, x2, w3)
      w += stepW
      x += stepX
    }
  }

  /// The sums of row 0: one lane a weight row.
  @inline(__always) var sums0: SIMD4<Float> { csimd_lane_sums4(a0_0, a0_1, a0_2, a0_3) }
  /// The sums of row 1: one lane a weight row.
  @inline(__always) var sums1: SIMD4<Float> { csimd_lane_sums4(a1_0, a1_1, a1_2, a1_3) }
  /// The sums of row 2: one lane a weight row.
  @inline(__always) var sums2: SIMD4<Float> { csimd_lane_sums4(a2_0, a2_1, a2_2, a2_3) }
}

/// 4 weight rows × 1 row of x, 8 lanes.
struct DotTile4x1 {
  var a0_0 = SIMD8<Float>.zero, a0_1 = SIMD8<Float>.zero, a0_2 = SIMD8<Float>.zero, a0_3 = SIMD8<Float>.zero

  /// Adds `steps` products of 8 consecutive k: weight row i at `w + i · rowW`.
  /// The next 8 are `stepW` bytes and `stepX` floats on; `load` reads 8 weights.
  @inline(__always) mutating func accumulate(
    steps: Int, w: UnsafeRawPointer, rowW: Int, stepW: Int, x: UnsafePointer<Float>, stepX: Int,
    _ load: (UnsafeRawPointer) -> SIMD8<Float>
  ) {
    var (w, x) = (w, x)
    for _ in 0..<steps {
      let x0 = load8(x)
      let w0 = load(w)
      a0_0 = csimd_fma8(a0_0, x0, w0)
      let w1 = load(w + 1 * rowW)
      a0_1 = csimd_fma8(a0_1, x0, w1)
      let w2 = load(w + 2 * rowW)
      a0_2 = csimd_fma8(a0_2, x0, w2)
      let w3 = load(w + 3 * rowW)
      a0_3 = csimd_fma8(a0_3, x0, w3)
      w += stepW
      x += stepX
    }
  }

  /// The sums of row 0: one lane a weight row.
  @inline(__always) var sums0: SIMD4<Float> { csimd_lane_sums4(a0_0, a0_1, a0_2, a0_3) }
}
