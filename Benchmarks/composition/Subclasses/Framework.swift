// The contrast: how a framework without slots is commonly written. A flat config per model file, an attention, MLP and
// block class per model, shared numerical functions below. It is idiomatic for its kind, compiles, and is never run:
// run.py counts the lines that each model file needs for a feature. Implementations of features live here, uncounted,
// as they would in a shared library. In the model files `// +F` marks a line that feature F adds or changes, and a line
// that starts with `//-F ` is what stood there before.

import Foundation

public typealias Rows = [[Float]]

open class Module {
  public init() {}
}

public final class Linear: Module {
  var weight: Rows
  var bias: [Float]?

  public init(_ inputs: Int, _ outputs: Int, bias: Bool = false) {
    weight = Array(repeating: Array(repeating: 0, count: inputs), count: outputs)
    self.bias = bias ? Array(repeating: 0, count: outputs) : nil
  }

  public func callAsFunction(_ x: Rows) -> Rows {
    x.map { row in
      weight.indices.map { o in zip(weight[o], row).reduce(bias?[o] ?? 0) { $0 + $1.0 * $1.1 } }
    }
  }
}

public final class Embedding: Module {
  var weight: Rows

  public init(_ count: Int, _ dim: Int) { weight = Array(repeating: Array(repeating: 0, count: dim), count: count) }
  public func callAsFunction(_ ids: [Int]) -> Rows { ids.map { weight[$0] } }
  public func asHead(_ x: Rows) -> Rows { x.map { row in weight.map { zip($0, row).reduce(0) { $0 + $1.0 * $1.1 } } } }
}

open class Norm: Module {
  open func callAsFunction(_ x: Rows) -> Rows { x }
}

public final class RMSNorm: Norm {
  let weight: [Float]
  let epsilon: Float

  public init(_ dim: Int, _ epsilon: Float) {
    weight = Array(repeating: 1, count: dim)
    self.epsilon = epsilon
  }

  public override func callAsFunction(_ x: Rows) -> Rows {
    x.map { row in
      let scale = 1 / (row.reduce(0) { $0 + $1 * $1 } / Float(row.count) + epsilon).squareRoot()
      return zip(row, weight).map { $0 * scale * $1 }
    }
  }
}

public final class LayerNorm: Norm {
  let epsilon: Float

  public init(_ dim: Int, _ epsilon: Float) { self.epsilon = epsilon }

  public override func callAsFunction(_ x: Rows) -> Rows {
    x.map { row in
      let mean = row.reduce(0, +) / Float(row.count)
      let variance = row.reduce(0) { $0 + ($1 - mean) * ($1 - mean) } / Float(row.count)
      return row.map { ($0 - mean) / (variance + epsilon).squareRoot() }
    }
  }
}

/// The second norm kind, chosen by name.
public func makeNorm(_ kind: String, _ dim: Int, _ epsilon: Float) -> Norm {
  kind == "layer" ? LayerNorm(dim, epsilon) : RMSNorm(dim, epsilon)
}

public func rope(_ x: Rows, headDim: Int, theta: Float) -> Rows {
  x.enumerated().map { position, row in
    var out = row
    for start in stride(from: 0, to: row.count, by: headDim) {
      for i in 0..<headDim / 2 {
        let angle = Float(position) * pow(theta, -2 * Float(i) / Float(headDim))
        let (a, b) = (row[start + i], row[start + i + headDim / 2])
        out[start + i] = a * cos(angle) - b * sin(angle)
        out[start + i + headDim / 2] = b * cos(angle) + a * sin(angle)
      }
    }
    return out
  }
}

public func alibiSlopes(_ heads: Int) -> [Float] { (0..<heads).map { pow(2, -8 * Float($0 + 1) / Float(heads)) } }

public func attention(
  _ q: Rows, _ k: Rows, _ v: Rows, heads: Int, slopes: [Float]? = nil, kvHeads: Int, causal: Bool = true,
  window: Int = 0
) -> Rows {
  let size = q[0].count / heads
  return q.indices.map { i in
    (0..<heads).flatMap { head -> [Float] in
      let kvStart = head / (heads / kvHeads) * size
      let keys = k.indices.filter { (!causal || $0 <= i) && (window == 0 || i - $0 < window) }
      var scores = keys.map { j in
        (0..<size).reduce(Float(0)) { $0 + q[i][head * size + $1] * k[j][kvStart + $1] } / Float(size).squareRoot()
          + (slopes?[head] ?? 0) * Float(j - i)
      }
      let top = scores.max() ?? 0
      scores = scores.map { exp($0 - top) }
      let sum = scores.reduce(0, +)
      return (0..<size).map { e in zip(keys, scores).reduce(0) { $0 + $1.1 / sum * v[$1.0][kvStart + e] } }
    }
  }
}

public func silu(_ x: Float) -> Float { x / (1 + exp(-x)) }
public func gelu(_ x: Float) -> Float { 0.5 * x * (1 + tanh(0.797_884_6 * (x + 0.044_715 * x * x * x))) }
public func + (a: Rows, b: Rows) -> Rows { zip(a, b).map { zip($0, $1).map { $0 + $1 } } }

open class FeedForwardBase: Module {
  open func callAsFunction(_ x: Rows) -> Rows { x }
}

/// Routes each row to its best expert.
public final class MixtureLayer: FeedForwardBase {
  let router: Linear
  let experts: [FeedForwardBase]

  public init(_ dim: Int, _ experts: Int, _ make: () -> FeedForwardBase) {
    router = Linear(dim, experts)
    self.experts = (0..<experts).map { _ in make() }
  }

  public override func callAsFunction(_ x: Rows) -> Rows {
    x.map { row in
      let scores = router([row])[0]
      return experts[scores.indices.max { scores[$0] < scores[$1] } ?? 0]([row])[0]
    }
  }
}
