import ApusCompute
import ApusModels

/// A feed-forward layer of our own: any other one, its output times a factor.
struct Damped: FeedForwardConfig {
  var inner: any FeedForwardConfig = FeedForward()
  var factor = 1.0

  init() {}
  init(_ inner: any FeedForwardConfig, by factor: Double) {
    self.inner = inner
    self.factor = factor
  }

  mutating func visit(_ v: inout some ConfigVisitor) throws {
    try v.field("inner", \.inner, &self)
    try v.field("factor", \.factor, &self)
  }

  func make(dim: Int, _ b: Builder) throws -> any FeedForwardLayer {
    Layer(inner: try inner.make(dim: dim, b), factor: Float(factor))
  }

  private final class Layer: FeedForwardLayer {
    let inner: any FeedForwardLayer
    let factor: Float

    init(inner: any FeedForwardLayer, factor: Float) {
      self.inner = inner
      self.factor = factor
    }

    func callAsFunction(_ x: Tensor, into out: Tensor, _ c: Scope) {
      inner(x, into: out, c)
      c.device.scale(out, by: factor)
    }
  }
}
