/// Gemma 3 (text): QK-norm, norms before and after each part, five layers with a sliding window to one that sees
/// everything, embeddings scaled by √dim. The files' norm weights have their +1 already. Gemma Team 2025.
public enum Gemma3: Recipe {
  public static let architecture = "gemma3"
  public static let names = decoderNamesInGGUF
  /// Every how many layers one sees the whole context.
  private static let globalEvery = 6
  /// RoPE's θ in the layers with a window.
  private static let localTheta = 10000.0

  public static func config(_ m: some ModelMetadata) throws -> any ModelConfig {
    let norm = RMSNorm(epsilon: try m.double("gemma3.attention.layer_norm_rms_epsilon"))
    let heads = try m.int("gemma3.attention.head_count")
    let theta = try m.double("gemma3.rope.freq_base", or: 1e6)
    let scaling = try m.double("gemma3.rope.scaling.factor", or: 1)
    var model = CausalLM()
    model.dim = try m.int("gemma3.embedding_length")
    model.vocabulary = try m.int("tokenizer.vocabulary")
    model.contextLength = try m.int("gemma3.context_length")
    model.embeddingScale = Double(model.dim).squareRoot()
    var local = RoPE(QKNorm(LinearQKV(), norm: norm), theta: localTheta, pairing: .halfSplit)
    var attention = Attention(
      heads: heads, kvHeads: try m.int("gemma3.attention.head_count_kv"),
      headDim: try m.int("gemma3.attention.key_length", or: model.dim / max(1, heads)), qkv: local)
    attention.window = try m.int("gemma3.attention.sliding_window")
    var block = Block(
      attention: attention,
      feedForward: FeedForward(hidden: try m.int("gemma3.feed_forward_length"), activation: .geluTanh),
      residual: SandwichNorm(norm))
    let windowed = block
    local.theta = theta
    local.scaling = scaling
    attention.qkv = local
    attention.window = 0
    block.attention = attention
    model.layers = (0..<(try m.int("gemma3.block_count"))).map { ($0 + 1) % globalEvery == 0 ? block : windowed }
    model.norm = norm
    model.tiedHead = !m.hasTensor("output.weight")
    return model
  }
}
