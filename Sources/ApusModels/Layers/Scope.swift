import ApusCompute
import ApusKernels

/// What a forward pass is for.
public enum Mode: Sendable {
  /// Whole sequences at once, no past: encoders, scoring.
  case eval
  /// The first tokens of sequences whose past will be kept.
  case prefill
  /// More tokens of sequences that have a past.
  case extend
}

/// The tokens of some sequences in one forward pass, rows one after another without padding.
public struct Batch: Sendable {
  public struct Segment: Sendable {
    /// Which sequence of the `KVStore`.
    public var sequence: Int
    public var rows: Range<Int>
    /// Position in the sequence of the first row.
    public var firstPosition: Int

    public init(sequence: Int, rows: Range<Int>, firstPosition: Int) {
      self.sequence = sequence
      self.rows = rows
      self.firstPosition = firstPosition
    }
  }

  public var segments: [Segment]
  public var rows: Int { segments.last?.rows.upperBound ?? 0 }
  /// One more than the greatest position.
  public var positionBound: Int { segments.map { $0.firstPosition + $0.rows.count }.max() ?? 0 }

  public init(_ segments: [Segment]) { self.segments = segments }

  /// The position of each row.
  var positions: [Int32] {
    segments.flatMap { s in s.rows.indices.map { Int32(s.firstPosition + $0 - s.rows.lowerBound) } }
  }
}

/// How the past is kept: stores the keys and values of a layer and attends over them.
///
/// An attention layer says *that* keys and values are to be kept and attended to; the store decides where they are and in
/// which form (contiguous, paged, low-rank).
public protocol KVStore: AnyObject {
  /// Keeps `[rows, kvHeads · headDim]` keys and values of the batch in `layer`, then lets each query row see its own
  /// sequence's past and itself as `form` says.
  func attend(
    layer: Int, q: Tensor, k: Tensor, v: Tensor, _ form: AttentionForm, _ batch: Batch, into out: Tensor,
    on device: any Device)
}

/// What a module needs in order to run: passed explicitly, so nothing is hidden and any thread can run any model.
public struct Scope {
  public let device: any Device
  public let parameters: Parameters
  public let mode: Mode
  public let batch: Batch
  /// `[1, rows]` i32: each row's position in its sequence.
  public let positions: Tensor
  public let kv: any KVStore
  public let rotary: RotaryTables

  /// An uninitialised transient `[rows, columns]` f32.
  public func tensor(_ rows: Int, _ columns: Int) -> Tensor { device.arena.tensor(rows, columns) }

  @inline(__always)
  public func temporaries<R>(_ body: () throws -> R) rethrows -> R { try device.temporaries(body) }

  /// The value of a parameter that the module declared.
  public subscript(_ p: MatrixParameter) -> any Weight {
    guard let w = parameters[p] else {
      preconditionFailure("\(parameters.specs[p.index].path) is required and was checked when the model was made")
    }
    return w
  }

  /// The value of a vector; nil when an optional one is absent.
  public subscript(_ p: VectorParameter) -> Tensor? { parameters[p] }

  /// `out = x · Wᵀ + bias` for matrices that read the same x.
  public func linear(
    _ x: Tensor, activations: ActivationPrecision,
    _ products: (weight: MatrixParameter, bias: VectorParameter?, out: Tensor)...
  ) {
    var run = LinearRun(x, activations: activations, on: device)
    for p in products { self[p.weight].project(bias: p.bias.flatMap { self[$0] }, into: p.out, &run) }
    run.finish()
  }
}

/// A part of a model that runs: immutable, holds no numbers, can be shared by any number of runs.
public protocol Module: AnyObject, Sendable {}
