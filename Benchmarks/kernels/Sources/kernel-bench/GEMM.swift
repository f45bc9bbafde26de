import ApusKernels

/// f32 GEMM in square and skewed shapes, one and two threads (columns split between them).
func benchmarkGEMM(_ run: BenchmarkRun) {
  let kernels = run.kernels
  for threads in [1, 2] {
    let pool = ThreadPool(threads: threads)
    for (m, n, k, transposeB) in [
      (1024, 1024, 1024, false), (1024, 1024, 1024, true), (256, 256, 256, false), (64, 64, 64, false),
      (512, 384, 1536, true), (1, 1024, 1024, false), (1000, 999, 777, false),
    ] {
      let a = benchmarkFloats(m * k), b = benchmarkFloats(k * n), c = benchmarkFloats(m * n)
      defer {
        a.deallocate()
        b.deallocate()
        c.deallocate()
      }
      let work = 2 * Double(m) * Double(n) * Double(k)
      run.measure("gemm \(m)×\(n)×\(k)\(transposeB ? " B transposed" : "")", work: work, pool: pool) {
        let share = (n + threads - 1) / threads
        pool.run { thread in
          let first = min(n, thread * share), count = min(n, first + share) - first
          if count == 0 { return }
          kernels.gemm(
            GEMMArguments(
              m: m, n: count, k: k, a: a, lda: k, b: transposeB ? b + first * k : b + first,
              ldb: transposeB ? k : n, transposeB: transposeB, c: c + first, ldc: n, scratch: pool.scratch(thread)))
        }
      }
    }
  }
}

/// x·Wᵀ with dense weights: the encoder's shapes and single rows.
func benchmarkFloatMatmul(_ run: BenchmarkRun) {
  let kernels = run.kernels
  for threads in [1, 2] {
    let pool = ThreadPool(threads: threads)
    for (rows, n, k, kind) in [
      (256, 384, 384, DType.f32), (256, 1536, 384, .f32), (256, 384, 1536, .f32), (512, 1024, 1024, .f32),
      (256, 1536, 384, .bf16), (16, 1536, 384, .f32), (4, 4096, 4096, .f32), (1, 4096, 4096, .f32),
      (1, 4096, 4096, .f16), (1, 4096, 4096, .bf16), (1, 384, 384, .f32),
    ] {
      let x = benchmarkFloats(rows * k), w = benchmarkFloats(n * k), out = benchmarkFloats(rows * n)
      let stored = UnsafeMutableRawPointer.allocate(byteCount: kind.rowBytes(k) * n, alignment: 64)
      kernels.convertFromFloat(kind, w, n * k, stored)
      defer {
        x.deallocate()
        w.deallocate()
        out.deallocate()
        stored.deallocate()
      }
      // A few rows of a matrix larger than the caches are limited by reading it.
      let isRead = rows <= 4 && n * k > 8 << 20
      let work = isRead ? Double(kind.rowBytes(k) * n) : 2 * Double(rows) * Double(n) * Double(k)
      run.measure(
        "matmul \(rows) rows · \(kind.name) [\(n), \(k)]", work: work, limit: isRead ? .memory : .arithmetic, pool: pool
      ) {
        pool.parallelFor(items: n / 16, grain: 4) { range, thread in
          kernels.floatMatmul(
            FloatMatmulArguments(
              kind: kind, w: stored, rowBytes: kind.rowBytes(k),
              rowRange: range.lowerBound * 16..<range.upperBound * 16,
              x: x, ldx: k, rows: rows, k: k, out: out, ldo: n, scratch: pool.scratch(thread)))
        }
      }
    }
  }
}
