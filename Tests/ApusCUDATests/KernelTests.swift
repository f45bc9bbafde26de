import ApusCompute
import ApusKernels
import Foundation
import Testing

@testable import ApusCUDA

/// Every kernel against a slow f64 reference on random shapes: the same sources, compiled for this processor, under an
/// emulated driver, and on a GPU where there is one.
@Suite(.serialized) struct KernelTests {
  private static let rows = [1, 2, 31, 33, 97, 130]

  /// bf16: the issue's bar, over results of many elements; a single one is judged by its own rounding.
  private func check(
    _ tensor: Tensor, _ reference: Reference, on device: CUDADevice, _ what: @autoclosure () -> String,
    _ location: SourceLocation = #_sourceLocation
  ) throws {
    let difference = Difference(try device.read(tensor), reference, device.elements)
    let (relative, unexplained) = device.elements == .bf16 ? (2e-3, 1e-3) : (1e-5, 1e-5)
    #expect(difference.unexplained <= unexplained, "\(what()): \(difference)", sourceLocation: location)
    if reference.elements.count >= 64 {
      #expect(difference.relative <= relative, "\(what()): \(difference)", sourceLocation: location)
    }
  }

  /// Runs `body` with both kinds of elements, threads in both orders.
  private func onDevices(_ body: (CUDADevice, inout Operands) throws -> Void) throws {
    for elements in CUDADevice.Elements.allCases {
      for descending in [false, true] {
        let seed = UInt64.random(in: 0...9999)
        print("seed \(seed), \(elements), \(descending ? "descending" : "ascending")")
        TestDevice.order(descending: descending)
        for device in try TestDevice.all(elements) {
          try device.arena.reserve(32 << 20)
          var operands = Operands(device: device, generator: SeededGenerator(seed: seed))
          try body(device, &operands)
        }
      }
    }
    TestDevice.order(descending: false)
  }

  @Test func `Linear: any number of rows, columns and inner columns`() throws {
    try onDevices { device, operands in
      for rows in Self.rows {
        let (columns, inner) = (
          Int.random(in: 1...200, using: &operands.generator), Int.random(in: 1...100, using: &operands.generator)
        )
        let x = try operands.matrix(rows, inner)
        let w = try operands.matrix(columns, inner, scale: 1 / Float(inner).squareRoot())
        let bias = try operands.vector(columns)
        try device.temporaries {
          let out = device.arena.tensor(rows, columns)
          device.linear(x.tensor, [Projection(w.tensor, bias: bias.tensor, out: out)], activations: .int8)
          try check(
            out, x.reference.product(w.reference).plus(bias.reference), on: device, "\(rows)×\(columns)×\(inner)")
        }
      }
    }
  }

  /// A matrix that is some columns of another has rows that can't be copied in pieces of 16 bytes.
  @Test func `Linear reads and writes views whose rows are not aligned`() throws {
    try onDevices { device, operands in
      let x = try operands.matrix(33, 50)
      let w = try operands.matrix(20, 41)
      try device.temporaries {
        let wide = device.arena.tensor(33, 30)
        let out = wide.columns(5..<25)
        device.linear(x.tensor.columns(3..<44), [Projection(w.tensor, out: out)], activations: .int8)
        var left = Reference(zeros: 33, 41)
        for i in 0..<33 { for j in 0..<41 { left[i, j] = x.reference[i, j + 3] } }
        try check(out, left.product(w.reference), on: device, "views")
      }
    }
  }

  // MARK: attention

  private func softmaxAttention(
    _ scores: (Int, Int) -> Double, seen: [Bool], values: (Int, Int) -> Double, queries: Int, width: Int
  ) -> Reference {
    var out = Reference(zeros: queries, width)
    for i in 0..<queries {
      let keys = seen.indices.filter { seen[$0] }
      guard let greatest = keys.map({ scores(i, $0) }).max() else { continue }
      let weights = keys.map { exp(scores(i, $0) - greatest) }
      let total = weights.reduce(0, +)
      for (key, weight) in zip(keys, weights) {
        for c in 0..<width { out[i, c] += weight / total * values(key, c) }
      }
    }
    return out
  }

  private func ranges(_ lengths: [Int]) -> [Range<Int>] {
    var start = 0
    return lengths.map { length in
      defer { start += length }
      return start..<start + length
    }
  }

  @Test(arguments: [32, 64]) func `Attention of sequences of any length`(headDim: Int) throws {
    try onDevices { device, operands in
      for lengths in [[1], [2, 31], [33, 1, 97], [130]] {
        let heads = 2
        let (rows, sequences) = (lengths.reduce(0, +), ranges(lengths))
        let (q, k) = (try operands.matrix(rows, heads * headDim), try operands.matrix(rows, heads * headDim))
        let v = try operands.matrix(rows, heads * headDim)
        let scale = 1 / Float(headDim).squareRoot()
        let form = AttentionForm(heads: heads, kvHeads: heads, headDim: headDim, causal: false, scale: scale)
        var expected = Reference(zeros: rows, heads * headDim)
        for sequence in sequences {
          for head in 0..<heads {
            let first = head * headDim
            let mine = softmaxAttention(
              { i, j in
                let (query, key) = (sequence.lowerBound + i, sequence.lowerBound + j)
                return (0..<headDim).reduce(0.0) {
                  $0 + q.reference[query, first + $1] * k.reference[key, first + $1]
                } * Double(scale)
              }, seen: sequence.map { _ in true }, values: { v.reference[sequence.lowerBound + $0, first + $1] },
              queries: sequence.count, width: headDim)
            for i in 0..<sequence.count {
              for c in 0..<headDim { expected[sequence.lowerBound + i, first + c] = mine[i, c] }
            }
          }
        }
        try device.temporaries {
          let out = device.arena.tensor(rows, heads * headDim)
          device.attention(q.tensor, k.tensor, v.tensor, form, sequences, into: out)
          try check(out, expected, on: device, "\(lengths)")
        }
      }
    }
  }

  /// The kernel itself: factors by head or shared, keys that nobody sees, whole sequences that see nothing, and scores so
  /// great that a softmax without its maximum overflows.
  @Test func `Rank-space attention: any rank, lengths and masks`() throws {
    try onDevices { device, operands in
      for (i, rank) in [1, 7, 16, 31, 33, 48, 64].enumerated() {
        let headDim = rank <= 32 && i % 2 == 0 ? 32 : 64
        let lengths = [[31, 1, 97], [2, 33], [130]][i % 3]
        let (heads, rows, sequences) = (2, lengths.reduce(0, +), ranges(lengths))
        let shared = i % 2 == 0
        let width = shared ? rank : heads * rank
        let large: Float = i == 3 ? 30 : 1
        let (q, k) = (try operands.matrix(rows, width, scale: large), try operands.matrix(rows, width))
        let v = try operands.matrix(rows, width)
        let mix = try operands.matrix(1, heads * rank * rank, scale: 1 / Float(rank).squareRoot())
        let (shift, lift) = (try operands.vector(heads * rank), try operands.matrix(1, heads * rank * headDim))
        let bias = try operands.vector(heads * headDim)
        let scale = 1 / Float(headDim).squareRoot()
        var seen = (0..<rows).map { _ in UInt8(Int.random(in: 0..<4, using: &operands.generator) == 0 ? 0 : 1) }
        if lengths.count > 1 { for row in sequences[0] { seen[row] = 0 } }

        var expected = Reference(zeros: rows, heads * headDim)
        for sequence in sequences {
          for head in 0..<heads {
            let (start, at) = (sequence.lowerBound, shared ? 0 : head * rank)
            let mixed = (0..<sequence.count).map { row in
              (0..<rank).map { b in
                (0..<rank).reduce(shift.reference[head * rank + b]) {
                  $0 + q.reference[start + row, at + $1] * mix.reference.elements[(head * rank + $1) * rank + b]
                }
              }
            }
            let inRank = softmaxAttention(
              { i, j in
                (0..<rank).reduce(0.0) { $0 + mixed[i][$1] * k.reference[start + j, at + $1] } * Double(scale)
              }, seen: sequence.map { seen[$0] != 0 }, values: { v.reference[start + $0, at + $1] },
              queries: sequence.count, width: rank)
            guard sequence.contains(where: { seen[$0] != 0 }) else { continue }
            for row in 0..<sequence.count {
              for d in 0..<headDim {
                expected[start + row, head * headDim + d] = (0..<rank).reduce(bias.reference[head * headDim + d]) {
                  $0 + inRank[row, $1] * lift.reference.elements[(head * rank + $1) * headDim + d]
                }
              }
            }
          }
        }
        try device.temporaries {
          let out = device.arena.tensor(rows, heads * headDim)
          try device.launchAttention(
            q.tensor, k.tensor, v.tensor, head: shared ? 0 : rank, mix: mix.tensor, shift: shift.tensor,
            lift: lift.tensor, bias: bias.tensor, seen: seen, sequences, rank: rank, headDim: headDim, scale: scale,
            heads: heads, into: out)
          try check(out, expected, on: device, "rank \(rank), head \(headDim), \(lengths), shared \(shared)")
        }
      }
    }
  }

  @Test(arguments: [8, 31, 32, 40]) func `Attention of factors is that of the queries, keys and values in full`(
    rank: Int
  ) throws {
    try onDevices { device, operands in
      let (heads, headDim, rows) = (3, 32, 50)
      let p = try operands.matrix(rows, rank)
      func map() throws -> (map: FactoredMap, full: Reference) {
        let weight = try operands.matrix(heads * headDim, rank, scale: 1 / Float(rank).squareRoot())
        let bias = try operands.vector(heads * headDim)
        return (
          FactoredMap(weight.tensor, bias: bias.tensor), p.reference.product(weight.reference).plus(bias.reference)
        )
      }
      let (q, k, v) = (try map(), try map(), try map())
      let form = AttentionForm(
        heads: heads, kvHeads: heads, headDim: headDim, causal: false, scale: 1 / Float(headDim).squareRoot())
      var expected = Reference(zeros: rows, heads * headDim)
      for head in 0..<heads {
        let first = head * headDim
        let mine = softmaxAttention(
          { i, j in
            (0..<headDim).reduce(0.0) { $0 + q.full[i, first + $1] * k.full[j, first + $1] } * Double(form.scale)
          }, seen: Array(repeating: true, count: rows), values: { v.full[$0, first + $1] }, queries: rows,
          width: headDim)
        for i in 0..<rows { for c in 0..<headDim { expected[i, first + c] = mine[i, c] } }
      }
      try device.temporaries {
        let out = device.arena.tensor(rows, heads * headDim)
        device.attention(
          FactoredAttention(p: p.tensor, q: q.map, k: k.map, v: v.map, form: form), [0..<rows], into: out)
        let difference = Difference(try device.read(out), expected, device.elements)
        // In bf16 the factors' product, or queries and keys, are rounded in between.
        #expect(difference.relative <= (device.elements == .bf16 ? 6e-3 : 1e-5), "rank \(rank): \(difference)")
      }
    }
  }

  // MARK: feed-forward

  private func activated(_ activation: Activation, _ x: Double) -> Double {
    switch activation {
    case .silu: x / (1 + exp(-x))
    case .geluErf: 0.5 * x * (1 + erf(x / 2.0.squareRoot()))
    case .geluTanh: 0.5 * x * (1 + tanh((2 / Double.pi).squareRoot() * (x + 0.044715 * x * x * x)))
    case .relu: max(x, 0)
    }
  }

  @Test func `The fused feed-forward: any ranks and inner size, gated or not, every activation`() throws {
    try onDevices { device, operands in
      for (i, rows) in Self.rows.enumerated() {
        let rank = [1, 7, 16, 31, 33, 96][i]
        let inner = [7, 64, 96, 130, 200, 65][i]
        let outRank = [1, 7, 130, 200, 300, 31][i]
        let (isGated, activation) = (i % 2 == 1, Activation.allCases[i % 4])
        let p = try operands.matrix(rows, rank)
        let up = try operands.matrix(inner, rank, scale: 1 / Float(rank).squareRoot())
        let upBias = try operands.vector(inner)
        let gateRank = i % 4 == 1 ? rank : rank + 3
        let gateP = gateRank == rank ? p : try operands.matrix(rows, gateRank)
        let gate = try operands.matrix(inner, gateRank, scale: 1 / Float(gateRank).squareRoot())
        let down = try operands.matrix(outRank, inner, scale: 1 / Float(inner).squareRoot())
        var h = p.reference.product(up.reference).plus(upBias.reference)
        if isGated {
          let g = gateP.reference.product(gate.reference)
          for e in h.elements.indices { h.elements[e] *= activated(activation, g.elements[e]) }
        } else {
          for e in h.elements.indices { h.elements[e] = activated(activation, h.elements[e]) }
        }
        try device.temporaries {
          let s = device.arena.tensor(rows, outRank)
          device.feedForward(
            FactoredFeedForward(
              activation, p: p.tensor, up: FactoredMap(up.tensor, bias: upBias.tensor),
              gate: isGated ? (gateP.tensor, FactoredMap(gate.tensor)) : nil, down: down.tensor), into: s)
          try check(
            s, h.product(down.reference), on: device,
            "\(rows) rows, ranks \(rank), \(outRank), inner \(inner), \(activation), gated \(isGated)")
        }
      }
    }
  }

  // MARK: rows

  @Test func `Rows: gather, norm, activation, sum, mean and length`() throws {
    try onDevices { device, operands in
      for (rows, columns) in [(1, 7), (33, 64), (5, 384), (3, 300)] {
        let (x, y) = (try operands.matrix(rows, columns), try operands.matrix(rows, columns))
        let (weight, bias) = (try operands.vector(columns), try operands.vector(columns))
        let where_ = "\(rows)×\(columns)"
        try device.temporaries {
          let out = device.arena.tensor(rows, columns)
          let ids = (0..<rows).map { _ in Int32.random(in: 0..<Int32(rows), using: &operands.generator) }
          device.gatherRows(x.tensor, device.integers(ids), into: out)
          var expected = Reference(zeros: rows, columns)
          for i in 0..<rows { for c in 0..<columns { expected[i, c] = x.reference[Int(ids[i]), c] } }
          try check(out, expected, on: device, "gather \(where_)")

          device.copy(y.tensor, into: out)
          #expect(try device.read(out) == y.reference.elements.map(Float.init))
          device.clear(out)
          #expect(try device.read(out).allSatisfy { $0 == 0 })

          let epsilon: Float = 1e-6
          device.layerNorm(x.tensor, weight: weight.tensor, bias: bias.tensor, epsilon: epsilon, into: out)
          for i in 0..<rows {
            let row = (0..<columns).map { x.reference[i, $0] }
            let mean = row.reduce(0, +) / Double(columns)
            let variance = row.reduce(0) { $0 + ($1 - mean) * ($1 - mean) } / Double(columns)
            for c in 0..<columns {
              expected[i, c] =
                (row[c] - mean) / (variance + Double(epsilon)).squareRoot() * weight.reference[c] + bias.reference[c]
            }
          }
          try check(out, expected, on: device, "norm \(where_)")

          for activation in Activation.allCases {
            device.activate(activation, gate: x.tensor, up: y.tensor, into: out)
            for e in expected.elements.indices {
              expected.elements[e] = activated(activation, x.reference.elements[e]) * y.reference.elements[e]
            }
            try check(out, expected, on: device, "\(activation) \(where_)")
          }

          device.add(x.tensor, y.tensor, into: out)
          for e in expected.elements.indices {
            expected.elements[e] = x.reference.elements[e] + y.reference.elements[e]
          }
          try check(out, expected, on: device, "add \(where_)")

          let ranges = [0..<rows, 0..<1]
          let means = device.arena.tensor(2, columns)
          device.meanRows(x.tensor, ranges, into: means)
          var mean = Reference(zeros: 2, columns)
          for (i, range) in ranges.enumerated() {
            for c in 0..<columns {
              mean[i, c] = range.reduce(0.0) { $0 + x.reference[$1, c] } / Double(range.count)
            }
          }
          try check(means, mean, on: device, "mean \(where_)")
          device.copy(y.tensor, into: out)
          device.normalizeRows(out)
          for i in 0..<rows {
            let length = (0..<columns).reduce(0.0) { $0 + y.reference[i, $1] * y.reference[i, $1] }.squareRoot()
            for c in 0..<columns { expected[i, c] = y.reference[i, c] / length }
          }
          try check(out, expected, on: device, "length \(where_)")
        }
      }
    }
  }
}

extension CUDADevice {
  /// The attention kernel with all that it takes.
  fileprivate func launchAttention(
    _ q: Tensor, _ k: Tensor, _ v: Tensor, head: Int, mix: Tensor?, shift: Tensor?, lift: Tensor?, bias: Tensor?,
    seen: [UInt8], _ sequences: [Range<Int>], rank: Int, headDim: Int, scale: Float, heads: Int, into out: Tensor
  ) throws {
    // Bytes travel as integers, four at a time.
    let padded = seen + [UInt8](repeating: 0, count: (4 - seen.count % 4) % 4)
    let words = stride(from: 0, to: padded.count, by: 4).map { i in
      Int32(bitPattern: (0..<4).reduce(UInt32(0)) { $0 | UInt32(padded[i + $1]) << (8 * $1) })
    }
    let space = mix.map {
      RankSpace(mix: $0, shift: shift, lift: lift!, bias: bias, sources: nil)
    }
    let form = AttentionForm(heads: heads, kvHeads: heads, headDim: headDim, causal: false, scale: scale)
    temporaries {
      attend(
        (q, head), (k, head), (v, head), rank: rank, space: space, seen: integers(words), form, sequences, into: out)
    }
  }
}
