import ApusCompute
import ApusText
import Foundation

@testable import ApusModels

/// Deterministic numbers in −1…1 by seed (splitmix64).
struct SeededNumbers: RandomNumberGenerator {
  var state: UInt64

  mutating func next() -> UInt64 {
    state &+= 0x9E37_79B9_7F4A_7C15
    var z = state
    z = (z ^ (z >> 30)) &* 0xBF58_476D_1CE4_E5B9
    z = (z ^ (z >> 27)) &* 0x94D0_49BB_1331_11EB
    return z ^ (z >> 31)
  }

  mutating func float() -> Float { Float(Int64(bitPattern: next()) >> 40) / Float(1 << 23) }
}

/// A tokenizer whose ids are bytes.
struct ByteTokenizer: Tokenizer {
  var vocabularySize: Int { 256 }
  var specialTokens: SpecialTokens { SpecialTokens() }
  var decodingStyle: DecodingStyle { .plain }
  func encode(_ text: String, options: EncodingOptions) -> [Int32] { text.utf8.map { Int32($0) } }
  func bytes(of id: Int32) -> [UInt8] { [UInt8(truncatingIfNeeded: id)] }
  func kind(of id: Int32) -> TokenKind { .normal }
}

/// A model of random f32 weights.
func randomModel(_ config: any ModelConfig, seed: UInt64) throws -> LoadedModel {
  var numbers = SeededNumbers(state: seed)
  return try LoadedModel(name: "random", architecture: "test", config: config, tokenizer: ByteTokenizer()) { specs in
    try Parameters(
      specs,
      matrix: { spec in
        let scale = 1 / Float(spec.columns).squareRoot()
        return StoredWeight(
          Tensor(spec.rows, spec.columns, (0..<spec.rows * spec.columns).map { _ in numbers.float() * scale * 2 }))
      },
      vector: { spec in
        Tensor(1, spec.columns, (0..<spec.columns).map { _ in 1 + numbers.float() * 0.1 })
      })
  }
}

/// A small decoder: GQA, RoPE, gated feed-forward.
func tinyDecoder(layers: Int = 2) -> CausalLM {
  var model = CausalLM()
  model.dim = 64
  model.vocabulary = 256
  model.contextLength = 256
  model.layers = Array(
    repeating: Block(
      attention: Attention(
        heads: 4, kvHeads: 2, headDim: 16, qkv: RoPE(LinearQKV(), theta: 1e4, pairing: .halfSplit)),
      feedForward: FeedForward(hidden: 96)), count: layers)
  return model
}
