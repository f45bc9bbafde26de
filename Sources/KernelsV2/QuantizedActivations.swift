import CSIMD
import KernelInterface

/// Below this a group counts as all zero, so that 127 / max stays finite (2⁻¹⁰⁰).
private let smallestMaximum: UInt32 = 0x0d80_0000
/// The bits of infinity; those of a NaN are greater.
private let infinity: UInt32 = 0x7f80_0000
/// 1.5 · 2²³: adding it rounds a number below 2²² to the nearest even integer, which is then in the low bits.
private let rounder: Float = 12_582_912

/// Fills the panels in `panels` of an int8 activation buffer from `x` `[rows / terms, k]`, stride `ldx`.
///
/// Per row and 32 consecutive k: `s = max|x| / 127`, `a = round-to-nearest-even(x · (127 / max|x|))`. A group whose
/// maximum is below 2⁻¹⁰⁰ has s = 0 and a = 0; one that holds a NaN or an infinity has s = NaN and a = 0, so that what
/// is computed from it is NaN. A second term is made in the same way of x − s·a. The same bits at every level.
func quantizeActivations(
  _ x: UnsafePointer<Float>, _ ldx: Int, _ layout: ActivationLayout, _ panels: Range<Int>,
  _ out: UnsafeMutableRawPointer
) {
  let k = layout.k
  for i in panels {
    let panel = layout.panel(i)
    let m = panel.rows
    let values = out + panel.offset
    let scales = (values + layout.scalesOffset(m)).assumingMemoryBound(to: Float.self)
    let sums = (values + layout.sumsOffset(m)).assumingMemoryBound(to: Int32.self)
    // With two terms every panel has an even number of rows, so a pair is in one panel.
    for first in stride(from: 0, to: m, by: layout.terms) {
      let source = x + (panel.firstRow + first) / layout.terms * ldx
      for group in 0..<(k / 32) {
        var v0: Floats = load(source + 32 * group)
        var v1: Floats = load(source + 32 * group + 16)
        for row in first..<(first + layout.terms) {
          let (q0, q1, scale) = rounded(v0, v1)
          scales[group * m + row] = scale
          sums[(2 * group) * m + row] = csimd_sum_ints(q0)
          sums[(2 * group + 1) * m + row] = csimd_sum_ints(q1)
          let b0 = unsafeBitCast(csimd_truncate_to_bytes(unsafeBitCast(q0, to: Dwords.self)), to: SIMD4<UInt32>.self)
          let b1 = unsafeBitCast(csimd_truncate_to_bytes(unsafeBitCast(q1, to: Dwords.self)), to: SIMD4<UInt32>.self)
          let target = (values + (group * 8 * m + row) * 4).assumingMemoryBound(to: UInt32.self)
          for j in 0..<4 { target[j * m] = b0[j] }
          for j in 0..<4 { target[(4 + j) * m] = b1[j] }
          v0 -= csimd_int_to_float(q0) * Floats(repeating: scale)
          v1 -= csimd_int_to_float(q1) * Floats(repeating: scale)
        }
      }
    }
  }
}

/// The int8 values of 32 consecutive k, and their scale.
@inline(__always) private func rounded(_ v0: Floats, _ v1: Floats) -> (Ints, Ints, Float) {
  let magnitudes = Dwords(repeating: 0x7fff_ffff)
  let maximum = csimd_max_dword(
    unsafeBitCast(v0, to: Dwords.self) & magnitudes, unsafeBitCast(v1, to: Dwords.self) & magnitudes)
  if maximum >= infinity { return (.zero, .zero, .nan) }
  var inverse: Float = 0
  var scale: Float = 0
  if maximum >= smallestMaximum {
    scale = Float(bitPattern: maximum) / 127
    inverse = 127 / Float(bitPattern: maximum)
  }
  let bias = Floats(repeating: rounder)
  let factor = Floats(repeating: inverse)
  let zero = Ints(repeating: Int32(bitPattern: rounder.bitPattern))
  return (
    unsafeBitCast(v0 * factor + bias, to: Ints.self) &- zero, unsafeBitCast(v1 * factor + bias, to: Ints.self) &- zero,
    scale
  )
}

/// int8 multiplications and additions (two per product) done by `iterations` rounds of independent dot products with the
/// instructions that the matrix kernels use; the time is the caller's to take.
func int8Loop(_ iterations: Int) -> Double {
  // As in the kernels: 12 rows at v4, 4 rows × two halves at v3.
  var a = SIMD16<Int32>(repeating: 0x0102_0304)
  var w = Bytes64(repeating: 3)
  return withUnsafeMutablePointer(to: &a) { a in
    withUnsafeMutablePointer(to: &w) { w in
      csimd_touch(a)
      csimd_touch(w)
      let dwords = UnsafeRawPointer(a)
      let bytes = UnsafeRawPointer(w)
      if compiledLevel == 3 {
        var low = zeros(InlineArray<4, SIMD16<Int16>>.self)
        var high = zeros(InlineArray<4, SIMD16<Int16>>.self)
        for _ in 0..<iterations {
          csimd_touch(a)
          for m in 0..<4 {
            low[m] &+= csimd_dot2(bytes, dwords + 4 * m)
            high[m] &+= csimd_dot2(bytes + 32, dwords + 4 * m)
          }
        }
        var total = SIMD16<Int16>.zero
        for m in 0..<4 { total = total &+ low[m] &+ high[m] }
        a.pointee[0] = Int32(total[0])
        csimd_touch(a)
        return Double(iterations) * 4 * 64 * 2
      }
      var acc = zeros(InlineArray<12, Ints>.self)
      let q: Bytes64 = load(bytes)
      for _ in 0..<iterations { for m in 0..<12 { acc[m] = csimd_dot4(acc[m], q, dwords + 4 * m) } }
      var total = Ints.zero
      for m in 0..<12 { total &+= acc[m] }
      a.pointee = total
      csimd_touch(a)
      return Double(iterations) * 12 * 64 * 2
    }
  }
}
