import ApusKernels

/// Llama 1–3 and its relatives (SmolLM2) from GGUF, whose converter permutes query and key rows so that RoPE pairs
/// neighbours. Touvron et al. 2023.
public enum Llama: Recipe {
  public static let architecture = "llama"
  public static let names = decoderNamesInGGUF

  public static func config(_ m: some ModelMetadata) throws -> any ModelConfig {
    try decoder(m, "llama", pairing: .interleaved, qkvBias: false)
  }
}

/// Qwen2 and 2.5: Llama with biases on queries, keys and values, and RoPE over half-heads. Yang et al. 2024.
public enum Qwen2: Recipe {
  public static let architecture = "qwen2"
  public static let names = decoderNamesInGGUF

  public static func config(_ m: some ModelMetadata) throws -> any ModelConfig {
    try decoder(m, "qwen2", pairing: .halfSplit, qkvBias: true)
  }
}

/// The composition that Llama and Qwen2 share.
private func decoder(
  _ m: some ModelMetadata, _ key: String, pairing: RotaryPairing, qkvBias: Bool
) throws -> any ModelConfig {
  let norm = RMSNorm(epsilon: try m.double("\(key).attention.layer_norm_rms_epsilon"))
  let heads = try m.int("\(key).attention.head_count")
  var model = CausalLM()
  model.dim = try m.int("\(key).embedding_length")
  model.vocabulary = try m.int("tokenizer.vocabulary")
  model.contextLength = try m.int("\(key).context_length")
  let headDim = try m.int("\(key).attention.key_length", or: model.dim / max(1, heads))
  var rope = RoPE(
    LinearQKV(bias: qkvBias), theta: try m.double("\(key).rope.freq_base", or: 10000), pairing: pairing)
  rope.rotaryDim = try m.int("\(key).rope.dimension_count", or: headDim)
  rope.scaling = try m.double("\(key).rope.scaling.factor", or: 1)
  let block = Block(
    attention: Attention(
      heads: heads, kvHeads: try m.int("\(key).attention.head_count_kv", or: heads), headDim: headDim, qkv: rope),
    feedForward: FeedForward(hidden: try m.int("\(key).feed_forward_length")), residual: PreNorm(norm))
  model.layers = Array(repeating: block, count: try m.int("\(key).block_count"))
  model.norm = norm
  model.tiedHead = !m.hasTensor("output.weight")
  return model
}
