import ApusCompute
import ApusKernels
import ApusText
import TestSupport

@testable import ApusCompression
@testable import ApusModels

/// Small models of random weights, and texts for them.
enum RandomModel {
  static func make(_ config: any ModelConfig, seed: UInt64) throws -> LoadedModel {
    var random = TestRandom(seed: seed)
    return try LoadedModel(name: "random", architecture: "test", config: config, tokenizer: ByteTokenizer()) { specs in
      try Parameters(
        specs,
        matrix: { spec in
          let scale = 2 / Float(spec.columns).squareRoot()
          return StoredWeight(
            Tensor(
              spec.rows, spec.columns,
              (0..<spec.rows * spec.columns).map { _ in Float.random(in: -scale...scale, using: &random) }))
        },
        vector: { spec in
          Tensor(1, spec.columns, (0..<spec.columns).map { _ in 1 + Float.random(in: -0.1...0.1, using: &random) })
        })
    }
  }

  static func encoder(
    dim: Int = 64, heads: Int = 4, headDim: Int = 16, hidden: Int = 96, layers: Int = 2, context: Int = 128,
    seed: UInt64
  ) throws -> LoadedModel {
    var config = TextEncoder()
    config.dim = dim
    config.vocabulary = 256
    config.contextLength = context
    var attention = Attention(heads: heads, kvHeads: heads, headDim: headDim, qkv: LinearQKV(bias: true))
    attention.mask = .bidirectional
    attention.outputBias = true
    config.layers = Array(
      repeating: Block(
        attention: attention, feedForward: FeedForward(hidden: hidden, activation: .geluErf, gated: false, bias: true),
        residual: PostNorm()), count: layers)
    return try make(config, seed: seed)
  }

  static func decoder(layers: Int = 2, seed: UInt64) throws -> LoadedModel {
    var config = CausalLM()
    config.dim = 64
    config.vocabulary = 256
    config.contextLength = 1024
    config.layers = Array(
      repeating: Block(
        attention: Attention(
          heads: 4, kvHeads: 2, headDim: 16, qkv: RoPE(LinearQKV(), theta: 1e4, pairing: .halfSplit)),
        feedForward: FeedForward(hidden: 96)), count: layers)
    return try make(config, seed: seed)
  }

  /// The same model with random factors of one rank in place of its layers' matrices; each group shares a down factor.
  static func lowRank(_ model: LoadedModel, rank: Int, seed: UInt64) -> LoadedModel {
    var random = TestRandom(seed: seed)
    func matrix(_ rows: Int, _ columns: Int) -> StoredWeight {
      let scale = 1 / Float(columns).squareRoot()
      return StoredWeight(
        Tensor(rows, columns, (0..<rows * columns).map { _ in Float.random(in: -scale...scale, using: &random) }))
    }
    var weights: [String: LowRankWeight] = [:]
    for group in LinearGroup.all(of: model) {
      let down = DownFactor(matrix(rank, group.columns))
      for (i, member) in group.members.enumerated() {
        let rows = model.parameters.matrix(member)!.rows
        weights[member] = LowRankWeight(down: down, up: matrix(rows, rank), countsDown: i == 0)
      }
    }
    return model.with(parameters: model.parameters.mapMatrices { weights[$0.path] ?? $1 })
  }

  /// Random token ids of these lengths.
  static func sequences(_ lengths: [Int], seed: UInt64) -> [[Int32]] {
    var random = TestRandom(seed: seed)
    return lengths.map { length in (0..<length).map { _ in Int32.random(in: 0..<256, using: &random) } }
  }

  /// Lines of words.
  static func text(_ lines: Int, seed: UInt64) -> String {
    var random = TestRandom(seed: seed)
    let words = ["swift", "bird", "wing", "nest", "sky", "cliff", "insect", "sleep", "fly", "far"]
    return (0..<lines).map { _ in
      (0..<Int.random(in: 2...14, using: &random)).map { _ in words.randomElement(using: &random)! }
        .joined(separator: " ")
    }.joined(separator: "\n")
  }
}
