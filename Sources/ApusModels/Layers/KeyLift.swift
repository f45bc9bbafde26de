import ApusCompute
import ApusKernels

/// Turns narrow rows into the keys that attention scores: up · p + bias, norm, rotation, as columns.
///
/// Lifts a turn of keys at a time, all heads, in memory that does not grow with the past: what half of a second-level cache
/// holds. Its tensors live in the arena's temporaries of the call that made it.
struct KeyLift {
  /// Attention takes keys in spans of so many at fixed places.
  static let span = 128
  /// Half of a second-level cache of 1 MB.
  private static let turnBytes = 512 << 10
  private static let mostSpans = 8

  /// Keys of a turn.
  let capacity: Int
  private let up: Tensor
  private let bias: Tensor?
  private let keyHeads: Int
  private let rank: Int
  /// `[capacity, padded rank]`.
  private let narrow: Tensor
  /// `[capacity, keyHeads · headDim]`.
  private let rows: Tensor
  /// The same as blocks of columns, and their numbers.
  private let blocks: Tensor
  private let table: Tensor

  init(_ factors: FactorPair, bias: Tensor?, keyHeads: Int, _ c: Scope) {
    let width = factors.up.rows
    capacity = Self.span * max(1, min(Self.mostSpans, Self.turnBytes / (4 * width * Self.span)))
    up = c.device.unpacked(factors.up)
    self.bias = bias
    self.keyHeads = keyHeads
    rank = factors.rank
    narrow = c.tensor(capacity, KVShape.padded(rank))
    rows = c.tensor(capacity, width)
    blocks = c.tensor(capacity, width)
    table = c.device.integers(c.buffers.counting(count: capacity / kvBlockTokens))
  }

  /// The keys of the tokens in `range`, at most `capacity` from a multiple of 16 on, valid until the next call.
  func callAsFunction(_ range: Range<Int>, from plane: KVPlane, _ qkv: any QKV, _ c: Scope) -> KVPlane {
    let (narrow, rows) = (narrow.rows(0..<range.count), rows.rows(0..<range.count))
    c.device.loadRows(plane, range, into: narrow)
    c.device.linear(
      narrow.columns(0..<rank), [Projection(up, bias: bias, out: rows)], activations: qkv.maps.activations)
    c.temporaries {
      // As many as a turn can have: what a pass takes does not depend on how long the past is.
      let positions = c.device.integers(c.buffers.counting(from: range.lowerBound, count: capacity))
      qkv.finishKeys(rows, at: positions.columns(0..<range.count), c)
    }
    let keys = KVPlane(blocks, table: table, firstBlock: range.lowerBound / kvBlockTokens)
    c.device.store(rows, heads: keyHeads, in: keys, as: .columns, at: range.lowerBound)
    return keys
  }
}
