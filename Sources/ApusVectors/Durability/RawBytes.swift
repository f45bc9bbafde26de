import ApusKernels

extension RawSpan {
  /// The little-endian number at byte `offset`; traps beyond the end.
  func load<T: FixedWidthInteger & BitwiseCopyable>(_: T.Type = T.self, at offset: Int) -> T {
    T(littleEndian: unsafeLoadUnaligned(fromByteOffset: offset, as: T.self))
  }

  /// CRC-32C of the bytes; `seed` is 0 or the CRC of what comes before.
  func crc32c(seed: UInt32 = 0) -> UInt32 {
    withUnsafeBytes { $0.isEmpty ? seed : Kernels.current.crc32c(seed, $0.baseAddress!, $0.count) }
  }
}

extension [UInt8] {
  mutating func append(_ bytes: RawSpan) { bytes.withUnsafeBytes { append(contentsOf: $0) } }

  /// Overwrites four bytes at `offset`.
  mutating func store(littleEndian value: UInt32, at offset: Int) {
    for i in 0..<4 { self[offset + i] = UInt8(truncatingIfNeeded: value >> (8 * i)) }
  }

  /// Appends the CRC-32C of everything from `start` on.
  mutating func appendChecksum(from start: Int = 0) { append(littleEndian: span.bytes.extracting(start...).crc32c()) }
}

/// Numbers of records and checkpoints lie below: no store gets there, and a damaged number can't overflow.
let sequenceLimit: UInt64 = 1 << 62

/// Decimal with leading zeros, so that names sort as numbers do.
func padded(_ number: UInt64) -> String {
  let digits = String(number)
  return String(repeating: "0", count: 20 - digits.count) + digits
}

/// The number in a name such as `wal-00000000000000000001.log`; nil for other names.
func number(in name: String, _ prefix: String, _ suffix: String) -> UInt64? {
  guard name.hasPrefix(prefix), name.hasSuffix(suffix) else { return nil }
  let digits = name.dropFirst(prefix.count).dropLast(suffix.count)
  guard digits.count == 20, let number = UInt64(digits), 1..<sequenceLimit ~= number else { return nil }
  return number
}
