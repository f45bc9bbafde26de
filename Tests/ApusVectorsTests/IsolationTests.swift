import ApusVectors
import Foundation
import Synchronization
import Testing

/// Random changes and searches against dictionaries of sets: what a tenant finds is its own, all of it, at the true
/// distance.
@Suite struct IsolationTests {
  struct Shape: Sendable, CustomTestStringConvertible {
    var metric: VectorMetric
    var quantizer: VectorQuantizer
    var branching: Int
    var capacity: Int
    var testDescription: String { "\(metric) \(quantizer) B=\(branching) C=\(capacity)" }
  }

  static let shapes = [
    Shape(metric: .l2, quantizer: .sq8, branching: 4, capacity: 8),
    Shape(metric: .cosine, quantizer: .none, branching: 16, capacity: 4),
    Shape(metric: .ip, quantizer: .sq8, branching: 3, capacity: 1),
    Shape(metric: .cosine, quantizer: .sq8, branching: 8, capacity: 32),
    Shape(metric: .l2, quantizer: .rabitq, branching: 5, capacity: 12),
  ]

  @Test(arguments: shapes)
  func `a long random life never shows what was not granted`(shape: Shape) throws {
    let seed = UInt64.random(in: 0 ... .max)
    var random = TestRandom(seed: seed)
    let dim = 12
    let index = try VectorIndex(
      VectorConfig(
        dim: dim, metric: shape.metric, quantizer: shape.quantizer, branching: shape.branching,
        bufferCapacity: shape.capacity, leafCapacity: 6))
    var model = ShadowModel()
    let tenants = 14
    // Copies that are made while the life goes on.
    let copies = DispatchGroup()
    for step in 0..<(runsLongTests ? 300_000 : 1500) {
      let id = VectorID(random.below(400))
      let tenant = TenantID(random.below(tenants))
      switch random.below(100) {
      case 0..<25:
        let vector = random.vector(dim)
        let shared = (0..<random.below(4)).map { _ in TenantID(random.below(tenants)) }
        let isNew = try index.write { try $0.upsert(id, vector, owner: tenant, shareWith: shared) }
        #expect(isNew == (model.vectors[id] == nil), "seed \(seed), step \(step)")
        if isNew { model.grants[id] = [tenant] }
        model.vectors[id] = vector
        model.grants[id]!.formUnion(shared)
      case 25..<50:
        guard model.vectors[id] != nil else {
          #expect(throws: VectorError.unknownVector(id)) { try index.write { try $0.grant(id, to: tenant) } }
          continue
        }
        let changed = try index.write { try $0.grant(id, to: tenant) }
        #expect(changed == model.grants[id]!.insert(tenant).inserted, "seed \(seed), step \(step)")
      case 50..<65:
        guard model.vectors[id] != nil else { continue }
        let changed = try index.write { try $0.revoke(id, from: tenant) }
        #expect(changed == (model.grants[id]!.remove(tenant) != nil), "seed \(seed), step \(step)")
      case 65..<70:
        guard model.vectors[id] != nil else { continue }
        try index.write { try $0.delete(id) }
        model.vectors[id] = nil
        model.grants[id] = nil
      case 70:
        if random.below(4) == 0 {
          index.write { $0.dropTenant(tenant) }
          model.dropTenant(tenant)
        }
      case 71..<73:
        let groups = Set((0..<random.below(3)).map { _ in TenantID(random.below(tenants)) })
        index.write { $0.setGroups(Array(groups), of: tenant) }
        model.groups[tenant] = groups
      case 73:
        let seed = random.next()
        switch random.below(8) {
        case 0: try index.train(TrainingOptions(iterations: 3, seed: seed, threads: 1))
        case 1: index.compact()
        case 2...3:
          DispatchQueue.global().async(group: copies) {
            do {
              try index.train(TrainingOptions(iterations: 3, seed: seed, threads: 1))
            } catch {
              Issue.record("training beside writers: \(error)")
            }
          }
        case 4...5: DispatchQueue.global().async(group: copies) { index.compact() }
        default: break
        }
      case 74:
        #expect(index.write { $0.offload(tenant) } == model.offloaded.insert(tenant).inserted, "seed \(seed), \(step)")
      case 75..<77:
        #expect(index.write { $0.load(tenant) } == (model.offloaded.remove(tenant) != nil), "seed \(seed), \(step)")
      default:
        let filter = random.below(3) == 0 ? random.filter(depth: 5, tenants: tenants) : nil
        var options = SearchOptions(k: 1 + random.below(12), patience: random.below(2) == 0 ? 1 : 1000)
        if random.below(2) == 0 { options.exactThreshold = 0 }
        options.exact = random.below(5) == 0
        let query = random.vector(dim)
        guard model.offloaded.isDisjoint(with: model.view(tenant)) else {
          #expect(throws: VectorError.self, "seed \(seed), step \(step)") {
            try index.search(query, as: tenant, filter: filter, options: options)
          }
          #expect(
            index.idsWithOffloaded(of: tenant) == model.visible(to: tenant).sorted(), "seed \(seed), step \(step)")
          continue
        }
        let result = try index.search(query, as: tenant, filter: filter, options: options)
        let visible = model.visible(to: tenant, filter: filter)
        let found = result.neighbours.map(\.id)
        try #require(visible.isSuperset(of: found), "LEAK, seed \(seed), step \(step)")
        try #require(Set(found).count == found.count, "twice the same, seed \(seed), step \(step)")
        try #require(found.count == min(options.k, visible.count), "too few, seed \(seed), step \(step)")
        for neighbour in result.neighbours {
          let distance = slowDistance(query, model.vectors[neighbour.id]!, shape.metric)
          #expect(abs(Double(neighbour.distance) - distance) < 1e-3, "seed \(seed), step \(step)")
        }
        if options.exact || options.patience == 1000 && shape.quantizer == .none {
          // All of the tree was looked at: nothing nearer can be missing.
          let worst = result.neighbours.last.map { Double($0.distance) } ?? 0
          let nearer = visible.count {
            slowDistance(query, model.vectors[$0]!, shape.metric) < worst - 1e-3
          }
          #expect(nearer < options.k, "seed \(seed), step \(step)")
        }
      }
      if step % 500 == 0 { try index.verify() }
    }
    copies.wait()
    try index.verify()
    #expect(index.stats.vectors == model.vectors.count)
    #expect(index.stats.grants == model.grants.values.reduce(0) { $0 + $1.count })
  }

  @Test func `one writer and readers: every answer is one that held at some moment of the query`() throws {
    let seed = UInt64.random(in: 0 ... .max)
    let index = try VectorIndex(VectorConfig(dim: 8, metric: .l2, branching: 4, bufferCapacity: 4, leafCapacity: 4))
    var random = TestRandom(seed: seed)
    let vectors = (0..<300).map { _ in random.vector(8) }
    try index.write { writer in
      for (i, vector) in vectors.enumerated() { try writer.upsert(VectorID(i), vector, owner: 1000) }
    }
    try index.train(TrainingOptions(threads: 1))
    // Tenant 1 holds `base` always, and a window of others that the writer moves: the state after change n is known.
    let base = 20
    try index.write { writer in for i in 0..<base { try writer.grant(VectorID(i), to: 1) } }
    let published = Atomic<Int>(0)
    let begun = Atomic<Int>(0)
    let stop = Atomic<Bool>(false)
    let changes = runsLongTests ? 200_000 : 1500
    // After change n: base, and the ids that window(n) gives.
    @Sendable func window(_ n: Int) -> Set<VectorID> {
      Set((n..<n + 10).map { VectorID(base + $0 % (vectors.count - base)) })
    }
    try index.write { writer in for id in window(0) { try writer.grant(id, to: 1) } }
    let failures = Mutex<[String]>([])
    let searches = Atomic<Int>(0)
    let readers = (0..<2).map { reader in
      Thread {
        var random = TestRandom(seed: seed &+ UInt64(reader))
        while !stop.load(ordering: .acquiring) {
          let from = published.load(ordering: .sequentiallyConsistent)
          let result = try? index.search(random.vector(8), as: 1, options: SearchOptions(k: 100, patience: 10_000))
          let to = begun.load(ordering: .sequentiallyConsistent)
          searches.wrappingAdd(1, ordering: .relaxed)
          let found = Set(result?.neighbours.map(\.id) ?? []).filter { $0 >= VectorID(base) }
          guard let result, result.neighbours.count == found.count + base,
            (from...max(from, to)).contains(where: { window($0) == found })
          else {
            failures.withLock { $0.append("reader \(reader), changes \(from)…\(to): \(found.sorted())") }
            return
          }
        }
      }
    }
    let copies = DispatchGroup()
    readers.forEach { $0.start() }
    for n in 1...changes {
      begun.store(n, ordering: .sequentiallyConsistent)
      try index.write { writer in
        let (old, new) = (window(n - 1), window(n))
        for id in old.subtracting(new) { try writer.revoke(id, from: 1) }
        for id in new.subtracting(old) { try writer.grant(id, to: 1) }
      }
      published.store(n, ordering: .sequentiallyConsistent)
      if n % 500 == 0 { index.compact() }
      if n % 500 == 250 { DispatchQueue.global().async(group: copies) { index.compact() } }
    }
    copies.wait()
    stop.store(true, ordering: .releasing)
    while readers.contains(where: { !$0.isFinished }) { usleep(1000) }
    #expect(failures.withLock { $0 }.isEmpty, "seed \(seed)")
    #expect(searches.load(ordering: .relaxed) > 20)
    try index.verify()
  }

  @Test func `formulas agree with set algebra on large trees`() throws {
    let seed = UInt64.random(in: 0 ... .max)
    var random = TestRandom(seed: seed)
    let index = try VectorIndex(VectorConfig(dim: 8, metric: .l2, branching: 8, bufferCapacity: 16, leafCapacity: 16))
    var model = ShadowModel()
    try index.write { writer in
      for id in 0..<VectorID(3000) {
        let vector = random.vector(8)
        let tenants = Set((0..<1 + random.below(4)).map { _ in TenantID(random.below(6)) })
        try writer.upsert(id, vector, owner: tenants.first!, shareWith: Array(tenants))
        model.vectors[id] = vector
        model.grants[id] = tenants
      }
      // Tenant 9 sees everybody's.
      writer.setGroups([0, 1, 2, 3, 4, 5], of: 9)
      model.groups[9] = [0, 1, 2, 3, 4, 5]
    }
    try index.train(TrainingOptions(threads: 1))
    for round in 0..<(runsLongTests ? 1000 : 100) {
      let filter = random.filter(depth: 6, tenants: 7)
      let caller: TenantID = round % 2 == 0 ? 9 : TenantID(random.below(6))
      let options = SearchOptions(k: 4000, patience: 1_000_000)
      let found = try index.search(random.vector(8), as: caller, filter: filter, options: options).neighbours.map(\.id)
      try #require(
        Set(found) == model.visible(to: caller, filter: filter) && Set(found).count == found.count,
        "seed \(seed), round \(round), caller \(caller): \(filter)")
    }
  }
}
