import Synchronization

/// A folder that keeps a state through crashes: a checkpoint (a segment of named sections), the log of what came after it,
/// and a manifest that says which belong together.
///
///     LOCK  MANIFEST  MANIFEST.previous  segment-<generation>.seg  wal-<first record>.log
///
/// Two generations are kept: the one before the last checkpoint, with its longer log, gives the same state.
public final class StoreDirectory: Sendable {
  public struct Options: Sendable {
    public var log: WriteAheadLog.Options
    /// Opens in spite of damage in the log; the report lists what is lost. Make a checkpoint at once: until then the folder
    /// opens only this way.
    public var isSalvaging: Bool
    /// Checks every block of the segment before it is used, and takes the previous generation when one is damaged.
    public var verifiesSegment: Bool

    public init(
      log: WriteAheadLog.Options = .init(), isSalvaging: Bool = false, verifiesSegment: Bool = false
    ) {
      self.log = log
      self.isSalvaging = isSalvaging
      self.verifiesSegment = verifiesSegment
    }
  }

  /// What opening found.
  public struct Report: Sendable {
    public var log: LogReport
    /// Why the generation before was taken, which gives the same state; nil normally.
    public var fallback: DurabilityError?
    /// This is the first opening of a snapshot: a backup was restored, and an epoch begins.
    public var isRestored: Bool
  }

  private struct State {
    var current: Manifest
    var previous: Manifest?
    var lock: (any AnyObject & Sendable)?
  }

  public let folder: String
  public let log: WriteAheadLog
  public let report: Report
  /// Names the store; its snapshots have the same.
  public let identifier: UInt128
  private let layer: any FileLayer
  private let state: Mutex<State>

  /// Makes an empty store. Throws `notAStore` when the folder holds anything.
  public static func create(
    _ folder: String, layer: any FileLayer = SystemFileLayer(), identifier: UInt128 = .random(in: 0 ... .max)
  ) throws(DurabilityError) {
    try layer.makeFolder(folder)
    let lock = try layer.lock(folder)
    defer { withExtendedLifetime(lock) {} }
    // What a crash in here leaves may stay: the manifest comes last.
    let firstLog = LogHeader.fileName(1)
    for name in try layer.list(folder) ?? [] where name != "LOCK" && !isTemporary(name) {
      let size = name == firstLog ? try layer.size("\(folder)/\(name)") : Int.max
      guard size <= LogHeader.byteCount else {
        throw DurabilityError(
          .notAStore, folder, "create", seen: "a folder with '\(name)'", expected: "an empty folder",
          advice: "Open it if it is a store; choose another folder if not")
      }
    }
    try writeEmptyLog(from: 1, after: [], in: folder, epoch: 1, layer)
    try layer.replace(Manifest.fileName, in: folder, with: Manifest(identifier: identifier).bytes)
  }

  /// Opens a store: `load` gets the checkpoint (nil before the first), then `apply` each record after it, in order.
  ///
  /// Throws `locked`, `notAStore`, `damaged` (with the way out), what the files throw, and what the closures throw.
  public init(
    opening folder: String, layer: any FileLayer = SystemFileLayer(), options: Options = .init(),
    load: (SegmentFile?) throws -> Void,
    apply: (_ seq: UInt64, _ type: UInt8, _ payload: RawSpan) throws -> Void
  ) throws {
    let names = try layer.list(folder) ?? []
    guard names.contains(Manifest.fileName) || names.contains(Manifest.previousFileName) else {
      throw DurabilityError(
        .notAStore, folder, "open", seen: "no manifest", expected: "a store", advice: "Create one in an empty folder")
    }
    let lock = try layer.lock(folder)
    for name in names where Self.isTemporary(name) { try layer.remove("\(folder)/\(name)") }

    func generation(_ name: String) throws(DurabilityError) -> (manifest: Manifest, segment: SegmentFile?) {
      let manifest = try Manifest(layer, folder: folder, name: name)
      guard let reference = manifest.segment else { return (manifest, nil) }
      let segment = try SegmentFile(layer, path: "\(folder)/\(reference.name)", expecting: reference)
      if options.verifiesSegment { try segment.verifyAll() }
      return (manifest, segment)
    }
    var fallback: DurabilityError?
    var manifest: Manifest
    let segment: SegmentFile?
    do {
      (manifest, segment) = try generation(Manifest.fileName)
    } catch {
      guard error.kind == .damaged || error.kind == .missing, let before = try? generation(Manifest.previousFileName)
      else { throw error }
      (manifest, segment) = before
      fallback = error
    }
    try load(segment)
    let reader = LogReader(
      layer: layer, folder: folder, epoch: manifest.epoch, isSalvaging: options.isSalvaging)
    let recovered = try reader.replay(from: manifest.firstSeq, apply)

    report = Report(log: recovered.report, fallback: fallback, isRestored: manifest.isSnapshot)
    var previous = try? Manifest(layer, folder: folder, name: Manifest.previousFileName)
    if manifest.isSnapshot || !recovered.report.damage.isEmpty {
      manifest.epoch += 1
      manifest.isSnapshot = false
      previous = nil
    }
    if previous == nil || fallback != nil {
      try layer.replace(Manifest.previousFileName, in: folder, with: manifest.bytes)
      try layer.replace(Manifest.fileName, in: folder, with: manifest.bytes)
      previous = manifest
    }
    log = try WriteAheadLog(recovered, layer: layer, folder: folder, epoch: manifest.epoch, options: options.log)
    (self.folder, self.layer, identifier) = (folder, layer, manifest.identifier)
    state = Mutex(State(current: manifest, previous: previous, lock: lock))
    state.withLock { collect($0) }
  }

  /// Counts the histories: a restored snapshot and a salvage begin a new one.
  public var epoch: UInt64 { log.epoch }

  /// Replaces the log up to record `seq` by what `write` puts into a new segment: the state after exactly these records.
  ///
  /// Others may append meanwhile; a second checkpoint or a snapshot waits. A failure leaves the store as it was, unless it
  /// is unknown what became of the manifest: then the log ends, too. Without `keepsPrevious` nothing of the state before
  /// stays on the disk (erasure), and no generation to fall back to. Returns the new segment, mapped.
  @discardableResult
  public func checkpoint(
    through seq: UInt64, keepsPrevious: Bool = true, write: (SegmentWriter) throws -> Void
  ) throws -> SegmentFile {
    try state.withLock { state in
      precondition(
        state.current.firstSeq - 1...log.lastSeq ~= seq, "a checkpoint through record \(seq), which isn't in the log")
      // Synced before the checkpoint can count: a number that the checkpoint holds must not be given again.
      try log.rotate()
      var manifest = state.current
      manifest.generation += 1
      manifest.firstSeq = seq + 1
      let name = Manifest.segmentName(manifest.generation)
      let segment: SegmentFile
      do {
        let writer = try SegmentWriter(layer, folder: folder, name: name)
        try write(writer)
        manifest.segment = try writer.finish()
        segment = try SegmentFile(layer, path: "\(folder)/\(name)", expecting: manifest.segment)
        let previous = keepsPrevious ? state.current : manifest
        try layer.prepare(Manifest.previousFileName, in: folder, with: previous.bytes)
        try layer.prepare(Manifest.fileName, in: folder, with: manifest.bytes)
      } catch {
        // Nothing counts yet; what this leaves would go when the store is opened.
        try? layer.remove("\(folder)/\(SystemFileLayer.temporary(name))")
        throw error
      }
      do throws(DurabilityError) {
        try layer.publish(Manifest.previousFileName, in: folder)
        try layer.publish(Manifest.fileName, in: folder)
      } catch {
        log.fail(error)
        throw error
      }
      state.previous = keepsPrevious ? state.current : manifest
      state.current = manifest
      collect(state)
      return segment
    }
  }

  /// Makes a copy that opens as a store, in an empty or new folder, while others append; returns the last record in it.
  ///
  /// On the same file system the copy is made of links and takes no space until a checkpoint.
  @discardableResult
  public func snapshot(to target: String) throws -> UInt64 {
    try state.withLock { state in
      if let name = try layer.list(target)?.first {
        throw DurabilityError(
          .notAStore, target, "snapshot", seen: "a folder with '\(name)'", expected: "an empty folder")
      }
      try layer.makeFolder(target)
      let end = try log.rotate()
      var manifest = state.current
      let files = log.files(from: manifest.firstSeq, before: end)
      for name in files.map(LogHeader.fileName) + [manifest.segment?.name].compactMap(\.self) {
        try layer.duplicate("\(folder)/\(name)", to: "\(target)/\(name)")
      }
      try Self.writeEmptyLog(from: end, after: files, in: target, epoch: epoch, layer)
      manifest.isSnapshot = true
      try layer.replace(Manifest.fileName, in: target, with: manifest.bytes)
      return end - 1
    }
  }

  /// Makes the log durable, ends it and frees the folder for others.
  public func close() throws(DurabilityError) {
    defer { state.withLock { $0.lock = nil } }
    try log.close()
  }

  /// Removes what neither generation needs. What can't be removed now goes next time.
  private func collect(_ state: borrowing State) {
    let generations = [state.current, state.previous ?? state.current]
    let segments = generations.map(\.segment?.name)
    for name in (try? layer.list(folder)) ?? [] where Manifest.isSegment(name) && !segments.contains(name) {
      try? layer.remove("\(folder)/\(name)")
    }
    try? log.removeFiles(before: generations.map(\.firstSeq).min()!)
  }

  private static func writeEmptyLog(
    from seq: UInt64, after files: [UInt64], in folder: String, epoch: UInt64, _ layer: any FileLayer
  ) throws(DurabilityError) {
    _ = try WriteAheadLog(
      RecoveredLog(next: seq, files: files), layer: layer, folder: folder, epoch: epoch, options: .init())
  }

  /// What `FileLayer.temporary` made of a name of ours.
  private static func isTemporary(_ name: String) -> Bool {
    name.hasSuffix(".tmp") && ["MANIFEST", "segment-", "wal-", SpillFile.prefix].contains { name.hasPrefix($0) }
  }
}
