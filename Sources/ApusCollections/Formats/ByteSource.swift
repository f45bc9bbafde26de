/// Where bytes come from: a range of a file, or a packed member of an archive. Read front to back with `open()`.
struct ByteSource: Sendable {
  let file: FileBytes
  /// What errors call it, or nothing for a whole file: `member 'base.npy'`.
  var name = ""
  /// The bytes in the file, packed or not.
  var range: Range<Int>
  /// Bytes once unpacked.
  var count: Int
  var isDeflated = false
  /// Of the unpacked bytes; checked when the last one is read.
  var checksum: UInt32?

  /// A whole file.
  init(_ file: FileBytes) {
    self.file = file
    range = 0..<file.count
    count = file.count
  }

  func error(_ field: String, seen: String, expected: String, wayOut: String = VectorFileError.copyAgain)
    -> VectorFileError
  {
    VectorFileError(
      path: file.path, field: name.isEmpty ? field : "\(name), \(field)", seen: seen, expected: expected,
      wayOut: wayOut)
  }

  /// Throws an error of `field` unless `isRight`.
  func check(
    _ isRight: Bool, _ field: @autoclosure () -> String, seen: @autoclosure () -> String,
    expected: @autoclosure () -> String, wayOut: @autoclosure () -> String = VectorFileError.copyAgain
  ) throws(VectorFileError) {
    if !isRight { throw error(field(), seen: seen(), expected: expected(), wayOut: wayOut()) }
  }

  /// A stream at the first byte; any number of them can be open at once.
  func open() -> ByteStream { ByteStream(self) }

  /// The first `count` bytes, or all when there are fewer.
  func head(_ count: Int) throws(VectorFileError) -> [UInt8] {
    var bytes: [UInt8] = []
    try open().read(min(count, self.count), into: &bytes)
    return bytes
  }
}

/// The bytes of a source, front to back, in pieces of the reader's choice.
final class ByteStream {
  let source: ByteSource
  /// Bytes that are still to come.
  private(set) var remaining: Int
  private var position: Int
  private let inflater: Inflater?
  private var checksum: UInt32 = 0

  /// Bytes of packed data read at a time.
  private static let pieceBytes = 256 << 10

  fileprivate init(_ source: ByteSource) {
    self.source = source
    remaining = source.count
    position = source.range.lowerBound
    inflater = source.isDeflated ? Inflater() : nil
  }

  /// Makes `bytes` the next `count` bytes, at most `remaining`.
  func read(_ count: Int, into bytes: inout [UInt8]) throws(VectorFileError) {
    precondition(count <= remaining)
    if let inflater {
      if bytes.count != count { bytes = [UInt8](repeating: 0, count: count) }
      var filled = 0
      while filled < count { filled += try unpack(inflater, into: &bytes, from: filled, isEndExpected: false) }
    } else {
      try source.file.read(count, at: position, into: &bytes)
      position += count
    }
    remaining -= count
    guard let expected = source.checksum else { return }
    checksum = crc32(checksum, bytes)
    if remaining > 0 { return }
    if let inflater {
      var more: [UInt8] = [0]
      let count = try unpack(inflater, into: &more, from: 0, isEndExpected: true)
      try source.check(count == 0, "data", seen: "more than \(source.count) bytes", expected: "as many as announced")
    }
    try source.check(checksum == expected, "data", seen: "CRC-32 \(checksum)", expected: "\(expected)")
  }

  /// Unpacks at least one byte, or none at the end of the stream if that is expected here.
  private func unpack(_ inflater: Inflater, into bytes: inout [UInt8], from start: Int, isEndExpected: Bool)
    throws(VectorFileError) -> Int
  {
    while true {
      let (count, status) = inflater.step(into: &bytes, from: start)
      if count > 0 { return count }
      switch status {
      case .progress: continue
      case .ended where isEndExpected: return 0
      case .needsInput where position < source.range.upperBound:
        var piece: [UInt8] = []
        let pieceCount = min(Self.pieceBytes, source.range.upperBound - position)
        try source.file.read(pieceCount, at: position, into: &piece)
        position += pieceCount
        inflater.feed(piece)
      case .ended, .needsInput, .broken:
        throw source.error(
          "data", seen: status == .broken ? "a broken deflate stream" : "the end of the deflate stream too early",
          expected: "\(source.count) bytes of deflated data")
      }
    }
  }
}

extension [UInt8] {
  /// The little-endian number at `offset`.
  func number<T: FixedWidthInteger>(_: T.Type = T.self, at offset: Int) -> T {
    self[offset..<offset + MemoryLayout<T>.size].reversed().reduce(0) { $0 << 8 | T(truncatingIfNeeded: $1) }
  }
}
