import ApusCompression
import ApusKernels
import Testing

/// Matrices that are fitted to shifted inputs, against least squares on the rows themselves.
@Suite struct RefitTests {
  /// x, x̂ = x·A + noise, and weights.
  private struct Case {
    var original: Matrix<Float>
    var shifted: Matrix<Float>
    var weights: [Matrix<Float>]
    var inputs: ShiftedInputs

    init(rows: Int, _ n: Int, rank: Int? = nil, seed: UInt64) throws {
      var random = TestRandom(seed: seed)
      let mean = random.matrix(1, n)
      original = random.floatMatrix(rows, n)
      for i in 0..<rows { for j in 0..<n { original[i, j] += 2 * Float(mean[0, j]) } }
      var change = random.matrix(n, n)
      for i in 0..<n { for j in 0..<n { change[i, j] = 0.3 * change[i, j] + (i == j ? 1 : 0) } }
      if let rank {
        // Directions that never come.
        let low = random.matrix(n, rank).multiplied(by: random.matrix(rank, n), on: testPool)
        change = low
      }
      let product = original.multiplied(by: change, on: testPool)
      shifted = Matrix(
        rows: rows, columns: n,
        elements: product.elements.map { Float($0) + (rank == nil ? 0.1 * Float(random.number()) : 0) })
      weights = [random.floatMatrix(9, n), random.floatMatrix(14, n)]
      inputs = ShiftedInputs(size: n)
      let half = rows / 3
      try inputs.add(original: original.rows(0..<half), shifted: shifted.rows(0..<half), on: testPool)
      try inputs.add(original: original.rows(half..<rows), shifted: shifted.rows(half..<rows), on: testPool)
    }

    /// The mean of ‖W·x − B·x̂ − shift‖².
    func loss(_ weight: Matrix<Float>, _ fitted: Matrix<Float>, _ shift: [Float]?) -> Double {
      let before = original.multiplied(by: weight, transposeOther: true, on: testPool)
      let after = shifted.multiplied(by: fitted, transposeOther: true, on: testPool)
      var sum = 0.0
      for i in 0..<before.rows {
        for j in 0..<before.columns {
          let error = before[i, j] - after[i, j] - Double(shift?[j] ?? 0)
          sum += error * error
        }
      }
      return sum / Double(before.rows)
    }
  }

  @Test(arguments: [false, true])
  func `no other matrix near the fitted one gives the original's outputs better`(centred: Bool) throws {
    let seed: UInt64 = 61
    print("seed \(seed)")
    let problem = try Case(rows: 400, 12, seed: seed)
    let refit = try problem.inputs.refit(problem.weights, centred: centred, ridge: 0, on: testPool)
    var random = TestRandom(seed: seed + 1)
    for (i, weight) in problem.weights.enumerated() {
      let fitted = refit.matrices[i]
      let shift = refit.biasShifts?[i]
      #expect((shift != nil) == centred)
      let least = problem.loss(weight, fitted, shift)
      #expect(least < 0.2 * problem.loss(weight, weight, nil))
      for _ in 0..<20 {
        var other = fitted
        for k in other.elements.indices { other.elements[k] += 0.01 * Float(random.number()) }
        var otherShift = shift
        for k in (shift ?? []).indices { otherShift![k] += 0.01 * Float(random.number()) }
        #expect(problem.loss(weight, other, otherShift) > least)
      }
    }
  }

  @Test func `inputs that did not shift leave the matrices, and a large ridge does`() throws {
    let problem = try Case(rows: 300, 10, seed: 67)
    var same = ShiftedInputs(size: 10)
    try same.add(original: problem.original, shifted: problem.original, on: testPool)
    for (inputs, ridge) in [(same, 0.0), (problem.inputs, 1e12)] {
      let refit = try inputs.refit(problem.weights, centred: false, ridge: ridge, on: testPool)
      for (a, b) in zip(refit.matrices, problem.weights) {
        #expect(zip(a.elements, b.elements).allSatisfy { abs($0 - $1) < 1e-6 })
      }
    }
  }

  @Test func `directions that never come need no inverse`() throws {
    let problem = try Case(rows: 300, 12, rank: 4, seed: 71)
    for ridge in [0.0, 1e-6] {
      let refit = try problem.inputs.refit(problem.weights, centred: false, ridge: ridge, on: testPool)
      for (weight, fitted) in zip(problem.weights, refit.matrices) {
        #expect(fitted.elements.allSatisfy { $0.isFinite })
        #expect(problem.loss(weight, fitted, nil) <= problem.loss(weight, weight, nil) * 1.0001)
      }
    }
    let silent = ShiftedInputs(size: 3)
    #expect(throws: CompressionError.self) {
      try silent.refit([Matrix(zeros: 2, 3)], centred: false, ridge: 0, on: testPool)
    }
  }

  @Test func `pairs of other shapes and NaN are refused and change nothing`() throws {
    var random = TestRandom(seed: 73)
    var inputs = ShiftedInputs(size: 4)
    try inputs.add(original: random.floatMatrix(5, 4), shifted: random.floatMatrix(5, 4), on: testPool)
    let before = inputs
    var bad = random.floatMatrix(5, 4)
    bad[2, 1] = .nan
    let good = random.floatMatrix(5, 4)
    for (original, shifted) in [(bad, good), (good, bad), (random.floatMatrix(4, 4), good), (good.transposed, good)] {
      #expect(throws: CompressionError.self) { try inputs.add(original: original, shifted: shifted, on: testPool) }
    }
    #expect(inputs == before)
  }
}
