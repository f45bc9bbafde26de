#if canImport(Glibc)
  import Glibc
#elseif canImport(Musl)
  import Musl
#else
  import Darwin
#endif

/// The file system of the machine.
public struct SystemFileLayer: FileLayer {
  public init() {}

  public func makeFolder(_ path: String) throws(DurabilityError) {
    let parts = path.split(separator: "/").dropLast().joined(separator: "/")
    let parent = path.hasPrefix("/") ? "/" + parts : parts.isEmpty ? "." : parts
    if mkdir(path, 0o755) != 0 {
      if errno == EEXIST { return }
      guard errno == ENOENT, parent != "." else { throw failure("mkdir", path) }
      try makeFolder(parent)
      guard mkdir(path, 0o755) == 0 || errno == EEXIST else { throw failure("mkdir", path) }
    }
    try synchronizeFolder(parent)
  }

  public func list(_ folder: String) throws(DurabilityError) -> [String]? {
    guard let stream = opendir(folder) else {
      if errno == ENOENT { return nil }
      throw failure("opendir", folder)
    }
    defer { closedir(stream) }
    var names: [String] = []
    errno = 0
    while let entry = readdir(stream) {
      let name = withUnsafeBytes(of: &entry.pointee.d_name) { String(decoding: $0.prefix { $0 != 0 }, as: UTF8.self) }
      if name != ".", name != ".." { names.append(name) }
    }
    guard errno == 0 else { throw failure("readdir", folder) }
    return names.sorted()
  }

  public func size(_ path: String) throws(DurabilityError) -> Int {
    var status = stat()
    guard stat(path, &status) == 0 else { throw failure("stat", path) }
    return Int(status.st_size)
  }

  public func read(_ path: String, _ range: Range<Int>) throws(DurabilityError) -> [UInt8] {
    let descriptor = try descriptor(path, O_RDONLY)
    defer { close(descriptor) }
    var error: DurabilityError?
    let bytes = [UInt8](unsafeUninitializedCapacity: range.count) { buffer, count in
      while count < range.count {
        let got = pread(descriptor, buffer.baseAddress! + count, range.count - count, off_t(range.lowerBound + count))
        if got < 0, errno == EINTR { continue }
        guard got > 0 else {
          error = got < 0 ? failure("read", path) : endOfFile(path, range.lowerBound + count, range.upperBound)
          return
        }
        count += got
      }
    }
    if let error { throw error }
    return bytes
  }

  public func map(_ path: String) throws(DurabilityError) -> MappedBytes {
    let descriptor = try descriptor(path, O_RDONLY)
    defer { close(descriptor) }
    let size = try size(path)
    if size == 0 { return MappedBytes(UnsafeMutableRawBufferPointer(start: nil, count: 0)) { _ in } }
    // Nothing is set aside for pages that could be written: a segment may be larger than the memory.
    let memory = mmap(nil, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_NORESERVE, descriptor, 0)
    guard memory != MAP_FAILED else { throw failure("mmap of \(size) bytes", path) }
    // Rows are read in no order: with small pages every other read would also miss the TLB. No kernel must give them.
    #if canImport(Glibc)
      madvise(memory, size, MADV_HUGEPAGE)
    #endif
    return MappedBytes(
      UnsafeMutableRawBufferPointer(start: memory, count: size),
      evict: { madvise($0.baseAddress, $0.count, MADV_DONTNEED) },
      release: { munmap($0.baseAddress, $0.count) })
  }

  public func create(_ path: String) throws(DurabilityError) -> any AppendFile {
    // A new file, never an old one that is cut: it may have a second name in a snapshot.
    guard unlink(path) == 0 || errno == ENOENT else { throw failure("unlink", path) }
    // Errors call a file by the name that it gets.
    let name = path.hasSuffix(".tmp") ? String(path.dropLast(4)) : path
    return SystemFile(path: name, descriptor: try descriptor(path, O_WRONLY | O_CREAT | O_EXCL | O_APPEND))
  }

  public func rename(_ path: String, to target: String) throws(DurabilityError) {
    guard systemRename(path, target) == 0 else { throw failure("rename to '\(target)'", path) }
  }

  public func link(_ path: String, to target: String) throws(DurabilityError) -> Bool {
    if systemLink(path, target) == 0 { return true }
    if [EXDEV, EPERM, EMLINK, EOPNOTSUPP].contains(errno) { return false }
    throw failure("link to '\(target)'", path)
  }

  public func remove(_ path: String) throws(DurabilityError) {
    guard unlink(path) == 0 else { throw failure("unlink", path) }
  }

  public func synchronizeFolder(_ path: String) throws(DurabilityError) {
    let descriptor = try descriptor(path, O_RDONLY | O_DIRECTORY)
    defer { close(descriptor) }
    // EINVAL: a file system whose folders need no fsync.
    guard fsync(descriptor) == 0 || errno == EINVAL else { throw failure("fsync", path) }
  }

  public func lock(_ folder: String) throws(DurabilityError) -> any AnyObject & Sendable {
    let path = folder + "/LOCK"
    let file = SystemFile(path: path, descriptor: try descriptor(path, O_RDWR | O_CREAT))
    guard flock(file.descriptor, LOCK_EX | LOCK_NB) == 0 else {
      guard errno == EWOULDBLOCK else { throw failure("flock", path) }
      let holder = String(decoding: (try? read(path, 0..<size(path))) ?? [], as: UTF8.self)
      throw DurabilityError(
        .locked, path, "lock", seen: "held by process \(holder.isEmpty ? "unknown" : holder)", expected: "a free store",
        advice: "Stop that process, or let it do the work")
    }
    try file.truncate(0)
    let holder = Array("\(getpid())".utf8)
    try file.write(holder.span.bytes)
    return FolderLock(file)
  }

  /// Unlocks by word: a child process that has been forked and not yet executed holds the descriptor, too, so that closing
  /// it here would leave the folder locked until then.
  private final class FolderLock: Sendable {
    private let file: SystemFile
    init(_ file: SystemFile) { self.file = file }
    deinit { _ = flock(file.descriptor, LOCK_UN) }
  }

  private func descriptor(_ path: String, _ flags: Int32) throws(DurabilityError) -> Int32 {
    let descriptor = open(path, flags | O_CLOEXEC, 0o644)
    guard descriptor >= 0 else { throw failure("open", path) }
    return descriptor
  }
}

/// Descriptor of a file of the system, closed with the last reference; the system drops its lock then, too.
private final class SystemFile: AppendFile {
  let path: String
  let descriptor: Int32

  init(path: String, descriptor: Int32) {
    self.path = path
    self.descriptor = descriptor
  }

  deinit { close(descriptor) }

  func write(_ bytes: RawSpan) throws(DurabilityError) {
    var done = 0
    while done < bytes.byteCount {
      let count = bytes.withUnsafeBytes { systemWrite(descriptor, $0.baseAddress! + done, $0.count - done) }
      if count < 0, errno == EINTR { continue }
      guard count > 0 else { throw failure("write of \(bytes.byteCount) bytes", path) }
      done += count
    }
  }

  func reserve(_ length: Int) throws(DurabilityError) {
    while let allocate, allocate(descriptor, keepSize, 0, off_t(length)) != 0 {
      if [EOPNOTSUPP, ENOSYS].contains(errno) { return }
      guard errno == EINTR else { throw failure("fallocate of \(length) bytes", path) }
    }
  }

  func truncate(_ length: Int) throws(DurabilityError) {
    guard ftruncate(descriptor, off_t(length)) == 0 else { throw failure("cut to \(length) bytes", path) }
  }

  func synchronize() throws(DurabilityError) {
    #if os(Linux)
      let status = fdatasync(descriptor)
    #else
      let status = fcntl(descriptor, F_FULLFSYNC)
    #endif
    guard status == 0 else { throw failure("fdatasync", path) }
  }
}

/// The error for `errno` after `action` on `path`.
private func failure(_ action: String, _ path: String, _ code: Int32 = errno) -> DurabilityError {
  let seen = "'\(String(cString: strerror(code)))'"
  return switch code {
  case ENOSPC, EDQUOT, EFBIG:
    DurabilityError(
      .diskFull, path, action, seen: seen, expected: "free space", advice: "Free some space and try again")
  case ENOENT: DurabilityError(.missing, path, action, seen: seen, expected: "the file")
  default: DurabilityError(.inputOutput, path, action, seen: seen, expected: "success", advice: "Look at this path")
  }
}

private func endOfFile(_ path: String, _ end: Int, _ expected: Int) -> DurabilityError {
  DurabilityError(.damaged, path, "length", seen: "\(end) bytes", expected: "at least \(expected)")
}

/// `fallocate` of Linux, which Swift's module of the C library leaves out, and its flag to leave the file's length alone.
private let allocate: (@convention(c) (Int32, Int32, off_t, off_t) -> Int32)? = dlsym(
  dlopen(nil, RTLD_NOW), "fallocate"
)
.map { unsafeBitCast($0, to: (@convention(c) (Int32, Int32, off_t, off_t) -> Int32).self) }
private let keepSize: Int32 = 1

// The functions of the C library, out of the way of methods called the same.
private func systemRename(_ path: String, _ target: String) -> Int32 { rename(path, target) }
private func systemLink(_ path: String, _ target: String) -> Int32 { link(path, target) }
private func systemWrite(_ descriptor: Int32, _ start: UnsafeRawPointer, _ count: Int) -> Int {
  write(descriptor, start, count)
}
