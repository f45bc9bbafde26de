import CSIMD

/// The vector that most kernels work in: one register at v4, two at v3, four at v2.
typealias V16 = SIMD16<Float>

// The standard library's operators are loops over lanes, which the optimiser does not always put together again; these
// are not generic and therefore preferred in this module (those of two vectors are in VectorOperators.swift).

@inline(__always) func / (a: V16, b: V16) -> V16 { csimd_divide(a, b) }
@inline(__always) func / (a: V16, b: Float) -> V16 { csimd_divide(a, V16(repeating: b)) }
@inline(__always) func / (a: Float, b: V16) -> V16 { csimd_divide(V16(repeating: a), b) }
@inline(__always) func * (a: V16, b: Float) -> V16 { a * V16(repeating: b) }
@inline(__always) func * (a: Float, b: V16) -> V16 { V16(repeating: a) * b }
@inline(__always) func + (a: V16, b: Float) -> V16 { a + V16(repeating: b) }
@inline(__always) func + (a: Float, b: V16) -> V16 { V16(repeating: a) + b }
@inline(__always) func - (a: V16, b: Float) -> V16 { a - V16(repeating: b) }
@inline(__always) func - (a: Float, b: V16) -> V16 { V16(repeating: a) - b }
@inline(__always) func += (a: inout V16, b: V16) { a = a + b }
@inline(__always) func *= (a: inout V16, b: V16) { a = a * b }

@inline(__always) func load16(_ p: UnsafePointer<Float>) -> V16 {
  UnsafeRawPointer(p).loadUnaligned(as: V16.self)
}

@inline(__always) func load16(_ p: UnsafeMutablePointer<Float>) -> V16 {
  UnsafeRawPointer(p).loadUnaligned(as: V16.self)
}

@inline(__always) func store16(_ p: UnsafeMutablePointer<Float>, _ v: V16) {
  UnsafeMutableRawPointer(p).storeBytes(of: v, as: V16.self)
}

/// The first `count` (< 16) floats at `p`; the other lanes are `fill`.
@inline(__always) func load16(_ p: UnsafePointer<Float>, count: Int, fill: Float = 0) -> V16 {
  var v = V16(repeating: fill)
  for i in 0..<count { v[i] = p[i] }
  return v
}

/// Stores the first `count` (< 16) lanes.
@inline(__always) func store16(_ p: UnsafeMutablePointer<Float>, _ v: V16, count: Int) {
  for i in 0..<count { p[i] = v[i] }
}

/// `acc + a · b`: one rounding where the level has FMA, two at v2 (where `addProduct` would call `fmaf` lane by lane).
@inline(__always) func fma(_ acc: V16, _ a: V16, _ b: V16) -> V16 { csimd_fma(a, b, acc) }

/// `acc + a · b` with a scalar `b`.
@inline(__always) func fma(_ acc: V16, _ a: V16, _ b: Float) -> V16 { fma(acc, a, V16(repeating: b)) }

/// The greater of each lane; a NaN in `b` is dropped, one in `a` stays.
@inline(__always) func greater(_ a: V16, _ b: V16) -> V16 { csimd_greater(a, b) }
/// The lesser of each lane; a NaN in `b` is dropped, one in `a` stays.
@inline(__always) func lesser(_ a: V16, _ b: V16) -> V16 { csimd_lesser(a, b) }
@inline(__always) func absolute(_ v: V16) -> V16 { csimd_absolute(v) }

/// The sum of 16 lanes as a tree of halves: the same order at every level.
@inline(__always) func sum16(_ v: V16) -> Float {
  let a = v.lowHalf + v.highHalf
  let b = a.lowHalf + a.highHalf
  let c = b.lowHalf + b.highHalf
  return c[0] + c[1]
}

@inline(__always) func sum16InDouble(_ v: V16) -> Double {
  let a = SIMD8<Double>(v.lowHalf) + SIMD8<Double>(v.highHalf)
  let b = a.lowHalf + a.highHalf
  let c = b.lowHalf + b.highHalf
  return c[0] + c[1]
}

@inline(__always) func max16(_ v: V16) -> Float { csimd_greatest(v) }

/// eˣ, within 2 units in the last place; 0 from −104 down, +∞ from 88.73 up, NaN for NaN.
///
/// x = n·ln 2 + r with |r| ≤ ½ ln 2 (Cody and Waite's two-part ln 2), then a minimax polynomial of degree 6 in r
/// (relative error 3·10⁻⁹).
@inline(__always) func exp16(_ value: V16) -> V16 {
  let x = lesser(greater(value, V16(repeating: -105)), V16(repeating: 89))
  // Adding 1.5·2²³ and taking it away again rounds to the nearest whole number.
  let magic = V16(repeating: 12_582_912)
  let n = fma(magic, x, 1.442_695_04) - magic
  var r = fma(x, n, -0.693_359_375)
  r = fma(r, n, 2.121_944_4e-4)
  var p = V16(repeating: 1.395_048_92e-3)
  p = fma(V16(repeating: 8.368_889_8e-3), p, r)
  p = fma(V16(repeating: 4.166_620_6e-2), p, r)
  p = fma(V16(repeating: 0.166_665_182), p, r)
  p = fma(V16(repeating: 0.5), p, r)
  p = fma(r, p, r * r)
  return csimd_scale(p + 1, n)
}

/// tanh x, within 3 units in the last place: an odd minimax polynomial below 0.625, else 1 − 2/(e²ˣ + 1).
@inline(__always) func tanh16(_ x: V16) -> V16 {
  let a = absolute(x)
  let s = x * x
  var p = V16(repeating: 2.064_662_05e-3)
  p = fma(V16(repeating: -8.091_964_76e-3), p, s)
  p = fma(V16(repeating: 2.166_634_43e-2), p, s)
  p = fma(V16(repeating: -5.394_056_44e-2), p, s)
  p = fma(V16(repeating: 0.133_331_582), p, s)
  p = fma(V16(repeating: -0.333_333_284), p, s)
  let small = fma(x, p * s, x)
  let large = 1 - 2 / (exp16(a + a) + 1)
  return csimd_where_less(a, V16(repeating: 0.625), small, csimd_with_sign(large, x))
}

/// erfc(x/√2) for x ≥ 0: twice the upper tail of the normal distribution, within 4 units in the last place down to the
/// end of the range.
///
/// erfc t = e^(−t²) · erfcx t with t = x/√2, and (1 + 2t)·erfcx t a polynomial in q = (t − 3)/(t + 3) (after Shepherd
/// and Laframboise, "Chebyshev approximation of (1 + 2x)exp(x²)erfc x in 0 ≤ x < ∞", 1981; own coefficients). The
/// exponent comes from x itself: an error of t would be amplified by 2t².
@inline(__always) func normalTail16(_ x: V16) -> V16 {
  // Beyond 20 the result is 0 in f32, and infinities would meet.
  let x = lesser(x, V16(repeating: 20))
  let t = x * 0.707_106_78
  let q = (t - 3) / (t + 3)
  var p = V16(repeating: -2.690_818_8e-4)
  p = fma(V16(repeating: -7.800_778_26e-4), p, q)
  p = fma(V16(repeating: 2.000_223_38e-3), p, q)
  p = fma(V16(repeating: 2.568_166_47e-3), p, q)
  p = fma(V16(repeating: -2.379_651_37e-2), p, q)
  p = fma(V16(repeating: 6.829_579_92e-2), p, q)
  p = fma(V16(repeating: -0.119_271_152), p, q)
  p = fma(V16(repeating: 0.129_646_391), p, q)
  p = fma(V16(repeating: -4.756_239_06e-2), p, q)
  p = fma(V16(repeating: -0.135_621_145), p, q)
  p = fma(V16(repeating: 1.253_008_01), p, q)
  let square = x * x
  // What rounding took from x² (nothing is known of it without FMA).
  let rest = fma(-square, x, x)
  let e = exp16(-0.5 * square)
  return fma(e, -0.5 * rest, e) * p / fma(V16(repeating: 1), t, V16(repeating: 2))
}
