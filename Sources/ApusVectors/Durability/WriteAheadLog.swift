/// A log of numbered records that survive a crash once `waitDurable` has returned.
///
/// Any thread may append; a record enters a buffer under a mutex. Whoever waits first leads: it writes all that is
/// buffered and syncs once for everybody, while the next group gathers (group commit). Space is set aside before a record
/// is taken, so a full disk refuses an append and leaves the log as it was.
///
/// After a failed write or sync nothing more is accepted, ever: what is on the disk is known only to who reads it again.
/// The files are `wal-<number of the first record>.log`; all but the last are durable to their end.
public final class WriteAheadLog: Sendable {
  /// When `commit` returns.
  public enum Policy: Sendable, Equatable {
    /// When the record is on the disk.
    case always
    /// When the system has the record, which outlives the process but not the machine; the disk has it after this time.
    case interval(milliseconds: Int)
    /// When the system has the record; the disk gets it when the system likes, or at a checkpoint.
    case never
  }

  public struct Options: Sendable {
    public var policy: Policy
    /// Size at which the next file is begun.
    public var fileBytes: Int
    /// How much may wait in memory before `append` writes it out.
    public var bufferBytes: Int

    public init(policy: Policy = .always, fileBytes: Int = 64 << 20, bufferBytes: Int = 4 << 20) {
      self.policy = policy
      self.fileBytes = fileBytes
      self.bufferBytes = bufferBytes
    }
  }

  /// How far a flush goes.
  private enum Goal { case system, disk, nextFile }

  private struct State {
    var file: any AppendFile
    /// Where the file will end when all that was taken from the buffer has been written.
    var length: Int
    /// What the file may grow to without asking for space.
    var reserved: Int
    var buffer: [UInt8] = []
    /// The emptied buffer of the last turn.
    var spare: [UInt8] = []
    var lastSeq: UInt64
    var writtenSeq: UInt64
    var durableSeq: UInt64
    /// The first record's number of each file.
    var files: [UInt64]
    var isLeading = false
    var failure: DurabilityError?

    func reaches(_ seq: UInt64, _ goal: Goal) -> Bool {
      switch goal {
      case .system: writtenSeq >= seq
      case .disk: durableSeq >= seq
      case .nextFile: files.last! > seq
      }
    }
  }

  /// One leader's work: a part of the log that others leave alone meanwhile.
  private struct Turn {
    let file: any AppendFile
    var bytes: [UInt8]
    let start: Int
    let lastSeq: UInt64
    var length: Int
    var isWritten = false
    var isDurable = false
    var next: (file: any AppendFile, firstSeq: UInt64)?
    var failure: DurabilityError?
    /// Why no next file could be begun; the log is as it was.
    var refusal: DurabilityError?
  }

  private static let reserveBytes = 1 << 20

  public let folder: String
  public let epoch: UInt64
  private let layer: any FileLayer
  private let options: Options
  private let salt: UInt32
  private let monitor: Monitor<State>

  /// Goes on where `recovered` ends. The last file is written anew: the system may show bytes that a failed sync never
  /// brought to the disk, and only a sync of bytes just written says something.
  init(_ recovered: RecoveredLog, layer: any FileLayer, folder: String, epoch: UInt64, options: Options)
    throws(DurabilityError)
  {
    (self.layer, self.folder, self.epoch, self.options) = (layer, folder, epoch, options)
    let lastSeq = recovered.next - 1
    var files = recovered.files
    var bytes: [UInt8]
    if let tail = recovered.tail, tail.header.epoch == epoch {
      salt = tail.header.salt
      bytes = tail.bytes + LogRecord.marker(durable: tail.bytes.count, seq: lastSeq, salt: salt)
    } else {
      salt = .random(in: 0 ... .max)
      bytes = LogHeader(salt: salt, firstSeq: recovered.next, epoch: epoch).bytes
      if files.last == recovered.next {
        let name = "\(folder)/\(LogHeader.fileName(recovered.next))"
        if recovered.tail == nil { try layer.rename(name, to: name + ".damaged") }
      } else {
        files.append(recovered.next)
      }
    }
    let file = try layer.prepare(LogHeader.fileName(files.last!), in: folder, with: bytes)
    try layer.publish(LogHeader.fileName(files.last!), in: folder)
    monitor = Monitor(
      State(
        file: file, length: bytes.count, reserved: bytes.count, lastSeq: lastSeq, writtenSeq: lastSeq,
        durableSeq: lastSeq, files: files))
    if case .interval(let milliseconds) = options.policy {
      repeatInBackground(milliseconds: max(1, milliseconds)) { [weak self] in
        guard let self else { return false }
        return (try? self.flush(through: self.lastSeq, .disk)) != nil
      }
    }
  }

  /// The number of the last record that was appended, 0 before the first.
  public var lastSeq: UInt64 { monitor.withLock { $0.lastSeq } }
  /// The number of the last record that is known to be on the disk.
  public var durableSeq: UInt64 { monitor.withLock { $0.durableSeq } }
  /// Why the log accepts nothing more, or nil.
  public var failure: DurabilityError? { monitor.withLock { $0.failure } }

  /// Appends a record of type 1…255; returns its number. It is not safe before `commit` or `waitDurable` has returned.
  ///
  /// `write` runs under the log's mutex: it should only copy. Throws `diskFull` (try again later), `limit` (payload above
  /// 1 GiB), or the earlier failure that ended the log; the record is not in the log then.
  @discardableResult
  public func append(type: UInt8, _ write: (inout PayloadWriter) -> Void) throws(DurabilityError) -> UInt64 {
    precondition(type != LogRecord.markerType, "type 0 is the log's own")
    let (seq, isFull) = try monitor.withLock { (state) throws(DurabilityError) -> (UInt64, Bool) in
      if let failure = state.failure { throw failure }
      let start = state.buffer.count
      var writer = PayloadWriter(bytes: exchange(&state.buffer, with: []))
      writer.bytes.append(contentsOf: repeatElement(0, count: LogRecord.headerBytes))
      write(&writer)
      state.buffer = exchange(&writer.bytes, with: [])
      do throws(DurabilityError) {
        let payloadBytes = state.buffer.count - start - LogRecord.headerBytes
        guard payloadBytes <= LogRecord.maximumPayload else {
          throw DurabilityError(
            .limit, folder, "record", seen: "\(payloadBytes) bytes", expected: "at most \(LogRecord.maximumPayload)")
        }
        let needed = state.length + state.buffer.count + 2 * LogRecord.markerBytes
        if needed > state.reserved {
          try state.file.reserve(needed + Self.reserveBytes)
          state.reserved = needed + Self.reserveBytes
        }
      } catch {
        state.buffer.removeSubrange(start...)
        throw error
      }
      state.lastSeq += 1
      LogRecord.seal(&state.buffer, from: start, seq: state.lastSeq, type: type, salt: salt)
      return (state.lastSeq, state.buffer.count >= options.bufferBytes)
    }
    // The record has its number: should this fail, the log has ended, and waiting for the record says so.
    if isFull { try? flush(through: seq, .system) }
    return seq
  }

  @discardableResult
  public func append(type: UInt8, payload: [UInt8]) throws(DurabilityError) -> UInt64 {
    try append(type: type) { $0.append(payload.span.bytes) }
  }

  /// Waits until record `seq` and all before it are as safe as the policy says.
  public func commit(_ seq: UInt64) throws(DurabilityError) {
    try flush(through: seq, options.policy == .always ? .disk : .system)
  }

  /// Waits until record `seq` and all before it are on the disk, whatever the policy.
  public func waitDurable(_ seq: UInt64) throws(DurabilityError) { try flush(through: seq, .disk) }

  /// Makes all records so far durable and ends their file; returns a number before which all files are ended.
  @discardableResult
  public func rotate() throws(DurabilityError) -> UInt64 {
    try flush(through: lastSeq, .nextFile)
    return monitor.withLock { $0.files.last! }
  }

  /// The files, by the numbers of their first records, that hold records of `first ..< end`, which begins a file.
  func files(from first: UInt64, before end: UInt64) -> [UInt64] {
    let files = monitor.withLock { $0.files }.prefix { $0 < end }
    return Array(files[(files.lastIndex { $0 <= first } ?? files.endIndex)...])
  }

  /// Makes all durable and accepts nothing more. A log that is dropped without `close` is left as by a crash.
  public func close() throws(DurabilityError) {
    if let failure, failure.kind == .closed { return }
    try flush(through: lastSeq, .disk)
    fail(DurabilityError(.closed, folder, "log", seen: "a closed log", expected: "an open one"))
    let (file, length) = monitor.withLock(when: { !$0.isLeading }) { ($0.file, $0.length) }
    try file.truncate(length)
    try file.synchronize()
  }

  /// Accepts nothing from here on and answers with `error`.
  func fail(_ error: DurabilityError) {
    monitor.withLock { $0.failure = $0.failure ?? error }
    monitor.notifyAll()
  }

  /// Calls `body` with the durable records from `first` on, while others append. Throws `missing` when a checkpoint has
  /// removed some of them.
  public func replay(
    from first: UInt64, _ body: (_ seq: UInt64, _ type: UInt8, _ payload: RawSpan) throws -> Void
  ) throws {
    let last = durableSeq
    guard first <= last else { return }
    let oldest = monitor.withLock { $0.files[0] }
    guard first >= oldest else {
      throw DurabilityError(
        .missing, folder, "log", seen: "records from \(oldest) on", expected: "record \(first)",
        advice: "Begin with a snapshot")
    }
    _ = try LogReader(layer: layer, folder: folder, epoch: epoch, isSalvaging: false)
      .replay(from: first, through: last, body)
  }

  /// Removes the files that hold only records before `seq`.
  public func removeFiles(before seq: UInt64) throws(DurabilityError) {
    while let first = monitor.withLock({ $0.files.count > 1 && $0.files[1] <= seq ? $0.files[0] : nil }) {
      try layer.remove("\(folder)/\(LogHeader.fileName(first))")
      monitor.withLock { _ = $0.files.removeFirst() }
    }
  }

  // MARK: group commit

  /// Returns when record `seq` has reached `goal`: by another thread's turn, or by one of our own.
  private func flush(through seq: UInt64, _ goal: Goal) throws(DurabilityError) {
    while true {
      let turn = try monitor.withLock(when: { !$0.isLeading || $0.failure != nil || $0.reaches(seq, goal) }) {
        (state) throws(DurabilityError) -> Turn? in
        precondition(seq <= state.lastSeq, "record \(seq) was never appended; the last is \(state.lastSeq)")
        if state.reaches(seq, goal) { return nil }
        if let failure = state.failure { throw failure }
        state.isLeading = true
        let bytes = exchange(&state.buffer, with: exchange(&state.spare, with: []))
        defer { state.length += bytes.count }
        return Turn(
          file: state.file, bytes: bytes, start: state.length, lastSeq: state.lastSeq,
          length: state.length + bytes.count)
      }
      guard var turn else { return }
      run(&turn, goal)
      monitor.withLock { finish(&turn, &$0) }
      monitor.notifyAll()
      // Space that appends set aside behind the end of the old file meanwhile. Its length stays, so nothing can be lost.
      if turn.next != nil { try? turn.file.truncate(turn.length) }
      if let refusal = turn.refusal, goal == .nextFile { throw refusal }
    }
  }

  /// Writes, and syncs or begins the next file if the goal or the size says so.
  private func run(_ turn: inout Turn, _ goal: Goal) {
    turn.failure = attempt(&turn) { turn throws(DurabilityError) in
      if !turn.bytes.isEmpty { try turn.file.write(turn.bytes.span.bytes) }
    }
    guard turn.failure == nil else { return }
    turn.isWritten = true
    let isLong = turn.length >= options.fileBytes
    guard goal != .system || isLong else { return }
    do throws(DurabilityError) { try turn.file.synchronize() } catch {
      turn.failure = DurabilityError(
        .failed, error.path, error.what, seen: error.seen, expected: "success",
        advice: "It is unknown which of the last records are on the disk. Look at the disk, then open the store again")
      return
    }
    turn.isDurable = true
    if goal == .nextFile || isLong { beginNext(&turn) }
    guard turn.next == nil, turn.failure == nil else { return }
    turn.failure = attempt(&turn) { turn throws(DurabilityError) in
      let marker = LogRecord.marker(durable: turn.length, seq: turn.lastSeq, salt: salt)
      try turn.file.write(marker.span.bytes)
      turn.length += marker.count
    }
  }

  /// Cuts the file back to its last whole record when a write fails; the log ends then, and the error says so.
  private func attempt(_ turn: inout Turn, _ write: (inout Turn) throws(DurabilityError) -> Void) -> DurabilityError? {
    let wholeLength = turn.isWritten ? turn.length : turn.start
    do throws(DurabilityError) {
      try write(&turn)
      return nil
    } catch {
      var failure = error
      let isCut = (try? turn.file.truncate(wholeLength)) != nil
      failure.advice =
        (isCut ? "The log was cut back to its last whole record. " : "A part of a record is left at the end. ")
        + "It can be read but takes no more records: free some space or look at the disk, then open the store again"
      return failure
    }
  }

  /// Begins the next file. One that can't be made now is no failure: the log goes on in the old file.
  private func beginNext(_ turn: inout Turn) {
    let firstSeq = turn.lastSeq + 1
    let file: any AppendFile
    do throws(DurabilityError) {
      let header = LogHeader(salt: salt, firstSeq: firstSeq, epoch: epoch)
      file = try layer.prepare(LogHeader.fileName(firstSeq), in: folder, with: header.bytes)
    } catch {
      turn.refusal = error
      return
    }
    do throws(DurabilityError) {
      try layer.publish(LogHeader.fileName(firstSeq), in: folder)
      turn.next = (file, firstSeq)
    } catch {
      turn.failure = error
      turn.failure?.advice = "It is unknown whether the log's next file is on the disk. Open the store again"
    }
  }

  private func finish(_ turn: inout Turn, _ state: inout State) {
    state.isLeading = false
    state.failure = state.failure ?? turn.failure
    if turn.isWritten { state.writtenSeq = turn.lastSeq }
    if turn.isDurable { state.durableSeq = turn.lastSeq }
    state.length = turn.length
    if let next = turn.next {
      state.file = next.file
      state.length = LogHeader.byteCount
      state.reserved = 0
      state.files.append(next.firstSeq)
    }
    if turn.bytes.capacity <= 2 * options.bufferBytes {
      turn.bytes.removeAll(keepingCapacity: true)
      state.spare = exchange(&turn.bytes, with: [])
    }
  }
}

/// Appends the pieces of a record's payload.
public struct PayloadWriter {
  fileprivate var bytes: [UInt8]

  public mutating func append(_ piece: RawSpan) { bytes.append(piece) }
  public mutating func append<T: FixedWidthInteger>(littleEndian value: T) { bytes.append(littleEndian: value) }
}
