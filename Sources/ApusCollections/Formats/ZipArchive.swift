/// A zip archive such as numpy's npz: members stored or deflated, also beyond 4 GiB, read by name.
///
/// Source: PKWARE APPNOTE.TXT, sections 4.3.7, 4.3.12, 4.3.14 to 4.3.16 and 4.5.3.
struct ZipArchive: Sendable {
  struct Member: Sendable {
    var name: String
    var method: UInt16
    var checksum: UInt32
    var count: Int
    var packedCount: Int
    var headerOffset: Int
  }

  let file: FileBytes
  let members: [Member]
  /// Where the directory starts and the members end.
  private let directoryOffset: Int

  /// The members' names for an error.
  var memberList: String { VectorFileError.printable(members.map(\.name).joined(separator: ", ")) }

  /// Reads the directory.
  init(_ file: FileBytes) throws(VectorFileError) {
    self.file = file
    let (range, entries) = try Self.directory(file)
    directoryOffset = range.lowerBound
    var bytes: [UInt8] = []
    try file.read(range.count, at: range.lowerBound, into: &bytes)
    members = try Self.members(bytes, entries, ByteSource(file))
  }

  /// The data of the member called `name` or `name.npy`.
  func source(_ name: String) throws(VectorFileError) -> ByteSource {
    var source = ByteSource(file)
    source.name = "member '\(VectorFileError.printable(name))'"
    guard let member = members.first(where: { $0.name == name || $0.name == name + ".npy" }) else {
      throw source.error(
        "name", seen: "only \(memberList)", expected: "a member of that name", wayOut: "name one: PATH.npz:NAME")
    }
    // A local header is 30 bytes, then the name and an extra field whose lengths differ from the directory's.
    var header: [UInt8] = []
    try source.check(
      member.headerOffset <= directoryOffset - 30, "header offset", seen: "\(member.headerOffset)",
      expected: "one well before \(directoryOffset)")
    try file.read(30, at: member.headerOffset, into: &header)
    let start =
      member.headerOffset + 30 + Int(header.number(UInt16.self, at: 26)) + Int(header.number(UInt16.self, at: 28))
    try source.check(
      header.number(UInt32.self, at: 0) == 0x0403_4B50 && start <= directoryOffset - member.packedCount, "data",
      seen: "no \(member.packedCount) bytes behind a local header at byte \(member.headerOffset)",
      expected: "them before byte \(directoryOffset)")
    try source.check(
      member.method == 0 || member.method == 8, "compression method", seen: "\(member.method)",
      expected: "stored (0) or deflate (8)", wayOut: "write the archive with numpy.savez")
    source.isDeflated = member.method == 8
    try source.check(
      source.isDeflated
        ? member.count / VectorFileLimits.deflateRatio <= member.packedCount : member.count == member.packedCount,
      "size", seen: "\(member.count) bytes out of \(member.packedCount)",
      expected: source.isDeflated ? "at most \(VectorFileLimits.deflateRatio) for one, deflate's limit" : "as many")
    source.range = start..<start + member.packedCount
    source.count = member.count
    source.checksum = member.checksum
    return source
  }

  /// Finds the list of members by the end record, or the one of zip64: the bytes of the list and its entries.
  private static func directory(_ file: FileBytes) throws(VectorFileError) -> (range: Range<Int>, entries: Int) {
    let source = ByteSource(file)
    // The end record: 22 bytes and a comment of at most 65,535 that reaches the end of the file.
    var tail: [UInt8] = []
    let tailCount = min(file.count, 22 + 65_535)
    try file.read(tailCount, at: file.count - tailCount, into: &tail)
    let ends = (0..<max(0, tailCount - 21)).last { place in
      tail[place] == 0x50 && tail.number(UInt32.self, at: place) == 0x0605_4B50
        && place + 22 + Int(tail.number(UInt16.self, at: place + 20)) == tailCount
    }
    guard let end = ends else {
      throw source.error("zip end record", seen: "none in \(file.count) bytes", expected: "a zip archive")
    }
    var recordOffset = file.count - tailCount + end
    var (count, size, offset) = (
      UInt64(tail.number(UInt16.self, at: end + 10)), UInt64(tail.number(UInt32.self, at: end + 12)),
      UInt64(tail.number(UInt32.self, at: end + 16))
    )
    // The locator of zip64's end record lies right before the old one.
    if end >= 20, tail.number(UInt32.self, at: end - 20) == 0x0706_4B50 {
      let place = tail.number(UInt64.self, at: end - 12)
      try source.check(
        recordOffset >= 76 && place <= UInt64(recordOffset - 76), "zip64 end record", seen: "byte \(place)",
        expected: "one well before byte \(recordOffset)")
      recordOffset = Int(place)
      try file.read(56, at: recordOffset, into: &tail)
      try source.check(
        tail.number(UInt32.self, at: 0) == 0x0606_4B50, "zip64 end record", seen: "none at \(place)", expected: "one")
      (count, size, offset) = (tail.number(at: 32), tail.number(at: 40), tail.number(at: 48))
    }
    let limit = UInt64(min(VectorFileLimits.archiveDirectoryBytes, recordOffset))
    try source.check(
      count <= UInt64(VectorFileLimits.archiveMembers) && size <= limit && offset <= UInt64(recordOffset) - size,
      "zip directory", seen: "\(count) members in \(size) bytes at \(offset)",
      expected: "at most \(VectorFileLimits.archiveMembers) in \(limit) bytes before byte \(recordOffset)")
    return (Int(offset)..<Int(offset + size), Int(count))
  }

  private static func members(
    _ bytes: [UInt8], _ count: Int, _ source: ByteSource
  ) throws(VectorFileError) -> [Member] {
    var members: [Member] = []
    var names: Set<String> = []
    var at = 0
    while members.count < count {
      try source.check(
        at + 46 <= bytes.count && bytes.number(UInt32.self, at: at) == 0x0201_4B50, "zip directory",
        seen: "\(members.count) entries", expected: "\(count)")
      let nameEnd = at + 46 + Int(bytes.number(UInt16.self, at: at + 28))
      let extraEnd = nameEnd + Int(bytes.number(UInt16.self, at: at + 30))
      let next = extraEnd + Int(bytes.number(UInt16.self, at: at + 32))
      try source.check(
        next <= bytes.count, "zip directory", seen: "an entry beyond its end", expected: "\(count) entries")
      let name = String(decoding: bytes[at + 46..<nameEnd], as: UTF8.self)
      let field = "zip member '\(VectorFileError.printable(name))'"
      try source.check(names.insert(name).inserted, field, seen: "it twice", expected: "each name once")
      try source.check(
        bytes[at + 8] & 1 == 0, field, seen: "an encrypted one", expected: "a plain one", wayOut: "unpack it first")
      var sizes: [UInt64] = [24, 20, 42].map { UInt64(bytes.number(UInt32.self, at: at + $0)) }
      widen(&sizes, bytes, nameEnd..<extraEnd)
      try source.check(
        sizes.allSatisfy { $0 <= UInt64(Int.max / 2) }, field, seen: "sizes \(sizes)", expected: "sizes of a file")
      members.append(
        Member(
          name: name, method: bytes.number(at: at + 10), checksum: bytes.number(at: at + 16), count: Int(sizes[0]),
          packedCount: Int(sizes[1]), headerOffset: Int(sizes[2])))
      at = next
    }
    return members
  }

  /// Replaces the sizes that don't fit 32 bits by those of zip64's extra field, which lists just them, in this order.
  private static func widen(_ sizes: inout [UInt64], _ bytes: [UInt8], _ extra: Range<Int>) {
    var at = extra.lowerBound
    while at + 4 <= extra.upperBound {
      let end = min(at + 4 + Int(bytes.number(UInt16.self, at: at + 2)), extra.upperBound)
      if bytes.number(UInt16.self, at: at) == 1 {
        at += 4
        for index in sizes.indices where sizes[index] == UInt64(UInt32.max) && at + 8 <= end {
          sizes[index] = bytes.number(at: at)
          at += 8
        }
        return
      }
      at = end
    }
  }
}
