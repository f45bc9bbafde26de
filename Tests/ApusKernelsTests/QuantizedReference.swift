import KernelInterface

/// SplitMix64: the same numbers from the same seed, here and in `Fixtures/quantized.py`.
struct SplitMix64: RandomNumberGenerator {
  var state: UInt64
  init(seed: UInt64) { state = seed }
  mutating func next() -> UInt64 {
    state &+= 0x9e37_79b9_7f4a_7c15
    var z = state
    z = (z ^ (z >> 30)) &* 0xbf58_476d_1ce4_e5b9
    z = (z ^ (z >> 27)) &* 0x94d0_49bb_1331_11eb
    return z ^ (z >> 31)
  }
}

/// The slow, obvious reading of the block formats, weight by weight, as ggml documents them.
enum Reference {
  static let kinds = DType.allCases.filter(\.isQuantized)

  /// The factors of weight `i` of a storage block: weight = u · scale + minimum, u an integer.
  struct Weight {
    var u: Int
    var scale: Double
    var minimum: Double
    var value: Double { Double(u) * scale + minimum }
  }

  static func half(_ block: ArraySlice<UInt8>, _ at: Int) -> Double {
    let bits = UInt16(block[block.startIndex + at]) | UInt16(block[block.startIndex + at + 1]) << 8
    return Double(Float16(bitPattern: bits))
  }

  static func weight(_ kind: DType, _ block: ArraySlice<UInt8>, _ i: Int) -> Weight {
    func byte(_ at: Int) -> Int { Int(block[block.startIndex + at]) }
    func signed(_ at: Int) -> Int { Int(Int8(bitPattern: UInt8(byte(at)))) }
    func nibble(_ at: Int, _ high: Bool) -> Int { high ? byte(at) >> 4 : byte(at) & 15 }
    func bit(_ at: Int, _ n: Int) -> Int { (byte(at + n / 8) >> (n % 8)) & 1 }
    switch kind {
    case .q4_0:
      return Weight(u: nibble(2 + i % 16, i >= 16) - 8, scale: half(block, 0), minimum: 0)
    case .q4_1:
      return Weight(u: nibble(4 + i % 16, i >= 16), scale: half(block, 0), minimum: half(block, 2))
    case .q5_0:
      return Weight(u: nibble(6 + i % 16, i >= 16) + 16 * bit(2, i) - 16, scale: half(block, 0), minimum: 0)
    case .q5_1:
      return Weight(u: nibble(8 + i % 16, i >= 16) + 16 * bit(4, i), scale: half(block, 0), minimum: half(block, 2))
    case .q8_0:
      return Weight(u: signed(2 + i), scale: half(block, 0), minimum: 0)
    case .q2_K:
      let s = byte(i / 16)
      let u = (byte(16 + i / 128 * 32 + i % 32) >> (i % 128 / 32 * 2)) & 3
      return Weight(u: u, scale: half(block, 80) * Double(s & 15), minimum: -half(block, 82) * Double(s >> 4))
    case .q3_K:
      let low = (byte(32 + i / 128 * 32 + i % 32) >> (i % 128 / 32 * 2)) & 3
      let high = (byte(i % 32) >> (i / 32)) & 1
      let j = i / 16
      let lowScale = j < 8 ? byte(96 + j) & 15 : byte(96 + j - 8) >> 4
      let highScale = (byte(104 + j % 4) >> (j / 4 * 2)) & 3
      return Weight(
        u: low + 4 * high - 4, scale: half(block, 108) * Double(lowScale + 16 * highScale - 32), minimum: 0)
    case .q4_K, .q5_K:
      let j = i / 32
      let s = j < 4 ? byte(4 + j) & 63 : (byte(8 + j) & 15) + (byte(j) >> 6) * 16
      let m = j < 4 ? byte(8 + j) & 63 : (byte(8 + j) >> 4) + (byte(4 + j) >> 6) * 16
      let nibbles = kind == .q4_K ? 16 : 48
      var u = nibble(nibbles + i / 64 * 32 + i % 32, i % 64 >= 32)
      if kind == .q5_K { u += 16 * ((byte(16 + i % 32) >> j) & 1) }
      return Weight(u: u, scale: half(block, 0) * Double(s), minimum: -half(block, 2) * Double(m))
    case .q6_K:
      let n = i / 128
      let l = i % 128
      let low = nibble(64 * n + l % 64, l >= 64)
      let high = (byte(128 + 32 * n + l % 32) >> (l / 32 * 2)) & 3
      return Weight(u: low + 16 * high - 32, scale: half(block, 208) * Double(signed(192 + i / 16)), minimum: 0)
    case .f32, .f16, .bf16, .i32: preconditionFailure("a dense kind")
    }
  }

  /// A row's weights.
  static func row(_ kind: DType, _ bytes: ArraySlice<UInt8>) -> [Weight] {
    var out: [Weight] = []
    for at in stride(from: bytes.startIndex, to: bytes.endIndex, by: kind.blockBytes) {
      for i in 0..<kind.blockElements { out.append(weight(kind, bytes[at..<(at + kind.blockBytes)], i)) }
    }
    return out
  }

  /// Where the f16 numbers of a storage block lie.
  static func halfOffsets(_ kind: DType) -> [Int] {
    switch kind {
    case .q4_0, .q5_0, .q8_0: [0]
    case .q4_1, .q5_1, .q4_K, .q5_K: [0, 2]
    case .q2_K: [80, 82]
    case .q3_K: [108]
    case .q6_K: [208]
    case .f32, .f16, .bf16, .i32: []
    }
  }

  /// `rows` random rows of `k` weights; the f16 numbers come from `half`.
  static func randomRows(
    _ kind: DType, rows: Int, k: Int, using random: inout SplitMix64, half: (inout SplitMix64) -> Float16
  ) -> [UInt8] {
    var bytes = (0..<(rows * kind.rowBytes(k))).map { _ in UInt8(truncatingIfNeeded: random.next()) }
    for block in stride(from: 0, to: bytes.count, by: kind.blockBytes) {
      for at in halfOffsets(kind) {
        let bits = half(&random).bitPattern
        bytes[block + at] = UInt8(bits & 255)
        bytes[block + at + 1] = UInt8(bits >> 8)
      }
    }
    return bytes
  }
}
