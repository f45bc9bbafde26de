import ApusCompute
import ApusKernels

/// The role of what changes each row by itself.
public protocol FeedForwardConfig: ConfigNode {
  func make(dim: Int, _ b: Builder) throws -> any FeedForwardLayer
}

public protocol FeedForwardLayer: Module {
  /// `x` and `out` are `[rows, dim]`.
  func callAsFunction(_ x: Tensor, into out: Tensor, _ c: Scope)
}

/// `down(activation(gate·x) ⊙ up·x)`, or `down(activation(up·x))` when not gated (Shazeer 2020): the one feed-forward
/// family.
public struct FeedForward: FeedForwardConfig {
  @Required public var hidden: Int
  public var activation = Activation.silu
  public var gated = true
  public var bias = false
  /// Most of a model's arithmetic is here, and most of it forgives.
  public var activations = ActivationPrecision.int8

  public init() {}
  public init(hidden: Int, activation: Activation = .silu, gated: Bool = true, bias: Bool = false) {
    self.hidden = hidden
    self.activation = activation
    self.gated = gated
    self.bias = bias
  }

  public mutating func visit(_ v: inout some ConfigVisitor) throws {
    try v.field("hidden", \._hidden, &self)
    try v.field("activation", \.activation, &self)
    try v.field("gated", \.gated, &self)
    try v.field("bias", \.bias, &self)
    try v.field("activations", \.activations, &self)
  }

  public func make(dim: Int, _ b: Builder) throws -> any FeedForwardLayer {
    func map(_ name: String, _ rows: Int, _ columns: Int) -> Layer.Map {
      (b.matrix(name + ".weight", rows, columns), bias ? b.vector(name + ".bias", rows) : nil)
    }
    return Layer(
      activation: activation, hidden: hidden, activations: activations, gate: gated ? map("gate", hidden, dim) : nil,
      up: map("up", hidden, dim), down: map("down", dim, hidden))
  }

  private final class Layer: FeedForwardLayer {
    typealias Map = (weight: MatrixParameter, bias: VectorParameter?)
    let activation: Activation
    let hidden: Int
    let activations: ActivationPrecision
    let gate: Map?
    let up, down: Map

    init(
      activation: Activation, hidden: Int, activations: ActivationPrecision, gate: Map?, up: Map, down: Map
    ) {
      self.activation = activation
      self.hidden = hidden
      self.activations = activations
      self.gate = gate
      self.up = up
      self.down = down
    }

    func callAsFunction(_ x: Tensor, into out: Tensor, _ c: Scope) {
      if c.execution.isFused, let factors = factors(c) { return fused(x, factors, into: out, c) }
      c.temporaries {
        let u = c.tensor(x.rows, hidden)
        if let gate {
          let g = c.tensor(x.rows, hidden)
          c.linear(x, activations: activations, (gate.weight, gate.bias, g), (up.weight, up.bias, u))
          c.device.activate(activation, gate: g, up: u, into: u)
        } else {
          c.linear(x, activations: activations, (up.weight, up.bias, u))
          c.device.activate(activation, gate: u, up: nil, into: u)
        }
        c.linear(u, activations: activations, (down.weight, down.bias, out))
      }
    }

    /// Of matrices that are all of low rank.
    private func factors(_ c: Scope) -> (gate: FactorPair?, up: FactorPair, down: FactorPair, inner: Tensor)? {
      guard let up = c[up.weight].factors, let down = c[down.weight].factors, let inner = down.down.weight.stored else {
        return nil
      }
      guard let gate else { return (nil, up, down, inner) }
      return c[gate.weight].factors.map { ($0, up, down, inner) }
    }

    private func fused(
      _ x: Tensor, _ f: (gate: FactorPair?, up: FactorPair, down: FactorPair, inner: Tensor), into out: Tensor,
      _ c: Scope
    ) {
      func map(_ factors: FactorPair, _ bias: VectorParameter?) -> FactoredMap {
        FactoredMap(factors.up, bias: bias.flatMap { c[$0] })
      }
      c.temporaries {
        let s = c.tensor(x.rows, f.down.down.rank)
        c.temporaries {
          let p = c.product(x, with: f.up.down, activations: activations)
          let gate = f.gate.map { factors in
            (
              p: factors.down === f.up.down ? p : c.product(x, with: factors.down, activations: activations),
              map: map(factors, self.gate?.bias)
            )
          }
          c.device.feedForward(
            FactoredFeedForward(activation, p: p, up: map(f.up, up.bias), gate: gate, down: f.inner), into: s)
        }
        let last = map(f.down, down.bias)
        c.device.linear(s, [Projection(last.weight, bias: last.bias, out: out)], activations: activations)
      }
    }
  }
}
