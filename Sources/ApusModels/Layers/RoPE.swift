import ApusCompute
import ApusKernels
import Foundation
import Synchronization

/// Rotary position embedding (Su et al. 2021) around any way of making queries, keys and values.
public struct RoPE: QKVConfig {
  public var inner: any QKVConfig = LinearQKV()
  public var theta = 10000.0
  public var pairing = RotaryPairing.halfSplit
  /// Elements of each head that rotate; nil for all.
  public var rotaryDim: Int?
  /// Positions are divided by this (linear scaling).
  public var scaling = 1.0

  public init() {}
  public init(_ inner: any QKVConfig, theta: Double, pairing: RotaryPairing) {
    self.inner = inner
    self.theta = theta
    self.pairing = pairing
  }

  public mutating func visit(_ v: inout some ConfigVisitor) throws {
    try v.field("inner", \.inner, &self)
    try v.field("theta", \.theta, &self)
    try v.field("pairing", \.pairing, &self)
    try v.field("rotaryDim", \.rotaryDim, &self)
    try v.field("scaling", \.scaling, &self)
  }

  public func make(dim: Int, heads: Int, kvHeads: Int, headDim: Int, _ b: Builder) throws -> any QKV {
    let rotary = rotaryDim ?? headDim
    guard rotary > 0, rotary <= headDim, rotary % 2 == 0 else {
      throw ConfigError(
        path: b.path, problem: "rotaryDim \(rotary) of a head of \(headDim): needs an even number up to it")
    }
    return Layer(
      inner: try inner.make(dim: dim, heads: heads, kvHeads: kvHeads, headDim: headDim, b), headDim: headDim,
      rotary: RotaryForm(theta: theta, dim: rotary, scaling: scaling), pairing: pairing)
  }

  private final class Layer: QKV {
    let inner: any QKV
    let headDim: Int
    let rotary: RotaryForm
    let pairing: RotaryPairing

    init(inner: any QKV, headDim: Int, rotary: RotaryForm, pairing: RotaryPairing) {
      self.inner = inner
      self.headDim = headDim
      self.rotary = rotary
      self.pairing = pairing
    }

    var maps: QKVMaps { inner.maps }
    var keysArePlain: Bool { false }

    func finishQueries(_ q: Tensor, at positions: Tensor, _ c: Scope) {
      inner.finishQueries(q, at: positions, c)
      rotate(q, positions, c)
    }

    func finishKeys(_ k: Tensor, at positions: Tensor, _ c: Scope) {
      inner.finishKeys(k, at: positions, c)
      rotate(k, positions, c)
    }

    private func rotate(_ x: Tensor, _ positions: Tensor, _ c: Scope) {
      c.device.rope(
        x, headDim: headDim, rotaryDim: rotary.dim, pairing: pairing,
        table: c.rotary.table(rotary, positions: c.batch.positionBound), positions: positions)
    }
  }
}

/// Which angles a table of rotations holds.
public struct RotaryForm: Sendable, Hashable {
  var theta: Double
  var dim: Int
  var scaling: Double
}

/// Cosines and sines by position, made when first needed and shared by all layers that use the same angles.
public final class RotaryTables: Sendable {
  private let tables = Mutex<[RotaryForm: Tensor]>([:])
  private let ledger: MemoryLedger?

  public init(ledger: MemoryLedger? = nil) { self.ledger = ledger }

  /// `[≥ positions, dim]`: cosine and sine of position · theta^(−2i/dim) for each pair i, computed in f64.
  func table(_ form: RotaryForm, positions: Int) -> Tensor {
    tables.withLock { tables in
      if let t = tables[form], t.rows >= positions { return t }
      let rows = max(256, (positions + positions / 2 + 255) & ~255)
      let t = Tensor(zeros: rows, form.dim, ledger: ledger)
      for position in 0..<rows {
        t.withRow(position) { row in
          for i in 0..<form.dim / 2 {
            let angle = Double(position) / form.scaling * pow(form.theta, -2 * Double(i) / Double(form.dim))
            row[2 * i] = Float(cos(angle))
            row[2 * i + 1] = Float(sin(angle))
          }
        }
      }
      tables[form] = t
      return t
    }
  }
}
