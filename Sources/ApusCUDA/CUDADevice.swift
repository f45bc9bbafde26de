import ApusCompute
import ApusKernels

/// Executes encoders on a GPU: BERT and its like, dense or of low rank.
///
/// Activations and matrices are f32, or bf16 with sums in f32; vectors are f32. Operations return before they are done;
/// what went wrong comes with the next `read`, and nothing is started after it. Owned by one thread at a time.
public final class CUDADevice: Device {
  /// What activations and matrices are stored as.
  public enum Elements: String, Sendable, CaseIterable {
    /// Products in f32, without tensor cores.
    case f32
    /// Products on the tensor cores.
    case bf16

    public var dtype: DType { self == .f32 ? .f32 : .bf16 }
  }

  public let arena: Arena
  public let elements: Elements
  public var runsDecoders: Bool { false }
  /// Nil for a device that only keeps the account.
  private let context: CUDAContext?
  private let ledger: MemoryLedger?
  private var failure: (any Error)?
  private var rankSpaces: [RankSpace.Key: RankSpace] = [:]

  /// Rows start at multiples of this many bytes, so that they can be copied in pieces of as many.
  private static let rowAlignment = 16
  /// Rows of a block, in every kernel with tiles (`kTileRows`).
  private static let tileRows = 128
  /// Columns of a block of `linear`.
  private static let tileColumns = 128
  /// The greatest rank, or size of a head, that attention keeps on chip.
  static let greatestRank = 64

  /// - Parameter context: with the kernels of `elements` loaded.
  public init(_ context: CUDAContext, elements: Elements, ledger: MemoryLedger) {
    self.context = context
    self.elements = elements
    self.ledger = ledger
    arena = Arena(elements: elements.dtype, rowAlignment: Self.rowAlignment, ledger: ledger) { bytes in
      // The arena counts what is in use.
      try CUDAStorage(bytes: bytes, on: context, ledger: nil, line: .transient)
    }
  }

  /// The device of this machine with this number, its kernels from the cache or compiled anew.
  ///
  /// Throws ``CUDAError`` where there is no driver, no such device, or nothing to compile with.
  public static func system(
    ordinal: Int, elements: Elements, cache: KernelCache, ledger: MemoryLedger
  ) throws -> CUDADevice {
    let context = try CUDAContext(try CUDADriver.system(), ordinal: ordinal)
    for module in try cache.modules(KernelSource.all(for: elements), architecture: context.architecture) {
      try context.load(module.bytes)
    }
    return CUDADevice(context, elements: elements, ledger: ledger)
  }

  /// The GPU, and which kernels run on it, e.g. `NVIDIA H200, sm_90, bf16, kernels 8c1f…`.
  public var name: String {
    context.map { "\($0.name), \($0.architecture), \(elements.rawValue), kernels \($0.fingerprint)" } ?? "plan"
  }

  private init(planning elements: Elements) {
    context = nil
    self.elements = elements
    ledger = nil
    arena = .counting(elements: elements.dtype, rowAlignment: Self.rowAlignment)
  }

  public func planner() -> any Device { CUDADevice(planning: elements) }

  // MARK: launches

  private func attempt(_ body: (CUDAContext) throws -> Void) {
    guard let context, failure == nil else { return }
    do { try body(context) } catch { failure = error }
  }

  /// Starts the kernel of this kind of elements.
  private func launch(_ kernel: String, _ suffix: String = "", grid: (Int, Int, Int), _ arguments: [Argument]) {
    guard grid.0 > 0, grid.1 > 0, grid.2 > 0 else { return }
    attempt { context in
      try context.use()
      try context.launch("\(kernel)_\(elements.rawValue)\(suffix)", grid: grid, arguments)
    }
  }

  private typealias Argument = CUDAContext.Argument

  /// Address and elements from row to row.
  private func matrix(_ x: Tensor?) -> [Argument] {
    [.tensor(x), .int(x.map { $0.rowBytes / elements.dtype.blockBytes } ?? 0)]
  }

  private func refuse(_ what: String) {
    attempt { _ in throw CUDAError.unsupported("\(what) is not there on CUDA devices: run this model on the CPU") }
  }

  private func blocks(_ count: Int, of size: Int) -> Int { (count + size - 1) / size }

  // MARK: to and fro

  public func resident(_ x: Tensor, _ kind: ParameterKind) throws -> Tensor {
    guard let context, x.isHostMemory else { return x }
    let dtype = kind == .vector ? .f32 : elements.dtype
    return try upload(x.floatArray(), x.rows, x.columns, dtype, on: context)
  }

  private func upload(
    _ values: [Float], _ rows: Int, _ columns: Int, _ dtype: DType, on context: CUDAContext
  ) throws -> Tensor {
    let size = dtype.blockBytes
    let rowBytes = (columns * size + Self.rowAlignment - 1) / Self.rowAlignment * Self.rowAlignment
    var bytes = [UInt8](repeating: 0, count: rows * rowBytes)
    bytes.withUnsafeMutableBytes { out in
      for row in 0..<rows {
        for column in 0..<columns {
          let value = values[row * columns + column]
          let at = row * rowBytes + column * size
          if dtype == .f32 {
            out.storeBytes(of: value, toByteOffset: at, as: Float.self)
          } else {
            out.storeBytes(of: BF16.bits(value), toByteOffset: at, as: UInt16.self)
          }
        }
      }
    }
    let storage = try CUDAStorage(bytes: bytes.count, on: context, ledger: ledger, line: .persistent)
    let tensor = Tensor(
      dtype: dtype, rows: rows, columns: columns, rowBytes: rowBytes, base: storage.base, storage: storage)
    try bytes.withUnsafeBytes { try write($0, to: tensor, on: context) }
    return tensor
  }

  private func write(_ bytes: UnsafeRawBufferPointer, to x: Tensor, on context: CUDAContext) throws {
    guard let source = bytes.baseAddress, bytes.count > 0 else { return }
    try context.use()
    try context.driver.write(source, to: CUDADriver.Address(UInt(bitPattern: x.base)), bytes: bytes.count)
  }

  public func read(_ x: Tensor) throws -> [Float] {
    guard let context else { return [] }
    if let failure {
      self.failure = nil
      throw failure
    }
    try context.use()
    try context.driver.synchronize()
    guard x.rows > 0, x.columns > 0 else { return [] }
    var bytes = [UInt8](repeating: 0, count: (x.rows - 1) * x.rowBytes + x.dtype.rowBytes(x.columns))
    try bytes.withUnsafeMutableBytes {
      try context.driver.read(
        $0.baseAddress!, from: CUDADriver.Address(UInt(bitPattern: x.base)), bytes: $0.count)
    }
    return bytes.withUnsafeBytes { bytes in
      (0..<x.rows).flatMap { row in
        (0..<x.columns).map { column in
          let at = row * x.rowBytes + column * x.dtype.blockBytes
          return x.dtype == .f32
            ? bytes.loadUnaligned(fromByteOffset: at, as: Float.self)
            : BF16.value(bytes.loadUnaligned(fromByteOffset: at, as: UInt16.self))
        }
      }
    }
  }

  public func integers(_ values: [Int32]) -> Tensor {
    let x = arena.tensor(1, values.count, dtype: .i32)
    attempt { context in try values.withUnsafeBytes { try write($0, to: x, on: context) } }
    return x
  }

  public func set(_ x: Tensor, _ values: [Float]) {
    precondition(x.rows == 1 && x.columns == values.count)
    attempt { context in
      if x.dtype == .f32 {
        try values.withUnsafeBytes { try write($0, to: x, on: context) }
      } else {
        try values.map(BF16.bits).withUnsafeBytes { try write($0, to: x, on: context) }
      }
    }
  }

  // MARK: products

  public func linear(_ x: Tensor, _ projections: [Projection], activations: ActivationPrecision) {
    for p in projections {
      precondition(
        p.weight.columns == x.columns && p.out.rows == x.rows && p.out.columns == p.weight.rows,
        "linear: x [\(x.rows), \(x.columns)], weight [\(p.weight.rows), \(p.weight.columns)], out [\(p.out.rows), \(p.out.columns)]"
      )
      launch(
        "linear",
        grid: (blocks(x.rows, of: Self.tileRows), blocks(p.weight.rows, of: Self.tileColumns), 1),
        matrix(x) + matrix(p.weight) + [.tensor(p.bias)] + matrix(p.out)
          + [.int(x.rows), .int(p.weight.rows), .int(x.columns)])
    }
  }

  public func feedForward(_ factored: FactoredFeedForward, into s: Tensor) {
    let (p, down, gate) = (factored.p, factored.down, factored.gate)
    precondition(
      s.rows == p.rows && s.columns == down.rows && factored.up.weight.rows == down.columns,
      "feedForward: p [\(p.rows), \(p.columns)], down [\(down.rows), \(down.columns)], s [\(s.rows), \(s.columns)]")
    // The widest that registers hold; more columns than that compute the inner activations once for each of them.
    let width = [128, 192].first { down.rows <= $0 } ?? 256
    let left = matrix(p) + [.int(p.columns)] + matrix(factored.up.weight) + [.tensor(factored.up.bias)]
    let right =
      matrix(gate?.p) + [.int(gate?.p.columns ?? 0)] + matrix(gate?.map.weight) + [.tensor(gate?.map.bias)]
    launch(
      "feed_forward", "_\(width)",
      grid: (blocks(p.rows, of: Self.tileRows), blocks(down.rows, of: width), 1),
      left + right + [.int(Int(factored.activation.rawValue))] + matrix(down) + matrix(s)
        + [.int(p.rows), .int(down.columns), .int(down.rows)])
  }

  // MARK: attention

  public func attention(
    _ q: Tensor, _ k: Tensor, _ v: Tensor, _ form: AttentionForm, _ sequences: [Range<Int>], into out: Tensor
  ) {
    guard supports(form), form.headDim <= Self.greatestRank else {
      return refuse("attention with \(form)")
    }
    attend(
      (q, form.headDim), (k, form.headDim), (v, form.headDim), rank: form.headDim, space: nil, form, sequences,
      into: out)
  }

  /// In rank space where that is no more work than with heads in full, else a few heads after another.
  public func attention(_ factored: FactoredAttention, _ sequences: [Range<Int>], into out: Tensor) {
    let (p, form) = (factored.p, factored.form)
    guard supports(form), p.columns <= form.headDim, form.headDim <= Self.greatestRank else {
      return attentionByHeads(factored, sequences, into: out)
    }
    var space: RankSpace?
    attempt { _ in space = try rankSpace(of: factored) }
    attend((p, 0), (p, 0), (p, 0), rank: p.columns, space: space, form, sequences, into: out)
  }

  private func supports(_ form: AttentionForm) -> Bool {
    form.heads == form.keyHeads && form.heads == form.valueHeads && form.valueDim == form.headDim && !form.causal
      && form.window == 0 && form.softcap == 0 && form.slopes.isEmpty
  }

  /// Rows of a head begin `head` elements after those of the one before; `seen` has a byte for each row, 0 for keys that
  /// nobody sees.
  func attend(
    _ q: (x: Tensor, head: Int), _ k: (x: Tensor, head: Int), _ v: (x: Tensor, head: Int), rank: Int,
    space: RankSpace?, seen: Tensor? = nil, _ form: AttentionForm, _ sequences: [Range<Int>], into out: Tensor
  ) {
    guard let first = sequences.first else { return }
    var starts = [Int32(first.lowerBound)]
    for rows in sequences {
      precondition(rows.lowerBound == Int(starts.last!), "sequences follow each other without gaps")
      starts.append(Int32(rows.upperBound))
    }
    temporaries {
      let starts = integers(starts)
      let from = [q, k, v].flatMap { matrix($0.x) + [.int($0.head)] }
      let factors: [Argument] = [space?.mix, space?.shift, space?.lift, space?.bias].map { .tensor($0) }
      launch(
        "attention", "_\((rank + 15) / 16 * 16)",
        grid: (blocks(sequences.map(\.count).max() ?? 0, of: Self.tileRows), form.heads, sequences.count),
        from + factors + [.tensor(seen), .tensor(starts)] + matrix(out)
          + [.int(rank), .int(form.headDim), .float(form.scale)])
    }
  }

  private func rankSpace(of factored: FactoredAttention) throws -> RankSpace? {
    guard let context else { return nil }
    let key = RankSpace.Key(factored)
    if let known = rankSpaces[key] { return known }
    func floats(_ x: Tensor?) throws -> [Float]? { try x.map { try read($0) } }
    let (heads, dim, rank) = (factored.form.heads, factored.form.headDim, factored.p.columns)
    let tables = RankSpaceTables(
      heads: heads, headDim: dim, rank: rank, q: try read(factored.q.weight), k: try read(factored.k.weight),
      v: try read(factored.v.weight), queryBias: try floats(factored.q.bias))
    // Rows without gaps, as the kernel reads them.
    func whole(_ values: [Float], _ dtype: DType) throws -> Tensor {
      try upload(values, 1, values.count, dtype, on: context)
    }
    let space = RankSpace(
      mix: try whole(tables.mix, elements.dtype), shift: try tables.shift.map { try whole($0, .f32) },
      lift: try whole(tables.lift, elements.dtype), bias: factored.v.bias, sources: factored)
    rankSpaces[key] = space
    return space
  }

  // MARK: rows

  public func gatherRows(_ table: Tensor, _ ids: Tensor, into out: Tensor) {
    precondition(ids.columns == out.rows && table.columns == out.columns && table.dtype == out.dtype)
    launch(
      "gather", grid: (out.rows, 1, 1),
      matrix(table) + [.tensor(ids)] + matrix(out) + [.int(out.columns), .int(0)])
  }

  public func copy(_ x: Tensor, into out: Tensor) {
    precondition(x.rows == out.rows && x.columns == out.columns && x.dtype == out.dtype)
    launch("gather", grid: (out.rows, 1, 1), matrix(x) + [.tensor(nil)] + matrix(out) + [.int(out.columns), .int(0)])
  }

  public func clear(_ x: Tensor) {
    attempt { context in
      try context.use()
      for row in 0..<x.rows {
        let address = CUDADriver.Address(UInt(bitPattern: x.base + row * x.rowBytes))
        try context.driver.clear(address, bytes: x.dtype.rowBytes(x.columns))
      }
    }
  }

  public func layerNorm(_ x: Tensor, weight: Tensor?, bias: Tensor?, epsilon: Float, into out: Tensor) {
    launch(
      "layer_norm", grid: (x.rows, 1, 1),
      matrix(x) + matrix(nil) + [.tensor(weight), .tensor(bias), .float(epsilon)] + matrix(out) + [.int(x.columns)])
  }

  public func activate(_ activation: Activation, gate: Tensor, up: Tensor?, into out: Tensor) {
    launch(
      "activate", grid: (gate.rows, 1, 1),
      [.int(Int(activation.rawValue))] + matrix(gate) + matrix(up) + matrix(out) + [.int(gate.columns)])
  }

  public func add(_ a: Tensor, _ b: Tensor, into out: Tensor) {
    launch("add", grid: (a.rows, 1, 1), matrix(a) + matrix(b) + matrix(out) + [.int(a.columns)])
  }

  public func meanRows(_ x: Tensor, _ ranges: [Range<Int>], into out: Tensor) {
    precondition(ranges.count == out.rows && x.columns == out.columns)
    temporaries {
      let starts = integers(ranges.map { Int32($0.lowerBound) })
      let ends = integers(ranges.map { Int32($0.upperBound) })
      launch(
        "pool", grid: (out.rows, 1, 1),
        matrix(x) + [.tensor(starts), .tensor(ends)] + matrix(out) + [.int(x.columns), .int(0), .int(0)])
    }
  }

  public func normalizeRows(_ x: Tensor) {
    launch(
      "pool", grid: (x.rows, 1, 1),
      matrix(x) + [.tensor(nil), .tensor(nil)] + matrix(x) + [.int(x.columns), .int(1), .int(1)])
  }

  // MARK: what encoders do without

  public func scatterAddRows(_ x: Tensor, _ ids: Tensor, scale: Tensor, into out: Tensor) { refuse("routing of rows") }
  public func rmsNorm(_ x: Tensor, weight: Tensor?, epsilon: Float, into out: Tensor) { refuse("RMS norm") }
  public func rmsNormHeads(_ x: Tensor, headDim: Int, weight: Tensor?, epsilon: Float) { refuse("RMS norm of heads") }
  public func rope(
    _ x: Tensor, headDim: Int, rotaryDim: Int, pairing: RotaryPairing, table: Tensor, positions: Tensor
  ) { refuse("rotation") }
  public func store(_ x: Tensor, heads: Int, in plane: KVPlane, as order: KVOrder, at position: Int) {
    refuse("stored keys and values")
  }
  public func loadRows(_ plane: KVPlane, _ positions: Range<Int>, into out: Tensor) {
    refuse("stored keys and values")
  }
  public func attention(
    _ q: Tensor, _ form: AttentionForm, _ segments: [AttentionSegment], sums: Tensor?, into out: Tensor
  ) { refuse("attention over stored keys and values") }
  public func unpacked(_ x: Tensor) -> Tensor {
    refuse("unpacked weights")
    return x
  }
  public func projectHeads(
    _ x: Tensor, heads: Int, _ weight: Tensor, kvHeads: Int, bias: Tensor?, transposed: Bool, into out: Tensor
  ) { refuse("maps of single heads") }
  public func scale(_ x: Tensor, by factor: Float) { refuse("scaling") }
  public func softcap(_ x: Tensor, _ cap: Float) { refuse("a cap of logits") }
  public func softmax(_ x: Tensor) { refuse("softmax of rows") }
  public func topRows(_ probabilities: Tensor, _ k: Int) -> [(rows: [Int32], weights: [Float])] {
    refuse("routing of rows")
    return Array(repeating: ([], []), count: probabilities.columns)
  }
}

/// The upper half of an f32, rounded to nearest, ties to even.
enum BF16 {
  static func bits(_ x: Float) -> UInt16 {
    if x.isNaN { return 0x7fff }
    let bits = x.bitPattern
    return UInt16(truncatingIfNeeded: (bits &+ 0x7fff &+ (bits >> 16 & 1)) >> 16)
  }

  static func value(_ bits: UInt16) -> Float { Float(bitPattern: UInt32(bits) << 16) }
}
