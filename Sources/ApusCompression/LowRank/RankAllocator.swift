/// A matrix, or a group with one down factor, that an allocator gives a rank.
public struct RankedLayer: Sendable, Equatable {
  public var name: String
  /// Layers of one kind (`attention.query`, `feed_forward.down` …) share a budget where the method asks for it.
  public var kind: String
  public var inputs: Int
  /// Of all matrices of the group.
  public var outputs: Int
  /// λ, descending: what each rank adds.
  public var spectrum: [Double]
  /// What a unit of lost λ costs the model, against that of other layers.
  public var sensitivity: Double

  public init(
    name: String, kind: String, inputs: Int, outputs: Int, spectrum: [Double], sensitivity: Double = 1
  ) {
    self.name = name
    self.kind = kind
    self.inputs = inputs
    self.outputs = outputs
    self.spectrum = spectrum
    self.sensitivity = sensitivity
  }

  /// Parameters of the dense matrices.
  public var denseParameters: Int { inputs * outputs }
  /// Parameters of one rank.
  public var parametersPerRank: Int { inputs + outputs }
  /// n_in · n_out / (n_in + n_out): from here on factors are no smaller than the matrices.
  public var breakEven: Double { Double(denseParameters) / Double(parametersPerRank) }
  /// The highest rank below `breakEven`; 0 for a matrix that no factors are smaller than.
  public var highestRank: Int { (denseParameters - 1) / parametersPerRank }

  /// What is lost with this rank: Σ λⱼ over j ≥ `rank`.
  public func tail(_ rank: Int) -> Double { spectrum.dropFirst(rank).reversed().reduce(0, +) }

  /// The sensitivity of a layer of which one rank was tried: the model's measured loss of quality over the tail that was
  /// cut. 0 when nothing was cut or lost.
  public static func sensitivity(measuredLoss: Double, tail: Double) -> Double {
    tail > 0 ? max(0, measuredLoss / tail) : 0
  }
}

/// What an allocator decides for a layer.
public enum RankChoice: Sendable, Equatable {
  case rank(Int)
  /// Factors would not be smaller, or the budget has room for the matrix itself.
  case dense

  /// Parameters of a layer with this choice.
  public func parameters(of layer: RankedLayer) -> Int {
    switch self {
    case .rank(let rank): rank * layer.parametersPerRank
    case .dense: layer.denseParameters
    }
  }
}

/// A way to share a budget of parameters among layers.
public protocol RankAllocator: Sendable {
  /// One choice for each layer, in order, that together take at most `budget` parameters.
  ///
  /// Throws `parameter` when the budget is too small for the least that the method gives, or a number is not finite.
  func ranks(for layers: [RankedLayer], budget: Int) throws(CompressionError) -> [RankChoice]
}

extension RankAllocator {
  /// Throws unless `choices` fit into the budget; returns them.
  func checked(
    _ choices: [RankChoice], _ layers: [RankedLayer], _ budget: Int
  ) throws(CompressionError) -> [RankChoice] {
    let least = zip(choices, layers).reduce(0) { $0 + $1.0.parameters(of: $1.1) }
    guard least <= budget else {
      throw CompressionError(
        kind: .parameter, what: "budget", seen: "\(budget) parameters", expected: "at least \(least)",
        wayOut: "ask for less compression")
    }
    return choices
  }

  /// Throws when a spectrum or sensitivity is no number to rank by.
  func requireFinite(_ layers: [RankedLayer]) throws(CompressionError) {
    for layer in layers {
      guard let bad = (layer.spectrum + [layer.sensitivity]).first(where: { !$0.isFinite || $0 < 0 }) else { continue }
      throw CompressionError(
        kind: bad.isFinite ? .parameter : .notFinite, what: "spectrum or sensitivity of '\(layer.name)'",
        seen: "\(bad)", expected: "finite numbers that are not negative")
    }
  }
}

/// The same ratio everywhere: rank = ⌊ratio · breakEven⌋, at least 1.
public struct UniformAllocator: RankAllocator {
  public init() {}

  public func ranks(for layers: [RankedLayer], budget: Int) throws(CompressionError) -> [RankChoice] {
    let dense = layers.reduce(0) { $0 + $1.denseParameters }
    if budget >= dense { return layers.map { _ in .dense } }
    return try checked(
      layers.map { $0.choice(ratio: Double(budget) / Double(dense)) }, layers, budget)
  }
}

extension RankedLayer {
  /// The rank for a share of the dense parameters, from 1 up to `highestRank`; dense for a matrix that has no such rank.
  func choice(ratio: Double) -> RankChoice {
    highestRank < 1 ? .dense : .rank(max(1, min(highestRank, Int(ratio * breakEven))))
  }
}
