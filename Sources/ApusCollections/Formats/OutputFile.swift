#if canImport(Glibc)
  import Glibc
#elseif canImport(Musl)
  import Musl
#else
  import Darwin
#endif

/// A file that appears under its name only when it is whole: written beside it, synced, then renamed over it.
///
/// Without `finish` nothing is left behind.
struct OutputFile: ~Copyable {
  let path: String
  private let temporaryPath: String
  private let descriptor: Int32
  private var buffer: [UInt8] = []
  private var isFinished = false

  private static let bufferBytes = 1 << 20

  init(path: String) throws(VectorFileError) {
    self.path = path
    temporaryPath = "\(path).\(String(UInt64.random(in: 0...UInt64.max), radix: 36)).part"
    descriptor = open(temporaryPath, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0o666)
    if descriptor < 0 { throw failure("create", errorText()) }
  }

  deinit {
    if descriptor >= 0 { close(descriptor) }
    if !isFinished { unlink(temporaryPath) }
  }

  private func failure(_ action: String, _ seen: String) -> VectorFileError {
    VectorFileError(
      path: path, field: action, seen: seen, expected: "a folder that can be written to, with room",
      wayOut: "nothing was left behind; choose another path or make room")
  }

  mutating func append<T: BitwiseCopyable>(_ values: [T]) throws(VectorFileError) {
    appendBytes(of: values, to: &buffer)
    if buffer.count >= Self.bufferBytes { try flush() }
  }

  private mutating func flush() throws(VectorFileError) {
    if !writeAll(buffer, to: descriptor) { throw failure("write", errorText()) }
    buffer.removeAll(keepingCapacity: true)
  }

  /// Writes `header` over the first bytes and publishes the file.
  consuming func finish(header: [UInt8] = []) throws(VectorFileError) {
    try flush()
    if !header.isEmpty {
      guard lseek(descriptor, 0, SEEK_SET) == 0, writeAll(header, to: descriptor) else {
        throw failure("write", errorText())
      }
    }
    guard fsync(descriptor) == 0, rename(temporaryPath, path) == 0 else { throw failure("publish", errorText()) }
    isFinished = true
    // The rename lasts once the folder is on disk.
    let folder = path.lastIndex(of: "/").map { String(path[...$0]) } ?? "."
    let folderDescriptor = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC)
    if folderDescriptor >= 0 {
      fsync(folderDescriptor)
      close(folderDescriptor)
    }
  }
}
