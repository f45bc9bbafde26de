/// The instruction-set levels that the kernels are compiled for.
public enum CPULevel: Int, Sendable, CaseIterable, Comparable {
  /// x86-64-v2, or any other processor: portable code, no intrinsics.
  case v2 = 2
  /// AVX2, FMA, F16C.
  case v3 = 3
  /// AVX-512 with VNNI.
  case v4 = 4

  public static func < (a: CPULevel, b: CPULevel) -> Bool { a.rawValue < b.rawValue }
}

/// The kernels of one instruction-set level. Pointers in, pointers out; each runs on the calling thread alone, allocates
/// nothing and keeps no state. Threads share an operation by taking ranges of it.
public struct KernelTable: Sendable {
  public var level: CPULevel
  /// Scratch bytes per thread that the matmul, GEMM and attention kernels may use.
  public static let scratchBytes = 4 << 20

  // MARK: matrix products
  /// `(x, ldx, layout, panels, out)`: fills the panels in the range. Per row and 32 consecutive k: `s = max|x| / 127`,
  /// `a = round-to-nearest-even(x · (127 / max|x|))`; a group below 2⁻¹⁰⁰ has s = 0 and a = 0, one with a NaN or an
  /// infinity s = NaN and a = 0.
  public var quantizeActivations:
    @Sendable (FloatPointer, Int, ActivationLayout, Range<Int>, UnsafeMutableRawPointer) -> Void
  public var quantizedMatmul: @Sendable (borrowing QuantizedMatmulArguments) -> Void
  public var floatMatmul: @Sendable (borrowing FloatMatmulArguments) -> Void
  public var gemm: @Sendable (borrowing GEMMArguments) -> Void
  /// `(kind, source, count, out)`: `count` elements (a multiple of the block) to f32.
  public var dequantize: @Sendable (DType, UnsafeRawPointer, Int, MutableFloatPointer) -> Void
  /// `(kind, x, count, out)`: f32 to f16, bf16 or f32, round to nearest even.
  public var convertFromFloat: @Sendable (DType, FloatPointer, Int, UnsafeMutableRawPointer) -> Void

  // MARK: attention
  /// How many independent work items an attention call has (query tiles × key heads).
  public var attentionItems: @Sendable (borrowing AttentionArguments) -> Int
  /// `(arguments, items, scratch)`.
  public var attention: @Sendable (borrowing AttentionArguments, Range<Int>, UnsafeMutableRawPointer) -> Void
  /// `(plane, x, ldx, tokens, width, firstPosition)`: stores `tokens` rows of f32 as columns `[width][16]` at positions
  /// `firstPosition…`, converted to the plane's kind. `width` is that of all heads.
  public var storeColumns: @Sendable (KVPlane, FloatPointer, Int, Int, Int, Int) -> Void
  /// `(plane, x, ldx, tokens, heads, width, firstPosition)`: the same as rows `[heads][16][width]`.
  public var storeRows: @Sendable (KVPlane, FloatPointer, Int, Int, Int, Int, Int) -> Void
  /// `(plane, y, ldy, positions, width)`: the f32 rows of one head at some positions, as they were stored as rows.
  public var loadRows: @Sendable (KVPlane, MutableFloatPointer, Int, Range<Int>, Int) -> Void

  // MARK: rows  (x and y may be the same memory)
  /// `(x, ldx, weight, eps, y, ldy, rows, n)`: y = x / √(mean(x²) + eps) · weight. `weight` nil means 1.
  public var rmsNorm: @Sendable (FloatPointer, Int, FloatPointer?, Float, MutableFloatPointer, Int, Int, Int) -> Void
  /// `(x, ldx, weight, bias, eps, y, ldy, rows, n)`.
  public var layerNorm:
    @Sendable (FloatPointer, Int, FloatPointer?, FloatPointer?, Float, MutableFloatPointer, Int, Int, Int) -> Void
  /// `(x, ldx, y, ldy, rows, n)`; a row's maximum is subtracted first.
  public var softmax: @Sendable (FloatPointer, Int, MutableFloatPointer, Int, Int, Int) -> Void
  /// `(x, ldx, rows, heads, headDim, rotaryDim, pairing, cosSin, positions)`: rotates the first `rotaryDim` elements of
  /// every head in place. `cosSin` is `[position][rotaryDim/2][2]` (cosine, sine); row r uses entry `positions[r]`.
  public var rope:
    @Sendable (MutableFloatPointer, Int, Int, Int, Int, Int, RotaryPairing, FloatPointer, UnsafePointer<Int32>) -> Void

  // MARK: elements
  /// `(activation, gate, up, y, n)`: y = activation(gate) · up; `up` nil means 1.
  public var activate: @Sendable (Activation, FloatPointer, FloatPointer?, MutableFloatPointer, Int) -> Void
  /// `(a, b, y, n)`: y = a + b.
  public var add: @Sendable (FloatPointer, FloatPointer, MutableFloatPointer, Int) -> Void
  /// `(a, b, y, n)`: y = a · b.
  public var multiply: @Sendable (FloatPointer, FloatPointer, MutableFloatPointer, Int) -> Void
  /// `(a, x, y, n)`: y += a · x.
  public var axpy: @Sendable (Float, FloatPointer, MutableFloatPointer, Int) -> Void
  /// `(a, x, y, n)`: y = a · x.
  public var scale: @Sendable (Float, FloatPointer, MutableFloatPointer, Int) -> Void
  /// `(cap, x, y, n)`: y = cap · tanh(x / cap).
  public var softcap: @Sendable (Float, FloatPointer, MutableFloatPointer, Int) -> Void

  // MARK: reductions
  /// `(x, n)`: Σ x, in f32 with blocked summation.
  public var sum: @Sendable (FloatPointer, Int) -> Float
  /// `(x, y, n)`.
  public var dot: @Sendable (FloatPointer, FloatPointer, Int) -> Float
  /// `(x, n)`: index of the greatest element, the lowest index among equals; NaN never wins.
  public var argmax: @Sendable (FloatPointer, Int) -> Int
  /// `(x, n)`: log Σ exp(x), stable; the sum in f64.
  public var logSumExp: @Sendable (FloatPointer, Int) -> Float

  // MARK: vector search
  /// `(query, length, rows, numbers, count, out)`: out[i] = ‖query − row numbers[i]‖². `query` and rows are `[length]` f32,
  /// `length` a multiple of 16; rows that lie ahead are fetched.
  public var squaredDistances:
    @Sendable (FloatPointer, Int, RowChunks, UnsafePointer<UInt32>, Int, MutableFloatPointer) -> Void
  /// `(query, length, rows, numbers, count, out)`: out[i] = query · row numbers[i], as `squaredDistances`.
  public var innerProducts:
    @Sendable (FloatPointer, Int, RowChunks, UnsafePointer<UInt32>, Int, MutableFloatPointer) -> Void
  /// `(query, rows, numbers, count, out)`: out[i] = offsetFactor · offset + factor · scale · (query · codes) of code
  /// row numbers[i]
  /// (`CodeQuery`): the integers are exact and the rest is one product after another, so every level gives the same bits.
  public var codeScores: @Sendable (CodeQuery, RowChunks, UnsafePointer<UInt32>, Int, MutableFloatPointer) -> Void
  /// `(query, rows, numbers, count, out)`: out[i] = base + row base − factor · scale · (±1 bits · codes) − error · row error
  /// of bit row numbers[i] (`BitLayout`): a lower bound of its score. The same bits at every level.
  public var bitBounds: @Sendable (BitQuery, RowChunks, UnsafePointer<UInt32>, Int, MutableFloatPointer) -> Void
  /// `(seed, bytes, count)`: CRC-32C (Castagnoli) of `count` bytes; `seed` is 0 or the CRC of the bytes before.
  public var crc32c: @Sendable (UInt32, UnsafeRawPointer, Int) -> UInt32

  // MARK: f64
  public var float64GEMM: @Sendable (borrowing Float64GEMMArguments) -> Void
  /// `(a, lda, rows, n, x, y)`: y[i] = Σ_j a[i, j] · x[j].
  public var float64MatVec: @Sendable (DoublePointer, Int, Int, Int, DoublePointer, MutableDoublePointer) -> Void
  /// `(a, lda, rows, n, x, y)`: y[j] += Σ_i x[i] · a[i, j].
  public var float64VecMat: @Sendable (DoublePointer, Int, Int, Int, DoublePointer, MutableDoublePointer) -> Void
  /// `(a, lda, rows, n, x, y)`: adds to y what the rows in the range of the upper triangle of a symmetric matrix `[n, n]`
  /// add to a · x: y[i] += Σ_j≥i a[i, j] · x[j] and, for j > i, y[j] += a[i, j] · x[i].
  public var float64SymVec: @Sendable (DoublePointer, Int, Range<Int>, Int, DoublePointer, MutableDoublePointer) -> Void
  /// `(panel, sweeps, count, coefficients)`: turns the rows of a panel `[rows][RotationSweep.panelColumns]` by `count`
  /// sweeps; `coefficients` holds (c, s) of every rotation in order, which makes row i + 1 = s · row i + c · row i + 1 and
  /// row i = c · row i − s · row i + 1.
  public var rotatePanel: @Sendable (MutableDoublePointer, UnsafePointer<RotationSweep>, Int, DoublePointer) -> Void

  // MARK: measurement
  /// `(iterations)`: floating-point operations done by a loop of independent FMAs, for the measured peak.
  public var fmaLoop: @Sendable (Int) -> Double
  /// `(iterations)`: int8 multiply and add operations done by a loop of independent dot products.
  public var int8Loop: @Sendable (Int) -> Double
  /// `(bytes, count)`: reads `count` bytes with wide loads; the result keeps the compiler honest.
  public var readLoop: @Sendable (UnsafeRawPointer, Int) -> UInt64

  public init(
    level: CPULevel,
    quantizeActivations:
      @escaping @Sendable (FloatPointer, Int, ActivationLayout, Range<Int>, UnsafeMutableRawPointer) -> Void,
    quantizedMatmul: @escaping @Sendable (borrowing QuantizedMatmulArguments) -> Void,
    floatMatmul: @escaping @Sendable (borrowing FloatMatmulArguments) -> Void,
    gemm: @escaping @Sendable (borrowing GEMMArguments) -> Void,
    dequantize: @escaping @Sendable (DType, UnsafeRawPointer, Int, MutableFloatPointer) -> Void,
    convertFromFloat: @escaping @Sendable (DType, FloatPointer, Int, UnsafeMutableRawPointer) -> Void,
    attentionItems: @escaping @Sendable (borrowing AttentionArguments) -> Int,
    attention: @escaping @Sendable (borrowing AttentionArguments, Range<Int>, UnsafeMutableRawPointer) -> Void,
    storeColumns: @escaping @Sendable (KVPlane, FloatPointer, Int, Int, Int, Int) -> Void,
    storeRows: @escaping @Sendable (KVPlane, FloatPointer, Int, Int, Int, Int, Int) -> Void,
    loadRows: @escaping @Sendable (KVPlane, MutableFloatPointer, Int, Range<Int>, Int) -> Void,
    rmsNorm: @escaping @Sendable (FloatPointer, Int, FloatPointer?, Float, MutableFloatPointer, Int, Int, Int) -> Void,
    layerNorm:
      @escaping @Sendable (FloatPointer, Int, FloatPointer?, FloatPointer?, Float, MutableFloatPointer, Int, Int, Int)
      -> Void,
    softmax: @escaping @Sendable (FloatPointer, Int, MutableFloatPointer, Int, Int, Int) -> Void,
    rope:
      @escaping @Sendable (
        MutableFloatPointer, Int, Int, Int, Int, Int, RotaryPairing, FloatPointer, UnsafePointer<Int32>
      ) -> Void,
    activate: @escaping @Sendable (Activation, FloatPointer, FloatPointer?, MutableFloatPointer, Int) -> Void,
    add: @escaping @Sendable (FloatPointer, FloatPointer, MutableFloatPointer, Int) -> Void,
    multiply: @escaping @Sendable (FloatPointer, FloatPointer, MutableFloatPointer, Int) -> Void,
    axpy: @escaping @Sendable (Float, FloatPointer, MutableFloatPointer, Int) -> Void,
    scale: @escaping @Sendable (Float, FloatPointer, MutableFloatPointer, Int) -> Void,
    softcap: @escaping @Sendable (Float, FloatPointer, MutableFloatPointer, Int) -> Void,
    sum: @escaping @Sendable (FloatPointer, Int) -> Float,
    dot: @escaping @Sendable (FloatPointer, FloatPointer, Int) -> Float,
    argmax: @escaping @Sendable (FloatPointer, Int) -> Int,
    logSumExp: @escaping @Sendable (FloatPointer, Int) -> Float,
    squaredDistances:
      @escaping @Sendable (FloatPointer, Int, RowChunks, UnsafePointer<UInt32>, Int, MutableFloatPointer) -> Void,
    innerProducts:
      @escaping @Sendable (FloatPointer, Int, RowChunks, UnsafePointer<UInt32>, Int, MutableFloatPointer) -> Void,
    codeScores: @escaping @Sendable (CodeQuery, RowChunks, UnsafePointer<UInt32>, Int, MutableFloatPointer) -> Void,
    bitBounds: @escaping @Sendable (BitQuery, RowChunks, UnsafePointer<UInt32>, Int, MutableFloatPointer) -> Void,
    crc32c: @escaping @Sendable (UInt32, UnsafeRawPointer, Int) -> UInt32,
    float64GEMM: @escaping @Sendable (borrowing Float64GEMMArguments) -> Void,
    float64MatVec: @escaping @Sendable (DoublePointer, Int, Int, Int, DoublePointer, MutableDoublePointer) -> Void,
    float64VecMat: @escaping @Sendable (DoublePointer, Int, Int, Int, DoublePointer, MutableDoublePointer) -> Void,
    float64SymVec:
      @escaping @Sendable (DoublePointer, Int, Range<Int>, Int, DoublePointer, MutableDoublePointer) -> Void,
    rotatePanel:
      @escaping @Sendable (MutableDoublePointer, UnsafePointer<RotationSweep>, Int, DoublePointer) -> Void,
    fmaLoop: @escaping @Sendable (Int) -> Double,
    int8Loop: @escaping @Sendable (Int) -> Double,
    readLoop: @escaping @Sendable (UnsafeRawPointer, Int) -> UInt64
  ) {
    self.level = level
    self.quantizeActivations = quantizeActivations
    self.quantizedMatmul = quantizedMatmul
    self.floatMatmul = floatMatmul
    self.gemm = gemm
    self.dequantize = dequantize
    self.convertFromFloat = convertFromFloat
    self.attentionItems = attentionItems
    self.attention = attention
    self.storeColumns = storeColumns
    self.storeRows = storeRows
    self.loadRows = loadRows
    self.rmsNorm = rmsNorm
    self.layerNorm = layerNorm
    self.softmax = softmax
    self.rope = rope
    self.activate = activate
    self.add = add
    self.multiply = multiply
    self.axpy = axpy
    self.scale = scale
    self.softcap = softcap
    self.sum = sum
    self.dot = dot
    self.argmax = argmax
    self.logSumExp = logSumExp
    self.squaredDistances = squaredDistances
    self.innerProducts = innerProducts
    self.codeScores = codeScores
    self.bitBounds = bitBounds
    self.crc32c = crc32c
    self.float64GEMM = float64GEMM
    self.float64MatVec = float64MatVec
    self.float64VecMat = float64VecMat
    self.float64SymVec = float64SymVec
    self.rotatePanel = rotatePanel
    self.fmaLoop = fmaLoop
    self.int8Loop = int8Loop
    self.readLoop = readLoop
  }
}
