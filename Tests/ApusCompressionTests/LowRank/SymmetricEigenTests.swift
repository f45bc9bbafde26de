import ApusCompression
import ApusKernels
import Testing

/// The eigensolver against algebraic identities and spectra that are known because the matrices were built from them.
@Suite struct SymmetricEigenTests {
  /// Checks the specification's bars; returns what is wrong.
  private static func faults(_ eigen: SymmetricEigen, of matrix: Matrix<Double>) -> [String] {
    let n = matrix.rows
    var faults: [String] = []
    let norm = matrix.squaredNorm.squareRoot()
    let departure = eigen.vectors.departureFromOrthonormal(on: testPool)
    if !(departure < 1e-10) { faults.append("UᵀU − I has \(departure)") }
    let residual = eigen.reassembled(on: testPool).minus(matrix).squaredNorm.squareRoot()
    if !(residual <= 1e-12 * norm) { faults.append("residual \(residual / norm)") }
    for k in [0, 1, n / 3, n - 1] where k >= 0 && k < n {
      let tail = eigen.values[k...].reduce(0) { $0 + $1 * $1 }
      let error = matrix.minus(eigen.reassembled(k, on: testPool)).squaredNorm
      if !(abs(error - tail) <= 1e-10 * norm * norm) { faults.append("tail of \(k): \(error), not \(tail)") }
    }
    if zip(eigen.values, eigen.values.dropFirst()).contains(where: { $0 < $1 }) { faults.append("not descending") }
    for j in 0..<n {
      let row = (0..<n).map { eigen.vectors[j, $0] }
      if row.max()! < -row.min()! * (1 - 1e-7) { faults.append("vector \(j) has the wrong sign") }
    }
    return faults
  }

  @Test(arguments: [1, 2, 3, 5, 16, 31, 32, 33, 34, 64, 65, 97, 200])
  func `random symmetric matrices meet the bars`(n: Int) throws {
    let seed = UInt64(100 + n)
    var random = TestRandom(seed: seed)
    for scale in [1.0, 1e-200, 1e200] {
      var matrix = random.matrix(n, n)
      for i in 0..<n { for j in 0...i { matrix[j, i] = matrix[i, j] } }
      // The bars square the matrix, which such scales do not stand: compare with the solution of the matrix itself.
      let eigen = try SymmetricEigen(matrix, on: testPool)
      #expect(Self.faults(eigen, of: matrix) == [], "seed \(seed)")
      let power = Double(sign: .plus, exponent: scale.exponent, significand: 1)
      let scaled = try SymmetricEigen(
        Matrix(rows: n, columns: n, elements: matrix.elements.map { $0 * power }), on: testPool)
      #expect(scaled.values == eigen.values.map { $0 * power } && scaled.vectors == eigen.vectors)
    }
  }

  static let spectra: [(String, [Double])] = [
    ("repeated", (0..<60).map { Double(3 - $0 / 20) }), ("one value", Array(repeating: 2, count: 40)),
    ("rank 3", [9, 4, 1] + Array(repeating: 0, count: 50)),
    ("graded", (0..<50).map { pow10(-Double($0) / 2) }), ("clustered", (0..<70).map { 1 + 1e-13 * Double($0) }),
    ("both signs", (0..<45).map { Double($0 - 22) }), ("one huge", [1e12] + Array(repeating: 1, count: 40)),
    ("tiny tail", Array(repeating: 1, count: 20) + Array(repeating: 1e-300, count: 20)),
  ]

  private static func pow10(_ x: Double) -> Double { x == 0 ? 1 : 0.1.squareRoot() * pow10(x + 0.5) }

  @Test(arguments: spectra)
  func `constructed spectra come back`(name: String, values: [Double]) throws {
    let seed: UInt64 = 7
    var random = TestRandom(seed: seed)
    let matrix = random.symmetric(values, on: testPool)
    let eigen = try SymmetricEigen(matrix, on: testPool)
    // The lower triangle of the product may differ from the upper one by rounding; the upper is what is read.
    var mirrored = matrix
    for i in 0..<matrix.rows { for j in 0..<i { mirrored[i, j] = mirrored[j, i] } }
    #expect(Self.faults(eigen, of: mirrored) == [], "\(name), seed \(seed)")
    let greatest = values.map(abs).max()!
    for (found, expected) in zip(eigen.values, values.sorted(by: >)) {
      #expect(abs(found - expected) <= 1e-12 * greatest, "\(name), seed \(seed)")
    }
  }

  @Test func `columns whose squares are subnormal keep the vectors orthonormal`() throws {
    var random = TestRandom(seed: 8)
    for exponent in [-520, -525, -530, -540] {
      var matrix = random.matrix(40, 40)
      let power = Double(sign: .plus, exponent: exponent, significand: 1)
      for i in 0..<40 { for j in 0...i { matrix[j, i] = (i + j == 0 ? 1 : power) * matrix[i, j] } }
      let eigen = try SymmetricEigen(matrix, on: testPool)
      #expect(eigen.vectors.departureFromOrthonormal(on: testPool) < 1e-10, "2^\(exponent)")
    }
  }

  @Test(arguments: [90, 192, 260])
  func `moments of few different vectors, all rounding but for a few directions, are solved`(n: Int) throws {
    let seed: UInt64 = 79
    print("seed \(seed)")
    var random = TestRandom(seed: seed)
    for few in [2, 11, 34] {
      // As words that come again and again give them, about their mean.
      let words = random.matrix(few, n)
      var rows = Matrix<Double>(zeros: 400, n)
      for i in 0..<400 {
        let word = Int(random.next() % UInt64(few))
        for j in 0..<n { rows[i, j] = Double(Float(words[word, j])) }
      }
      var moment = rows.multiplied(by: rows, transposeSelf: true, on: testPool)
      let mean = (0..<n).map { j in (0..<400).reduce(0.0) { $0 + rows[$1, j] } / 400 }
      for i in 0..<n { for j in 0..<n { moment[i, j] = moment[i, j] / 400 - mean[i] * mean[j] } }
      let eigen = try SymmetricEigen(moment, on: testPool)
      #expect(eigen.vectors.departureFromOrthonormal(on: testPool) < 1e-10)
      #expect(eigen.reassembled(on: testPool).minus(moment).greatest < 1e-12 * moment.greatest, "\(few) of \(n)")
    }
  }

  @Test func `zero, diagonal, tridiagonal and one by one matrices are solved exactly`() throws {
    let zero = try SymmetricEigen(Matrix(zeros: 40, 40), on: testPool)
    #expect(zero.values == Array(repeating: 0, count: 40))
    #expect(zero.vectors.departureFromOrthonormal(on: testPool) == 0)
    let single = try SymmetricEigen(Matrix(rows: 1, columns: 1, elements: [-3]), on: testPool)
    #expect(single.values == [-3] && single.vectors.elements == [1])
    let empty = try SymmetricEigen(Matrix(zeros: 0, 0), on: testPool)
    #expect(empty.values.isEmpty)
    var diagonal = Matrix<Double>(zeros: 50, 50)
    for i in 0..<50 { diagonal[i, i] = Double((i * 17) % 50) }
    let sorted = try SymmetricEigen(diagonal, on: testPool)
    #expect(sorted.values == (0..<50).map { Double(49 - $0) })
    // The second difference has the eigenvalues 4 sin²(jπ / 2(n + 1)); those of n = 2 and 5 are known in roots.
    var second = Matrix<Double>(zeros: 5, 5)
    for i in 0..<5 {
      second[i, i] = 2
      if i > 0 { second[i - 1, i] = -1 }
    }
    let root = 3.0.squareRoot()
    for (found, expected) in zip(try SymmetricEigen(second, on: testPool).values, [2 + root, 3, 2, 1, 2 - root]) {
      #expect(abs(found - expected) < 1e-14)
    }
  }

  @Test func `the result is the same bits for any number of threads`() throws {
    var random = TestRandom(seed: 9)
    let matrix = random.symmetric((0..<150).map { _ in random.number() }, on: testPool)
    let one = try SymmetricEigen(matrix, on: ThreadPool(threads: 1))
    for threads in [2, 3, 5] { #expect(try SymmetricEigen(matrix, on: ThreadPool(threads: threads)) == one) }
  }

  @Test func `tasks that share a pool do not see each other`() async throws {
    var random = TestRandom(seed: 10)
    let matrices = (0..<4).map { _ in random.symmetric((0..<70).map { _ in random.number() }, on: testPool) }
    let alone = try matrices.map { try SymmetricEigen($0, on: testPool) }
    for threads in [1, 2] {
      let pool = ThreadPool(threads: threads)
      try await withThrowingTaskGroup(of: Void.self) { group in
        for (matrix, expected) in zip(matrices, alone) {
          group.addTask {
            for _ in 0..<20 {
              let eigen = try SymmetricEigen(matrix, on: pool)
              #expect(eigen == expected)
            }
          }
        }
        try await group.waitForAll()
      }
    }
  }

  @Test func `NaN, infinity and a matrix that is not square are refused`() {
    for value in [Double.nan, .infinity] {
      var matrix = Matrix<Double>(zeros: 4, 4)
      matrix[2, 1] = value
      #expect {
        try SymmetricEigen(matrix, on: testPool)
      } throws: {
        ($0 as? CompressionError)?.kind == .notFinite && "\($0)".contains("[2, 1]")
      }
    }
    #expect {
      try SymmetricEigen(Matrix(zeros: 4, 5), on: testPool)
    } throws: {
      ($0 as? CompressionError)?.kind == .shape
    }
  }
}
