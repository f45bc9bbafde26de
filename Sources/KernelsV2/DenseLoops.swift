import CSIMD
import KernelInterface

/// Twelve independent chains of FMAs over 16 lanes: enough to hide four cycles of latency in two units of 512 bits.
func fmaLoop(_ iterations: Int) -> Double {
  // Values that the optimiser cannot know, so that it can neither fold the loop nor merge the chains.
  var seed = Float(iterations & 1)
  let (x, y) = withUnsafePointer(to: &seed) { (V16(repeating: $0.pointee), V16(repeating: $0.pointee * 0.5 - 0.25)) }
  var (a0, a1, a2, a3, a4, a5) = (x, x + 1, x + 2, x + 3, x + 4, x + 5)
  var (a6, a7, a8, a9, a10, a11) = (x + 6, x + 7, x + 8, x + 9, x + 10, x + 11)
  for _ in 0..<iterations {
    a0 = fma(x, a0, y)
    a1 = fma(x, a1, y)
    a2 = fma(x, a2, y)
    a3 = fma(x, a3, y)
    a4 = fma(x, a4, y)
    a5 = fma(x, a5, y)
    if compiledLevel == 4 {
      a6 = fma(x, a6, y)
      a7 = fma(x, a7, y)
      a8 = fma(x, a8, y)
      a9 = fma(x, a9, y)
      a10 = fma(x, a10, y)
      a11 = fma(x, a11, y)
    }
  }
  let chains = compiledLevel == 4 ? 12.0 : 6.0
  let low = a0 + a1 + a2 + a3 + a4 + a5
  let high = a6 + a7 + a8 + a9 + a10 + a11
  let s = sum16(low + high)
  // The sum is finite for every input, so this adds nothing; it only keeps the loop alive.
  return Double(iterations) * chains * 32 + (s.isNaN ? 1 : 0)
}

/// Reads `count` bytes in order; the result depends on all of them.
func readLoop(_ bytes: UnsafeRawPointer, _ count: Int) -> UInt64 {
  typealias V = SIMD8<UInt64>
  var (s0, s1, s2, s3) = (V.zero, V.zero, V.zero, V.zero)
  var i = 0
  while i + 256 <= count {
    // As far ahead as the matrix kernels fetch: without it one thread reads a fifth less than the machine can.
    for line in 0..<4 { csimd_prefetch(bytes + i + 4096 + 64 * line) }
    s0 ^= (bytes + i).loadUnaligned(as: V.self)
    s1 ^= (bytes + i + 64).loadUnaligned(as: V.self)
    s2 ^= (bytes + i + 128).loadUnaligned(as: V.self)
    s3 ^= (bytes + i + 192).loadUnaligned(as: V.self)
    i += 256
  }
  let s = (s0 ^ s1) ^ (s2 ^ s3)
  var result = s[0] ^ s[1] ^ s[2] ^ s[3] ^ s[4] ^ s[5] ^ s[6] ^ s[7]
  while i < count {
    result ^= UInt64(bytes.load(fromByteOffset: i, as: UInt8.self))
    i += 1
  }
  return result
}
