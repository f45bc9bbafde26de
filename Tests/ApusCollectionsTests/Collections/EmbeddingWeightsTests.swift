import ApusVectors
import Testing

@testable import ApusCollections

@Suite struct EmbeddingWeightsTests {
  private static let dim = LetterEmbedder.dim
  private static let refusal = CollectionError.otherWeights(model: "letters", seen: "2222", expected: "1111")

  @Test func `other weights of the model's name are refused, in points and in queries`() async throws {
    let bench = try Bench(dim: Self.dim, metric: .cosine, weights: "1111")
    #expect(bench.collection.weightsDigest == "1111")
    try bench.collection.upsert(try await bench.collection.embedding([Point("x", text: "aabb")]), as: bench.a)
    try bench.collection.close()
    let other = try bench.reopened(weights: "2222")
    await #expect(throws: Self.refusal) { try await other.embedding([Point("y", text: "ab")]) }
    await #expect(throws: Self.refusal) { try await other.prepare([Query(text: "ab")], as: bench.a) }
    for part in ["2222", "1111", "'letters'", "run those under this name, or make a new collection"] {
      #expect("\(Self.refusal)".contains(part))
    }
    // What needs no model goes on.
    #expect(try other.search(Query(mode: .keyword, text: "aabb"), as: bench.a).map(\.point.key) == ["x"])
    let vector = [Float](repeating: 1, count: Self.dim)
    #expect(try other.search(Query(vector: vector), as: bench.a).map(\.point.key) == ["x"])
    try other.close()
    let same = try bench.reopened(weights: "1111")
    let query = try await same.prepare([Query(text: "ab")], as: bench.a)[0]
    #expect(try same.search(query, as: bench.a).map(\.point.key) == ["x"])
  }

  @Test func `a collection that knows no weights takes those of the first use, for good`() async throws {
    let bench = try Bench(dim: Self.dim, metric: .cosine)
    #expect(bench.collection.weightsDigest == nil)
    // An embedder without files says nothing.
    _ = try await bench.collection.embedding([Point("x", text: "aabb")])
    #expect(bench.collection.weightsDigest == nil)
    try bench.collection.close()
    let first = try bench.reopened(weights: "1111")
    #expect(first.weightsDigest == nil)
    _ = try await first.prepare([Query(text: "ab")], as: bench.a)
    #expect(first.weightsDigest == "1111")
    try first.close()
    // Also where the catalogue is made again from the log.
    for forgets in [false, true] {
      if forgets { bench.forgetCatalogue() }
      let other = try bench.reopened(weights: "2222")
      #expect(other.weightsDigest == "1111")
      await #expect(throws: Self.refusal) { try await other.embedding([Point("y", text: "ab")]) }
      try other.close()
    }
  }

  @Test func `of many first uses at once all agree on the weights`() async throws {
    let bench = try Bench(dim: Self.dim, metric: .cosine)
    try bench.collection.close()
    let collection = try bench.reopened(weights: "1111")
    let before = collection.store.lastSequence
    try await withThrowingTaskGroup(of: Void.self) { group in
      for _ in 0..<20 { group.addTask { _ = try await collection.prepare([Query(text: "ab")], as: bench.a) } }
      try await group.waitForAll()
    }
    #expect(collection.weightsDigest == "1111" && collection.store.lastSequence == before + 1)
  }
}
