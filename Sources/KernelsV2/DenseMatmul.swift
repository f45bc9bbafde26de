import CSIMD
import KernelInterface

func floatMatmul(_ a: borrowing FloatMatmulArguments) {
  let row = a.scratch.assumingMemoryBound(to: Float.self)
  for n in a.rowRange {
    dequantizeAny(a.kind, a.w + n * a.rowBytes, a.k, row)
    for m in 0..<a.rows { a.out[m * a.ldo + n] = dot(a.x + m * a.ldx, row, a.k) }
  }
}

@inline(__always) func dequantizeAny(
  _ kind: DType, _ source: UnsafeRawPointer, _ count: Int, _ out: MutableFloatPointer
) {
  if kind.isQuantized { dequantizeBlocks(kind, source, count, out) } else { dequantizeDense(kind, source, count, out) }
}
