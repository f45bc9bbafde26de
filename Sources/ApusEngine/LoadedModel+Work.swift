import ApusModels

extension LoadedModel {
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
