import ApusCompute
import ApusKernels

/// Tokens per block of keys and values, in the kernels' layout.
public let kvBlockTokens = KVPlane.blockTokens

/// A store whose sequences come and go.
public protocol SequenceKVStore: KVStore {
  func makeSequence() -> Int
  func release(_ sequence: Int)
  /// Sees that the sequence has room for so many tokens in all. Throws ``RunnerError/outOfBlocks(pool:)``.
  func prepare(_ sequence: Int, tokens: Int) throws
}

/// The past of some sequences, each in one piece of memory that holds its greatest length from the start; pages that no
/// token has reached are never touched.
public final class ContiguousKVStore: SequenceKVStore {
  /// Bytes from the start of the sequence's memory, and of a block.
  private struct Place {
    var start: Int
    var blockBytes: Int
  }

  public let capacity: Int
  /// Bytes of keys and values per token, all layers.
  public let bytesPerToken: Int
  private let dtype: DType
  private let layers: [(keys: Place, values: Place)]
  private let bytesPerSequence: Int
  private let ledger: MemoryLedger
  private let table: [Int32]
  private var sequences: [Int: HeapStorage] = [:]
  private var next = 0
  /// The batch as the layer under way sees it.
  private var segments: [AttentionSegment] = []

  /// - Parameters:
  ///   - capacity: the most tokens of one sequence.
  ///   - dtype: f16 or f32.
  public init(_ shapes: [KVShape], capacity: Int, dtype: DType, ledger: MemoryLedger) {
    let blocks = (capacity + kvBlockTokens - 1) / kvBlockTokens
    self.capacity = capacity
    self.dtype = dtype
    self.ledger = ledger
    table = (0..<Int32(blocks)).map { $0 }
    var offset = 0
    layers = shapes.map { shape in
      func place(_ rows: KVShape.Rows) -> Place {
        let place = Place(start: offset, blockBytes: rows.blockBytes(dtype))
        offset += blocks * place.blockBytes
        return place
      }
      let keys = shape.keys.map(place)
      let values = place(shape.values)
      return (keys ?? values, values)
    }
    bytesPerSequence = offset
    bytesPerToken = shapes.reduce(0) { $0 + $1.bytesPerToken(dtype) }
  }

  public func makeSequence() -> Int {
    defer { next += 1 }
    sequences[next] = HeapStorage(byteCount: bytesPerSequence, ledger: ledger, line: .kv)
    return next
  }

  public func release(_ sequence: Int) { sequences[sequence] = nil }

  /// There is room from the start.
  public func prepare(_ sequence: Int, tokens: Int) { precondition(tokens <= capacity) }

  public func withSegments(
    of layer: Int, _ batch: Batch, on device: any Device, _ body: ([AttentionSegment]) -> Void
  ) {
    let (keys, values) = layers[layer]
    table.withUnsafeBufferPointer { table in
      segments.removeAll(keepingCapacity: true)
      for s in batch.segments {
        let base = sequences[s.sequence]!.base
        func plane(_ place: Place) -> KVPlane {
          KVPlane(
            base: base + place.start, blockStride: place.blockBytes, table: table.baseAddress!, kind: dtype)
        }
        segments.append(
          AttentionSegment(
            rows: s.rows, firstPosition: s.firstPosition, keys: plane(keys), values: plane(values)))
      }
      body(segments)
    }
  }
}

extension KVShape.Rows {
  /// Bytes of a block of them.
  func blockBytes(_ dtype: DType) -> Int { kvBlockTokens * elements * dtype.blockBytes }
}

/// No past: keys and values live in the device's arena only while a layer attends. For encoders and one-shot passes.
public final class TransientKVStore: KVStore {
  private let shapes: [KVShape]

  public init(_ shapes: [KVShape]) { self.shapes = shapes }

  public var keepsPast: Bool { false }

  public func withSegments(
    of layer: Int, _ batch: Batch, on device: any Device, _ body: ([AttentionSegment]) -> Void
  ) {
    device.temporaries {
      let shape = shapes[layer]
      let blocks = batch.segments.map { ($0.rows.count + kvBlockTokens - 1) / kvBlockTokens }
      let tokens = blocks.reduce(0, +) * kvBlockTokens
      let keys = shape.keys.map { device.arena.tensor(tokens, $0.elements) }
      let values = device.arena.tensor(tokens, shape.values.elements)
      let table = device.integers((0..<Int32(blocks.max() ?? 0)).map { $0 })
      var first = 0
      body(
        zip(batch.segments, blocks).map { s, count in
          let range = first * kvBlockTokens..<(first + count) * kvBlockTokens
          first += count
          let values = KVPlane(values.rows(range), table: table)
          return AttentionSegment(
            rows: s.rows, firstPosition: s.firstPosition,
            keys: keys.map { KVPlane($0.rows(range), table: table) } ?? values, values: values)
        })
    }
  }
}
