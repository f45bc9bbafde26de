import Foundation
import Testing

@testable import ApusVectors

/// Recall by patience, and when a tree should be trained.
@Suite struct TuningTests {
  private func filled(_ quantizer: VectorQuantizer, count: Int, random: inout TestRandom) throws -> VectorIndex {
    let index = try VectorIndex(
      VectorConfig(dim: 12, metric: .l2, quantizer: quantizer, branching: 6, bufferCapacity: 8, leafCapacity: 8))
    try index.write { writer in
      for id in 0..<count { try writer.upsert(VectorID(id), random.vector(12), owner: id % 4 == 0 ? 1 : 2) }
    }
    try index.train(TrainingOptions(iterations: 4, threads: 1))
    return index
  }

  @Test(arguments: [VectorQuantizer.none, .rabitq])
  func `one traced walk finds what searches of each patience find`(quantizer: VectorQuantizer) throws {
    let seed = UInt64.random(in: 0 ... .max)
    var random = TestRandom(seed: seed)
    let index = try filled(quantizer, count: 1200, random: &random)
    for _ in 0..<40 {
      let (id, tenant) = (VectorID(random.below(1200)), TenantID(1 + random.below(2)))
      let query = index.anyVector(id)
      let others = VectorIDSet([id], isComplement: true)
      func ids(_ options: SearchOptions) throws -> Set<VectorID> {
        Set(try index.search(query, as: tenant, among: others, options: options).neighbours.map(\.id))
      }
      let options = SearchOptions(k: 7, exactThreshold: 0)
      let truth = try ids(SearchOptions(k: 7, exact: true))
      let trace = try index.recallTrace(
        TuningQuery(population: .own, vector: query, id: id, tenant: tenant), options)
      #expect(trace.wanted.count == truth.count)
      for patience in [1, 2, 3, 5, 8, 13, 40, 1000] {
        var asked = options
        asked.patience = patience
        let hits = trace.steps.last { $0.patience <= patience }?.hits ?? 0
        #expect(try ids(asked).intersection(truth).count == hits, "seed \(seed), patience \(patience)")
      }
    }
  }

  @Test func `a curve gives the patience whose recall is the target, between two whole ones`() {
    var curve = RecallCurve()
    #expect(curve.patience(for: 0.9) == 1)
    func trace(_ steps: [(Int, Int)]) -> RecallTrace { RecallTrace(wanted: Set(0..<10), steps: steps) }
    curve.add(trace([(1, 4), (3, 8), (9, 10)]))
    curve.add(trace([(1, 6), (4, 10)]))
    // Of twenty: 10 at 1, 14 at 3, 18 at 4, 20 at 9.
    let patiences = [0.5, 0.6, 0.7, 0.75, 0.9, 0.925, 1].map(curve.patience)
    #expect(patiences == [1, 2.5, 3, 3.25, 4, 8.25, 9])
    // What codes lose again counts as lost, and a target that is never reached gets the best there is.
    var falling = RecallCurve()
    falling.add(trace([(1, 5), (2, 8), (4, 7)]))
    #expect(falling.patience(for: 0.8) == 2 && falling.patience(for: 0.9) == 2)
  }

  @Test func `tuned searches reach their recall on fresh queries`() throws {
    var random = TestRandom(seed: 77)
    let index = try filled(.rabitq, count: 6000, random: &random)
    try index.tune(targets: [0.8, 0.95], options: SearchOptions(exactThreshold: 0), queriesPerClass: 600)
    #expect(index.tunedTargets == [0.8, 0.95])
    for target in [0.8, 0.95] {
      var (hits, all) = (0, 0)
      for i in 0..<600 {
        let query = random.vector(12)
        let tenant = TenantID(1 + i % 2)
        let truth = Set(try index.search(query, as: tenant, options: SearchOptions(exact: true)).neighbours.map(\.id))
        let options = SearchOptions(targetRecall: target, exactThreshold: 0)
        hits += try index.search(query, as: tenant, options: options).neighbours.count { truth.contains($0.id) }
        all += truth.count
      }
      let recall = Double(hits) / Double(all)
      #expect(recall > target - 0.03 && recall < target + 0.05, "recall \(recall) for \(target)")
    }
  }

  @Test func `tenants that outgrow what was tuned are tuned for anew, once, and the store remembers it`() throws {
    let folder = NSTemporaryDirectory() + "apus-tuning-\(UUID().uuidString)"
    defer { try? FileManager.default.removeItem(atPath: folder) }
    var random = TestRandom(seed: 13)
    let store = try VectorStore.create(folder, VectorConfig(dim: 12, metric: .l2, branching: 6, bufferCapacity: 8))
    func add(_ ids: Range<VectorID>) throws {
      try store.commit(ids.map { .upsert(id: $0, vector: random.vector(12), owner: 1, shareWith: []) })
    }
    try add(0..<400)
    #expect(try !store.index.hasUntunedSizes && !store.tuneIfGrown(), "nobody has tuned")
    try store.train(TrainingOptions(threads: 1))
    try store.tune(targets: [0.8, 0.9], queriesPerClass: 100)
    #expect(!store.index.hasUntunedSizes)
    try add(400..<511)
    #expect(!store.index.hasUntunedSizes, "the same size class")
    try add(511..<520)
    #expect(store.index.hasUntunedSizes)
    #expect(try store.tuneIfGrown() && !store.tuneIfGrown())
    #expect(store.index.tunedTargets == [0.8, 0.9])
    // The greatest tenant is away: the others' sizes are known.
    try add(520..<1100)
    try store.commit([.offload(1)])
    #expect(!store.index.hasUntunedSizes)
    try store.commit([.load(1)])
    #expect(try store.tuneIfGrown())
    try store.close()
    let again = try VectorStore.open(folder)
    #expect(!again.index.hasUntunedSizes && again.index.tunedTargets == [0.8, 0.9])
    try again.close()
  }

  @Test func `a patience between two whole ones gives recalls between theirs, and the same query the same answer`()
    throws
  {
    var random = TestRandom(seed: 31)
    let index = try filled(.none, count: 6000, random: &random)
    let queries = (0..<400).map { _ in random.vector(12) }
    func lists(_ patience: Double) throws -> [Int] {
      index.adopt(PatienceTable(target: 0.5, classes: [12: patience]))
      return try queries.map {
        try index.search($0, as: 2, options: SearchOptions(targetRecall: 0.5, exactThreshold: 0)).lists
      }
    }
    let (low, high, between) = (try lists(4), try lists(5), try lists(4.25))
    #expect(try lists(4.25) == between)
    let longer = zip(low, between).count { $0 != $1 }
    let different = zip(low, high).count { $0 != $1 }
    #expect(zip(zip(low, high), between).allSatisfy { $1 == $0.0 || $1 == $0.1 })
    #expect(different > 300 && abs(Double(longer) / Double(different) - 0.25) < 0.08, "\(longer) of \(different)")
  }

  @Test func `training is needed without a tree, after growing and after drifting, and not after training`() throws {
    var random = TestRandom(seed: 5)
    let index = try VectorIndex(VectorConfig(dim: 12, metric: .l2, quantizer: .none, branching: 8, leafCapacity: 64))
    func add(_ ids: Range<Int>, shifted by: Float = 0) throws {
      try index.write { writer in
        for id in ids { try writer.upsert(VectorID(id), random.vector(12).map { $0 + by }, owner: 1) }
      }
    }
    try add(0..<4000)
    #expect(index.trainingNeed() == nil, "too few for a tree")
    try add(4000..<5000)
    #expect(index.trainingNeed() == .untrained)
    try index.train(TrainingOptions(threads: 1))
    #expect(index.trainingNeed() == nil)
    try add(5000..<8000)
    #expect(index.trainingNeed() == nil, "more of the same")
    try add(8000..<11000, shifted: 3)
    guard case .drifted(let ratio)? = index.trainingNeed() else {
      Issue.record("\(String(describing: index.trainingNeed()))")
      return
    }
    #expect(ratio > 2)
    try index.train(TrainingOptions(threads: 1))
    #expect(index.trainingNeed() == nil)
    let leaves = index.stats.clusters
    try add(11000..<11000 + 260 * leaves)
    guard case .grown? = index.trainingNeed() else {
      Issue.record("\(String(describing: index.trainingNeed())) with \(leaves) clusters")
      return
    }
  }
}
