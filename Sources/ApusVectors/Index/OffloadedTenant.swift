/// What an offloaded tenant has, out of memory: its tree by ids, and the vectors that nobody else was granted.
///
/// What changes meanwhile is noted beside it, so that no change of rights has to read it.
struct OffloadedTenant: Sendable {
  let packed: PackedTenant
  /// Vectors that it has.
  var count: Int
  /// Whether the packed shape is the one that the tenant's tree would have now: a rebuilding makes all trees anew.
  var isShaped = true
  /// Ids whose place in the packed tree holds no more.
  var removed: Set<VectorID> = []
  /// Ids that it has and that are not in the packed tree, or at another place.
  var added: Set<VectorID> = []

  /// About the bytes that it takes in memory.
  var residentBytes: Int { 128 + (removed.capacity + added.capacity) * 12 + packed.residentBytes }

  /// All ids that it has, ascending.
  func ids() -> [VectorID] {
    packed.withBytes { bytes in
      let shared = packed.sharedIDs(bytes).filter { !removed.contains($0) }
      let own = (0..<packed.vectorCount).map { packed.id($0, bytes) }.filter { !removed.contains($0) }
      return (shared + own + added).sorted()
    }
  }
}

/// A tenant as bytes: `[vectors u32][ids u64 × vectors][owners u32 × vectors]`, its tree, and the vectors' f32 rows.
///
/// A tree is a list `[count u32][ids u64 × count]` or an inner node `[InnerBlock.tag u32][mask u64]` before its children.
/// Little endian.
final class PackedTenant: Sendable {
  private enum Place: @unchecked Sendable {
    // @unchecked: nobody writes into a mapped section.
    case mapped(UnsafeRawBufferPointer, owner: AnyObject)
    case spilled(SpillFile, Int)
    case memory([UInt8])
  }

  private let place: Place
  let byteCount: Int
  /// Vectors whose rows are here.
  let vectorCount: Int
  private let rowBytes: Int

  /// Moves `bytes` to `spill`, or keeps them where the disk refuses.
  init(_ bytes: [UInt8], rowBytes: Int, spill: SpillFile) {
    self.rowBytes = rowBytes
    byteCount = bytes.count
    vectorCount = Int(bytes.withUnsafeBytes { $0.loadUnaligned(as: UInt32.self) })
    place = bytes.withUnsafeBytes { spill.write($0) }.map { .spilled(spill, $0) } ?? .memory(bytes)
  }

  /// Bytes of an image, which `owner` keeps alive. Throws `VectorError.corrupt`.
  init(mapped bytes: UnsafeRawBufferPointer, rowBytes: Int, owner: AnyObject) throws {
    var reader = ByteReader(bytes, what: "an offloaded tenant")
    self.rowBytes = rowBytes
    byteCount = bytes.count
    vectorCount = Int(try reader.next(UInt32.self))
    _ = try reader.take(vectorCount * (12 + rowBytes))
    place = .mapped(bytes, owner: owner)
  }

  deinit { if case .spilled(let file, let offset) = place { file.release(offset, byteCount) } }

  var residentBytes: Int { if case .memory(let bytes) = place { bytes.count } else { 0 } }

  func withBytes<R>(_ body: (UnsafeRawBufferPointer) throws -> R) rethrows -> R {
    switch place {
    case .mapped(let bytes, _): return try body(bytes)
    case .memory(let bytes): return try bytes.withUnsafeBytes(body)
    case .spilled(let file, let offset):
      let bytes = [UInt8](unsafeUninitializedCapacity: byteCount) { buffer, count in
        file.read(offset, into: UnsafeMutableRawBufferPointer(buffer))
        count = byteCount
      }
      return try bytes.withUnsafeBytes(body)
    }
  }

  func id(_ i: Int, _ bytes: UnsafeRawBufferPointer) -> VectorID {
    VectorID(littleEndian: bytes.loadUnaligned(fromByteOffset: 4 + 8 * i, as: UInt64.self))
  }

  func owner(_ i: Int, _ bytes: UnsafeRawBufferPointer) -> TenantID {
    TenantID(littleEndian: bytes.loadUnaligned(fromByteOffset: 4 + 8 * vectorCount + 4 * i, as: UInt32.self))
  }

  /// `[padded]` f32, at any address.
  func row(_ i: Int, _ bytes: UnsafeRawBufferPointer) -> UnsafeRawPointer {
    bytes.baseAddress! + (byteCount - (vectorCount - i) * rowBytes)
  }

  func tree(_ bytes: UnsafeRawBufferPointer) -> ByteReader {
    let start = 4 + 12 * vectorCount
    return ByteReader(
      UnsafeRawBufferPointer(rebasing: bytes[start..<byteCount - vectorCount * rowBytes]), what: "a packed tree")
  }

  /// Ids in the tree whose rows are not here, in the order of the tree.
  func sharedIDs(_ bytes: UnsafeRawBufferPointer) -> [VectorID] {
    let own = Set((0..<vectorCount).map { id($0, bytes) })
    var reader = tree(bytes)
    var shared: [VectorID] = []
    while reader.remaining > 0, let word = try? reader.next(UInt32.self) {
      if word == InnerBlock.tag {
        _ = try? reader.next(UInt64.self)
      } else {
        for _ in 0..<word {
          if let id = try? reader.next(UInt64.self), !own.contains(id) { shared.append(id) }
        }
      }
    }
    return shared
  }
}

extension TenantForest {
  /// Appends a tree by ids (`PackedTenant`).
  func pack(_ handle: UInt32, ids: Column<UInt64>, to out: inout [UInt8]) {
    guard handle != 0 else { return }
    if handle & InnerBlock.tag != 0 {
      let node = InnerBlock(slab.address(handle))
      out.append(littleEndian: InnerBlock.tag)
      out.append(littleEndian: node.mask)
      for i in 0..<node.childCount { pack(node.children[i], ids: ids, to: &out) }
    } else {
      let slots = IDBlock(slab.address(handle)).buffer
      out.append(littleEndian: UInt32(slots.count))
      for slot in slots { out.append(littleEndian: ids[slot]) }
    }
  }

  /// The tree that `pack` wrote, without the ids that have no slot; 0 when none has.
  mutating func unpack(
    _ reader: inout ByteReader, cluster: UInt32 = 0, slot: (VectorID) -> UInt32?
  ) throws -> UInt32 {
    let word = try reader.next(UInt32.self)
    guard word == InnerBlock.tag else {
      return makeList(try (0..<word).compactMap { _ in slot(try reader.next(UInt64.self)) }.sorted())
    }
    var mask = try reader.next(UInt64.self)
    var children: [(digit: Int, handle: UInt32)] = []
    while mask != 0 {
      let digit = mask.trailingZeroBitCount
      mask &= mask - 1
      let child = try unpack(&reader, cluster: tree.firstChild[Int(cluster)] + UInt32(digit), slot: slot)
      if child != 0 { children.append((digit, child)) }
    }
    return joined(children, cluster: cluster)
  }
}
