import ApusKernels

/// How finely activations are rounded for products with block-quantised weights. Dense weights take them as they are.
public enum ActivationPrecision: String, Sendable, CaseIterable {
  /// int8 in groups of 32 with a scale each.
  case int8
  /// The sum of two such numbers, the second of what rounding the first left over: as good as 15 bits. Weights are read
  /// once for both, so one row costs hardly more; many rows cost twice the arithmetic.
  case int8x2

  var terms: Int { self == .int8 ? 1 : 2 }
}

/// One product of a grouped linear operation: `out = x · weightᵀ + bias`.
public struct Projection {
  /// `[n, k]`, any kind.
  public var weight: Tensor
  /// `[n]` f32.
  public var bias: Tensor?
  /// `[rows, n]` f32.
  public var out: Tensor

  public init(_ weight: Tensor, bias: Tensor? = nil, out: Tensor) {
    self.weight = weight
    self.bias = bias
    self.out = out
  }
}

/// How scores become attention weights: everything about attention that is not the tensors.
public struct AttentionForm: Sendable, Hashable {
  public var heads: Int
  /// Query heads share key heads, and value heads, evenly. The two are as many, or one of them is 1.
  public var keyHeads: Int
  public var valueHeads: Int
  /// Elements of one head of queries and keys.
  public var headDim: Int
  /// Elements of one head of values.
  public var valueDim: Int
  public var causal: Bool
  /// Keys further back than this are not seen; 0 for no limit.
  public var window: Int
  /// Factor on q·k.
  public var scale: Float
  /// `cap · tanh(score / cap)`; 0 for none.
  public var softcap: Float
  /// ALiBi: score += slope[head] · (key position − query position). Empty for none.
  public var slopes: [Float]

  /// Keys and values of one shape.
  public init(
    heads: Int, kvHeads: Int, headDim: Int, causal: Bool, window: Int = 0, scale: Float, softcap: Float = 0,
    slopes: [Float] = []
  ) {
    self.heads = heads
    keyHeads = kvHeads
    valueHeads = kvHeads
    self.headDim = headDim
    valueDim = headDim
    self.causal = causal
    self.window = window
    self.scale = scale
    self.softcap = softcap
    self.slopes = slopes
  }
}

/// The rows of one sequence in a ragged batch, and where its keys and values are.
public struct AttentionSegment {
  /// Rows of q, k, v and out that belong to the sequence.
  public var rows: Range<Int>
  /// Position in the sequence of the first of these rows.
  public var firstPosition: Int
  public var keys: KVPlane
  public var values: KVPlane
  /// Positions of the keys to attend to, all of them stored: those up to the segment's last row unless changed.
  public var keyRange: Range<Int>
  /// Whether keys before `keyRange` were attended to by a call before, and whether no call comes after.
  public var goesOn = false
  public var isLast = true

  public init(rows: Range<Int>, firstPosition: Int, keys: KVPlane, values: KVPlane) {
    self.rows = rows
    self.firstPosition = firstPosition
    self.keys = keys
    self.values = values
    keyRange = 0..<firstPosition + rows.count
  }
}

/// How a plane's blocks lie (`KVPlane`).
public enum KVOrder: Sendable, Hashable {
  /// Tokens innermost: what attention scores.
  case columns
  /// A token's elements one after another: what attention adds up, and what is read back.
  case rows
}

/// What a parameter is to the operations that take it.
public enum ParameterKind: Sendable {
  /// The right side of products, or a table of rows.
  case matrix
  /// A bias or a weight of elements, `[1, n]` f32.
  case vector
}

/// Who executes the operations of a model. Modules say *what* to compute on which tensors; a device decides how, and
/// whether at all (a planning device only keeps the account of memory).
///
/// Tensors of activations are `[rows, columns]` of the arena's kind of elements (f32 on a CPU), where rows are the tokens
/// of all sequences of a batch one after another. They, and the parameters that operations take, are where the device
/// computes: `resident` brings numbers there, `read` brings them back, and nobody else looks at them. An operation may use
/// transient memory of the device's arena while it runs and leaves the arena as it was. Calls come from one thread at a
/// time.
public protocol Device: AnyObject {
  /// Who computes, for people.
  var name: String { get }
  /// Where transient tensors come from.
  var arena: Arena { get }
  /// Whether the operations that decoders need are there: rotations, stored keys and values, routing.
  var runsDecoders: Bool { get }
  /// A device that only keeps the account: its counting arena sees the allocations that this one's would.
  func planner() -> any Device
  /// A parameter where this device computes, in a form that its operations take: a copy that lives as long as the result,
  /// or the tensor itself. Throws when the device has no room.
  func resident(_ x: Tensor, _ kind: ParameterKind) throws -> Tensor
  /// The elements in order, when all that was asked before is done. Throws what went wrong with it.
  func read(_ x: Tensor) throws -> [Float]

  /// `out = x · weightᵀ + bias` for each projection; all read the same `x` `[rows, k]`.
  func linear(_ x: Tensor, _ projections: [Projection], activations: ActivationPrecision)
  /// Row `i` of out becomes row `ids[i]` of the table (any kind), in f32. `ids` is `[1, n]` i32.
  func gatherRows(_ table: Tensor, _ ids: Tensor, into out: Tensor)
  /// Row `ids[i]` of out += scale[i] · row `i` of x. `ids` is `[1, n]` i32, `scale` `[1, n]` f32.
  func scatterAddRows(_ x: Tensor, _ ids: Tensor, scale: Tensor, into out: Tensor)

  /// `out = x / √(mean(x²) + ε) · weight`, by rows.
  func rmsNorm(_ x: Tensor, weight: Tensor?, epsilon: Float, into out: Tensor)
  /// `out = (x − mean) / √(var + ε) · weight + bias`, by rows.
  func layerNorm(_ x: Tensor, weight: Tensor?, bias: Tensor?, epsilon: Float, into out: Tensor)
  /// The same over each head of `headDim` elements of x; `weight` is `[headDim]`.
  func rmsNormHeads(_ x: Tensor, headDim: Int, weight: Tensor?, epsilon: Float)

  /// Rotates the first `rotaryDim` elements of each head in place. `table` is `[positions, rotaryDim]` f32: cosine and
  /// sine of each pair; row `i` of x uses table row `positions[i]`.
  func rope(_ x: Tensor, headDim: Int, rotaryDim: Int, pairing: RotaryPairing, table: Tensor, positions: Tensor)
  /// Keeps the rows of x `[rows, heads · width]`, one sequence's, at the positions from `position` on.
  func store(_ x: Tensor, heads: Int, in plane: KVPlane, as order: KVOrder, at position: Int)
  /// Rows of one head that were stored in `.rows`, in f32: those at `positions` to the rows of out.
  func loadRows(_ plane: KVPlane, _ positions: Range<Int>, into out: Tensor)
  /// Attention of the queries `[rows, heads · headDim]` of each segment over its keys and values, to
  /// `[rows, heads · valueDim]`; keys as columns, values as rows. Where a segment's keys come in several calls, `sums`
  /// `[rows, 2 · heads]` f32 carries what is known from one to the next; the result has the bits of a single call.
  func attention(
    _ q: Tensor, _ form: AttentionForm, _ segments: [AttentionSegment], sums: Tensor?, into out: Tensor)
  /// The elements in f32: x itself, or a new transient tensor.
  func unpacked(_ x: Tensor) -> Tensor
  /// Each head of x `[rows, heads · width]` times the block of `weight` `[kvHeads · headDim, rank]` f32 that its key head
  /// has: `· blockᵀ + bias` takes the first `rank` elements of a head to `headDim` ones, transposed `· block` `headDim`
  /// elements to `rank` ones, the first of a head of out. `bias` is `[1, kvHeads · headDim]`.
  func projectHeads(
    _ x: Tensor, heads: Int, _ weight: Tensor, kvHeads: Int, bias: Tensor?, transposed: Bool, into out: Tensor)
  /// Attention within each of the sequences, given as their rows; keys and values `[rows, keyHeads · headDim]` are not kept.
  func attention(
    _ q: Tensor, _ k: Tensor, _ v: Tensor, _ form: AttentionForm, _ sequences: [Range<Int>], into out: Tensor)
  /// The same for queries, keys and values that are maps of one narrow product.
  func attention(_ factored: FactoredAttention, _ sequences: [Range<Int>], into out: Tensor)
  /// `s = h · downᵀ` `[rows, rank]` for the inner activations h of a feed-forward part.
  func feedForward(_ factored: FactoredFeedForward, into s: Tensor)

  /// `out = activation(gate) · up`; `up` nil means 1. Tensors may be the same.
  func activate(_ activation: Activation, gate: Tensor, up: Tensor?, into out: Tensor)
  /// `out = a + b`.
  func add(_ a: Tensor, _ b: Tensor, into out: Tensor)
  /// `x *= factor`.
  func scale(_ x: Tensor, by factor: Float)
  /// `x = cap · tanh(x / cap)`.
  func softcap(_ x: Tensor, _ cap: Float)
  /// Softmax over each row in place.
  func softmax(_ x: Tensor)
  /// Row `i` of out = mean of the rows `ranges[i]` of x.
  func meanRows(_ x: Tensor, _ ranges: [Range<Int>], into out: Tensor)
  /// Each row divided by its Euclidean length (at least 1e-12).
  func normalizeRows(_ x: Tensor)
  /// Copies rows; shapes must match.
  func copy(_ x: Tensor, into out: Tensor)
  /// Sets every element to zero.
  func clear(_ x: Tensor)
  /// For each column of `probabilities`, the rows that have it among their `k` greatest (ties: the lower column), with
  /// weights that add up to 1 over the columns of a row. A planning device gives every row to the first columns.
  func topRows(_ probabilities: Tensor, _ k: Int) -> [(rows: [Int32], weights: [Float])]
  /// Sets the elements of `[1, n]` f32.
  func set(_ x: Tensor, _ values: [Float])
  /// The elements of `[n]` integers in a new transient tensor `[1, n]` i32.
  func integers(_ values: [Int32]) -> Tensor
}

extension Device {
  /// Runs `body` and frees the transient tensors that it made.
  @inline(__always)
  public func temporaries<R>(_ body: () throws -> R) rethrows -> R {
    let mark = arena.mark()
    defer { arena.release(mark) }
    return try body()
  }
}
