import ApusCompute
import ApusKernels

/// The role of what mixes rows of a sequence.
public protocol AttentionConfig: ConfigNode {
  /// - Parameter layer: index of the layer in the `KVStore`.
  func make(dim: Int, layer: Int, _ b: Builder) throws -> any AttentionLayer
  /// What the layer keeps of the past.
  func kvShape(dim: Int) -> KVShape
}

public protocol AttentionLayer: Module {
  /// `x` and `out` are `[rows, dim]`.
  func callAsFunction(_ x: Tensor, into out: Tensor, _ c: Scope)
}

/// Keys and values that a layer keeps per token.
public struct KVShape: Sendable, Hashable {
  public var kvHeads: Int
  public var headDim: Int

  public init(kvHeads: Int, headDim: Int) {
    self.kvHeads = kvHeads
    self.headDim = headDim
  }
}

/// Which keys a query sees.
public enum AttentionMask: String, Sendable, ConfigEnum {
  case causal
  case bidirectional
}

/// Scaled dot-product attention with grouped key heads (Vaswani et al. 2017; Ainslie et al. 2023): the one attention
/// family. Where queries, keys and values come from (and their positions) is the `qkv` slot; what happens to scores is
/// the `scores` slot.
public struct Attention: AttentionConfig {
  @Required public var heads: Int
  @Required public var kvHeads: Int
  @Required public var headDim: Int
  public var mask = AttentionMask.causal
  /// Sees only that many tokens back; 0 for all.
  public var window = 0
  /// Factor on q·k; nil for 1/√headDim.
  public var scale: Double?
  public var outputBias = false
  /// For the output map.
  public var activations = ActivationPrecision.int8x2
  public var qkv: any QKVConfig = LinearQKV()
  public var scores: any ScoresConfig = PlainScores()

  public init() {}
  public init(heads: Int, kvHeads: Int, headDim: Int, qkv: any QKVConfig = LinearQKV()) {
    self.heads = heads
    self.kvHeads = kvHeads
    self.headDim = headDim
    self.qkv = qkv
  }

  public mutating func visit(_ v: inout some ConfigVisitor) throws {
    try v.field("heads", \._heads, &self)
    try v.field("kvHeads", \._kvHeads, &self)
    try v.field("headDim", \._headDim, &self)
    try v.field("mask", \.mask, &self)
    try v.field("window", \.window, &self)
    try v.field("scale", \.scale, &self)
    try v.field("outputBias", \.outputBias, &self)
    try v.field("activations", \.activations, &self)
    try v.field("qkv", \.qkv, &self)
    try v.field("scores", \.scores, &self)
  }

  public func kvShape(dim: Int) -> KVShape { KVShape(kvHeads: kvHeads, headDim: headDim) }

  public func make(dim: Int, layer: Int, _ b: Builder) throws -> any AttentionLayer {
    guard heads > 0, kvHeads > 0, heads % kvHeads == 0 else {
      throw ConfigError(path: b.path, problem: "\(heads) heads can't share \(kvHeads) key heads evenly")
    }
    guard headDim > 0, headDim % 16 == 0 else {
      throw ConfigError(path: b.path, problem: "a head of \(headDim) elements; the kernels need a multiple of 16")
    }
    var form = AttentionForm(
      heads: heads, kvHeads: kvHeads, headDim: headDim, causal: mask == .causal, window: window,
      scale: Float(scale ?? 1 / Double(headDim).squareRoot()))
    scores.shape(&form)
    return Layer(
      form: form, layer: layer,
      qkv: try qkv.make(dim: dim, heads: heads, kvHeads: kvHeads, headDim: headDim, b),
      output: b.matrix("output.weight", dim, heads * headDim),
      outputBias: outputBias ? b.vector("output.bias", dim) : nil, activations: activations)
  }

  private final class Layer: AttentionLayer {
    let form: AttentionForm
    let layer: Int
    let qkv: any QKV
    let output: MatrixParameter
    let outputBias: VectorParameter?
    let activations: ActivationPrecision

    init(
      form: AttentionForm, layer: Int, qkv: any QKV, output: MatrixParameter, outputBias: VectorParameter?,
      activations: ActivationPrecision
    ) {
      self.form = form
      self.layer = layer
      self.qkv = qkv
      self.output = output
      self.outputBias = outputBias
      self.activations = activations
    }

    func callAsFunction(_ x: Tensor, into out: Tensor, _ c: Scope) {
      if c.execution.isFused, let factors = qkv.factors(c) {
        c.temporaries {
          // A narrow product reads all of what the heads made before the output is written over it.
          let canShare = c[output].factors != nil && out.columns == form.heads * form.headDim
          let mixed = canShare ? out : c.tensor(x.rows, form.heads * form.headDim)
          c.temporaries {
            let p = c.product(x, with: factors.down, activations: factors.activations)
            c.kv.attend(
              layer: layer, FactoredAttention(p: p, q: factors.q, k: factors.k, v: factors.v, form: form), c.batch,
              into: mixed, on: c.device)
          }
          c.linear(mixed, activations: activations, (output, outputBias, out))
        }
        return
      }
      c.temporaries {
        let q = c.tensor(x.rows, form.heads * form.headDim)
        let mixed = c.tensor(x.rows, form.heads * form.headDim)
        c.temporaries {
          let k = c.tensor(x.rows, form.kvHeads * form.headDim)
          let v = c.tensor(x.rows, form.kvHeads * form.headDim)
          qkv(x, q: q, k: k, v: v, c)
          c.kv.attend(layer: layer, q: q, k: k, v: v, form, c.batch, into: mixed, on: c.device)
        }
        c.linear(mixed, activations: activations, (output, outputBias, out))
      }
    }
  }
}

// MARK: queries, keys and values

/// The role of what makes queries, keys and values from a layer's input.
public protocol QKVConfig: ConfigNode {
  func make(dim: Int, heads: Int, kvHeads: Int, headDim: Int, _ b: Builder) throws -> any QKV
}

public protocol QKV: Module {
  /// `x` `[rows, dim]` to `q` `[rows, heads · headDim]`, `k` and `v` `[rows, kvHeads · headDim]`.
  func callAsFunction(_ x: Tensor, q: Tensor, k: Tensor, v: Tensor, _ c: Scope)
  /// The factors, where queries, keys and values are nothing but maps of one narrow product.
  func factors(_ c: Scope) -> QKVFactors?
}

extension QKV {
  public func factors(_ c: Scope) -> QKVFactors? { nil }
}

/// Queries, keys and values as maps of `x · downᵀ`.
public struct QKVFactors {
  var down: DownFactor
  var q, k, v: FactoredMap
  var activations: ActivationPrecision
}

/// Three linear maps.
public struct LinearQKV: QKVConfig {
  public var bias = false
  /// Scores are exponentiated, so errors of queries and keys weigh more than their share of the arithmetic.
  public var activations = ActivationPrecision.int8x2

  public init() {}
  public init(bias: Bool) { self.bias = bias }

  public mutating func visit(_ v: inout some ConfigVisitor) throws {
    try v.field("bias", \.bias, &self)
    try v.field("activations", \.activations, &self)
  }

  public func make(dim: Int, heads: Int, kvHeads: Int, headDim: Int, _ b: Builder) throws -> any QKV {
    func map(_ name: String, _ rows: Int) -> (MatrixParameter, VectorParameter?) {
      (b.matrix(name + ".weight", rows, dim), bias ? b.vector(name + ".bias", rows) : nil)
    }
    return Layer(
      q: map("query", heads * headDim), k: map("key", kvHeads * headDim), v: map("value", kvHeads * headDim),
      activations: activations)
  }

  private final class Layer: QKV {
    typealias Map = (weight: MatrixParameter, bias: VectorParameter?)
    let q, k, v: Map
    let activations: ActivationPrecision

    init(q: Map, k: Map, v: Map, activations: ActivationPrecision) {
      self.activations = activations
      self.q = q
      self.k = k
      self.v = v
    }

    func callAsFunction(_ x: Tensor, q: Tensor, k: Tensor, v: Tensor, _ c: Scope) {
      c.linear(
        x, activations: activations, (self.q.weight, self.q.bias, q), (self.k.weight, self.k.bias, k),
        (self.v.weight, self.v.bias, v))
    }

    func factors(_ c: Scope) -> QKVFactors? {
      guard let q = c[self.q.weight].factors, let k = c[self.k.weight].factors, let v = c[self.v.weight].factors,
        q.down === k.down, q.down === v.down
      else { return nil }
      func map(_ up: Tensor, _ map: Map) -> FactoredMap { FactoredMap(up, bias: map.bias.flatMap { c[$0] }) }
      return QKVFactors(
        down: q.down, q: map(q.up, self.q), k: map(k.up, self.k), v: map(v.up, self.v), activations: activations)
    }
  }
}

/// Normalises each head of queries and keys (Gemma 3, Qwen 3).
public struct QKNorm: QKVConfig {
  public var inner: any QKVConfig = LinearQKV()
  public var norm: any NormConfig = RMSNorm()

  public init() {}
  public init(_ inner: any QKVConfig, norm: any NormConfig) {
    self.inner = inner
    self.norm = norm
  }

  public mutating func visit(_ v: inout some ConfigVisitor) throws {
    try v.field("inner", \.inner, &self)
    try v.field("norm", \.norm, &self)
  }

  public func make(dim: Int, heads: Int, kvHeads: Int, headDim: Int, _ b: Builder) throws -> any QKV {
    Layer(
      inner: try inner.make(dim: dim, heads: heads, kvHeads: kvHeads, headDim: headDim, b), headDim: headDim,
      q: try norm.make(dim: headDim, b.child("queryNorm")), k: try norm.make(dim: headDim, b.child("keyNorm")))
  }

  private final class Layer: QKV {
    let inner: any QKV
    let headDim: Int
    let q, k: any Norm

    init(inner: any QKV, headDim: Int, q: any Norm, k: any Norm) {
      self.inner = inner
      self.headDim = headDim
      self.q = q
      self.k = k
    }

    func callAsFunction(_ x: Tensor, q: Tensor, k: Tensor, v: Tensor, _ c: Scope) {
      inner(x, q: q, k: k, v: v, c)
      self.q.heads(q, headDim: headDim, c)
      self.k.heads(k, headDim: headDim, c)
    }
  }
}

// MARK: scores

/// The role of what happens to attention scores before the softmax.
public protocol ScoresConfig: ConfigNode {
  func shape(_ form: inout AttentionForm)
}

/// Scores as they are.
public struct PlainScores: ScoresConfig {
  public init() {}
  public mutating func visit(_ v: inout some ConfigVisitor) throws {}
  public func shape(_ form: inout AttentionForm) {}
}

/// cap · tanh(score / cap) (Gemma 2).
public struct SoftcapScores: ScoresConfig {
  public var cap = 50.0
  public init() {}
  public mutating func visit(_ v: inout some ConfigVisitor) throws { try v.field("cap", \.cap, &self) }
  public func shape(_ form: inout AttentionForm) { form.softcap = Float(cap) }
}
