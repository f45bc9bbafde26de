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

  }

  public private(set) var segments: [Segment] = []
  /// One more than the greatest position.
  public private(set) var positionBound = 0
  /// The position of each row.
  private(set) var positions: [Int32] = []
  public var rows: Int { positions.count }

  public init() {}

  /// Goes on with `count` rows of a sequence.
  public mutating func append(sequence: Int, rows count: Int, firstPosition: Int) {
    segments.append(Segment(sequence: sequence, rows: rows..<rows + count, firstPosition: firstPosition))
    positionBound = max(positionBound, firstPosition + count)
    for position in firstPosition..<firstPosition + count { positions.append(Int32(position)) }
  }

  /// Some of the sequences, as a batch of their rows alone.
  func piece(_ range: Range<Int>) -> Batch {
    let first = segments[range.lowerBound].rows.lowerBound
    var piece = Batch()
    piece.segments = segments[range].map { segment in
      var segment = segment
      segment.rows = segment.rows.lowerBound - first..<segment.rows.upperBound - first
      return segment
    }
    piece.positions = Array(positions[first..<segments[range.upperBound - 1].rows.upperBound])
    piece.positionBound = positionBound
    return piece
  }

  /// Empties the batch; its memory stays for the next one.
  public mutating func removeAll() {
    segments.removeAll(keepingCapacity: true)
    positions.removeAll(keepingCapacity: true)
    positionBound = 0
  }
}

/// How many of a pass's rows a layer works on at once. The results are the same to the bit: rows know nothing of each
/// other but through attention, which gets whole sequences.
public enum Execution: Sendable, Hashable {
  /// All: what a layer needs in between is as large as the batch.
  case whole
  /// About so many in attention, twice as many elsewhere: only the rows between layers are as large as the batch.
  case streamed(rows: Int)
  /// The same, with the device's operations for matrices of low rank: what is wide stays inside them.
  case fused(rows: Int)

  /// Rows of a piece that keep a product busy and fit into the caches.
  public static let standardPiece = 128
  /// Rows of a piece that keep all of a GPU busy.
  public static let standardFusedPiece = 16384

  /// Rows of a piece; nil for all.
  var piece: Int? {
    switch self {
    case .whole: nil
    case .streamed(let rows), .fused(let rows): rows
    }
  }

  var isFused: Bool {
    if case .fused = self { true } else { false }
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
  /// The same for queries, keys and values that are maps of one narrow product.
  func attend(layer: Int, _ factored: FactoredAttention, _ batch: Batch, into out: Tensor, on device: any Device)
}

extension KVStore {
  /// A store that keeps keys and values as they are has them computed first.
  public func attend(
    layer: Int, _ factored: FactoredAttention, _ batch: Batch, into out: Tensor, on device: any Device
  ) {
    device.temporaries {
      let maps = [factored.q, factored.k, factored.v]
      let projections = maps.map {
        Projection($0.weight, bias: $0.bias, out: device.arena.tensor(factored.p.rows, $0.weight.rows))
      }
      device.linear(factored.p, projections, activations: .int8x2)
      attend(
        layer: layer, q: projections[0].out, k: projections[1].out, v: projections[2].out, factored.form, batch,
        into: out, on: device)
    }
  }
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
  public let execution: Execution
  let buffers: PassBuffers

  /// An uninitialised transient `[rows, columns]` of the device's kind of activations.
  public func tensor(_ rows: Int, _ columns: Int) -> Tensor { device.arena.tensor(rows, columns) }

  @inline(__always)
  public func temporaries<R>(_ body: () throws -> R) rethrows -> R { try device.temporaries(body) }

  /// Calls `body` with pieces of the rows, in order: for what works on each row by itself.
  ///
  /// Pieces are twice as long as attention's, which needs about twice the memory a row: the longer they are, the less often
  /// weights are read.
  func pieces(of rows: Int, _ body: (Range<Int>) -> Void) {
    guard let size = execution.piece else { return body(0..<rows) }
    for start in stride(from: 0, to: rows, by: 2 * size) { body(start..<min(start + 2 * size, rows)) }
  }

  /// Calls `body` with pieces of the rows that are whole sequences, in order, and with the scope that they are a batch of.
  func sequencePieces(_ body: (Range<Int>, Scope) -> Void) {
    guard let size = execution.piece else { return body(0..<batch.rows, self) }
    var first = 0
    for next in 1...batch.segments.count {
      let rows = batch.segments[first].rows.lowerBound..<batch.segments[next - 1].rows.upperBound
      if next < batch.segments.count && rows.count < size { continue }
      let piece = Scope(
        device: device, parameters: parameters, mode: mode, batch: batch.piece(first..<next),
        positions: positions.columns(rows), kv: kv, rotary: rotary, execution: execution, buffers: buffers)
      body(rows, piece)
      first = next
    }
  }

  /// The value of a parameter that the module declared.
  public subscript(_ p: MatrixParameter) -> any Weight {
    guard let w = parameters[p] else {
      preconditionFailure("\(parameters.specs[p.index].path) is required and was checked when the model was made")
    }
    return w
  }

  /// The value of a vector; nil when an optional one is absent.
  public subscript(_ p: VectorParameter) -> Tensor? { parameters[p] }

  /// What `linear` computes with one matrix.
  public typealias Product = (weight: MatrixParameter, bias: VectorParameter?, out: Tensor)

  /// `out = x · Wᵀ + bias` for up to three matrices that read the same x.
  public func linear(
    _ x: Tensor, activations: ActivationPrecision, _ first: Product, _ second: Product? = nil, _ third: Product? = nil
  ) {
    var run = LinearRun(x, activations: activations, on: device, collecting: buffers.takeProjections())
    project(first, &run)
    if let second { project(second, &run) }
    if let third { project(third, &run) }
    buffers.giveBack(run.finish())
  }

  /// `x · factorᵀ` `[rows, rank]`, transient.
  func product(_ x: Tensor, with factor: DownFactor, activations: ActivationPrecision) -> Tensor {
    let out = tensor(x.rows, factor.rank)
    var run = LinearRun(x, activations: activations, on: device, collecting: buffers.takeProjections())
    factor.weight.project(bias: nil, into: out, &run)
    buffers.giveBack(run.finish())
    return out
  }

  private func project(_ p: Product, _ run: inout LinearRun) {
    self[p.weight].project(bias: p.bias.flatMap { self[$0] }, into: p.out, &run)
  }
}

/// A part of a model that runs: immutable, holds no numbers, can be shared by any number of runs.
public protocol Module: AnyObject, Sendable {}
