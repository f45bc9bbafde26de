import ApusCompute
import ApusKernels

/// A sparse mixture of experts in place of a feed-forward layer (Shazeer et al. 2017): each row goes to its `topK` experts,
/// whose outputs are weighted by the renormalised router probabilities. No capacity limit: no row is dropped.
public struct MixtureOfExperts: FeedForwardConfig {
  public var expert: any FeedForwardConfig = FeedForward()
  public var experts = 8
  public var topK = 2

  public init() {}
  public init(expert: any FeedForwardConfig, experts: Int, topK: Int = 2) {
    self.expert = expert
    self.experts = experts
    self.topK = topK
  }

  public mutating func visit(_ v: inout some ConfigVisitor) throws {
    try v.field("expert", \.expert, &self)
    try v.field("experts", \.experts, &self)
    try v.field("topK", \.topK, &self)
  }

  public func make(dim: Int, _ b: Builder) throws -> any FeedForwardLayer {
    guard topK >= 1, topK <= experts else {
      throw ConfigError(path: b.path, problem: "top \(topK) of \(experts) experts")
    }
    return Layer(
      router: b.matrix("router.weight", experts, dim), topK: topK,
      experts: try (0..<experts).map { try expert.make(dim: dim, b.child("experts", $0)) })
  }

  private final class Layer: FeedForwardLayer {
    let router: MatrixParameter
    let topK: Int
    let experts: [any FeedForwardLayer]

    init(router: MatrixParameter, topK: Int, experts: [any FeedForwardLayer]) {
      self.router = router
      self.topK = topK
      self.experts = experts
    }

    func callAsFunction(_ x: Tensor, into out: Tensor, _ c: Scope) {
      c.temporaries {
        let probabilities = c.tensor(x.rows, experts.count)
        c.linear(x, activations: .int8x2, (router, nil, probabilities))
        c.device.softmax(probabilities)
        let routes = c.device.topRows(probabilities, topK)
        c.device.clear(out)
        // Room for the worst case, so that the plan doesn't depend on where the rows go.
        let input = c.tensor(x.rows, x.columns)
        let output = c.tensor(x.rows, x.columns)
        for (e, expert) in experts.enumerated() where !routes[e].rows.isEmpty {
          c.temporaries {
            let count = routes[e].rows.count
            let ids = c.device.integers(routes[e].rows)
            let weights = c.tensor(1, count)
            c.device.set(weights, routes[e].weights)
            c.device.gatherRows(x, ids, into: input.rows(0..<count))
            expert(input.rows(0..<count), into: output.rows(0..<count), c)
            c.device.scatterAddRows(output.rows(0..<count), ids, scale: weights, into: out)
          }
        }
      }
    }
  }
}
