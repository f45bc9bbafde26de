import ApusCompute
import ApusKernels

/// Tokens per block of keys and values, in the kernels' layout.
public let kvBlockTokens = KVView.blockTokens

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
  private struct LayerPlace {
    var shape: KVShape
    /// Bytes from the start of the sequence's memory.
    var k: Int
    var v: Int
    var blockBytes: Int
  }

  public let capacity: Int
  private let dtype: DType
  private let layers: [LayerPlace]
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
      let blockBytes = kvBlockTokens * shape.kvHeads * shape.headDim * dtype.blockBytes
      defer { offset += 2 * blocks * blockBytes }
      return LayerPlace(shape: shape, k: offset, v: offset + blocks * blockBytes, blockBytes: blockBytes)
    }
    bytesPerSequence = offset
  }

  /// Bytes of keys and values per token, all layers.
  public var bytesPerToken: Int { layers.reduce(0) { $0 + 2 * $1.blockBytes } / kvBlockTokens }

  public func makeSequence() -> Int {
    defer { next += 1 }
    sequences[next] = HeapStorage(byteCount: bytesPerSequence, ledger: ledger, line: .kv)
    return next
  }

  public func release(_ sequence: Int) { sequences[sequence] = nil }

  /// There is room from the start.
  public func prepare(_ sequence: Int, tokens: Int) { precondition(tokens <= capacity) }

  public func attend(
    layer: Int, q: Tensor, k: Tensor, v: Tensor, _ form: AttentionForm, _ batch: Batch, into out: Tensor,
    on device: any Device
  ) {
    let place = layers[layer]
    table.withUnsafeBufferPointer { table in
      segments.removeAll(keepingCapacity: true)
      for s in batch.segments {
        let base = sequences[s.sequence]!.base
        segments.append(
          AttentionSegment(
            rows: s.rows, firstPosition: s.firstPosition,
            kv: KVView(
              k: base + place.k, v: base + place.v, blockStride: place.blockBytes, table: table.baseAddress!,
              kind: dtype)))
      }
      device.storeKV(k, v, kvHeads: place.shape.kvHeads, headDim: place.shape.headDim, segments)
      device.attention(q, form, segments, into: out)
    }
  }
}

/// No past: keys and values live in the device's arena only while a layer attends. For encoders and one-shot passes.
public final class TransientKVStore: KVStore {
  public init() {}

  public func attend(
    layer: Int, q: Tensor, k: Tensor, v: Tensor, _ form: AttentionForm, _ batch: Batch, into out: Tensor,
    on device: any Device
  ) {
    device.attention(q, k, v, form, batch.segments.map(\.rows), into: out)
  }

  public func attend(
    layer: Int, _ factored: FactoredAttention, _ batch: Batch, into out: Tensor, on device: any Device
  ) {
    device.attention(factored, batch.segments.map(\.rows), into: out)
  }
}
