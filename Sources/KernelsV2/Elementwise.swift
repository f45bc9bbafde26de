import CSIMD
import KernelInterface

/// `y[i] = body(x[i])`, 16 at a time; the tail runs in a partly filled vector, so that an element's value depends on
/// nothing but the element.
@inline(__always) private func map(
  _ x: FloatPointer, _ y: MutableFloatPointer, _ n: Int, _ body: (V16) -> V16
) {
  var i = 0
  while i + 16 <= n {
    store16(y + i, body(load16(x + i)))
    i += 16
  }
  if i < n { store16(y + i, body(load16(x + i, count: n - i)), count: n - i) }
}

/// `y[i] = body(a[i], b[i])`.
@inline(__always) private func map(
  _ a: FloatPointer, _ b: FloatPointer, _ y: MutableFloatPointer, _ n: Int, _ body: (V16, V16) -> V16
) {
  var i = 0
  while i + 16 <= n {
    store16(y + i, body(load16(a + i), load16(b + i)))
    i += 16
  }
  if i < n {
    store16(y + i, body(load16(a + i, count: n - i), load16(b + i, count: n - i)), count: n - i)
  }
}

// MARK: activations

/// x / (1 + e^(−x)).
@inline(__always) private func silu16(_ x: V16) -> V16 { x / (1 + exp16(-x)) }

/// 0.5·x·erfc(−x/√2), which keeps its relative precision for negative x, where 1 + erf would cancel.
@inline(__always) private func geluErf16(_ x: V16) -> V16 {
  let e = normalTail16(absolute(x))
  return 0.5 * x * csimd_where_less(x, .zero, e, 2 - e)
}

/// x / (1 + e^(−2u)) with u = √(2/π)·(x + 0.044715·x³), which equals 0.5·x·(1 + tanh u).
@inline(__always) private func geluTanh16(_ x: V16) -> V16 {
  let twice = x * fma(V16(repeating: -1.595_769_12), x * x, V16(repeating: -0.071_354_816_3))
  return x / (1 + exp16(twice))
}

@inline(__always) private func relu16(_ x: V16) -> V16 { csimd_where_less(x, .zero, .zero, x) }

@inline(__always) private func gated(
  _ gate: FloatPointer, _ up: FloatPointer?, _ y: MutableFloatPointer, _ n: Int, _ body: (V16) -> V16
) {
  if let up {
    map(gate, up, y, n) { body($0) * $1 }
  } else {
    map(gate, y, n, body)
  }
}

func activate(_ activation: Activation, _ gate: FloatPointer, _ up: FloatPointer?, _ y: MutableFloatPointer, _ n: Int) {
  switch activation {
  case .silu: gated(gate, up, y, n, silu16)
  case .geluErf: gated(gate, up, y, n, geluErf16)
  case .geluTanh: gated(gate, up, y, n, geluTanh16)
  case .relu: gated(gate, up, y, n, relu16)
  }
}

// MARK: arithmetic

func add(_ a: FloatPointer, _ b: FloatPointer, _ y: MutableFloatPointer, _ n: Int) { map(a, b, y, n) { $0 + $1 } }

func multiply(_ a: FloatPointer, _ b: FloatPointer, _ y: MutableFloatPointer, _ n: Int) {
  map(a, b, y, n) { $0 * $1 }
}

func axpy(_ a: Float, _ x: FloatPointer, _ y: MutableFloatPointer, _ n: Int) {
  let a = V16(repeating: a)
  map(x, FloatPointer(y), y, n) { fma($1, a, $0) }
}

func scale(_ a: Float, _ x: FloatPointer, _ y: MutableFloatPointer, _ n: Int) { map(x, y, n) { a * $0 } }

func softcap(_ cap: Float, _ x: FloatPointer, _ y: MutableFloatPointer, _ n: Int) {
  map(x, y, n) { cap * tanh16($0 / cap) }
}

// MARK: RoPE

/// Rotates pairs of the first `rotaryDim` elements of each head: `(a, b)` becomes `(a·cos − b·sin, b·cos + a·sin)`.
/// `x` is `[rows][heads · headDim]` with stride `ldx`.
func rope(
  _ x: MutableFloatPointer, _ ldx: Int, _ rows: Int, _ heads: Int, _ headDim: Int, _ rotaryDim: Int,
  _ pairing: RotaryPairing, _ cosSin: FloatPointer, _ positions: UnsafePointer<Int32>
) {
  let half = rotaryDim / 2
  for r in 0..<rows {
    let table = cosSin + Int(positions[r]) * rotaryDim
    for h in 0..<heads {
      let head = x + r * ldx + h * headDim
      var i = 0
      while i + 16 <= half {
        let (t0, t1) = (load16(table + 2 * i), load16(table + 2 * i + 16))
        let (c, s) = (csimd_even_lanes(t0, t1), csimd_odd_lanes(t0, t1))
        switch pairing {
        case .interleaved:
          let (p0, p1) = (load16(head + 2 * i), load16(head + 2 * i + 16))
          let (a, b) = (csimd_even_lanes(p0, p1), csimd_odd_lanes(p0, p1))
          let (x, y) = (fma(a * c, -b, s), fma(b * c, a, s))
          store16(head + 2 * i, csimd_interleave_low(x, y))
          store16(head + 2 * i + 16, csimd_interleave_high(x, y))
        case .halfSplit:
          let (a, b) = (load16(head + i), load16(head + half + i))
          store16(head + i, fma(a * c, -b, s))
          store16(head + half + i, fma(b * c, a, s))
        }
        i += 16
      }
      while i < half {
        let (first, second) = pairing == .interleaved ? (2 * i, 2 * i + 1) : (i, i + half)
        let (a, b, c, s) = (head[first], head[second], table[2 * i], table[2 * i + 1])
        head[first] = a * c - b * s
        head[second] = b * c + a * s
        i += 1
      }
    }
  }
}
