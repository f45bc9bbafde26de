import Testing

@testable import ApusCompression

/// The allocators against their definitions, and against every allocation where there are few.
@Suite struct RankAllocatorTests {
  private static func layers(_ count: Int, _ random: inout TestRandom) -> [RankedLayer] {
    (0..<count).map { index in
      let inputs = 8 + Int(random.next() % 40), outputs = 8 + Int(random.next() % 40)
      let decay = 0.5 + 0.2 * (1 + random.number())
      var value = 10 * (1.1 + random.number())
      let spectrum = (0..<min(inputs, outputs)).map { _ in
        value *= decay
        return value
      }
      return RankedLayer(
        name: "\(index)", kind: ["query", "down"][index % 2], inputs: inputs, outputs: outputs, spectrum: spectrum,
        sensitivity: 1.1 + random.number())
    }
  }

  private static func parameters(_ choices: [RankChoice], _ layers: [RankedLayer]) -> Int {
    zip(choices, layers).reduce(0) { $0 + $1.0.parameters(of: $1.1) }
  }

  private static func loss(_ choices: [RankChoice], _ layers: [RankedLayer]) -> Double {
    zip(choices, layers).reduce(0) { sum, pair in
      if case .rank(let rank) = pair.0 { sum + pair.1.sensitivity * pair.1.tail(rank) } else { sum }
    }
  }

  static let allocators: [any RankAllocator] = [UniformAllocator(), GroupedLossAllocator(), SensitivityAllocator()]

  @Test(arguments: 0..<3)
  func `every allocation fits the budget, uses most of it, and stays below break-even`(index: Int) throws {
    let allocator = Self.allocators[index]
    for seed in UInt64(0)..<40 {
      var random = TestRandom(seed: seed)
      let layers = Self.layers(12, &random)
      let dense = layers.reduce(0) { $0 + $1.denseParameters }
      let coarsest = layers.reduce(0) { $0 + $1.parametersPerRank }
      for ratio in [0.35, 0.5, 0.8, 0.99, 1, 1.5] {
        let budget = Int(ratio * Double(dense))
        let choices = try allocator.ranks(for: layers, budget: budget)
        let used = Self.parameters(choices, layers)
        #expect(choices.count == layers.count && used <= budget, "ratio \(ratio), seed \(seed)")
        #expect(used + 2 * coarsest >= min(budget, dense), "ratio \(ratio), seed \(seed): \(used) of \(budget)")
        for (choice, layer) in zip(choices, layers) {
          if case .rank(let rank) = choice { #expect(rank >= 1 && Double(rank) < layer.breakEven) }
        }
        if ratio >= 1 { #expect(choices.allSatisfy { $0 == .dense }) }
      }
      #expect(kind { _ = try allocator.ranks(for: layers, budget: coarsest / 2) } == .parameter)
      #expect(kind { _ = try allocator.ranks(for: layers, budget: 0) } == .parameter)
    }
  }

  @Test func `a uniform ratio gives the specification's ranks`() throws {
    let layers = [(384, 384), (384, 1536), (1536, 384)].map {
      RankedLayer(name: "", kind: "", inputs: $0.0, outputs: $0.1, spectrum: [])
    }
    #expect(layers.map(\.breakEven) == [192, 307.2, 307.2])
    let dense = layers.reduce(0) { $0 + $1.denseParameters }
    #expect(
      try UniformAllocator().ranks(for: layers, budget: dense * 7 / 10) == [.rank(134), .rank(215), .rank(215)])
  }

  @Test func `sensitive filling is the best of all allocations that spend as much`() throws {
    for seed in UInt64(0)..<60 {
      var random = TestRandom(seed: seed)
      // Equal shapes: greedy filling is exact where every rank costs the same.
      let layers = Self.layers(3, &random).map { layer in
        var layer = layer
        (layer.inputs, layer.outputs) = (16, 12)
        layer.spectrum = Array((layer.spectrum + [0, 0, 0, 0]).prefix(12))
        return layer
      }
      let budget = 28 * (3 + Int(random.next() % 14))
      let choices = try SensitivityAllocator(floor: 0).ranks(for: layers, budget: budget)
      var best = Double.infinity
      for a in 1...layers[0].highestRank {
        for b in 1...layers[1].highestRank {
          for c in 1...layers[2].highestRank where 28 * (a + b + c) <= budget {
            best = min(best, Self.loss([.rank(a), .rank(b), .rank(c)], layers))
          }
        }
      }
      #expect(Self.loss(choices, layers) <= best * (1 + 1e-12), "seed \(seed)")
    }
  }

  @Test func `floors hold, and a silent layer gets no more than its floor before the others are dense`() throws {
    var random = TestRandom(seed: 61)
    var layers = Self.layers(6, &random)
    layers[2].sensitivity = 0
    let dense = layers.reduce(0) { $0 + $1.denseParameters }
    let choices = try SensitivityAllocator(floor: 0.3).ranks(for: layers, budget: dense / 2)
    for (index, layer) in layers.enumerated() {
      guard case .rank(let rank) = choices[index] else { continue }
      #expect(rank >= Int(0.3 * layer.breakEven))
      if index == 2 { #expect(rank == Int(0.3 * layer.breakEven)) }
    }
    #expect(kind { _ = try SensitivityAllocator(floor: 1.5).ranks(for: layers, budget: dense) } == .parameter)
  }

  @Test func `the published rule comes out where it works, and losses below 1 do not turn it round`() throws {
    // Reductions are proportional to 1 / ln L: L = e² and e⁴ share as 2 to 1.
    let shares = GroupedLossAllocator.shares([7.389_056_098_930_65, 54.598_150_033_144_236])
    #expect(abs(shares[0] / shares[1] - 2) < 1e-12)
    for losses in [[0.1, 0.5, 2], [1, 1, 1], [0, 0, 3], [1e-300, 1]] {
      let shares = GroupedLossAllocator.shares(losses)
      #expect(shares.allSatisfy { $0 > 0 && $0.isFinite })
      for (a, b) in zip(shares.indices, shares.indices.dropFirst()) { #expect(shares[a] >= shares[b]) }
    }
    let layers = [0.01, 0.02, 0.4].map { scale in
      RankedLayer(
        name: "", kind: "k", inputs: 40, outputs: 40, spectrum: (0..<40).map { scale * (1 - Double($0) / 50) })
    }
    let choices = try GroupedLossAllocator().ranks(for: layers, budget: 2400)
    let ranks = choices.map { if case .rank(let rank) = $0 { rank } else { 0 } }
    #expect(ranks[0] < ranks[1] && ranks[1] < ranks[2])
  }

  @Test(arguments: 1..<3)
  func `NaN and negative numbers to rank by are refused`(index: Int) {
    for value in [Double.nan, .infinity, -1] {
      let layer = RankedLayer(name: "up", kind: "k", inputs: 9, outputs: 9, spectrum: [2, value])
      #expect {
        try Self.allocators[index].ranks(for: [layer], budget: 60)
      } throws: {
        "\($0)".contains("'up'")
      }
    }
  }

  @Test func `the sensitivity of nothing lost is 0`() {
    #expect(RankedLayer.sensitivity(measuredLoss: 0.5, tail: 2) == 0.25)
    #expect(RankedLayer.sensitivity(measuredLoss: 0.5, tail: 0) == 0)
    #expect(RankedLayer.sensitivity(measuredLoss: -0.1, tail: 2) == 0)
  }
}

/// The gate against qualities whose answer is known.
@Suite struct QualityGateTests {
  @Test(arguments: [0.0, 0.2, 0.201, 0.37, 0.5, 0.77, 0.949, 0.95])
  func `the lowest ratio that passes is found within the tolerance`(edge: Double) {
    for isAtMost in [false, true] {
      let gate = QualityGate(
        target: isAtMost ? .atMost(-edge) : .atLeast(edge), ratios: 0.2...0.95, tolerance: 0.01, mostEvaluations: 20)
      var measured: [Double] = []
      let result = gate.search { ratio in
        measured.append(ratio)
        return isAtMost ? -ratio : ratio
      }
      #expect(result.trials.map(\.ratio) == measured && !result.isCutShort)
      let accepted = result.accepted?.ratio ?? .nan
      #expect(accepted >= edge && accepted <= max(0.2, edge + 0.01))
    }
  }

  @Test func `a target that cannot be reached costs one measurement and accepts nothing`() {
    for quality in [0.5, .nan] {
      let result = QualityGate(target: .atLeast(0.9)).search { _ in quality }
      #expect(result.accepted == nil && result.trials.count == 1 && !result.isCutShort)
      #expect(result.trials[0].ratio == 0.95 && !result.trials[0].isMet)
    }
  }

  @Test func `evaluations are bounded, and a search that they end says so`() {
    for most in 1...6 {
      var count = 0
      let result = QualityGate(target: .atLeast(0.6), tolerance: 0, mostEvaluations: most).search { ratio in
        count += 1
        return ratio
      }
      #expect(count == most && result.isCutShort)
      #expect(result.accepted.map { $0.isMet && $0.quality >= 0.6 } == true)
    }
  }

  @Test func `what is accepted was measured, however the quality jumps`() {
    for seed in UInt64(0)..<200 {
      var random = TestRandom(seed: seed)
      let result = QualityGate(target: .atLeast(0)).search { _ in random.number() }
      let passed = result.trials.filter(\.isMet)
      #expect(result.accepted == passed.min { $0.ratio < $1.ratio }, "seed \(seed)")
      #expect(result.trials.count <= 8)
    }
  }

  @Test func `the measurement's own error comes through`() {
    struct Own: Error {}
    #expect(throws: Own.self) { try QualityGate(target: .atLeast(0)).search { _ throws(Own) in throw Own() } }
  }
}
