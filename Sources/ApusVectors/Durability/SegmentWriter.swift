/// How a segment is laid out, little endian:
///
///     page 0            [magic u64][version u32][0…]
///     each section      its bytes, from a page's boundary; zeros up to the next
///     checksums         crc32c u32 of each block of 64 KiB of each section
///     table             per section [name length u16][name][offset u64][length u64]
///     footer, 56 bytes  [checksums offset u64][table offset u64][section count u32][crc32c of checksums u32]
///                       [crc32c of table u32][version u32][file length u64][0 u32][crc32c of the footer so far u32][magic u64]
enum SegmentFormat {
  static let magic: UInt64 = 0x4745_5353_5550_4101  // 1, "APUSSEG" in the file's order of bytes
  static let version: UInt32 = 1
  /// Sections begin at multiples of this, so that each can be mapped alone.
  static let pageBytes = 4096
  static let blockBytes = 64 << 10
  static let footerBytes = 56
  static let maximumNameBytes = 255

  static func blocks(_ byteCount: Int) -> Int { (byteCount + blockBytes - 1) / blockBytes }
}

/// Which file is a checkpoint, and how to tell that it is the right one.
public struct SegmentReference: Sendable, Equatable {
  public var name: String
  public var byteCount: Int
  /// The checksum in the footer. It covers the table and the sections' checksums.
  public var checksum: UInt32
}

/// Writes a segment front to back in bounded memory (1 MiB, and 4 bytes per 64 KiB); the same input gives the same bytes.
public final class SegmentWriter {
  struct Section {
    var name: String
    var offset: Int
    var byteCount: Int
  }

  private static let bufferBytes = 1 << 20

  private let layer: any FileLayer
  private let folder: String
  private let name: String
  private let file: any AppendFile
  private var buffer: [UInt8] = []
  private var length = 0
  private var sections: [Section] = []
  private var checksums: [UInt8] = []
  private var block: (checksum: UInt32, byteCount: Int) = (0, 0)

  /// Begins a segment under a temporary name; `finish` gives it its own.
  public init(_ layer: any FileLayer, folder: String, name: String) throws(DurabilityError) {
    (self.layer, self.folder, self.name) = (layer, folder, name)
    file = try layer.create("\(folder)/\(SystemFileLayer.temporary(name))")
    buffer.reserveCapacity(Self.bufferBytes)
    var header: [UInt8] = []
    header.append(littleEndian: SegmentFormat.magic)
    header.append(littleEndian: SegmentFormat.version)
    try put(header.span.bytes)
    try pad()
  }

  /// Begins the section `name` (1…255 bytes, not used before); the one before it ends.
  public func begin(_ name: String) throws(DurabilityError) {
    precondition(1...SegmentFormat.maximumNameBytes ~= name.utf8.count, "a section's name has 1…255 bytes")
    precondition(!sections.contains { $0.name == name }, "section '\(name)' was begun twice")
    try end()
    sections.append(Section(name: name, offset: length, byteCount: 0))
  }

  /// Appends to the section begun last.
  public func write(_ bytes: RawSpan) throws(DurabilityError) {
    precondition(!sections.isEmpty, "no section was begun")
    var start = 0
    while start < bytes.byteCount {
      let count = min(SegmentFormat.blockBytes - block.byteCount, bytes.byteCount - start)
      block.checksum = bytes.extracting(start..<start + count).crc32c(seed: block.checksum)
      block.byteCount += count
      start += count
      if block.byteCount == SegmentFormat.blockBytes { endBlock() }
    }
    sections[sections.count - 1].byteCount += bytes.byteCount
    try put(bytes)
  }

  /// Ends the segment and makes it durable under its name.
  public func finish() throws(DurabilityError) -> SegmentReference {
    try end()
    let (checksumsOffset, checksums) = (length, checksums)
    try put(checksums.span.bytes)
    var table: [UInt8] = []
    for section in sections {
      table.append(littleEndian: UInt16(section.name.utf8.count))
      table.append(contentsOf: section.name.utf8)
      table.append(littleEndian: UInt64(section.offset))
      table.append(littleEndian: UInt64(section.byteCount))
    }
    var footer: [UInt8] = []
    footer.append(littleEndian: UInt64(checksumsOffset))
    footer.append(littleEndian: UInt64(length))
    footer.append(littleEndian: UInt32(sections.count))
    footer.append(littleEndian: checksums.span.bytes.crc32c())
    footer.append(littleEndian: table.span.bytes.crc32c())
    footer.append(littleEndian: SegmentFormat.version)
    footer.append(littleEndian: UInt64(length + table.count + SegmentFormat.footerBytes))
    footer.append(littleEndian: UInt32(0))
    footer.appendChecksum()
    let checksum: UInt32 = footer.span.bytes.load(at: footer.count - 4)
    footer.append(littleEndian: SegmentFormat.magic)
    try put(table.span.bytes)
    try put(footer.span.bytes)
    try flush()
    try file.synchronize()
    try layer.publish(name, in: folder)
    return SegmentReference(name: name, byteCount: length, checksum: checksum)
  }

  private func end() throws(DurabilityError) {
    if block.byteCount > 0 { endBlock() }
    try pad()
  }

  private func endBlock() {
    checksums.append(littleEndian: block.checksum)
    block = (0, 0)
  }

  private func pad() throws(DurabilityError) {
    let zeros = [UInt8](repeating: 0, count: -length & (SegmentFormat.pageBytes - 1))
    try put(zeros.span.bytes)
  }

  private func put(_ bytes: RawSpan) throws(DurabilityError) {
    if buffer.count + bytes.byteCount > Self.bufferBytes { try flush() }
    if bytes.byteCount > Self.bufferBytes { try file.write(bytes) } else { buffer.append(bytes) }
    length += bytes.byteCount
  }

  private func flush() throws(DurabilityError) {
    var bytes = exchange(&buffer, with: [])
    try file.write(bytes.span.bytes)
    bytes.removeAll(keepingCapacity: true)
    buffer = bytes
  }
}
