import ApusCompute
import ApusKernels
import Foundation
import Testing

@testable import ApusModels

private func logits(_ runner: ModelRunner, _ s: SequenceID, _ ids: [Int32]) throws -> [[Float]] {
  try runner.forward([.init(s, ids, logits: .all)]) { l in (0..<l.rows).map { Array(l[$0]) } }
}

private func greatestDifference(_ a: [[Float]], _ b: [[Float]]) -> Float {
  zip(a, b).map { zip($0, $1).map { abs($0 - $1) }.max() ?? 0 }.max() ?? 0
}

private let text: [Int32] = Array("The quick brown fox jumps over the lazy dog, twice.".utf8).map(Int32.init)

@Suite struct RunnerTests {
  @Test func prefillInOnePassInChunksAndTokenByTokenAgree() throws {
    for seed: UInt64 in [1, 2] {
      let runner = try ModelRunner(
        try randomModel(tinyDecoder(), seed: seed), RunnerOptions(threads: 2, exact: true, maxSequences: 3))
      let whole = try logits(runner, try runner.makeSequence(), text)
      let chunked = try runner.makeSequence()
      let parts = try logits(runner, chunked, Array(text[..<17])) + logits(runner, chunked, Array(text[17...]))
      let stepped = try runner.makeSequence()
      let steps = try text.flatMap { try logits(runner, stepped, [$0]) }
      #expect(greatestDifference(whole, parts) < 1e-4, "seed \(seed)")
      #expect(greatestDifference(whole, steps) < 1e-4, "seed \(seed)")
    }
  }

  @Test func aSequenceInABatchGivesWhatItGivesAlone() throws {
    let model = try randomModel(tinyDecoder(), seed: 3)
    let runner = try ModelRunner(model, RunnerOptions(threads: 2, maxSequences: 4))
    let prompts = [text, Array(text[5..<12]), Array(text[20...])]
    let alone = try prompts.map { prompt in
      let s = try runner.makeSequence()
      defer { runner.release(s) }
      return try logits(runner, s, prompt)
    }
    let sequences = try prompts.map { _ in try runner.makeSequence() }
    let together = try runner.forward(zip(sequences, prompts).map { .init($0, $1, logits: .all) }) { l in
      (0..<l.rows).map { Array(l[$0]) }
    }
    #expect(greatestDifference(alone.flatMap { $0 }, together) < 1e-5)
  }

  @Test func truncatingForgetsTheTokensBehind() throws {
    let runner = try ModelRunner(try randomModel(tinyDecoder(), seed: 4), RunnerOptions(threads: 1, maxSequences: 2))
    let s = try runner.makeSequence()
    _ = try logits(runner, s, text)
    runner.truncate(s, to: 10)
    let again = try logits(runner, s, Array(text[10..<20]))
    let fresh = try logits(runner, try runner.makeSequence(), Array(text[..<20]))
    #expect(greatestDifference(again, Array(fresh[10...])) < 1e-4)
  }

  @Test func theTransientPlanIsTheArenasHighWaterMarkToTheByte() throws {
    for exact in [false, true] {
      let runner = try ModelRunner(
        try randomModel(tinyDecoder(), seed: 5), RunnerOptions(threads: 2, exact: exact, maxSequences: 4))
      for length in [1, 7, 51] {
        let s = try runner.makeSequence()
        _ = try logits(runner, s, Array(text[..<length]))
        let memory = runner.memory
        #expect(memory.transientPlan == memory.transientHighWater, "\(length) tokens, exact \(exact)")
        #expect(memory.transientPlan > 0)
      }
    }
  }

  @Test func aWindowHidesWhatIsFurtherBack() throws {
    var config = tinyDecoder(layers: 1)
    try config.mapNodes(Attention.self) { $0.window = 8 }
    let runner = try ModelRunner(try randomModel(config, seed: 6), RunnerOptions(threads: 1, maxSequences: 2))
    let a = try logits(runner, try runner.makeSequence(), text)
    var other = text
    other[0] = 7
    let b = try logits(runner, try runner.makeSequence(), other)
    #expect(greatestDifference([a[7]], [b[7]]) > 1e-6)
    #expect(a[8] == b[8])
  }

  @Test func badInputsAreNamed() throws {
    let model = try randomModel(tinyDecoder(), seed: 7)
    let runner = try ModelRunner(model, RunnerOptions(threads: 1, contextLength: 16))
    let s = try runner.makeSequence()
    #expect(throws: RunnerError.tooManySequences(limit: 1)) { try runner.makeSequence() }
    #expect(throws: RunnerError.emptyInput) { try logits(runner, s, []) }
    #expect(throws: RunnerError.contextOverflow(tokens: 17, contextLength: 16)) {
      try logits(runner, s, Array(text[..<17]))
    }
    #expect(throws: RunnerError.tokenOutOfRange(token: 256, vocabulary: 256)) { try logits(runner, s, [256]) }
    #expect(throws: RunnerError.tokenOutOfRange(token: -1, vocabulary: 256)) { try logits(runner, s, [-1]) }
    #expect(throws: RunnerError.notAnEncoder("random")) { try runner.embed([[1]]) }
    #expect(runner.length(of: s) == 0)
    #expect(throws: RunnerError.self) { try ModelRunner(model, RunnerOptions(contextLength: 257)) }
    #expect(throws: RunnerError.self) { try ModelRunner(model, RunnerOptions(threads: 0)) }
  }
}

@Suite struct LayerTests {
  /// The layers in slow, obvious arithmetic: what one block must compute.
  @Test func aDecoderComputesWhatThePaperSays() throws {
    let config = tinyDecoder(layers: 2)
    let model = try randomModel(config, seed: 8)
    let runner = try ModelRunner(model, RunnerOptions(threads: 2, exact: true))
    let ids = Array(text[..<9])
    let ours = try logits(runner, try runner.makeSequence(), ids)
    let reference = ReferenceDecoder(model).logits(ids.map(Int.init))
    for (a, b) in zip(ours, reference) {
      for (x, y) in zip(a, b) { #expect(abs(Double(x) - y) < 1e-4 * max(1, abs(y))) }
    }
  }

  @Test func featuresSwapIntoARecipeAndRun() throws {
    let plain = tinyDecoder()
    var alibi = plain
    try alibi.mapSlots((any ScoresConfig).self) { _ in ALiBi() }
    var moe = plain
    try moe.mapSlots((any FeedForwardConfig).self) { MixtureOfExperts(expert: $0, experts: 4) }
    var layerNorm = plain
    try layerNorm.mapSlots((any NormConfig).self) { _ in LayerNorm() }
    var outputs: [[Float]] = []
    for config in [plain, alibi, moe, layerNorm] {
      let runner = try ModelRunner(try randomModel(config, seed: 9), RunnerOptions(threads: 2))
      let out = try logits(runner, try runner.makeSequence(), text)
      #expect(out.allSatisfy { $0.allSatisfy(\.isFinite) })
      #expect(!outputs.contains(out[5]))
      outputs.append(out[5])
      #expect(runner.memory.transientHighWater <= runner.memory.transientPlan)
    }
  }

  @Test func aMixtureOfEqualExpertsIsTheExpert() throws {
    var moe = tinyDecoder(layers: 1)
    let plain = moe
    try moe.mapSlots((any FeedForwardConfig).self) { MixtureOfExperts(expert: $0, experts: 4, topK: 3) }
    var numbers = SeededNumbers(state: 10)
    var seen: [String: Tensor] = [:]
    func make(_ config: CausalLM) throws -> LoadedModel {
      try LoadedModel(name: "same", architecture: "test", config: config, tokenizer: ByteTokenizer()) { specs in
        func value(_ spec: ParameterSpec) -> Tensor {
          let path = spec.path.replacing(#/experts\.\d\./#, with: "")
          if let t = seen[path] { return t }
          let t = Tensor(spec.rows, spec.columns, (0..<spec.rows * spec.columns).map { _ in numbers.float() * 0.2 })
          seen[path] = t
          return t
        }
        return try Parameters(specs, matrix: { StoredWeight(value($0)) }, vector: { value($0) })
      }
    }
    let a = try ModelRunner(try make(plain), RunnerOptions(threads: 1, exact: true))
    let b = try ModelRunner(try make(moe), RunnerOptions(threads: 1, exact: true))
    let difference = greatestDifference(
      try logits(a, try a.makeSequence(), text), try logits(b, try b.makeSequence(), text))
    #expect(difference < 1e-4)
  }

  @Test func alibiSlopesAreThoseOfThePaper() {
    #expect(ALiBi.slopes(heads: 8) == [0.5, 0.25, 0.125, 0.0625, 0.03125, 0.015625, 0.0078125, 0.00390625])
    #expect(ALiBi.slopes(heads: 12).count == 12)
    #expect(ALiBi.slopes(heads: 12).prefix(8) == ALiBi.slopes(heads: 8)[...])
  }

  private func tinyEncoder() -> TextEncoder {
    var config = TextEncoder()
    config.dim = 64
    config.vocabulary = 256
    config.contextLength = 128
    var attention = Attention(heads: 4, kvHeads: 4, headDim: 16, qkv: LinearQKV(bias: true))
    attention.mask = .bidirectional
    attention.outputBias = true
    config.layers = Array(
      repeating: Block(
        attention: attention,
        feedForward: FeedForward(hidden: 96, activation: .geluErf, gated: false, bias: true),
        residual: PostNorm()), count: 2)
    return config
  }

  /// Every matrix of a layer as factors of `rank`, queries, keys and values through one.
  private func lowRank(_ model: LoadedModel, rank: Int, seed: UInt64) -> LoadedModel {
    var random = SeededNumbers(state: seed)
    var downs: [String: DownFactor] = [:]
    func matrix(_ rows: Int, _ columns: Int) -> StoredWeight {
      let scale = 1 / Float(columns).squareRoot()
      return StoredWeight(
        Tensor(rows, columns, (0..<rows * columns).map { _ in Float.random(in: -scale...scale, using: &random) }))
    }
    return model.with(
      parameters: model.parameters.mapMatrices { spec, weight in
        guard spec.path.hasPrefix("layers.") else { return weight }
        let isShared = ["query", "key", "value"].contains { spec.path.contains(".\($0).") }
        let name = isShared ? LowRankNames.sharedDown(spec.path) : spec.path
        let known = downs[name]
        let down = known ?? DownFactor(matrix(rank, spec.columns))
        downs[name] = down
        return LowRankWeight(down: down, up: matrix(spec.rows, rank), countsDown: known == nil)
      })
  }

  @Test(arguments: [1, 7, 31, 33, 64])
  func aLowRankMatrixIsTheProductOfItsFactors(rank: Int) throws {
    let model = try randomModel(tinyEncoder(), seed: 21)
    let small = lowRank(model, rank: rank, seed: UInt64(rank))
    var isSeen = false
    let whole = small.with(
      parameters: small.parameters.mapMatrices { spec, weight in
        guard let weight = weight as? LowRankWeight, let up = weight.up as? StoredWeight,
          let down = weight.down.weight as? StoredWeight
        else { return weight }
        isSeen = true
        let (u, d) = (up.tensor.floatArray().map(Double.init), down.tensor.floatArray().map(Double.init))
        let product = (0..<spec.rows * spec.columns).map { i in
          let (row, column) = (i / spec.columns, i % spec.columns)
          return Float((0..<rank).reduce(0.0) { $0 + u[row * rank + $1] * d[$1 * spec.columns + column] })
        }
        return StoredWeight(Tensor(spec.rows, spec.columns, product))
      })
    #expect(isSeen)
    let inputs = (1..<20).map { n in Array(text[..<n]) }
    let options = RunnerOptions(threads: 2, exact: true)
    #expect(
      greatestDifference(try ModelRunner(small, options).embed(inputs), try ModelRunner(whole, options).embed(inputs))
        < 1e-5)
    #expect(small.parameters.byteCount < model.parameters.byteCount || rank > 20)
    #expect(
      small.parameters.byteCount(of: "layers.0.attention.query.weight")
        + small.parameters.byteCount(of: "layers.0.attention.key.weight")
        + small.parameters.byteCount(of: "layers.0.attention.value.weight") == 4 * (64 * rank + 3 * 64 * rank))
  }

  @Test(arguments: [1, 5, 16, 100, 1000])
  func streamedRowsAreTheSameBitsInLessMemory(piece: Int) throws {
    let dense = try randomModel(tinyEncoder(), seed: 12)
    for model in [dense, lowRank(dense, rank: 24, seed: 13)] {
      var random = SeededNumbers(state: 14)
      let inputs = (0..<12).map { _ in
        (0..<Int.random(in: 1...90, using: &random)).map { _ in Int32.random(in: 0..<256, using: &random) }
      }
      let whole = try ModelRunner(model, RunnerOptions(threads: 2, maxBatchTokens: 2000, execution: .whole))
      let streamed = try ModelRunner(
        model, RunnerOptions(threads: 2, maxBatchTokens: 2000, execution: .streamed(rows: piece)))
      let (a, b) = (try whole.embed(inputs), try streamed.embed(inputs))
      #expect(a == b)
      #expect(streamed.memory.transientPlan == streamed.memory.transientHighWater)
      #expect(try streamed.plan(inputs.map(\.count)) == streamed.memory.transientPlan)
      if piece < 100 { #expect(streamed.memory.transientPlan < whole.memory.transientPlan / 2) }
      guard piece <= 100 else { continue }
      // Beside the rows themselves, which are there once, memory does not grow with the batch.
      let lengths = [Int](repeating: 40, count: 16)
      let once = try streamed.plan(lengths)
      let twice = try streamed.plan(lengths + lengths)
      // Ids, positions and zeros of a row, the row, and the row that comes out.
      #expect(twice - once <= 16 * (40 * (64 * 4 + 3 * 4) + 64 * 4) + 4 * 64)
    }
  }

  @Test func aDecoderPromptStreamedIsTheSameBits() throws {
    let model = try randomModel(tinyDecoder(), seed: 15)
    let prompts = [text, Array(text[5..<12]), Array(text[20...])]
    func run(_ execution: Execution) throws -> [[Float]] {
      let runner = try ModelRunner(model, RunnerOptions(threads: 2, maxSequences: 4, execution: execution))
      let sequences = try prompts.map { _ in try runner.makeSequence() }
      let first = try runner.forward(zip(sequences, prompts).map { .init($0, $1, logits: .all) }) { l in
        (0..<l.rows).map { Array(l[$0]) }
      }
      let next = try runner.forward(sequences.map { .init($0, [65], logits: .last) }) { l in
        (0..<l.rows).map { Array(l[$0]) }
      }
      #expect(runner.memory.transientPlan == runner.memory.transientHighWater)
      return first + next
    }
    let (a, b) = (try run(.whole), try run(.streamed(rows: 8)))
    #expect(a == b)
  }

  @Test func anEncoderGivesTheSameRowsWhateverTheBatch() throws {
    let model = try randomModel(tinyEncoder(), seed: 11)
    let inputs = (1..<30).map { n in Array(text[..<n]) }
    let packed = try ModelRunner(model, RunnerOptions(threads: 2, maxBatchTokens: 100))
    let single = try ModelRunner(model, RunnerOptions(threads: 1, maxBatchTokens: 1))
    let a = try packed.embed(inputs)
    let b = try single.embed(inputs)
    #expect(greatestDifference(a, b) < 1e-5)
    for row in a { #expect(abs(row.reduce(0) { $0 + $1 * $1 } - 1) < 1e-5) }
    #expect(packed.memory.transientPlan == packed.memory.transientHighWater)
  }
}

/// A decoder in Double, one loop per definition.
private struct ReferenceDecoder {
  let model: LoadedModel
  var values: [String: (rows: Int, columns: Int, v: [Double])] = [:]

  init(_ model: LoadedModel) {
    self.model = model
    for (i, spec) in model.parameters.specs.enumerated() {
      let tensor: Tensor =
        switch model.parameters.values[i] {
        case .matrix(let w): (w as! StoredWeight).tensor
        case .vector(let t): t
        case .absent: preconditionFailure("every parameter is there")
        }
      values[spec.path] = (spec.rows, spec.columns, tensor.floatArray().map(Double.init))
    }
  }

  private func times(_ x: [Double], _ name: String) -> [Double] {
    let w = values[name]!
    return (0..<w.rows).map { r in (0..<w.columns).reduce(0) { $0 + x[$1] * w.v[r * w.columns + $1] } }
  }

  private func norm(_ x: [Double], _ name: String) -> [Double] {
    let scale = 1 / (x.reduce(0) { $0 + $1 * $1 } / Double(x.count) + 1e-6).squareRoot()
    return zip(x, values[name]!.v).map { $0 * scale * $1 }
  }

  private func rope(_ x: [Double], _ position: Int) -> [Double] {
    var y = x
    for head in 0..<x.count / 16 {
      for i in 0..<8 {
        let angle = Double(position) * pow(1e4, -Double(2 * i) / 16)
        let (a, b) = (x[head * 16 + i], x[head * 16 + i + 8])
        y[head * 16 + i] = a * cos(angle) - b * sin(angle)
        y[head * 16 + i + 8] = a * sin(angle) + b * cos(angle)
      }
    }
    return y
  }

  func logits(_ ids: [Int]) -> [[Double]] {
    let embedding = values["embedding.weight"]!
    var x = ids.map { Array(embedding.v[$0 * 64..<($0 + 1) * 64]) }
    for layer in 0..<2 {
      let p = "layers.\(layer)."
      let h = x.map { norm($0, p + "attentionResidual.before.weight") }
      let q = h.enumerated().map { rope(times($1, p + "attention.query.weight"), $0) }
      let k = h.enumerated().map { rope(times($1, p + "attention.key.weight"), $0) }
      let v = h.map { times($0, p + "attention.value.weight") }
      for i in x.indices {
        var mixed = [Double](repeating: 0, count: 64)
        for head in 0..<4 {
          let kv = head / 2
          let scores = (0...i).map { j in (0..<16).reduce(0) { $0 + q[i][head * 16 + $1] * k[j][kv * 16 + $1] } / 4 }
          let top = scores.max()!
          let e = scores.map { exp($0 - top) }
          let total = e.reduce(0, +)
          for j in 0...i { for d in 0..<16 { mixed[head * 16 + d] += e[j] / total * v[j][kv * 16 + d] } }
        }
        x[i] = zip(x[i], times(mixed, p + "attention.output.weight")).map(+)
      }
      for i in x.indices {
        let h = norm(x[i], p + "feedForwardResidual.before.weight")
        let gate = times(h, p + "feedForward.gate.weight").map { $0 / (1 + exp(-$0)) }
        let up = times(h, p + "feedForward.up.weight")
        x[i] = zip(x[i], times(zip(gate, up).map(*), p + "feedForward.down.weight")).map(+)
      }
    }
    return x.map { times(norm($0, "norm.weight"), "embedding.weight") }
  }
}
