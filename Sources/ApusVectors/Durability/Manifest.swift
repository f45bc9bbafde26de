/// What a store consists of: `[magic u64][version u32][flags u32][identifier 16][epoch u64][generation u64][firstSeq u64]`
/// `[segment length u64][segment checksum u32][name length u16][name][crc32c u32]`, replaced as a whole.
struct Manifest: Equatable {
  static let fileName = "MANIFEST"
  static let previousFileName = "MANIFEST.previous"
  private static let magic: UInt64 = 0x4E41_4D53_5550_4101  // 1, "APUSMAN" in the file's order of bytes
  private static let version: UInt32 = 1
  private static let fixedBytes = 70

  /// Names the store; a snapshot keeps it.
  var identifier: UInt128
  /// Counts the histories: a restored snapshot and a salvage begin a new one.
  var epoch: UInt64 = 1
  /// Counts the checkpoints.
  var generation: UInt64 = 0
  /// The checkpoint; nil before the first.
  var segment: SegmentReference?
  /// The first record that isn't in the checkpoint.
  var firstSeq: UInt64 = 1
  /// The folder is a snapshot that was never opened as a store.
  var isSnapshot = false

  var bytes: [UInt8] {
    var out: [UInt8] = []
    out.append(littleEndian: Self.magic)
    out.append(littleEndian: Self.version)
    out.append(littleEndian: UInt32(isSnapshot ? 1 : 0))
    out.append(littleEndian: identifier)
    for number in [epoch, generation, firstSeq, UInt64(segment?.byteCount ?? 0)] { out.append(littleEndian: number) }
    out.append(littleEndian: segment?.checksum ?? 0)
    out.append(littleEndian: UInt16(segment?.name.utf8.count ?? 0))
    out.append(contentsOf: segment?.name.utf8.map(\.self) ?? [])
    out.appendChecksum()
    return out
  }

  /// Reads a manifest; throws `damaged`, `unsupported` or `missing`.
  init(_ layer: any FileLayer, folder: String, name: String) throws(DurabilityError) {
    let path = "\(folder)/\(name)"
    let file = try layer.read(path, 0..<min(try layer.size(path), 4096))
    let bytes = file.span.bytes
    let end = bytes.byteCount - 4
    guard end >= Self.fixedBytes, bytes.load(at: end) == bytes.extracting(..<end).crc32c(),
      bytes.load(at: 0) == Self.magic
    else {
      throw DurabilityError(
        .damaged, path, "manifest", seen: "\(bytes.byteCount) bytes with a wrong checksum", expected: "a manifest",
        advice: "Restore a snapshot")
    }
    let version: UInt32 = bytes.load(at: 8)
    guard version == Self.version else {
      throw DurabilityError(.unsupported, path, "version", seen: "\(version)", expected: "\(Self.version)")
    }
    isSnapshot = bytes.load(UInt32.self, at: 12) & 1 != 0
    identifier = bytes.load(at: 16)
    (epoch, generation, firstSeq) = (bytes.load(at: 32), bytes.load(at: 40), bytes.load(at: 48))
    for number in [epoch, generation &+ 1, firstSeq] where !(1..<sequenceLimit ~= number) {
      throw DurabilityError(
        .damaged, path, "manifest", seen: "the number \(number)", expected: "1..<2⁶²", advice: "Restore a snapshot")
    }
    let segmentName = String(decoding: file[Self.fixedBytes..<end], as: UTF8.self)
    if !segmentName.isEmpty {
      segment = SegmentReference(
        name: segmentName, byteCount: Int(truncatingIfNeeded: bytes.load(UInt64.self, at: 56)),
        checksum: bytes.load(at: 64))
    }
  }

  init(identifier: UInt128) { self.identifier = identifier }

  static func segmentName(_ generation: UInt64) -> String { "segment-\(padded(generation)).seg" }
  static func isSegment(_ name: String) -> Bool { number(in: name, "segment-", ".seg") != nil }
}
