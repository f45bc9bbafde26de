import ApusCompute
import ApusKernels
import Foundation
import Testing

@testable import ApusModels

/// Factors of a matrix `[rows, columns]`, and the matrix in Double.
private struct Factors {
  var down: [Double], up: [Double]
  var rank: Int
  let weight: LowRankWeight

  init(
    _ rows: Int, _ columns: Int, rank: Int, down shared: (factor: DownFactor, values: [Double])? = nil,
    _ random: inout SeededNumbers
  ) {
    func matrix(_ rows: Int, _ columns: Int) -> Tensor {
      let scale = 1 / Float(columns).squareRoot()
      return Tensor(rows, columns, (0..<rows * columns).map { _ in random.float() * scale * 2 })
    }
    let d = shared == nil ? matrix(rank, columns) : nil
    let u = matrix(rows, rank)
    self.rank = rank
    down = shared?.values ?? d!.floatArray().map(Double.init)
    up = u.floatArray().map(Double.init)
    weight = LowRankWeight(down: shared?.factor ?? DownFactor(StoredWeight(d!)), up: StoredWeight(u))
  }

  func applied(to x: [Double]) -> [Double] {
    let p = (0..<rank).map { r in x.indices.reduce(0) { $0 + down[r * x.count + $1] * x[$1] } }
    return (0..<up.count / rank).map { i in (0..<rank).reduce(0) { $0 + up[i * rank + $1] * p[$1] } }
  }
}

@Suite struct LowRankAttentionTests {
  struct Case: CustomTestStringConvertible {
    var heads = 4, kvHeads = 2, headDim = 16
    var keyRank = 24, valueRank = 24, isShared = false
    var bias = false, norm = false
    var pairing: RotaryPairing? = .halfSplit
    var window = 0, causal = true
    /// Rows of the passes, one after another.
    var passes = [33]
    /// Factor on the input: scores grow by its square.
    var size: Float = 1

    var testDescription: String {
      "\(heads)/\(kvHeads) × \(headDim), ranks \(keyRank)/\(valueRank) shared \(isShared), bias \(bias), norm \(norm), "
        + "\(pairing.map { "\($0)" } ?? "no positions"), window \(window), causal \(causal), passes \(passes), × \(size)"
    }
  }

  static let cases =
    [1, 7, 16, 31, 33].map { Case(keyRank: $0, valueRank: 34 - $0, bias: true) }
    + [1, 2, 31, 32, 97].map { Case(kvHeads: 1, norm: true, passes: [$0]) } + [
      Case(keyRank: 16, valueRank: 17),
      Case(keyRank: 20, valueRank: 20, isShared: true, bias: true, passes: [40, 1, 1, 7]),
      Case(keyRank: 20, valueRank: 20, isShared: true, bias: true, pairing: nil, passes: [40, 1, 1, 7]),
      Case(bias: true, pairing: nil, passes: [17, 30]),
      Case(keyRank: 5, valueRank: 9, bias: true, pairing: nil, causal: false, passes: [97]),
      Case(kvHeads: 4, keyRank: 40, valueRank: 30, isShared: false, pairing: nil, causal: false, passes: [33]),
      Case(keyRank: 12, valueRank: 40, norm: true, pairing: .interleaved, window: 9, passes: [50, 1, 20]),
      Case(bias: true, norm: true, window: 150, passes: [300, 1, 1]),
      Case(heads: 2, kvHeads: 1, keyRank: 8, valueRank: 8, passes: [512, 512, 127, 1, 60]),
      Case(heads: 2, kvHeads: 1, headDim: 32, keyRank: 8, valueRank: 8, isShared: true, passes: [1100, 1]),
      Case(bias: true, passes: [40], size: 30),
      Case(bias: true, pairing: nil, passes: [40], size: 30),
    ]

  /// Layouts that these factors allow, by name.
  private static func layouts(_ c: Case) -> [KVLayout] {
    [
      .dense, KVLayout(valueRank: c.valueRank), KVLayout(keyRank: c.keyRank),
      KVLayout(keyRank: c.keyRank, valueRank: c.valueRank, isShared: c.isShared),
    ]
  }

  private static let dim = 64
  private static let epsilon = 1e-6

  /// Outputs of all rows in every layout, and their norm by the definition in Double.
  private struct Outcome {
    var rows: [KVLayout: [Float]] = [:]
    var expected: [Double]
    var greatestValue: Double
  }

  private func outcome(_ c: Case, seed: UInt64, threads: Int = 2) throws -> Outcome {
    var random = SeededNumbers(state: seed)
    var inner: any QKVConfig = LinearQKV(bias: c.bias)
    if c.norm { inner = QKNorm(inner, norm: RMSNorm(epsilon: Self.epsilon)) }
    if let pairing = c.pairing { inner = RoPE(inner, theta: 1e4, pairing: pairing) }
    var config = Attention(heads: c.heads, kvHeads: c.kvHeads, headDim: c.headDim, qkv: inner)
    config.mask = c.causal ? .causal : .bidirectional
    config.window = c.window
    let builder = Builder()
    let width = c.heads * c.headDim
    // As many columns out as heads have elements, through the identity: what comes out is attention itself.
    let layer = try config.make(dim: width, layer: 0, builder)
    let q = Factors(width, width, rank: 30, &random)
    let k = Factors(c.kvHeads * c.headDim, width, rank: c.keyRank, &random)
    let v = Factors(
      c.kvHeads * c.headDim, width, rank: c.valueRank, down: c.isShared ? (k.weight.down, k.down) : nil, &random)
    let matrices = ["query.weight": q.weight, "key.weight": k.weight, "value.weight": v.weight]
    var vectors: [String: [Float]] = [:]
    let parameters = try Parameters(
      builder.table.specs,
      matrix: { spec in
        matrices[spec.path]
          ?? StoredWeight(Tensor(width, width, (0..<width * width).map { $0 / width == $0 % width ? 1 : 0 }))
      },
      vector: { spec in
        let values = (0..<spec.columns).map { _ in random.float() + (spec.path.contains("Norm") ? 1 : 0) }
        vectors[spec.path] = values
        return Tensor(1, spec.columns, values)
      })
    let count = c.passes.reduce(0, +)
    let x = (0..<count * width).map { _ in random.float() * c.size }

    // By the definition.
    func finished(_ y: [Double], _ norm: String, at position: Int, isRotated: Bool) -> [Double] {
      var y = y
      for head in stride(from: 0, to: y.count, by: c.headDim) where isRotated {
        if c.norm {
          let square = (0..<c.headDim).reduce(0) { $0 + y[head + $1] * y[head + $1] } / Double(c.headDim)
          for i in 0..<c.headDim {
            y[head + i] *= Double(vectors[norm]![i]) / (square + Self.epsilon).squareRoot()
          }
        }
        guard let pairing = c.pairing else { continue }
        for i in 0..<c.headDim / 2 {
          let (a, b) =
            pairing == .halfSplit ? (head + i, head + i + c.headDim / 2) : (head + 2 * i, head + 2 * i + 1)
          let angle = Double(position) * pow(1e4, -2 * Double(i) / Double(c.headDim))
          // As the table has them: rounding of the angles is not what is measured here.
          let (cosine, sine) = (Double(Float(cos(angle))), Double(Float(sin(angle))))
          (y[a], y[b]) = (y[a] * cosine - y[b] * sine, y[a] * sine + y[b] * cosine)
        }
      }
      return y
    }
    func row(_ i: Int) -> [Double] { x[i * width..<(i + 1) * width].map(Double.init) }
    func made(_ f: Factors, _ name: String, _ norm: String, _ isRotated: Bool) -> [[Double]] {
      (0..<count).map { i in
        var y = f.applied(to: row(i))
        if let bias = vectors[name + ".bias"] { for j in y.indices { y[j] += Double(bias[j]) } }
        return finished(y, norm, at: i, isRotated: isRotated)
      }
    }
    let queries = made(q, "query", "queryNorm.weight", true)
    let keys = made(k, "key", "keyNorm.weight", true)
    let values = made(v, "value", "", false)
    var expected: [Double] = []
    for i in 0..<count {
      for h in 0..<c.heads {
        let kv = h / (c.heads / c.kvHeads) * c.headDim
        let last = c.causal ? i : count - 1
        let first = c.window > 0 ? max(0, i - c.window + 1) : 0
        let scores = (first...last).map { j in
          (0..<c.headDim).reduce(0) { $0 + queries[i][h * c.headDim + $1] * keys[j][kv + $1] }
            / Double(c.headDim).squareRoot()
        }
        let top = scores.max()!
        let e = scores.map { exp($0 - top) }
        let total = e.reduce(0, +)
        var sums = [Double](repeating: 0, count: c.headDim)
        for (n, weight) in e.enumerated() where weight > 0 {
          for d in 0..<c.headDim { sums[d] += weight / total * values[first + n][kv + d] }
        }
        expected += sums
      }
    }
    var result = Outcome(expected: expected, greatestValue: values.flatMap { $0.map(abs) }.max()!)

    for layout in Self.layouts(c) {
      let ledger = MemoryLedger()
      let device = CPUDevice(threads: threads, precision: .exact, arena: Arena(capacity: 64 << 20, ledger: ledger))
      let shape = layer.kvShape(layout)
      let store: any SequenceKVStore = PagedKVStore(
        [shape], capacity: count + 1, blocks: count / 16 + 3, dtype: .f32, ledger: ledger)
      let sequence = store.makeSequence()
      let other: any KVStore = c.causal ? store : TransientKVStore([shape])
      try store.prepare(sequence, tokens: count)
      var first = 0
      var rows: [Float] = []
      for pass in c.passes {
        var batch = Batch()
        batch.append(sequence: sequence, rows: pass, firstPosition: first)
        let scope = Scope(
          device: device, parameters: parameters, mode: .extend, batch: batch,
          positions: device.integers(batch.positions), kv: other, kvLayouts: [layout], rotary: RotaryTables(),
          execution: .whole, buffers: PassBuffers())
        let out = Tensor(zeros: pass, width)
        layer(Tensor(pass, width, Array(x[first * width..<(first + pass) * width])), into: out, scope)
        rows += out.floatArray()
        first += pass
      }
      result.rows[layout] = rows
    }
    return result
  }

  @Test(arguments: cases)
  func everyFormIsExact(c: Case) throws {
    let seed: UInt64 = 61
    let seen = try outcome(c, seed: seed)
    let size = seen.expected.reduce(0) { $0 + $1 * $1 }.squareRoot()
    for (layout, rows) in seen.rows {
      let error = zip(rows, seen.expected).reduce(0) { $0 + (Double($1.0) - $1.1) * (Double($1.0) - $1.1) }.squareRoot()
      // Of great scores one key takes all, and the rounding of a score in the hundreds decides where two are near: there
      // only what must hold for any weights is asked.
      if c.size == 1 { #expect(error <= 2e-6 * size, "\(layout): \(error / size), seed \(seed)") }
      #expect(rows.allSatisfy { abs(Double($0)) <= seen.greatestValue * 1.0001 }, "\(layout), seed \(seed)")
    }
    let alone = try outcome(c, seed: seed, threads: 1)
    #expect(alone.rows == seen.rows, "the same bits from one thread")
  }

  @Test func aLayerKeepsTheRowsOfItsLayoutAndNoMore() throws {
    var random = SeededNumbers(state: 62)
    func layer(_ qkv: any QKVConfig, window: Int = 0, causal: Bool = true) throws -> (any AttentionLayer, Builder) {
      var config = Attention(heads: 8, kvHeads: 4, headDim: 32, qkv: qkv)
      config.window = window
      config.mask = causal ? .causal : .bidirectional
      let builder = Builder()
      return (try config.make(dim: 256, layer: 0, builder), builder)
    }
    func parameters(_ b: Builder, key: Int?, value: Int?, isShared: Bool = false) throws -> Parameters {
      let k = key.map { Factors(128, 256, rank: $0, &random) }
      let v = value.map { Factors(128, 256, rank: $0, down: isShared ? (k!.weight.down, k!.down) : nil, &random) }
      return try Parameters(
        b.table.specs,
        matrix: { spec in
          switch spec.path {
          case "key.weight": if let k { return k.weight }
          case "value.weight": if let v { return v.weight }
          default: break
          }
          return StoredWeight(Tensor(zeros: spec.rows, spec.columns))
        }, vector: { Tensor(zeros: 1, $0.columns) })
    }
    let rotated = RoPE(LinearQKV(), theta: 1e4, pairing: .halfSplit)
    // Elements a token: whole keys and values have 128 each.
    let expected: [(key: Int?, value: Int?, isShared: Bool, KVLayoutChoice, elements: Int)] = [
      (nil, nil, false, .auto, 256), (nil, nil, false, .rankKV, 256), (24, 40, false, .dense, 256),
      (24, 40, false, .rankV, 128 + 48), (24, 40, false, .rankKV, 32 + 48), (24, nil, false, .rankKV, 32 + 128),
      (nil, 40, false, .rankKV, 128 + 48), (100, 100, true, .rankKV, 112), (100, 100, true, .rankV, 128 + 112),
      // Ranks that spare nothing.
      (200, 200, false, .rankKV, 256), (24, 130, false, .rankV, 256), (24, 130, false, .rankKV, 32 + 128),
      (200, 200, true, .rankKV, 208), (300, 300, true, .rankKV, 256),
      // Left alone: narrow values where they cost less time, never keys that must be lifted.
      (24, 40, false, .auto, 128 + 48), (24, 127, false, .auto, 256), (16, 16, true, .auto, 128 + 16),
    ]
    for (key, value, isShared, choice, elements) in expected {
      let (layer, builder) = try layer(rotated)
      let layout = layer.kvLayout(try parameters(builder, key: key, value: value, isShared: isShared), choice)
      #expect(
        layer.kvShape(layout).bytesPerToken(.f32) == 4 * elements,
        "\(key ?? 0)/\(value ?? 0) shared \(isShared), \(choice): \(layout)")
    }
    let (windowed, b) = try layer(rotated, window: 32)
    #expect(windowed.kvLayout(try parameters(b, key: 24, value: 40), .auto) == .dense)
    #expect(windowed.kvLayout(try parameters(b, key: 24, value: 40), .rankKV) != .dense)
    // In an encoder the form with less arithmetic: narrow rows only below the heads' width.
    for (rank, isNarrow) in [(16, true), (31, true), (33, false), (100, false)] {
      let (encoder, b) = try layer(LinearQKV(bias: true), causal: false)
      let layout = encoder.kvLayout(try parameters(b, key: rank, value: rank), .auto)
      #expect((layout != .dense) == isNarrow, "rank \(rank): \(layout)")
    }
  }
}
