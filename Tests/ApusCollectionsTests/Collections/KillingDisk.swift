import ApusVectors
import Foundation
import GRDB
import Synchronization

/// Kills its process with SIGKILL at the n-th moment between two things that reach a disk.
final class KillPoints: Sendable {
  private let fatal: Int
  private let passed = Atomic(0)

  /// 0 never kills.
  init(fatal: Int) { self.fatal = fatal }

  var count: Int { passed.load(ordering: .relaxed) }

  func pass() {
    guard passed.add(1, ordering: .relaxed).newValue == fatal else { return }
    kill(getpid(), SIGKILL)
    while true { sleep(1) }
  }
}

/// The machine's files with a moment before and after each change, and in the middle of each write.
struct KillingFileLayer: FileLayer {
  let base = SystemFileLayer()
  let points: KillPoints

  private func operate<R>(_ body: () throws(DurabilityError) -> R) throws(DurabilityError) -> R {
    points.pass()
    let result = try body()
    points.pass()
    return result
  }

  func makeFolder(_ path: String) throws(DurabilityError) {
    try operate { () throws(DurabilityError) in try base.makeFolder(path) }
  }
  func list(_ folder: String) throws(DurabilityError) -> [String]? { try base.list(folder) }
  func size(_ path: String) throws(DurabilityError) -> Int { try base.size(path) }
  func read(_ path: String, _ range: Range<Int>) throws(DurabilityError) -> [UInt8] { try base.read(path, range) }
  func map(_ path: String) throws(DurabilityError) -> MappedBytes { try base.map(path) }
  func create(_ path: String) throws(DurabilityError) -> any AppendFile {
    try operate { () throws(DurabilityError) in KillingFile(base: try base.create(path), points: points) }
  }
  func rename(_ path: String, to target: String) throws(DurabilityError) {
    try operate { () throws(DurabilityError) in try base.rename(path, to: target) }
  }
  func link(_ path: String, to target: String) throws(DurabilityError) -> Bool {
    try operate { () throws(DurabilityError) in try base.link(path, to: target) }
  }
  func remove(_ path: String) throws(DurabilityError) {
    try operate { () throws(DurabilityError) in try base.remove(path) }
  }
  func synchronizeFolder(_ path: String) throws(DurabilityError) {
    try operate { () throws(DurabilityError) in try base.synchronizeFolder(path) }
  }
  func lock(_ folder: String) throws(DurabilityError) -> any AnyObject & Sendable { try base.lock(folder) }
}

private final class KillingFile: AppendFile {
  private let base: any AppendFile
  private let points: KillPoints

  init(base: any AppendFile, points: KillPoints) {
    self.base = base
    self.points = points
  }

  func write(_ bytes: RawSpan) throws(DurabilityError) {
    points.pass()
    let half = bytes.byteCount / 2
    try base.write(bytes.extracting(0..<half))
    points.pass()
    try base.write(bytes.extracting(half..<bytes.byteCount))
    points.pass()
  }
  func reserve(_ length: Int) throws(DurabilityError) { try base.reserve(length) }
  func truncate(_ length: Int) throws(DurabilityError) {
    points.pass()
    try base.truncate(length)
    points.pass()
  }
  func synchronize() throws(DurabilityError) {
    points.pass()
    try base.synchronize()
    points.pass()
  }
}

/// A moment before and after each transaction of the catalogue.
final class KillingObserver: TransactionObserver, Sendable {
  private let points: KillPoints
  init(points: KillPoints) { self.points = points }
  func observes(eventsOfKind eventKind: DatabaseEventKind) -> Bool { false }
  func databaseDidChange(with event: DatabaseEvent) {}
  func databaseWillCommit() throws { points.pass() }
  func databaseDidCommit(_ db: Database) { points.pass() }
  func databaseDidRollback(_ db: Database) { points.pass() }
}
