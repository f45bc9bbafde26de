import CSIMD
import KernelInterface

#if canImport(Glibc)
  import Glibc
#elseif canImport(Darwin)
  import Darwin
#endif

/// Elements whose sum is kept in f32 before it is added in f64.
private let sumBlock = 4096

/// Σ body(i, vector number i): four f32 vectors of partial sums per block of 4096 elements, the blocks in f64.
@inline(__always) private func blockedSum(_ n: Int, _ term: (Int, Int) -> V16) -> Double {
  var total = 0.0
  var first = 0
  while first < n {
    let end = min(first + sumBlock, n)
    var (s0, s1, s2, s3) = (V16.zero, V16.zero, V16.zero, V16.zero)
    var i = first
    while i + 64 <= end {
      s0 += term(i, 16)
      s1 += term(i + 16, 16)
      s2 += term(i + 32, 16)
      s3 += term(i + 48, 16)
      i += 64
    }
    while i < end {
      s0 += term(i, min(16, end - i))
      i += 16
    }
    total += sum16InDouble((s0 + s1) + (s2 + s3))
    first = end
  }
  return total
}

@inline(__always) private func load(_ p: FloatPointer, _ count: Int) -> V16 {
  count == 16 ? load16(p) : load16(p, count: count)
}

func sum(_ x: FloatPointer, _ n: Int) -> Float { Float(blockedSum(n) { load(x + $0, $1) }) }

func dot(_ x: FloatPointer, _ y: FloatPointer, _ n: Int) -> Float {
  var total = 0.0
  var first = 0
  while first < n {
    let end = min(first + sumBlock, n)
    var (s0, s1, s2, s3) = (V16.zero, V16.zero, V16.zero, V16.zero)
    var i = first
    while i + 64 <= end {
      s0 = fma(s0, load16(x + i), load16(y + i))
      s1 = fma(s1, load16(x + i + 16), load16(y + i + 16))
      s2 = fma(s2, load16(x + i + 32), load16(y + i + 32))
      s3 = fma(s3, load16(x + i + 48), load16(y + i + 48))
      i += 64
    }
    while i + 16 <= end {
      s0 = fma(s0, load16(x + i), load16(y + i))
      i += 16
    }
    if i < end { s1 = fma(s1, load16(x + i, count: end - i), load16(y + i, count: end - i)) }
    total += sum16InDouble((s0 + s1) + (s2 + s3))
    first = end
  }
  return Float(total)
}

/// The greatest element, −∞ when there is none; NaN never wins.
@inline(__always) private func maximum(_ x: FloatPointer, _ n: Int) -> Float {
  var m = V16(repeating: -.infinity)
  var i = 0
  while i + 16 <= n {
    m = greater(m, load16(x + i))
    i += 16
  }
  if i < n { m = greater(m, load16(x + i, count: n - i, fill: -.infinity)) }
  return max16(m)
}

func argmax(_ x: FloatPointer, _ n: Int) -> Int {
  let best = maximum(x, n)
  var i = 0
  while i + 16 <= n {
    if csimd_any_equal(load16(x + i), V16(repeating: best)) != 0 { break }
    i += 16
  }
  while i < n {
    if x[i] == best { return i }
    i += 1
  }
  return 0
}

func logSumExp(_ x: FloatPointer, _ n: Int) -> Float {
  let m = maximum(x, n)
  // Nothing but −∞ (or nothing at all) sums to 0; one +∞ makes the sum +∞.
  if m.isInfinite { return m }
  var total = 0.0
  var first = 0
  while first < n {
    let end = min(first + sumBlock, n)
    var (s0, s1) = (V16.zero, V16.zero)
    while first + 32 <= end {
      s0 += exp16(load16(x + first) - m)
      s1 += exp16(load16(x + first + 16) - m)
      first += 32
    }
    while first < end {
      let count = min(16, end - first)
      s0 += exp16((count == 16 ? load16(x + first) : load16(x + first, count: count, fill: -.infinity)) - m)
      first += count
    }
    total += sum16InDouble(s0 + s1)
  }
  return Float(Double(m) + log(total))
}

// MARK: rows

func rmsNorm(
  _ x: FloatPointer, _ ldx: Int, _ weight: FloatPointer?, _ eps: Float, _ y: MutableFloatPointer, _ ldy: Int,
  _ rows: Int, _ n: Int
) {
  for r in 0..<rows {
    let (x, y) = (x + r * ldx, y + r * ldy)
    let squares = blockedSum(n) {
      let v = load(x + $0, $1)
      return v * v
    }
    let factor = Float(1 / (squares / Double(n) + Double(eps)).squareRoot())
    var i = 0
    while i < n {
      let count = min(16, n - i)
      var v = load(x + i, count) * factor
      if let weight { v *= load(weight + i, count) }
      if count == 16 { store16(y + i, v) } else { store16(y + i, v, count: count) }
      i += 16
    }
  }
}

func layerNorm(
  _ x: FloatPointer, _ ldx: Int, _ weight: FloatPointer?, _ bias: FloatPointer?, _ eps: Float,
  _ y: MutableFloatPointer, _ ldy: Int, _ rows: Int, _ n: Int
) {
  for r in 0..<rows {
    let (x, y) = (x + r * ldx, y + r * ldy)
    let mean = Float(blockedSum(n) { load(x + $0, $1) } / Double(n))
    // The squares of the tail's empty lanes must stay zero.
    let squares = blockedSum(n) {
      let v = $1 == 16 ? load16(x + $0) - mean : load16(x + $0, count: $1, fill: mean) - mean
      return v * v
    }
    let factor = Float(1 / (squares / Double(n) + Double(eps)).squareRoot())
    var i = 0
    while i < n {
      let count = min(16, n - i)
      var v = (load(x + i, count) - mean) * factor
      if let weight { v *= load(weight + i, count) }
      if let bias { v += load(bias + i, count) }
      if count == 16 { store16(y + i, v) } else { store16(y + i, v, count: count) }
      i += 16
    }
  }
}

func softmax(_ x: FloatPointer, _ ldx: Int, _ y: MutableFloatPointer, _ ldy: Int, _ rows: Int, _ n: Int) {
  for r in 0..<rows {
    let (x, y) = (x + r * ldx, y + r * ldy)
    let m = maximum(x, n)
    let shift = m == -.infinity ? 0 : m
    var total = 0.0
    var first = 0
    while first < n {
      let end = min(first + sumBlock, n)
      var part = V16.zero
      while first + 16 <= end {
        let e = exp16(load16(x + first) - shift)
        store16(y + first, e)
        part += e
        first += 16
      }
      if first < end {
        let e = exp16(load16(x + first, count: end - first, fill: -.infinity) - shift)
        store16(y + first, e, count: end - first)
        part += e
        first = end
      }
      total += sum16InDouble(part)
    }
    scale(total == 0 ? 0 : Float(1 / total), FloatPointer(y), y, n)
  }
}
