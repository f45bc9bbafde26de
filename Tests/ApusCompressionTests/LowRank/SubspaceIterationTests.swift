import ApusKernels
import Testing

@testable import ApusCompression

/// Subspace iteration against the full solver.
@Suite struct SubspaceIterationTests {
  @Test(arguments: [1, 8, 30])
  func `the leading pairs are those of the full solver`(count: Int) throws {
    let seed: UInt64 = 21
    var random = TestRandom(seed: seed)
    let spectrum = (0..<160).map { Double(sign: .plus, exponent: -$0 / 2, significand: $0 % 2 == 0 ? 1 : 0.7) }
    let matrix = random.symmetric(spectrum, on: testPool)
    let full = try SymmetricEigen(matrix, on: testPool)
    var applications = 0
    let leading = try SubspaceIteration(oversampling: 20, powerSteps: 4).leading(count, n: 160, on: testPool) {
      applications += 1
      return $0.multiplied(by: matrix, on: testPool)
    }
    #expect(applications == 5)
    #expect(leading.vectors.departureFromOrthonormal(on: testPool) < 1e-10)
    for j in 0..<count {
      #expect(abs(leading.values[j] - full.values[j]) <= 1e-6 * full.values[j], "value \(j), seed \(seed)")
      let product = (0..<160).reduce(0.0) { $0 + leading.vectors[j, $1] * full.vectors[j, $1] }
      #expect(product > 1 - 1e-4, "vector \(j), seed \(seed)")
    }
  }

  @Test func `rank-deficient and zero operators give orthonormal vectors and zero values`() throws {
    var random = TestRandom(seed: 22)
    let matrix = random.symmetric([5, 3] + Array(repeating: 0, count: 48), on: testPool)
    for (operand, expected) in [(matrix, [5.0, 3, 0, 0]), (Matrix(zeros: 50, 50), [0, 0, 0, 0])] {
      let leading = try SubspaceIteration(oversampling: 6).leading(4, n: 50, on: testPool) {
        $0.multiplied(by: operand, on: testPool)
      }
      #expect(leading.vectors.departureFromOrthonormal(on: testPool) < 1e-10)
      for (found, expected) in zip(leading.values, expected) { #expect(abs(found - expected) < 1e-12) }
    }
  }

  @Test func `rows that nearly or wholly depend on each other become orthonormal, with the span of the first`() {
    var random = TestRandom(seed: 24)
    // Powers of the numbers in 0 ..< 1 are all but the same direction.
    var rows = Matrix<Double>(zeros: 24, 60)
    for i in 0..<60 {
      var power = 1.0
      for row in 0..<24 {
        rows[row, i] = row < 20 ? power : rows[row - 20, i]
        power *= Double(i) / 60
      }
    }
    let before = rows.rows(0..<5)
    rows.orthonormaliseRows(seed: 3, on: testPool)
    #expect(rows.departureFromOrthonormal(on: testPool) < 1e-12)
    let inside = before.multiplied(by: rows.rows(0..<5), transposeOther: true, on: testPool)
    #expect(inside.multiplied(by: rows.rows(0..<5), on: testPool).minus(before).greatest < 1e-12)
    var zeros = Matrix<Double>(zeros: 3, 3)
    zeros[0, 1] = random.number()
    zeros.orthonormaliseRows(seed: 3, on: testPool)
    #expect(zeros.departureFromOrthonormal(on: testPool) < 1e-12)
  }

  @Test func `the whole space is the full solution, and the bits do not depend on the threads`() throws {
    var random = TestRandom(seed: 23)
    let matrix = random.symmetric((0..<20).map { Double($0) }, on: testPool)
    let full = try SymmetricEigen(matrix, on: testPool)
    let runs = try [1, 2, 3].map { threads in
      let pool = ThreadPool(threads: threads)
      return try SubspaceIteration().leading(20, n: 20, on: pool) { $0.multiplied(by: matrix, on: pool) }
    }
    #expect(runs[1] == runs[0] && runs[2] == runs[0])
    for j in 0..<20 { #expect(abs(runs[0].values[j] - full.values[j]) < 1e-12) }
  }

  @Test func `a count outside the operator, a NaN and the caller's own error stop it`() {
    struct Own: Error {}
    for count in [0, 6] {
      #expect {
        try SubspaceIteration().leading(count, n: 5, on: testPool) { $0 }
      } throws: {
        ($0 as? CompressionError)?.kind == .parameter
      }
    }
    #expect {
      try SubspaceIteration().leading(2, n: 5, on: testPool) { Matrix(zeros: $0.rows, 5).with(.nan) }
    } throws: {
      ($0 as? CompressionError)?.kind == .notFinite
    }
    #expect(throws: Own.self) { try SubspaceIteration().leading(2, n: 5, on: testPool) { _ in throw Own() } }
  }
}

extension Matrix<Double> {
  fileprivate func with(_ value: Double) -> Matrix {
    var result = self
    result[0, 0] = value
    return result
  }
}
