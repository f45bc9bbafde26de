import CSIMD
import KernelInterface

// The weights' side of the block-quantised kernels.
//
// A *tile* is 16 weight rows × kc consecutive k, unpacked to bytes:
//   values   u8  [kc/4][16][4]    one 64-byte vector = 16 rows × 4 consecutive k
//   scales   f32 [kc/block][16]   D
//   minimums f32 [kc/block][16]   M, of the affine kinds
// A weight is (u − offset) · D for the symmetric kinds and u · D + M for the affine ones.

/// The instruction-set level of this module: 2, 3 or 4; a constant to the optimiser.
@inline(__always) var compiledLevel: Int32 { csimd_compiled_level() }

/// Rows of a tile.
let tileRows = 16

typealias Bytes64 = SIMD64<UInt8>
typealias Dwords = SIMD16<UInt32>
typealias Ints = SIMD16<Int32>
typealias Floats = SIMD16<Float>

@inline(__always) func load<T>(_ p: UnsafeRawPointer, as type: T.Type = T.self) -> T { p.loadUnaligned(as: T.self) }

/// All bits zero, for an InlineArray of at most 1024 bytes. (The initialisers of the standard library may become a shared
/// function, which the linker would take from any instruction-set level.)
@inline(__always) func zeros<T: BitwiseCopyable>(_: T.Type) -> T { csimd_zeros().loadUnaligned(as: T.self) }

@inline(__always) func store(_ p: UnsafeMutableRawPointer, _ v: Floats) { p.storeBytes(of: v, as: Floats.self) }

/// Four columns of dwords: `c1` holds dword 1 of 16 rows.
struct Columns {
  var c0: Dwords
  var c1: Dwords
  var c2: Dwords
  var c3: Dwords

  /// The 4 × 4 transposition inside each 128-bit lane; its own inverse.
  @inline(__always) var transposed: Columns {
    let a = csimd_unpack_low(c0, c1)
    let b = csimd_unpack_high(c0, c1)
    let c = csimd_unpack_low(c2, c3)
    let d = csimd_unpack_high(c2, c3)
    return Columns(
      c0: csimd_low_qwords(a, c), c1: csimd_high_qwords(a, c), c2: csimd_low_qwords(b, d), c3: csimd_high_qwords(b, d))
  }
}

/// 16 bytes at `p` in each of 16 rows, `stride` bytes apart.
@inline(__always) func loadColumns(_ p: UnsafeRawPointer, _ stride: Int) -> Columns {
  // A vector's lanes are the rows i, i + 4, i + 8, i + 12, so that the transposition leaves the rows in order.
  Columns(
    c0: csimd_load_lanes(p, stride), c1: csimd_load_lanes(p + stride, stride),
    c2: csimd_load_lanes(p + 2 * stride, stride), c3: csimd_load_lanes(p + 3 * stride, stride)
  ).transposed
}

/// The inverse of `loadColumns`.
@inline(__always) func storeColumns(_ p: UnsafeMutableRawPointer, _ stride: Int, _ columns: Columns) {
  let r = columns.transposed
  csimd_store_lanes(p, stride, r.c0)
  csimd_store_lanes(p + stride, stride, r.c1)
  csimd_store_lanes(p + 2 * stride, stride, r.c2)
  csimd_store_lanes(p + 3 * stride, stride, r.c3)
}

/// Calls `body` with 0 ..< 2, 4 or 8 as constants, so that arrays indexed by them stay in registers.
@inline(__always) func unrolled2(_ body: (Int) -> Void) {
  body(0)
  body(1)
}
@inline(__always) func unrolled4(_ body: (Int) -> Void) {
  body(0)
  body(1)
  body(2)
  body(3)
}
@inline(__always) func unrolled8(_ body: (Int) -> Void) {
  body(0)
  body(1)
  body(2)
  body(3)
  body(4)
  body(5)
  body(6)
  body(7)
}
@inline(__always) func unrolled16(_ body: (Int) -> Void) {
  unrolled8(body)
  unrolled8 { body($0 + 8) }
}

/// Where an unpacker writes.
struct Tile {
  var values: UnsafeMutableRawPointer
  var scales: UnsafeMutablePointer<Float>
  var minimums: UnsafeMutablePointer<Float>

  /// The dword column at `k` (a multiple of 4, from the tile's first k).
  @inline(__always) func set(_ k: Int, _ column: Dwords) {
    (values + k * tileRows).storeBytes(of: column, as: Dwords.self)
  }
  /// Eight columns from `k` on.
  @inline(__always) func set(_ k: Int, _ columns: InlineArray<8, Dwords>) {
    unrolled8 { set(k + 4 * $0, columns[$0]) }
  }
  @inline(__always) func setScale(_ block: Int, _ d: Floats) { store(scales + block * tileRows, d) }
  @inline(__always) func setMinimum(_ block: Int, _ m: Floats) { store(minimums + block * tileRows, m) }
}

/// How one block-quantised kind is unpacked.
protocol BlockKind {
  /// Weights that share a scale: 16 or 32.
  static var block: Int { get }
  /// Whether weights are u · D + M.
  static var isAffine: Bool { get }
  /// What is subtracted from the bytes of a symmetric kind.
  static var offset: Int32 { get }
  /// Whether the bytes are signed.
  static var isSigned: Bool { get }
  /// How many dot products of 4 may be added in 16 bits: ⌊32767 / (2 · 127 · max u)⌋.
  static var stepsIn16Bits: Int { get }
  /// Weights and bytes of a storage block.
  static var blockElements: Int { get }
  static var blockBytes: Int { get }
  /// Unpacks the `blockElements` weights at `p` of 16 rows `stride` bytes apart to `k…` of the tile.
  static func unpack(_ p: UnsafeRawPointer, _ stride: Int, _ tile: Tile, _ k: Int)
}

extension BlockKind {
  static var isAffine: Bool { false }
  static var offset: Int32 { 0 }
  static var isSigned: Bool { false }
}

@inline(__always) func right(_ x: Dwords, _ n: Int32) -> Dwords { csimd_shift_right(x, n) }
@inline(__always) func left(_ x: Dwords, _ n: Int32) -> Dwords { csimd_shift_left(x, n) }
/// The same byte in all positions.
@inline(__always) func splat(_ byte: UInt32) -> Dwords { Dwords(repeating: byte &* 0x0101_0101) }

/// Columns of 16 rows × 32 bytes.
@inline(__always) func columns32(_ p: UnsafeRawPointer, _ stride: Int) -> InlineArray<8, Dwords> {
  let a = loadColumns(p, stride)
  let b = loadColumns(p + 16, stride)
  return [a.c0, a.c1, a.c2, a.c3, b.c0, b.c1, b.c2, b.c3]
}

/// Eight bytes at `p` in each of 16 rows, as two columns of dwords.
@inline(__always) func loadTwoColumns(_ p: UnsafeRawPointer, _ stride: Int) -> (Dwords, Dwords) {
  let a = csimd_load_qword_lanes(p, stride)
  let b = csimd_load_qword_lanes(p + 2 * stride, stride)
  return (csimd_even_dwords(a, b), csimd_odd_dwords(a, b))
}

/// 32 nibbles of each row as 8 columns: bytes 0…15 hold weight j in the low and weight j + 16 in the high half.
@inline(__always) func nibbles(_ c: Columns) -> InlineArray<8, Dwords> {
  let mask = splat(0x0f)
  return [
    c.c0 & mask, c.c1 & mask, c.c2 & mask, c.c3 & mask, right(c.c0, 4) & mask, right(c.c1, 4) & mask,
    right(c.c2, 4) & mask, right(c.c3, 4) & mask,
  ]
}

/// The same with a fifth bit: bit j of the dword `high` belongs to weight j.
@inline(__always) func fiveBits(_ c: Columns, _ high: Dwords) -> InlineArray<8, Dwords> {
  let q = nibbles(c)
  return [
    csimd_add_fifth_bits(q[0], high, 0), csimd_add_fifth_bits(q[1], high, 1), csimd_add_fifth_bits(q[2], high, 2),
    csimd_add_fifth_bits(q[3], high, 3), csimd_add_fifth_bits(q[4], high, 4), csimd_add_fifth_bits(q[5], high, 5),
    csimd_add_fifth_bits(q[6], high, 6), csimd_add_fifth_bits(q[7], high, 7),
  ]
}

/// f16 d; 16 bytes of nibbles.
enum Q4_0: BlockKind {
  static var block: Int { 32 }
  static var offset: Int32 { 8 }
  static var stepsIn16Bits: Int { 8 }
  static var blockElements: Int { 32 }
  static var blockBytes: Int { 18 }
  @inline(__always) static func unpack(_ p: UnsafeRawPointer, _ stride: Int, _ tile: Tile, _ k: Int) {
    tile.setScale(k / 32, csimd_load_halves(p, stride))
    tile.set(k, nibbles(loadColumns(p + 2, stride)))
  }
}

/// f16 d, m; 16 bytes of nibbles.
enum Q4_1: BlockKind {
  static var block: Int { 32 }
  static var isAffine: Bool { true }
  static var stepsIn16Bits: Int { 8 }
  static var blockElements: Int { 32 }
  static var blockBytes: Int { 20 }
  @inline(__always) static func unpack(_ p: UnsafeRawPointer, _ stride: Int, _ tile: Tile, _ k: Int) {
    let header = csimd_load_dwords(p, stride)
    tile.setScale(k / 32, csimd_low_half(header))
    tile.setMinimum(k / 32, csimd_high_half(header))
    tile.set(k, nibbles(loadColumns(p + 4, stride)))
  }
}

/// f16 d; 32 fifth bits; 16 bytes of nibbles.
enum Q5_0: BlockKind {
  static var block: Int { 32 }
  static var offset: Int32 { 16 }
  static var stepsIn16Bits: Int { 4 }
  static var blockElements: Int { 32 }
  static var blockBytes: Int { 22 }
  /// d and the fifth bits.
  @inline(__always) static func header(_ p: UnsafeRawPointer, _ stride: Int) -> (Floats, Dwords) {
    let (a, b) = loadTwoColumns(p, stride)
    return (csimd_low_half(a), right(a, 16) | left(b, 16))
  }
  @inline(__always) static func unpack(_ p: UnsafeRawPointer, _ stride: Int, _ tile: Tile, _ k: Int) {
    let (d, high) = header(p, stride)
    tile.setScale(k / 32, d)
    tile.set(k, fiveBits(loadColumns(p + 6, stride), high))
  }
}

/// f16 d, m; 32 fifth bits; 16 bytes of nibbles.
enum Q5_1: BlockKind {
  static var block: Int { 32 }
  static var isAffine: Bool { true }
  static var stepsIn16Bits: Int { 4 }
  static var blockElements: Int { 32 }
  static var blockBytes: Int { 24 }
  @inline(__always) static func unpack(_ p: UnsafeRawPointer, _ stride: Int, _ tile: Tile, _ k: Int) {
    let (header, high) = loadTwoColumns(p, stride)
    tile.setScale(k / 32, csimd_low_half(header))
    tile.setMinimum(k / 32, csimd_high_half(header))
    tile.set(k, fiveBits(loadColumns(p + 8, stride), high))
  }
}

/// f16 d; 32 int8. The tile holds them + 128, except at v3, whose dot product takes signed bytes.
enum Q8_0: BlockKind {
  static var block: Int { 32 }
  static var offset: Int32 { compiledLevel == 3 ? 0 : 128 }
  static var isSigned: Bool { compiledLevel == 3 }
  static var stepsIn16Bits: Int { 1 }
  static var blockElements: Int { 32 }
  static var blockBytes: Int { 34 }
  @inline(__always) static func unpack(_ p: UnsafeRawPointer, _ stride: Int, _ tile: Tile, _ k: Int) {
    tile.setScale(k / 32, csimd_load_halves(p, stride))
    let flip = compiledLevel == 3 ? Dwords.zero : splat(0x80)
    let q = columns32(p + 2, stride)
    unrolled8 { j in tile.set(k + 4 * j, q[j] ^ flip) }
  }
}

/// The 6-bit scales and minimums of 8 sub-blocks in 12 bytes (Q4_K, Q5_K), and their f16 factors d, dmin before them.
@inline(__always) func setSixBitScales(_ p: UnsafeRawPointer, _ stride: Int, _ tile: Tile, _ k: Int) {
  let c = loadColumns(p, stride)
  let d = csimd_low_half(c.c0)
  let dmin = csimd_high_half(c.c0)
  let mask6 = splat(0x3f)
  let mask4 = splat(0x0f)
  let mask2 = splat(0x30)
  let scales: InlineArray<2, Dwords> = [c.c1 & mask6, c.c3 & mask4 | right(c.c1, 2) & mask2]
  let minimums: InlineArray<2, Dwords> = [c.c2 & mask6, right(c.c3, 4) & mask4 | right(c.c2, 2) & mask2]
  unrolled8 { i in
    tile.setScale(k / 32 + i, d * csimd_byte_to_float(scales[i / 4], Int32(i % 4)))
    tile.setMinimum(k / 32 + i, -(dmin * csimd_byte_to_float(minimums[i / 4], Int32(i % 4))))
  }
}

/// f16 d, dmin; 12 bytes of 6-bit scales and minimums; 128 bytes of nibbles.
enum Q4_K: BlockKind {
  static var block: Int { 32 }
  static var isAffine: Bool { true }
  static var stepsIn16Bits: Int { 8 }
  static var blockElements: Int { 256 }
  static var blockBytes: Int { 144 }
  @inline(__always) static func unpack(_ p: UnsafeRawPointer, _ stride: Int, _ tile: Tile, _ k: Int) {
    setSixBitScales(p, stride, tile, k)
    let mask = splat(0x0f)
    unrolled4 { j in
      let q = columns32(p + 16 + 32 * j, stride)
      unrolled8 { c in
        tile.set(k + 64 * j + 4 * c, q[c] & mask)
        tile.set(k + 64 * j + 32 + 4 * c, right(q[c], 4) & mask)
      }
    }
  }
}

/// f16 d, dmin; 12 bytes of 6-bit scales and minimums; 32 bytes of fifth bits; 128 bytes of nibbles.
enum Q5_K: BlockKind {
  static var block: Int { 32 }
  static var isAffine: Bool { true }
  static var stepsIn16Bits: Int { 4 }
  static var blockElements: Int { 256 }
  static var blockBytes: Int { 176 }
  @inline(__always) static func unpack(_ p: UnsafeRawPointer, _ stride: Int, _ tile: Tile, _ k: Int) {
    setSixBitScales(p, stride, tile, k)
    let mask = splat(0x0f)
    let bit = splat(0x10)
    let high = columns32(p + 16, stride)
    unrolled4 { j in
      let q = columns32(p + 48 + 32 * j, stride)
      unrolled8 { c in
        // Bit 2j belongs to the low nibble, bit 2j + 1 to the high one; both go to bit 4.
        let even = j < 2 ? left(high[c], Int32(4 - 2 * j)) : right(high[c], Int32(2 * j - 4))
        let odd = j < 2 ? left(high[c], Int32(3 - 2 * j)) : right(high[c], Int32(2 * j - 3))
        tile.set(k + 64 * j + 4 * c, q[c] & mask | even & bit)
        tile.set(k + 64 * j + 32 + 4 * c, right(q[c], 4) & mask | odd & bit)
      }
    }
  }
}

/// 128 bytes of nibbles; 64 bytes of two upper bits; 16 int8 scales; f16 d.
enum Q6_K: BlockKind {
  static var block: Int { 16 }
  static var offset: Int32 { 32 }
  static var stepsIn16Bits: Int { 2 }
  static var blockElements: Int { 256 }
  static var blockBytes: Int { 210 }
  @inline(__always) static func unpackScales(_ p: UnsafeRawPointer, _ stride: Int, _ tile: Tile, _ k: Int) {
    let d = csimd_load_halves(p + 208, stride)
    let s = loadColumns(p + 192, stride)
    let scales: InlineArray<4, Dwords> = [s.c0, s.c1, s.c2, s.c3]
    unrolled16 { i in tile.setScale(k / 16 + i, d * csimd_signed_byte_to_float(scales[i / 4], Int32(i % 4))) }
  }
  @inline(__always) static func unpack(_ p: UnsafeRawPointer, _ stride: Int, _ tile: Tile, _ k: Int) {
    unpackScales(p, stride, tile, k)
    let mask = splat(0x0f)
    let top = splat(0x30)
    unrolled2 { n in
      let high = columns32(p + 128 + 32 * n, stride)
      unrolled2 { part in
        let q = columns32(p + 64 * n + 32 * part, stride)
        unrolled8 { c in
          let at = k + 128 * n + 32 * part + 4 * c
          tile.set(at, q[c] & mask | left(high[c], part == 0 ? 4 : 2) & top)
          tile.set(at + 64, right(q[c], 4) & mask | right(high[c], part == 0 ? 0 : 2) & top)
        }
      }
    }
  }
}

/// 32 bytes of third bits; 64 bytes of two lower bits; 12 bytes of 6-bit scales; f16 d.
enum Q3_K: BlockKind {
  static var block: Int { 16 }
  static var offset: Int32 { 4 }
  static var stepsIn16Bits: Int { 8 }
  static var blockElements: Int { 256 }
  static var blockBytes: Int { 110 }
  @inline(__always) static func unpackScales(_ p: UnsafeRawPointer, _ stride: Int, _ tile: Tile, _ k: Int) {
    let d = csimd_load_halves(p + 108, stride)
    // 16 bytes that end where the scales end, so that nothing after the row is read.
    let s = loadColumns(p + 92, stride)
    let mask4 = splat(0x0f)
    let mask2 = splat(0x30)
    let scales: InlineArray<4, Dwords> = [
      s.c1 & mask4 | left(s.c3, 4) & mask2,
      s.c2 & mask4 | left(s.c3, 2) & mask2,
      right(s.c1, 4) & mask4 | s.c3 & mask2,
      right(s.c2, 4) & mask4 | right(s.c3, 2) & mask2,
    ]
    let bias = Floats(repeating: 32)
    unrolled16 { i in
      tile.setScale(k / 16 + i, d * (csimd_byte_to_float(scales[i / 4], Int32(i % 4)) - bias))
    }
  }
  @inline(__always) static func unpack(_ p: UnsafeRawPointer, _ stride: Int, _ tile: Tile, _ k: Int) {
    unpackScales(p, stride, tile, k)
    let third = columns32(p, stride)
    unrolled2 { n in
      let q = columns32(p + 32 + 32 * n, stride)
      unrolled4 { j in
        let bit = 4 * n + j
        unrolled8 { c in
          let high = bit < 2 ? left(third[c], Int32(2 - bit)) : right(third[c], Int32(bit - 2))
          tile.set(k + 128 * n + 32 * j + 4 * c, right(q[c], Int32(2 * j)) & splat(3) | high & splat(4))
        }
      }
    }
  }
}

/// 16 bytes of 4-bit scales and minimums; 64 bytes of two bits; f16 d, dmin.
enum Q2_K: BlockKind {
  static var block: Int { 16 }
  static var isAffine: Bool { true }
  static var stepsIn16Bits: Int { 8 }
  static var blockElements: Int { 256 }
  static var blockBytes: Int { 84 }
  @inline(__always) static func unpackScales(_ p: UnsafeRawPointer, _ stride: Int, _ tile: Tile, _ k: Int) {
    let header = csimd_load_dwords(p + 80, stride)
    let d = csimd_low_half(header)
    let dmin = csimd_high_half(header)
    let s = loadColumns(p, stride)
    let scales: InlineArray<4, Dwords> = [s.c0, s.c1, s.c2, s.c3]
    unrolled16 { i in
      let x = scales[i / 4]
      tile.setScale(k / 16 + i, d * csimd_byte_to_float(x & splat(0x0f), Int32(i % 4)))
      tile.setMinimum(k / 16 + i, -(dmin * csimd_byte_to_float(right(x, 4) & splat(0x0f), Int32(i % 4))))
    }
  }
  @inline(__always) static func unpack(_ p: UnsafeRawPointer, _ stride: Int, _ tile: Tile, _ k: Int) {
    unpackScales(p, stride, tile, k)
    unrolled2 { n in
      let q = columns32(p + 16 + 32 * n, stride)
      unrolled4 { j in
        unrolled8 { c in tile.set(k + 128 * n + 32 * j + 4 * c, right(q[c], Int32(2 * j)) & splat(3)) }
      }
    }
  }
}
