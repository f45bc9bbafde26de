/// An immutable file of named sections, mapped.
///
/// Opening checks header, table and footer; the sections' bytes are checked by `verify`. Memory that `section` gives is
/// private: writing into it changes neither the file nor what `verify` sees.
public final class SegmentFile: Sendable {
  public let path: String
  private let layer: any FileLayer
  private let mapped: MappedBytes
  private let sections: [SegmentWriter.Section]
  private let checksums: [UInt8]

  /// Maps a segment; with `reference`, throws `damaged` when it isn't that one.
  public init(
    _ layer: any FileLayer, path: String, expecting reference: SegmentReference? = nil
  ) throws(DurabilityError) {
    func damaged(_ what: String, _ seen: String, _ expected: String) -> DurabilityError {
      DurabilityError(
        .damaged, path, what, seen: seen, expected: expected, advice: "Restore this file from a snapshot")
    }
    let mapped = try layer.map(path)
    let bytes = mapped.bytes.bytes
    let size = bytes.byteCount
    guard size >= SegmentFormat.pageBytes + SegmentFormat.footerBytes, bytes.load(at: 0) == SegmentFormat.magic else {
      throw damaged("header", "\(size) bytes without the magic number", "a segment of Apus")
    }
    let end = size - SegmentFormat.footerBytes
    let footer = bytes.extracting(end...)
    guard footer.load(at: 48) == SegmentFormat.magic, footer.load(at: 44) == footer.extracting(..<44).crc32c(),
      footer.load(at: 32) == UInt64(size)
    else { throw damaged("footer", "a wrong checksum or length", "a whole file") }
    for version: UInt32 in [bytes.load(at: 8), footer.load(at: 28)] where version != SegmentFormat.version {
      throw DurabilityError(.unsupported, path, "version", seen: "\(version)", expected: "\(SegmentFormat.version)")
    }
    if let reference {
      let checksum: UInt32 = footer.load(at: 44)
      guard reference.byteCount == size, reference.checksum == checksum else {
        throw damaged(
          "footer", "\(size) bytes with checksum \(checksum)",
          "\(reference.byteCount) bytes with checksum \(reference.checksum), as the manifest says")
      }
    }
    let (checksumsAt, tableAt): (UInt64, UInt64) = (footer.load(at: 0), footer.load(at: 8))
    guard tableAt <= end, checksumsAt <= tableAt else { throw damaged("footer", "offsets beyond the end", "a table") }
    let checksums = bytes.extracting(Int(checksumsAt)..<Int(tableAt))
    let table = bytes.extracting(Int(tableAt)..<end)
    guard footer.load(at: 20) == checksums.crc32c() else {
      throw damaged("checksums", "a wrong checksum", "a right one")
    }
    guard footer.load(at: 24) == table.crc32c(),
      let sections = Self.sections(table, count: footer.load(at: 16), end: Int(checksumsAt)),
      sections.reduce(0, { $0 + SegmentFormat.blocks($1.byteCount) }) * 4 == checksums.byteCount
    else { throw damaged("table", "a wrong checksum or entry", "sections one after another") }
    self.path = path
    self.layer = layer
    self.mapped = mapped
    self.sections = sections
    var copy: [UInt8] = []
    copy.append(checksums)
    self.checksums = copy
  }

  private static func sections(_ table: RawSpan, count: UInt32, end: Int) -> [SegmentWriter.Section]? {
    var (sections, at, free): ([SegmentWriter.Section], Int, Int) = ([], 0, SegmentFormat.pageBytes)
    for _ in 0..<count {
      guard table.byteCount - at >= 2 else { return nil }
      let nameBytes = Int(table.load(UInt16.self, at: at))
      guard table.byteCount - at >= nameBytes + 18 else { return nil }
      let name = table.extracting(at + 2..<at + 2 + nameBytes).withUnsafeBytes { String(decoding: $0, as: UTF8.self) }
      at += nameBytes + 18
      let (offset, length): (UInt64, UInt64) = (table.load(at: at - 16), table.load(at: at - 8))
      guard offset == free, offset <= end, length <= UInt64(end) - offset else { return nil }
      sections.append(.init(name: name, offset: free, byteCount: Int(length)))
      free = (free + Int(length) + SegmentFormat.pageBytes - 1) & -SegmentFormat.pageBytes
    }
    return at == table.byteCount && free == end ? sections : nil
  }

  /// The names of the sections, in the order of the file.
  public var names: [String] { sections.map(\.name) }

  public func contains(_ name: String) -> Bool { sections.contains { $0.name == name } }

  /// The bytes of a section as private memory that lives as long as this object; throws `missing`.
  public func section(_ name: String) throws(DurabilityError) -> UnsafeMutableRawBufferPointer {
    let section = try find(name)
    return UnsafeMutableRawBufferPointer(
      rebasing: mapped.bytes[section.offset..<section.offset + section.byteCount])
  }

  /// Takes a section, or what follows its first bytes, from resident memory: it was copied and not written into.
  func evict(_ name: String, after kept: Int = 0) throws(DurabilityError) {
    let section = try find(name)
    let start = (section.offset + kept + SegmentFormat.pageBytes - 1) & -SegmentFormat.pageBytes
    let end = section.offset + section.byteCount
    if start < end { mapped.evict(start..<end) }
  }

  /// Reads a section from the file and checks each block; throws `damaged` naming section and block.
  public func verify(section name: String) throws(DurabilityError) {
    let (section, checksums) = (try find(name), checksums)
    var index = sections.prefix { $0.name != name }.reduce(0) { $0 + SegmentFormat.blocks($1.byteCount) }
    for start in stride(from: 0, to: section.byteCount, by: SegmentFormat.blockBytes) {
      let end = min(start + SegmentFormat.blockBytes, section.byteCount)
      let bytes = try layer.read(path, section.offset + start..<section.offset + end)
      guard bytes.span.bytes.crc32c() == checksums.span.bytes.load(at: 4 * index) else {
        throw DurabilityError(
          .damaged, path, "section '\(name)', block \(start / SegmentFormat.blockBytes)",
          offset: section.offset + start,
          seen: "a wrong checksum", expected: "the bytes that were written",
          advice: "Restore this file from a snapshot")
      }
      index += 1
    }
  }

  /// Checks every section.
  public func verifyAll() throws(DurabilityError) {
    for section in sections { try verify(section: section.name) }
  }

  private func find(_ name: String) throws(DurabilityError) -> SegmentWriter.Section {
    if let section = sections.first(where: { $0.name == name }) { return section }
    throw DurabilityError(
      .missing, path, "section '\(name)'", seen: "sections \(names.joined(separator: ", "))", expected: "it among them")
  }
}
