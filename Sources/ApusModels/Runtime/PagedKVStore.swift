import ApusCompute
import ApusKernels
import Foundation

/// The past of many sequences in blocks of 16 tokens that sequences with a common beginning share (Kwon et al. 2023,
/// section 4).
///
/// A block holds 16 tokens' keys and values of all layers in one piece, so that it is copied, named and given away whole.
/// Owned by one thread.
public final class PagedKVStore: SequenceKVStore {
  /// The blocks of one sequence, at an address that stays.
  private final class Table {
    let blocks: UnsafeMutablePointer<Int32>
    var count = 0

    init(capacity: Int) {
      blocks = .allocate(capacity: capacity)
      blocks.initialize(repeating: 0, count: capacity)
    }
    deinit { blocks.deallocate() }
  }

  public private(set) var pool: KVBlockPool
  /// Blocks that sequences use; the other blocks that are not free are kept by others, such as an index of prefixes.
  public private(set) var blocksInTables = 0
  /// By block: the tables that it stands in.
  private var tablesOfBlock: [Int32]
  /// Bytes of a block.
  public let blockBytes: Int
  /// Bytes from the start of a block to each layer's keys and values.
  private let layers: [(keys: Int, values: Int)]
  private let dtype: DType
  private let storage: HeapStorage
  private let tableCapacity: Int
  private var tables: [Int: Table] = [:]
  private var next = 0
  /// The batch as the layer under way sees it.
  private var segments: [AttentionSegment] = []

  /// - Parameters:
  ///   - capacity: the most tokens of one sequence.
  ///   - blocks: of the pool; memory of blocks that were never used is not touched.
  ///   - dtype: f16 or f32.
  public init(_ shapes: [KVShape], capacity: Int, blocks: Int, dtype: DType, ledger: MemoryLedger) {
    var offset = 0
    layers = shapes.map { shape in
      func place(_ rows: KVShape.Rows) -> Int {
        defer { offset += rows.blockBytes(dtype) }
        return offset
      }
      let keys = shape.keys.map(place)
      let values = place(shape.values)
      return (keys ?? values, values)
    }
    self.dtype = dtype
    blockBytes = offset
    pool = KVBlockPool(count: blocks)
    tablesOfBlock = [Int32](repeating: 0, count: blocks)
    tableCapacity = (capacity + kvBlockTokens - 1) / kvBlockTokens
    storage = HeapStorage(byteCount: blocks * offset, ledger: ledger, line: .kv)
  }

  /// Bytes of one block: 16 tokens, all layers.
  public static func blockBytes(_ shapes: [KVShape], dtype: DType) -> Int {
    shapes.reduce(0) { $0 + kvBlockTokens * $1.bytesPerToken(dtype) }
  }

  // MARK: sequences

  public func makeSequence() -> Int {
    defer { next += 1 }
    tables[next] = Table(capacity: tableCapacity)
    return next
  }

  public func release(_ sequence: Int) {
    guard let table = tables.removeValue(forKey: sequence) else { return }
    for i in 0..<table.count {
      let block = table.blocks[i]
      tablesOfBlock[Int(block)] -= 1
      if tablesOfBlock[Int(block)] == 0 { blocksInTables -= 1 }
      pool.release(block)
    }
  }

  private func append(_ block: Int32, to table: Table) {
    table.blocks[table.count] = block
    table.count += 1
    if tablesOfBlock[Int(block)] == 0 { blocksInTables += 1 }
    tablesOfBlock[Int(block)] += 1
  }

  public func prepare(_ sequence: Int, tokens: Int) throws {
    let table = tables[sequence]!
    while table.count * kvBlockTokens < tokens {
      guard let block = pool.take() else { throw RunnerError.outOfBlocks(pool: pool.count) }
      append(block, to: table)
    }
  }

  /// Takes the blocks for so many tokens in all; false, and nothing changed, when too few are free.
  public func reserve(_ s: SequenceID, tokens: Int) -> Bool {
    let needed = (tokens + kvBlockTokens - 1) / kvBlockTokens - tables[s.index]!.count
    guard needed <= pool.freeCount else { return false }
    // Cannot throw: the blocks are free.
    return (try? prepare(s.index, tokens: tokens)) != nil
  }

  /// The blocks of a sequence in order.
  public func blocks(of s: SequenceID) -> UnsafeBufferPointer<Int32> {
    let table = tables[s.index]!
    return UnsafeBufferPointer(start: table.blocks, count: table.count)
  }

  /// Lets the sequence go on with blocks that others filled. What it had must be full.
  public func share(_ blocks: some Sequence<Int32>, with s: SequenceID) {
    let table = tables[s.index]!
    for block in blocks {
      pool.retain(block)
      append(block, to: table)
    }
  }

  /// Gives the new sequence `s` the first `tokens` tokens of `source`: whole blocks are shared, the rest of the last one is
  /// copied. False, and nothing changed, when the copy finds no free block.
  public func copyPrefix(of source: SequenceID, tokens: Int, to s: SequenceID) -> Bool {
    let full = tokens / kvBlockTokens
    let from = blocks(of: source)
    precondition(tokens <= from.count * kvBlockTokens && blocks(of: s).isEmpty)
    if tokens % kvBlockTokens > 0 {
      guard let block = pool.take() else { return false }
      share(from[..<full], with: s)
      (storage.base + Int(block) * blockBytes).copyMemory(
        from: storage.base + Int(from[full]) * blockBytes, byteCount: blockBytes)
      append(block, to: tables[s.index]!)
    } else {
      share(from[..<full], with: s)
    }
    return true
  }

  /// One more user of a block, such as an index of prefixes.
  public func retain(_ block: Int32) { pool.retain(block) }
  public func release(block: Int32) { pool.release(block) }

  /// Traps unless the blocks in tables are counted right, and none of them is free.
  public func checkInvariants() {
    pool.checkInvariants()
    var uses: [Int32: Int32] = [:]
    for table in tables.values { for i in 0..<table.count { uses[table.blocks[i], default: 0] += 1 } }
    precondition(uses.count == blocksInTables, "\(uses.count) blocks are in tables, counted \(blocksInTables)")
    for (block, count) in uses {
      precondition(tablesOfBlock[Int(block)] == count && pool.references(to: block) >= count, "block \(block)")
    }
  }

  // MARK: the layers' side

  public func withSegments(
    of layer: Int, _ batch: Batch, on device: any Device, _ body: ([AttentionSegment]) -> Void
  ) {
    let (keys, values) = layers[layer]
    segments.removeAll(keepingCapacity: true)
    for s in batch.segments {
      let table = UnsafePointer(tables[s.sequence]!.blocks)
      func plane(_ start: Int) -> KVPlane {
        KVPlane(base: storage.base + start, blockStride: blockBytes, table: table, kind: dtype)
      }
      segments.append(
        AttentionSegment(rows: s.rows, firstPosition: s.firstPosition, keys: plane(keys), values: plane(values)))
    }
    body(segments)
  }
}
