import ApusCompute
import ApusModels

/// Layer normalisation without parameters (OLMo, Groeneveld et al. 2024, section 2.1): a norm kind that Apus itself doesn't
/// have, written outside of it as a user would.
struct PlainLayerNorm: NormConfig {
  var epsilon = 1e-5

  mutating func visit(_ v: inout some ConfigVisitor) throws { try v.field("epsilon", \.epsilon, &self) }

  func make(dim: Int, _ b: Builder) throws -> any Norm { Layer(epsilon: Float(epsilon)) }

  private final class Layer: Norm {
    let epsilon: Float

    init(epsilon: Float) { self.epsilon = epsilon }

    func callAsFunction(_ x: Tensor, into out: Tensor, _ c: Scope) {
      c.device.layerNorm(x, weight: nil, bias: nil, epsilon: epsilon, into: out)
    }

    func heads(_ x: Tensor, headDim: Int, _ c: Scope) {
      let all = x.reshaped(x.rows * (x.columns / headDim), headDim)
      c.device.layerNorm(all, weight: nil, bias: nil, epsilon: epsilon, into: all)
    }
  }
}

extension ModelConfig {
  /// The new norm wherever a model normalises.
  /// - Returns: the number of norms changed.
  mutating func enablePlainLayerNorm() throws -> Int {
    try mapSlots((any NormConfig).self) { _ in PlainLayerNorm() }
  }
}
