import ApusModels

extension LoadedModel {
  /// Throws ``GenerationError/wrongKindOfModel(model:architecture:expected:)`` for an encoder.
  func requireGenerator() throws {
    if isEncoder {
      throw GenerationError.wrongKindOfModel(
        model: name, architecture: architecture, expected: "a text generator, not an encoder")
    }
  }

  /// The same for a model that makes no embeddings.
  func requireEncoder() throws {
    if !isEncoder {
      throw GenerationError.wrongKindOfModel(
        model: name, architecture: architecture, expected: "an encoder, such as minilm-l6")
    }
  }

  /// Bytes of weights that every step reads: all but an embedding table of which only single rows are gathered.
  public var bytesPerStep: Int {
    parameters.byteCount - (hasOwnHead ? parameters.byteCount(of: Self.embeddingPath) : 0)
  }

  /// Elements of the matrices that each token is multiplied with.
  public var matrixElementsPerToken: Int {
    parameters.specs.reduce(0) { sum, spec in
      let isGathered = hasOwnHead && spec.path == Self.embeddingPath
      return spec.isVector || isGathered ? sum : sum + spec.rows * spec.columns
    }
  }

  private static let embeddingPath = "embedding.weight"
  private var hasOwnHead: Bool { parameters.specs.contains { $0.path == "head.weight" } }
}
