import Testing

@testable import ApusVectors

/// A checkpoint's bytes: what was written comes back, and the same log gives the same bytes everywhere.
@Suite struct ImageTests {
  /// Sections in memory, as `SegmentFile` would give them.
  private final class Sections {
    var bytes: [ImageSection: UnsafeMutableRawBufferPointer] = [:]

    init(_ index: VectorIndex) throws {
      var pieces: [ImageSection: [UInt8]] = [:]
      var current = ImageSection.config
      try index.writeImage {
        current = $0
        pieces[$0] = []
      } bytes: {
        pieces[current]!.append(contentsOf: $0)
      }
      for (section, piece) in pieces {
        let memory = UnsafeMutableRawBufferPointer.allocate(byteCount: max(1, piece.count), alignment: 64)
        memory.copyBytes(from: piece)
        bytes[section] = UnsafeMutableRawBufferPointer(rebasing: memory[..<piece.count])
      }
    }

    func open() throws -> VectorIndex {
      try VectorIndex(image: { self.bytes[$0] ?? UnsafeMutableRawBufferPointer(start: nil, count: 0) }, owner: self)
    }

    /// FNV-1a over all sections in order.
    var hash: UInt64 {
      var hash: UInt64 = 0xcbf2_9ce4_8422_2325
      for section in ImageSection.allCases {
        for byte in bytes[section] ?? UnsafeMutableRawBufferPointer(start: nil, count: 0) {
          hash = (hash ^ UInt64(byte)) &* 0x100_0000_01b3
        }
      }
      return hash
    }

    deinit { for memory in bytes.values { memory.deallocate() } }
  }

  /// A life of an index as its log.
  private func log(seed: UInt64, dim: Int, count: Int) -> [Mutation] {
    var random = TestRandom(seed: seed)
    var log: [Mutation] = []
    func tenants(_ limit: Int) -> [TenantID] { (0..<random.below(limit)).map { _ in TenantID(random.below(20)) } }
    for step in 0..<count {
      let id = VectorID(random.below(300))
      switch random.below(20) {
      case 0..<9:
        log.append(.upsert(id: id, vector: random.vector(dim), owner: TenantID(id % 5), shareWith: tenants(4)))
      case 9..<14: log.append(.grant(id: id, tenant: TenantID(random.below(20))))
      case 14..<17: log.append(.revoke(id: id, tenant: TenantID(random.below(20))))
      case 17: log.append(.delete(id: id))
      case 18: log.append(random.below(10) == 0 ? .dropTenant(TenantID(random.below(20))) : .compact)
      default: log.append(.setGroups(tenant: TenantID(random.below(20)), groups: tenants(3)))
      }
      if step == count / 2 { log.append(.adoptTree(tree(dim, &random))) }
    }
    return log
  }

  /// Two levels of three children each, with centroids from no arithmetic.
  private func tree(_ dim: Int, _ random: inout TestRandom) -> [UInt8] {
    let encoding = VectorEncoding(dim: dim, metric: .cosine)
    let centroids = ChunkedRows(rowBytes: encoding.codeRowBytes, shift: 10)
    for node in 0..<UInt32(13) {
      centroids.ensure(node)
      let vector = random.vector(dim) + [Float](repeating: 0, count: encoding.padded - dim)
      encoding.encodeCodes(vector, to: centroids.row(node))
    }
    return ClusterTree(
      dim: dim, firstChild: [1, 4, 7, 10] + Array(repeating: 0, count: 9),
      childCount: [3, 3, 3, 3] + Array(repeating: 0, count: 9),
      level: [0, 1, 1, 1] + Array(repeating: 2, count: 9), meanSquare: Array(repeating: 1, count: 13),
      centroids: centroids
    ).encoded()
  }

  private func index(_ quantizer: VectorQuantizer = .sq8) throws -> VectorIndex {
    try VectorIndex(
      VectorConfig(dim: 20, metric: .cosine, quantizer: quantizer, branching: 3, bufferCapacity: 4, leafCapacity: 4))
  }

  @Test(arguments: VectorQuantizer.allCases)
  func `an opened image is the index that was written, and lives on`(quantizer: VectorQuantizer) throws {
    let seed = UInt64.random(in: 0 ... .max)
    let log = log(seed: seed, dim: 20, count: 900)
    let original = try index(quantizer)
    original.apply(log)
    let image = try Sections(original)
    let copy = try image.open()
    try copy.verify()
    #expect(copy.stats == original.stats && copy.config == original.config)
    #expect(try Sections(copy).hash == image.hash, "seed \(seed)")
    var random = TestRandom(seed: seed)
    for tenant in 0..<TenantID(20) {
      let query = random.vector(20)
      #expect(try copy.search(query, as: tenant) == original.search(query, as: tenant), "seed \(seed)")
    }
    // Both go the same way from here.
    let more = self.log(seed: seed &+ 1, dim: 20, count: 600)
    original.apply(more)
    copy.apply(more)
    try copy.verify()
    #expect(try Sections(copy).hash == Sections(original).hash, "seed \(seed)")
  }

  @Test func `the same log gives these bytes on every machine and at every level`() throws {
    let index = try index()
    index.apply(log(seed: 1, dim: 20, count: 2000))
    #expect(index.stats.vectors > 100 && index.stats.clusters == 13)
    let hash = String(try Sections(index).hash, radix: 16)
    #expect(hash == "a607d968f9559a31")
    // However the log is cut into sessions.
    let other = try self.index()
    for mutation in log(seed: 1, dim: 20, count: 2000) { other.apply([mutation]) }
    #expect(try Sections(other).hash == Sections(index).hash)
  }

  @Test func `mutations come back from their bytes, and cut or foreign bytes are refused`() throws {
    var random = TestRandom(seed: 4)
    let batch = Mutation.batch([.note([7]), .upsert(id: 1, vector: [1, 2], owner: 3, shareWith: [4]), .compact])
    for mutation in log(seed: 3, dim: 5, count: 300) + [.tuning([1, 2]), .note([]), .note([9]), batch, .batch([])] {
      let payload = mutation.payload
      let back = try payload.withUnsafeBytes { try Mutation(kind: mutation.kind, payload: $0) }
      #expect(back == mutation)
      if case .adoptTree = mutation { continue }
      if case .tuning = mutation { continue }
      if case .note = mutation { continue }
      if case .batch = mutation { continue }
      let cut = Array(payload.prefix(random.below(max(1, payload.count))))
      if cut.count < payload.count {
        #expect(throws: VectorError.self) { try cut.withUnsafeBytes { try Mutation(kind: mutation.kind, payload: $0) } }
      }
      // Any bytes: an error or a mutation, never a crash.
      let noise = (0..<random.below(60)).map { _ in UInt8(random.below(256)) }
      _ = try? noise.withUnsafeBytes { try Mutation(kind: UInt8(random.below(13)), payload: $0) }
    }
    for (kind, bytes) in [(99, []), (11, [3]), (11, [11, 0, 0, 0, 0]), (11, [8, 9, 0, 0, 0])] as [(UInt8, [UInt8])] {
      #expect(throws: VectorError.self) { try bytes.withUnsafeBytes { try Mutation(kind: kind, payload: $0) } }
    }
  }

  @Test func `a damaged tree artefact is refused`() throws {
    var random = TestRandom(seed: 6)
    let bytes = tree(20, &random)
    let index = try index()
    #expect(throws: Never.self) { try index.check(.adoptTree(bytes)) }
    for _ in 0..<500 {
      var damaged = bytes
      switch random.below(3) {
      case 0: damaged.removeLast(1 + random.below(damaged.count))
      case 1: damaged.append(7)
      default: damaged[random.below(12 + 13 * 6)] ^= UInt8(1 << random.below(8))
      }
      // A flipped mean square or digit may still be a tree; whatever is taken must work.
      if (try? index.check(.adoptTree(damaged))) != nil {
        let other = try self.index()
        other.apply([.adoptTree(damaged), .upsert(id: 1, vector: random.vector(20), owner: 1, shareWith: [])])
        try other.verify()
      }
    }
  }
}
