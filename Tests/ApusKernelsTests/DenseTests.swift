import ApusKernels
import Testing

/// The f32 matrix products against Double arithmetic, at every level.
@Suite struct DenseTests {
  struct Shape: CustomTestStringConvertible {
    var m, n, k: Int
    var testDescription: String { "\(m)×\(n)×\(k)" }
  }

  static let shapes = [
    Shape(m: 0, n: 5, k: 3), Shape(m: 4, n: 0, k: 3), Shape(m: 3, n: 5, k: 0), Shape(m: 1, n: 1, k: 1),
    Shape(m: 1, n: 33, k: 70), Shape(m: 2, n: 31, k: 5), Shape(m: 12, n: 32, k: 16), Shape(m: 13, n: 33, k: 17),
    Shape(m: 6, n: 16, k: 300), Shape(m: 7, n: 100, k: 40), Shape(m: 25, n: 65, k: 33), Shape(m: 70, n: 3, k: 19),
    Shape(m: 29, n: 47, k: 401), Shape(m: 3, n: 4, k: 1601), Shape(m: 150, n: 340, k: 7), Shape(m: 11, n: 48, k: 96),
  ]

  @Test(arguments: shapes)
  func `gemm agrees with Double arithmetic for every transposition, stride, alpha and beta`(shape: Shape) {
    let seed: UInt64 = 21
    var random = TestRandom(seed: seed)
    let (m, n, k) = (shape.m, shape.n, shape.k)
    let scratch = TestScratch()
    // C starts as NaN where beta is 0: it must not be read.
    for (transposeA, transposeB, alpha, beta) in [
      (false, false, Float(1), Float(0)), (true, false, 0.5, 1), (false, true, -2, 0.25), (true, true, 1, 0),
    ] {
      let lda = (transposeA ? m : k) + 3, ldb = (transposeB ? k : n) + 1, ldc = n + 2
      let a = random.floats((transposeA ? k : m) * lda), b = random.floats((transposeB ? n : k) * ldb)
      let c = beta == 0 ? [Float](repeating: .nan, count: m * ldc) : random.floats(m * ldc)
      var expected = c.map(Double.init)
      for i in 0..<m {
        for j in 0..<n {
          var s = 0.0
          for p in 0..<k {
            s +=
              Double(transposeA ? a[p * lda + i] : a[i * lda + p])
              * Double(transposeB ? b[j * ldb + p] : b[p * ldb + j])
          }
          expected[i * ldc + j] = Double(alpha) * s + (beta == 0 ? 0 : Double(beta) * Double(c[i * ldc + j]))
        }
      }
      for table in testTables {
        var result = c
        a.withUnsafeBufferPointer { a in
          b.withUnsafeBufferPointer { b in
            result.withUnsafeMutableBufferPointer { c in
              guard let a = a.baseAddress, let b = b.baseAddress, let c = c.baseAddress else { return }
              table.gemm(
                GEMMArguments(
                  m: m, n: n, k: k, alpha: alpha, a: a, lda: lda, transposeA: transposeA, b: b, ldb: ldb,
                  transposeB: transposeB, beta: beta, c: c, ldc: ldc, scratch: scratch.base))
            }
          }
        }
        let tolerance = 2e-6 + 3e-6 * Double(k).squareRoot()
        for i in 0..<m {
          for j in 0..<ldc {
            let (got, want) = (Double(result[i * ldc + j]), expected[i * ldc + j])
            if j < n ? !(abs(got - want) <= tolerance) : got != want && !want.isNaN {
              Issue.record(
                "\(table.level) tA \(transposeA) tB \(transposeB) seed \(seed) [\(i), \(j)]: \(got), not \(want)")
              return
            }
          }
        }
      }
    }
  }

  @Test(arguments: testTables.map(\.level))
  func `a row of gemm is the same bits alone and in a batch`(level: CPULevel) throws {
    let table = try #require(Kernels.table(level))
    var random = TestRandom(seed: 22)
    let scratch = TestScratch()
    let (m, n, k) = (41, 77, 1000)
    let a = random.floats(m * k), b = random.floats(k * n)
    func product(rows: Range<Int>, columns: Range<Int>) -> [Float] {
      var c = [Float](repeating: 0, count: rows.count * columns.count)
      a.withUnsafeBufferPointer { a in
        b.withUnsafeBufferPointer { b in
          table.gemm(
            GEMMArguments(
              m: rows.count, n: columns.count, k: k, a: a.baseAddress! + rows.lowerBound * k, lda: k,
              b: b.baseAddress! + columns.lowerBound, ldb: n, c: &c, ldc: columns.count, scratch: scratch.base))
        }
      }
      return c
    }
    let whole = product(rows: 0..<m, columns: 0..<n)
    for rows in [0..<1, 3..<5, 7..<14, 12..<36, 40..<41] {
      for columns in [0..<n, 5..<6, 30..<70] {
        let part = product(rows: rows, columns: columns)
        let same = rows.allSatisfy { i in
          columns.allSatisfy {
            whole[i * n + $0] == part[(i - rows.lowerBound) * columns.count + $0 - columns.lowerBound]
          }
        }
        #expect(same, "rows \(rows), columns \(columns)")
      }
    }
  }

  /// Weights of a dense kind, `[n, k]` with padded rows, and their values.
  private func denseWeights(_ kind: DType, _ n: Int, _ k: Int, _ random: inout TestRandom) -> ([UInt8], Int, [Float]) {
    let rowBytes = kind.rowBytes(k) + 2 * kind.blockBytes
    var bytes = [UInt8](repeating: 0xff, count: n * rowBytes)
    var values = random.floats(n * k)
    for r in 0..<n {
      bytes.withUnsafeMutableBytes { p in
        values.withUnsafeMutableBufferPointer { v in
          let row = p.baseAddress! + r * rowBytes, x = v.baseAddress! + r * k
          testTables[0].convertFromFloat(kind, x, k, row)
          testTables[0].dequantize(kind, row, k, x)
        }
      }
    }
    return (bytes, rowBytes, values)
  }

  private func matmul(
    _ table: KernelTable, _ kind: DType, _ w: [UInt8], _ rowBytes: Int, _ rowRange: Range<Int>, _ x: [Float],
    _ ldx: Int, _ rows: Range<Int>, _ k: Int, _ out: inout [Float], _ ldo: Int, _ scratch: TestScratch
  ) {
    w.withUnsafeBytes { w in
      x.withUnsafeBufferPointer { x in
        out.withUnsafeMutableBufferPointer { out in
          table.floatMatmul(
            FloatMatmulArguments(
              kind: kind, w: w.baseAddress!, rowBytes: rowBytes, rowRange: rowRange,
              x: x.baseAddress! + rows.lowerBound * ldx, ldx: ldx, rows: rows.count, k: k, out: out.baseAddress!,
              ldo: ldo, scratch: scratch.base))
        }
      }
    }
  }

  @Test(arguments: [DType.f32, .f16, .bf16])
  func `floatMatmul agrees with Double arithmetic and touches only its own columns`(kind: DType) {
    let seed: UInt64 = 23
    var random = TestRandom(seed: seed)
    let scratch = TestScratch()
    for (rows, n, k) in [
      (1, 16, 16), (1, 5, 3), (1, 37, 100), (2, 33, 40), (3, 20, 257), (7, 16, 33), (13, 50, 64), (40, 19, 70),
      (5, 34, 1601), (1, 18, 900),
    ] {
      let (w, rowBytes, values) = denseWeights(kind, n, k, &random)
      let ldx = k + 3, ldo = n + 2
      let x = random.floats(rows * ldx)
      // All rows, and a middle range as a second thread would have it.
      for range in [0..<n, min(16, n)..<n] {
        for table in testTables {
          var out = [Float](repeating: 99, count: rows * ldo)
          matmul(table, kind, w, rowBytes, range, x, ldx, 0..<rows, k, &out, ldo, scratch)
          let tolerance = 1e-6 + 2e-7 * Double(k).squareRoot()
          for m in 0..<rows {
            for j in 0..<ldo {
              var want = 99.0
              if range.contains(j) {
                want = 0
                for p in 0..<k { want += Double(x[m * ldx + p]) * Double(values[j * k + p]) }
              }
              if !(abs(Double(out[m * ldo + j]) - want) <= tolerance) {
                Issue.record(
                  "\(table.level) \(rows)×\(n)×\(k) seed \(seed) [\(m), \(j)]: \(out[m * ldo + j]), not \(want)")
                return
              }
            }
          }
        }
      }
    }
  }

  @Test(arguments: testTables.map(\.level), [DType.f32, .f16, .bf16])
  func `a row of floatMatmul is the same bits alone and in a batch`(level: CPULevel, kind: DType) throws {
    let table = try #require(Kernels.table(level))
    var random = TestRandom(seed: 24)
    let scratch = TestScratch()
    for k in [50, 384, 2100] {
      let (rows, n) = (9, 37)
      let (w, rowBytes, _) = denseWeights(kind, n, k, &random)
      let x = random.floats(rows * k)
      var whole = [Float](repeating: 0, count: rows * n)
      matmul(table, kind, w, rowBytes, 0..<n, x, k, 0..<rows, k, &whole, n, scratch)
      for part in [0..<1, 1..<3, 4..<9, 8..<9] {
        for range in [0..<n, 16..<32] {
          var out = [Float](repeating: 0, count: part.count * n)
          matmul(table, kind, w, rowBytes, range, x, k, part, k, &out, n, scratch)
          let same = part.allSatisfy { m in
            range.allSatisfy { whole[m * n + $0] == out[(m - part.lowerBound) * n + $0] }
          }
          #expect(same, "rows \(part), weight rows \(range), k \(k)")
        }
      }
    }
  }
}
