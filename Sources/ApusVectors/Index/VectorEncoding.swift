import KernelInterface

/// How a vector becomes the rows that are kept: checked, scaled to length 1 under cosine, padded, and coded as int8. All
/// of it is the same to the bit on every machine: plain products and sums in a fixed order, nothing fused.
struct VectorEncoding: Sendable {
  let dim: Int
  let metric: VectorMetric

  /// Floats of a row with padding: kernels read 16 at a time.
  var padded: Int { (dim + 15) & ~15 }
  var floatRowBytes: Int { padded * 4 }
  var codeRowBytes: Int { CodeLayout.bytes(dim: dim) }

  /// Bytes of what a quantizer keeps of a vector; nil for nothing.
  func rowBytes(of quantizer: VectorQuantizer) -> Int? {
    switch quantizer {
    case .none: nil
    case .sq8: codeRowBytes
    case .rabitq: BitLayout.bytes(dim: dim)
    }
  }

  /// Writes the row of `vector` to `row` (`[padded]` f32). Throws `dimension`, `notFinite` or `zeroVector`.
  func encode(_ vector: UnsafeBufferPointer<Float>, to row: UnsafeMutablePointer<Float>) throws {
    guard vector.count == dim else { throw VectorError.dimension(seen: vector.count, expected: dim) }
    var square = 0.0
    for i in 0..<dim {
      let x = vector[i]
      guard x.isFinite else { throw VectorError.notFinite(index: i) }
      square += Double(x) * Double(x)
    }
    if metric == .cosine {
      guard square > 0 else { throw VectorError.zeroVector }
      let scale = 1 / square.squareRoot()
      for i in 0..<dim { row[i] = Float(Double(vector[i]) * scale) }
    } else {
      // A square beyond f32 would make every distance infinite.
      guard square < Double(Float.greatestFiniteMagnitude) / 4 else {
        throw VectorError.parameter("the vector's length", seen: "\(square.squareRoot())", expected: "below 9e18")
      }
      for i in 0..<dim { row[i] = vector[i] }
    }
    for i in dim..<padded { row[i] = 0 }
  }

  /// Throws what `encode` would throw.
  func check(_ vector: UnsafeBufferPointer<Float>) throws {
    try withUnsafeTemporaryAllocation(of: Float.self, capacity: padded) { try encode(vector, to: $0.baseAddress!) }
  }

  /// Writes the code row (`CodeLayout`) of `floats` (`[padded]` f32); offset = ‖codes‖² · scale².
  func encodeCodes(_ floats: UnsafePointer<Float>, to row: UnsafeMutableRawPointer) {
    var greatest: Float = 0
    for i in 0..<dim { greatest = max(greatest, abs(floats[i])) }
    let codes = (row + CodeLayout.codesOffset).assumingMemoryBound(to: Int8.self)
    let count = CodeLayout.codes(dim: dim)
    guard greatest > 0 else {
      row.initializeMemory(as: UInt8.self, repeating: 0, count: codeRowBytes)
      return
    }
    let (scale, inverse) = (greatest / 127, 127 / greatest)
    var square: Int32 = 0
    for i in 0..<dim {
      // A denormal `greatest` makes the inverse infinite.
      let scaled = (floats[i] * inverse).rounded(.toNearestOrEven)
      let code = scaled.isFinite ? Int32(max(-127, min(127, scaled))) : (floats[i] < 0 ? -127 : floats[i] > 0 ? 127 : 0)
      codes[i] = Int8(code)
      square &+= code * code
    }
    for i in dim..<count { codes[i] = 0 }
    row.storeBytes(of: scale, as: Float.self)
    row.storeBytes(of: Float(square) * (scale * scale), toByteOffset: 4, as: Float.self)
  }

  /// The distance that callers see, from the score of the f32 rows: ‖q − x‖² or −q·x.
  func distance(score: Float) -> Float {
    switch metric {
    case .l2, .ip: score
    // Rounding may take the product of two vectors of length 1 beyond 1.
    case .cosine: max(0, 1 + score)
    }
  }
}
