import ApusKernels
import Foundation
import Testing

/// Attention whose keys and values differ in width or number of heads, and whose keys come in several calls, against the
/// definition in Double arithmetic, at every level.
@Suite struct NarrowAttentionTests {
  struct Case: CustomTestStringConvertible {
    var heads: Int, keyHeads: Int, valueHeads: Int, keyDim: Int, valueDim: Int
    var queries: Int, first: Int
    var causal = true, window = 0, softcap: Float = 0, kind = DType.f32

    var keys: Int { first + queries }
    var testDescription: String {
      "\(heads) heads, keys \(keyHeads) × \(keyDim), values \(valueHeads) × \(valueDim), queries \(first)+\(queries), "
        + "causal \(causal), window \(window), softcap \(softcap), \(kind)"
    }
  }

  static let cases = [
    Case(heads: 6, keyHeads: 3, valueHeads: 1, keyDim: 32, valueDim: 80, queries: 1, first: 0),
    Case(heads: 6, keyHeads: 3, valueHeads: 1, keyDim: 32, valueDim: 16, queries: 1, first: 700, kind: .f16),
    Case(heads: 9, keyHeads: 3, valueHeads: 1, keyDim: 64, valueDim: 96, queries: 33, first: 250),
    Case(heads: 4, keyHeads: 1, valueHeads: 1, keyDim: 256, valueDim: 128, queries: 5, first: 300, window: 140),
    Case(heads: 12, keyHeads: 1, valueHeads: 1, keyDim: 48, valueDim: 32, queries: 97, first: 0, causal: false),
    Case(heads: 4, keyHeads: 1, valueHeads: 2, keyDim: 16, valueDim: 32, queries: 31, first: 100, softcap: 8),
    Case(heads: 2, keyHeads: 2, valueHeads: 1, keyDim: 16, valueDim: 16, queries: 300, first: 0, window: 70),
    Case(
      heads: 3, keyHeads: 3, valueHeads: 1, keyDim: 32, valueDim: 48, queries: 150, first: 120, causal: false,
      window: 50),
  ]

  /// A plane in a pool whose blocks lie in no order and whose free slots hold NaN.
  final class Blocks {
    let plane: KVPlane
    private let memory: UnsafeMutableRawPointer
    private let table: UnsafeMutablePointer<Int32>

    init(_ kind: DType, elements: Int, tokens: Int, _ random: inout TestRandom) {
      let (blocks, stride) = ((tokens + 15) / 16, 16 * elements * kind.blockBytes + 64)
      memory = .allocate(byteCount: blocks * stride, alignment: 64)
      memory.initializeMemory(as: UInt8.self, repeating: 0xff, count: blocks * stride)
      table = .allocate(capacity: blocks)
      for (i, block) in (0..<Int32(blocks)).shuffled(using: &random).enumerated() { table[i] = block }
      plane = KVPlane(base: memory, blockStride: stride, table: table, kind: kind)
    }

    deinit {
      memory.deallocate()
      table.deallocate()
    }
  }

  private static func rounded(_ x: [Float], to kind: DType) -> [Float] {
    guard kind == .f16 else { return x }
    return x.map { Float(Float16($0)) }
  }

  private static func expected(_ c: Case, q: [Float], k: [Float], v: [Float]) -> [Double] {
    var out = [Double](repeating: 0, count: c.queries * c.heads * c.valueDim)
    for i in 0..<c.queries {
      let position = c.first + i
      for h in 0..<c.heads {
        let (kh, vh) = (h / (c.heads / c.keyHeads), h / (c.heads / c.valueHeads))
        var seen: [(Int, Double)] = []
        for j in 0..<c.keys {
          if c.causal && j > position { continue }
          if c.window > 0 && (j <= position - c.window || (!c.causal && j >= position + c.window)) { continue }
          var s = 0.0
          for d in 0..<c.keyDim {
            s += Double(q[(i * c.heads + h) * c.keyDim + d]) * Double(k[(j * c.keyHeads + kh) * c.keyDim + d])
          }
          s *= 0.3
          if c.softcap > 0 { s = Double(c.softcap) * tanh(s / Double(c.softcap)) }
          seen.append((j, s))
        }
        let top = seen.map(\.1).max()!
        let total = seen.reduce(0) { $0 + exp($1.1 - top) }
        for d in 0..<c.valueDim {
          out[(i * c.heads + h) * c.valueDim + d] =
            seen.reduce(0) { $0 + exp($1.1 - top) * Double(v[($1.0 * c.valueHeads + vh) * c.valueDim + d]) } / total
        }
      }
    }
    return out
  }

  /// The whole result, from as many calls as `cuts` makes ranges of the keys.
  private static func run(
    _ c: Case, _ table: KernelTable, q: [Float], keys: KVPlane, values: KVPlane, cuts: [Int]
  ) -> [Float] {
    let scratch = TestScratch()
    var out = [Float](repeating: 77, count: c.queries * c.heads * c.valueDim)
    var sums = [Float](repeating: .nan, count: c.queries * c.heads * 2)
    let ends = cuts + [c.keys]
    q.withUnsafeBufferPointer { q in
      out.withUnsafeMutableBufferPointer { out in
        sums.withUnsafeMutableBufferPointer { sums in
          var first = 0
          for end in ends {
            var a = AttentionArguments(
              q: q.baseAddress!, ldq: c.heads * c.keyDim, out: out.baseAddress!, ldo: c.heads * c.valueDim,
              queries: c.queries, heads: c.heads, keyHeads: c.keyHeads, valueHeads: c.valueHeads, headDim: c.keyDim,
              valueDim: c.valueDim, firstPosition: c.first, keyRange: first..<end, causal: c.causal, window: c.window,
              scale: 0.3, softcap: c.softcap, keys: keys, values: values)
            a.sums = sums.baseAddress!
            (a.goesOn, a.isLast) = (first > 0, end == c.keys)
            table.attention(a, 0..<table.attentionItems(a), scratch.base)
            first = end
          }
        }
      }
    }
    return out
  }

  @Test(arguments: cases)
  func `keys and values of different shapes, in one call or in several, agree with the definition`(c: Case) {
    let seed: UInt64 = 51
    var random = TestRandom(seed: seed)
    let q = random.floats(c.queries * c.heads * c.keyDim, in: -2...2)
    let k = random.floats(c.keys * c.keyHeads * c.keyDim), v = random.floats(c.keys * c.valueHeads * c.valueDim)
    let keys = Blocks(c.kind, elements: c.keyHeads * c.keyDim, tokens: c.keys, &random)
    let values = Blocks(c.kind, elements: c.valueHeads * c.valueDim, tokens: c.keys, &random)
    let (kWidth, vWidth) = (c.keyHeads * c.keyDim, c.valueHeads * c.valueDim)
    testTables[0].storeColumns(keys.plane, k, kWidth, c.keys, kWidth, 0)
    testTables[0].storeRows(values.plane, v, vWidth, c.keys, c.valueHeads, c.valueDim, 0)
    let expected = Self.expected(c, q: q, k: Self.rounded(k, to: c.kind), v: Self.rounded(v, to: c.kind))
    let cuts = Array(stride(from: 128, to: c.keys, by: 128))
    for table in testTables {
      let whole = Self.run(c, table, q: q, keys: keys.plane, values: values.plane, cuts: [])
      let worst = zip(whole, expected).map { $0.isNaN ? .infinity : abs(Double($0) - $1) }.max()!
      #expect(worst <= 3e-6, "\(table.level) seed \(seed)")
      for some in [cuts, cuts.filter { $0 % 256 == 0 }] {
        let parts = Self.run(c, table, q: q, keys: keys.plane, values: values.plane, cuts: some)
        #expect(parts == whole, "\(table.level), keys cut at \(some)")
      }
    }
  }

  @Test(arguments: [DType.f32, .f16])
  func `rows come back as they were stored, also from a plane that holds a part of the tokens`(kind: DType) {
    for table in testTables {
      var random = TestRandom(seed: 52)
      let (tokens, width) = (61, 48)
      let x = random.floats(tokens * width, in: -100...100)
      let blocks = Blocks(kind, elements: width, tokens: tokens, &random)
      for (first, count) in [(0, 5), (5, 30), (35, 26)] {
        table.storeRows(blocks.plane, Array(x[(first * width)...]), width, count, 1, width, first)
      }
      var part = blocks.plane
      (part.table, part.firstBlock) = (part.table + 1, 1)
      for (plane, range) in [(blocks.plane, 0..<61), (part, 17..<50)] {
        var y = [Float](repeating: 0, count: range.count * width)
        table.loadRows(plane, &y, width, range, width)
        #expect(y == Self.rounded(Array(x[range.lowerBound * width..<range.upperBound * width]), to: kind))
      }
    }
  }
}
