import ApusKernels

/// BERT encoders from Hugging Face folders (MiniLM and other sentence-transformers). Devlin et al. 2019.
public enum BERT: Recipe {
  public static let architecture = "bert"

  public static func config(_ m: some ModelMetadata) throws -> any ModelConfig {
    let activations: [String: Activation] = [
      "gelu": .geluErf, "gelu_new": .geluTanh, "gelu_pytorch_tanh": .geluTanh, "relu": .relu, "silu": .silu,
    ]
    let word = try m.string("hidden_act")
    guard let activation = activations[word] else {
      throw ConfigError(
        path: "hidden_act",
        problem: "unknown activation \(word); known: \(activations.keys.sorted().joined(separator: ", "))")
    }
    let norm = LayerNorm(epsilon: try m.double("layer_norm_eps"))
    let heads = try m.int("num_attention_heads")
    var model = TextEncoder()
    model.dim = try m.int("hidden_size")
    model.vocabulary = try m.int("vocab_size")
    model.contextLength = try m.int("max_position_embeddings")
    model.tokenTypes = try m.int("type_vocab_size")
    model.embeddingNorm = norm
    var attention = Attention(
      heads: heads, kvHeads: heads, headDim: model.dim / max(1, heads), qkv: LinearQKV(bias: true))
    attention.mask = .bidirectional
    attention.outputBias = true
    let block = Block(
      attention: attention,
      feedForward: FeedForward(
        hidden: try m.int("intermediate_size"), activation: activation, gated: false, bias: true),
      residual: PostNorm(norm))
    model.layers = Array(repeating: block, count: try m.int("num_hidden_layers"))
    model.pooling = m.has("pooling_mode_cls_token") ? .first : .mean
    return model
  }

  public static let names: [String: String] = [
    "embedding.word.weight": "embeddings.word_embeddings.weight",
    "embedding.position.weight": "embeddings.position_embeddings.weight",
    "embedding.type.weight": "embeddings.token_type_embeddings.weight",
    "embedding.norm.weight": "embeddings.LayerNorm.weight",
    "embedding.norm.bias": "embeddings.LayerNorm.bias",
  ].merging(
    [
      "attention.query": "attention.self.query", "attention.key": "attention.self.key",
      "attention.value": "attention.self.value", "attention.output": "attention.output.dense",
      "attentionResidual.around": "attention.output.LayerNorm", "feedForward.up": "intermediate.dense",
      "feedForward.down": "output.dense", "feedForwardResidual.around": "output.LayerNorm",
    ].flatMap { path, name in
      ["weight", "bias"].map { ("layers.{}.\(path).\($0)", "encoder.layer.{}.\(name).\($0)") }
    }, uniquingKeysWith: { first, _ in first })
}
