/// The first 40 bytes of a log file: `[magic 8][version u32][salt u32][firstSeq u64][epoch u64][0 u32][crc32c u32]`.
struct LogHeader: Equatable {
  static let byteCount = 40
  static let magic: UInt64 = 0x4C41_5753_5550_4101  // 1, "APUSWAL" in the file's order of bytes
  static let version: UInt32 = 1

  /// What the records' checksums start from. Random, so that no payload can pass for a record.
  var salt: UInt32
  /// The number of the first record; the file's name tells it too.
  var firstSeq: UInt64
  /// The store's epoch when the file was begun.
  var epoch: UInt64

  var bytes: [UInt8] {
    var out: [UInt8] = []
    out.append(littleEndian: Self.magic)
    out.append(littleEndian: Self.version)
    out.append(littleEndian: salt)
    out.append(littleEndian: firstSeq)
    out.append(littleEndian: epoch)
    out.append(littleEndian: UInt32(0))
    out.appendChecksum()
    return out
  }

  /// Throws `damaged` or `unsupported`.
  init(_ bytes: RawSpan, path: String) throws(DurabilityError) {
    guard bytes.byteCount >= Self.byteCount, bytes.load(at: 36) == bytes.extracting(..<36).crc32c(),
      bytes.load(at: 0) == Self.magic
    else {
      throw DurabilityError(
        .damaged, path, "header", offset: 0, seen: "\(bytes.byteCount) bytes without a valid header",
        expected: "a log of Apus", advice: LogReader.salvageAdvice)
    }
    let version: UInt32 = bytes.load(at: 8)
    guard version == Self.version else {
      throw DurabilityError(.unsupported, path, "version", seen: "\(version)", expected: "\(Self.version)")
    }
    self.init(salt: bytes.load(at: 12), firstSeq: bytes.load(at: 16), epoch: bytes.load(at: 24))
  }

  init(salt: UInt32, firstSeq: UInt64, epoch: UInt64) {
    self.salt = salt
    self.firstSeq = firstSeq
    self.epoch = epoch
  }

  static func fileName(_ firstSeq: UInt64) -> String { "wal-\(padded(firstSeq)).log" }
  static func firstSeq(_ fileName: String) -> UInt64? { number(in: fileName, "wal-", ".log") }
}

/// A record in a log file: `[len u32][crc32c u32][seq u64][type u8][payload]`; `len` counts seq, type and payload, the
/// checksum covers them.
///
/// Type 0 is the log's own: a *sync marker*, written behind each successful sync. Its payload tells how much of the file
/// was durable then, its number the last durable record. Markers take no number. They tell a torn tail (never durable, so
/// nobody was told that it is) from damage to what had been durable: power loss may keep a later page and lose an earlier.
struct LogRecord {
  static let headerBytes = 17
  static let markerType: UInt8 = 0
  static let markerBytes = headerBytes + 8
  static let maximumPayload = 1 << 30

  let seq: UInt64
  let type: UInt8
  /// Where the payload lies in the file.
  let payload: Range<Int>

  /// The record at `offset`; nil when there is no whole and valid one.
  init?(_ bytes: RawSpan, at offset: Int, salt: UInt32) {
    guard bytes.byteCount - offset >= Self.headerBytes else { return nil }
    let length = Int(bytes.load(UInt32.self, at: offset))
    guard (9...9 + Self.maximumPayload).contains(length), length <= bytes.byteCount - offset - 8 else { return nil }
    type = bytes.load(at: offset + 16)
    if type == Self.markerType, length != Self.markerBytes - 8 { return nil }
    guard bytes.extracting(offset + 8..<offset + 8 + length).crc32c(seed: salt) == bytes.load(at: offset + 4) else {
      return nil
    }
    seq = bytes.load(at: offset + 8)
    if seq >= sequenceLimit { return nil }
    payload = offset + Self.headerBytes..<offset + 8 + length
  }

  /// Completes the record that begins at `start` of `bytes`: seventeen bytes of room, then the payload.
  static func seal(_ bytes: inout [UInt8], from start: Int, seq: UInt64, type: UInt8, salt: UInt32) {
    bytes.store(littleEndian: UInt32(bytes.count - start - 8), at: start)
    bytes.store(littleEndian: UInt32(truncatingIfNeeded: seq), at: start + 8)
    bytes.store(littleEndian: UInt32(truncatingIfNeeded: seq >> 32), at: start + 12)
    bytes[start + 16] = type
    bytes.store(littleEndian: bytes.span.bytes.extracting((start + 8)...).crc32c(seed: salt), at: start + 4)
  }

  static func marker(durable length: Int, seq: UInt64, salt: UInt32) -> [UInt8] {
    var bytes = [UInt8](repeating: 0, count: headerBytes)
    bytes.append(littleEndian: UInt64(length))
    seal(&bytes, from: 0, seq: seq, type: markerType, salt: salt)
    return bytes
  }
}
