import ApusCompute
import Foundation
import Testing

@testable import ApusModels

/// Does streaming really do without the batch's intermediate results, and are the printed bytes real? (The specification's
/// cheats a, b and c.) Whatever asks the process itself runs in a child, alone.
@Suite struct MemoryDetectorTests {
  /// One run in a child process.
  private enum Child {
    static let (batch, length, hidden) = (64, 128, 1024)
    /// For what no plan counts: results, ids, the allocator's own.
    static let slack = 12 << 20

    static func model() throws -> LoadedModel {
      RandomModel.lowRank(
        try RandomModel.encoder(dim: 256, heads: 8, headDim: 32, hidden: hidden, context: length, seed: 1), rank: 48,
        seed: 2)
    }

    static func hoarder() throws -> LoadedModel {
      try model().changingLayers { $0.rows == hidden ? HoardingWeight($0, numbers: batch * length * hidden) : $0 }
    }

    static func runner(_ model: LoadedModel, _ execution: Execution) throws -> ModelRunner {
      try ModelRunner(model, RunnerOptions(threads: 1, maxBatchTokens: batch * length, execution: execution))
    }

    static func embed(_ runner: ModelRunner) throws {
      let out = try runner.embed(RandomModel.sequences(Array(repeating: length, count: batch), seed: 3))
      precondition(out.count == batch && out.allSatisfy { $0.allSatisfy(\.isFinite) })
      let memory = runner.memory
      precondition(memory.transientPlan == memory.transientHighWater, "\(memory)")
    }

    /// Runs with no more address space than the plan says beside what is taken already.
    static func runCapped(_ model: LoadedModel, _ execution: Execution) throws {
      let runner = try runner(model, execution)
      _ = try runner.embed([[1, 2, 3]])
      let streamed = try Self.runner(model, .streamed(rows: 128)).plan(Array(repeating: length, count: batch))
      let allowed = rlim_t(processBytes("VmSize") + streamed + slack)
      var limit = rlimit(rlim_cur: allowed, rlim_max: allowed)
      precondition(setrlimit(__rlimit_resource_t(RLIMIT_AS.rawValue), &limit) == 0)
      try embed(runner)
    }

    /// Throws unless the process grew by what the ledger counts.
    static func compareWithOutside(_ model: LoadedModel, _ execution: Execution) throws {
      let runner = try runner(model, execution)
      _ = try runner.embed([[1, 2, 3]])
      try Data("5".utf8).write(to: URL(filePath: "/proc/self/clear_refs"))
      let before = processBytes("VmRSS")
      try embed(runner)
      let (seen, counted) = (processBytes("VmHWM") - before, runner.memory.transientHighWater)
      precondition(agree(seen, counted), "\(seen) bytes seen, \(counted) counted")
    }

    /// The specification's tolerance.
    static func agree(_ seen: Int, _ counted: Int) -> Bool {
      abs(seen - counted) <= counted / 10 + 2_000_000
    }
  }

  @Test func `what is counted inside differs by far more than the slack between the ways to run`() throws {
    let model = try Child.model()
    func plan(_ execution: Execution) throws -> Int {
      try Child.runner(model, execution).plan(Array(repeating: Child.length, count: Child.batch))
    }
    let (streamed, whole) = (try plan(.streamed(rows: 128)), try plan(.whole))
    #expect(whole - streamed > 3 * Child.slack, "\(whole), \(streamed)")
  }

  @Test func `streaming runs under a cap of its plan`() async {
    await #expect(processExitsWith: .success) {
      alarm(60)
      try Child.runCapped(try Child.model(), .streamed(rows: 128))
    }
  }

  @Test func `the cap stops a run that takes the whole batch at once, and one that hides it on the heap`() async {
    await #expect(processExitsWith: .failure) {
      alarm(60)
      try Child.runCapped(try Child.model(), .whole)
    }
    await #expect(processExitsWith: .failure) {
      alarm(60)
      try Child.runCapped(try Child.hoarder(), .streamed(rows: 128))
    }
    // Without the cap both end well, and the second one's ledger shows nothing.
    await #expect(processExitsWith: .success) {
      alarm(60)
      try Child.embed(try Child.runner(try Child.model(), .whole))
      try Child.embed(try Child.runner(try Child.hoarder(), .streamed(rows: 128)))
    }
  }

  @Test func `the process grows by what the ledger says, streamed and whole`() async {
    await #expect(processExitsWith: .success) {
      alarm(60)
      try Child.compareWithOutside(try Child.model(), .streamed(rows: 128))
    }
    await #expect(processExitsWith: .success) {
      alarm(60)
      try Child.compareWithOutside(try Child.model(), .whole)
    }
  }

  @Test func `memory beside the ledger is seen from outside`() async {
    await #expect(processExitsWith: .failure) {
      alarm(60)
      try Child.compareWithOutside(try Child.hoarder(), .streamed(rows: 128))
    }
  }

  @Test func `weights take the bytes of their factors, and a hidden whole matrix is seen`() async {
    await #expect(processExitsWith: .success) {
      alarm(60)
      let (grown, claimed) = try Self.growth { $0 }
      precondition(Child.agree(grown, claimed), "\(grown) bytes, \(claimed) claimed")
    }
    await #expect(processExitsWith: .failure) {
      alarm(60)
      let (grown, claimed) = try Self.growth { $0.changingLayers { ReconstructedWeight($0 as! LowRankWeight) } }
      precondition(Child.agree(grown, claimed), "\(grown) bytes, \(claimed) claimed")
    }
  }

  /// Bytes by which the process grows when a low-rank model is made, and those that its layers claim.
  private static func growth(_ make: (LoadedModel) throws -> LoadedModel) throws -> (Int, Int) {
    let whole = try RandomModel.encoder(dim: 512, heads: 8, headDim: 64, hidden: 2048, seed: 1)
    let before = processBytes("VmRSS")
    let small = try make(RandomModel.lowRank(whole, rank: 16, seed: 2))
    let grown = processBytes("VmRSS") - before
    let claimed = small.parameters.specs.filter { $0.path.hasPrefix("layers.") && !$0.isVector }
      .reduce(0) { $0 + small.parameters.byteCount(of: $1.path) }
    return (grown, claimed)
  }

  /// A pass of some shape.
  private struct Shape {
    var dim, heads, headDim, hidden, rank: Int
    var lengths: [Int]
    var execution: Execution

    init(_ random: inout TestRandom) {
      func pick(_ values: [Int]) -> Int { values.randomElement(using: &random)! }
      dim = pick([32, 48, 64])
      heads = pick([1, 2, 3])
      headDim = pick([16, 32, 48])
      hidden = pick([32, 80, 200])
      rank = pick([1, 7, 16, 31])
      lengths = (0..<pick([1, 2, 5, 17])).map { _ in pick([1, 2, 31, 32, 33, 97]) }
      execution = .streamed(rows: pick([1, 24, 128]))
      if pick([0, 1]) == 0 { execution = .whole }
    }

    func runner() throws -> ModelRunner {
      let model = try RandomModel.encoder(
        dim: dim, heads: heads, headDim: headDim, hidden: hidden, layers: 1, seed: 5)
      return try ModelRunner(
        RandomModel.lowRank(model, rank: rank, seed: 6),
        RunnerOptions(threads: 1, maxBatchTokens: lengths.reduce(0, +), execution: execution))
    }

    /// What a planner would print that knows formulas and no allocator: rows times widths.
    var formula: Int {
      let rows = lengths.reduce(0, +)
      let piece = if case .streamed(let rows) = execution { rows } else { rows }
      return 4 * (rows * dim + min(rows, 2 * piece) * max(4 * heads * headDim + dim, dim + hidden + rank))
    }
  }

  /// Shapes for which a plan is not the high-water mark.
  private func misses(_ shapes: [Shape], _ plan: (Shape) throws -> Int) throws -> Int {
    try shapes.count { shape in
      let runner = try shape.runner()
      _ = try runner.embed(RandomModel.sequences(shape.lengths, seed: 7))
      return try plan(shape) != runner.memory.transientHighWater
    }
  }

  @Test func `plans of random shapes are the allocator's high-water marks, and formulas are not`() throws {
    let seed: UInt64 = 41
    print("seed \(seed)")
    var random = TestRandom(seed: seed)
    let shapes = (0..<60).map { _ in Shape(&random) }
    #expect(try misses(shapes) { try $0.runner().plan($0.lengths) } == 0)
    #expect(try misses(shapes) { $0.formula } > 50)
  }
}

/// A line of /proc/self/status, in bytes.
private func processBytes(_ name: String) -> Int {
  let status = (try? String(contentsOfFile: "/proc/self/status", encoding: .utf8)) ?? ""
  let line = status.split(separator: "\n").first { $0.hasPrefix(name + ":") }
  return (line?.split(separator: " ").dropLast().last.flatMap { Int($0) } ?? 0) * 1024
}
