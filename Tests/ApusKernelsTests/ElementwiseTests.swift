import ApusKernels
import Foundation
import Testing

/// Every elementwise, row and reduction kernel against the obvious Double version, at every level.
@Suite struct ElementwiseTests {
  static let lengths = [0, 1, 3, 15, 16, 17, 31, 33, 100, 257]

  /// A dense grid of finite values that covers the interesting range, with zeros and the extremes.
  static func grid(_ low: Double, _ high: Double, _ count: Int) -> [Float] {
    (0..<count).map { Float(low + (high - low) * Double($0) / Double(count - 1)) } + [0, -0.0, 1e-30, -1e-30, 0x1p-140]
  }

  @Test(arguments: testTables.map(\.level))
  func `activations are within a few units in the last place`(level: CPULevel) throws {
    let table = try #require(Kernels.table(level))
    let x = Self.grid(-9, 30, 30_011)
    func exact(_ activation: Activation, _ x: Double) -> Double {
      switch activation {
      case .silu: x / (1 + exp(-x))
      case .geluErf: 0.5 * x * erfc(-x * 0.5.squareRoot())
      case .geluTanh: x / (1 + exp(-2 * (2 / Double.pi).squareRoot() * (x + 0.044715 * x * x * x)))
      case .relu: max(x, 0)
      }
    }
    for activation in Activation.allCases {
      var y = [Float](repeating: .nan, count: x.count)
      table.activate(activation, x, nil, &y, x.count)
      // In the negative tail the rounding of the exponent's argument is amplified by its size (up to 6 where the value
      // is |x|/32); below that the error is judged against |x|/32.
      let worst = zip(x, y).map { ulps($1, exact(activation, Double($0)), floor: Double($0.magnitude) / 32) }.max()!
      #expect(worst <= 6, "\(activation) \(level): \(worst) ulp")
    }
  }

  @Test(arguments: testTables.map(\.level))
  func `gated activations multiply, and may write over either input`(level: CPULevel) throws {
    let table = try #require(Kernels.table(level))
    var random = TestRandom(seed: 11)
    for n in Self.lengths {
      let gate = random.floats(n, in: -5...5)
      let up = random.floats(n)
      for activation in Activation.allCases {
        var alone = gate
        table.activate(activation, gate, nil, &alone, n)
        var y = [Float](repeating: 7, count: n + 1)
        table.activate(activation, gate, up, &y, n)
        #expect(Array(y[..<n]) == zip(alone, up).map { $0 * $1 } && y[n] == 7)
        var inPlace = gate
        inPlace.withUnsafeMutableBufferPointer { p in
          guard let base = p.baseAddress else { return }
          table.activate(activation, base, up, base, n)
        }
        #expect(inPlace == Array(y[..<n]))
      }
    }
  }

  @Test(arguments: testTables.map(\.level))
  func `activations keep infinities and NaN`(level: CPULevel) throws {
    let table = try #require(Kernels.table(level))
    let x: [Float] = [.infinity, .nan, -200, 200, -.greatestFiniteMagnitude]
    for activation in Activation.allCases {
      var y = [Float](repeating: 5, count: x.count)
      table.activate(activation, x, nil, &y, x.count)
      #expect(y[0] == .infinity && y[1].isNaN && y[2].magnitude == 0 && y[3] == 200, "\(activation): \(y)")
      #expect(y[4] == 0, "\(activation) \(level): \(y)")
    }
  }

  @Test(arguments: testTables.map(\.level))
  func `softcap is cap times tanh, within four units in the last place`(level: CPULevel) throws {
    let table = try #require(Kernels.table(level))
    let x = Self.grid(-400, 400, 20_001) + Self.grid(-2, 2, 4_001) + [.infinity, -.infinity]
    for cap in [Float(1), 30, 50] {
      var y = [Float](repeating: .nan, count: x.count)
      table.softcap(cap, x, &y, x.count)
      let worst = zip(x, y).map { ulps($1, Double(cap) * tanh(Double($0) / Double(cap)), floor: 0x1p-120) }.max()!
      #expect(worst <= 4, "\(level): \(worst) ulp")
    }
  }

  @Test(arguments: testTables.map(\.level))
  func `sums, products, axpy and scale are right at every length`(level: CPULevel) throws {
    let table = try #require(Kernels.table(level))
    var random = TestRandom(seed: 12)
    for n in Self.lengths {
      let a = random.floats(n), b = random.floats(n)
      var y = [Float](repeating: 9, count: n + 1)
      table.add(a, b, &y, n)
      #expect(Array(y[..<n]) == zip(a, b).map { $0 + $1 } && y[n] == 9)
      table.multiply(a, b, &y, n)
      #expect(Array(y[..<n]) == zip(a, b).map { $0 * $1 } && y[n] == 9)
      table.scale(-1.5, a, &y, n)
      #expect(Array(y[..<n]) == a.map { -1.5 * $0 } && y[n] == 9)
      y = b + [9]
      table.axpy(0.3, a, &y, n)
      #expect(y[n] == 9)
      for i in 0..<n {
        #expect(abs(Double(y[i]) - (Double(b[i]) + Double(Float(0.3)) * Double(a[i]))) < 1.2e-7)
      }
    }
  }

  @Test(arguments: testTables.map(\.level))
  func `sum, dot and logSumExp agree with Double arithmetic`(level: CPULevel) throws {
    let table = try #require(Kernels.table(level))
    var random = TestRandom(seed: 13)
    for n in Self.lengths + [4096, 4097, 20_003] {
      let x = random.floats(n, in: 0...1), y = random.floats(n)
      let sum = x.reduce(0) { $0 + Double($1) }
      #expect(abs(Double(table.sum(x, n)) - sum) <= 1e-6 * sum)
      let dot = zip(x, y).reduce(0) { $0 + Double($1.0) * Double($1.1) }
      #expect(abs(Double(table.dot(x, y, n)) - dot) <= 2e-6 * Double(max(n, 1)).squareRoot())
      let logits = random.floats(n, in: -30...40)
      let top = logits.max() ?? -.infinity
      let expected = n == 0 ? -.infinity : Double(top) + log(logits.reduce(0) { $0 + exp(Double($1 - top)) })
      #expect(n == 0 ? table.logSumExp(logits, 0) == -.infinity : ulps(table.logSumExp(logits, n), expected) <= 2)
    }
    #expect(table.logSumExp([-.infinity, -.infinity], 2) == -.infinity)
    #expect(table.logSumExp([1, .infinity, -.infinity], 3) == .infinity)
  }

  @Test(arguments: testTables.map(\.level))
  func `argmax takes the lowest index among equals and never NaN`(level: CPULevel) throws {
    let table = try #require(Kernels.table(level))
    var random = TestRandom(seed: 14)
    for _ in 0..<300 {
      let n = Int.random(in: 1...90, using: &random)
      var x = (0..<n).map { _ in Float(Int.random(in: -5...5, using: &random)) }
      for i in 0..<n where Int.random(in: 0..<8, using: &random) == 0 { x[i] = [.nan, -.infinity].randomElement()! }
      var best = -1
      for i in 0..<n where !x[i].isNaN && (best < 0 || x[i] > x[best]) { best = i }
      #expect(table.argmax(x, n) == max(best, 0), "\(x)")
    }
  }

  @Test(arguments: testTables.map(\.level))
  func `norms agree with Double arithmetic on strided rows and in place`(level: CPULevel) throws {
    let table = try #require(Kernels.table(level))
    var random = TestRandom(seed: 15)
    for n in [1, 7, 16, 33, 384, 577] {
      let rows = 3, stride = n + 5
      let x = random.floats(rows * stride, in: 2...5)
      let weight = random.floats(n), bias = random.floats(n)
      let eps: Float = 1e-5
      for useWeight in [false, true] {
        var rms = x, norm = x
        rms.withUnsafeMutableBufferPointer { p in
          table.rmsNorm(p.baseAddress!, stride, useWeight ? weight : nil, eps, p.baseAddress!, stride, rows, n)
        }
        norm.withUnsafeMutableBufferPointer { p in
          table.layerNorm(
            p.baseAddress!, stride, useWeight ? weight : nil, useWeight ? bias : nil, eps, p.baseAddress!, stride,
            rows, n)
        }
        for r in 0..<rows {
          let row = x[r * stride..<r * stride + n].map(Double.init)
          let square = row.reduce(0) { $0 + $1 * $1 } / Double(n)
          let mean = row.reduce(0, +) / Double(n)
          let variance = row.reduce(0) { $0 + ($1 - mean) * ($1 - mean) } / Double(n)
          for i in 0..<n {
            let w = useWeight ? Double(weight[i]) : 1
            let b = useWeight ? Double(bias[i]) : 0
            let expectedRMS = row[i] / (square + Double(eps)).squareRoot() * w
            #expect(ulps(rms[r * stride + i], expectedRMS) <= 4)
            let expected = (row[i] - mean) / (variance + Double(eps)).squareRoot() * w + b
            // One rounding of the mean is worth about 5·2⁻²⁴ before the division by the deviation (about 0.9).
            let tolerance = n == 1 ? 2e-4 : 3e-6
            #expect(abs(Double(norm[r * stride + i]) - expected) <= tolerance)
          }
          for i in n..<stride { #expect(rms[r * stride + i] == x[r * stride + i]) }
        }
      }
    }
  }

  @Test(arguments: testTables.map(\.level))
  func `softmax agrees with Double arithmetic`(level: CPULevel) throws {
    let table = try #require(Kernels.table(level))
    var random = TestRandom(seed: 16)
    for n in [1, 5, 16, 47, 300, 10_000] {
      let stride = n + 3
      var x = random.floats(2 * stride, in: -20...20)
      if n > 4 { x[2] = -.infinity }
      var y = [Float](repeating: 3, count: 2 * stride)
      table.softmax(x, stride, &y, stride, 2, n)
      for r in 0..<2 {
        let row = x[r * stride..<r * stride + n].map(Double.init)
        let top = row.max()!
        let total = row.reduce(0) { $0 + exp($1 - top) }
        for i in 0..<n {
          let expected = exp(row[i] - top) / total
          // The rounding of x − max (half a unit of up to 2⁻²³·40) is amplified by the exponential.
          let relative = row[i] == -.infinity ? 0 : 6e-7 + (top - row[i]) * 0x1p-24
          #expect(abs(Double(y[r * stride + i]) - expected) <= relative * expected)
        }
        #expect(y[r * stride + n] == 3)
      }
    }
    var masked: [Float] = [-.infinity, -.infinity]
    table.softmax(masked, 2, &masked, 2, 1, 2)
    #expect(masked == [0, 0])
  }

  @Test(arguments: testTables.map(\.level), [RotaryPairing.interleaved, .halfSplit])
  func `rope rotates the first rotaryDim elements of every head`(level: CPULevel, pairing: RotaryPairing) throws {
    let table = try #require(Kernels.table(level))
    var random = TestRandom(seed: 17)
    for (headDim, rotary) in [(64, 64), (32, 32), (80, 20), (128, 96), (16, 2)] {
      let rows = 3, heads = 2, stride = heads * headDim + 7, positions: [Int32] = [4, 0, 2]
      let x = random.floats(rows * stride)
      let cosSin: [Float] = (0..<5 * rotary / 2).flatMap { i in
        let angle = Double(i / (rotary / 2)) * pow(10_000, -2 * Double(i % (rotary / 2)) / Double(rotary))
        return [Float(cos(angle)), Float(sin(angle))]
      }
      var y = x
      table.rope(&y, stride, rows, heads, headDim, rotary, pairing, cosSin, positions)
      var expected = x.map(Double.init)
      for r in 0..<rows {
        for h in 0..<heads {
          for i in 0..<rotary / 2 {
            let base = r * stride + h * headDim
            let (p, q) = pairing == .interleaved ? (base + 2 * i, base + 2 * i + 1) : (base + i, base + i + rotary / 2)
            let c = Double(cosSin[Int(positions[r]) * rotary + 2 * i])
            let s = Double(cosSin[Int(positions[r]) * rotary + 2 * i + 1])
            expected[p] = Double(x[p]) * c - Double(x[q]) * s
            expected[q] = Double(x[q]) * c + Double(x[p]) * s
          }
        }
      }
      for i in x.indices { #expect(abs(Double(y[i]) - expected[i]) <= 1.5e-7, "\(headDim) \(rotary) \(i)") }
    }
  }

  @Test func `every f16 and bf16 value converts to f32 exactly and back, at every level`() {
    let all = (0...UInt16.max).map { $0 }
    for table in testTables {
      for kind in [DType.f16, .bf16] {
        var x = [Float](repeating: 0, count: all.count)
        table.dequantize(kind, all, all.count, &x)
        var back = [UInt16](repeating: 0, count: all.count)
        table.convertFromFloat(kind, x, x.count, &back)
        for i in all.indices {
          let expected = kind == .f16 ? exactHalf(all[i]) : Double(Float(bitPattern: UInt32(all[i]) << 16))
          if expected.isNaN {
            if !x[i].isNaN || !isNaN(back[i], kind) { Issue.record("\(table.level) \(kind) \(i): lost a NaN") }
          } else if Double(x[i]) != expected || back[i] != all[i] {
            Issue.record("\(table.level) \(kind) \(i): \(x[i]) for \(expected), back \(back[i])")
          }
        }
      }
    }
  }

  @Test func `f32 to f16 and bf16 rounds to nearest even, at every level`() {
    let seed: UInt64 = 18
    var random = TestRandom(seed: seed)
    // Any bit patterns, values around the f16 range, and exact ties.
    var x = (0..<20_000).map { _ in Float(bitPattern: UInt32(truncatingIfNeeded: random.next())) }
    x += random.floats(10_000, in: -70_000...70_000) + random.floats(10_000, in: -1e-4...1e-4)
    x += (0..<2_000).map { _ in Float(bitPattern: UInt32(truncatingIfNeeded: random.next()) & 0xffff_e000 | 0x1000) }
    x += [65519, 65520, 65536, 0x1p-24, 0x1p-25, 0x1.000002p-25, .infinity, -.infinity, 3.4e38, -3.4e38]
    for table in testTables {
      for kind in [DType.f16, .bf16] {
        var h = [UInt16](repeating: 0, count: x.count)
        table.convertFromFloat(kind, x, x.count, &h)
        for i in x.indices {
          if x[i].isNaN {
            if !isNaN(h[i], kind) { Issue.record("\(table.level) \(kind): NaN became \(h[i])") }
          } else if h[i] != nearest(x[i], kind) {
            Issue.record("\(table.level) \(kind) seed \(seed): \(x[i]) became \(h[i]), not \(nearest(x[i], kind))")
          }
        }
      }
    }
  }

  private func isNaN(_ h: UInt16, _ kind: DType) -> Bool { kind == .f16 ? h & 0x7fff > 0x7c00 : h & 0x7fff > 0x7f80 }

  private func exactHalf(_ h: UInt16) -> Double {
    let exponent = Int(h >> 10 & 31), significand = Double(h & 0x3ff)
    let sign: Double = h >> 15 == 1 ? -1 : 1
    if exponent == 31 { return significand == 0 ? sign * .infinity : .nan }
    return sign * (exponent == 0 ? significand * 0x1p-24 : (1024 + significand) * exp2(Double(exponent - 25)))
  }

  /// The pattern of the nearest value, by counting steps of that value's binade.
  private func nearest(_ x: Float, _ kind: DType) -> UInt16 {
    let sign = UInt16(x.sign == .minus ? 0x8000 : 0)
    if kind == .bf16 {
      let bits = x.magnitude.bitPattern
      let low = bits & 0xffff, high = UInt16(bits >> 16)
      return sign | (low > 0x8000 || (low == 0x8000 && high & 1 == 1) ? high + 1 : high)
    }
    let a = Double(x.magnitude)
    if a >= 65520 { return sign | 0x7c00 }
    let exponent = max(a == 0 ? -14 : Int(a.exponent), -14)
    let steps = (a / exp2(Double(exponent - 10))).rounded(.toNearestOrEven)
    return sign | UInt16(Int(steps) + (exponent + 14) << 10)
  }

  @Test(arguments: testTables.map(\.level))
  func `the measuring loops count what they did and read what they were given`(level: CPULevel) throws {
    let table = try #require(Kernels.table(level))
    #expect(table.fmaLoop(1000) > 0)
    #expect(table.fmaLoop(2000) == 2 * table.fmaLoop(1000))
    var random = TestRandom(seed: 19)
    for count in [0, 1, 255, 256, 1000] {
      var bytes = (0..<count).map { _ in UInt8(truncatingIfNeeded: random.next()) }
      let before = table.readLoop(bytes, count)
      if count > 0 {
        bytes[count - 1] ^= 0x10
        #expect(table.readLoop(bytes, count) != before)
        bytes[count - 1] ^= 0x10
        bytes[0] ^= 1
        #expect(table.readLoop(bytes, count) != before)
      }
    }
  }
}
