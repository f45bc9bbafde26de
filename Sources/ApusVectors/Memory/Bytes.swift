/// Reads little-endian numbers from untrusted bytes: every read is checked.
struct ByteReader {
  private let bytes: UnsafeRawBufferPointer
  private let what: String
  private(set) var offset = 0

  /// `what` names the thing in errors.
  init(_ bytes: UnsafeRawBufferPointer, what: String) {
    self.bytes = bytes
    self.what = what
  }

  var remaining: Int { bytes.count - offset }

  mutating func next<T: FixedWidthInteger & BitwiseCopyable>(_: T.Type) throws -> T {
    guard remaining >= MemoryLayout<T>.size else { throw truncated(MemoryLayout<T>.size) }
    defer { offset += MemoryLayout<T>.size }
    return T(littleEndian: bytes.loadUnaligned(fromByteOffset: offset, as: T.self))
  }

  mutating func copy(_ count: Int, to memory: UnsafeMutableRawPointer) throws {
    memory.copyMemory(from: try take(count).baseAddress!, byteCount: count)
  }

  /// The next `count` bytes, in place.
  mutating func take(_ count: Int) throws -> UnsafeRawBufferPointer {
    guard count >= 0, remaining >= count else { throw truncated(count) }
    defer { offset += count }
    return UnsafeRawBufferPointer(rebasing: bytes[offset..<offset + count])
  }

  private func truncated(_ wanted: Int) -> VectorError {
    .corrupt("\(what) ends at byte \(bytes.count); \(wanted) more expected at \(offset)")
  }
}

extension [UInt8] {
  mutating func append<T: FixedWidthInteger>(littleEndian value: T) {
    Swift.withUnsafeBytes(of: value.littleEndian) { append(contentsOf: $0) }
  }
}
