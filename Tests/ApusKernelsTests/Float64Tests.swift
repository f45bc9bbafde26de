import ApusKernels
import Testing

/// The f64 kernels against the obvious loops, at every level.
@Suite struct Float64Tests {
  private static func doubles(_ count: Int, _ random: inout TestRandom) -> [Double] {
    (0..<count).map { _ in Double(Int64(bitPattern: random.next())) * 0x1p-63 }
  }

  static let shapes = [
    (0, 3, 4), (3, 0, 4), (3, 4, 0), (1, 1, 1), (6, 16, 8), (7, 17, 9), (5, 33, 200), (121, 15, 3), (2, 530, 193),
    (123, 40, 400), (25, 513, 5), (12, 8, 192),
  ]

  @Test(arguments: shapes)
  func `a product agrees with the loops for every transposition, width, stride and alpha`(m: Int, n: Int, k: Int) {
    let seed: UInt64 = 41
    var random = TestRandom(seed: seed)
    let scratch = TestScratch()
    for (transposeA, transposeB) in [(false, false), (true, false), (false, true), (true, true)] {
      for isFloat32 in [false, true] {
        let lda = (transposeA ? m : k) + 3, ldb = (transposeB ? k : n) + 1, ldc = n + 2
        // Numbers that f32 holds exactly, for both widths.
        let a = random.floats((transposeA ? k : m) * lda + 1), b = random.floats((transposeB ? n : k) * ldb + 1)
        let (wideA, wideB) = (a.map(Double.init), b.map(Double.init))
        let c = Self.doubles(m * ldc + 1, &random)
        let alpha = Self.doubles(1, &random)[0]
        for table in testTables {
          var result = c
          a.withUnsafeBufferPointer { a in
            b.withUnsafeBufferPointer { b in
              wideA.withUnsafeBufferPointer { wideA in
                wideB.withUnsafeBufferPointer { wideB in
                  let left =
                    isFloat32
                    ? Float64Operand(a.baseAddress!, stride: lda, isTransposed: transposeA)
                    : Float64Operand(wideA.baseAddress!, stride: lda, isTransposed: transposeA)
                  let right =
                    isFloat32
                    ? Float64Operand(b.baseAddress!, stride: ldb, isTransposed: transposeB)
                    : Float64Operand(wideB.baseAddress!, stride: ldb, isTransposed: transposeB)
                  result.withUnsafeMutableBufferPointer {
                    table.float64GEMM(
                      Float64GEMMArguments(
                        m: m, n: n, k: k, alpha: alpha, a: left, b: right, c: $0.baseAddress!, ldc: ldc,
                        scratch: scratch.base))
                  }
                }
              }
            }
          }
          let tolerance = 1e-15 * Double(k + 1)
          for i in 0..<m * ldc + 1 {
            let (row, column) = (i / ldc, i % ldc)
            var expected = c[i]
            if row < m, column < n {
              var sum = 0.0
              for p in 0..<k {
                sum +=
                  wideA[transposeA ? p * lda + row : row * lda + p]
                  * wideB[transposeB ? column * ldb + p : p * ldb + column]
              }
              expected += alpha * sum
            }
            let isInside = row < m && column < n
            guard isInside ? abs(result[i] - expected) <= tolerance : result[i] == expected else {
              Issue.record(
                "\(table.level) tA \(transposeA) tB \(transposeB) f32 \(isFloat32) seed \(seed) at [\(row), \(column)]")
              return
            }
          }
        }
      }
    }
  }

  @Test(arguments: testTables.map(\.level))
  func `an element of a product is the same bits alone and in a batch`(level: CPULevel) throws {
    let table = try #require(Kernels.table(level))
    var random = TestRandom(seed: 42)
    let scratch = TestScratch()
    let (m, n, k) = (131, 77, 401)
    let a = Self.doubles(m * k, &random), b = Self.doubles(k * n, &random)
    func product(rows: Range<Int>, columns: Range<Int>) -> [Double] {
      var c = [Double](repeating: 0.5, count: rows.count * columns.count)
      a.withUnsafeBufferPointer { a in
        b.withUnsafeBufferPointer { b in
          c.withUnsafeMutableBufferPointer {
            table.float64GEMM(
              Float64GEMMArguments(
                m: rows.count, n: columns.count, k: k, alpha: 0.7,
                a: Float64Operand(a.baseAddress!, stride: k).advanced(row: rows.lowerBound, column: 0),
                b: Float64Operand(b.baseAddress!, stride: n).advanced(row: 0, column: columns.lowerBound),
                c: $0.baseAddress!, ldc: columns.count, scratch: scratch.base))
          }
        }
      }
      return c
    }
    let whole = product(rows: 0..<m, columns: 0..<n)
    for (i, j, rows, columns) in [(0, 0, 1, 1), (5, 8, 2, 9), (100, 60, 31, 17), (17, 0, 7, 77), (130, 76, 1, 1)] {
      let part = product(rows: i..<i + rows, columns: j..<j + columns)
      for r in 0..<rows {
        for c in 0..<columns {
          #expect(part[r * columns + c].bitPattern == whole[(i + r) * n + j + c].bitPattern, "[\(i + r), \(j + c)]")
        }
      }
    }
  }

  @Test(arguments: testTables.map(\.level))
  func `matrix times vector and vector times matrix agree with the loops`(level: CPULevel) throws {
    let table = try #require(Kernels.table(level))
    let seed: UInt64 = 43
    var random = TestRandom(seed: seed)
    for (rows, n) in [(0, 5), (1, 0), (1, 1), (3, 7), (4, 8), (5, 16), (9, 100), (6, 37)] {
      let lda = n + 2
      let a = Self.doubles(rows * lda + 1, &random)
      let x = Self.doubles(n + 1, &random), weights = Self.doubles(rows + 1, &random)
      let start = Self.doubles(max(rows, n) + 1, &random)
      var (y, z) = (start, start)
      table.float64MatVec(a, lda, rows, n, x, &y)
      table.float64VecMat(a, lda, rows, n, weights, &z)
      for i in 0..<rows {
        let expected = (0..<n).reduce(0.0) { $0 + a[i * lda + $1] * x[$1] }
        #expect(abs(y[i] - expected) <= 1e-15 * Double(n + 1), "row \(i) of \(rows)×\(n), seed \(seed)")
      }
      for j in 0..<n {
        let expected = (0..<rows).reduce(start[j]) { $0 + weights[$1] * a[$1 * lda + j] }
        #expect(abs(z[j] - expected) <= 1e-15 * Double(rows + 1), "column \(j) of \(rows)×\(n), seed \(seed)")
      }
      #expect(Array(y[rows...]) == Array(start[rows...]) && Array(z[n...]) == Array(start[n...]))
    }
  }

  @Test(arguments: testTables.map(\.level))
  func `rows of the upper triangle add their part of a symmetric product`(level: CPULevel) throws {
    let table = try #require(Kernels.table(level))
    let seed: UInt64 = 45
    var random = TestRandom(seed: seed)
    for n in [1, 3, 4, 5, 8, 12, 13, 29, 64] {
      let lda = n + 1
      var a = Self.doubles(n * lda, &random)
      // What lies below the diagonal must not be read.
      for i in 0..<n { for j in 0..<i { a[i * lda + j] = .nan } }
      let x = Self.doubles(n, &random), start = Self.doubles(n + 1, &random)
      var y = start
      for rows in [0..<n / 3, n / 3..<n / 2, n / 2..<n] { table.float64SymVec(a, lda, rows, n, x, &y) }
      for i in 0..<n {
        let expected = (0..<n).reduce(start[i]) { $0 + a[min(i, $1) * lda + max(i, $1)] * x[$1] }
        #expect(abs(y[i] - expected) <= 1e-15 * Double(n + 1), "row \(i) of \(n), seed \(seed)")
      }
      #expect(y[n] == start[n])
    }
  }

  @Test(arguments: testTables.map(\.level))
  func `a panel turned by sweeps is the panel turned rotation by rotation`(level: CPULevel) throws {
    let table = try #require(Kernels.table(level))
    let seed: UInt64 = 44
    var random = TestRandom(seed: seed)
    let (rows, width) = (23, RotationSweep.panelColumns)
    let start = Self.doubles(rows * width, &random)
    let sweeps = (0..<20).map { _ in
      let top = Int(random.next() % UInt64(rows))
      return RotationSweep(top: top, count: Int(random.next() % UInt64(top + 1)))
    }
    var (panel, expected, coefficients) = (start, start, [Double]())
    for sweep in sweeps {
      for i in (sweep.top - sweep.count..<sweep.top).reversed() {
        let c = Self.doubles(1, &random)[0], s = (1 - c * c).squareRoot()
        coefficients += [c, s]
        for column in 0..<width {
          let (above, below) = (expected[i * width + column], expected[(i + 1) * width + column])
          expected[(i + 1) * width + column] = s * above + c * below
          expected[i * width + column] = c * above - s * below
        }
      }
    }
    table.rotatePanel(&panel, sweeps, sweeps.count, coefficients)
    for i in panel.indices { #expect(abs(panel[i] - expected[i]) <= 1e-13, "\(i), seed \(seed)") }
    #expect(panel != start)
  }
}
