import Foundation
import Synchronization
import Testing

@testable import ApusVectors

/// Tenants that leave memory and come back.
@Suite struct OffloadingTests {
  private static let dim = 24
  private static let own: Range<VectorID> = 0..<1500
  private static let shared: Range<VectorID> = 1500..<2500

  private func config(_ quantizer: VectorQuantizer) -> VectorConfig {
    VectorConfig(
      dim: Self.dim, metric: .l2, quantizer: quantizer, branching: 6, bufferCapacity: 12, leafCapacity: 12)
  }

  /// Tenant 1 has what nobody else has and what tenant 2 has, too; some of its rights came and went, so that its tree has
  /// a history. Tenant 3 has a third.
  private func mutations(_ random: inout TestRandom) -> [Mutation] {
    var all: [Mutation] = (0..<3500).map { id in
      let id = VectorID(id)
      let sharers: [TenantID] = Self.shared.contains(id) ? [1, 2] : Self.own.contains(id) ? [1] : [3]
      return .upsert(id: id, vector: random.vector(Self.dim), owner: sharers[0], shareWith: sharers)
    }
    all += (0..<400).flatMap { _ -> [Mutation] in
      let id = VectorID(2500 + random.below(1000))
      return [.grant(id: id, tenant: 1), .revoke(id: id, tenant: 1)]
    }
    return all
  }

  private func filled(_ quantizer: VectorQuantizer, _ random: inout TestRandom) throws -> VectorIndex {
    let index = try VectorIndex(config(quantizer))
    let all = mutations(&random)
    index.apply(all.prefix(3500))
    try index.train(TrainingOptions(iterations: 4, threads: 1))
    // Behind the training: trees of a rebuilding have no history.
    index.apply(all.dropFirst(3500))
    return index
  }

  private func answers(_ index: VectorIndex, as tenant: TenantID, seed: UInt64) throws -> [SearchResult] {
    var random = TestRandom(seed: seed)
    return try [1, 2, 4, 1000].flatMap { patience in
      try (0..<12).map { _ in
        try index.search(
          random.vector(Self.dim), as: tenant, options: SearchOptions(k: 9, patience: patience, exactThreshold: 0))
      }
    }
  }

  @Test(arguments: VectorQuantizer.allCases)
  func `a tenant that was away finds the same to the bit, for the same work`(quantizer: VectorQuantizer) throws {
    let seed = UInt64.random(in: 0 ... .max)
    var random = TestRandom(seed: seed)
    let index = try filled(quantizer, &random)
    let before = try answers(index, as: 1, seed: seed)
    let others = try answers(index, as: 2, seed: seed)
    let ids = try index.ids(of: 1)
    #expect(index.write { $0.offload(1) })
    #expect(!index.write { $0.offload(1) })
    try index.verify()
    #expect(throws: VectorError.offloaded(1)) { try answers(index, as: 1, seed: seed) }
    #expect(throws: VectorError.offloaded(1)) { try index.ids(of: 1) }
    #expect(throws: VectorError.offloaded(1)) { try index.vector(Self.own.lowerBound, as: 1) }
    #expect(index.idsWithOffloaded(of: 1) == ids && index.count(of: 1) == ids.count)
    #expect(index.stats.vectors == 3500 && index.isGranted(3, to: 1))
    #expect(try answers(index, as: 2, seed: seed) == others, "seed \(seed)")
    #expect(index.write { $0.load(1) })
    try index.verify()
    #expect(try answers(index, as: 1, seed: seed) == before, "seed \(seed)")
    // A rebuilding meanwhile: as if it had been there.
    let (a, b) = try (filledAgain(seed, quantizer), filledAgain(seed, quantizer))
    a.write { _ = $0.offload(1) }
    a.compact()
    a.write { _ = $0.load(1) }
    b.compact()
    try a.verify()
    #expect(try answers(a, as: 1, seed: seed).map(\.neighbours) == answers(b, as: 1, seed: seed).map(\.neighbours))
  }

  private func filledAgain(_ seed: UInt64, _ quantizer: VectorQuantizer) throws -> VectorIndex {
    var random = TestRandom(seed: seed)
    return try filled(quantizer, &random)
  }

  @Test func `its tree leaves memory at once, its own vectors with the next compaction, by the index's account`() throws
  {
    var random = TestRandom(seed: 5)
    let index = try filled(.sq8, &random)
    index.compact()
    let before = index.memory
    index.write { _ = $0.offload(1) }
    let tree = index.memory
    // 1500 ids of its own and 1000 shared ones in lists, and the access lists of the first.
    #expect(tree.trees <= before.trees - 2500 * 4 - 1500 * 16)
    index.compact()
    let after = index.memory
    #expect(after.vectors == before.vectors / 7 * 4)
    #expect(after.codes == before.codes / 7 * 4)
    let kept = 1500 * (8 + 4) * 4
    #expect(after.offloaded < kept && after.total < before.total * 2 / 3)
    #expect(after.onDisk >= 1500 * (Self.dim * 4 + 12) + 2500 * 8 && before.onDisk == 0)
    index.write { _ = $0.load(1) }
    index.compact()
    let again = index.memory
    #expect(again.total == before.total && again.onDisk == 0 && again.offloaded == 0)
  }

  @Test func `rights change while a tenant is away, and it comes back to what holds`() throws {
    var random = TestRandom(seed: 9)
    let index = try filled(.rabitq, &random)
    var expected = Set(try index.ids(of: 1))
    index.write { _ = $0.offload(1) }
    let moved = random.vector(Self.dim)
    try index.write { writer in
      // Shared: revoked, deleted, replaced. Its own: deleted, shared, taken, replaced. Others': granted.
      #expect(try writer.revoke(1500, from: 1))
      try writer.delete(1501)
      try writer.upsert(1502, moved, owner: nil)
      try writer.delete(0)
      #expect(try writer.grant(1, to: 2))
      #expect(try writer.revoke(2, from: 1))
      try writer.upsert(3, moved, owner: nil)
      #expect(try writer.grant(2600, to: 1))
      #expect(try !writer.grant(4, to: 1) && writer.tenants(of: 5) == [1] && writer.owner(of: 5) == 1)
      // There and back.
      #expect(try writer.revoke(1510, from: 1) && writer.grant(1510, to: 1))
      #expect(try writer.grant(2700, to: 1) && writer.revoke(2700, from: 1))
      #expect(throws: VectorError.unknownVector(0)) { try writer.delete(0) }
    }
    expected.subtract([1500, 1501, 0, 2])
    expected.insert(2600)
    #expect(index.idsWithOffloaded(of: 1) == expected.sorted())
    #expect(try index.vector(1, as: 2) != nil)
    try index.verify()
    index.write { _ = $0.load(1) }
    try index.verify()
    #expect(try index.ids(of: 1) == expected.sorted())
    #expect(try index.vector(3, as: 1) == moved && index.vector(1502, as: 1) == moved)
    #expect(try index.vector(2, as: 1) == nil)
    // A tenant that goes for good while it is away leaves its vectors.
    index.write { writer in
      _ = writer.offload(1)
      #expect(writer.dropTenant(1) == expected.count)
    }
    try index.verify()
    #expect(try index.ids(of: 1).isEmpty && index.stats.vectors == 3498)
  }

  @Test func `members of an offloaded group are told so, and not shown less`() throws {
    var random = TestRandom(seed: 3)
    let index = try filled(.none, &random)
    index.write { $0.setGroups([1], of: 3) }
    let query = random.vector(Self.dim)
    let before = try index.search(query, as: 3)
    index.write { _ = $0.offload(1) }
    #expect(throws: VectorError.offloaded(1)) { try index.search(query, as: 3) }
    #expect(throws: VectorError.offloaded(1)) { try index.vector(7, as: 3) }
    #expect(try index.vector(3000, as: 3) != nil)
    #expect(try !index.search(query, as: 2).neighbours.isEmpty)
    index.write { _ = $0.load(1) }
    #expect(try index.search(query, as: 3) == before)
  }

  @Test func `the same log gives the same bytes, whether the disk takes what leaves memory or not`() throws {
    let seed = UInt64.random(in: 0 ... .max)
    func life(spill: String?) throws -> (bytes: [UInt8], index: VectorIndex) {
      var random = TestRandom(seed: seed)
      let index = try filled(.rabitq, &random)
      if let spill { index.spill(to: spill) }
      index.apply([.offload(1), .grant(id: 2600, tenant: 1), .delete(id: 8), .offload(2), .offload(77)])
      index.apply([.compact, .load(2), .revoke(id: 1500, tenant: 1), .offload(3), .load(3), .grant(id: 9, tenant: 2)])
      var bytes: [UInt8] = []
      try index.writeImage {
        bytes += Array($0.rawValue.utf8)
      } bytes: {
        bytes += $0
      }
      return (bytes, index)
    }
    let (disk, memory) = (try life(spill: nil), try life(spill: "/nowhere/at/all"))
    #expect(disk.bytes == memory.bytes, "seed \(seed)")
    #expect(disk.index.memory.onDisk > 0 && memory.index.memory.onDisk == 0)
    #expect(memory.index.memory.offloaded > 1000 * Self.dim * 4)
    memory.index.write { _ = $0.load(1) }
    try memory.index.verify()
  }

  @Test func `a store opens with its tenants away, from the log and from a checkpoint`() throws {
    let folder = NSTemporaryDirectory() + "apus-offloading-\(UUID().uuidString)"
    defer { try? FileManager.default.removeItem(atPath: folder) }
    let seed = UInt64.random(in: 0 ... .max)
    var random = TestRandom(seed: seed)
    var store = try VectorStore.create(folder, config(.rabitq))
    try store.commit(mutations(&random))
    try store.train(TrainingOptions(iterations: 4, threads: 1))
    let before = try answers(store.index, as: 1, seed: seed)
    try store.commit([.offload(1)])
    try store.close()
    for round in ["log", "checkpoint", "checkpoint of a checkpoint"] {
      store = try VectorStore.open(folder)
      try store.verify()
      #expect(throws: VectorError.offloaded(1)) { try answers(store.index, as: 1, seed: seed) }
      #expect(store.index.memory.onDisk > 0 && store.index.stats.vectors == 3500, "\(round)")
      try store.compact()
      try store.checkpoint()
      try store.close()
      #expect(try FileManager.default.contentsOfDirectory(atPath: folder).allSatisfy { !$0.hasPrefix("offloaded") })
    }
    store = try VectorStore.open(folder)
    try store.commit([.load(1)])
    try store.verify()
    #expect(try answers(store.index, as: 1, seed: seed).map(\.neighbours) == before.map(\.neighbours), "seed \(seed)")
    try store.commit([.offload(1)])
    try store.snapshot(to: folder + "-copy")
    try store.close()
    defer { try? FileManager.default.removeItem(atPath: folder + "-copy") }
    let copy = try VectorStore.open(folder + "-copy")
    try copy.commit([.load(1)])
    #expect(try answers(copy.index, as: 1, seed: seed).map(\.neighbours) == before.map(\.neighbours), "seed \(seed)")
    try copy.close()
  }

  @Test func `readers of other tenants see nothing of it`() throws {
    var random = TestRandom(seed: 21)
    let index = try filled(.rabitq, &random)
    let expected = try answers(index, as: 2, seed: 1)
    let stop = Atomic<Bool>(false)
    let wrong = Mutex<[String]>([])
    let searches = Atomic<Int>(0)
    let readers = (0..<2).map { _ in
      Thread {
        while !stop.load(ordering: .acquiring) {
          do {
            // Lists are found by address, which says nothing; what is found and looked at must be the same.
            let seen = try self.answers(index, as: 2, seed: 1)
            if seen != expected { wrong.withLock { $0.append("another answer") } }
          } catch { wrong.withLock { $0.append("\(error)") } }
          searches.wrappingAdd(1, ordering: .relaxed)
        }
      }
    }
    readers.forEach { $0.start() }
    for _ in 0..<60 {
      index.write { _ = $0.offload(1) }
      index.write { _ = $0.load(1) }
    }
    while searches.load(ordering: .relaxed) < 10 { usleep(1000) }
    stop.store(true, ordering: .releasing)
    while readers.contains(where: { !$0.isFinished }) { usleep(1000) }
    #expect(wrong.withLock { $0 }.isEmpty)
    try index.verify()
  }
}
