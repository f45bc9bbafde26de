import Foundation
import Synchronization
import Testing

@testable import ApusVectors

/// Vectors that leave the mapped checkpoint for memory of their own.
@Suite struct ResidentTests {
  @Test func `readers and writers go on while vectors move out of the file`() throws {
    let seed = UInt64.random(in: 0 ... .max)
    let folder = FileManager.default.temporaryDirectory.appending(path: "apus-\(UUID().uuidString)")
    defer { try? FileManager.default.removeItem(at: folder) }
    // 2,048 rows of 8 KiB are one chunk.
    let (dim, count) = (2048, VectorID(4500))
    var random = TestRandom(seed: seed)
    let vectors = (0..<64).map { _ in random.vector(dim) }
    @Sendable func vector(_ id: VectorID) -> [Float] { vectors[Int(id % 64)].map { $0 + Float(id) / 1e5 } }
    let made = try VectorStore.create(
      folder.path, VectorConfig(dim: dim, metric: .l2, quantizer: .none, branching: 4))
    for first in stride(from: 0, to: count, by: 500) {
      try made.commit(
        (first..<first + 500).map { .upsert(id: $0, vector: vector($0), owner: TenantID($0 % 7), shareWith: []) })
    }
    try made.checkpoint()
    try made.close()

    let store = try VectorStore.open(folder.path)
    #expect(store.index.adoptedFloatBytes == 2 * 2048 * 8192, "whole chunks lie in the file")
    @Sendable func answers() throws -> [SearchResult] {
      try (0..<14).map { try store.index.search(vectors[$0], as: TenantID($0 % 7)) }
    }
    let before = try answers()
    let hasMoved = Atomic(false)
    let readers = DispatchGroup()
    DispatchQueue.global().async(group: readers) {
      repeat {
        do { #expect(try answers() == before, "seed \(seed)") } catch { Issue.record("a reader: \(error)") }
      } while !hasMoved.load(ordering: .relaxed)
    }
    DispatchQueue.global().async(group: readers) {
      for id in count..<count + 50 {
        do {
          // Nobody who asks can see it.
          try store.commit([.upsert(id: id, vector: vector(id), owner: 9, shareWith: [])])
        } catch { Issue.record("a writer: \(error)") }
      }
    }
    try store.makeResident()
    hasMoved.store(true, ordering: .relaxed)
    readers.wait()
    #expect(store.index.adoptedFloatBytes == 0)
    #expect(try answers() == before, "seed \(seed)")
    try store.verify()
    for id in [0, 2047, 2048, 4095, 4096, count - 1, count + 49] {
      let owner = id < count ? TenantID(id % 7) : 9
      #expect(try store.index.vector(id, as: owner) == vector(id), "vector \(id), seed \(seed)")
    }
    // The moved rows are what is written and copied from now on.
    try store.makeResident()
    try store.compact()
    try store.checkpoint()
    #expect(try answers().map(\.neighbours) == before.map(\.neighbours))
    try store.close()
  }
}
