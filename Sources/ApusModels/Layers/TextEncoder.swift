import ApusCompute

/// How the rows of a sequence become one.
public enum Pooling: String, Sendable, ConfigEnum {
  /// The mean over the tokens.
  case mean
  /// The first token.
  case first
}

/// A bidirectional encoder (BERT): word, position and type embeddings, blocks, pooling.
public struct TextEncoder: ModelConfig {
  @Required public var dim: Int
  @Required public var vocabulary: Int
  @Required public var contextLength: Int
  public var tokenTypes = 2
  public var embeddingNorm: any NormConfig = LayerNorm()
  public var layers: [any BlockConfig] = []
  public var pooling = Pooling.mean
  /// Outputs are divided by their Euclidean length.
  public var normalized = true

  public init() {}

  public mutating func visit(_ v: inout some ConfigVisitor) throws {
    try v.field("dim", \._dim, &self)
    try v.field("vocabulary", \._vocabulary, &self)
    try v.field("contextLength", \._contextLength, &self)
    try v.field("tokenTypes", \.tokenTypes, &self)
    try v.field("embeddingNorm", \.embeddingNorm, &self)
    try v.field("layers", \.layers, &self)
    try v.field("pooling", \.pooling, &self)
    try v.field("normalized", \.normalized, &self)
  }

  public func make(_ b: Builder) throws -> any Model {
    Layer(
      config: self, word: b.matrix("embedding.word.weight", vocabulary, dim),
      position: b.matrix("embedding.position.weight", contextLength, dim),
      type: b.matrix("embedding.type.weight", tokenTypes, dim),
      norm: try embeddingNorm.make(dim: dim, b.child("embedding.norm")),
      layers: try layers.enumerated().map { try $1.make(dim: dim, layer: $0, b.child("layers", $0)) })
  }

  private final class Layer: Model {
    let dim: Int
    let pooling: Pooling
    let normalized: Bool
    let word, position, type: MatrixParameter
    let norm: any Norm
    let layers: [any BlockLayer]

    init(
      config: TextEncoder, word: MatrixParameter, position: MatrixParameter, type: MatrixParameter, norm: any Norm,
      layers: [any BlockLayer]
    ) {
      dim = config.dim
      pooling = config.pooling
      normalized = config.normalized
      self.word = word
      self.position = position
      self.type = type
      self.norm = norm
      self.layers = layers
    }

    var headColumns: Int { dim }

    func hidden(_ ids: Tensor, _ c: Scope) -> Tensor {
      let x = c.tensor(ids.columns, dim)
      c.pieces(of: ids.columns) { rows in
        let x = x.rows(rows)
        c[word].gather(ids.columns(rows), into: x, on: c.device)
        c.temporaries {
          let more = c.tensor(rows.count, dim)
          c[position].gather(c.positions.columns(rows), into: more, on: c.device)
          c.device.add(x, more, into: x)
          c[type].gather(c.device.integers([Int32](repeating: 0, count: rows.count)), into: more, on: c.device)
          c.device.add(x, more, into: x)
        }
        norm(x, into: x, c)
      }
      for layer in layers { layer(x, c) }
      return x
    }

    func head(_ hidden: Tensor, into out: Tensor, _ c: Scope) {
      let ranges = c.batch.segments.map(\.rows)
      c.device.meanRows(
        hidden, pooling == .mean ? ranges : ranges.map { $0.lowerBound..<$0.lowerBound + 1 }, into: out)
      if normalized { c.device.normalizeRows(out) }
    }
  }
}
