import ApusCompute
import ApusKernels

/// The role of what mixes rows of a sequence.
public protocol AttentionConfig: ConfigNode {
  /// - Parameter layer: index of the layer in the `KVStore`.
  func make(dim: Int, layer: Int, _ b: Builder) throws -> any AttentionLayer
}

public protocol AttentionLayer: Module {
  /// Whether tokens however far back are seen: what the layer keeps grows with the context.
  var seesAll: Bool { get }
  /// What the layer would keep of a token, by its weights and its config.
  func kvLayout(_ parameters: Parameters, _ choice: KVLayoutChoice) -> KVLayout
  /// The rows that a layout takes.
  func kvShape(_ layout: KVLayout) -> KVShape
  /// `x` and `out` are `[rows, dim]`.
  func callAsFunction(_ x: Tensor, into out: Tensor, _ c: Scope)
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

    var seesAll: Bool { form.window == 0 }

    func kvLayout(_ parameters: Parameters, _ choice: KVLayoutChoice) -> KVLayout {
      LowRankAttention(form, qkv).layout(parameters, choice)
    }

    func kvShape(_ layout: KVLayout) -> KVShape { LowRankAttention(form, qkv).shape(layout) }

    func callAsFunction(_ x: Tensor, into out: Tensor, _ c: Scope) {
      if c.execution.isFused, !c.kv.keepsPast, let factored = factored(c) {
        return fused(x, factored, into: out, c)
      }
      c.temporaries {
        let mixed = c.tensor(x.rows, form.heads * form.headDim)
        let layout = c.kvLayouts[layer]
        if layout == .dense {
          attend(x, into: mixed, c)
        } else {
          LowRankAttention(form, qkv)(x, layer: layer, layout, into: mixed, c)
        }
        c.linear(mixed, activations: activations, (output, outputBias, out))
      }
    }

    private typealias Factored = (down: DownFactor, q: FactoredMap, k: FactoredMap, v: FactoredMap)

    /// Queries, keys and values as maps of one narrow product, where they are nothing else.
    private func factored(_ c: Scope) -> Factored? {
      let maps = qkv.maps
      guard qkv.keysArePlain, let q = c[maps.query.weight].factors, let k = c[maps.key.weight].factors,
        let v = c[maps.value.weight].factors, q.down === k.down, q.down === v.down
      else { return nil }
      func map(_ factors: FactorPair, _ map: QKVMaps.Map) -> FactoredMap {
        FactoredMap(factors.up, bias: map.bias.flatMap { c[$0] })
      }
      return (q.down, map(q, maps.query), map(k, maps.key), map(v, maps.value))
    }

    private func fused(_ x: Tensor, _ f: Factored, into out: Tensor, _ c: Scope) {
      c.temporaries {
        // A narrow product reads all of what the heads made before the output is written over it.
        let canShare = c[output].factors != nil && out.columns == form.heads * form.headDim
        let mixed = canShare ? out : c.tensor(x.rows, form.heads * form.headDim)
        c.temporaries {
          let p = c.product(x, with: f.down, activations: qkv.maps.activations)
          c.device.attention(
            FactoredAttention(p: p, q: f.q, k: f.k, v: f.v, form: form), c.batch.segments.map(\.rows), into: mixed)
        }
        c.linear(mixed, activations: activations, (output, outputBias, out))
      }
    }

    private func attend(_ x: Tensor, into mixed: Tensor, _ c: Scope) {
      c.temporaries {
        let q = c.tensor(x.rows, form.heads * form.headDim)
        let k = c.tensor(x.rows, form.keyHeads * form.headDim)
        let v = c.tensor(x.rows, form.keyHeads * form.headDim)
        let maps = qkv.maps
        c.linear(
          x, activations: maps.activations, (maps.query.weight, maps.query.bias, q),
          (maps.key.weight, maps.key.bias, k), (maps.value.weight, maps.value.bias, v))
        qkv.finishQueries(q, at: c.positions, c)
        qkv.finishKeys(k, at: c.positions, c)
        guard c.kv.keepsPast else {
          return c.device.attention(q, k, v, form, c.batch.segments.map(\.rows), into: mixed)
        }
        c.kv.withSegments(of: layer, c.batch, on: c.device) { segments in
          for s in segments {
            c.device.store(k.rows(s.rows), heads: form.keyHeads, in: s.keys, as: .columns, at: s.firstPosition)
            c.device.store(v.rows(s.rows), heads: form.keyHeads, in: s.values, as: .rows, at: s.firstPosition)
          }
          c.device.attention(q, form, segments, sums: nil, into: mixed)
        }
      }
    }
  }
}

// MARK: queries, keys and values

/// The role of what makes queries, keys and values from a layer's input.
public protocol QKVConfig: ConfigNode {
  func make(dim: Int, heads: Int, kvHeads: Int, headDim: Int, _ b: Builder) throws -> any QKV
}

/// Linear maps of a layer's input, and what is done to queries and keys then, wherever the tokens stand.
public protocol QKV: Module {
  var maps: QKVMaps { get }
  /// Whether keys are scored as their map makes them: no norm, no position.
  var keysArePlain: Bool { get }
  /// Finishes, in place, queries `[rows, heads · headDim]` of tokens that stand at `positions` `[1, rows]`.
  func finishQueries(_ q: Tensor, at positions: Tensor, _ c: Scope)
  /// The same for keys `[rows, kvHeads · headDim]`.
  func finishKeys(_ k: Tensor, at positions: Tensor, _ c: Scope)
}

/// Where queries, keys and values come from.
public struct QKVMaps: Sendable {
  public typealias Map = (weight: MatrixParameter, bias: VectorParameter?)
  public var query, key, value: Map
  public var activations: ActivationPrecision
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
      QKVMaps(
        query: map("query", heads * headDim), key: map("key", kvHeads * headDim),
        value: map("value", kvHeads * headDim),
        activations: activations))
  }

  private final class Layer: QKV {
    let maps: QKVMaps

    init(_ maps: QKVMaps) { self.maps = maps }

    var keysArePlain: Bool { true }
    func finishQueries(_ q: Tensor, at positions: Tensor, _ c: Scope) {}
    func finishKeys(_ k: Tensor, at positions: Tensor, _ c: Scope) {}
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

    var maps: QKVMaps { inner.maps }
    var keysArePlain: Bool { false }

    func finishQueries(_ q: Tensor, at positions: Tensor, _ c: Scope) {
      inner.finishQueries(q, at: positions, c)
      self.q.heads(q, headDim: headDim, c)
    }

    func finishKeys(_ k: Tensor, at positions: Tensor, _ c: Scope) {
      inner.finishKeys(k, at: positions, c)
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
