import CSIMD
import KernelInterface

/// 16 f16 values to f32 (exact).
@inline(__always) func loadHalf16(_ p: UnsafeRawPointer) -> V16 {
  var v = V16.zero
  withUnsafeMutableBytes(of: &v) { csimd_f16_to_f32(p, $0.baseAddress!.assumingMemoryBound(to: Float.self)) }
  return v
}

/// 16 bf16 values to f32 (exact).
@inline(__always) func loadBrain16(_ p: UnsafeRawPointer) -> V16 {
  var v = V16.zero
  withUnsafeMutableBytes(of: &v) { csimd_bf16_to_f32(p, $0.baseAddress!.assumingMemoryBound(to: Float.self)) }
  return v
}

/// 16 f32 to f16, round to nearest even; NaN stays NaN, what is too great becomes infinite.
@inline(__always) func storeHalf16(_ p: UnsafeMutableRawPointer, _ v: V16) {
  withUnsafeBytes(of: v) { csimd_f32_to_f16($0.baseAddress!.assumingMemoryBound(to: Float.self), p) }
}

/// 16 f32 to bf16, round to nearest even; NaN stays NaN.
@inline(__always) func storeBrain16(_ p: UnsafeMutableRawPointer, _ v: V16) {
  withUnsafeBytes(of: v) { csimd_f32_to_bf16($0.baseAddress!.assumingMemoryBound(to: Float.self), p) }
}

/// 16 elements of a dense kind (f32, f16 or bf16) at `p` as f32.
@inline(__always) func loadDense16(_ kind: DType, _ p: UnsafeRawPointer) -> V16 {
  switch kind {
  case .f16: loadHalf16(p)
  case .bf16: loadBrain16(p)
  default: p.loadUnaligned(as: V16.self)
  }
}

/// 8 elements of a dense kind at `p` as f32.
@inline(__always) func loadDense8(_ kind: DType, _ p: UnsafeRawPointer) -> SIMD8<Float> {
  switch kind {
  case .f16:
    var v = SIMD8<Float>.zero
    withUnsafeMutableBytes(of: &v) { csimd_f16_to_f32_8(p, $0.baseAddress!.assumingMemoryBound(to: Float.self)) }
    return v
  case .bf16:
    var v = SIMD8<Float>.zero
    withUnsafeMutableBytes(of: &v) { csimd_bf16_to_f32_8(p, $0.baseAddress!.assumingMemoryBound(to: Float.self)) }
    return v
  default: return p.loadUnaligned(as: SIMD8<Float>.self)
  }
}

/// The first `count` (< 16) elements of a dense kind; zeros after them.
@inline(__always) func loadDense16(_ kind: DType, _ p: UnsafeRawPointer, count: Int) -> V16 {
  if kind == .f32 { return load16(p.assumingMemoryBound(to: Float.self), count: count) }
  var h = SIMD16<UInt16>.zero
  for i in 0..<count { h[i] = p.loadUnaligned(fromByteOffset: 2 * i, as: UInt16.self) }
  return withUnsafeBytes(of: h) { loadDense16(kind, $0.baseAddress!) }
}

@inline(__always) func storeDense16(_ kind: DType, _ p: UnsafeMutableRawPointer, _ v: V16) {
  switch kind {
  case .f16: storeHalf16(p, v)
  case .bf16: storeBrain16(p, v)
  default: p.storeBytes(of: v, as: V16.self)
  }
}

/// `count` elements of a dense kind to f32.
@inline(__always) private func widen(
  _ kind: DType, _ source: UnsafeRawPointer, _ count: Int, _ out: MutableFloatPointer
) {
  let size = kind.blockBytes
  var i = 0
  while i + 16 <= count {
    store16(out + i, loadDense16(kind, source + i * size))
    i += 16
  }
  if i < count { store16(out + i, loadDense16(kind, source + i * size, count: count - i), count: count - i) }
}

func dequantizeDense(_ kind: DType, _ source: UnsafeRawPointer, _ count: Int, _ out: MutableFloatPointer) {
  switch kind {
  case .f16: widen(.f16, source, count, out)
  case .bf16: widen(.bf16, source, count, out)
  default: out.update(from: source.assumingMemoryBound(to: Float.self), count: count)
  }
}

@inline(__always) private func narrow(
  _ kind: DType, _ x: FloatPointer, _ count: Int, _ out: UnsafeMutableRawPointer
) {
  var i = 0
  while i + 16 <= count {
    storeDense16(kind, out + 2 * i, load16(x + i))
    i += 16
  }
  if i < count {
    var h = SIMD16<UInt16>.zero
    let v = load16(x + i, count: count - i)
    withUnsafeMutableBytes(of: &h) { storeDense16(kind, $0.baseAddress!, v) }
    for lane in 0..<count - i { out.storeBytes(of: h[lane], toByteOffset: 2 * (i + lane), as: UInt16.self) }
  }
}

func convertFromFloat(_ kind: DType, _ x: FloatPointer, _ count: Int, _ out: UnsafeMutableRawPointer) {
  switch kind {
  case .f16: narrow(.f16, x, count, out)
  case .bf16: narrow(.bf16, x, count, out)
  default: out.copyMemory(from: x, byteCount: 4 * count)
  }
}
