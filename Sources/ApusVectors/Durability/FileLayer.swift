/// The file operations that durability rests on; tests put one in its place that fails and crashes on demand.
///
/// What counts as safe: the content of a file after `AppendFile.synchronize`, a name (made, renamed, removed) after
/// `synchronizeFolder`. Everything else may be lost by a crash of the machine, in part and in any order. Every operation
/// throws `DurabilityError` with the path.
public protocol FileLayer: Sendable {
  /// Makes a folder and those above it, durably; one that is there is fine.
  func makeFolder(_ path: String) throws(DurabilityError)
  /// The names in a folder, sorted; nil when there is no such folder.
  func list(_ folder: String) throws(DurabilityError) -> [String]?
  /// The size of a file in bytes.
  func size(_ path: String) throws(DurabilityError) -> Int
  /// The bytes of `range`; throws `damaged` when the file ends before.
  func read(_ path: String, _ range: Range<Int>) throws(DurabilityError) -> [UInt8]
  /// The whole file as private memory (copy on write), at a page's boundary.
  func map(_ path: String) throws(DurabilityError) -> MappedBytes
  /// An empty file to be written front to back; one of the same name loses its content.
  func create(_ path: String) throws(DurabilityError) -> any AppendFile
  /// Gives a file another name, in place of a file that has it.
  func rename(_ path: String, to target: String) throws(DurabilityError)
  /// Gives a file a second name; false where the file system can't.
  func link(_ path: String, to target: String) throws(DurabilityError) -> Bool
  func remove(_ path: String) throws(DurabilityError)
  /// Makes the names in a folder durable.
  func synchronizeFolder(_ path: String) throws(DurabilityError)
  /// Keeps other processes and other objects out of a folder as long as the result lives; throws `locked`.
  func lock(_ folder: String) throws(DurabilityError) -> any AnyObject & Sendable
}

/// A file that is written front to back.
public protocol AppendFile: AnyObject, Sendable {
  /// Writes all of `bytes` at the end; after a failure a part of them may be there.
  func write(_ bytes: RawSpan) throws(DurabilityError)
  /// Sets space aside so that the file can grow to `length` bytes without `diskFull`; a hint where unsupported.
  func reserve(_ length: Int) throws(DurabilityError)
  /// Cuts the file to `length` bytes and gives back what was set aside behind them.
  func truncate(_ length: Int) throws(DurabilityError)
  /// Waits until content and length are on the disk. After a failure it is unknown what is: no later success counts.
  func synchronize() throws(DurabilityError)
}

/// The bytes of a mapped file: private memory that may be written without a trace in the file.
public final class MappedBytes: @unchecked Sendable {
  // @unchecked: both properties are constants; who writes into the memory keeps the writes of threads apart.

  /// Valid as long as this object lives.
  public let bytes: UnsafeMutableRawBufferPointer
  private let release: @Sendable (UnsafeMutableRawBufferPointer) -> Void
  private let evict: @Sendable (UnsafeMutableRawBufferPointer) -> Void

  /// `evict` gives pages back that can be read from the file again.
  public init(
    _ bytes: UnsafeMutableRawBufferPointer,
    evict: @escaping @Sendable (UnsafeMutableRawBufferPointer) -> Void = { _ in },
    release: @escaping @Sendable (UnsafeMutableRawBufferPointer) -> Void
  ) {
    self.bytes = bytes
    self.release = release
    self.evict = evict
  }

  /// Takes the part from resident memory until it is read again; it must begin on a page, and nobody may have written into
  /// it.
  func evict(_ part: Range<Int>) { evict(UnsafeMutableRawBufferPointer(rebasing: bytes[part])) }

  deinit { release(bytes) }
}

extension FileLayer {
  /// The name of a file that isn't finished; a crash leaves it behind, opening the store removes it.
  static func temporary(_ name: String) -> String { name + ".tmp" }

  /// Gives a synchronised temporary file its name, durably: after a crash the name stands for the old or the new file.
  func publish(_ name: String, in folder: String) throws(DurabilityError) {
    try rename("\(folder)/\(Self.temporary(name))", to: "\(folder)/\(name)")
    try synchronizeFolder(folder)
  }

  /// Writes a synchronised temporary file and keeps it open.
  @discardableResult
  func prepare(_ name: String, in folder: String, with bytes: [UInt8]) throws(DurabilityError) -> any AppendFile {
    let file = try create("\(folder)/\(Self.temporary(name))")
    try file.write(bytes.span.bytes)
    try file.synchronize()
    return file
  }

  /// Replaces a small file: readers and crashes see the old or the new content.
  func replace(_ name: String, in folder: String, with bytes: [UInt8]) throws(DurabilityError) {
    try prepare(name, in: folder, with: bytes)
    try publish(name, in: folder)
  }

  /// A second name for an immutable file, or a synchronised copy where links aren't possible.
  func duplicate(_ path: String, to target: String) throws(DurabilityError) {
    if try link(path, to: target) { return }
    let (size, file) = (try size(path), try create(target))
    for start in stride(from: 0, to: size, by: 1 << 20) {
      let bytes = try read(path, start..<min(size, start + 1 << 20))
      try file.write(bytes.span.bytes)
    }
    try file.synchronize()
  }
}
