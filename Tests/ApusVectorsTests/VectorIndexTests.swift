import ApusVectors
import Testing

/// What went wrong in the originals and in peers, and what callers get wrong.
@Suite struct VectorIndexTests {
  private func index(
    dim: Int = 8, metric: VectorMetric = .l2, quantizer: VectorQuantizer = .sq8, capacity: Int = 8
  ) throws -> VectorIndex {
    try VectorIndex(
      VectorConfig(
        dim: dim, metric: metric, quantizer: quantizer, branching: 8, bufferCapacity: capacity, leafCapacity: 8))
  }

  private func filled(_ count: Int, seed: UInt64 = 3, quantizer: VectorQuantizer = .sq8) throws -> VectorIndex {
    let index = try index(quantizer: quantizer)
    var random = TestRandom(seed: seed)
    try index.write { writer in
      for id in 0..<count { try writer.upsert(VectorID(id), random.vector(8), owner: TenantID(id % 3)) }
    }
    try index.train(TrainingOptions(threads: 1))
    return index
  }

  @Test func `k = 1 finds one, whatever the parameters`() throws {
    let index = try filled(500)
    var random = TestRandom(seed: 9)
    for patience in [1, 2, 50] {
      for factor in [1, 3] {
        let options = SearchOptions(k: 1, patience: patience, rerankFactor: factor)
        #expect(try index.search(random.vector(8), as: 1, options: options).neighbours.count == 1)
      }
    }
  }

  @Test func `a collection may grow to twenty times its training sample`() throws {
    let index = try filled(100)
    var random = TestRandom(seed: 4)
    try index.write { writer in
      for id in 100..<2100 { try writer.upsert(VectorID(id), random.vector(8), owner: 1) }
    }
    try index.verify()
    let all = try index.search(random.vector(8), as: 1, options: SearchOptions(k: 3000, patience: 1 << 20))
    #expect(all.neighbours.count == index.count(of: 1))
  }

  @Test func `equal vectors stop the splitting and are all found`() throws {
    let index = try index()
    let vector: [Float] = [1, 2, 3, 4, 5, 6, 7, 8]
    try index.write { writer in for id in 0..<1000 { try writer.upsert(VectorID(id), vector, owner: 0) } }
    try index.train(TrainingOptions(threads: 1))
    try index.verify()
    let found = try index.search(vector, as: 0, options: SearchOptions(k: 1000)).neighbours
    #expect(found.map(\.id) == Array(0..<1000) && found.allSatisfy { $0.distance == 0 })
  }

  @Test func `ids and tenants may be any number`() throws {
    let index = try index()
    var random = TestRandom(seed: 8)
    let ids: [VectorID] = [0, 1 << 32, 1 << 32 - 1, .max, .max - 1]
    let tenants: [TenantID] = [0, 70_000, .max - 2, .max - 1]
    try index.write { writer in for id in ids { try writer.upsert(id, random.vector(8), owner: 5, shareWith: tenants) }
    }
    for tenant in tenants {
      #expect(Set(try index.search(random.vector(8), as: tenant).neighbours.map(\.id)) == Set(ids))
    }
    #expect(try index.search(random.vector(8), as: 1 << 31).neighbours.isEmpty)
    try index.verify()
  }

  @Test func `a grant twice is one grant`() throws {
    let index = try filled(50)
    #expect(try index.write { try $0.grant(7, to: 60) })
    #expect(try !index.write { try $0.grant(7, to: 60) })
    #expect(try index.search([1, 1, 1, 1, 1, 1, 1, 1], as: 60).neighbours.map(\.id) == [7])
    #expect(try index.write { try $0.revoke(7, from: 60) })
    #expect(try !index.write { try $0.revoke(7, from: 60) })
    #expect(try index.search([1, 1, 1, 1, 1, 1, 1, 1], as: 60).neighbours.isEmpty)
  }

  @Test func `a revoked vector is gone from formulas too`() throws {
    let index = try filled(200)
    try index.write { writer in
      try writer.grant(1, to: 70)
      try writer.grant(2, to: 70)
      writer.setGroups([70], of: 0)
    }
    let query = [Float](repeating: 0.5, count: 8)
    let options = SearchOptions(k: 500, patience: 1000)
    #expect(Set(try index.search(query, as: 0, filter: .tenant(70), options: options).neighbours.map(\.id)) == [1, 2])
    try index.write { try $0.revoke(2, from: 70) }
    #expect(try index.search(query, as: 0, filter: .tenant(70), options: options).neighbours.map(\.id) == [1])
  }

  @Test func `a formula cannot look outside of the caller's rights`() throws {
    let index = try filled(300)
    let query = [Float](repeating: 0.5, count: 8)
    let options = SearchOptions(k: 500, patience: 1000)
    let own = Set(try index.search(query, as: 1, options: options).neighbours.map(\.id))
    // Tenant 2 is not the caller: nobody learns which vectors it has.
    #expect(try index.search(query, as: 1, filter: .tenant(2), options: options).neighbours.isEmpty)
    let filters: [AccessFilter] = [.not(.tenant(2)), .not(.and([.tenant(0), .tenant(2)])), .and([]), .not(.or([]))]
    for filter in filters {
      #expect(Set(try index.search(query, as: 1, filter: filter, options: options).neighbours.map(\.id)) == own)
    }
  }

  @Test(arguments: VectorQuantizer.allCases)
  func `recall grows with patience and ends at the exact answer`(quantizer: VectorQuantizer) throws {
    let index = try filled(4000, quantizer: quantizer)
    var random = TestRandom(seed: 21)
    let queries = (0..<60).map { _ in random.vector(8) }
    func found(_ options: SearchOptions) throws -> [[VectorID]] {
      try queries.map { try index.search($0, as: 1, options: options).neighbours.map(\.id) }
    }
    var exact = SearchOptions()
    exact.exact = true
    let truth = try found(exact)
    func recall(_ patience: Int) throws -> Double {
      let answers = try found(SearchOptions(patience: patience, rerankFactor: 10))
      let hits = zip(answers, truth).reduce(0) { $0 + Set($1.0).intersection($1.1).count }
      return Double(hits) / Double(queries.count * 10)
    }
    let recalls = try [1, 4, 16, 64, 1 << 20].map(recall)
    #expect(zip(recalls, recalls.dropFirst()).allSatisfy { $0 <= $1 + 0.01 }, "\(recalls)")
    if quantizer == .none {
      #expect(try found(SearchOptions(patience: 1 << 20)) == truth)
    } else {
      #expect(recalls.last! > 0.995, "\(recalls)")
    }
  }

  @Test func `bad vectors and parameters are refused and change nothing`() throws {
    let index = try index(metric: .cosine)
    func store(_ vector: [Float]) -> VectorError? {
      do {
        try index.write { try $0.upsert(1, vector, owner: 0) }
        return nil
      } catch { return error as? VectorError }
    }
    #expect(store([1, 2]) == .dimension(seen: 2, expected: 8))
    #expect(store([0, 0, 0, 0, 0, 0, 0, 0]) == .zeroVector)
    #expect(store([0, 0, 0, .nan, 0, 0, 0, 0]) == .notFinite(index: 3))
    #expect(store([0, .infinity, 0, 0, 0, 0, 0, 0]) == .notFinite(index: 1))
    #expect(index.stats.vectors == 0)
    #expect(store([1, 2, 3, 4, 5, 6, 7, 8]) == nil)
    // A bad new version leaves the old one.
    #expect(store([.nan, 2, 3, 4, 5, 6, 7, 8]) == .notFinite(index: 0))
    #expect(try index.search([1, 2, 3, 4, 5, 6, 7, 8], as: 0).neighbours.map(\.id) == [1])
    try index.verify()
    for options in [SearchOptions(k: 0), SearchOptions(k: 1 << 40), SearchOptions(patience: 0)] {
      #expect(throws: VectorError.self) { try index.search([1, 2, 3, 4, 5, 6, 7, 8], as: 0, options: options) }
    }
    #expect(throws: VectorError.zeroVector) { try index.search([0, 0, 0, 0, 0, 0, 0, 0], as: 0) }
    for config in [VectorConfig(dim: 0), VectorConfig(dim: 8, branching: 65), VectorConfig(dim: 8, branching: 1)] {
      #expect(throws: VectorError.self) { try VectorIndex(config) }
    }
  }

  @Test func `deleted vectors give their memory back at the next compaction`() throws {
    let index = try filled(3000)
    let before = index.memory
    try index.write { writer in for id in 0..<2900 { try writer.delete(VectorID(id)) } }
    #expect(index.memory.vectors == before.vectors)
    index.compact()
    #expect(index.memory.vectors == before.vectors / 30 && index.stats.deleted == 0)
    try index.verify()
  }

  @Test func `one with millions of grants and revokes at the limit does not grow`() throws {
    let index = try filled(200)
    try index.write { writer in for id in 0..<8 { try writer.grant(VectorID(id), to: 9) } }
    let before = index.memory.trees
    for _ in 0..<20_000 {
      try index.write { try $0.grant(100, to: 9) }
      try index.write { try $0.revoke(100, from: 9) }
    }
    // Blocks wait for readers in batches.
    #expect(index.memory.trees < before + 100_000)
    try index.verify()
  }
}
