import ApusCompression
import ApusKernels
import Testing

/// Factorisations against outputs computed on the calibration rows themselves.
@Suite struct FactorisationTests {
  /// Rows whose elements depend on each other, around a mean: what makes the metric matter.
  private static func rows(_ count: Int, _ n: Int, _ random: inout TestRandom, rank: Int? = nil) -> Matrix<Float> {
    let sources = random.matrix(rank ?? n, n)
    var mixed = random.matrix(count, rank ?? n)
    for i in 0..<count { for j in 0..<mixed.columns { mixed[i, j] *= 3 / Double(1 + j) } }
    let mean = random.matrix(1, n)
    let product = mixed.multiplied(by: sources, on: testPool)
    return Matrix(
      rows: count, columns: n,
      elements: (0..<count * n).map { Float(product.elements[$0] + (rank == nil ? 2 * mean.elements[$0 % n] : 0)) })
  }

  private static func statistics(_ rows: Matrix<Float>) throws -> InputStatistics {
    var statistics = InputStatistics(size: rows.columns)
    try statistics.add(rows, on: testPool)
    return statistics
  }

  /// Mean over the rows of ‖Wx − (up · down · x + correction)‖², in f64, all matrices together.
  private static func measuredLoss(
    _ factors: LowRankFactors, _ weights: [Matrix<Float>], _ rows: Matrix<Float>
  ) -> Double {
    let inner = rows.multiplied(by: factors.down, transposeOther: true, on: testPool)
    var sum = 0.0
    for (index, weight) in weights.enumerated() {
      let dense = rows.multiplied(by: weight, transposeOther: true, on: testPool)
      let low = inner.multiplied(by: factors.ups[index], transposeOther: true, on: testPool)
      for i in 0..<rows.rows {
        for j in 0..<weight.rows {
          let correction = Double(factors.biasCorrections?[index][j] ?? 0)
          let error = dense[i, j] - low[i, j] - correction
          sum += error * error
        }
      }
    }
    return sum / Double(rows.rows)
  }

  private static func lowRank(_ result: Factorisation) throws -> (LowRankFactors, Double) {
    guard case .lowRank(let factors, let loss) = result else {
      Issue.record("\(result)")
      throw CompressionError(kind: .parameter, what: "factorisation", seen: "keepDense", expected: "lowRank")
    }
    return (factors, loss)
  }

  /// Shapes of groups: `[n_out]` and n_in, smaller and larger sides first.
  static let groups: [([Int], Int)] = [
    ([24], 40), ([40], 24), ([33], 33), ([20, 20, 20], 30), ([12, 9], 50), ([48, 48], 24),
  ]

  @Test(arguments: groups)
  func `the predicted loss is the measured one within 1 %, raw and centred`(outputs: [Int], inputs: Int) throws {
    let seed: UInt64 = 51
    var random = TestRandom(seed: seed)
    let weights = outputs.map { random.floatMatrix($0, inputs) }
    let rows = Self.rows(40 * inputs, inputs, &random)
    let statistics = try Self.statistics(rows)
    for centred in [false, true] {
      let metric = try FactorMethod.outputPCA(centred: centred).metric(for: statistics)
      let pca = try OutputPCA(of: weights, in: metric, on: testPool)
      #expect(pca.spectrum.count == min(inputs, outputs.reduce(0, +)))
      #expect(abs(pca.spectrum.reduce(0, +) - pca.energy) <= 1e-10 * pca.energy)
      for rank in [1, 4, Int(pca.breakEven) - 1] {
        let (factors, predicted) = try Self.lowRank(pca.factorise(rank: rank, on: testPool))
        #expect(factors.rank == rank && factors.down.columns == inputs)
        #expect(factors.ups.map(\.rows) == outputs)
        #expect((factors.biasCorrections != nil) == centred)
        let measured = Self.measuredLoss(factors, weights, rows)
        #expect(abs(measured - predicted) <= 0.01 * predicted, "rank \(rank), centred \(centred), seed \(seed)")
        #expect(abs(factors.loss(of: weights, in: metric, on: testPool) - predicted) <= 0.001 * predicted)
        #expect(predicted == pca.predictedLoss(rank: rank))
      }
    }
  }

  @Test(arguments: groups)
  func `no other method, and no perturbation, has a smaller loss at the same rank`(outputs: [Int], inputs: Int) throws {
    let seed: UInt64 = 52
    var random = TestRandom(seed: seed)
    let weights = outputs.map { random.floatMatrix($0, inputs) }
    let statistics = try Self.statistics(Self.rows(40 * inputs, inputs, &random))
    let fisher = (0..<inputs).map { _ in abs(random.number()) }
    let methods: [FactorMethod] = [
      .plain, .activationScaled(alpha: 0.5), .fisher(fisher), .outputPCA(centred: false),
    ]
    let rank = 5
    let metrics = try methods.map { try $0.metric(for: statistics) }
    let results = try metrics.map { metric in
      try Self.lowRank(OutputPCA(of: weights, in: metric, on: testPool).factorise(rank: rank, on: testPool)).0
    }
    // Each is the best in its own metric: a check of all of them against all.
    for (own, metric) in metrics.enumerated() {
      let best = results[own].loss(of: weights, in: metric, on: testPool)
      for (other, factors) in results.enumerated() where other != own {
        #expect(factors.loss(of: weights, in: metric, on: testPool) > best, "\(methods[other]) in \(methods[own])")
      }
      for _ in 0..<10 {
        let down = Matrix<Float>(
          rows: rank, columns: inputs, elements: results[own].down.elements.map { $0 + 0.02 * Float(random.number()) })
        let moved = LowRankFactors(down: down, ups: results[own].ups, biasCorrections: nil)
        #expect(moved.loss(of: weights, in: metric, on: testPool) > best, "seed \(seed)")
      }
    }
  }

  @Test func `each method's metric is its published definition`() throws {
    var random = TestRandom(seed: 60)
    let (count, n) = (6, 5)
    let rows = random.floatMatrix(count, n)
    let statistics = try Self.statistics(rows)
    let weight = random.floatMatrix(7, n)
    let factors = LowRankFactors(
      down: Matrix(zeros: 1, n), ups: [Matrix(zeros: 7, 1)], biasCorrections: nil)
    // Nothing is kept, so that the loss is Σ C[j, j] · (column j)² for a diagonal metric.
    func expectDiagonal(_ method: FactorMethod, _ diagonal: [Double]) throws {
      let expected = (0..<7 * n).reduce(0.0) {
        $0 + diagonal[$1 % n] * Double(weight.elements[$1]) * Double(weight.elements[$1])
      }
      let loss = try factors.loss(of: [weight], in: method.metric(for: statistics), on: testPool)
      #expect(abs(loss - expected) <= 1e-6 * expected, "\(method)")
    }
    let means = (0..<n).map { j in (0..<count).reduce(0.0) { $0 + abs(Double(rows[$1, j])) } / Double(count) }
    try expectDiagonal(.plain, Array(repeating: 1, count: n))
    try expectDiagonal(.activationScaled(alpha: 1), means.map { ($0 + 1e-6) * ($0 + 1e-6) })
    let roots = means.map { $0.squareRoot() + 1e-6 }
    try expectDiagonal(.activationScaled(alpha: 0.5), roots.map { $0 * $0 })
    try expectDiagonal(.fisher([4, 2, 0, 1, 4]), [1, 0.5, 0, 0.25, 1].map { $0 + 1e-5 })
    // Six vectors of five elements are far too few: both moments are shrunk.
    let rho = statistics.recommendedShrinkage
    #expect(rho > 0)
    #expect(
      try FactorMethod.outputPCA(centred: false).metric(for: statistics)
        == .moment(statistics.secondMoment().shrunk(rho)))
    #expect(
      try FactorMethod.outputPCA(centred: true).metric(for: statistics) == .moment(statistics.covariance().shrunk(rho)))
  }

  @Test func `plain factors lose the tail of the weights' own spectrum`() throws {
    var random = TestRandom(seed: 53)
    let weight = random.floatMatrix(30, 45)
    let pca = try OutputPCA(of: [weight], in: .identity, on: testPool)
    let (factors, predicted) = try Self.lowRank(pca.factorise(rank: 7, on: testPool))
    let difference = factors.ups[0].multiplied(by: factors.down, on: testPool).minus(
      Matrix(rows: 30, columns: 45, elements: weight.elements.map { Double($0) }))
    #expect(abs(difference.squaredNorm - predicted) <= 1e-5 * predicted)
    for j in 0..<7 {
      let down = (0..<45).reduce(0.0) { $0 + Double(factors.down[j, $1]) * Double(factors.down[j, $1]) }
      let up = (0..<30).reduce(0.0) { $0 + Double(factors.ups[0][$1, j]) * Double(factors.ups[0][$1, j]) }
      #expect(abs(down / up - 1) < 1e-5, "the two sides of rank \(j) differ in length")
    }
  }

  @Test func `one huge direction of the inputs survives rank 1 when the metric knows it`() throws {
    var random = TestRandom(seed: 54)
    var weight = random.floatMatrix(40, 40)
    // The weights of this input are the smallest: plain SVD has no reason to keep them.
    for i in 0..<40 { weight[i, 17] *= 0.05 }
    var rows = random.floatMatrix(2000, 40)
    for i in 0..<2000 { rows[i, 17] *= 10_000 }
    let metric = try FactorMethod.outputPCA(centred: false).metric(for: Self.statistics(rows))
    let (kept, loss) = try Self.lowRank(
      OutputPCA(of: [weight], in: metric, on: testPool).factorise(rank: 1, on: testPool))
    let (plain, _) = try Self.lowRank(
      OutputPCA(of: [weight], in: .identity, on: testPool).factorise(rank: 1, on: testPool))
    let energy = try OutputPCA(of: [weight], in: metric, on: testPool).energy
    #expect(loss < 1e-3 * energy)
    #expect(plain.loss(of: [weight], in: metric, on: testPool) > 0.3 * energy)
    #expect(kept.loss(of: [weight], in: metric, on: testPool) < 1e-3 * energy)
  }

  @Test func `leading directions by subspace iteration give the factors of the full solution`() throws {
    var random = TestRandom(seed: 55)
    for (outputs, inputs) in [([90, 90], 300), ([300], 120)] {
      let weights = outputs.map { random.floatMatrix($0, inputs) }
      let metric = try FactorMethod.outputPCA(centred: true).metric(
        for: Self.statistics(Self.rows(10 * inputs, inputs, &random)))
      let full = try OutputPCA(of: weights, in: metric, on: testPool)
      let leading = try OutputPCA(of: weights, in: metric, leading: 12, on: testPool)
      #expect(leading.spectrum.count == 12)
      let (_, expected) = try Self.lowRank(full.factorise(rank: 12, on: testPool))
      let (factors, predicted) = try Self.lowRank(leading.factorise(rank: 12, on: testPool))
      #expect(abs(predicted - expected) <= 1e-3 * expected)
      #expect(abs(factors.loss(of: weights, in: metric, on: testPool) - expected) <= 1e-3 * expected)
      #expect(kind { _ = try leading.factorise(rank: 13, on: testPool) } == .parameter)
    }
  }

  @Test func `singular statistics need no inverse: a rank that covers them loses nothing`() throws {
    var random = TestRandom(seed: 56)
    for (outputs, inputs) in [(30, 50), (50, 30)] {
      let weight = random.floatMatrix(outputs, inputs)
      let rows = Self.rows(600, inputs, &random, rank: 4)
      let moment = try Self.statistics(rows).secondMoment()
      let pca = try OutputPCA(of: [weight], in: .moment(moment), on: testPool)
      // The rows are rounded to f32, so that directions beyond the fourth are rounding, not zero.
      #expect(pca.predictedLoss(rank: 4) <= 1e-12 * pca.energy)
      let (factors, _) = try Self.lowRank(pca.factorise(rank: 4, on: testPool))
      #expect(Self.measuredLoss(factors, [weight], rows) <= 1e-10 * pca.energy)
    }
  }

  @Test func `a rank above what the outputs have is cut to it, and zero weights give zero factors`() throws {
    for (outputs, inputs) in [(30, 40), (40, 30)] {
      // Whole numbers over 64: exact in f32, so that the rank is 3 to the last bit.
      let left = Matrix<Double>(rows: outputs, columns: 3, elements: (0..<outputs * 3).map { Double($0 * 7 % 13 - 6) })
      let right = Matrix<Double>(
        rows: 3, columns: inputs, elements: (0..<inputs * 3).map { Double($0 * 5 % 11 - 5) / 64 })
      let exact = left.multiplied(by: right, on: testPool)
      let weight = Matrix<Float>(rows: outputs, columns: inputs, elements: exact.elements.map { Float($0) })
      let pca = try OutputPCA(of: [weight], in: .identity, on: testPool)
      #expect(pca.numericalRank == 3)
      let (factors, loss) = try Self.lowRank(pca.factorise(rank: 9, on: testPool))
      #expect(factors.rank == 3 && loss <= 1e-12 * pca.energy)
      let zero = try OutputPCA(of: [Matrix(zeros: outputs, inputs)], in: .identity, on: testPool)
      let (nothing, none) = try Self.lowRank(zero.factorise(rank: 5, on: testPool))
      #expect(nothing.rank == 1 && none == 0 && nothing.down.elements.allSatisfy { $0 == 0 })
    }
  }

  @Test func `from the break-even rank on the matrix is kept dense`() throws {
    var random = TestRandom(seed: 58)
    let pca = try OutputPCA(of: [random.floatMatrix(20, 30)], in: .identity, on: testPool)
    #expect(pca.breakEven == 12)
    #expect(try pca.factorise(rank: 12, on: testPool) == .keepDense(rank: 12, breakEven: 12))
    let (factors, _) = try Self.lowRank(pca.factorise(rank: 11, on: testPool))
    #expect(factors.parameters == 11 * 50)
    #expect(kind { _ = try pca.factorise(rank: 0, on: testPool) } == .parameter)
    #expect(kind { _ = try pca.factorise(rank: -3, on: testPool) } == .parameter)
  }

  @Test func `weights and metrics that are not finite or do not fit are refused`() throws {
    var bad = Matrix<Float>(zeros: 3, 4)
    bad[2, 3] = .nan
    let metric = try InputMetric.diagonal([1, 2, 3, 4])
    #expect(kind { _ = try OutputPCA(of: [Matrix(zeros: 2, 4), bad], in: metric, on: testPool) } == .notFinite)
    #expect(kind { _ = try OutputPCA(of: [Matrix(zeros: 3, 5)], in: metric, on: testPool) } == .shape)
    let uneven = [Matrix<Float>(zeros: 3, 4), Matrix(zeros: 3, 5)]
    #expect(kind { _ = try OutputPCA(of: uneven, in: metric, on: testPool) } == .shape)
    #expect(kind { _ = try OutputPCA(of: [], in: metric, on: testPool) } == .shape)
    #expect(kind { _ = try InputMetric.diagonal([1, .nan]) } == .notFinite)
    #expect(kind { _ = try InputMetric.diagonal([1, -1]) } == .parameter)
    var moment = Matrix<Double>(zeros: 2, 2)
    moment[1, 0] = .infinity
    #expect(kind { _ = try InputMetric.moment(InputMoment(matrix: moment, mean: nil)) } == .notFinite)
    let empty = InputStatistics(size: 4)
    for method in [FactorMethod.activationScaled(alpha: 0.5), .outputPCA(centred: true), .outputPCA(centred: false)] {
      #expect(kind { _ = try method.metric(for: empty) } == .missing)
    }
    #expect(kind { _ = try FactorMethod.fisher([1, 2]).metric(for: empty) } == .shape)
    #expect(kind { _ = try FactorMethod.fisher([1, 2, .nan, 3]).metric(for: empty) } == .notFinite)
  }

  @Test func `factors are the same bits for any number of threads`() throws {
    var random = TestRandom(seed: 59)
    let weights = [random.floatMatrix(130, 200), random.floatMatrix(150, 200)]
    let statistics = try Self.statistics(Self.rows(2100, 200, &random))
    let runs = try [1, 2, 3].map { threads in
      let pool = ThreadPool(threads: threads)
      let metric = try FactorMethod.outputPCA(centred: true).metric(for: statistics)
      return try OutputPCA(of: weights, in: metric, on: pool).factorise(rank: 40, on: pool)
    }
    #expect(runs[1] == runs[0] && runs[2] == runs[0])
  }
}
