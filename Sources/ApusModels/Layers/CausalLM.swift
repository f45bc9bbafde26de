import ApusCompute

/// The root of a config tree.
public protocol ModelConfig: ConfigNode {
  var dim: Int { get }
  var vocabulary: Int { get }
  /// The most tokens of one sequence.
  var contextLength: Int { get }
  var layers: [any BlockConfig] { get set }
  func make(_ b: Builder) throws -> any Model
}

/// A whole model: from token ids to rows of numbers.
public protocol Model: Module {
  var layers: [any BlockLayer] { get }
  /// `ids` `[1, rows]` i32 to hidden states `[rows, dim]`, normalised for the head or the pooling.
  func hidden(_ ids: Tensor, _ c: Scope) -> Tensor
  /// Columns of what `head` gives.
  var headColumns: Int { get }
  /// Rows of hidden states to the model's output: logits, or what pooling gives for the batch's segments.
  func head(_ hidden: Tensor, into out: Tensor, _ c: Scope)
}

/// A decoder-only language model: embedding, blocks, norm, head.
public struct CausalLM: ModelConfig {
  @Required public var dim: Int
  @Required public var vocabulary: Int
  @Required public var contextLength: Int
  /// Factor on embeddings (Gemma: √dim).
  public var embeddingScale = 1.0
  public var layers: [any BlockConfig] = []
  public var norm: any NormConfig = RMSNorm()
  /// The head is the embedding matrix.
  public var tiedHead = true
  /// cap · tanh(logit / cap) (Gemma 2); 0 for none.
  public var logitSoftcap = 0.0
  /// For the head: often a quarter of the arithmetic of a decode step.
  public var headActivations = ActivationPrecision.int8

  public init() {}

  public mutating func visit(_ v: inout some ConfigVisitor) throws {
    try v.field("dim", \._dim, &self)
    try v.field("vocabulary", \._vocabulary, &self)
    try v.field("contextLength", \._contextLength, &self)
    try v.field("embeddingScale", \.embeddingScale, &self)
    try v.field("layers", \.layers, &self)
    try v.field("norm", \.norm, &self)
    try v.field("tiedHead", \.tiedHead, &self)
    try v.field("logitSoftcap", \.logitSoftcap, &self)
    try v.field("headActivations", \.headActivations, &self)
  }

  public func make(_ b: Builder) throws -> any Model {
    let embedding = b.matrix("embedding.weight", vocabulary, dim)
    return Layer(
      config: self, embedding: embedding,
      layers: try layers.enumerated().map { try $1.make(dim: dim, layer: $0, b.child("layers", $0)) },
      norm: try norm.make(dim: dim, b.child("norm")),
      head: tiedHead ? embedding : b.matrix("head.weight", vocabulary, dim))
  }

  private final class Layer: Model {
    let dim: Int
    let embeddingScale: Float
    let softcap: Float
    let embedding: MatrixParameter
    let layers: [any BlockLayer]
    let norm: any Norm
    let headWeight: MatrixParameter
    let headActivations: ActivationPrecision

    init(
      config: CausalLM, embedding: MatrixParameter, layers: [any BlockLayer], norm: any Norm, head: MatrixParameter
    ) {
      dim = config.dim
      embeddingScale = Float(config.embeddingScale)
      softcap = Float(config.logitSoftcap)
      self.embedding = embedding
      self.layers = layers
      self.norm = norm
      headWeight = head
      headActivations = config.headActivations
    }

    var headColumns: Int { headWeight.rows }

    func hidden(_ ids: Tensor, _ c: Scope) -> Tensor {
      let x = c.tensor(ids.columns, dim)
      c[embedding].gather(ids, into: x, on: c.device)
      if embeddingScale != 1 { c.device.scale(x, by: embeddingScale) }
      for layer in layers { layer(x, c) }
      return x
    }

    func head(_ hidden: Tensor, into out: Tensor, _ c: Scope) {
      norm(hidden, into: hidden, c)
      c.linear(hidden, activations: headActivations, (headWeight, nil, out))
      if softcap > 0 { c.device.softcap(out, softcap) }
    }
  }
}
