import ApusModels

/// Compresses a model from its first layers to its last, each on what the compressed layers before it put out.
///
/// Errors of a decoder's layers add up: factors that were fitted to the original's inputs do not know what really comes.
/// Source: Wang et al., "SVD-LLM: Truncation-aware singular value decomposition for large language model compression",
/// 2024, without its refit of the outer factor.
public struct SequentialCompression {
  public var model: LoadedModel
  public var groups: [LinearGroup]
  public var encoding: FactorEncoding
  public var method: FactorMethod?
  /// Layers that are calibrated in one pass over the text.
  public var layersAtOnce: Int
  public var threads: Int?

  public init(
    _ model: LoadedModel, groups: [LinearGroup]? = nil, encoding: FactorEncoding = .f32, method: FactorMethod? = nil,
    layersAtOnce: Int = 4, threads: Int? = nil
  ) {
    precondition(layersAtOnce > 0, "\(layersAtOnce) layers at once")
    self.model = model
    self.groups = groups ?? LinearGroup.all(of: model)
    self.encoding = encoding
    self.method = method
    self.layersAtOnce = layersAtOnce
    self.threads = threads
  }

  /// The model with these choices, one a group. `progress` gets 0…1.
  public func compressed(
    _ choices: [RankChoice], on corpus: Corpus, progress: (Double) -> Void = { _ in }
  ) throws -> CompressedModel {
    precondition(choices.count == groups.count, "\(choices.count) choices for \(groups.count) groups")
    let layers = Set(groups.map(\.layer)).sorted()
    var result = CompressedModel(model: model, encoding: encoding)
    for start in stride(from: 0, to: layers.count, by: layersAtOnce) {
      let end = min(start + layersAtOnce, layers.count)
      let block = groups.indices.filter { layers[start..<end].contains(groups[$0].layer) }
      let part = block.map { groups[$0] }
      var statistics = CalibrationStatistics(model: "", corpus: corpus.digest)
      try Calibration(result.model, groups: part, threads: threads).run(corpus, into: &statistics) { tokens in
        progress((Double(start) + Double(end - start) * Double(tokens) / Double(corpus.tokens)) / Double(layers.count))
      }
      let compressor = try ModelCompressor(
        result.model, groups: part, statistics: statistics, method: method, encoding: encoding, threads: threads)
      result.append(try compressor.compressed(block.map { choices[$0] }))
    }
    return result
  }
}
