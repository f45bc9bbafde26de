import KernelInterface

/// An index as named sections of bytes, and back: what a checkpoint holds. The same state gives the same bytes.
///
/// Rows and columns are the memory's own, so that opening maps them; trees and lists are copied block by block into a
/// fresh image without holes.
enum ImageSection: String, CaseIterable {
  case config, tree, floats, codes, ids, paths, owners, dead, access, tenants, slab, tuning, offloaded
}

extension GenerationWriter {
  /// Calls `write` with each section in turn; pieces of one section follow one another. Nothing may be pending.
  func writeImage(
    tuning: PatienceTable, section: (ImageSection) throws -> Void, bytes: (UnsafeRawBufferPointer) throws -> Void
  ) throws {
    func put(_ numbers: [UInt8]) throws { try numbers.withUnsafeBytes(bytes) }
    func rows(_ rows: ChunkedRows) throws {
      var slot: UInt32 = 0
      while slot < slotCount {
        let count = min(slotCount - slot, UInt32(1 << rows.shift) - slot & UInt32(1 << rows.shift - 1))
        try bytes(UnsafeRawBufferPointer(start: rows.row(slot), count: Int(count) * rows.rowBytes))
        slot += count
      }
    }
    try section(.config)
    try put(config.encoded(slotCount: slotCount, grantCount: grantCount, hasOffloaded: !offloaded.isEmpty))
    try section(.tree)
    try put(generation.tree.encoded())
    try section(.floats)
    try rows(generation.floats)
    if let codes = generation.codes {
      try section(.codes)
      try rows(codes)
    }
    try section(.ids)
    try rows(generation.ids.rows)
    try section(.paths)
    try rows(generation.paths.rows)
    try section(.owners)
    try rows(owners.rows)
    try section(.dead)
    var dead: [UInt8] = []
    for slot in 0..<slotCount where !isAlive(slot) { dead.append(littleEndian: slot) }
    try put(dead)
    var image = SlabImage()
    var access: [UInt8] = []
    access.reserveCapacity(Int(slotCount) * 4)
    for slot in 0..<slotCount { access.append(littleEndian: forest.copy(self.access[slot], to: &image)) }
    try section(.access)
    try put(access)
    // [tenant u32][groups u32][root word u64] each.
    var table: [UInt8] = []
    for tenant in tenants {
      let root = root(of: tenant)
      table.append(littleEndian: tenant)
      table.append(littleEndian: forest.copy(groups.exists(tenant) ? groups[tenant] : 0, to: &image))
      let copy = root.root == TenantRoot.offloaded ? root.root : forest.copy(root.root, to: &image)
      table.append(littleEndian: TenantRoot(root: copy, count: root.count).word)
    }
    try section(.tenants)
    try put(table)
    try section(.slab)
    try put(image.bytes)
    try section(.tuning)
    try put(tuning.encoded())
    guard !offloaded.isEmpty else { return }
    try section(.offloaded)
    try writeOffloaded(bytes)
  }

  /// The state that `writeImage` wrote. `section` gives private memory that `owner` keeps alive.
  static func readImage(
    section: (ImageSection) throws -> UnsafeMutableRawBufferPointer, owner: AnyObject
  ) throws -> (writer: GenerationWriter, tuning: PatienceTable) {
    let (config, slotCount, grantCount) = try VectorConfig.decode(UnsafeRawBufferPointer(try section(.config)))
    try config.validate()
    let tree = try ClusterTree(decoding: UnsafeRawBufferPointer(try section(.tree)))
    guard tree.dim == config.dim else {
      throw VectorError.corrupt("a tree of \(tree.dim) dimensions in a collection of \(config.dim)")
    }
    func checked(_ name: ImageSection, _ bytesEach: Int) throws -> UnsafeMutableRawBufferPointer {
      let bytes = try section(name)
      guard bytes.count == Int(slotCount) * bytesEach else {
        throw VectorError.corrupt("\(name.rawValue) has \(bytes.count) bytes for \(slotCount) slots of \(bytesEach)")
      }
      return bytes
    }
    let encoding = VectorEncoding(dim: config.dim, metric: config.metric)
    let count = Int(slotCount)
    // Codes are read in every query: a copy in large pages is worth its milliseconds.
    var codes: ChunkedRows?
    if let rowBytes = encoding.rowBytes(of: config.quantizer) {
      let bytes = try checked(.codes, rowBytes)
      codes = ChunkedRows(rowBytes: rowBytes, shift: shift(rowBytes), copying: bytes, count: count)
    }
    let slabBytes = try section(.slab)
    let parts = ImageParts(
      floats: ChunkedRows(
        rowBytes: encoding.floatRowBytes, shift: shift(encoding.floatRowBytes),
        adopting: try checked(.floats, encoding.floatRowBytes), count: count, owner: owner),
      codes: codes,
      ids: Column(copying: try checked(.ids, 8), count: count),
      paths: Column(copying: try checked(.paths, 8), count: count),
      owners: Column(copying: try checked(.owners, 4), count: count),
      slab: Slab(adopting: slabBytes, usedBytes: max(0, slabBytes.count - Slab.unit), owner: owner))
    let writer = GenerationWriter(
      config: config, tree: tree, encoding: encoding, parts: parts, slotCount: slotCount, grantCount: grantCount)
    try writer.adopt(
      dead: UnsafeRawBufferPointer(try section(.dead)), access: UnsafeRawBufferPointer(try checked(.access, 4)),
      tenants: UnsafeRawBufferPointer(try section(.tenants)), slabUnits: slabBytes.count / Slab.unit)
    let offloaded = UnsafeRawBufferPointer(try section(.offloaded))
    if !offloaded.isEmpty { try writer.adoptOffloaded(offloaded, owner: owner) }
    for tenant in writer.tenants
    where writer.root(of: tenant).root == TenantRoot.offloaded && writer.offloaded[tenant] == nil {
      throw VectorError.corrupt("the offloaded tenant \(tenant) is missing")
    }
    return (writer, try PatienceTable(decoding: UnsafeRawBufferPointer(try section(.tuning))))
  }
}

/// Memory of a generation that comes from an image.
struct ImageParts {
  var floats: ChunkedRows
  var codes: ChunkedRows?
  var ids: Column<UInt64>
  var paths: Column<UInt64>
  var owners: Column<UInt32>
  var slab: Slab
}

/// Blocks one after another, as `Slab(adopting:)` takes them: unit 0 is unused, no block straddles a chunk.
struct SlabImage {
  private(set) var bytes = [UInt8](repeating: 0, count: Slab.unit)

  /// Room for a block, as large as the slab's class is; its handle and its place in `bytes`.
  mutating func allocate(bytes count: Int) -> (handle: UInt32, offset: Int) {
    let size = Slab.roundUp(bytes: count)
    let chunk = Slab.chunkUnits * Slab.unit
    let left = chunk - bytes.count % chunk
    if left < size { bytes.append(contentsOf: repeatElement(0, count: left)) }
    let offset = bytes.count
    bytes.append(contentsOf: repeatElement(0, count: size))
    return (UInt32(offset / Slab.unit), offset)
  }

  mutating func store(_ number: UInt32, at offset: Int) {
    bytes.withUnsafeMutableBytes { $0.storeBytes(of: number, toByteOffset: offset, as: UInt32.self) }
  }

  mutating func store(_ source: UnsafeRawPointer, count: Int, at offset: Int) {
    bytes.withUnsafeMutableBytes { $0.baseAddress!.advanced(by: offset).copyMemory(from: source, byteCount: count) }
  }
}

extension TenantForest {
  /// Copies a list or a whole tree into `image`; returns its handle there.
  func copy(_ handle: UInt32, to image: inout SlabImage) -> UInt32 {
    guard handle != 0 else { return 0 }
    let address = slab.address(handle)
    guard handle & InnerBlock.tag != 0 else {
      let bytes = IDBlock(address).bytes
      let (new, offset) = image.allocate(bytes: bytes)
      image.store(address, count: bytes, at: offset)
      return new
    }
    let node = InnerBlock(address)
    let (new, offset) = image.allocate(bytes: node.bytes)
    image.store(address, count: node.bytes, at: offset)
    for i in 0..<node.childCount { image.store(copy(node.children[i], to: &image), at: offset + 12 + 4 * i) }
    return new | InnerBlock.tag
  }
}

extension VectorConfig {
  /// The greater one has offloaded tenants, which programs that know only the other must not pass over.
  private static let formatVersions: ClosedRange<UInt32> = 2...3

  func encoded(slotCount: UInt32, grantCount: Int, hasOffloaded: Bool) -> [UInt8] {
    var out: [UInt8] = []
    let metricCode = UInt32(VectorMetric.allCases.firstIndex(of: metric)!)
    let quantizerCode = UInt32(VectorQuantizer.allCases.firstIndex(of: quantizer)!)
    let numbers = [
      hasOffloaded ? Self.formatVersions.upperBound : Self.formatVersions.lowerBound, UInt32(dim), metricCode,
      quantizerCode, UInt32(branching), UInt32(bufferCapacity),
      UInt32(leafCapacity), slotCount,
    ]
    for number in numbers { out.append(littleEndian: number) }
    out.append(littleEndian: UInt64(grantCount))
    return out
  }

  static func decode(_ bytes: UnsafeRawBufferPointer) throws -> (config: VectorConfig, slots: UInt32, grants: Int) {
    var reader = ByteReader(bytes, what: "configuration")
    let version = try reader.next(UInt32.self)
    guard formatVersions.contains(version) else {
      throw VectorError.corrupt(
        "format version \(version); this program reads \(formatVersions.lowerBound) to \(formatVersions.upperBound)")
    }
    let dim = Int(try reader.next(UInt32.self))
    let (metric, quantizer) = (Int(try reader.next(UInt32.self)), Int(try reader.next(UInt32.self)))
    guard metric < VectorMetric.allCases.count, quantizer < VectorQuantizer.allCases.count else {
      throw VectorError.corrupt("metric \(metric), quantizer \(quantizer)")
    }
    let config = VectorConfig(
      dim: dim, metric: VectorMetric.allCases[metric], quantizer: VectorQuantizer.allCases[quantizer],
      branching: Int(try reader.next(UInt32.self)), bufferCapacity: Int(try reader.next(UInt32.self)),
      leafCapacity: Int(try reader.next(UInt32.self)))
    let slots = try reader.next(UInt32.self)
    let grants = try reader.next(UInt64.self)
    guard grants < 1 << 48 else { throw VectorError.corrupt("\(grants) grants") }
    return (config, slots, Int(grants))
  }
}
