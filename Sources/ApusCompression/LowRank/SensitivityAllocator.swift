/// Gives rank after rank to the layer that gains most by it: sensitivity · λ per parameter.
///
/// Spectra alone are a bad measure (they starve layers whose energy lies in one direction); weighted by what an error of
/// each layer did to the model, and with a floor, they are the best of the known ones.
public struct SensitivityAllocator: RankAllocator {
  /// The least rank, as a share of `breakEven`.
  public var floor: Double

  public init(floor: Double = 0.15) { self.floor = floor }

  /// Parameters that a layer may get on top of what it has, and what they are worth.
  private struct Step {
    var layer: Int
    var order: Int
    var choice: RankChoice
    var parameters: Int
    /// Sensitivity · λ per parameter; never above the step before.
    var value: Double
  }

  public func ranks(for layers: [RankedLayer], budget: Int) throws(CompressionError) -> [RankChoice] {
    guard floor >= 0, floor <= 1 else {
      throw CompressionError(kind: .parameter, what: "floor", seen: "\(floor)", expected: "a share between 0 and 1")
    }
    try requireFinite(layers)
    var choices = try checked(layers.map { $0.choice(ratio: floor) }, layers, budget)
    var left = budget - zip(choices, layers).reduce(0) { $0 + $1.0.parameters(of: $1.1) }
    var steps: [Step] = []
    for (index, layer) in layers.enumerated() {
      guard case .rank(let first) = choices[index] else { continue }
      steps += Self.steps(layer, index, from: first)
    }
    steps.sort { ($1.value, $0.layer, $0.order) < ($0.value, $1.layer, $1.order) }
    var isFull = layers.map { _ in false }
    for step in steps where !isFull[step.layer] {
      if step.parameters <= left {
        choices[step.layer] = step.choice
        left -= step.parameters
      } else {
        // The next steps of this layer build on this one.
        isFull[step.layer] = true
      }
    }
    return choices
  }

  /// The ranks after `first`, and from the highest on the matrix itself: it costs less than a rank more and loses nothing.
  private static func steps(_ layer: RankedLayer, _ index: Int, from first: Int) -> [Step] {
    let perRank = layer.parametersPerRank
    var steps: [Step] = []
    for rank in first..<layer.highestRank {
      let gain = rank < layer.spectrum.count ? layer.spectrum[rank] : 0
      steps.append(
        Step(
          layer: index, order: rank, choice: .rank(rank + 1), parameters: perRank,
          value: layer.sensitivity * gain / Double(perRank)))
    }
    let rest = layer.denseParameters - layer.highestRank * perRank
    let value = layer.sensitivity * layer.tail(layer.highestRank) / Double(rest)
    steps.append(
      Step(
        layer: index, order: layer.highestRank, choice: .dense, parameters: rest,
        value: min(value, steps.last?.value ?? value)))
    return steps
  }
}
