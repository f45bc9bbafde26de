import ApusKernels
import Foundation
import Testing

/// Attention and the KV layout against the definition in Double arithmetic, at every level.
@Suite struct AttentionTests {
  /// One sequence's keys and values, stored into a paged pool whose free slots hold NaN.
  final class Cache {
    let kind: DType, kvHeads: Int, headDim: Int, tokens: Int, blockStride: Int
    let k: UnsafeMutableRawPointer, v: UnsafeMutableRawPointer
    let table: UnsafeMutablePointer<Int32>
    /// What the cache holds, after rounding to `kind`: `[tokens, kvHeads · headDim]`.
    var keys: [Float], values: [Float]

    init(kind: DType, kvHeads: Int, headDim: Int, tokens: Int, kernels: KernelTable, random: inout TestRandom) {
      (self.kind, self.kvHeads, self.headDim, self.tokens) = (kind, kvHeads, headDim, tokens)
      let width = kvHeads * headDim
      let blocks = (tokens + 15) / 16
      blockStride = 16 * width * kind.blockBytes + 64
      let pool = blocks + 2
      k = .allocate(byteCount: pool * blockStride, alignment: 64)
      v = .allocate(byteCount: pool * blockStride, alignment: 64)
      k.initializeMemory(as: UInt8.self, repeating: 0xff, count: pool * blockStride)
      v.initializeMemory(as: UInt8.self, repeating: 0xff, count: pool * blockStride)
      table = .allocate(capacity: blocks)
      for (i, block) in (0..<Int32(pool)).shuffled(using: &random).prefix(blocks).enumerated() { table[i] = block }
      keys = random.floats(tokens * width, in: -2...2)
      values = random.floats(tokens * width)
      // In two pieces, the second starting inside a block.
      let cut = tokens / 3
      for (first, count) in [(0, cut), (cut, tokens - cut)] {
        kernels.storeColumns(keyPlane, [Float](keys[(first * width)...]), width, count, width, first)
        kernels.storeRows(valuePlane, [Float](values[(first * width)...]), width, count, kvHeads, headDim, first)
      }
      if kind == .f16 {
        keys = Self.rounded(keys, kernels)
        values = Self.rounded(values, kernels)
      }
    }

    deinit {
      k.deallocate()
      v.deallocate()
      table.deallocate()
    }

    var keyPlane: KVPlane { KVPlane(base: k, blockStride: blockStride, table: table, kind: kind) }
    var valuePlane: KVPlane { KVPlane(base: v, blockStride: blockStride, table: table, kind: kind) }

    private static func rounded(_ x: [Float], _ kernels: KernelTable) -> [Float] {
      var half = [UInt16](repeating: 0, count: x.count), y = x
      kernels.convertFromFloat(.f16, x, x.count, &half)
      kernels.dequantize(.f16, half, x.count, &y)
      return y
    }
  }

  struct Case: CustomTestStringConvertible {
    var heads = 4, kvHeads = 2, headDim = 32, queries = 5, first = 0, keyCount = 5
    var causal = true, window = 0, softcap: Float = 0, slopes = false, masked = false, kind = DType.f32

    var testDescription: String {
      "\(heads)/\(kvHeads) heads of \(headDim), queries \(first)+\(queries) of \(keyCount) keys, causal \(causal), "
        + "window \(window), softcap \(softcap), ALiBi \(slopes), mask \(masked), \(kind)"
    }
  }

  static let cases = [
    Case(),
    Case(queries: 1, first: 0, keyCount: 1),
    Case(heads: 9, kvHeads: 3, headDim: 64, queries: 1, first: 300, keyCount: 301, kind: .f16),
    Case(heads: 14, kvHeads: 2, headDim: 64, queries: 3, first: 140, keyCount: 143, kind: .f16),
    Case(heads: 4, kvHeads: 1, headDim: 256, queries: 7, first: 33, keyCount: 40, window: 12, kind: .f16),
    Case(heads: 2, kvHeads: 2, headDim: 128, queries: 21, first: 0, keyCount: 21),
    Case(heads: 12, kvHeads: 12, headDim: 32, queries: 19, first: 0, keyCount: 19, causal: false, masked: true),
    Case(heads: 3, kvHeads: 1, headDim: 80, queries: 37, first: 11, keyCount: 48, softcap: 20, kind: .f16),
    Case(heads: 2, kvHeads: 1, headDim: 16, queries: 50, first: 250, keyCount: 300, window: 130),
    Case(heads: 6, kvHeads: 2, headDim: 48, queries: 9, first: 100, keyCount: 150, causal: false, window: 20),
    Case(heads: 8, kvHeads: 4, headDim: 32, queries: 30, first: 5, keyCount: 35, slopes: true, masked: true),
    Case(heads: 26, kvHeads: 1, headDim: 32, queries: 2, first: 30, keyCount: 32, softcap: 5, slopes: true),
  ]

  static func run(
    _ c: Case, _ table: KernelTable, _ cache: Cache, q: [Float], slopes: [Float], mask: [UInt8],
    queries: Range<Int>? = nil, reverse: Bool = false
  ) -> [Float] {
    let scratch = TestScratch()
    let range = queries ?? 0..<c.queries
    let width = c.heads * c.headDim, ldo = width + 5
    var out = [Float](repeating: 77, count: range.count * ldo)
    q.withUnsafeBufferPointer { q in
      slopes.withUnsafeBufferPointer { slopes in
        mask.withUnsafeBufferPointer { mask in
          out.withUnsafeMutableBufferPointer { out in
            let arguments = AttentionArguments(
              q: q.baseAddress! + range.lowerBound * width, ldq: width, out: out.baseAddress!, ldo: ldo,
              queries: range.count, heads: c.heads, keyHeads: c.kvHeads, headDim: c.headDim,
              firstPosition: c.first + range.lowerBound, keyRange: 0..<c.keyCount, causal: c.causal, window: c.window,
              scale: 1 / Float(c.headDim).squareRoot(), softcap: c.softcap,
              slopes: c.slopes ? slopes.baseAddress : nil, keyMask: c.masked ? mask.baseAddress : nil,
              keys: cache.keyPlane,
              values: cache.valuePlane)
            let items = table.attentionItems(arguments)
            // Items are independent: any order and any split gives the same.
            if reverse {
              for item in (0..<items).reversed() { table.attention(arguments, item..<item + 1, scratch.base) }
            } else {
              table.attention(arguments, 0..<items, scratch.base)
            }
          }
        }
      }
    }
    return out
  }

  static func inputs(_ c: Case, _ random: inout TestRandom) -> (q: [Float], slopes: [Float], mask: [UInt8]) {
    let q = random.floats(c.queries * c.heads * c.headDim, in: -2...2)
    let slopes = random.floats(c.heads, in: 0.01...0.5)
    let mask = (0..<c.keyCount).map { _ in UInt8.random(in: 0...2, using: &random) }
    return (q, slopes, mask)
  }

  @Test(arguments: cases)
  func `attention agrees with the definition in Double arithmetic`(c: Case) {
    let seed: UInt64 = 31
    var random = TestRandom(seed: seed)
    let (q, slopes, mask) = Self.inputs(c, &random)
    let cache = Cache(
      kind: c.kind, kvHeads: c.kvHeads, headDim: c.headDim, tokens: c.keyCount, kernels: testTables[0],
      random: &random)
    let width = c.heads * c.headDim, kvWidth = c.kvHeads * c.headDim, ldo = width + 5
    var expected = [Double](repeating: 77, count: c.queries * ldo)
    for i in 0..<c.queries {
      let position = c.first + i
      for h in 0..<c.heads {
        let kv = h / (c.heads / c.kvHeads) * c.headDim
        var scores: [(Int, Double)] = []
        for j in 0..<c.keyCount {
          if c.causal && j > position { continue }
          if c.window > 0 && j <= position - c.window { continue }
          if c.window > 0 && !c.causal && j >= position + c.window { continue }
          if c.masked && mask[j] == 0 { continue }
          var s = 0.0
          for d in 0..<c.headDim {
            s += Double(q[i * width + h * c.headDim + d]) * Double(cache.keys[j * kvWidth + kv + d])
          }
          s /= Double(c.headDim).squareRoot()
          if c.softcap > 0 { s = Double(c.softcap) * tanh(s / Double(c.softcap)) }
          if c.slopes { s += Double(slopes[h]) * Double(j - position) }
          scores.append((j, s))
        }
        let top = scores.map(\.1).max() ?? 0
        let total = scores.reduce(0) { $0 + exp($1.1 - top) }
        for d in 0..<c.headDim {
          let sum = scores.reduce(0) { $0 + exp($1.1 - top) * Double(cache.values[$1.0 * kvWidth + kv + d]) }
          expected[i * ldo + h * c.headDim + d] = scores.isEmpty ? 0 : sum / total
        }
      }
    }
    for table in testTables {
      let out = Self.run(c, table, cache, q: q, slopes: slopes, mask: mask)
      let worst = zip(out, expected).map { ($0.isNaN ? .infinity : abs(Double($0) - $1)) }.max()!
      #expect(worst <= 3e-6, "\(table.level) seed \(seed)")
    }
  }

  @Test(arguments: cases)
  func `a query's result is the same bits whatever the chunk and the item order`(c: Case) {
    var random = TestRandom(seed: 32)
    let (q, slopes, mask) = Self.inputs(c, &random)
    let cache = Cache(
      kind: c.kind, kvHeads: c.kvHeads, headDim: c.headDim, tokens: c.keyCount, kernels: testTables[0],
      random: &random)
    let ldo = c.heads * c.headDim + 5
    for table in testTables {
      let whole = Self.run(c, table, cache, q: q, slopes: slopes, mask: mask)
      #expect(Self.run(c, table, cache, q: q, slopes: slopes, mask: mask, reverse: true) == whole)
      var chunks: [Range<Int>] = [c.queries - 1..<c.queries]
      if c.queries > 2 { chunks += [0..<1, 1..<c.queries] }
      for chunk in chunks {
        // A chunk sees only the keys that exist by then, as in a prefill in pieces.
        var piece = c
        if c.causal { piece.keyCount = min(c.keyCount, c.first + chunk.upperBound) }
        let part = Self.run(piece, table, cache, q: q, slopes: slopes, mask: mask, queries: chunk)
        #expect(part == Array(whole[chunk.lowerBound * ldo..<chunk.upperBound * ldo]), "\(table.level) \(chunk)")
      }
    }
  }

  @Test func `a query that sees no key gives zeros`() {
    var random = TestRandom(seed: 33)
    var c = Case(queries: 3, first: 0, keyCount: 3, causal: false, masked: true)
    let (q, slopes, _) = Self.inputs(c, &random)
    let cache = Cache(kind: .f32, kvHeads: 2, headDim: 32, tokens: 3, kernels: testTables[0], random: &random)
    for table in testTables {
      for keys in [0, 3] {
        c.keyCount = keys
        let out = Self.run(c, table, cache, q: q, slopes: slopes, mask: [0, 0, 0])
        let width = c.heads * c.headDim
        for i in 0..<3 { #expect(out[i * (width + 5)..<i * (width + 5) + width].allSatisfy { $0 == 0 }) }
      }
    }
  }

  @Test(arguments: [DType.f32, .f16])
  func `what is stored is the same bytes at every level, in its own tokens only`(kind: DType) {
    var stored: [[UInt8]] = []
    for table in testTables {
      var random = TestRandom(seed: 34)
      let cache = Cache(kind: kind, kvHeads: 2, headDim: 48, tokens: 53, kernels: table, random: &random)
      var bytes: [UInt8] = []
      for block in 0..<4 {
        for pool in [cache.k, cache.v] {
          let base = UnsafeRawBufferPointer(
            start: pool + Int(cache.table[block]) * cache.blockStride, count: cache.blockStride)
          bytes += base
        }
      }
      // The last block holds 5 of 16 tokens: key slot 5 of head 0, element 0 and value row 5 must be untouched.
      let last = Int(cache.table[3]) * cache.blockStride
      #expect((cache.k + last + 5 * kind.blockBytes).load(as: UInt16.self) == 0xffff)
      #expect((cache.v + last + 5 * 48 * kind.blockBytes).load(as: UInt16.self) == 0xffff)
      // Token 20, head 1, element 7, where the layout says.
      let block = Int(cache.table[1]) * cache.blockStride
      var value: Float = 0, key: Float = 0
      table.dequantize(kind, cache.k + block + ((48 + 7) * 16 + 4) * kind.blockBytes, 1, &key)
      table.dequantize(kind, cache.v + block + ((16 + 4) * 48 + 7) * kind.blockBytes, 1, &value)
      #expect(key == cache.keys[20 * 96 + 48 + 7] && value == cache.values[20 * 96 + 48 + 7])
      stored.append(bytes)
    }
    #expect(stored.allSatisfy { $0 == stored[0] })
  }
}
