import ApusCompute
import ApusKernels
import ApusText
import Foundation
import Testing

@testable import ApusCUDA
@testable import ApusModels

/// A tokenizer whose ids are bytes.
private struct ByteTokenizer: Tokenizer {
  var vocabularySize: Int { 256 }
  var specialTokens: SpecialTokens { SpecialTokens() }
  var decodingStyle: DecodingStyle { .plain }
  func encode(_ text: String, options: EncodingOptions) -> [Int32] { text.utf8.map { Int32($0) } }
  func bytes(of id: Int32) -> [UInt8] { [UInt8(truncatingIfNeeded: id)] }
  func kind(of id: Int32) -> TokenKind { .normal }
}

/// An encoder of random weights: dense, or every matrix of its layers of low rank, queries, keys and values through one
/// factor.
private func encoder(dim: Int, heads: Int, hidden: Int, layers: Int, rank: Int?, seed: UInt64) throws -> LoadedModel {
  var model = TextEncoder()
  model.dim = dim
  model.vocabulary = 256
  model.contextLength = 256
  var attention = Attention(heads: heads, kvHeads: heads, headDim: dim / heads, qkv: LinearQKV(bias: true))
  attention.mask = .bidirectional
  attention.outputBias = true
  let norm = LayerNorm(epsilon: 1e-12)
  model.embeddingNorm = norm
  model.layers = Array(
    repeating: Block(
      attention: attention, feedForward: FeedForward(hidden: hidden, activation: .geluErf, gated: false, bias: true),
      residual: PostNorm(norm)), count: layers)
  var generator = SeededGenerator(seed: seed)
  func random(_ rows: Int, _ columns: Int) -> Tensor {
    let scale = 1 / Float(columns).squareRoot()
    return Tensor(rows, columns, (0..<rows * columns).map { _ in generator.float() * scale })
  }
  var shared: [String: DownFactor] = [:]
  return try LoadedModel(name: "random", architecture: "test", config: model, tokenizer: ByteTokenizer()) { specs in
    try Parameters(
      specs,
      matrix: { spec in
        guard let rank, spec.path.hasPrefix("layers.") else { return StoredWeight(random(spec.rows, spec.columns)) }
        let isQKV = ["query.", "key.", "value."].contains { spec.path.contains($0) }
        let place = isQKV ? spec.path.split(separator: ".").prefix(3).joined(separator: ".") : spec.path
        let down = shared[place] ?? DownFactor(StoredWeight(random(rank, spec.columns)))
        shared[place] = down
        return LowRankWeight(down: down, up: StoredWeight(random(spec.rows, rank)))
      },
      vector: { spec in Tensor(1, spec.columns, (0..<spec.columns).map { _ in 1 + generator.float() * 0.1 }) })
  }
}

@Suite(.serialized) struct EncoderTests {
  private func runner(
    _ model: LoadedModel, _ elements: CUDADevice.Elements?, _ execution: Execution
  ) throws -> ModelRunner {
    var options = RunnerOptions(threads: 1, maxBatchTokens: 4096, execution: execution)
    if let elements { options.makeDevice = { try TestDevice.emulated(elements, ledger: $0) } }
    return try ModelRunner(model, options)
  }

  private func inputs(_ lengths: [Int], seed: UInt64) -> [[Int32]] {
    var generator = SeededGenerator(seed: seed)
    return lengths.map { (0..<$0).map { _ in Int32.random(in: 0..<256, using: &generator) } }
  }

  private func leastCosine(_ a: [[Float]], _ b: [[Float]]) -> Double {
    zip(a, b).map { x, y in zip(x, y).reduce(0.0) { $0 + Double($1.0) * Double($1.1) } }.min() ?? 0
  }

  @Test(arguments: [nil, 12, 48] as [Int?]) func `An encoder gives what the CPU gives`(rank: Int?) throws {
    let model = try encoder(dim: 96, heads: 3, hidden: 160, layers: 2, rank: rank, seed: 7)
    let inputs = inputs([1, 40, 3, 130], seed: 8)
    let expected = try runner(model, nil, .whole).embed(inputs)
    for elements in CUDADevice.Elements.allCases {
      for execution in [Execution.whole, .fused(rows: 100)] {
        let seen = try runner(model, elements, execution).embed(inputs)
        let worst = zip(seen, expected).flatMap { zip($0, $1).map { abs($0 - $1) } }.max() ?? 1
        let cosine = leastCosine(seen, expected)
        // In bf16 every activation between operations is rounded too.
        #expect(
          elements == .f32 ? worst <= 1e-5 : cosine >= 0.9995, "\(elements), \(execution): \(worst), cosine \(cosine)")
      }
    }
  }

  @Test func `Plans are what the arena measures, and fused execution needs a fraction of the memory`() throws {
    let model = try encoder(dim: 96, heads: 3, hidden: 384, layers: 2, rank: 24, seed: 9)
    let inputs = inputs([64, 30, 90, 16], seed: 10)
    for elements in CUDADevice.Elements.allCases {
      var needed: [Execution: Int] = [:]
      for execution in [Execution.whole, .fused(rows: 100)] {
        let runner = try runner(model, elements, execution)
        let plan = try runner.plan(inputs.map(\.count))
        _ = try runner.embed(inputs)
        let memory = runner.memory
        #expect(plan > 0 && memory.transientPlan == plan && memory.transientHighWater == plan)
        #expect(memory.persistent > 0)
        needed[execution] = plan
      }
      // Whole: residual, P and 384 inner columns; fused: residual, P and a few heads.
      #expect(needed[.fused(rows: 100)]! * 2 < needed[.whole]!, "\(elements): \(needed)")
    }
  }

  @Test func `Neighbours and order change nothing, to the bit`() throws {
    let model = try encoder(dim: 64, heads: 2, hidden: 96, layers: 1, rank: 20, seed: 11)
    let inputs = inputs([5, 64, 129, 1], seed: 12)
    for elements in CUDADevice.Elements.allCases {
      let runner = try runner(model, elements, .fused(rows: 100))
      let together = try runner.embed(inputs)
      for (input, expected) in zip(inputs, together) { #expect(try runner.embed([input]) == [expected]) }
    }
  }

  @Test func `On a CPU, fused execution is the whole one with heads in full, to the bit`() throws {
    for rank in [12, 40] {
      let model = try encoder(dim: 96, heads: 3, hidden: 160, layers: 2, rank: rank, seed: 13)
      let inputs = inputs([7, 40, 130], seed: 14)
      let whole = try ModelRunner(
        model, RunnerOptions(threads: 1, maxBatchTokens: 4096, execution: .whole, kvLayout: .dense))
      #expect(try runner(model, nil, .fused(rows: 100)).embed(inputs) == whole.embed(inputs))
    }
  }

  @Test func `A decoder is refused with a way out`() throws {
    var model = CausalLM()
    model.dim = 32
    model.vocabulary = 256
    model.contextLength = 64
    model.layers = [
      Block(
        attention: Attention(
          heads: 2, kvHeads: 2, headDim: 16, qkv: RoPE(LinearQKV(), theta: 1e4, pairing: .halfSplit)),
        feedForward: FeedForward(hidden: 32))
    ]
    let decoder = try LoadedModel(name: "tiny", architecture: "test", config: model, tokenizer: ByteTokenizer()) {
      try Parameters(
        $0, matrix: { StoredWeight(Tensor(zeros: $0.rows, $0.columns)) }, vector: { Tensor(zeros: 1, $0.columns) })
    }
    #expect {
      try ModelRunner(decoder, RunnerOptions(makeDevice: { try TestDevice.emulated(.f32, ledger: $0) }))
    } throws: { "\($0)".contains("decoder") && "\($0)".contains("device") }
  }

  @Test func `What a device can't do comes as an error, not as numbers`() throws {
    let device = try TestDevice.emulated(.f32)
    try device.arena.reserve(1 << 16)
    let x = device.arena.tensor(2, 8)
    device.softmax(x)
    #expect(throws: CUDAError.self) { try device.read(x) }
    device.clear(x)
    #expect(try device.read(x) == Array(repeating: 0, count: 16))
  }

  @Test(.enabled(if: (try? ModelStore().find("minilm-l6")) != nil, "apus model pull minilm-l6"))
  func `MiniLM on the emulated device is MiniLM`() throws {
    let model = try ModelStore().find("minilm-l6").load()
    let inputs = [Array(model.tokenizer.encode("A swift flies for months.", options: .init()))]
    let expected = try runner(model, nil, .whole).embed(inputs)
    #expect(leastCosine(try runner(model, .f32, .whole).embed(inputs), expected) >= 0.999999)
    #expect(leastCosine(try runner(model, .bf16, .whole).embed(inputs), expected) >= 0.999)
  }
}
