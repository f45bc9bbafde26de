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

/// Where the past is kept: contiguous, paged with shared prefixes, only for a pass.
///
/// *Which* rows a layer keeps of a token is the layer's affair (`KVLayout`); a store is made for their shapes and says where
/// those of a batch's sequences lie.
public protocol KVStore: AnyObject {
  /// Whether what a pass stores is there in the next one.
  var keepsPast: Bool { get }
  /// Calls `body` with the places of a layer's rows of each of the batch's sequences, in the batch's order; they have room
  /// for the batch's tokens.
  func withSegments(
    of layer: Int, _ batch: Batch, on device: any Device, _ body: (_ segments: [AttentionSegment]) -> Void)
}

extension KVStore {
  public var keepsPast: Bool { true }
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
  /// What each layer keeps of a token.
  public let kvLayouts: [KVLayout]
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
        positions: positions.columns(rows), kv: kv, kvLayouts: kvLayouts, rotary: rotary, execution: execution,
        buffers: buffers)
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
    linear(x, activations: activations, keeping: nil, nil, first, second, third)
  }

  /// What `linear` leaves of a factor's product: `out = x · factorᵀ`.
  typealias Kept = (factor: DownFactor, out: Tensor)

  /// The same for matrices of which some are read through factors whose products the caller keeps.
  func linear(
    _ x: Tensor, activations: ActivationPrecision, keeping one: Kept?, _ other: Kept?, _ first: Product?,
    _ second: Product?, _ third: Product?
  ) {
    var run = LinearRun(x, activations: activations, on: device, collecting: buffers.takeProjections())
    if let one { run.keep(one.factor, in: one.out) }
    if let other { run.keep(other.factor, in: other.out) }
    if let first { project(first, &run) }
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
