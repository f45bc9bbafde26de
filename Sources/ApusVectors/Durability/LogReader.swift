/// What reading a log found.
public struct LogReport: Sendable, Equatable {
  /// Records that were handed over.
  public var recordCount = 0
  /// Bytes behind the last whole record that a crash left; they had never been durable. Nil without a crash.
  public var tornTail: TornTail?
  /// What salvage skipped, each as its error and the numbers of the records that are gone with it.
  public var damage: [DurabilityError] = []
  public var lost: [ClosedRange<UInt64>] = []

  public struct TornTail: Sendable, Equatable {
    public var path: String
    public var offset: Int
    public var byteCount: Int
    /// Whole records among these bytes, behind one that isn't.
    public var recordCount: Int
  }
}

/// A log as its files tell it, and where it goes on.
struct RecoveredLog {
  var report = LogReport()
  /// The number of the next record.
  var next: UInt64
  /// The first record's number of each file, ascending.
  var files: [UInt64] = []
  /// The last file up to its last whole record; nil when there is none that could be continued.
  var tail: (header: LogHeader, bytes: [UInt8])?
}

/// Reads the files of a log, front to back, one file in memory at a time; writes nothing.
struct LogReader {
  static let maximumFileBytes = 4 << 30
  static let salvageAdvice =
    "Restore a snapshot, or copy the folder and open it with --salvage, which skips what is damaged and lists what is lost"

  let layer: any FileLayer
  let folder: String
  /// Files of a later epoch belong to another history.
  let epoch: UInt64
  let isSalvaging: Bool

  /// Calls `body` with each record from `first` on, in order. A torn tail ends the log; any other damage, a missing number
  /// included, throws `damaged` or is skipped and reported in salvage.
  func replay(
    from first: UInt64, through last: UInt64 = .max,
    _ body: (_ seq: UInt64, _ type: UInt8, _ payload: RawSpan) throws -> Void
  ) throws -> RecoveredLog {
    let files = try (layer.list(folder) ?? []).compactMap(LogHeader.firstSeq)
    let start = files.lastIndex { $0 <= first } ?? 0
    var log = RecoveredLog(next: files.isEmpty ? first : min(first, files[start]), files: files)
    var epochs = UInt64(0)...epoch
    for (index, firstSeq) in files.enumerated().dropFirst(start) {
      let path = "\(folder)/\(LogHeader.fileName(firstSeq))"
      let damageBefore = log.report.damage.count
      let bytes = try read(path, &log)
      let header = try header(bytes.span.bytes, path, firstSeq, epochs, &log)
      epochs = min(header.epoch, epoch)...epoch
      if index == start, firstSeq <= first { log.next = firstSeq }
      try expect(firstSeq, path, LogHeader.byteCount, &log)
      let end = try walk(bytes.span.bytes, path, header, isLast: index == files.count - 1, &log) {
        guard first...last ~= $0.seq else { return $0.seq < first }
        try body($0.seq, $0.type, $1)
        $2.recordCount += 1
        return true
      }
      guard let end else { return log }
      if index == files.count - 1, log.report.damage.count == damageBefore {
        log.tail = (header, Array(bytes[..<end]))
      }
    }
    if log.next < first || files.isEmpty {
      try tolerate(
        DurabilityError(
          .missing, folder, "log", seen: files.isEmpty ? "no file" : "an end before record \(log.next)",
          expected: "all records before \(first), which the checkpoint holds", advice: Self.salvageAdvice), &log)
      log.next = first
      log.tail = nil
    }
    log.report.lost = log.report.lost.filter { $0.upperBound >= first }.map {
      max(first, $0.lowerBound)...$0.upperBound
    }
    return log
  }

  private func read(_ path: String, _ log: inout RecoveredLog) throws -> [UInt8] {
    let size = try layer.size(path)
    guard size > Self.maximumFileBytes else { return try layer.read(path, 0..<size) }
    try tolerate(
      DurabilityError(.limit, path, "length", seen: "\(size) bytes", expected: "at most \(Self.maximumFileBytes)"), &log
    )
    return try layer.read(path, 0..<Self.maximumFileBytes)
  }

  private func header(
    _ bytes: RawSpan, _ path: String, _ firstSeq: UInt64, _ epochs: ClosedRange<UInt64>, _ log: inout RecoveredLog
  ) throws -> LogHeader {
    do {
      let header = try LogHeader(bytes, path: path)
      guard header.firstSeq == firstSeq, epochs ~= header.epoch else {
        throw damaged(
          path, "header", 16, "record \(header.firstSeq) of epoch \(header.epoch)",
          "record \(firstSeq) of epoch \(epochs.lowerBound)…\(epochs.upperBound)")
      }
      return header
    } catch let error as DurabilityError {
      try tolerate(error, &log)
      // The salt may be whole though something else isn't; otherwise no record will be found.
      let salt = bytes.byteCount >= LogHeader.byteCount ? bytes.load(UInt32.self, at: 12) : 0
      return LogHeader(salt: salt, firstSeq: firstSeq, epoch: epochs.lowerBound)
    }
  }

  /// Gives each record to `body` until it returns false (the result is nil then) or the file ends (its usable length).
  private func walk(
    _ bytes: RawSpan, _ path: String, _ header: LogHeader, isLast: Bool, _ log: inout RecoveredLog,
    _ body: (LogRecord, RawSpan, inout LogReport) throws -> Bool
  ) throws -> Int? {
    var offset = LogHeader.byteCount
    while offset < bytes.byteCount {
      if let record = LogRecord(bytes, at: offset, salt: header.salt) {
        if record.type != LogRecord.markerType {
          try expect(record.seq, path, offset, &log)
          if record.seq == log.next {
            guard try body(record, bytes.extracting(record.payload), &log.report) else { return nil }
            log.next += 1
          }
        }
        offset = record.payload.upperBound
        continue
      }
      let rest = survey(bytes, after: offset, header.salt, next: log.next)
      if isLast, !rest.wasDurable {
        log.report.tornTail = .init(
          path: path, offset: offset, byteCount: bytes.byteCount - offset, recordCount: rest.recordCount)
        break
      }
      try tolerate(damaged(path, "record", offset, "a wrong length or checksum", "record \(log.next)"), &log)
      guard let resume = rest.resume else { break }
      lose(before: resume.seq, &log)
      offset = resume.offset
    }
    return offset
  }

  /// What lies behind a place that holds no record: where reading can go on, from which record, how many records there
  /// are, and whether a marker proves that the place had been durable.
  private func survey(
    _ bytes: RawSpan, after place: Int, _ salt: UInt32, next: UInt64
  ) -> (resume: (offset: Int, seq: UInt64)?, recordCount: Int, wasDurable: Bool) {
    var (resume, recordCount, wasDurable): ((offset: Int, seq: UInt64)?, Int, Bool) = (nil, 0, false)
    var offset = place + 1
    // What a payload may make us sum up in vain: it can't forge a record, but look like very many.
    var budget = 16 * bytes.byteCount
    while offset + LogRecord.headerBytes <= bytes.byteCount {
      // Cheap before costly: a number that can't occur here is no record.
      let seq: UInt64 = bytes.load(at: offset + 8)
      let isMarker = bytes.load(UInt8.self, at: offset + 16) == LogRecord.markerType
      let length = isMarker ? 0 : min(Int(bytes.load(UInt32.self, at: offset)), bytes.byteCount - offset)
      guard seq >= next - 1, seq - (next - 1) <= bytes.byteCount, length <= budget else {
        offset += 1
        continue
      }
      budget -= length
      guard let record = LogRecord(bytes, at: offset, salt: salt) else {
        offset += 1
        continue
      }
      if isMarker { wasDurable = wasDurable || bytes.load(UInt64.self, at: record.payload.lowerBound) > place }
      recordCount += isMarker ? 0 : 1
      resume = resume ?? (offset, isMarker ? seq + 1 : seq)
      offset = record.payload.upperBound
    }
    return (resume, recordCount, wasDurable)
  }

  /// Throws (or reports) when `seq` isn't the number that comes next; a greater one means that records are lost.
  private func expect(_ seq: UInt64, _ path: String, _ offset: Int, _ log: inout RecoveredLog) throws {
    guard seq != log.next else { return }
    try tolerate(damaged(path, "sequence number", offset, "\(seq)", "\(log.next)"), &log)
    lose(before: seq, &log)
  }

  private func lose(before seq: UInt64, _ log: inout RecoveredLog) {
    guard seq > log.next else { return }
    log.report.lost.append(log.next...seq - 1)
    log.next = seq
  }

  private func tolerate(_ error: DurabilityError, _ log: inout RecoveredLog) throws {
    guard isSalvaging else { throw error }
    log.report.damage.append(error)
  }

  private func damaged(_ path: String, _ what: String, _ offset: Int, _ seen: String, _ expected: String)
    -> DurabilityError
  {
    DurabilityError(
      .damaged, path, what, offset: offset, seen: seen, expected: expected, advice: Self.salvageAdvice)
  }
}
