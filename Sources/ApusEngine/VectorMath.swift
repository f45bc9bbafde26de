/// Passes over logits, eight lanes at a time: portable Swift that the baseline instruction set runs well, and the same
/// result on every machine.
enum VectorMath {
  typealias Vector = SIMD8<Float>
  static let width = 8

  /// eˣ for x ≤ 0 with a relative error below 2e-7; below −87 the result is 0.
  ///
  /// x = n·ln 2 + r with |r| ≤ ln 2 / 2, then the Taylor polynomial of degree 7 in r, scaled by 2ⁿ through the exponent
  /// bits. ln 2 is split in two (Cody and Waite) so that r is exact.
  @inline(__always)
  static func exp(_ x: Vector) -> Vector {
    let y = x * 1.442_695_04
    let shifted = y.replacing(with: -126, where: y .< -126) + roundingShift
    let n = shifted - roundingShift
    let r = (x - n * 0.693_359_375) + n * 2.121_944_4e-4
    var p = Vector(repeating: 1.0 / 5040)
    p = p * r + 1.0 / 720
    p = p * r + 1.0 / 120
    p = p * r + 1.0 / 24
    p = p * r + 1.0 / 6
    p = p * r + 0.5
    p = p * r + 1
    p = p * r + 1
    // The low bits of `shifted` are n in two's complement.
    let exponent = (unsafeBitCast(shifted, to: SIMD8<Int32>.self) &+ 127) &<< 23
    let scaled = p * unsafeBitCast(exponent, to: Vector.self)
    return scaled.replacing(with: 0, where: x .< -87)
  }

  /// 1.5 · 2²³: adding and subtracting it rounds |x| < 2²² to the nearest integer without an instruction that the
  /// baseline lacks.
  private static let roundingShift: Float = 12_582_912

  /// The same function of one number.
  @inline(__always)
  static func exp(_ x: Float) -> Float { exp(Vector(repeating: x))[0] }

  /// A number at most ln x, for 0 < x ≤ 1, and at most 0.7 below it: from the exponent bits.
  static func logLowerBound(_ x: Float) -> Float { Float(x.exponent) * 0.693_147_2 }

  /// Eight values from `index`.
  @inline(__always)
  static func load(_ x: UnsafePointer<Float>, _ index: Int) -> Vector {
    UnsafeRawPointer(x + index).loadUnaligned(as: Vector.self)
  }

  /// The greatest value and its lowest index; NaN never wins. (−infinity, 0) for an empty buffer.
  static func maximum(_ x: UnsafeBufferPointer<Float>) -> (value: Float, index: Int) {
    guard let base = x.baseAddress else { return (-.infinity, 0) }
    var best = Vector(repeating: -.infinity)
    var i = 0
    while i + width <= x.count {
      let v = load(base, i)
      best.replace(with: v, where: v .> best)
      i += width
    }
    var value = -Float.infinity
    for lane in 0..<width where best[lane] > value { value = best[lane] }
    while i < x.count {
      if x[i] > value { value = x[i] }
      i += 1
    }
    i = 0
    while i + width <= x.count {
      if any(load(base, i) .== value) { break }
      i += width
    }
    while i < x.count {
      if x[i] == value { return (value, i) }
      i += 1
    }
    return (value, 0)
  }

  /// Σ eʸ over a range, with y = (x − maximum) · scale, and Σ y·eʸ, which is 0 unless asked for. Lanes are summed in f32 over at most ``blockSize`` values, blocks in f64.
  @inline(__always)
  static func blockSum(
    _ x: UnsafeBufferPointer<Float>, _ range: Range<Int>, maximum: Float, scale: Float, weighted: Bool
  ) -> (mass: Double, weighted: Double) {
    guard let base = x.baseAddress else { return (0, 0) }
    var mass = Vector.zero
    var moment = Vector.zero
    var i = range.lowerBound
    while i + width <= range.upperBound {
      let y = (load(base, i) - maximum) * scale
      let e = exp(y)
      mass += e
      if weighted { moment += (e * y).replacing(with: 0, where: e .== 0) }
      i += width
    }
    var total = Double(mass.sum())
    var totalMoment = Double(moment.sum())
    while i < range.upperBound {
      let y = (x[i] - maximum) * scale
      let e = exp(y)
      total += Double(e)
      if weighted, e > 0 { totalMoment += Double(e * y) }
      i += 1
    }
    return (total, totalMoment)
  }

  /// How many values are summed in f32 before the sum goes to f64.
  static let blockSize = 1024
}
