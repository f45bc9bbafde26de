import CZlib

/// A zip archive (a Python wheel is one), read where it lies.
///
/// Only what wheels use: members stored or deflated, below 4 GiB, unencrypted. Everything the archive says about itself
/// is checked, and a member never unpacks to more bytes than its entry announces.
/// Source: PKWARE APPNOTE.TXT, sections 4.3.7, 4.3.12 and 4.3.16.
struct WheelArchive {
  struct Member: Equatable {
    var name: String
    var method: UInt16
    var crc32: UInt32
    var compressedSize: Int
    var size: Int
    /// Of the local header.
    var headerOffset: Int
  }

  let file: MappedFile
  let members: [Member]

  /// Maps the archive and reads its directory. Throws `ModelFileError`.
  init(path: String) throws(ModelFileError) {
    file = try MappedFile(path: path)
    members = try Self.readDirectory(file)
  }

  /// The member called `name`. Throws `ModelFileError` of kind `missing`.
  func member(_ name: String) throws(ModelFileError) -> Member {
    if let member = members.first(where: { $0.name == name }) { return member }
    throw ModelFileError(
      kind: .missing, path: file.path, what: "member '\(ModelFileError.printable(name))'",
      seen: "no such member among \(members.count)", expected: "the member")
  }

  /// Unpacks `member`, calling `body` with pieces of at most 256 KiB, front to back; checks size and CRC-32.
  func extract(_ member: Member, _ body: (UnsafeRawBufferPointer) throws -> Void) throws {
    let data = try dataRange(member)
    let bytes = UnsafeRawBufferPointer(rebasing: file.bytes[data])
    var checksum: UInt = 0
    var written = 0
    func emit(_ piece: UnsafeRawBufferPointer) throws {
      if piece.count > member.size - written {
        throw failure(member, "more than the announced \(member.size) bytes", "\(member.size) bytes")
      }
      checksum = crc32(checksum, piece.baseAddress?.assumingMemoryBound(to: UInt8.self), UInt32(piece.count))
      written += piece.count
      try body(piece)
    }
    switch member.method {
    case 0:
      var rest = bytes
      while !rest.isEmpty {
        try emit(UnsafeRawBufferPointer(rebasing: rest.prefix(Self.pieceBytes)))
        rest = UnsafeRawBufferPointer(rebasing: rest.dropFirst(Self.pieceBytes))
      }
    case 8: try inflate(bytes, member, emit)
    default:
      throw ModelFileError(
        kind: .unsupported, path: file.path, what: "member '\(ModelFileError.printable(member.name))'",
        offset: member.headerOffset, seen: "compression method \(member.method)", expected: "stored (0) or deflate (8)")
    }
    guard written == member.size, UInt32(truncatingIfNeeded: checksum) == member.crc32 else {
      throw failure(
        member, "\(written) bytes with CRC \(String(checksum, radix: 16))",
        "\(member.size) bytes with CRC \(String(member.crc32, radix: 16))")
    }
  }

  private static let pieceBytes = 256 << 10

  private func failure(_ member: Member, _ seen: String, _ expected: String) -> ModelFileError {
    ModelFileError(
      kind: .malformed, path: file.path, what: "member '\(ModelFileError.printable(member.name))'",
      offset: member.headerOffset, seen: seen, expected: expected)
  }

  private func inflate(
    _ input: UnsafeRawBufferPointer, _ member: Member, _ emit: (UnsafeRawBufferPointer) throws -> Void
  ) throws {
    var stream = z_stream()
    guard apus_inflate_init_raw(&stream) == Z_OK else { throw failure(member, "no memory for zlib", "memory") }
    defer { inflateEnd(&stream) }
    let output = UnsafeMutableRawBufferPointer.allocate(byteCount: Self.pieceBytes, alignment: 64)
    defer { output.deallocate() }
    // zlib's counters are 32 bits wide; members are below 4 GiB (checked in readDirectory).
    stream.next_in = UnsafeMutablePointer(
      mutating: input.baseAddress?.assumingMemoryBound(to: UInt8.self))
    stream.avail_in = UInt32(input.count)
    while true {
      stream.next_out = output.baseAddress!.assumingMemoryBound(to: UInt8.self)
      stream.avail_out = UInt32(output.count)
      let status = CZlib.inflate(&stream, Z_NO_FLUSH)
      let count = output.count - Int(stream.avail_out)
      if count > 0 { try emit(UnsafeRawBufferPointer(rebasing: output[..<count])) }
      if status == Z_STREAM_END { return }
      // No output and no error: the input has ended before the stream did.
      if status != Z_OK || count == 0 { throw failure(member, "a broken deflate stream (zlib \(status))", "deflate") }
    }
  }

  private func dataRange(_ member: Member) throws(ModelFileError) -> Range<Int> {
    let bytes = file.bytes
    // A local header is 30 bytes, then the name and an extra field whose lengths may differ from the directory's.
    guard member.headerOffset + 30 <= bytes.count, Self.u32(bytes, member.headerOffset) == 0x0403_4B50 else {
      throw failure(member, "no local header", "one at \(member.headerOffset)")
    }
    let start =
      member.headerOffset + 30 + Int(Self.u16(bytes, member.headerOffset + 26))
      + Int(Self.u16(bytes, member.headerOffset + 28))
    guard start + member.compressedSize <= bytes.count else {
      throw failure(member, "\(bytes.count - start) bytes left", "\(member.compressedSize) bytes of data")
    }
    return start..<start + member.compressedSize
  }

  private static func u16(_ bytes: UnsafeRawBufferPointer, _ offset: Int) -> UInt16 {
    UInt16(littleEndian: bytes.loadUnaligned(fromByteOffset: offset, as: UInt16.self))
  }

  private static func u32(_ bytes: UnsafeRawBufferPointer, _ offset: Int) -> UInt32 {
    UInt32(littleEndian: bytes.loadUnaligned(fromByteOffset: offset, as: UInt32.self))
  }

  private static func readDirectory(_ file: MappedFile) throws(ModelFileError) -> [Member] {
    let bytes = file.bytes
    func failure(
      _ offset: Int?, _ seen: String, _ expected: String, kind: ModelFileError.Kind = .malformed
    ) -> ModelFileError {
      ModelFileError(
        kind: kind, path: file.path, what: "zip directory", offset: offset, seen: seen, expected: expected)
    }
    // The end record: 22 bytes and a comment of at most 65,535.
    var end = bytes.count - 22
    let lowest = max(0, end - 65_535)
    while end >= lowest, u32(bytes, end) != 0x0605_4B50 { end -= 1 }
    guard end >= lowest else {
      throw failure(
        nil, "no end record in \(bytes.count) bytes", "a zip archive; is the download complete?", kind: .truncated)
    }
    let count = Int(u16(bytes, end + 10))
    var offset = Int(u32(bytes, end + 16))
    if count == 0xFFFF || offset == 0xFFFF_FFFF {
      throw failure(end, "a zip64 archive", "a wheel below 4 GiB", kind: .unsupported)
    }
    var members: [Member] = []
    for _ in 0..<count {
      guard offset + 46 <= end, u32(bytes, offset) == 0x0201_4B50 else {
        throw failure(offset, "no directory entry", "\(count) entries before byte \(end)")
      }
      let nameLength = Int(u16(bytes, offset + 28))
      let length = 46 + nameLength + Int(u16(bytes, offset + 30)) + Int(u16(bytes, offset + 32))
      guard offset + length <= end else { throw failure(offset, "an entry beyond the directory", "it before \(end)") }
      guard u16(bytes, offset + 8) & 1 == 0 else {
        throw failure(offset, "an encrypted member", "a plain one", kind: .unsupported)
      }
      let compressedSize = u32(bytes, offset + 20)
      let size = u32(bytes, offset + 24)
      if compressedSize == 0xFFFF_FFFF || size == 0xFFFF_FFFF {
        throw failure(offset, "a zip64 member", "members below 4 GiB", kind: .unsupported)
      }
      guard let name = String(validating: bytes[offset + 46..<offset + 46 + nameLength], as: UTF8.self) else {
        throw failure(offset, "a name that is not UTF-8", "UTF-8")
      }
      members.append(
        Member(
          name: name, method: u16(bytes, offset + 10), crc32: u32(bytes, offset + 16),
          compressedSize: Int(compressedSize), size: Int(size), headerOffset: Int(u32(bytes, offset + 42))))
      offset += length
    }
    return members
  }
}
