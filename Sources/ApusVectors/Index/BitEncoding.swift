import KernelInterface

/// One bit per dimension, from which a bound of the distance follows: RaBitQ (Gao and Long, "RaBitQ: Quantizing
/// High-Dimensional Vectors with a Theoretical Error Bound", SIGMOD 2024, arXiv 2405.12497).
///
/// o = (x − c)/‖x − c‖ is rotated at random; its signs ō estimate ⟨o, q⟩ as ⟨ō, q⟩/⟨ō, o⟩, off by more than
/// ε·√((1 − ⟨ō, o⟩²)/⟨ō, o⟩²)/√(D − 1) in few of all cases (5 % for ε = 1.9). c is the centroid of everything. The rotation
/// is four rounds of random signs, a Hadamard transform of as much as a power of two covers, and a step of Kac's walk.
struct BitEncoding: Sendable {
  let dim: Int
  let metric: VectorMetric
  /// D.
  let bits: Int
  /// c, `[bits]`, the padding 0.
  private let centre: [Float]
  /// ‖c‖².
  private let centreSquare: Float
  /// ±1, `[rounds, bits]`.
  private let signs: [Float]
  private static let rounds = 4
  private static let seed: UInt64 = 0x5261_4269_7451
  /// ε.
  static let confidence: Float = 1.9

  /// The centre is the root's centroid.
  init(encoding: VectorEncoding, tree: ClusterTree) {
    dim = encoding.dim
    metric = encoding.metric
    bits = BitLayout.bits(dim: dim)
    let row = tree.centroids.row(0)
    let (scale, codes) = (row.load(as: Float.self), (row + CodeLayout.codesOffset).assumingMemoryBound(to: Int8.self))
    centre = (0..<bits).map { $0 < encoding.dim ? scale * Float(codes[$0]) : 0 }
    centreSquare = Float(centre.reduce(0.0) { $0 + Double($1) * Double($1) })
    var random = SplitMix64(state: Self.seed)
    signs = (0..<Self.rounds * bits).map { _ in random.next() >> 63 == 0 ? 1 : -1 }
  }

  var rowBytes: Int { BitLayout.bytes(dim: dim) }
  private var padded: Int { (dim + 15) & ~15 }

  /// x·c.
  private func productWithCentre(_ x: UnsafePointer<Float>) -> Float {
    centre.withUnsafeBufferPointer { centre in
      var sum = SIMD16<Double>()
      for i in stride(from: 0, to: padded, by: 16) {
        sum += SIMD16<Double>(SIMD16(x + i)) * SIMD16<Double>(SIMD16(centre.baseAddress! + i))
      }
      return Float(sum.sum())
    }
  }

  /// `out` (`[bits]`, aligned to 64 bytes) = the rotation of x − c; returns ‖x − c‖.
  private func rotated(_ x: UnsafePointer<Float>, _ out: UnsafeMutablePointer<Float>) -> Float {
    let length = 1 << (Int.bitWidth - 1 - bits.leadingZeroBitCount)
    let half = bits / 2
    let scale = 1 / Float(length).squareRoot()
    let halfRoot = Float(0.5).squareRoot()
    var squares = SIMD16<Double>()
    centre.withUnsafeBufferPointer { centre in
      for i in stride(from: 0, to: padded, by: 16) {
        let y = SIMD16(x + i) - SIMD16(centre.baseAddress! + i)
        y.store(out + i)
        squares += SIMD16<Double>(y) * SIMD16<Double>(y)
      }
    }
    for i in padded..<max(padded, bits) { out[i] = 0 }
    signs.withUnsafeBufferPointer { signs in
      for round in 0..<Self.rounds {
        let signs = signs.baseAddress! + round * bits
        for i in stride(from: 0, to: bits, by: 16) { (SIMD16(out + i) * SIMD16(signs + i)).store(out + i) }
        let part = UnsafeMutableRawPointer(out + (round % 2 == 0 ? 0 : bits - length))
        Self.hadamard(part.assumingMemoryBound(to: SIMD4<Float>.self), length / 4, scale)
        guard length < bits else { continue }
        for i in stride(from: 0, to: half, by: 16) {
          let (a, b) = (SIMD16(out + i), SIMD16(out + i + half))
          ((a + b) * halfRoot).store(out + i)
          ((a - b) * halfRoot).store(out + i + half)
        }
      }
    }
    return Float(squares.sum().squareRoot())
  }

  /// The Hadamard transform of 4 · `count` (a power of two) numbers in place, times `scale`.
  private static func hadamard(_ x: UnsafeMutablePointer<SIMD4<Float>>, _ count: Int, _ scale: Float) {
    // The first two steps lie within a vector.
    let (alternating, halves) = (SIMD4<Float>(1, -1, 1, -1), SIMD4<Float>(1, 1, -1, -1))
    for i in 0..<count {
      var v = x[i]
      v = SIMD4(v.y, v.x, v.w, v.z) + v * alternating
      v = SIMD4(v.z, v.w, v.x, v.y) + v * halves
      x[i] = v * scale
    }
    // Then two at a time.
    var step = 1
    while 4 * step <= count {
      var block = 0
      while block < count {
        for i in block..<block + step {
          let (a, b, c, d) = (x[i], x[i + step], x[i + 2 * step], x[i + 3 * step])
          let (aPlusB, aMinusB, cPlusD, cMinusD) = (a + b, a - b, c + d, c - d)
          x[i] = aPlusB + cPlusD
          x[i + step] = aMinusB + cMinusD
          x[i + 2 * step] = aPlusB - cPlusD
          x[i + 3 * step] = aMinusB - cMinusD
        }
        block += 4 * step
      }
      step *= 4
    }
    guard step < count else { return }
    for i in 0..<step { (x[i], x[i + step]) = (x[i] + x[i + step], x[i] - x[i + step]) }
  }

  /// Writes the row (`BitLayout`) of `floats` (`[padded]`).
  func encode(_ floats: UnsafePointer<Float>, to row: UnsafeMutableRawPointer) {
    row.initializeMemory(as: UInt8.self, repeating: 0, count: rowBytes)
    let weight: Float = metric == .l2 ? 2 : 1
    withUnsafeTemporaryAllocation(byteCount: bits * 4, alignment: 64) { memory in
      let y = memory.baseAddress!.assumingMemoryBound(to: Float.self)
      let length = rotated(floats, y)
      var base = length * length
      // −(x − c)·c
      if metric != .l2 { base = centreSquare - productWithCentre(floats) }
      row.storeBytes(of: base, as: Float.self)
      guard length > 0 else { return }
      var sums = SIMD16<Double>()
      let values = SIMD16<UInt32>(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15)
      let powers = SIMD16<UInt32>(repeating: 1) &<< values
      for i in stride(from: 0, to: bits, by: 16) {
        let part = SIMD16(y + i)
        sums += SIMD16<Double>(part.magnitudes)
        let bits = SIMD16<UInt32>().replacing(with: powers, where: part .> 0).wrappedSum()
        row.storeBytes(
          of: UInt16(truncatingIfNeeded: bits).littleEndian, toByteOffset: BitLayout.bitsOffset + i / 8, as: UInt16.self
        )
      }
      let root = Float(bits).squareRoot()
      // ⟨ō, o⟩
      let agreement = Float(sums.sum()) / (length * root)
      row.storeBytes(of: weight * length / (root * agreement), toByteOffset: 4, as: Float.self)
      let spread = max(0, 1 - agreement * agreement).squareRoot() / agreement
      row.storeBytes(
        of: weight * length * spread / Float(max(1, bits - 1)).squareRoot(), toByteOffset: 8, as: Float.self)
    }
  }

  /// Fills `codes` (`[bits]`) for a query (`[padded]`) and returns what else kernels need.
  func encodeQuery(_ floats: UnsafePointer<Float>, codes: UnsafeMutablePointer<Int8>) -> BitQuery {
    withUnsafeTemporaryAllocation(byteCount: bits * 4, alignment: 64) { memory in
      let y = memory.baseAddress!.assumingMemoryBound(to: Float.self)
      let length = rotated(floats, y)
      let (greatest, sum, _) = Int8Codes.encode(y, count: bits, to: codes)
      return BitQuery(
        codes: UnsafePointer(codes), count: bits, sum: sum, scale: greatest / 127,
        base: metric == .l2 ? length * length : -productWithCentre(floats), error: Self.confidence * length)
    }
  }
}
