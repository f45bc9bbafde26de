import ApusCompute

/// The role of one layer of a stack.
public protocol BlockConfig: ConfigNode {
  func make(dim: Int, layer: Int, _ b: Builder) throws -> any BlockLayer
}

public protocol BlockLayer: Module {
  /// What mixes the rows of a sequence, and so keeps of the past what it needs.
  var attention: any AttentionLayer { get }
  /// Changes `x` `[rows, dim]` in place.
  func callAsFunction(_ x: Tensor, _ c: Scope)
}

/// Attention, then feed-forward, each added to the residual stream.
public struct Block: BlockConfig {
  public var attention: any AttentionConfig = Attention()
  public var feedForward: any FeedForwardConfig = FeedForward()
  public var residual: any ResidualConfig = PreNorm()

  public init() {}
  public init(
    attention: any AttentionConfig, feedForward: any FeedForwardConfig, residual: any ResidualConfig = PreNorm()
  ) {
    self.attention = attention
    self.feedForward = feedForward
    self.residual = residual
  }

  public mutating func visit(_ v: inout some ConfigVisitor) throws {
    try v.field("attention", \.attention, &self)
    try v.field("feedForward", \.feedForward, &self)
    try v.field("residual", \.residual, &self)
  }

  public func make(dim: Int, layer: Int, _ b: Builder) throws -> any BlockLayer {
    Layer(
      attention: try attention.make(dim: dim, layer: layer, b.child("attention")),
      feedForward: try feedForward.make(dim: dim, b.child("feedForward")),
      first: try residual.make(dim: dim, b.child("attentionResidual")),
      second: try residual.make(dim: dim, b.child("feedForwardResidual")))
  }

  private final class Layer: BlockLayer {
    let attention: any AttentionLayer
    let feedForward: any FeedForwardLayer
    let first, second: any Residual

    init(
      attention: any AttentionLayer, feedForward: any FeedForwardLayer, first: any Residual, second: any Residual
    ) {
      self.attention = attention
      self.feedForward = feedForward
      self.first = first
      self.second = second
    }

    func callAsFunction(_ x: Tensor, _ c: Scope) {
      c.sequencePieces { rows, c in
        first(x.rows(rows), c) { input, output in attention(input, into: output, c) }
      }
      c.pieces(of: x.rows) { rows in
        second(x.rows(rows), c) { input, output in feedForward(input, into: output, c) }
      }
    }
  }
}

/// The role of how a part's output joins the residual stream, and where it is normalised.
public protocol ResidualConfig: ConfigNode {
  func make(dim: Int, _ b: Builder) throws -> any Residual
}

public protocol Residual: Module {
  /// `x` becomes x joined with what `part(input, output)` wrote to its output.
  func callAsFunction(_ x: Tensor, _ c: Scope, _ part: (_ input: Tensor, _ output: Tensor) -> Void)
}

/// x + part(norm(x)): Llama, Qwen2.
public struct PreNorm: ResidualConfig {
  public var norm: any NormConfig = RMSNorm()

  public init() {}
  public init(_ norm: any NormConfig) { self.norm = norm }

  public mutating func visit(_ v: inout some ConfigVisitor) throws { try v.field("norm", \.norm, &self) }

  public func make(dim: Int, _ b: Builder) throws -> any Residual {
    NormedResidual(before: try norm.make(dim: dim, b.child("before")), after: nil, around: nil)
  }
}

/// norm(x + part(x)): BERT.
public struct PostNorm: ResidualConfig {
  public var norm: any NormConfig = LayerNorm()

  public init() {}
  public init(_ norm: any NormConfig) { self.norm = norm }

  public mutating func visit(_ v: inout some ConfigVisitor) throws { try v.field("norm", \.norm, &self) }

  public func make(dim: Int, _ b: Builder) throws -> any Residual {
    NormedResidual(before: nil, after: nil, around: try norm.make(dim: dim, b.child("around")))
  }
}

/// x + norm(part(norm(x))): Gemma 2 and 3.
public struct SandwichNorm: ResidualConfig {
  public var norm: any NormConfig = RMSNorm()

  public init() {}
  public init(_ norm: any NormConfig) { self.norm = norm }

  public mutating func visit(_ v: inout some ConfigVisitor) throws { try v.field("norm", \.norm, &self) }

  public func make(dim: Int, _ b: Builder) throws -> any Residual {
    NormedResidual(
      before: try norm.make(dim: dim, b.child("before")), after: try norm.make(dim: dim, b.child("after")), around: nil)
  }
}

/// The three placements above are three ways of filling this one.
private final class NormedResidual: Residual {
  let before, after, around: (any Norm)?

  init(before: (any Norm)?, after: (any Norm)?, around: (any Norm)?) {
    self.before = before
    self.after = after
    self.around = around
  }

  func callAsFunction(_ x: Tensor, _ c: Scope, _ part: (Tensor, Tensor) -> Void) {
    c.temporaries {
      let y = c.tensor(x.rows, x.columns)
      if let before {
        let h = c.tensor(x.rows, x.columns)
        before(x, into: h, c)
        part(h, y)
      } else {
        part(x, y)
      }
      after?(y, into: y, c)
      c.device.add(x, y, into: x)
      around?(x, into: x, c)
    }
  }
}
