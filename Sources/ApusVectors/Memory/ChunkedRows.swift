import KernelInterface
import Synchronization

#if canImport(Glibc)
  import Glibc
#elseif canImport(Darwin)
  import Darwin
#endif

/// Rows of one size that never move, so that readers need no lock while one writer adds more.
///
/// Rows lie in chunks of `1 << shift`; a chunk is zero pages until it is written. The chunk directory is as large as it
/// can ever become, but only its touched pages exist.
///
/// `@unchecked Sendable`: one writer at a time changes it (the index's writer lock); a reader touches only rows whose
/// number it got through an atomic that the writer stored after the row was whole. A chunk that is moved has the same
/// bytes in both places, and both stay mapped: a reader may see either.
final class ChunkedRows: @unchecked Sendable {
  let rowBytes: Int
  let shift: Int
  private let directory: UnsafeMutablePointer<UnsafeMutableRawPointer?>
  fileprivate static let directoryEntries = 1 << 20
  private static let hugePage = 2 << 20
  /// Chunks that are this object's to unmap; those of an adopted file belong to `owner`.
  private var mapped: [UnsafeMutableRawPointer] = []
  private let owner: AnyObject?
  /// Of an adopted file, from its beginning, those that rows lie in.
  private(set) var adoptedBytes = 0
  /// Bytes in chunks of its own.
  private(set) var ownBytes = 0

  init(rowBytes: Int, shift: Int) {
    self.rowBytes = rowBytes
    self.shift = shift
    owner = nil
    directory = Self.makeDirectory()
  }

  /// Rows 0 ..< count lie in `bytes`, which `owner` keeps alive; a last chunk that is not full is copied.
  init(rowBytes: Int, shift: Int, adopting bytes: UnsafeMutableRawBufferPointer, count: Int, owner: AnyObject) {
    precondition(bytes.count >= count * rowBytes, "\(bytes.count) bytes cannot hold \(count) rows of \(rowBytes)")
    self.rowBytes = rowBytes
    self.shift = shift
    self.owner = owner
    directory = Self.makeDirectory()
    let whole = count >> shift
    adoptedBytes = (whole << shift) * rowBytes
    for chunk in 0..<whole { directory[chunk] = bytes.baseAddress! + (chunk << shift) * rowBytes }
    let rest = count - whole << shift
    if rest > 0 {
      ensure(UInt32(whole << shift))
      directory[whole]!.copyMemory(from: bytes.baseAddress! + (whole << shift) * rowBytes, byteCount: rest * rowBytes)
    }
  }

  /// Rows 0 ..< count as a copy of `bytes`.
  convenience init(rowBytes: Int, shift: Int, copying bytes: UnsafeMutableRawBufferPointer, count: Int) {
    self.init(rowBytes: rowBytes, shift: shift)
    var row = 0
    while row < count {
      let rows = min(1 << shift, count - row)
      ensure(UInt32(row))
      self.row(UInt32(row)).copyMemory(from: bytes.baseAddress! + row * rowBytes, byteCount: rows * rowBytes)
      row += rows
    }
  }

  /// Adopted chunks that still lie in the file.
  var adoptedChunks: Range<Int> { 0..<adoptedBytes / (rowBytes << shift) }

  /// A copy of the last adopted chunk. Rows of adopted chunks never change, so no lock is needed.
  func copyOfLastAdopted() -> OwnChunk {
    let copy = makeChunk(small: 0)
    copy.rows.copyMemory(from: directory[adoptedChunks.upperBound - 1]!, byteCount: rowBytes << shift)
    return copy
  }

  /// Readers find the last adopted chunk in `copy` from now on. Only the writer may.
  func replaceLastAdopted(with copy: OwnChunk) {
    directory[adoptedChunks.upperBound - 1] = copy.rows
    adoptedBytes -= rowBytes << shift
    own(copy)
  }

  deinit {
    for chunk in mapped { munmap(chunk, rowBytes << shift + Self.hugePage) }
    munmap(directory, Self.directoryEntries * 8)
  }

  /// What kernels take, and what readers keep: the directory never moves, and a view is nothing to count references of,
  /// which threads would do on one cache line.
  var view: RowChunks { RowChunks(chunks: UnsafePointer(directory), shift: shift, stride: rowBytes) }

  @inline(__always) func row(_ r: UInt32) -> UnsafeMutableRawPointer {
    directory[Int(r) >> shift].unsafelyUnwrapped + (Int(r) & (1 << shift - 1)) * rowBytes
  }

  /// Makes row `r` exist, as zeros if it is new. Only the writer may.
  func ensure(_ r: UInt32) {
    let chunk = Int(r) >> shift
    precondition(chunk < Self.directoryEntries, "row \(r) is beyond what \(Self.directoryEntries) chunks hold")
    guard directory[chunk] == nil else { return }
    // The first 2 MiB stay small pages, because most collections are small.
    let new = makeChunk(small: chunk == 0 ? Self.hugePage : 0)
    own(new)
    directory[chunk] = new.rows
  }

  /// Memory of one chunk: the mapping, and where in it the rows begin.
  struct OwnChunk {
    let mapping: UnsafeMutableRawPointer
    let rows: UnsafeMutableRawPointer
  }

  /// Rows are read in no order: with small pages every other read would also miss the TLB. So all but the first `small`
  /// bytes ask for large ones.
  private func makeChunk(small: Int) -> OwnChunk {
    let bytes = rowBytes << shift
    let memory = mapZeros(bytes + Self.hugePage)
    let aligned = UnsafeMutableRawPointer(
      bitPattern: (UInt(bitPattern: memory) + UInt(Self.hugePage) - 1) & ~UInt(Self.hugePage - 1))!
    if bytes > small { madvise(aligned + small, bytes - small, MADV_HUGEPAGE) }
    return OwnChunk(mapping: memory, rows: aligned)
  }

  private func own(_ chunk: OwnChunk) {
    mapped.append(chunk.mapping)
    ownBytes += rowBytes << shift
  }

  private static func makeDirectory() -> UnsafeMutablePointer<UnsafeMutableRawPointer?> {
    mapZeros(directoryEntries * 8).bindMemory(to: UnsafeMutableRawPointer?.self, capacity: directoryEntries)
  }
}

/// Private zero pages, made when they are touched.
func mapZeros(_ bytes: Int) -> UnsafeMutableRawPointer {
  let memory = mmap(nil, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0)
  guard let memory, memory != MAP_FAILED else {
    fatalError("mmap of \(bytes) bytes: \(String(cString: strerror(errno)))")
  }
  return memory
}

extension RowChunks {
  /// Whether row `r` has memory: any reader may ask.
  @inline(__always) func exists(_ r: UInt32) -> Bool {
    let chunk = Int(r) >> shift
    return chunk < ChunkedRows.directoryEntries && chunks[chunk] != nil
  }
}

/// A number per row.
///
/// `@unchecked Sendable`: `view` points into `rows`.
struct Column<Element: BitwiseCopyable & Sendable>: @unchecked Sendable {
  let rows: ChunkedRows
  fileprivate let view: RowChunks

  /// 2 ** 12 numbers a chunk.
  init() { self.init(ChunkedRows(rowBytes: MemoryLayout<Element>.stride, shift: 12)) }

  init(copying bytes: UnsafeMutableRawBufferPointer, count: Int) {
    self.init(ChunkedRows(rowBytes: MemoryLayout<Element>.stride, shift: 12, copying: bytes, count: count))
  }

  private init(_ rows: ChunkedRows) {
    self.rows = rows
    view = rows.view
  }

  subscript(r: UInt32) -> Element {
    @inline(__always) get { view.row(r).load(as: Element.self) }
    nonmutating set { rows.row(r).storeBytes(of: newValue, as: Element.self) }
  }
}

/// A number that readers load while the writer stores.
protocol Publishable: BitwiseCopyable, Sendable {
  static func load(_ memory: UnsafeRawPointer) -> Self
  static func store(_ value: Self, _ memory: UnsafeMutableRawPointer)
}

extension UInt32: Publishable {
  @inline(__always) static func load(_ memory: UnsafeRawPointer) -> UInt32 {
    memory.assumingMemoryBound(to: Atomic<UInt32>.self).pointee.load(ordering: .sequentiallyConsistent)
  }

  static func store(_ value: UInt32, _ memory: UnsafeMutableRawPointer) {
    memory.assumingMemoryBound(to: Atomic<UInt32>.self).pointee.store(value, ordering: .sequentiallyConsistent)
  }
}

extension UInt64: Publishable {
  @inline(__always) static func load(_ memory: UnsafeRawPointer) -> UInt64 {
    memory.assumingMemoryBound(to: Atomic<UInt64>.self).pointee.load(ordering: .sequentiallyConsistent)
  }

  static func store(_ value: UInt64, _ memory: UnsafeMutableRawPointer) {
    memory.assumingMemoryBound(to: Atomic<UInt64>.self).pointee.store(value, ordering: .sequentiallyConsistent)
  }
}

/// A number per row in two states: the writer's, and the one that readers see since the last `publish`.
struct PublishedColumn<Element: Publishable>: Sendable {
  private let live: Column<Element>
  private let draft: Column<Element>
  private var changed: [UInt32] = []

  init() {
    live = Column()
    draft = Column()
  }

  var bytes: Int { live.rows.ownBytes + draft.rows.ownBytes }

  /// What readers see; 0 for a row that never was.
  var reader: PublishedReader<Element> { PublishedReader(live: live) }

  /// The writer's state; rows must exist.
  subscript(r: UInt32) -> Element {
    get { draft[r] }
    set {
      draft[r] = newValue
      changed.append(r)
    }
  }

  func exists(_ r: UInt32) -> Bool { live.view.exists(r) }

  func ensure(_ r: UInt32) {
    draft.rows.ensure(r)
    live.rows.ensure(r)
  }

  mutating func publish() {
    for r in changed { Element.store(draft[r], live.rows.row(r)) }
    changed.removeAll(keepingCapacity: true)
  }
}

/// The readers' side of a `PublishedColumn`.
struct PublishedReader<Element: Publishable>: Sendable {
  fileprivate let live: Column<Element>

  @inline(__always) func load(_ r: UInt32) -> Element? {
    live.view.exists(r) ? Element.load(live.view.row(r)) : nil
  }
}
