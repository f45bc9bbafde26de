import Foundation
import Testing

@testable import ApusVectors

/// Copies of a generation that are made while others write.
@Suite struct RebuildingTests {
  @Test func `a store that trains and compacts beside writers opens as what it was`() throws {
    let seed = UInt64.random(in: 0 ... .max)
    let folder = FileManager.default.temporaryDirectory.appending(path: "apus-\(UUID().uuidString)")
    defer { try? FileManager.default.removeItem(at: folder) }
    let store = try VectorStore.create(
      folder.path, VectorConfig(dim: 8, metric: .l2, branching: 4, bufferCapacity: 6, leafCapacity: 6))
    var random = TestRandom(seed: seed)
    try store.commit(
      (0..<3000).map { .upsert(id: $0, vector: random.vector(8), owner: TenantID($0 % 5), shareWith: []) })
    let copies = DispatchGroup()
    DispatchQueue.global().async(group: copies) {
      do {
        for round in 0..<6 {
          if round % 2 == 0 {
            try store.train(TrainingOptions(iterations: 3, seed: UInt64(round), threads: 1))
          } else {
            try store.compact()
          }
          if round == 3 { try store.checkpoint() }
        }
      } catch {
        Issue.record("beside writers: \(error)")
      }
    }
    // Until the copies are made, so that there is always something to catch up with.
    var (step, next) = (0, VectorID(3000))
    while copies.wait(timeout: .now()) == .timedOut || step < 500 {
      let (id, tenant) = (VectorID(random.below(3000)), TenantID(random.below(9)))
      switch step % 5 {
      case 0:
        try store.commit([.upsert(id: next, vector: random.vector(8), owner: tenant, shareWith: [3])])
        next += 1
      case 1: try store.commit([.grant(id: next - 1, tenant: tenant), .setGroups(tenant: tenant, groups: [1])])
      case 2: try store.commit([.revoke(id: next - 1, tenant: tenant)])
      case 3: try store.commit([.upsert(id: id, vector: random.vector(8), owner: nil, shareWith: [tenant])])
      default: if step % 50 == 4 { try store.commit([.delete(id: next - 1), .dropTenant(8)]) }
      }
      step += 1
    }
    try store.verify()
    let held = try (0..<TenantID(9)).map { try store.index.ids(of: $0) }
    let vectors = try held[1].map { try store.index.vector($0, as: 1) }
    let stats = store.index.stats
    try store.close()
    let again = try VectorStore.open(folder.path)
    try again.verify()
    #expect(try (0..<TenantID(9)).map { try again.index.ids(of: $0) } == held, "seed \(seed), \(step) steps")
    #expect(try held[1].map { try again.index.vector($0, as: 1) } == vectors)
    #expect(again.index.stats == stats)
    try again.close()
  }

  @Test func `a rebuilding that cannot be logged changes nothing and leaves the way free`() throws {
    let index = try VectorIndex(VectorConfig(dim: 4, metric: .l2))
    try index.write { writer in
      for id in 0..<VectorID(10) { try writer.upsert(id, [1, 2, 3, Float(id)], owner: 1) }
    }
    struct Full: Error {}
    #expect(throws: Full.self) { try index.rebuild(over: nil) { _ in throw Full() } }
    try index.write { try $0.delete(3) }
    #expect(index.stats.deleted == 1)
    index.compact()
    #expect(index.stats.deleted == 0 && index.count(of: 1) == 9)
    try index.verify()
  }
}
