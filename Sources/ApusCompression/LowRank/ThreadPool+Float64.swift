import ApusKernels

/// `C[m, n] += alpha · A[m, k] · B[k, n]` on the calling thread.
///
/// The scratch memory is the call's own: that of a pool's thread 0 is shared by all outside threads that give the pool a
/// piece of work too small to be spread.
func multiplyAdd(
  m: Int, n: Int, k: Int, alpha: Double = 1, _ a: Float64Operand, _ b: Float64Operand, _ c: MutableDoublePointer,
  ldc: Int
) {
  withUnsafeTemporaryAllocation(byteCount: KernelTable.scratchBytes, alignment: 64) {
    guard let scratch = $0.baseAddress else { return }
    Kernels.current.float64GEMM(
      Float64GEMMArguments(m: m, n: n, k: k, alpha: alpha, a: a, b: b, c: c, ldc: ldc, scratch: scratch))
  }
}

/// The f64 kernels on all threads of a pool. No result depends on how many there are.
extension ThreadPool {
  /// `C[m, n] += alpha · A[m, k] · B[k, n]`, in blocks of the longer side of C.
  func multiplyAdd(
    m: Int, n: Int, k: Int, alpha: Double = 1, _ a: Float64Operand, _ b: Float64Operand, _ c: MutableDoublePointer,
    ldc: Int
  ) {
    let isTall = m >= n
    let items = isTall ? m : n
    // Four blocks a thread even out what the threads get; a block of fewer rows would pack more than it multiplies.
    let grain = max(96, (items + 4 * threads - 1) / (4 * threads))
    parallelFor(items: items, grain: grain) { range, _ in
      let row = isTall ? range.lowerBound : 0
      let column = isTall ? 0 : range.lowerBound
      ApusCompression.multiplyAdd(
        m: isTall ? range.count : m, n: isTall ? n : range.count, k: k, alpha: alpha, a.advanced(row: row, column: 0),
        b.advanced(row: 0, column: column), c + row * ldc + column, ldc: ldc)
    }
  }

  /// y[i] = Σ_j a[i, j] · x[j], for `rows` rows of `n`.
  func matVec(
    _ a: DoublePointer, _ lda: Int, _ rows: Int, _ n: Int, _ x: DoublePointer, _ y: MutableDoublePointer
  ) {
    let kernel = Kernels.current.float64MatVec
    parallelFor(items: rows, grain: max(64, 32_768 / max(1, n))) { range, _ in
      kernel(a + range.lowerBound * lda, lda, range.count, n, x, y + range.lowerBound)
    }
  }

  /// y = a · x for a symmetric matrix `[n, n]`, of which the upper triangle is read. Bands of rows, which n alone decides,
  /// make sums of their own that are added in order.
  func symVec(_ a: DoublePointer, _ lda: Int, _ n: Int, _ x: DoublePointer, _ y: MutableDoublePointer) {
    let kernel = Kernels.current.float64SymVec
    let bands = min(16, n / 128 + 1)
    // As many elements of the triangle in each.
    let starts = (0...bands).map { band in
      band == bands ? n : Int(Double(n) * (1 - (1 - Double(band) / Double(bands)).squareRoot())) & ~3
    }
    withUnsafeTemporaryAllocation(of: Double.self, capacity: bands * n) {
      guard let sums = $0.baseAddress else { return }
      parallelFor(items: bands, grain: 1) { range, _ in
        for band in range {
          let sum = sums + band * n
          (sum + starts[band]).initialize(repeating: 0, count: n - starts[band])
          kernel(a, lda, starts[band]..<starts[band + 1], n, x, sum)
        }
      }
      y.update(from: sums, count: n)
      for band in 1..<max(1, bands) {
        for i in starts[band]..<n { y[i] += sums[band * n + i] }
      }
    }
  }

  /// y[j] += Σ_i x[i] · a[i, j], for `rows` rows of `n`.
  func vecMat(
    _ a: DoublePointer, _ lda: Int, _ rows: Int, _ n: Int, _ x: DoublePointer, _ y: MutableDoublePointer
  ) {
    let kernel = Kernels.current.float64VecMat
    parallelFor(items: n, grain: max(256, 32_768 / max(1, rows))) { range, _ in
      kernel(a + range.lowerBound, lda, rows, range.count, x, y + range.lowerBound)
    }
  }
}
