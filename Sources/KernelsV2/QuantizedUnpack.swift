import CSIMD
import KernelInterface

/// The longest k range of a tile: values and one panel of activations stay in a 32 kB L1 cache.
let maxTileK = 768

/// The thread's scratch memory, cut up for the quantised kernels. Everything is 64-byte aligned.
struct QuantizedScratch {
  let tile: Tile
  /// Padded copy of the rows of a last, short tile: `[16][bytes of maxTileK]`.
  let rows: UnsafeMutableRawPointer
  /// What follows, for the caller: `restBytes`.
  let rest: UnsafeMutableRawPointer
  let restBytes: Int

  @inline(__always) init(_ base: UnsafeMutableRawPointer) {
    let values = maxTileK * tileRows
    let scales = maxTileK / 16 * tileRows * 4
    let copies = maxTileK / 32 * 34 * tileRows  // Q8_0 is the widest kind
    tile = Tile(
      values: base, scales: (base + values).assumingMemoryBound(to: Float.self),
      minimums: (base + values + scales).assumingMemoryBound(to: Float.self))
    rows = base + values + 2 * scales
    rest = rows + (copies + 63) / 64 * 64
    restBytes = KernelTable.scratchBytes - (rest - UnsafeMutableRawPointer(base))
  }
}

/// Unpacks `kc` (a multiple of the kind's storage block, at most `maxTileK`) weights from `k0` of up to 16 rows.
///
/// A short tile's rows are copied first, padded with zeros, so that no byte after the matrix is read. As many bytes as are
/// unpacked are fetched into L2 from `ahead` on, in order of addresses: sixteen rows far apart are too many streams for
/// the processor to follow by itself.
@inline(__always) func unpackTile<Kind: BlockKind>(
  _: Kind.Type, _ w: UnsafeRawPointer, rowBytes: Int, rows: Int, k0: Int, kc: Int, _ scratch: QuantizedScratch,
  ahead: UnsafeRawPointer? = nil
) {
  var p = w + k0 / Kind.blockElements * Kind.blockBytes
  var stride = rowBytes
  if rows < tileRows {
    let bytes = kc / Kind.blockElements * Kind.blockBytes
    for row in 0..<rows { (scratch.rows + row * bytes).copyMemory(from: p + row * rowBytes, byteCount: bytes) }
    (scratch.rows + rows * bytes).initializeMemory(as: UInt8.self, repeating: 0, count: (tileRows - rows) * bytes)
    p = UnsafeRawPointer(scratch.rows)
    stride = bytes
  }
  let lines = (tileRows * Kind.blockBytes + 63) / 64
  var next = ahead
  var k = 0
  while k < kc {
    if let line = next {
      for i in 0..<lines { csimd_prefetch(line + 64 * i) }
      next = line + tileRows * Kind.blockBytes
    }
    Kind.unpack(p, stride, scratch.tile, k)
    p += Kind.blockBytes
    k += Kind.blockElements
  }
}

/// The weights of a tile as f32: `[kc][16]`.
@inline(__always) func tileToFloat<Kind: BlockKind>(
  _: Kind.Type, _ tile: Tile, kc: Int, _ out: UnsafeMutablePointer<Float>
) {
  let offset = Floats(repeating: Float(Kind.offset))
  for block in 0..<(kc / Kind.block) {
    let d: Floats = load(tile.scales + block * tileRows)
    let m: Floats = Kind.isAffine ? load(tile.minimums + block * tileRows) : .zero
    for j in 0..<(Kind.block / 4) {
      let k = block * Kind.block + 4 * j
      let q: Dwords = load(tile.values + k * tileRows)
      for i in 0..<4 {
        let u = Kind.isSigned ? csimd_signed_byte_to_float(q, Int32(i)) : csimd_byte_to_float(q, Int32(i))
        store(out + (k + i) * tileRows, Kind.isAffine ? csimd_fma(u, d, m) : (u - offset) * d)
      }
    }
  }
}

/// Dequantises `kc` weights from `k0` of up to 16 rows of a block-quantised matrix to `out`, f32 `[kc][16]`.
///
/// `w` is the first row; `k0` and `kc` are multiples of the kind's storage block; `rows` beyond the given ones are zero
/// (or, of an all-zero storage block, whatever zero bytes mean: zero in every kind). `scratch` is the thread's.
func unpackTileToFloat(
  _ kind: DType, _ w: UnsafeRawPointer, rowBytes: Int, rows: Int, k0: Int, kc: Int, _ out: UnsafeMutablePointer<Float>,
  _ scratch: UnsafeMutableRawPointer
) {
  switch kind {
  case .q4_0: unpackToFloat(Q4_0.self, w, rowBytes, rows, k0, kc, out, scratch)
  case .q4_1: unpackToFloat(Q4_1.self, w, rowBytes, rows, k0, kc, out, scratch)
  case .q5_0: unpackToFloat(Q5_0.self, w, rowBytes, rows, k0, kc, out, scratch)
  case .q5_1: unpackToFloat(Q5_1.self, w, rowBytes, rows, k0, kc, out, scratch)
  case .q8_0: unpackToFloat(Q8_0.self, w, rowBytes, rows, k0, kc, out, scratch)
  case .q2_K: unpackToFloat(Q2_K.self, w, rowBytes, rows, k0, kc, out, scratch)
  case .q3_K: unpackToFloat(Q3_K.self, w, rowBytes, rows, k0, kc, out, scratch)
  case .q4_K: unpackToFloat(Q4_K.self, w, rowBytes, rows, k0, kc, out, scratch)
  case .q5_K: unpackToFloat(Q5_K.self, w, rowBytes, rows, k0, kc, out, scratch)
  case .q6_K: unpackToFloat(Q6_K.self, w, rowBytes, rows, k0, kc, out, scratch)
  case .f32, .f16, .bf16, .i32: preconditionFailure("unpackTileToFloat of the dense kind \(kind.name)")
  }
}

@inline(__always) private func unpackToFloat<Kind: BlockKind>(
  _: Kind.Type, _ w: UnsafeRawPointer, _ rowBytes: Int, _ rows: Int, _ k0: Int, _ kc: Int,
  _ out: UnsafeMutablePointer<Float>, _ scratch: UnsafeMutableRawPointer
) {
  let memory = QuantizedScratch(scratch)
  var k = 0
  while k < kc {
    let count = min(maxTileK, kc - k)
    unpackTile(Kind.self, w, rowBytes: rowBytes, rows: rows, k0: k0 + k, kc: count, memory)
    tileToFloat(Kind.self, memory.tile, kc: count, out + k * tileRows)
    k += count
  }
}

/// `count` weights of one row, a multiple of the kind's storage block, to f32: 16 storage blocks are a tile's 16 rows.
func dequantizeBlocks(_ kind: DType, _ source: UnsafeRawPointer, _ count: Int, _ out: UnsafeMutablePointer<Float>) {
  switch kind {
  case .q4_0: dequantize(Q4_0.self, source, count, out)
  case .q4_1: dequantize(Q4_1.self, source, count, out)
  case .q5_0: dequantize(Q5_0.self, source, count, out)
  case .q5_1: dequantize(Q5_1.self, source, count, out)
  case .q8_0: dequantize(Q8_0.self, source, count, out)
  case .q2_K: dequantize(Q2_K.self, source, count, out)
  case .q3_K: dequantize(Q3_K.self, source, count, out)
  case .q4_K: dequantize(Q4_K.self, source, count, out)
  case .q5_K: dequantize(Q5_K.self, source, count, out)
  case .q6_K: dequantize(Q6_K.self, source, count, out)
  case .f32, .f16, .bf16, .i32: preconditionFailure("dequantizeBlocks of the dense kind \(kind.name)")
  }
}

@inline(__always) private func dequantize<Kind: BlockKind>(
  _: Kind.Type, _ source: UnsafeRawPointer, _ count: Int, _ out: UnsafeMutablePointer<Float>
) {
  // Values, scales and minimums of 256 k, a padded copy of 16 blocks, and the result of a short tile.
  var memory = InlineArray<2368, SIMD4<Float>>(repeating: .zero)
  var span = memory.mutableSpan
  span.withUnsafeMutableBytes { bytes in
    let base = bytes.baseAddress.unsafelyUnwrapped
    let tile = Tile(
      values: base, scales: (base + 4096).assumingMemoryBound(to: Float.self),
      minimums: (base + 5120).assumingMemoryBound(to: Float.self))
    let padded = base + 6144  // 16 · 210 bytes
    let short = (base + 6144 + 3392).assumingMemoryBound(to: Float.self)
    let blocks = count / Kind.blockElements
    var first = 0
    while first < blocks {
      let rows = min(tileRows, blocks - first)
      var p = source + first * Kind.blockBytes
      let target = out + first * Kind.blockElements
      if rows < tileRows {
        padded.copyMemory(from: p, byteCount: rows * Kind.blockBytes)
        p = UnsafeRawPointer(padded)
      }
      Kind.unpack(p, Kind.blockBytes, tile, 0)
      if rows == tileRows {
        storeRows(Kind.self, tile, target)
      } else {
        storeRows(Kind.self, tile, short)
        target.update(from: short, count: rows * Kind.blockElements)
      }
      first += rows
    }
  }
}

/// A tile of one storage block, as f32 `[16][blockElements]`.
@inline(__always) private func storeRows<Kind: BlockKind>(
  _: Kind.Type, _ tile: Tile, _ out: UnsafeMutablePointer<Float>
) {
  let offset = Floats(repeating: Float(Kind.offset))
  for k in stride(from: 0, to: Kind.blockElements, by: 4) {
    let d: Floats = load(tile.scales + k / Kind.block * tileRows)
    let m: Floats = Kind.isAffine ? load(tile.minimums + k / Kind.block * tileRows) : .zero
    let q: Dwords = load(tile.values + k * tileRows)
    var f = zeros(InlineArray<4, Dwords>.self)
    for i in 0..<4 {
      let u = Kind.isSigned ? csimd_signed_byte_to_float(q, Int32(i)) : csimd_byte_to_float(q, Int32(i))
      f[i] = unsafeBitCast(Kind.isAffine ? csimd_fma(u, d, m) : (u - offset) * d, to: Dwords.self)
    }
    storeColumns(out + k, Kind.blockElements * 4, Columns(c0: f[0], c1: f[1], c2: f[2], c3: f[3]))
  }
}
