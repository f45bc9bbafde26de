import ApusCompute
import ApusKernels
import Testing

@Suite struct HeadProjectionTests {
  /// Both directions of `projectHeads` against loops in Double, heads padded as a rank is.
  @Test(arguments: [1, 7, 16, 31, 33, 100], [1, 5, 49, 100])
  func headsGoThroughTheBlockOfTheirKeyHead(rank: Int, rows: Int) {
    let seed = UInt64(rank * 1000 + rows)
    var state = seed
    func floats(_ count: Int) -> [Float] {
      (0..<count).map { _ in
        state = state &* 6_364_136_223_846_793_005 &+ 1_442_695_040_888_963_407
        return Float(Int32(truncatingIfNeeded: state >> 32)) * 0x1p-31
      }
    }
    let padded = (rank + 15) / 16 * 16
    for (heads, kvHeads, headDim) in [(4, 4, 16), (6, 2, 48), (3, 1, 32), (1, 1, 64)] {
      let arena = Arena(capacity: 1 << 20, ledger: MemoryLedger())
      let device = CPUDevice(threads: 2, arena: arena)
      let weight = floats(kvHeads * headDim * rank)
      let bias = floats(kvHeads * headDim)
      let w = Tensor(kvHeads * headDim, rank, weight)
      let x = floats(rows * heads * padded)
      let wide = Tensor(zeros: rows, heads * headDim)
      device.projectHeads(
        Tensor(rows, heads * padded, x), heads: heads, w, kvHeads: kvHeads, bias: Tensor(1, bias.count, bias),
        transposed: false, into: wide)
      let q = floats(rows * heads * headDim)
      let narrow = Tensor(zeros: rows, heads * padded)
      device.projectHeads(
        Tensor(rows, heads * headDim, q), heads: heads, w, kvHeads: kvHeads, bias: nil, transposed: true, into: narrow)
      let (widened, narrowed) = (wide.floatArray(), narrow.floatArray())
      var worst = 0.0
      for row in 0..<rows {
        for h in 0..<heads {
          let block = h / (heads / kvHeads) * headDim
          for d in 0..<headDim {
            let sum = (0..<rank).reduce(Double(bias[block + d])) {
              $0 + Double(x[(row * heads + h) * padded + $1]) * Double(weight[(block + d) * rank + $1])
            }
            worst = max(worst, abs(sum - Double(widened[(row * heads + h) * headDim + d])))
          }
          for r in 0..<padded {
            let sum =
              r >= rank
              ? 0
              : (0..<headDim).reduce(0.0) {
                $0 + Double(q[(row * heads + h) * headDim + $1]) * Double(weight[(block + $1) * rank + r])
              }
            worst = max(worst, abs(sum - Double(narrowed[(row * heads + h) * padded + r])))
          }
        }
      }
      #expect(worst < 1e-5, "\(heads)/\(kvHeads) heads of \(headDim), seed \(seed)")
      #expect(arena.used == 0)
    }
  }
}
