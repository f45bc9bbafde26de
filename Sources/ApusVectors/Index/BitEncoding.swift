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
  /// c, `[dim]`.
  private let centre: [Float]
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
    centre = (0..<dim).map { scale * Float(codes[$0]) }
    var random = SplitMix64(state: Self.seed)
    signs = (0..<Self.rounds * bits).map { _ in random.next() >> 63 == 0 ? 1 : -1 }
  }

  var rowBytes: Int { BitLayout.bytes(dim: dim) }

  /// x·c of the first `dim` floats.
  private func productWithCentre(_ x: UnsafePointer<Float>) -> Float {
    var sum = 0.0
    for i in 0..<dim { sum += Double(x[i]) * Double(centre[i]) }
    return Float(sum)
  }

  /// `out` (`[bits]`) = the rotation of x − c; returns ‖x − c‖.
  private func rotated(_ x: UnsafePointer<Float>, _ out: UnsafeMutablePointer<Float>) -> Float {
    var square = 0.0
    for i in 0..<dim {
      let y = x[i] - centre[i]
      out[i] = y
      square += Double(y) * Double(y)
    }
    for i in dim..<bits { out[i] = 0 }
    let length = 1 << (Int.bitWidth - 1 - bits.leadingZeroBitCount)
    let half = bits / 2
    let scale = 1 / Float(length).squareRoot()
    let halfRoot = Float(0.5).squareRoot()
    signs.withUnsafeBufferPointer { signs in
      for round in 0..<Self.rounds {
        let signs = signs.baseAddress! + round * bits
        for i in 0..<bits { out[i] *= signs[i] }
        Self.hadamard(out + (round % 2 == 0 ? 0 : bits - length), length, scale)
        guard length < bits else { continue }
        for i in 0..<half {
          let (a, b) = (out[i], out[i + half])
          out[i] = (a + b) * halfRoot
          out[i + half] = (a - b) * halfRoot
        }
      }
    }
    return Float(square.squareRoot())
  }

  /// The Hadamard transform of `length` (a power of two) numbers in place, times `scale`.
  private static func hadamard(_ x: UnsafeMutablePointer<Float>, _ length: Int, _ scale: Float) {
    var step = 1
    while step < length {
      var block = 0
      while block < length {
        for i in block..<block + step {
          let (a, b) = (x[i], x[i + step])
          x[i] = a + b
          x[i + step] = a - b
        }
        block += 2 * step
      }
      step *= 2
    }
    for i in 0..<length { x[i] *= scale }
  }

  /// Writes the row (`BitLayout`) of `floats` (`[dim]` or more).
  func encode(_ floats: UnsafePointer<Float>, to row: UnsafeMutableRawPointer) {
    row.initializeMemory(as: UInt8.self, repeating: 0, count: rowBytes)
    let weight: Float = metric == .l2 ? 2 : 1
    withUnsafeTemporaryAllocation(of: Float.self, capacity: bits) { memory in
      let y = memory.baseAddress!
      let length = rotated(floats, y)
      var base = length * length
      if metric != .l2 {
        // −(x − c)·c
        var square = 0.0
        for i in 0..<dim { square += Double(centre[i]) * Double(centre[i]) }
        base = Float(square) - productWithCentre(floats)
      }
      row.storeBytes(of: base, as: Float.self)
      guard length > 0 else { return }
      var sum = 0.0
      let bytes = (row + BitLayout.bitsOffset).assumingMemoryBound(to: UInt8.self)
      for i in 0..<bits {
        sum += Double(abs(y[i]))
        if y[i] > 0 { bytes[i / 8] |= 1 << UInt8(i % 8) }
      }
      let root = Float(bits).squareRoot()
      // ⟨ō, o⟩
      let agreement = Float(sum) / (length * root)
      row.storeBytes(of: weight * length / (root * agreement), toByteOffset: 4, as: Float.self)
      let spread = max(0, 1 - agreement * agreement).squareRoot() / agreement
      row.storeBytes(
        of: weight * length * spread / Float(max(1, bits - 1)).squareRoot(), toByteOffset: 8, as: Float.self)
    }
  }

  /// Fills `codes` (`[bits]`) for a query and returns what else kernels need.
  func encodeQuery(_ floats: UnsafePointer<Float>, codes: UnsafeMutablePointer<Int8>) -> BitQuery {
    withUnsafeTemporaryAllocation(of: Float.self, capacity: bits) { memory in
      let y = memory.baseAddress!
      let length = rotated(floats, y)
      var greatest: Float = 0
      for i in 0..<bits { greatest = max(greatest, abs(y[i])) }
      let inverse = greatest > 0 ? 127 / greatest : 0
      var sum: Int32 = 0
      for i in 0..<bits {
        let code = inverse.isFinite ? Int32((y[i] * inverse).rounded(.toNearestOrEven)) : 0
        codes[i] = Int8(max(-127, min(127, code)))
        sum += Int32(codes[i])
      }
      return BitQuery(
        codes: UnsafePointer(codes), count: bits, sum: sum, scale: greatest / 127,
        base: metric == .l2 ? length * length : -productWithCentre(floats), error: Self.confidence * length)
    }
  }
}
