#if canImport(FoundationEssentials)
  import FoundationEssentials
#else
  import Foundation
#endif
#if canImport(Glibc)
  import Glibc
#elseif canImport(Musl)
  import Musl
#else
  import Darwin
#endif

/// The few file operations of the store, with the store's errors.
enum FileSystem {
  /// The error for `errno` after `action` on `path`.
  static func failure(_ action: String, _ path: String, _ code: Int32 = errno) -> ModelStoreError {
    let seen = "'\(String(cString: strerror(code)))' on \(action)"
    switch code {
    case ENOSPC, EDQUOT, EFBIG:
      return ModelStoreError(
        kind: .diskFull, subject: path, seen: seen, expected: "free space",
        advice: "Free some space, or set APUS_HOME to a folder on a larger disk, and run the same command again: "
          + "what was downloaded is kept and will be used.")
    case EACCES, EPERM, EROFS:
      return ModelStoreError(
        kind: .readOnly, subject: path, seen: seen, expected: "a folder that can be written",
        advice: "Set APUS_HOME to a folder of yours, or ask its owner to pull the model.")
    default:
      return ModelStoreError(
        kind: .fileSystem, subject: path, seen: seen, expected: "it to succeed",
        advice: "Look at this path, or set APUS_HOME to another folder.")
    }
  }

  static func makeFolder(_ path: String) throws(ModelStoreError) {
    if mkdir(path, 0o755) == 0 { return }
    let code = errno
    if code == EEXIST, isFolder(path) { return }
    if code == ENOENT {
      let parent = URL(filePath: path).deletingLastPathComponent().path(percentEncoded: false)
      let trimmed = parent.count > 1 && parent.hasSuffix("/") ? String(parent.dropLast()) : parent
      if trimmed != path, !exists(trimmed) {
        try makeFolder(trimmed)
        if mkdir(path, 0o755) == 0 || errno == EEXIST { return }
        throw failure("make folder", path)
      }
    }
    throw failure("make folder", path, code)
  }

  static func isFolder(_ path: String) -> Bool {
    var status = stat()
    return stat(path, &status) == 0 && status.st_mode & S_IFMT == S_IFDIR
  }

  static func exists(_ path: String) -> Bool {
    var status = stat()
    return lstat(path, &status) == 0
  }

  /// Size in bytes and modification time in nanoseconds of a regular file (links followed); nil without one.
  static func status(_ path: String) -> (size: Int, modified: Int)? {
    var status = stat()
    guard stat(path, &status) == 0, status.st_mode & S_IFMT == S_IFREG else { return nil }
    #if canImport(Darwin)
      let time = status.st_mtimespec
    #else
      let time = status.st_mtim
    #endif
    return (Int(status.st_size), Int(time.tv_sec) * 1_000_000_000 + Int(time.tv_nsec))
  }

  static func read(_ path: String, limit: Int = 64 << 20) throws(ModelStoreError) -> Data {
    let descriptor = open(path, O_RDONLY | O_CLOEXEC)
    guard descriptor >= 0 else { throw failure("open", path) }
    defer { close(descriptor) }
    var data = Data()
    var buffer = [UInt8](repeating: 0, count: 64 << 10)
    while true {
      let count = buffer.withUnsafeMutableBytes { systemRead(descriptor, $0.baseAddress!, $0.count) }
      if count < 0 {
        if errno == EINTR { continue }
        throw failure("read", path)
      }
      if count == 0 { return data }
      data.append(contentsOf: buffer[..<count])
      if data.count > limit { throw failure("read", path, EFBIG) }
    }
  }

  /// Writes a small file so that readers see the old or the new content, never a part: temporary file, fsync, rename.
  static func writeAtomically(_ data: Data, to path: String) throws(ModelStoreError) {
    let temporary = path + ".tmp-\(getpid())-\(UInt32.random(in: 0...UInt32.max))"
    let output = try OutputFile(path: temporary, keeping: 0)
    do throws(ModelStoreError) {
      // Data's method doesn't pass typed errors on; Result carries them out.
      try data.withUnsafeBytes { bytes in
        Result { () throws(ModelStoreError) in try output.write(bytes) }
      }.get()
      try output.synchronize()
    } catch {
      unlink(temporary)
      throw error
    }
    try publish(temporary, as: path)
  }

  /// Renames `source` to `target` (replacing a file) and makes the rename itself durable.
  static func publish(_ source: String, as target: String) throws(ModelStoreError) {
    guard rename(source, target) == 0 else { throw failure("rename to '\(target)'", source) }
    let parent = URL(filePath: target).deletingLastPathComponent().path(percentEncoded: false)
    let descriptor = open(parent, O_RDONLY | O_CLOEXEC)
    if descriptor >= 0 {
      fsync(descriptor)
      close(descriptor)
    }
  }

  /// Removes a file, a link or a whole folder (links inside aren't followed); nothing there is fine.
  static func remove(_ path: String) throws(ModelStoreError) {
    guard exists(path) else { return }
    do {
      try FileManager.default.removeItem(atPath: path)
    } catch {
      throw failure("remove", path, errno == 0 ? EIO : errno)
    }
  }

  /// Bytes that an ordinary user may still write on the disk of `path`; nil when the system doesn't tell.
  static func freeBytes(_ path: String) -> Int? {
    var status = statvfs()
    guard statvfs(path, &status) == 0 else { return nil }
    let (bytes, overflow) = Int(status.f_bavail).multipliedReportingOverflow(by: Int(status.f_frsize))
    return overflow ? nil : bytes
  }
}

/// `read` of the C library, out of the way of methods called the same.
private func systemRead(_ descriptor: Int32, _ buffer: UnsafeMutableRawPointer, _ count: Int) -> Int {
  read(descriptor, buffer, count)
}

private func systemWrite(_ descriptor: Int32, _ buffer: UnsafeRawPointer, _ count: Int) -> Int {
  write(descriptor, buffer, count)
}

/// A file that is written front to back and closed with the last reference.
final class OutputFile: Sendable {
  let path: String
  private let descriptor: Int32

  /// Opens or makes the file, cut to its first `keeping` bytes; writing goes on from there.
  init(path: String, keeping: Int) throws(ModelStoreError) {
    let descriptor = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0o644)
    guard descriptor >= 0 else { throw FileSystem.failure("open for writing", path) }
    self.path = path
    self.descriptor = descriptor
    guard ftruncate(descriptor, off_t(keeping)) == 0, lseek(descriptor, off_t(keeping), SEEK_SET) >= 0 else {
      throw FileSystem.failure("cut to \(keeping) bytes", path)
    }
  }

  deinit { close(descriptor) }

  func write(_ bytes: UnsafeRawBufferPointer) throws(ModelStoreError) {
    var rest = bytes
    while let base = rest.baseAddress, !rest.isEmpty {
      let count = systemWrite(descriptor, base, rest.count)
      if count < 0 {
        if errno == EINTR { continue }
        throw FileSystem.failure("write", path)
      }
      rest = UnsafeRawBufferPointer(rebasing: rest[count...])
    }
  }

  /// Waits until the bytes are on the disk.
  func synchronize() throws(ModelStoreError) {
    guard fsync(descriptor) == 0 else { throw FileSystem.failure("fsync", path) }
  }
}

/// A lock between processes (and between tasks of one): held from `init` to the last reference.
final class FileLock: Sendable {
  private let descriptor: Int32

  /// Takes the lock on `path` now, or returns nil when somebody else has it.
  init?(path: String) throws(ModelStoreError) {
    let descriptor = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0o644)
    guard descriptor >= 0 else { throw FileSystem.failure("open the lock", path) }
    self.descriptor = descriptor
    if flock(descriptor, LOCK_EX | LOCK_NB) != 0 {
      if errno == EWOULDBLOCK || errno == EINTR { return nil }
      throw FileSystem.failure("lock", path)
    }
  }

  // The file stays: removing it would let a third process lock a new file of the same name beside a waiting second.
  // Closing releases the lock, also when the process dies.
  deinit { close(descriptor) }

  /// Takes the lock, trying again every 100 ms; `onWait` is called once if it wasn't free.
  static func acquire(_ path: String, onWait: () -> Void) async throws -> FileLock {
    var hasWaited = false
    while true {
      if let lock = try FileLock(path: path) { return lock }
      if !hasWaited { onWait() }
      hasWaited = true
      try await Task.sleep(for: .milliseconds(100))
    }
  }
}
