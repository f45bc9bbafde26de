import ApusCompute

/// The role of a normalisation.
public protocol NormConfig: ConfigNode {
  func make(dim: Int, _ b: Builder) throws -> any Norm
}

/// Normalises each row.
public protocol Norm: Module {
  func callAsFunction(_ x: Tensor, into out: Tensor, _ c: Scope)
  /// Each head of `headDim` elements, in place.
  func heads(_ x: Tensor, headDim: Int, _ c: Scope)
}

/// x / √(mean(x²) + ε) · weight (Zhang & Sennrich 2019).
public struct RMSNorm: NormConfig {
  public var epsilon = 1e-6

  public init() {}
  public init(epsilon: Double) { self.epsilon = epsilon }

  public mutating func visit(_ v: inout some ConfigVisitor) throws { try v.field("epsilon", \.epsilon, &self) }

  public func make(dim: Int, _ b: Builder) throws -> any Norm {
    Layer(weight: b.vector("weight", dim), epsilon: Float(epsilon))
  }

  private final class Layer: Norm {
    let weight: VectorParameter
    let epsilon: Float

    init(weight: VectorParameter, epsilon: Float) {
      self.weight = weight
      self.epsilon = epsilon
    }

    func callAsFunction(_ x: Tensor, into out: Tensor, _ c: Scope) {
      c.device.rmsNorm(x, weight: c[weight], epsilon: epsilon, into: out)
    }

    func heads(_ x: Tensor, headDim: Int, _ c: Scope) {
      c.device.rmsNormHeads(x, headDim: headDim, weight: c[weight], epsilon: epsilon)
    }
  }
}

/// (x − mean) / √(var + ε) · weight + bias (Ba et al. 2016).
public struct LayerNorm: NormConfig {
  public var epsilon = 1e-5

  public init() {}
  public init(epsilon: Double) { self.epsilon = epsilon }

  public mutating func visit(_ v: inout some ConfigVisitor) throws { try v.field("epsilon", \.epsilon, &self) }

  public func make(dim: Int, _ b: Builder) throws -> any Norm {
    Layer(weight: b.vector("weight", dim), bias: b.vector("bias", dim, optional: true), epsilon: Float(epsilon))
  }

  private final class Layer: Norm {
    let weight: VectorParameter
    let bias: VectorParameter
    let epsilon: Float

    init(weight: VectorParameter, bias: VectorParameter, epsilon: Float) {
      self.weight = weight
      self.bias = bias
      self.epsilon = epsilon
    }

    func callAsFunction(_ x: Tensor, into out: Tensor, _ c: Scope) {
      c.device.layerNorm(x, weight: c[weight], bias: c[bias], epsilon: epsilon, into: out)
    }

    func heads(_ x: Tensor, headDim: Int, _ c: Scope) {
      let perHead = x.rows * (x.columns / headDim)
      let all = x.reshaped(perHead, headDim)
      c.device.layerNorm(all, weight: c[weight], bias: c[bias], epsilon: epsilon, into: all)
    }
  }
}
