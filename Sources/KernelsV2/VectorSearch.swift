import CSIMD
import KernelInterface

// Distances of one query to a list of rows. Rows come from anywhere in memory, so each loop fetches rows some places
// ahead of the one that it works on.

private let lineBytes = 64

/// Fetches the `bytes` of a row.
@inline(__always) private func fetch(_ row: UnsafeRawPointer, bytes: Int) {
  var offset = 0
  while offset < bytes {
    csimd_prefetch_read(row + offset)
    offset += lineBytes
  }
}

/// Calls `body` for each row of the list while the rows up to `ahead` places on are being fetched.
@inline(__always) private func forEachRow(
  _ rows: RowChunks, _ numbers: UnsafePointer<UInt32>, _ count: Int, bytes: Int, ahead: Int,
  _ body: (Int, UnsafeRawPointer) -> Void
) {
  for i in 0..<min(ahead, count) { fetch(rows.row(numbers[i]), bytes: bytes) }
  for i in 0..<count {
    if i + ahead < count { fetch(rows.row(numbers[i + ahead]), bytes: bytes) }
    body(i, rows.row(numbers[i]))
  }
}

/// Rows of floats are long: a few fill the processor's line buffers.
private let floatsAhead = 3
private let codesAhead = 8
private let bitsAhead = 16

/// ‖a − b‖² of `length` (a multiple of 16) floats, in four chains.
@inline(__always) private func squaredDistance(_ a: UnsafePointer<Float>, _ b: UnsafePointer<Float>, _ length: Int)
  -> Float
{
  var (s0, s1, s2, s3) = (V16.zero, V16.zero, V16.zero, V16.zero)
  var i = 0
  while i + 64 <= length {
    let (d0, d1) = (load16(a + i) - load16(b + i), load16(a + i + 16) - load16(b + i + 16))
    let (d2, d3) = (load16(a + i + 32) - load16(b + i + 32), load16(a + i + 48) - load16(b + i + 48))
    s0 = fma(s0, d0, d0)
    s1 = fma(s1, d1, d1)
    s2 = fma(s2, d2, d2)
    s3 = fma(s3, d3, d3)
    i += 64
  }
  while i < length {
    let d = load16(a + i) - load16(b + i)
    s0 = fma(s0, d, d)
    i += 16
  }
  return sum16((s0 + s1) + (s2 + s3))
}

@inline(__always) private func innerProduct(_ a: UnsafePointer<Float>, _ b: UnsafePointer<Float>, _ length: Int)
  -> Float
{
  var (s0, s1, s2, s3) = (V16.zero, V16.zero, V16.zero, V16.zero)
  var i = 0
  while i + 64 <= length {
    s0 = fma(s0, load16(a + i), load16(b + i))
    s1 = fma(s1, load16(a + i + 16), load16(b + i + 16))
    s2 = fma(s2, load16(a + i + 32), load16(b + i + 32))
    s3 = fma(s3, load16(a + i + 48), load16(b + i + 48))
    i += 64
  }
  while i < length {
    s0 = fma(s0, load16(a + i), load16(b + i))
    i += 16
  }
  return sum16((s0 + s1) + (s2 + s3))
}

func squaredDistances(
  _ query: UnsafePointer<Float>, _ length: Int, _ rows: RowChunks, _ numbers: UnsafePointer<UInt32>, _ count: Int,
  _ out: UnsafeMutablePointer<Float>
) {
  forEachRow(rows, numbers, count, bytes: length * 4, ahead: floatsAhead) { i, row in
    out[i] = squaredDistance(query, row.assumingMemoryBound(to: Float.self), length)
  }
}

func innerProducts(
  _ query: UnsafePointer<Float>, _ length: Int, _ rows: RowChunks, _ numbers: UnsafePointer<UInt32>, _ count: Int,
  _ out: UnsafeMutablePointer<Float>
) {
  forEachRow(rows, numbers, count, bytes: length * 4, ahead: floatsAhead) { i, row in
    out[i] = innerProduct(query, row.assumingMemoryBound(to: Float.self), length)
  }
}

func codeScores(
  _ query: CodeQuery, _ rows: RowChunks, _ numbers: UnsafePointer<UInt32>, _ count: Int,
  _ out: UnsafeMutablePointer<Float>
) {
  let bytes = CodeLayout.codesOffset + query.count
  forEachRow(rows, numbers, count, bytes: bytes, ahead: codesAhead) { i, row in
    let product = csimd_dot_codes(row + CodeLayout.codesOffset, query.codes, query.count, query.sum)
    let scale = row.loadUnaligned(as: Float.self)
    let offset = row.loadUnaligned(fromByteOffset: 4, as: Float.self)
    // Product and sum apart, never one FMA: the level must not show in the result.
    out[i] = query.offsetFactor * offset + query.factor * scale * Float(product)
  }
}

func crc32c(_ seed: UInt32, _ bytes: UnsafeRawPointer, _ count: Int) -> UInt32 {
  var crc = ~seed
  var i = 0
  while i + 8 <= count {
    crc = csimd_crc32c_8(crc, bytes.loadUnaligned(fromByteOffset: i, as: UInt64.self))
    i += 8
  }
  while i < count {
    crc = csimd_crc32c_1(crc, bytes.load(fromByteOffset: i, as: UInt8.self))
    i += 1
  }
  return ~crc
}

func bitBounds(
  _ query: BitQuery, _ rows: RowChunks, _ numbers: UnsafePointer<UInt32>, _ count: Int,
  _ out: UnsafeMutablePointer<Float>
) {
  let bytes = BitLayout.bitsOffset + query.count / 8
  forEachRow(rows, numbers, count, bytes: bytes, ahead: bitsAhead) { i, row in
    let set = csimd_sum_where_set(row + BitLayout.bitsOffset, query.codes, query.count)
    let product = query.scale * Float(2 * set - query.sum)
    let base = row.load(as: Float.self)
    let factor = row.load(fromByteOffset: 4, as: Float.self)
    let error = row.load(fromByteOffset: 8, as: Float.self)
    out[i] = query.base + base - factor * product - query.error * error
  }
}
