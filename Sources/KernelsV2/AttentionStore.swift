import CSIMD
import KernelInterface

func storeKV(
  _ view: KVView, _ k: FloatPointer, _ ldk: Int, _ v: FloatPointer, _ ldv: Int, _ tokens: Int, _ kvHeads: Int,
  _ headDim: Int, _ firstPosition: Int
) {
  if view.kind == .f16 {
    store(.f16, view, k, ldk, v, ldv, tokens, kvHeads, headDim, firstPosition)
  } else {
    store(.f32, view, k, ldk, v, ldv, tokens, kvHeads, headDim, firstPosition)
  }
}

/// The same for a constant kind: values are copied row by row; keys are transposed, 16 tokens at a time where a block is
/// filled whole.
@inline(__always) private func store(
  _ kind: DType, _ view: KVView, _ k: FloatPointer, _ ldk: Int, _ v: FloatPointer, _ ldv: Int, _ tokens: Int,
  _ kvHeads: Int, _ headDim: Int, _ firstPosition: Int
) {
  let size = kind.blockBytes
  var t = 0
  while t < tokens {
    let (block, slot) = ((firstPosition + t) / 16, (firstPosition + t) % 16)
    let count = min(16 - slot, tokens - t)
    let base = Int(view.table[block]) * view.blockStride
    for i in t..<t + count {
      for h in 0..<kvHeads {
        for d in stride(from: 0, to: headDim, by: 16) {
          let place = ((h * 16 + slot + i - t) * headDim + d) * size
          storeDense16(kind, view.v + base + place, load16(v + i * ldv + h * headDim + d))
        }
      }
    }
    let keys = view.k + base
    if count == 16 {
      for d in stride(from: 0, to: kvHeads * headDim, by: 16) {
        transpose16({ load16(k + (t + $0) * ldk + d) }, { storeDense16(kind, keys + (d + $0) * 16 * size, $1) })
      }
    } else {
      for i in t..<t + count {
        for d in stride(from: 0, to: kvHeads * headDim, by: 16) {
          scatterKey(kind, keys + (d * 16 + slot + i - t) * size, load16(k + i * ldk + d))
        }
      }
    }
    t += count
  }
}

/// 16 elements of one token's key, each to its row of 16 tokens.
@inline(__always) private func scatterKey(_ kind: DType, _ p: UnsafeMutableRawPointer, _ v: V16) {
  if kind == .f32 {
    for i in 0..<16 { p.storeBytes(of: v[i], toByteOffset: i * 64, as: Float.self) }
  } else {
    var half = SIMD16<UInt16>.zero
    withUnsafeMutableBytes(of: &half) { storeDense16(kind, $0.baseAddress!, v) }
    for i in 0..<16 { p.storeBytes(of: half[i], toByteOffset: i * 32, as: UInt16.self) }
  }
}
