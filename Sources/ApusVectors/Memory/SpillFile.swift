import Synchronization

#if canImport(Glibc)
  import Glibc
#elseif canImport(Darwin)
  import Darwin
#endif

/// A place on disk for bytes that shall leave memory and that nobody needs after the process: a file without a name.
///
/// What is in it is in a log and its checkpoints, too, so it is not synchronised; a disk that refuses leaves the bytes in
/// memory.
final class SpillFile: Sendable {
  private struct State {
    var descriptor: Int32?
    /// What nobody reads any more, ascending and apart; the last ends at `end`.
    var free: [Range<Int>] = []
    var end = 0

    /// The first place that is large enough.
    mutating func take(_ count: Int) -> Int {
      guard let i = free.firstIndex(where: { $0.count >= count }) else {
        defer { end += count }
        return end
      }
      let start = free[i].lowerBound
      free[i] = start + count..<free[i].upperBound
      if free[i].isEmpty { free.remove(at: i) }
      return start
    }

    mutating func give(_ range: Range<Int>) {
      guard !range.isEmpty else { return }
      let i = free.firstIndex { $0.lowerBound >= range.upperBound } ?? free.count
      free.insert(range, at: i)
      if i + 1 < free.count, free[i + 1].lowerBound == range.upperBound {
        free[i] = range.lowerBound..<free.remove(at: i + 1).upperBound
      }
      if i > 0, free[i - 1].upperBound == range.lowerBound {
        free[i - 1] = free[i - 1].lowerBound..<free.remove(at: i).upperBound
      }
      if let last = free.last, last.upperBound == end {
        end = last.lowerBound
        free.removeLast()
        if let descriptor { _ = ftruncate(descriptor, off_t(end)) }
      }
    }
  }

  private let folder: String
  private let state = Mutex(State())

  /// The file is made in `folder` when the first bytes come.
  init(folder: String = SpillFile.temporaryFolder) { self.folder = folder }

  deinit { if let descriptor = state.withLock({ $0.descriptor }) { close(descriptor) } }

  static let temporaryFolder = getenv("TMPDIR").map { String(cString: $0) } ?? "/tmp"
  /// Of the file's name, in the moment that it has one.
  static let prefix = "offloaded-"

  /// Where the bytes are, or nil when the disk refuses them.
  func write(_ bytes: UnsafeRawBufferPointer) -> Int? {
    state.withLock { state -> Int? in
      if state.descriptor == nil { state.descriptor = Self.makeFile(in: folder) }
      guard let descriptor = state.descriptor else { return nil }
      let start = state.take(bytes.count)
      var done = 0
      while done < bytes.count {
        let count = pwrite(descriptor, bytes.baseAddress! + done, bytes.count - done, off_t(start + done))
        if count < 0 && errno == EINTR { continue }
        guard count > 0 else {
          state.give(start..<start + bytes.count)
          return nil
        }
        done += count
      }
      return start
    }
  }

  /// Fills `bytes` from `offset` on. As a page of a mapped file that cannot be read, a failure ends the process.
  func read(_ offset: Int, into bytes: UnsafeMutableRawBufferPointer) {
    guard let descriptor = state.withLock({ $0.descriptor }) else { preconditionFailure("read before the first write") }
    var done = 0
    while done < bytes.count {
      let count = pread(descriptor, bytes.baseAddress! + done, bytes.count - done, off_t(offset + done))
      if count < 0 && errno == EINTR { continue }
      guard count > 0 else {
        fatalError(
          "\(bytes.count) bytes of an offloaded tenant in \(folder): \(String(cString: strerror(errno))). Open the store "
            + "again: its log has them")
      }
      done += count
    }
  }

  /// Gives the place of bytes back that nobody will read again.
  func release(_ offset: Int, _ count: Int) { state.withLock { $0.give(offset..<offset + count) } }

  private static func makeFile(in folder: String) -> Int32? {
    var name = Array("\(folder)/\(prefix)XXXXXX.tmp".utf8CString)
    let descriptor = mkstemps(&name, 4)
    guard descriptor >= 0 else { return nil }
    unlink(name)
    return descriptor
  }
}
