import ApusKernels

/// x·Wᵀ with block-quantised weights and int8 activations, from one row to a prompt; one row is held against the read
/// bandwidth, more against the peak of the integer dot products. Two terms a row are counted as two rows.
func benchmarkQuantized(_ run: BenchmarkRun) {
  let kernels = run.kernels
  let n = 1536, k = 8960
  for threads in [1, 2] {
    let pool = ThreadPool(threads: threads)
    for kind in [DType.q4_0, .q4_1, .q5_0, .q5_1, .q8_0, .q2_K, .q3_K, .q4_K, .q5_K, .q6_K] {
      let w = UnsafeMutableRawPointer.allocate(byteCount: kind.rowBytes(k) * n, alignment: 64)
      // The bytes don't matter for the time, as long as scales are normal numbers.
      for i in 0..<(kind.rowBytes(k) * n) {
        w.storeBytes(of: UInt8(truncatingIfNeeded: i % 64), toByteOffset: i, as: UInt8.self)
      }
      let x = benchmarkFloats(512 * k), out = benchmarkFloats(512 * n)
      defer {
        w.deallocate()
        x.deallocate()
        out.deallocate()
      }
      for (rows, terms) in [(1, 1), (1, 2), (2, 1), (4, 1), (8, 1), (8, 2), (12, 1), (24, 1), (64, 1), (512, 1)] {
        if threads == 2 && terms == 2 { continue }
        let layout = ActivationLayout(matrixRows: rows, k: k, terms: terms)
        let activations = UnsafeMutableRawPointer.allocate(byteCount: layout.bytes, alignment: 64)
        defer { activations.deallocate() }
        kernels.quantizeActivations(x, k, layout, 0..<layout.panelCount, activations)
        let isRead = rows == 1
        let work = isRead ? Double(kind.rowBytes(k) * n) : 2 * Double(layout.rows) * Double(n) * Double(k)
        run.measure(
          "\(kind.name) \(rows) row\(rows == 1 ? "" : "s")\(terms == 2 ? " of two terms" : "")", work: work,
          limit: isRead ? .memory : .integers, pool: pool
        ) {
          pool.parallelFor(items: n / 16, grain: threads == 1 ? n / 16 : 8) { range, thread in
            kernels.quantizedMatmul(
              QuantizedMatmulArguments(
                kind: kind, w: w, rowBytes: kind.rowBytes(k),
                rowRange: range.lowerBound * 16..<range.upperBound * 16, activations: activations, layout: layout,
                out: out, ldo: n, scratch: pool.scratch(thread)))
          }
        }
      }
    }
  }
}
