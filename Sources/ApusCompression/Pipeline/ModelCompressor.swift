import ApusCompute
import ApusKernels
import ApusModels

/// Cuts the matrices of a model down to ranks.
///
/// ```swift
/// let compressor = try ModelCompressor(model, statistics: statistics)
/// let small = try compressor.compressed(try compressor.ranks(ratio: 0.8, by: UniformAllocator()))
/// ```
public struct ModelCompressor {
  public let model: LoadedModel
  public let groups: [LinearGroup]
  public let encoding: FactorEncoding
  private let directions: [OutputPCA]
  private let pool: ThreadPool

  /// Finds the directions of every group's outputs.
  ///
  /// - Parameter method: nil is output-PCA, about the mean where every matrix of the group has a bias to take it.
  /// - Throws: `CompressionError`: `missing` statistics, `otherSource` by the caller's checks, `notFinite`.
  public init(
    _ model: LoadedModel, groups: [LinearGroup]? = nil, statistics: CalibrationStatistics, method: FactorMethod? = nil,
    encoding: FactorEncoding = .f32, threads: Int? = nil, progress: (Double) -> Void = { _ in }
  ) throws {
    self.model = model
    self.encoding = encoding
    pool = ThreadPool(threads: threads ?? ThreadPool.availableThreads)
    let all = groups ?? LinearGroup.all(of: model)
    guard !all.isEmpty else {
      throw CompressionError(
        kind: .missing, what: "model '\(model.name)'", seen: "no layer that can be low-rank",
        expected: "attention or feed-forward layers")
    }
    self.groups = all
    var directions: [OutputPCA] = []
    for group in all {
      let hasBias = group.members.allSatisfy { model.parameters.vector(LinearGroup.bias(of: $0)) != nil }
      let metric = try (method ?? .outputPCA(centred: hasBias)).metric(for: statistics.statistics(of: group.input))
      directions.append(try OutputPCA(of: try group.members.map(model.dense), in: metric, on: pool))
      progress(Double(directions.count) / Double(all.count))
    }
    self.directions = directions
  }

  /// λ of a group's outputs, descending.
  public func spectrum(_ index: Int) -> [Double] { directions[index].spectrum }

  /// The groups as allocators see them; sensitivity 1 without `sensitivities`.
  public func layers(_ sensitivities: [Double]? = nil) -> [RankedLayer] {
    groups.indices.map { i in
      RankedLayer(
        name: groups[i].name, kind: groups[i].kind, inputs: groups[i].columns, outputs: groups[i].rows,
        spectrum: directions[i].spectrum, sensitivity: sensitivities?[i] ?? 1)
    }
  }

  /// What `loss` says of the model when only one group is cut, to half of its parameters, over the tail that was cut.
  public func sensitivities(
    progress: (Double) -> Void = { _ in }, loss: (LoadedModel) throws -> Double
  ) throws -> [Double] {
    let layers = layers()
    return try groups.indices.map { i in
      guard groups[i].rank == .allocated else { return 1 }
      defer { progress(Double(i + 1) / Double(groups.count)) }
      let rank = max(1, Int(layers[i].breakEven / 2))
      var choices = [RankChoice](repeating: .dense, count: groups.count)
      choices[i] = .rank(rank)
      return RankedLayer.sensitivity(
        measuredLoss: try loss(try compressed(choices).model), tail: layers[i].tail(rank))
    }
  }

  /// A choice for each group that keeps at most `ratio` of the parameters of those whose rank is to be allocated, in ranks
  /// that the encoding can store.
  public func ranks(
    ratio: Double = 1, by allocator: any RankAllocator = UniformAllocator(), sensitivities: [Double]? = nil
  ) throws -> [RankChoice] {
    guard ratio > 0, ratio <= 1 else {
      throw CompressionError(kind: .parameter, what: "ratio", seen: "\(ratio)", expected: "above 0, at most 1")
    }
    let allocated = groups.indices.filter { groups[$0].rank == .allocated }
    let budget = Int(ratio * Double(allocated.reduce(0) { $0 + groups[$1].parameters }))
    let multiple = encoding.rankMultiple
    let layers = layers(sensitivities)
    var choices = try groups.indices.map { try ruled($0) }
    for (i, choice) in zip(allocated, try allocator.ranks(for: allocated.map { layers[$0] }, budget: budget)) {
      if case .rank(let rank) = choice { choices[i] = .rank(max(multiple, rank / multiple * multiple)) }
    }
    return choices
  }

  /// What a group's own rule says; dense for one that is to be allocated. Throws `parameter` for a rank that no factors
  /// have.
  private func ruled(_ index: Int) throws(CompressionError) -> RankChoice {
    let group = groups[index]
    let most = min(group.rows, group.columns)
    switch group.rank {
    case .allocated: return .dense
    case .fixed(let rank):
      guard (1...most).contains(rank), rank % encoding.rankMultiple == 0 else {
        throw CompressionError(
          kind: .parameter, what: "rank of '\(group.name)'", seen: "\(rank)",
          expected: "1 to \(most), in multiples of \(encoding.rankMultiple) for \(encoding.rawValue)")
      }
      return .rank(rank)
    case .energy(let share):
      var left = directions[index].energy * (1 - share)
      // From the last direction on: as many are cut as there is loss to spare.
      var rank = directions[index].spectrum.count
      while rank > 1, directions[index].spectrum[rank - 1] <= left {
        rank -= 1
        left -= directions[index].spectrum[rank]
      }
      let multiple = max(KVFactors.rankMultiple, encoding.rankMultiple)
      rank = (rank + multiple - 1) / multiple * multiple
      return rank < most ? .rank(rank) : .dense
    }
  }

  /// The model with these choices, and what became of each group.
  public func compressed(_ choices: [RankChoice]) throws -> CompressedModel {
    var result = CompressedModel(model: model, encoding: encoding)
    for (i, choice) in choices.enumerated() {
      guard case .rank(let rank) = choice else {
        result.keep(groups[i])
        continue
      }
      let isRuled = groups[i].rank != .allocated
      switch try directions[i].factorise(rank: rank, keepingDense: !isRuled, on: pool) {
      case .keepDense: result.keep(groups[i])
      case .lowRank(let factors, let loss):
        // Fewer directions than were asked for: the rest of a block is zeros.
        try result.replace(
          groups[i], by: factors.padded(to: encoding.rankMultiple), loss: loss, energy: directions[i].energy)
      }
    }
    result.finish()
    return result
  }
}

extension LowRankFactors {
  /// The same product with a rank that is a multiple.
  func padded(to multiple: Int) -> LowRankFactors {
    let rank = (self.rank + multiple - 1) / multiple * multiple
    guard rank > self.rank else { return self }
    let down = Matrix(
      rows: rank, columns: down.columns,
      elements: down.elements + [Float](repeating: 0, count: (rank - self.rank) * down.columns))
    let ups = ups.map { up in
      var wide = Matrix<Float>(zeros: up.rows, rank)
      for row in 0..<up.rows { for column in 0..<up.columns { wide[row, column] = up[row, column] } }
      return wide
    }
    return LowRankFactors(down: down, ups: ups, biasCorrections: biasCorrections)
  }
}
