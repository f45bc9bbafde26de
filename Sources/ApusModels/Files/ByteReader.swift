/// Reads little-endian values from a mapped file, front to back, checking every length against the bytes that are left.
struct ByteReader {
  let file: MappedFile
  /// Copied out of `file` once: the inner loops over hundreds of thousands of strings go through it.
  private let bytes: UnsafeRawBufferPointer
  private(set) var offset = 0
  /// The tensor, key or field being read, for error messages.
  var what = "header"

  init(_ file: MappedFile) {
    self.file = file
    bytes = file.bytes
  }

  var remaining: Int { bytes.count - offset }

  func error(_ kind: ModelFileError.Kind, at place: Int? = nil, seen: String, expected: String) -> ModelFileError {
    ModelFileError(
      kind: kind, path: file.path, what: what, offset: place ?? offset, seen: seen, expected: expected)
  }

  /// Moves past `count` bytes, which must exist.
  @inline(__always)
  mutating func skip(_ count: Int, _ field: @autoclosure () -> String) throws(ModelFileError) {
    guard count >= 0, count <= remaining else {
      throw error(.truncated, seen: "\(remaining) bytes left in the file", expected: "\(count) bytes of \(field())")
    }
    offset += count
  }

  @inline(__always)
  mutating func read<T: FixedWidthInteger & BitwiseCopyable>(
    _: T.Type, _ field: @autoclosure () -> String
  ) throws(ModelFileError) -> T {
    let start = offset
    try skip(MemoryLayout<T>.size, field())
    return T(littleEndian: bytes.loadUnaligned(fromByteOffset: start, as: T.self))
  }

  /// A 64-bit length or count that must be at most `limit`, checked before anything is allocated for it.
  @inline(__always)
  mutating func readCount(
    atMost limit: Int, _ field: @autoclosure () -> String, because reason: @autoclosure () -> String
  ) throws(ModelFileError) -> Int {
    let start = offset
    let value = try read(UInt64.self, field())
    guard value <= UInt64(limit) else {
      throw error(.limit, at: start, seen: "\(field()) of \(value)", expected: "at most \(limit) (\(reason()))")
    }
    return Int(value)
  }

  /// A length-prefixed string as the range of its bytes.
  @inline(__always)
  mutating func readStringRange(_ field: @autoclosure () -> String) throws(ModelFileError) -> Range<Int> {
    let length = try readCount(atMost: max(0, remaining - 8), "length of \(field())", because: "bytes left in the file")
    let start = offset
    offset += length
    return start..<offset
  }

  /// A length-prefixed name: valid UTF-8, at most `limit` bytes.
  mutating func readName(atMost limit: Int, _ field: String) throws(ModelFileError) -> String {
    let start = offset
    let range = try readStringRange(field)
    guard range.count <= limit else {
      throw error(.limit, at: start, seen: "\(field) of \(range.count) bytes", expected: "at most \(limit) bytes")
    }
    guard let name = String(validating: bytes[range], as: UTF8.self) else {
      throw error(.malformed, at: range.lowerBound, seen: "\(field) that is not UTF-8", expected: "UTF-8")
    }
    return name
  }
}
