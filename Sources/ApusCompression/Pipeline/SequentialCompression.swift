import ApusKernels
import ApusModels

/// Compresses a model from its first layers to its last, each on what the compressed layers before it put out.
///
/// Errors of a decoder's layers add up: factors that were fitted to the original's inputs do not know what really comes.
/// With `refits`, factors also make good what the layers before lost: they give from the shifted inputs what the original
/// layer gave from its own, as far as least squares can. Source: Wang et al., "SVD-LLM: Truncation-aware singular value
/// decomposition for large language model compression", 2024.
public struct SequentialCompression {
  public var model: LoadedModel
  public var groups: [LinearGroup]
  public var encoding: FactorEncoding
  public var method: FactorMethod?
  /// Groups that are calibrated in one pass over the text. With 1, each knows all that is before it. More are quicker, but a
  /// refit then counts on inputs that the others of its pass still change: 4 (a layer) may do more harm than good.
  public var groupsAtOnce: Int
  public var refits: Bool
  /// Draws refitted matrices towards the original ones: a share of the mean square of what the layer reads.
  public var ridge: Double
  /// Calibrates on unpacked weights in f32, as `Calibration` does; else as the models will really run, which is quicker.
  public var exact: Bool
  public var threads: Int?

  public init(
    _ model: LoadedModel, groups: [LinearGroup]? = nil, encoding: FactorEncoding = .f32, method: FactorMethod? = nil,
    groupsAtOnce: Int = 1, refits: Bool = true, ridge: Double = 1e-2, exact: Bool = false, threads: Int? = nil
  ) {
    precondition(groupsAtOnce > 0, "\(groupsAtOnce) groups at once")
    self.model = model
    self.groups = groups ?? LinearGroup.all(of: model)
    self.encoding = encoding
    self.method = method
    self.groupsAtOnce = groupsAtOnce
    self.refits = refits
    self.ridge = ridge
    self.exact = exact
    self.threads = threads
  }

  /// The model with these choices, one a group. `progress` gets 0…1.
  ///
  /// Complexity: a pass of both models over the text for each `groupsAtOnce` groups, each up to the groups' layer.
  public func compressed(
    _ choices: [RankChoice], on corpus: Corpus, progress: (Double) -> Void = { _ in }
  ) throws -> CompressedModel {
    precondition(choices.count == groups.count, "\(choices.count) choices for \(groups.count) groups")
    var result = CompressedModel(model: model, encoding: encoding)
    for start in stride(from: 0, to: groups.count, by: groupsAtOnce) {
      let block = start..<min(start + groupsAtOnce, groups.count)
      let cut = block.filter { choices[$0] != .dense }
      if !cut.isEmpty {
        let part = cut.map { groups[$0] }
        let moments = try PairedCalibration(
          original: model, compressed: result.model, groups: part, exact: exact,
          threads: threads ?? ThreadPool.availableThreads
        ).run(corpus) { tokens in
          progress(
            (Double(start) + Double(block.count) * Double(tokens) / Double(corpus.tokens)) / Double(groups.count))
        }
        let compressor = try ModelCompressor(
          result.model, groups: part, shifted: moments, refitRidge: refits ? ridge : nil, method: method,
          encoding: encoding, threads: threads)
        result.append(try compressor.compressed(cut.map { choices[$0] }))
      }
      for index in block where choices[index] == .dense { result.keep(groups[index]) }
    }
    result.sortGroups(like: groups.map(\.name))
    return result
  }
}
