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

/// Keys and values of one sequence in one layer, in blocks of 16 tokens (`KVLayout`).
///
/// Block number `i` holds the tokens `16·i ..< 16·i + 16` and starts at `k + table[i] · blockStride` (and `v + …`):
/// - keys:   `[kvHeads][headDim][16]`, the tokens innermost, so that scores of 16 keys are one vector;
/// - values: `[kvHeads][16][headDim]`.
///
/// A contiguous cache has the identity table; a paged one any other. Elements are f16 or f32.
public struct KVView {
  public var k: UnsafeMutableRawPointer
  public var v: UnsafeMutableRawPointer
  /// Bytes from one block to the next in the pool.
  public var blockStride: Int
  public var table: UnsafePointer<Int32>
  public var kind: DType

  public init(
    k: UnsafeMutableRawPointer, v: UnsafeMutableRawPointer, blockStride: Int, table: UnsafePointer<Int32>, kind: DType
  ) {
    self.k = k
    self.v = v
    self.blockStride = blockStride
    self.table = table
    self.kind = kind
  }
}

/// Attention of some queries of one sequence over the keys and values in `kv`; flash-style (running maximum and sum),
/// O(tile) memory, f32 arithmetic.
///
/// Query `i` stands at position `firstPosition + i` and sees key `j` when all hold: `j < keyCount`; if `causal`,
/// `j ≤ firstPosition + i`; if `window > 0`, `j > firstPosition + i − window` (and, not causal, also
/// `j < firstPosition + i + window`); if `keyMask` is there, `keyMask[j] ≠ 0`. A query that sees nothing gives zeros.
/// score = scale · q·k, then `softcap · tanh(score / softcap)` if softcap > 0, then `+ slope[h] · (j − i)` (ALiBi).
public struct AttentionArguments {
  /// `[queries, heads · headDim]`, stride `ldq`. Query head `h` reads key head `h / (heads / kvHeads)`.
  public var q: FloatPointer
  public var ldq: Int
  /// `[queries, heads · headDim]`, stride `ldo`.
  public var out: MutableFloatPointer
  public var ldo: Int
  public var queries: Int
  public var heads: Int
  public var kvHeads: Int
  /// A multiple of 16.
  public var headDim: Int
  public var firstPosition: Int
  public var keyCount: Int
  public var causal: Bool
  public var window: Int = 0
  public var scale: Float
  public var softcap: Float = 0
  public var slopes: FloatPointer? = nil
  public var keyMask: UnsafePointer<UInt8>? = nil
  public var kv: KVView

  public init(
    q: FloatPointer, ldq: Int, out: MutableFloatPointer, ldo: Int, queries: Int, heads: Int, kvHeads: Int, headDim: Int,
    firstPosition: Int, keyCount: Int, causal: Bool, window: Int = 0, scale: Float, softcap: Float = 0,
    slopes: FloatPointer? = nil, keyMask: UnsafePointer<UInt8>? = nil, kv: KVView
  ) {
    self.q = q
    self.ldq = ldq
    self.out = out
    self.ldo = ldo
    self.queries = queries
    self.heads = heads
    self.kvHeads = kvHeads
    self.headDim = headDim
    self.firstPosition = firstPosition
    self.keyCount = keyCount
    self.causal = causal
    self.window = window
    self.scale = scale
    self.softcap = softcap
    self.slopes = slopes
    self.keyMask = keyMask
    self.kv = kv
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
