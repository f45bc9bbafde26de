#if canImport(Glibc)
  import Glibc
#elseif canImport(Musl)
  import Musl
#else
  import Darwin
#endif

/// A whole file mapped read-only into memory: the storage behind every weight that is used without a copy.
///
/// The pages come from the page cache, so processes that open one model share it. The mapping is private and read-only;
/// it ends with the last reference. A file must not be shortened while it is mapped (the kernel then answers a read with
/// SIGBUS, whoever reads): the store never writes into a published file, it replaces it by rename.
public final class MappedFile: @unchecked Sendable {
  // @unchecked: every stored property is a constant, and the memory behind `base` is mapped PROT_READ for the whole life
  // of the object, so no thread can write what another one reads.

  /// The path as given to `init`.
  public let path: String
  /// The size in bytes when the file was opened.
  public let size: Int
  private let base: UnsafeMutableRawPointer?

  /// Maps the regular file at `path`. An empty file is mapped as no bytes.
  ///
  /// Throws `ModelFileError` of kind `unreadable` when it can't be opened, isn't a regular file or can't be mapped.
  public init(path: String) throws(ModelFileError) {
    func failure(_ action: String, _ code: Int32) -> ModelFileError {
      ModelFileError(
        kind: .unreadable, path: path, what: action, seen: String(cString: strerror(code)),
        expected: "a readable regular file")
    }
    // O_NONBLOCK: opening a FIFO must not wait for a writer.
    let descriptor = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK)
    guard descriptor >= 0 else { throw failure("open", errno) }
    defer { close(descriptor) }
    var status = stat()
    guard fstat(descriptor, &status) == 0 else { throw failure("stat", errno) }
    guard status.st_mode & S_IFMT == S_IFREG else {
      let seen = status.st_mode & S_IFMT == S_IFDIR ? "a directory" : "something that is not a regular file"
      throw ModelFileError(
        kind: .unreadable, path: path, what: "open", seen: seen, expected: "a readable regular file")
    }
    let size = Int(status.st_size)
    var base: UnsafeMutableRawPointer?
    if size > 0 {
      base = mmap(nil, size, PROT_READ, MAP_PRIVATE, descriptor, 0)
      if base == MAP_FAILED { throw failure("map \(size) bytes", errno) }
      #if os(Linux)
        // Decoding walks through all weights for each token, and with pages of 4 KiB the walks for addresses cost a tenth
        // of it. A hint: kernels and file systems that have no large pages for files (before Linux 6.16 most) ignore it.
        madvise(base, size, Int32(MADV_HUGEPAGE))
      #endif
    }
    self.path = path
    self.size = size
    self.base = base
  }

  deinit {
    if let base { munmap(base, size) }
  }

  /// The bytes of the file, `size` of them. Valid as long as this object lives: keep a reference beside the pointer.
  public var bytes: UnsafeRawBufferPointer { UnsafeRawBufferPointer(start: base, count: size) }

  /// What the kernel is told about the use of a range of bytes.
  public enum Advice: Sendable {
    /// Read ahead now.
    case willNeed
    /// Will be read once, front to back.
    case sequential
    /// Is read here and there: don't read ahead.
    case random
    /// Not needed for now: the pages may go (they come back from the file when touched).
    case dontNeed
  }

  /// Tells the kernel how `range` (bytes, clamped to the file) will be used. A hint: no failure, no effect on values.
  public func advise(_ advice: Advice, _ range: Range<Int>? = nil) {
    guard let base else { return }
    let page = Int(getpagesize())
    let clamped = (range ?? 0..<size).clamped(to: 0..<size)
    if clamped.isEmpty { return }
    let start = clamped.lowerBound / page * page
    let flag =
      switch advice {
      case .willNeed: MADV_WILLNEED
      case .sequential: MADV_SEQUENTIAL
      case .random: MADV_RANDOM
      case .dontNeed: MADV_DONTNEED
      }
    _ = madvise(base + start, clamped.upperBound - start, Int32(flag))
  }
}
