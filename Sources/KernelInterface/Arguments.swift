public typealias FloatPointer = UnsafePointer<Float>
public typealias MutableFloatPointer = UnsafeMutablePointer<Float>

/// `out[m, n] = Σ_k x[m, k] · w[n, k]` for the weight rows `n` in `rowRange`, with int8 activations.
///
/// `w` is `[n, k]` in a block-quantised kind, `activations` a buffer in an `ActivationLayout` filled by
/// `quantizeActivations`. `out` is row-major `[rows / terms, n]` with stride `ldo`; column `n` is written at `out[m·ldo + n]`.
/// `rowRange` starts at a multiple of 16; the last tile may be short.
///
/// The defined result (every level, bit for bit in the integer part): for each block of `b` weights (16 or 32) that share
/// scale `D` and offset `M`: `acc32 = Σ u·a` exactly in integers; `out += acc32·(D·s) + M·s·Σa` in f32, blocks in
/// ascending k; then the terms of a row are added.
public struct QuantizedMatmulArguments {
  public var kind: DType
  public var w: UnsafeRawPointer
  /// Bytes between weight rows.
  public var rowBytes: Int
  public var rowRange: Range<Int>
  public var activations: UnsafeRawPointer
  public var layout: ActivationLayout
  public var out: MutableFloatPointer
  public var ldo: Int
  /// At least `KernelTable.scratchBytes`, 64-byte aligned, private to the calling thread.
  public var scratch: UnsafeMutableRawPointer

  public init(
    kind: DType, w: UnsafeRawPointer, rowBytes: Int, rowRange: Range<Int>, activations: UnsafeRawPointer,
    layout: ActivationLayout, out: MutableFloatPointer, ldo: Int, scratch: UnsafeMutableRawPointer
  ) {
    self.kind = kind
    self.w = w
    self.rowBytes = rowBytes
    self.rowRange = rowRange
    self.activations = activations
    self.layout = layout
    self.out = out
    self.ldo = ldo
    self.scratch = scratch
  }
}

/// `out[m, n] = Σ_k x[m, k] · w[n, k]` for the weight rows `n` in `rowRange`, in f32 arithmetic, for every kind of weight
/// (dense kinds; and the quantised ones dequantised tile by tile: the exact path).
public struct FloatMatmulArguments {
  public var kind: DType
  public var w: UnsafeRawPointer
  public var rowBytes: Int
  public var rowRange: Range<Int>
  public var x: FloatPointer
  public var ldx: Int
  public var rows: Int
  public var k: Int
  public var out: MutableFloatPointer
  public var ldo: Int
  public var scratch: UnsafeMutableRawPointer

  public init(
    kind: DType, w: UnsafeRawPointer, rowBytes: Int, rowRange: Range<Int>, x: FloatPointer, ldx: Int, rows: Int, k: Int,
    out: MutableFloatPointer, ldo: Int, scratch: UnsafeMutableRawPointer
  ) {
    self.kind = kind
    self.w = w
    self.rowBytes = rowBytes
    self.rowRange = rowRange
    self.x = x
    self.ldx = ldx
    self.rows = rows
    self.k = k
    self.out = out
    self.ldo = ldo
    self.scratch = scratch
  }
}

/// `C[m, n] = alpha · op(A)[m, k] · op(B)[k, n] + beta · C[m, n]`, f32, row-major with strides, any m, n, k ≥ 0.
/// A thread computes the columns (or rows) that the caller gives it by offsetting the pointers.
public struct GEMMArguments {
  public var m: Int
  public var n: Int
  public var k: Int
  public var alpha: Float = 1
  public var a: FloatPointer
  public var lda: Int
  /// True when `a` is stored `[k, m]`.
  public var transposeA = false
  public var b: FloatPointer
  public var ldb: Int
  /// True when `b` is stored `[n, k]`.
  public var transposeB = false
  public var beta: Float = 0
  public var c: MutableFloatPointer
  public var ldc: Int
  public var scratch: UnsafeMutableRawPointer

  public init(
    m: Int, n: Int, k: Int, alpha: Float = 1, a: FloatPointer, lda: Int, transposeA: Bool = false, b: FloatPointer,
    ldb: Int, transposeB: Bool = false, beta: Float = 0, c: MutableFloatPointer, ldc: Int,
    scratch: UnsafeMutableRawPointer
  ) {
    self.m = m
    self.n = n
    self.k = k
    self.alpha = alpha
    self.a = a
    self.lda = lda
    self.transposeA = transposeA
    self.b = b
    self.ldb = ldb
    self.transposeB = transposeB
    self.beta = beta
    self.c = c
    self.ldc = ldc
    self.scratch = scratch
  }
}

/// One kind of row that a layer keeps of each token of a sequence, in blocks of 16 tokens.
///
/// Block number `i` holds the tokens `16·i ..< 16·i + 16` and starts at `base + table[i − firstBlock] · blockStride`, either
/// - as columns, `[heads][width][16]`, the tokens innermost, so that scores of 16 keys are one vector; or
/// - as rows, `[heads][16][width]`.
///
/// A contiguous cache has the identity table; a paged one any other. Elements are f16 or f32; `width` is a multiple of 16.
public struct KVPlane {
  public var base: UnsafeMutableRawPointer
  /// Bytes from one block to the next in the pool.
  public var blockStride: Int
  public var table: UnsafePointer<Int32>
  public var kind: DType
  /// The first block of the table: a plane may hold a part of the tokens.
  public var firstBlock: Int

  public init(
    base: UnsafeMutableRawPointer, blockStride: Int, table: UnsafePointer<Int32>, kind: DType, firstBlock: Int = 0
  ) {
    self.base = base
    self.blockStride = blockStride
    self.table = table
    self.kind = kind
    self.firstBlock = firstBlock
  }

  /// Where block number `i` starts.
  @inlinable public func block(_ i: Int) -> UnsafeMutableRawPointer { base + Int(table[i - firstBlock]) * blockStride }
}

/// Attention of some queries of one sequence over some of its keys and values; flash-style (running maximum and sum),
/// O(tile) memory, f32 arithmetic.
///
/// Query `i` stands at position `firstPosition + i` and sees key `j` when all hold: `j` is in `keyRange`; if `causal`,
/// `j ≤ firstPosition + i`; if `window > 0`, `j > firstPosition + i − window` (and, not causal, also
/// `j < firstPosition + i + window`); if `keyMask` is there, `keyMask[j] ≠ 0`. A query that sees nothing gives zeros.
/// score = scale · q·k, then `softcap · tanh(score / softcap)` if softcap > 0, then `+ slope[h] · (j − i)` (ALiBi).
///
/// Keys can come in several ranges, ascending, all but the last ending at a multiple of 128: `sums` then carries what is
/// known of each row from one call to the next, and the result has the bits of a single call.
public struct AttentionArguments {
  /// `[queries, heads · headDim]`, stride `ldq`. Query head `h` reads key head `h / (heads / keyHeads)`, and values alike.
  public var q: FloatPointer
  public var ldq: Int
  /// `[queries, heads · valueDim]`, stride `ldo`.
  public var out: MutableFloatPointer
  public var ldo: Int
  public var queries: Int
  public var heads: Int
  /// As many as values have, or one that all read; and the other way round.
  public var keyHeads: Int
  public var valueHeads: Int
  /// Of queries and keys; a multiple of 16.
  public var headDim: Int
  /// Of values; a multiple of 16.
  public var valueDim: Int
  public var firstPosition: Int
  /// Starts at a multiple of 128.
  public var keyRange: Range<Int>
  public var causal: Bool
  public var window: Int = 0
  public var scale: Float
  public var softcap: Float = 0
  public var slopes: FloatPointer? = nil
  public var keyMask: UnsafePointer<UInt8>? = nil
  /// As columns.
  public var keys: KVPlane
  /// As rows.
  public var values: KVPlane
  /// `[queries, heads, 2]`: greatest score and sum of exponentials of the ranges before. Nil: this range is the only one.
  public var sums: MutableFloatPointer? = nil
  /// Whether a range was before this one, and whether one comes after: `out` then holds sums that are not yet divided.
  public var goesOn = false
  public var isLast = true

  public init(
    q: FloatPointer, ldq: Int, out: MutableFloatPointer, ldo: Int, queries: Int, heads: Int, keyHeads: Int,
    valueHeads: Int? = nil, headDim: Int, valueDim: Int? = nil, firstPosition: Int, keyRange: Range<Int>, causal: Bool,
    window: Int = 0, scale: Float, softcap: Float = 0, slopes: FloatPointer? = nil,
    keyMask: UnsafePointer<UInt8>? = nil,
    keys: KVPlane, values: KVPlane
  ) {
    self.q = q
    self.ldq = ldq
    self.out = out
    self.ldo = ldo
    self.queries = queries
    self.heads = heads
    self.keyHeads = keyHeads
    self.valueHeads = valueHeads ?? keyHeads
    self.headDim = headDim
    self.valueDim = valueDim ?? headDim
    self.firstPosition = firstPosition
    self.keyRange = keyRange
    self.causal = causal
    self.window = window
    self.scale = scale
    self.softcap = softcap
    self.slopes = slopes
    self.keyMask = keyMask
    self.keys = keys
    self.values = values
  }
}

/// Which elements of a head RoPE pairs up.
public enum RotaryPairing: UInt8, Sendable {
  /// `(x[2i], x[2i+1])`: Llama's GGUF files.
  case interleaved
  /// `(x[i], x[i + d/2])`: Qwen2, Gemma, the Hugging Face layout.
  case halfSplit
}

/// The elementwise non-linearities.
public enum Activation: UInt8, Sendable, CaseIterable {
  case silu
  /// 0.5·x·(1 + erf(x/√2)).
  case geluErf
  /// 0.5·x·(1 + tanh(√(2/π)·(x + 0.044715·x³))).
  case geluTanh
  case relu
}
