public struct BERTConfiguration: Codable, Sendable {
  var hiddenSize: Int
  var hiddenLayers: Int
  var intermediateSize: Int
  var attentionHeads: Int
  var layerNormEps: Float
  var vocabularySize: Int
  var maxPositions: Int
  var positionKind: String?  // +alibi
  var normKind: String?  // +norm
  var numExperts: Int?  // +moe

  enum CodingKeys: String, CodingKey {
    case hiddenSize = "hidden_size"
    case hiddenLayers = "num_hidden_layers"
    case intermediateSize = "intermediate_size"
    case attentionHeads = "num_attention_heads"
    case layerNormEps = "layer_norm_eps"
    case vocabularySize = "vocab_size"
    case maxPositions = "max_position_embeddings"
    case positionKind = "position_kind"  // +alibi
    case normKind = "norm_kind"  // +norm
    case numExperts = "num_experts"  // +moe
  }
}

final class BERTAttention: Module {
  let heads: Int
  let q, k, v, o: Linear
  let slopes: [Float]?  // +alibi

  init(_ c: BERTConfiguration) {
    heads = c.attentionHeads
    q = Linear(c.hiddenSize, c.hiddenSize, bias: true)
    k = Linear(c.hiddenSize, c.hiddenSize, bias: true)
    v = Linear(c.hiddenSize, c.hiddenSize, bias: true)
    o = Linear(c.hiddenSize, c.hiddenSize, bias: true)
    slopes = c.positionKind == "alibi" ? alibiSlopes(c.attentionHeads) : nil  // +alibi
  }

  func callAsFunction(_ x: Rows) -> Rows {
    o(
      attention(
        q(x), k(x), v(x), heads: heads,
        slopes: slopes,  // +alibi
        kvHeads: heads, causal: false))
  }
}

final class BERTMLP: FeedForwardBase {
  let up, down: Linear

  init(_ c: BERTConfiguration) {
    up = Linear(c.hiddenSize, c.intermediateSize, bias: true)
    down = Linear(c.intermediateSize, c.hiddenSize, bias: true)
  }

  override func callAsFunction(_ x: Rows) -> Rows { down(up(x).map { $0.map(gelu) }) }
}

final class BERTBlock: Module {
  let attention: BERTAttention
  //-moe let mlp: BERTMLP
  let mlp: FeedForwardBase  // +moe
  //-norm let attentionNorm, outputNorm: LayerNorm
  let attentionNorm, outputNorm: Norm  // +norm

  init(_ c: BERTConfiguration) {
    attention = BERTAttention(c)
    //-moe mlp = BERTMLP(c)
    mlp = c.numExperts.map { MixtureLayer(c.hiddenSize, $0) { BERTMLP(c) } } ?? BERTMLP(c)  // +moe
    //-norm attentionNorm = LayerNorm(c.hiddenSize, c.layerNormEps)
    attentionNorm = makeNorm(c.normKind ?? "layer", c.hiddenSize, c.layerNormEps)  // +norm
    //-norm outputNorm = LayerNorm(c.hiddenSize, c.layerNormEps)
    outputNorm = makeNorm(c.normKind ?? "layer", c.hiddenSize, c.layerNormEps)  // +norm
  }

  func callAsFunction(_ x: Rows) -> Rows {
    let h = attentionNorm(x + attention(x))
    return outputNorm(h + mlp(h))
  }
}

public final class BERTModel: Module {
  let embedding: Embedding
  //-alibi let positions: Embedding
  let positions: Embedding?  // +alibi
  let blocks: [BERTBlock]
  //-norm let norm: LayerNorm
  let norm: Norm  // +norm

  public init(_ c: BERTConfiguration) {
    embedding = Embedding(c.vocabularySize, c.hiddenSize)
    //-alibi positions = Embedding(c.maxPositions, c.hiddenSize)
    positions = c.positionKind == "alibi" ? nil : Embedding(c.maxPositions, c.hiddenSize)  // +alibi
    blocks = (0..<c.hiddenLayers).map { _ in BERTBlock(c) }
    //-norm norm = LayerNorm(c.hiddenSize, c.layerNormEps)
    norm = makeNorm(c.normKind ?? "layer", c.hiddenSize, c.layerNormEps)  // +norm
  }

  public func callAsFunction(_ ids: [Int]) -> Rows {
    //-alibi var x = norm(embedding(ids) + positions(Array(ids.indices)))
    let words = embedding(ids)  // +alibi
    var x = norm(positions.map { words + $0(Array(ids.indices)) } ?? words)  // +alibi
    for block in blocks { x = block(x) }
    return x
  }
}
