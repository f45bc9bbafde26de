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
  /// What refitted matrices add to the biases of each group's members.
  private let biasShifts: [[[Float]]?]
  private let pool: ThreadPool

  /// Finds the directions of every group's outputs.
  ///
  /// - Parameter method: nil is output-PCA, about the mean where every matrix of the group has a bias to take it.
  /// - Throws: `CompressionError`: `missing` statistics, `otherSource` by the caller's checks, `notFinite`.
  public init(
    _ model: LoadedModel, groups: [LinearGroup]? = nil, statistics: CalibrationStatistics, method: FactorMethod? = nil,
    encoding: FactorEncoding = .f32, threads: Int? = nil, progress: (Double) -> Void = { _ in }
  ) throws {
    try self.init(
      model, groups, method, encoding, threads, statistics: { try statistics.statistics(of: $0) },
      refit: { _, _, _ in nil },
      progress)
  }

  /// The same for groups behind compressed layers; with `refitRidge`, the matrices are first fitted to give from what they
  /// read now what they gave from what the original reads.
  init(
    _ model: LoadedModel, groups: [LinearGroup], shifted: [String: ShiftedInputs], refitRidge: Double?,
    method: FactorMethod?, encoding: FactorEncoding, threads: Int?
  ) throws {
    func inputs(_ name: String) throws -> ShiftedInputs {
      guard let result = shifted[name] else {
        throw CompressionError(
          kind: .missing, what: "input '\(name)'", seen: "no moments behind the compressed layers", expected: "some")
      }
      return result
    }
    let pool = ThreadPool(threads: threads ?? ThreadPool.availableThreads)
    try self.init(
      model, groups, method, encoding, threads, statistics: { try inputs($0).shifted },
      refit: { name, matrices, isCentred in
        try refitRidge.map { try inputs(name).refit(matrices, centred: isCentred, ridge: $0, on: pool) }
      }, { _ in })
  }

  private init(
    _ model: LoadedModel, _ groups: [LinearGroup]?, _ method: FactorMethod?, _ encoding: FactorEncoding,
    _ threads: Int?,
    statistics: (String) throws -> InputStatistics,
    refit: (_ input: String, [Matrix<Float>], _ isCentred: Bool) throws -> ShiftedInputs.Refit?,
    _ progress: (Double) -> Void
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
    var biasShifts: [[[Float]]?] = []
    for group in all {
      let hasBias = group.members.allSatisfy { model.parameters.vector(LinearGroup.bias(of: $0)) != nil }
      let method = method ?? .outputPCA(centred: hasBias)
      let metric = try method.metric(for: try statistics(group.input))
      var matrices = try group.members.map(model.dense)
      let refit = try refit(group.input, matrices, method == .outputPCA(centred: true))
      if let refit { matrices = refit.matrices }
      biasShifts.append(refit?.biasShifts)
      directions.append(try OutputPCA(of: matrices, in: metric, on: pool))
      progress(Double(directions.count) / Double(all.count))
    }
    self.directions = directions
    self.biasShifts = biasShifts
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
    let layers = layers(sensitivities)
    let wanted = try allocator.ranks(for: allocated.map { layers[$0] }, budget: budget)
    var choices = try groups.indices.map { try ruled($0) }
    for (i, choice) in zip(allocated, stored(wanted, of: allocated.map { layers[$0] }, budget: budget)) {
      choices[i] = choice
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

  /// The choices in ranks that the encoding can store.
  private func stored(_ wanted: [RankChoice], of layers: [RankedLayer], budget: Int) -> [RankChoice] {
    let multiple = encoding.rankMultiple
    if multiple == 1 { return wanted }
    var choices = wanted.map { choice -> RankChoice in
      guard case .rank(let rank) = choice else { return .dense }
      return .rank(max(multiple, rank / multiple * multiple))
    }
    // What rounding down gave back goes to those that lost most by it.
    var left = budget - zip(choices, layers).reduce(0) { $0 + $1.0.parameters(of: $1.1) }
    func lost(_ i: Int) -> Double {
      guard case .rank(let rank) = wanted[i], case .rank(let got) = choices[i] else { return 0 }
      return Double(rank - got) / layers[i].breakEven
    }
    for i in choices.indices.map({ (lost: lost($0), index: $0) }).sorted(by: {
      ($1.lost, $0.index) < ($0.lost, $1.index)
    })
    .map(\.index) {
      guard case .rank(let rank) = choices[i], rank + multiple <= layers[i].highestRank else { continue }
      let cost = multiple * layers[i].parametersPerRank
      guard cost <= left else { continue }
      choices[i] = .rank(rank + multiple)
      left -= cost
    }
    return choices
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
          groups[i], by: factors.padded(to: encoding.rankMultiple).adding(biasShifts[i]), loss: loss,
          energy: directions[i].energy)
      }
    }
    result.finish()
    return result
  }
}

extension LowRankFactors {
  /// The same with more to add to the biases.
  func adding(_ shifts: [[Float]]?) -> LowRankFactors {
    guard let shifts else { return self }
    let corrections = biasCorrections ?? shifts.map { [Float](repeating: 0, count: $0.count) }
    return LowRankFactors(
      down: down, ups: ups, biasCorrections: zip(corrections, shifts).map { zip($0, $1).map(+) })
  }

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
