public struct Qwen2Configuration: Codable, Sendable {
  var hiddenSize: Int
  var hiddenLayers: Int
  var intermediateSize: Int
  var attentionHeads: Int
  var kvHeads: Int
  var headDim: Int
  var rmsNormEps: Float
  var vocabularySize: Int
  var ropeTheta: Float
  var tieWordEmbeddings: Bool
  var positionKind: String?  // +alibi
  var normKind: String?  // +norm
  var numExperts: Int?  // +moe

  enum CodingKeys: String, CodingKey {
    case hiddenSize = "hidden_size"
    case hiddenLayers = "num_hidden_layers"
    case intermediateSize = "intermediate_size"
    case attentionHeads = "num_attention_heads"
    case kvHeads = "num_key_value_heads"
    case headDim = "head_dim"
    case rmsNormEps = "rms_norm_eps"
    case vocabularySize = "vocab_size"
    case ropeTheta = "rope_theta"
    case tieWordEmbeddings = "tie_word_embeddings"
    case positionKind = "position_kind"  // +alibi
    case normKind = "norm_kind"  // +norm
    case numExperts = "num_experts"  // +moe
  }
}

final class Qwen2Attention: Module {
  let c: Qwen2Configuration
  let q, k, v, o: Linear
  let slopes: [Float]?  // +alibi

  init(_ c: Qwen2Configuration) {
    self.c = c
    q = Linear(c.hiddenSize, c.attentionHeads * c.headDim, bias: true)
    k = Linear(c.hiddenSize, c.kvHeads * c.headDim, bias: true)
    v = Linear(c.hiddenSize, c.kvHeads * c.headDim, bias: true)
    o = Linear(c.attentionHeads * c.headDim, c.hiddenSize)
    slopes = c.positionKind == "alibi" ? alibiSlopes(c.attentionHeads) : nil  // +alibi
  }

  func callAsFunction(_ x: Rows) -> Rows {
    var queries = q(x)
    var keys = k(x)
    let theta = c.ropeTheta
    if slopes == nil {  // +alibi
      queries = rope(queries, headDim: c.headDim, theta: theta)
      keys = rope(keys, headDim: c.headDim, theta: theta)
    }  // +alibi
    return o(
      attention(
        queries, keys, v(x), heads: c.attentionHeads,
        slopes: slopes,  // +alibi
        kvHeads: c.kvHeads))
  }
}

final class Qwen2MLP: FeedForwardBase {
  let gate, up, down: Linear

  init(_ c: Qwen2Configuration) {
    gate = Linear(c.hiddenSize, c.intermediateSize)
    up = Linear(c.hiddenSize, c.intermediateSize)
    down = Linear(c.intermediateSize, c.hiddenSize)
  }

  override func callAsFunction(_ x: Rows) -> Rows {
    down(zip(gate(x), up(x)).map { zip($0, $1).map { silu($0) * $1 } })
  }
}

final class Qwen2Block: Module {
  let attention: Qwen2Attention
  //-moe let mlp: Qwen2MLP
  let mlp: FeedForwardBase  // +moe
  //-norm let inputNorm, postAttentionNorm: RMSNorm
  let inputNorm, postAttentionNorm: Norm  // +norm

  init(_ c: Qwen2Configuration) {
    attention = Qwen2Attention(c)
    //-moe mlp = Qwen2MLP(c)
    mlp = c.numExperts.map { MixtureLayer(c.hiddenSize, $0) { Qwen2MLP(c) } } ?? Qwen2MLP(c)  // +moe
    //-norm inputNorm = RMSNorm(c.hiddenSize, c.rmsNormEps)
    inputNorm = makeNorm(c.normKind ?? "rms", c.hiddenSize, c.rmsNormEps)  // +norm
    //-norm postAttentionNorm = RMSNorm(c.hiddenSize, c.rmsNormEps)
    postAttentionNorm = makeNorm(c.normKind ?? "rms", c.hiddenSize, c.rmsNormEps)  // +norm
  }

  func callAsFunction(_ x: Rows) -> Rows {
    let h = x + attention(inputNorm(x))
    return h + mlp(postAttentionNorm(h))
  }
}

public final class Qwen2Model: Module {
  let c: Qwen2Configuration
  let embedding: Embedding
  let blocks: [Qwen2Block]
  //-norm let norm: RMSNorm
  let norm: Norm  // +norm
  let head: Linear?

  public init(_ c: Qwen2Configuration) {
    self.c = c
    embedding = Embedding(c.vocabularySize, c.hiddenSize)
    blocks = (0..<c.hiddenLayers).map { _ in Qwen2Block(c) }
    //-norm norm = RMSNorm(c.hiddenSize, c.rmsNormEps)
    norm = makeNorm(c.normKind ?? "rms", c.hiddenSize, c.rmsNormEps)  // +norm
    head = c.tieWordEmbeddings ? nil : Linear(c.hiddenSize, c.vocabularySize)
  }

  public func callAsFunction(_ ids: [Int]) -> Rows {
    var x = embedding(ids)
    for block in blocks { x = block(x) }
    x = norm(x)
    return head?(x) ?? embedding.asHead(x)
  }
}
