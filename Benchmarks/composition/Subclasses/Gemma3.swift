public struct Gemma3Configuration: Codable, Sendable {
  var hiddenSize: Int
  var hiddenLayers: Int
  var intermediateSize: Int
  var attentionHeads: Int
  var kvHeads: Int
  var headDim: Int
  var rmsNormEps: Float
  var vocabularySize: Int
  var ropeTheta: Float
  var slidingWindow: Int
  var slidingWindowPattern: Int
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
    case slidingWindow = "sliding_window"
    case slidingWindowPattern = "sliding_window_pattern"
    case positionKind = "position_kind"  // +alibi
    case normKind = "norm_kind"  // +norm
    case numExperts = "num_experts"  // +moe
  }
}

final class Gemma3Attention: Module {
  let c: Gemma3Configuration
  let q, k, v, o: Linear
  let slopes: [Float]?  // +alibi
  let qNorm, kNorm: RMSNorm
  let isGlobal: Bool

  init(_ c: Gemma3Configuration, layer: Int) {
    self.c = c
    q = Linear(c.hiddenSize, c.attentionHeads * c.headDim)
    k = Linear(c.hiddenSize, c.kvHeads * c.headDim)
    v = Linear(c.hiddenSize, c.kvHeads * c.headDim)
    o = Linear(c.attentionHeads * c.headDim, c.hiddenSize)
    slopes = c.positionKind == "alibi" ? alibiSlopes(c.attentionHeads) : nil  // +alibi
    qNorm = RMSNorm(c.headDim, c.rmsNormEps)
    kNorm = RMSNorm(c.headDim, c.rmsNormEps)
    isGlobal = (layer + 1) % c.slidingWindowPattern == 0
  }

  func callAsFunction(_ x: Rows) -> Rows {
    var queries = q(x)
    var keys = k(x)
    queries = normHeads(queries, qNorm)
    keys = normHeads(keys, kNorm)
    let theta = isGlobal ? c.ropeTheta : 10000
    if slopes == nil {  // +alibi
      queries = rope(queries, headDim: c.headDim, theta: theta)
      keys = rope(keys, headDim: c.headDim, theta: theta)
    }  // +alibi
    let window = isGlobal ? 0 : c.slidingWindow
    return o(
      attention(
        queries, keys, v(x), heads: c.attentionHeads,
        slopes: slopes,  // +alibi
        kvHeads: c.kvHeads, window: window))
  }

  private func normHeads(_ x: Rows, _ norm: RMSNorm) -> Rows {
    x.map { row in
      stride(from: 0, to: row.count, by: c.headDim).flatMap { norm([Array(row[$0..<$0 + c.headDim])])[0] }
    }
  }
}

final class Gemma3MLP: FeedForwardBase {
  let gate, up, down: Linear

  init(_ c: Gemma3Configuration) {
    gate = Linear(c.hiddenSize, c.intermediateSize)
    up = Linear(c.hiddenSize, c.intermediateSize)
    down = Linear(c.intermediateSize, c.hiddenSize)
  }

  override func callAsFunction(_ x: Rows) -> Rows {
    down(zip(gate(x), up(x)).map { zip($0, $1).map { gelu($0) * $1 } })
  }
}

final class Gemma3Block: Module {
  let attention: Gemma3Attention
  //-moe let mlp: Gemma3MLP
  let mlp: FeedForwardBase  // +moe
  //-norm let inputNorm, postAttentionNorm, preFeedForwardNorm, postFeedForwardNorm: RMSNorm
  let inputNorm, postAttentionNorm, preFeedForwardNorm, postFeedForwardNorm: Norm  // +norm

  init(_ c: Gemma3Configuration, layer: Int) {
    attention = Gemma3Attention(c, layer: layer)
    //-moe mlp = Gemma3MLP(c)
    mlp = c.numExperts.map { MixtureLayer(c.hiddenSize, $0) { Gemma3MLP(c) } } ?? Gemma3MLP(c)  // +moe
    //-norm inputNorm = RMSNorm(c.hiddenSize, c.rmsNormEps)
    inputNorm = makeNorm(c.normKind ?? "rms", c.hiddenSize, c.rmsNormEps)  // +norm
    //-norm postAttentionNorm = RMSNorm(c.hiddenSize, c.rmsNormEps)
    postAttentionNorm = makeNorm(c.normKind ?? "rms", c.hiddenSize, c.rmsNormEps)  // +norm
    //-norm preFeedForwardNorm = RMSNorm(c.hiddenSize, c.rmsNormEps)
    preFeedForwardNorm = makeNorm(c.normKind ?? "rms", c.hiddenSize, c.rmsNormEps)  // +norm
    //-norm postFeedForwardNorm = RMSNorm(c.hiddenSize, c.rmsNormEps)
    postFeedForwardNorm = makeNorm(c.normKind ?? "rms", c.hiddenSize, c.rmsNormEps)  // +norm
  }

  func callAsFunction(_ x: Rows) -> Rows {
    let h = x + postAttentionNorm(attention(inputNorm(x)))
    return h + postFeedForwardNorm(mlp(preFeedForwardNorm(h)))
  }
}

public final class Gemma3Model: Module {
  let c: Gemma3Configuration
  let embedding: Embedding
  let blocks: [Gemma3Block]
  //-norm let norm: RMSNorm
  let norm: Norm  // +norm

  public init(_ c: Gemma3Configuration) {
    self.c = c
    embedding = Embedding(c.vocabularySize, c.hiddenSize)
    blocks = (0..<c.hiddenLayers).map { Gemma3Block(c, layer: $0) }
    //-norm norm = RMSNorm(c.hiddenSize, c.rmsNormEps)
    norm = makeNorm(c.normKind ?? "rms", c.hiddenSize, c.rmsNormEps)  // +norm
  }

  public func callAsFunction(_ ids: [Int]) -> Rows {
    let scale = Float(c.hiddenSize).squareRoot()
    var x = embedding(ids).map { $0.map { $0 * scale } }
    for block in blocks { x = block(x) }
    return embedding.asHead(norm(x))
  }
}
