import CSIMD
import KernelInterface

func storeColumns(
  _ plane: KVPlane, _ x: FloatPointer, _ ldx: Int, _ tokens: Int, _ width: Int, _ firstPosition: Int
) {
  if plane.kind == .f16 {
    columns(.f16, plane, x, ldx, tokens, width, firstPosition)
  } else {
    columns(.f32, plane, x, ldx, tokens, width, firstPosition)
  }
}

func storeRows(
  _ plane: KVPlane, _ x: FloatPointer, _ ldx: Int, _ tokens: Int, _ heads: Int, _ width: Int, _ firstPosition: Int
) {
  if plane.kind == .f16 {
    rows(.f16, plane, x, ldx, tokens, heads, width, firstPosition)
  } else {
    rows(.f32, plane, x, ldx, tokens, heads, width, firstPosition)
  }
}

func loadRows(_ plane: KVPlane, _ y: MutableFloatPointer, _ ldy: Int, _ positions: Range<Int>, _ width: Int) {
  for (i, position) in positions.enumerated() {
    let block = plane.block(position / 16)
    dequantizeAny(plane.kind, block + position % 16 * width * plane.kind.blockBytes, width, y + i * ldy)
  }
}

/// Rows copied for a constant kind.
@inline(__always) private func rows(
  _ kind: DType, _ plane: KVPlane, _ x: FloatPointer, _ ldx: Int, _ tokens: Int, _ heads: Int, _ width: Int,
  _ firstPosition: Int
) {
  let size = kind.blockBytes
  for t in 0..<tokens {
    let (block, slot) = ((firstPosition + t) / 16, (firstPosition + t) % 16)
    let base = plane.block(block)
    for h in 0..<heads {
      for d in stride(from: 0, to: width, by: 16) {
        storeDense16(kind, base + ((h * 16 + slot) * width + d) * size, load16(x + t * ldx + h * width + d))
      }
    }
  }
}

/// Rows transposed for a constant kind, 16 tokens at a time where a block is filled whole.
@inline(__always) private func columns(
  _ kind: DType, _ plane: KVPlane, _ x: FloatPointer, _ ldx: Int, _ tokens: Int, _ width: Int, _ firstPosition: Int
) {
  let size = kind.blockBytes
  var t = 0
  while t < tokens {
    let (block, slot) = ((firstPosition + t) / 16, (firstPosition + t) % 16)
    let count = min(16 - slot, tokens - t)
    let keys = plane.block(block)
    if count == 16 {
      for d in stride(from: 0, to: width, by: 16) {
        transpose16({ load16(x + (t + $0) * ldx + d) }, { storeDense16(kind, keys + (d + $0) * 16 * size, $1) })
      }
    } else {
      for i in t..<t + count {
        for d in stride(from: 0, to: width, by: 16) {
          scatterKey(kind, keys + (d * 16 + slot + i - t) * size, load16(x + i * ldx + d))
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
