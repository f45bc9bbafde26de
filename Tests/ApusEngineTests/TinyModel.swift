import ApusCompute

@testable import ApusEngine
@testable import ApusModels

/// A small decoder of random f32 weights over bytes: grouped keys, RoPE, gated feed-forward; with `kvRank` keys and values
/// are products of factors of that rank.
func tinyModel(seed: UInt64 = 1, contextLength: Int = 256, kvRank: Int? = nil) throws -> LoadedModel {
  var config = CausalLM()
  config.dim = 64
  config.vocabulary = ByteTokenizer().vocabularySize
  config.contextLength = contextLength
  config.layers = Array(
    repeating: Block(
      attention: Attention(
        heads: 4, kvHeads: 2, headDim: 16, qkv: RoPE(LinearQKV(), theta: 1e4, pairing: .halfSplit)),
      feedForward: FeedForward(hidden: 96)), count: 2)
  var random = TestRandom(seed: seed)
  func values(_ spec: ParameterSpec, _ value: (Float) -> Float) -> Tensor {
    Tensor(
      spec.rows, spec.columns,
      (0..<spec.rows * spec.columns).map { _ in value(Float.random(in: -1...1, using: &random)) })
  }
  return try LoadedModel(name: "tiny", architecture: "test", config: config, tokenizer: ByteTokenizer()) { specs in
    try Parameters(
      specs,
      matrix: { spec in
        func weight(_ rows: Int, _ columns: Int) -> StoredWeight {
          var part = spec
          (part.rows, part.columns) = (rows, columns)
          return StoredWeight(values(part) { 2 * $0 / Float(columns).squareRoot() })
        }
        guard let kvRank, spec.path.contains(".key.") || spec.path.contains(".value.") else {
          return weight(spec.rows, spec.columns)
        }
        return LowRankWeight(
          down: DownFactor(weight(kvRank, spec.columns)), up: weight(spec.rows, kvRank))
      },
      vector: { spec in values(spec) { 1 + 0.1 * $0 } })
  }
}

extension EventChannel {
  /// One that nobody misses and nothing fills.
  static func open() -> EventChannel { EventChannel(capacity: .max, onRoom: {}, onCancel: {}) }

  /// Reads on to the answer's end.
  func outcome() async throws -> (score: Score?, generation: Generation?) {
    var score: Score?
    while let event = try await next() {
      switch event {
      case .prompt(let prompt): score = prompt
      case .finished(let generation): return (score, generation)
      case .started, .token: break
      }
    }
    return (score, nil)
  }

  func generation() async throws -> Generation? { try await outcome().generation }
}
