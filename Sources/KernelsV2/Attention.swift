import CSIMD
import KernelInterface

#if canImport(Glibc)
  import Glibc
#elseif canImport(Darwin)
  import Darwin
#endif

func attentionItems(_ a: borrowing AttentionArguments) -> Int { a.queries * a.kvHeads }

@inline(__always) private func element(_ size: Int, _ p: UnsafeMutableRawPointer, _ i: Int) -> Float {
  if size == 4 { return p.load(fromByteOffset: 4 * i, as: Float.self) }
  return loadDense16(.f16, p + 2 * i, count: 1)[0]
}

func attention(_ arguments: borrowing AttentionArguments, _ items: Range<Int>, _ scratch: UnsafeMutableRawPointer) {
  let a = copy arguments
  let group = a.heads / a.kvHeads
  let d = a.headDim
  let size = a.kv.kind.blockBytes
  for item in items {
    let (query, kvHead) = (item / a.kvHeads, item % a.kvHeads)
    let position = a.firstPosition + query
    for g in 0..<group {
      let head = kvHead * group + g
      let q = a.q + query * a.ldq + head * d
      let out = a.out + query * a.ldo + head * d
      for i in 0..<d { out[i] = 0 }
      var (m, l) = (-Float.infinity, Float(0))
      for j in 0..<a.keyCount {
        if a.causal && j > position { break }
        if a.window > 0 && (j <= position - a.window || (!a.causal && j >= position + a.window)) { continue }
        if let mask = a.keyMask, mask[j] == 0 { continue }
        let block = Int(a.kv.table[j / 16]) * a.kv.blockStride
        let k = a.kv.k + block, v = a.kv.v + block
        var s: Float = 0
        for i in 0..<d { s += q[i] * element(size, k, (kvHead * d + i) * 16 + j % 16) }
        s *= a.scale
        if a.softcap > 0 { s = a.softcap * tanhf(s / a.softcap) }
        if let slopes = a.slopes { s += slopes[head] * Float(j - position) }
        let top = max(m, s)
        let (keep, p) = (expf(m - top), expf(s - top))
        l = l * keep + p
        for i in 0..<d { out[i] = out[i] * keep + p * element(size, v, (kvHead * 16 + j % 16) * d + i) }
        m = top
      }
      if l > 0 { for i in 0..<d { out[i] /= l } }
    }
  }
}

func storeKV(
  _ view: KVView, _ k: FloatPointer, _ ldk: Int, _ v: FloatPointer, _ ldv: Int, _ tokens: Int, _ kvHeads: Int,
  _ headDim: Int, _ firstPosition: Int
) {
  let size = view.kind.blockBytes
  for t in 0..<tokens {
    let (block, slot) = ((firstPosition + t) / 16, (firstPosition + t) % 16)
    let base = Int(view.table[block]) * view.blockStride
    for h in 0..<kvHeads {
      for d in stride(from: 0, to: headDim, by: 16) {
        let source = h * headDim + d
        let values = view.v + base + ((h * 16 + slot) * headDim + d) * size
        storeDense16(view.kind, values, load16(v + t * ldv + source))
        let keys = view.k + base + (source * 16 + slot) * size
        let row = load16(k + t * ldk + source)
        if size == 4 {
          for i in 0..<16 { keys.storeBytes(of: row[i], toByteOffset: i * 64, as: Float.self) }
        } else {
          var half = SIMD16<UInt16>.zero
          withUnsafeMutableBytes(of: &half) { storeDense16(view.kind, $0.baseAddress!, row) }
          for i in 0..<16 { keys.storeBytes(of: half[i], toByteOffset: i * 32, as: UInt16.self) }
        }
      }
    }
  }
}
