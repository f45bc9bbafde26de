import ApusKernels
import Testing

#if canImport(Glibc)
  import Glibc
#endif

/// Memory that ends where a page that may not be touched begins, so that a read beyond it is noticed.
private final class GuardedBytes {
  let base: UnsafeMutableRawPointer
  private let mapping: UnsafeMutableRawPointer
  private let length: Int

  init(_ bytes: [UInt8]) {
    let page = Int(sysconf(Int32(_SC_PAGESIZE)))
    let body = (bytes.count + page - 1) / page * page
    length = body + page
    mapping = mmap(nil, length, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)
    precondition(mapping != MAP_FAILED)
    mprotect(mapping + body, page, PROT_NONE)
    base = mapping + body - bytes.count
    bytes.withUnsafeBytes { if let p = $0.baseAddress { base.copyMemory(from: p, byteCount: bytes.count) } }
  }

  deinit { munmap(mapping, length) }
}

private final class Scratch {
  let base = UnsafeMutableRawPointer.allocate(byteCount: KernelTable.scratchBytes, alignment: 64)
  init() { base.initializeMemory(as: UInt8.self, repeating: 0xa5, count: KernelTable.scratchBytes) }
  deinit { base.deallocate() }
}

/// Runs a quantised product at one level: `x` `[rows, k]`, weights `[n, k]`; returns `[rows, n]` and the activations.
private func product(
  _ table: KernelTable, _ kind: DType, _ w: GuardedBytes, n: Int, k: Int, x: [Float], rows: Int, terms: Int = 1,
  split: Int? = nil
) -> (out: [Float], activations: [UInt8], layout: ActivationLayout) {
  let layout = ActivationLayout(matrixRows: rows, k: k, terms: terms)
  let activations = UnsafeMutableRawPointer.allocate(byteCount: layout.bytes, alignment: 64)
  activations.initializeMemory(as: UInt8.self, repeating: 0, count: layout.bytes)
  defer { activations.deallocate() }
  table.quantizeActivations(x, k, layout, 0..<layout.panelCount, activations)
  let ldo = n + 3
  let sentinel: Float = -12345
  var out = [Float](repeating: sentinel, count: rows * ldo)
  let scratch = Scratch()
  let ranges = split.map { [0..<$0, $0..<n] } ?? [0..<n]
  out.withUnsafeMutableBufferPointer { out in
    for range in ranges where !range.isEmpty {
      table.quantizedMatmul(
        QuantizedMatmulArguments(
          kind: kind, w: w.base, rowBytes: kind.rowBytes(k), rowRange: range, activations: activations, layout: layout,
          out: out.baseAddress!, ldo: ldo, scratch: scratch.base))
    }
  }
  var dense: [Float] = []
  for m in 0..<rows {
    dense += out[(m * ldo)..<(m * ldo + n)]
    for extra in 0..<3 { #expect(out[m * ldo + n + extra] == sentinel, "column \(n + extra) of row \(m) was written") }
  }
  return (dense, Array(UnsafeRawBufferPointer(start: activations, count: layout.bytes)), layout)
}

/// Activation (int8, scale) of row `m` at `k`, read from the layout.
private func activation(_ bytes: [UInt8], _ layout: ActivationLayout, _ m: Int, _ k: Int) -> (a: Int, s: Float) {
  var panel = layout.panel(0)
  for i in 0..<layout.panelCount where layout.panel(i).firstRow <= m { panel = layout.panel(i) }
  let row = m - panel.firstRow
  let a = Int(Int8(bitPattern: bytes[panel.offset + k / 4 * panel.rows * 4 + row * 4 + k % 4]))
  let at = panel.offset + layout.scalesOffset(panel.rows) + (k / 32 * panel.rows + row) * 4
  return (a, bytes.withUnsafeBytes { $0.loadUnaligned(fromByteOffset: at, as: Float.self) })
}

/// Σ over k of weights `[n, k]` and activations `[rows, k]`: `[rows, n]`.
private func products<T: Numeric>(_ w: [T], _ x: [T], k: Int) -> [T] {
  let n = w.count / k
  var out: [T] = []
  w.withUnsafeBufferPointer { w in
    x.withUnsafeBufferPointer { x in
      for m in 0..<(x.count / k) {
        for j in 0..<n {
          var sum: T = 0
          for i in 0..<k { sum += w[j * k + i] * x[m * k + i] }
          out.append(sum)
        }
      }
    }
  }
  return out
}

private let tables = Kernels.available.map { Kernels.table($0)! }

@Suite struct QuantizedTests {
  /// Scales of 1 and activations whose scale is 1 make every f32 operation exact: what is left is the integer part.
  @Test(arguments: Reference.kinds) func theIntegerPartIsExactAtEveryLevel(kind: DType) {
    let seed = UInt64.random(in: 0...UInt64.max)
    var random = SplitMix64(seed: seed)
    let k = kind.blockElements == 256 ? 256 : 96
    let n = 19
    let w = Reference.randomRows(kind, rows: n, k: k, using: &random) { _ in 1 }
    let values = Reference.row(kind, w[...]).map { Int($0.value) }
    let guarded = GuardedBytes(w)
    var x = (0..<(30 * k)).map { _ in Int.random(in: -127...127, using: &random) }
    for group in stride(from: 0, to: x.count, by: 32) { x[group] = 127 }
    let expected = products(values, x, k: k)
    for rows in 1...30 {
      for table in tables {
        let out = product(table, kind, guarded, n: n, k: k, x: x.prefix(rows * k).map { Float($0) }, rows: rows).out
        let exact = out.indices.allSatisfy { Int(exactly: out[$0]) == expected[$0] }
        #expect(exact, "\(kind) \(table.level) rows \(rows) seed \(seed)")
      }
    }
  }

  @Test(arguments: Reference.kinds) func productsAgreeWithTheFormulaAndBetweenLevels(kind: DType) {
    let seed = UInt64.random(in: 0...UInt64.max)
    var random = SplitMix64(seed: seed)
    for k in kind.blockElements == 256 ? [256, 1536, 2560] : [32, 64, 576, 800, 1600] {
      for (n, rows) in [(1, 1), (16, 1), (33, 2), (17, 5), (40, 8), (16, 12), (23, 25), (37, 61)] {
        let w = Reference.randomRows(kind, rows: n, k: k, using: &random) {
          Float16(Float.random(in: -0.1...0.1, using: &$0))
        }
        let x = (0..<(rows * k)).map { _ in Float.random(in: -3...3, using: &random) }
        let guarded = GuardedBytes(w)
        let results = tables.map { product($0, kind, guarded, n: n, k: k, x: x, rows: rows, split: n > 16 ? 16 : nil) }
        let weights = Reference.row(kind, w[...])
        let values = weights.map(\.value)
        // What the f32 sums work on: the two parts of an affine weight apart.
        let sizes = weights.map { abs(Double($0.u) * $0.scale) + abs($0.minimum) }
        let a = (0..<(rows * k)).map { i in
          let (a, s) = activation(results[0].activations, results[0].layout, i / k, i % k)
          return Double(a) * Double(s)
        }
        let sums = products(values, a, k: k)
        let bounds = products(sizes, a.map { abs($0) }, k: k)
        for (table, result) in zip(tables, results) {
          let close = sums.indices.allSatisfy { abs(Double(result.out[$0]) - sums[$0]) <= 1e-6 * bounds[$0] }
          #expect(close, "\(kind) \(table.level) k \(k) n \(n) rows \(rows) seed \(seed)")
        }
        // Both have fused multiply-add, so they round alike.
        if let v3 = tables.firstIndex(where: { $0.level == .v3 }),
          let v4 = tables.firstIndex(where: { $0.level == .v4 })
        {
          #expect(results[v3].out == results[v4].out, "\(kind) k \(k) n \(n) rows \(rows) seed \(seed)")
        }
        for result in results { #expect(result.activations == results[0].activations) }
      }
    }
  }

  @Test(arguments: Reference.kinds) func aRowsResultDoesNotDependOnItsNeighbours(kind: DType) {
    let seed = UInt64.random(in: 0...UInt64.max)
    var random = SplitMix64(seed: seed)
    let k = 1536
    let n = 35
    let w = GuardedBytes(
      Reference.randomRows(kind, rows: n, k: k, using: &random) { Float16(Float.random(in: -0.1...0.1, using: &$0)) })
    let x = (0..<(40 * k)).map { _ in Float.random(in: -3...3, using: &random) }
    for table in tables {
      let all = product(table, kind, w, n: n, k: k, x: x, rows: 40).out
      for rows in [1, 2, 3, 4, 7, 8, 12, 13] {
        for first in [0, 17] {
          let some = product(table, kind, w, n: n, k: k, x: Array(x[(first * k)...]), rows: rows).out
          #expect(
            some == Array(all[(first * n)..<((first + rows) * n)]), "\(kind) \(table.level) rows \(rows) seed \(seed)")
        }
      }
    }
  }

  /// Two terms come within 15 bits of exact activations, and are the sum of the products of both.
  @Test(arguments: Reference.kinds) func twoTermsAddUp(kind: DType) {
    let seed = UInt64.random(in: 0...UInt64.max)
    var random = SplitMix64(seed: seed)
    let k = 1536
    let n = 35
    let bytes = Reference.randomRows(kind, rows: n, k: k, using: &random) {
      Float16(Float.random(in: -0.1...0.1, using: &$0))
    }
    let w = GuardedBytes(bytes)
    let weights = Reference.row(kind, bytes[...])
    let x = (0..<(40 * k)).map { _ in Float.random(in: -3...3, using: &random) }
    let exact = products(weights.map(\.value), x.prefix(3 * k).map { Double($0) }, k: k)
    let sizes = products(
      weights.map { abs(Double($0.u) * $0.scale) + abs($0.minimum) }, x.prefix(3 * k).map { abs(Double($0)) }, k: k)
    for table in tables {
      let (all, activations, layout) = product(table, kind, w, n: n, k: k, x: x, rows: 40, terms: 2)
      for i in exact.indices {
        #expect(abs(Double(all[i]) - exact[i]) <= sizes[i] / 16384, "\(kind) \(table.level) \(i) seed \(seed)")
      }
      let parts = (0..<2).map { term in
        (0..<(40 * k)).map { i in
          let (a, s) = activation(activations, layout, i / k * 2 + term, i % k)
          return Float(a) * s
        }
      }
      // What is rounded already is rounded to itself, up to the last bit of its scale.
      let first = product(table, kind, w, n: n, k: k, x: parts[0], rows: 40).out
      let second = product(table, kind, w, n: n, k: k, x: parts[1], rows: 40).out
      for i in exact.indices {
        #expect(abs(all[i] - (first[i] + second[i])) <= Float(sizes[i]) * 1e-6, "\(kind) \(table.level) seed \(seed)")
      }
      for rows in [1, 2, 3, 4, 6, 7, 13] {
        let some = product(table, kind, w, n: n, k: k, x: x, rows: rows, terms: 2, split: 16).out
        #expect(some == Array(all[..<(rows * n)]), "\(kind) \(table.level) rows \(rows) seed \(seed)")
      }
    }
  }

  @Test func activationsAreRoundedToTheNearestEven() {
    let seed = UInt64.random(in: 0...UInt64.max)
    var random = SplitMix64(seed: seed)
    let k = 96
    for rows in 1...30 {
      var x = (0..<(rows * k)).map { _ in Float.random(in: -5...5, using: &random) }
      x.replaceSubrange(0..<32, with: repeatElement(0, count: 32))
      for table in tables {
        let layout = ActivationLayout(matrixRows: rows, k: k)
        let buffer = UnsafeMutableRawPointer.allocate(byteCount: layout.bytes, alignment: 64)
        buffer.initializeMemory(as: UInt8.self, repeating: 0, count: layout.bytes)
        defer { buffer.deallocate() }
        for panel in 0..<layout.panelCount { table.quantizeActivations(x, k, layout, panel..<(panel + 1), buffer) }
        let bytes = Array(UnsafeRawBufferPointer(start: buffer, count: layout.bytes))
        for i in 0..<layout.panelCount {
          let panel = layout.panel(i)
          for row in 0..<panel.rows {
            let m = panel.firstRow + row
            for group in 0..<(k / 32) {
              let values = x[(m * k + 32 * group)..<(m * k + 32 * group + 32)]
              let maximum = values.map(abs).max()!
              var sums = [0, 0]
              for (i, value) in values.enumerated() {
                let seen = activation(bytes, layout, m, 32 * group + i)
                let expected = maximum == 0 ? 0 : (value * (127 / maximum)).rounded(.toNearestOrEven)
                #expect(Float(seen.a) == expected && seen.s == maximum / 127, "\(table.level) seed \(seed)")
                sums[i / 16] += seen.a
              }
              for half in 0..<2 {
                let at =
                  panel.offset + layout.sumsOffset(panel.rows) + ((2 * group + half) * panel.rows + row) * 4
                #expect(bytes.withUnsafeBytes { $0.loadUnaligned(fromByteOffset: at, as: Int32.self) } == sums[half])
              }
            }
          }
        }
      }
    }
  }

  @Test func badActivationsGiveNaNAndTinyOnesZero() {
    let k = 64
    var random = SplitMix64(seed: 0)
    let guarded = GuardedBytes(Reference.randomRows(.q8_0, rows: 16, k: k, using: &random) { _ in 1 })
    for table in tables {
      for (bad, terms) in [(Float.nan, 1), (.infinity, 1), (-.infinity, 1), (.nan, 2), (.infinity, 2)] {
        var x = [Float](repeating: 1, count: 2 * k)
        x[40] = bad
        let out = product(table, .q8_0, guarded, n: 16, k: k, x: x, rows: 2, terms: terms).out
        #expect(out[..<16].allSatisfy(\.isNaN) && out[16...].allSatisfy(\.isFinite), "\(table.level) \(bad)")
      }
      for tiny in [Float.leastNonzeroMagnitude, .leastNormalMagnitude, 0] {
        let out = product(
          table, .q8_0, guarded, n: 16, k: k, x: [Float](repeating: tiny, count: k), rows: 1
        ).out
        #expect(out.allSatisfy { $0 == 0 }, "\(table.level) \(tiny)")
      }
    }
  }

  /// Every byte pattern is a weight; scales of NaN and infinity pass through to the results of their row alone.
  @Test(arguments: Reference.kinds) func hostileBytesDoNoHarm(kind: DType) {
    let seed = UInt64.random(in: 0...UInt64.max)
    var random = SplitMix64(seed: seed)
    let k = 512
    let n = 21
    let bytes = Reference.randomRows(kind, rows: n, k: k, using: &random) {
      Float16(bitPattern: UInt16.random(in: 0...UInt16.max, using: &$0))
    }
    let ones = [UInt8](repeating: 255, count: n * kind.rowBytes(k))
    for w in [bytes, ones] {
      let guarded = GuardedBytes(w)
      for table in tables {
        for rows in [1, 3, 14] {
          let x = (0..<(rows * k)).map { _ in Float.random(in: -3...3, using: &random) }
          let out = product(table, kind, guarded, n: n, k: k, x: x, rows: rows).out
          #expect(out.count == rows * n)
        }
        var row = [Float](repeating: 0, count: k)
        table.dequantize(kind, guarded.base, k, &row)
        let expected = Reference.row(kind, w[0..<kind.rowBytes(k)])
        for i in 0..<k where !expected[i].value.isFinite { #expect(!row[i].isFinite, "seed \(seed)") }
      }
    }
  }

  @Test(arguments: Reference.kinds) func dequantizedRowsAgreeWithTheFormula(kind: DType) {
    let seed = UInt64.random(in: 0...UInt64.max)
    var random = SplitMix64(seed: seed)
    for blocks in [1, 2, 15, 16, 17, 40] {
      let count = blocks * kind.blockElements
      let bytes = Reference.randomRows(kind, rows: 1, k: count, using: &random) {
        Float16(Float.random(in: -2...2, using: &$0))
      }
      let expected = Reference.row(kind, bytes[...])
      let guarded = GuardedBytes(bytes)
      for table in tables {
        var out = [Float](repeating: -1, count: count + 5)
        table.dequantize(kind, guarded.base, count, &out)
        for i in 0..<count {
          let size = abs(Double(expected[i].u) * expected[i].scale) + abs(expected[i].minimum)
          #expect(
            abs(Double(out[i]) - expected[i].value) <= 1.2e-7 * size, "\(kind) \(table.level) \(i) seed \(seed)")
        }
        #expect(out[count...].allSatisfy { $0 == -1 })
      }
    }
  }

  /// `Fixtures/quantized.bin` is what the gguf package for Python (`Fixtures/quantized.py`) makes of the same bytes.
  @Test func weightsAgreeWithTheGGUFPackage() throws {
    let golden = try fixture("quantized.bin")
    var at = 0
    for kind in Reference.kinds {
      var random = SplitMix64(seed: UInt64(kind.rawValue))
      let count = 512
      let bytes = Reference.randomRows(kind, rows: 1, k: count, using: &random) { random in
        // Between 2⁻¹⁴ and 1, either sign: normal numbers that f32 products do not overflow.
        Float16(bitPattern: UInt16(random.next() % 0x3800) + 0x0400 + UInt16(random.next() % 2) << 15)
      }
      for table in tables {
        var out = [Float](repeating: 0, count: count)
        table.dequantize(kind, bytes, count, &out)
        let weights = Reference.row(kind, bytes[...])
        for i in 0..<count {
          let value = golden.withUnsafeBytes { $0.loadUnaligned(fromByteOffset: (at + i) * 4, as: Float.self) }
          let size = Float(abs(Double(weights[i].u) * weights[i].scale) + abs(weights[i].minimum))
          #expect(abs(out[i] - value) <= 2e-7 * size, "\(kind) \(table.level) weight \(i)")
        }
      }
      at += count
    }
    #expect(at * 4 == golden.count)
  }

  @Test func theInt8LoopCountsItsOperations() {
    for table in tables { #expect(table.int8Loop(1000) == 2 * table.int8Loop(500) && table.int8Loop(10) > 0) }
  }
}

private func fixture(_ name: String) throws -> [UInt8] {
  let here = #filePath
  let path = here[..<here.lastIndex(of: "/")!] + "/Fixtures/\(name)"
  let file = try #require(fopen(String(path), "rb"), "\(path) is missing")
  defer { fclose(file) }
  var bytes = [UInt8](repeating: 0, count: 1 << 20)
  let count = fread(&bytes, 1, bytes.count, file)
  return Array(bytes[..<count])
}
