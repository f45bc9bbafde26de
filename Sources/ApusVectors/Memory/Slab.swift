#if canImport(Glibc)
  import Glibc
#elseif canImport(Darwin)
  import Darwin
#endif

/// Blocks of memory named by 32-bit handles, in size classes of 16 bytes and up (at most a quarter larger than asked).
///
/// A handle counts units of 16 bytes; 0 is no block, and bit 31 is the caller's. Only the writer allocates and frees;
/// readers follow handles that were published to them. A block that readers may hold is freed only through
/// `Reclamation`.
///
/// `@unchecked Sendable`: see above; memory never moves.
final class Slab: @unchecked Sendable {
  static let unit = 16
  /// 64 MiB: also the largest block.
  static let chunkUnits = 1 << 22
  private static let maximumChunks = 1 << 9

  private let chunks: UnsafeMutablePointer<UnsafeMutableRawPointer?>
  private var chunkCount = 0
  private var ownChunks: [UnsafeMutableRawPointer] = []
  private let owner: AnyObject?
  /// The first unit that was never used.
  private var next = 1
  private var free: [[UInt32]] = Array(repeating: [], count: 96)
  /// Bytes in blocks that are in use.
  private(set) var usedBytes = 0

  init() {
    owner = nil
    chunks = Self.makeDirectory()
  }

  /// Blocks lie as they were in `bytes` (an image: unit 0 is unused), which `owner` keeps alive. New blocks go into
  /// chunks of its own.
  init(adopting bytes: UnsafeMutableRawBufferPointer, usedBytes: Int, owner: AnyObject) {
    self.owner = owner
    self.usedBytes = usedBytes
    chunks = Self.makeDirectory()
    let chunkBytes = Self.chunkUnits * Self.unit
    chunkCount = (bytes.count + chunkBytes - 1) / chunkBytes
    for chunk in 0..<chunkCount { chunks[chunk] = bytes.baseAddress! + chunk * chunkBytes }
    next = max(chunkCount, 1) * Self.chunkUnits
    if chunkCount == 0 { next = 1 }
  }

  deinit {
    for chunk in ownChunks { munmap(chunk, Self.chunkUnits * Self.unit) }
    chunks.deallocate()
  }

  private static func makeDirectory() -> UnsafeMutablePointer<UnsafeMutableRawPointer?> {
    let directory = UnsafeMutablePointer<UnsafeMutableRawPointer?>.allocate(capacity: maximumChunks)
    directory.initialize(repeating: nil, count: maximumChunks)
    return directory
  }

  @inline(__always) func address(_ handle: UInt32) -> UnsafeMutableRawPointer { view.address(handle) }

  var view: SlabView { SlabView(chunks: UnsafePointer(chunks)) }

  /// A block of at least `bytes`, not cleared. Amortised O(1).
  func allocate(bytes: Int) -> UInt32 {
    let index = Self.classIndex(bytes: bytes)
    let units = Self.classUnits(index)
    usedBytes += units * Self.unit
    if let handle = free[index].popLast() { return handle }
    precondition(
      units <= Self.chunkUnits, "a block of \(bytes) bytes is beyond the \(Self.chunkUnits * Self.unit) of a chunk")
    // A block does not straddle chunks.
    if next & (Self.chunkUnits - 1) + units > Self.chunkUnits || next >> 22 >= chunkCount {
      if next & (Self.chunkUnits - 1) != 0 && next >> 22 < chunkCount { next = (next >> 22 + 1) << 22 }
      precondition(next >> 22 < Self.maximumChunks, "the tenants' trees are beyond 32 GiB")
      let chunk = mapZeros(Self.chunkUnits * Self.unit)
      chunks[next >> 22] = chunk
      ownChunks.append(chunk)
      chunkCount = next >> 22 + 1
    }
    defer { next += units }
    return UInt32(next)
  }

  /// `bytes` as it was asked for (any number of the same class will do).
  func release(_ handle: UInt32, bytes: Int) {
    let index = Self.classIndex(bytes: bytes)
    usedBytes -= Self.classUnits(index) * Self.unit
    free[index].append(handle & 0x7fff_ffff)
  }

  /// Forgets all blocks and keeps the memory: for a slab whose blocks live as long as one query.
  func reset() {
    next = 1
    usedBytes = 0
    for index in free.indices where !free[index].isEmpty { free[index].removeAll(keepingCapacity: true) }
  }

  /// Bytes that a request for `bytes` really takes.
  static func roundUp(bytes: Int) -> Int { classUnits(classIndex(bytes: bytes)) * unit }

  /// Classes of 1, 2, … 8 units, then four to every doubling.
  static func classIndex(bytes: Int) -> Int {
    let units = max(1, (bytes + unit - 1) / unit)
    if units <= 8 { return units - 1 }
    let exponent = Int.bitWidth - 1 - (units - 1).leadingZeroBitCount
    let step = 1 << (exponent - 2)
    return 7 + (exponent - 3) * 4 + (units - 1 << exponent + step - 1) / step
  }

  static func classUnits(_ index: Int) -> Int {
    if index < 8 { return index + 1 }
    let (exponent, quarter) = ((index - 8) / 4 + 3, (index - 8) % 4 + 1)
    return 1 << exponent + quarter << (exponent - 2)
  }
}

/// Where a slab's blocks are, for readers: nothing to count references of, which threads would do on one cache line.
///
/// `@unchecked Sendable`: the directory never moves; it lives as long as the slab.
struct SlabView: @unchecked Sendable {
  fileprivate let chunks: UnsafePointer<UnsafeMutableRawPointer?>

  @inline(__always) func address(_ handle: UInt32) -> UnsafeMutableRawPointer {
    let unit = Int(handle & 0x7fff_ffff)
    return chunks[unit >> 22].unsafelyUnwrapped + (unit & (Slab.chunkUnits - 1)) * Slab.unit
  }
}
