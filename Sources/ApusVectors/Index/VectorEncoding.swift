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
    // In f64 the squares of f32 stay finite, so this is finite when all of them are.
    var squares = SIMD16<Double>()
    let whole = dim & ~15
    let x = vector.baseAddress!
    for i in stride(from: 0, to: whole, by: 16) {
      let part = SIMD16<Double>(SIMD16(x + i))
      squares += part * part
    }
    var square = squares.sum()
    for i in whole..<dim { square += Double(x[i]) * Double(x[i]) }
    guard square.isFinite else { throw VectorError.notFinite(index: vector.firstIndex { !$0.isFinite }!) }
    if metric == .cosine {
      guard square > 0 else { throw VectorError.zeroVector }
      let scale = 1 / square.squareRoot()
      for i in 0..<dim { row[i] = Float(Double(x[i]) * scale) }
    } else {
      // A square beyond f32 would make every distance infinite.
      guard square < Double(Float.greatestFiniteMagnitude) / 4 else {
        throw VectorError.parameter("the vector's length", seen: "\(square.squareRoot())", expected: "below 9e18")
      }
      row.update(from: x, count: dim)
    }
    for i in dim..<padded { row[i] = 0 }
  }

  /// Throws what `encode` would throw.
  func check(_ vector: UnsafeBufferPointer<Float>) throws {
    try withUnsafeTemporaryAllocation(of: Float.self, capacity: padded) { try encode(vector, to: $0.baseAddress!) }
  }

  /// Writes the code row (`CodeLayout`) of `floats` (`[padded]` f32); offset = ‖codes‖² · scale².
  func encodeCodes(_ floats: UnsafePointer<Float>, to row: UnsafeMutableRawPointer) {
    let codes = (row + CodeLayout.codesOffset).assumingMemoryBound(to: Int8.self)
    let (greatest, _, squares) = Int8Codes.encode(floats, count: padded, to: codes)
    for i in padded..<CodeLayout.codes(dim: dim) { codes[i] = 0 }
    let scale = greatest / 127
    row.storeBytes(of: scale, as: Float.self)
    row.storeBytes(of: Float(squares) * (scale * scale), toByteOffset: 4, as: Float.self)
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
