import ApusKernels

/// Executes operations on this machine's cores with the kernels of its instruction-set level.
///
/// Owned by one thread at a time; its pool's threads only run inside a call. Operations allocate nothing on the heap: the
/// bodies of parallel loops capture nothing and get what they need as a tuple (`ThreadPool.parallelFor`).
public final class CPUDevice: Device {
  /// How products with quantised weights are computed.
  public enum Precision: Sendable {
    /// Activations rounded as `ActivationPrecision` says, integer dot products.
    case fast
    /// Weights dequantised, f32 arithmetic: the oracle.
    case exact
  }

  public let arena: Arena
  public let precision: Precision
  public let pool: ThreadPool
  let kernels: KernelTable
  /// Where each segment's items end, of the attention under way.
  var itemEnds: [Int] = []

  /// A device with `threads` threads, the caller's included.
  public init(
    threads: Int, precision: Precision = .fast, arena: Arena, kernels: KernelTable = Kernels.current
  ) {
    self.arena = arena
    self.precision = precision
    self.kernels = kernels
    pool = ThreadPool(threads: threads)
  }

  public var name: String { "CPU, \(pool.threads) thread\(pool.threads == 1 ? "" : "s")" }
  public func planner() -> any Device { PlanningDevice(precision: precision) }

  /// Weight rows that one thread takes at a time: at least one tile of the kernels, and enough bytes to be worth a claim.
  private static let tileRows = 16
  private static let grainBytes = 48 << 10

  // MARK: products

  /// The int8 form of x, if a projection wants it.
  static func layout(
    _ x: Tensor, _ projections: [Projection], _ activations: ActivationPrecision, _ precision: Precision
  ) -> ActivationLayout? {
    guard precision == .fast, projections.contains(where: { $0.weight.dtype.isQuantized }) else { return nil }
    return ActivationLayout(matrixRows: x.rows, k: x.columns, terms: activations.terms)
  }

  public func linear(_ x: Tensor, _ projections: [Projection], activations: ActivationPrecision) {
    temporaries {
      let activations = Self.layout(x, projections, activations, precision).map { quantize(x, $0) }
      var tiles = 0
      var weightBytes = 0
      for p in projections {
        check(x, p)
        tiles += (p.weight.rows + Self.tileRows - 1) / Self.tileRows
        weightBytes += p.weight.byteCount
      }
      // Each claim prepares the activations for its tiles anew, so claims are as large as balance allows.
      let tileBytes = max(1, weightBytes / max(1, tiles))
      let balanced = max(1, tiles / (4 * pool.threads))
      let grain =
        pool.threads == 1 ? tiles : x.rows > 16 ? balanced : max(1, min(Self.grainBytes / tileBytes, balanced))
      pool.parallelFor(
        items: tiles, grain: grain, over: (device: self, x: x, projections: projections, activations: activations)
      ) { c, range, thread in
        var first = 0
        for p in c.projections {
          let count = (p.weight.rows + Self.tileRows - 1) / Self.tileRows
          let mine = range.clamped(to: first..<first + count)
          if !mine.isEmpty {
            let rows =
              (mine.lowerBound - first) * Self.tileRows..<min((mine.upperBound - first) * Self.tileRows, p.weight.rows)
            c.device.product(c.x, p, rows, c.activations, c.device.pool.scratch(thread))
          }
          first += count
        }
      }
    }
  }

  private func check(_ x: Tensor, _ p: Projection) {
    precondition(
      p.weight.columns == x.columns && p.out.rows == x.rows && p.out.columns == p.weight.rows,
      "linear: x [\(x.rows), \(x.columns)], weight [\(p.weight.rows), \(p.weight.columns)], out [\(p.out.rows), \(p.out.columns)]"
    )
  }

  private func quantize(_ x: Tensor, _ layout: ActivationLayout) -> (
    layout: ActivationLayout, base: UnsafeMutableRawPointer
  ) {
    let base = arena.bytes(layout.bytes)
    pool.parallelFor(
      items: layout.panelCount, grain: x.rows <= 16 ? layout.panelCount : 1,
      over: (device: self, x: x, layout: layout, base: base)
    ) { c, panels, _ in
      c.device.kernels.quantizeActivations(c.x.constFloats, c.x.stride, c.layout, panels, c.base)
    }
    return (layout, base)
  }

  private func product(
    _ x: Tensor, _ p: Projection, _ rows: Range<Int>,
    _ activations: (layout: ActivationLayout, base: UnsafeMutableRawPointer)?, _ scratch: UnsafeMutableRawPointer
  ) {
    let out = p.out.floats
    let ldo = p.out.stride
    if let activations, p.weight.dtype.isQuantized {
      kernels.quantizedMatmul(
        QuantizedMatmulArguments(
          kind: p.weight.dtype, w: UnsafeRawPointer(p.weight.base), rowBytes: p.weight.rowBytes, rowRange: rows,
          activations: UnsafeRawPointer(activations.base), layout: activations.layout, out: out, ldo: ldo,
          scratch: scratch))
    } else {
      kernels.floatMatmul(
        FloatMatmulArguments(
          kind: p.weight.dtype, w: UnsafeRawPointer(p.weight.base), rowBytes: p.weight.rowBytes, rowRange: rows,
          x: x.constFloats, ldx: x.stride, rows: x.rows, k: x.columns, out: out, ldo: ldo, scratch: scratch))
    }
    if let bias = p.bias {
      let b = bias.constFloats + rows.lowerBound
      for row in 0..<x.rows {
        let y = out + row * ldo + rows.lowerBound
        kernels.add(FloatPointer(y), b, y, rows.count)
      }
    }
  }

  public func gatherRows(_ table: Tensor, _ ids: Tensor, into out: Tensor) {
    precondition(ids.columns == out.rows && table.columns == out.columns)
    let index = ids.base.assumingMemoryBound(to: Int32.self)
    byRows(out, grain: 8, over: (device: self, table: table, index: index, out: out)) { c, rows, _ in
      for row in rows {
        let id = Int(c.index[row])
        precondition(id >= 0 && id < c.table.rows, "row \(id) of a table of \(c.table.rows)")
        c.device.kernels.dequantize(
          c.table.dtype, UnsafeRawPointer(c.table.base + id * c.table.rowBytes), c.table.columns,
          c.out.floats + row * c.out.stride)
      }
    }
  }

  public func scatterAddRows(_ x: Tensor, _ ids: Tensor, scale: Tensor, into out: Tensor) {
    let index = ids.base.assumingMemoryBound(to: Int32.self)
    for row in 0..<x.rows {
      kernels.axpy(
        scale.floats[row], x.constFloats + row * x.stride, out.floats + Int(index[row]) * out.stride, x.columns)
    }
  }

  // MARK: rows

  /// Runs `body` over row ranges, on all threads when there is enough to do.
  func byRows<Context>(
    _ x: Tensor, grain: Int, over context: Context, _ body: @escaping (Context, Range<Int>, _ thread: Int) -> Void
  ) {
    if x.rows * x.columns < 1 << 14 || x.rows == 1 {
      body(context, 0..<x.rows, 0)
    } else {
      pool.parallelFor(items: x.rows, grain: grain, over: context, body)
    }
  }

  public func rmsNorm(_ x: Tensor, weight: Tensor?, epsilon: Float, into out: Tensor) {
    byRows(x, grain: 16, over: (device: self, x: x, weight: weight, epsilon: epsilon, out: out)) { c, rows, _ in
      c.device.kernels.rmsNorm(
        c.x.constFloats + rows.lowerBound * c.x.stride, c.x.stride, c.weight?.constFloats, c.epsilon,
        c.out.floats + rows.lowerBound * c.out.stride, c.out.stride, rows.count, c.x.columns)
    }
  }

  public func layerNorm(_ x: Tensor, weight: Tensor?, bias: Tensor?, epsilon: Float, into out: Tensor) {
    byRows(
      x, grain: 16, over: (device: self, x: x, weight: weight, bias: bias, epsilon: epsilon, out: out)
    ) { c, rows, _ in
      c.device.kernels.layerNorm(
        c.x.constFloats + rows.lowerBound * c.x.stride, c.x.stride, c.weight?.constFloats, c.bias?.constFloats,
        c.epsilon, c.out.floats + rows.lowerBound * c.out.stride, c.out.stride, rows.count, c.x.columns)
    }
  }

  public func rmsNormHeads(_ x: Tensor, headDim: Int, weight: Tensor?, epsilon: Float) {
    byRows(
      x, grain: 16, over: (device: self, x: x, headDim: headDim, weight: weight, epsilon: epsilon)
    ) { c, rows, _ in
      for row in rows {
        let p = c.x.floats + row * c.x.stride
        c.device.kernels.rmsNorm(
          FloatPointer(p), c.headDim, c.weight?.constFloats, c.epsilon, p, c.headDim, c.x.columns / c.headDim,
          c.headDim)
      }
    }
  }

  public func rope(
    _ x: Tensor, headDim: Int, rotaryDim: Int, pairing: RotaryPairing, table: Tensor, positions: Tensor
  ) {
    let index = UnsafePointer(positions.base.assumingMemoryBound(to: Int32.self))
    byRows(
      x, grain: 16,
      over: (
        device: self, x: x, headDim: headDim, rotaryDim: rotaryDim, pairing: pairing, table: table, index: index
      )
    ) { c, rows, _ in
      c.device.kernels.rope(
        c.x.floats + rows.lowerBound * c.x.stride, c.x.stride, rows.count, c.x.columns / c.headDim, c.headDim,
        c.rotaryDim, c.pairing, c.table.constFloats, c.index + rows.lowerBound)
    }
  }

  public func softmax(_ x: Tensor) {
    byRows(x, grain: 16, over: (device: self, x: x)) { c, rows, _ in
      let p = c.x.floats + rows.lowerBound * c.x.stride
      c.device.kernels.softmax(FloatPointer(p), c.x.stride, p, c.x.stride, rows.count, c.x.columns)
    }
  }

  public func meanRows(_ x: Tensor, _ ranges: [Range<Int>], into out: Tensor) {
    precondition(ranges.count == out.rows && x.columns == out.columns)
    clear(out)
    for (i, range) in ranges.enumerated() {
      let y = out.floats + i * out.stride
      for row in range { kernels.add(FloatPointer(y), x.constFloats + row * x.stride, y, x.columns) }
      kernels.scale(1 / Float(max(1, range.count)), FloatPointer(y), y, x.columns)
    }
  }

  public func normalizeRows(_ x: Tensor) {
    for row in 0..<x.rows {
      let p = x.floats + row * x.stride
      let length = kernels.dot(FloatPointer(p), FloatPointer(p), x.columns).squareRoot()
      kernels.scale(1 / max(length, 1e-12), FloatPointer(p), p, x.columns)
    }
  }

  // MARK: elements

  public func activate(_ activation: Activation, gate: Tensor, up: Tensor?, into out: Tensor) {
    byRows(
      gate, grain: 4, over: (device: self, activation: activation, gate: gate, up: up, out: out)
    ) { c, rows, _ in
      for row in rows {
        c.device.kernels.activate(
          c.activation, c.gate.constFloats + row * c.gate.stride, c.up.map { $0.constFloats + row * $0.stride },
          c.out.floats + row * c.out.stride, c.gate.columns)
      }
    }
  }

  public func add(_ a: Tensor, _ b: Tensor, into out: Tensor) {
    byRows(a, grain: 16, over: (device: self, a: a, b: b, out: out)) { c, rows, _ in
      for row in rows {
        c.device.kernels.add(
          c.a.constFloats + row * c.a.stride, c.b.constFloats + row * c.b.stride, c.out.floats + row * c.out.stride,
          c.a.columns)
      }
    }
  }

  public func scale(_ x: Tensor, by factor: Float) {
    for row in 0..<x.rows {
      let p = x.floats + row * x.stride
      kernels.scale(factor, FloatPointer(p), p, x.columns)
    }
  }

  public func softcap(_ x: Tensor, _ cap: Float) {
    byRows(x, grain: 4, over: (device: self, x: x, cap: cap)) { c, rows, _ in
      for row in rows {
        let p = c.x.floats + row * c.x.stride
        c.device.kernels.softcap(c.cap, FloatPointer(p), p, c.x.columns)
      }
    }
  }

  public func copy(_ x: Tensor, into out: Tensor) {
    precondition(x.rows == out.rows && x.columns == out.columns && x.dtype == out.dtype)
    for row in 0..<x.rows {
      (out.base + row * out.rowBytes).copyMemory(
        from: x.base + row * x.rowBytes, byteCount: x.dtype.rowBytes(x.columns))
    }
  }

  public func clear(_ x: Tensor) {
    for row in 0..<x.rows {
      (x.base + row * x.rowBytes).initializeMemory(as: UInt8.self, repeating: 0, count: x.dtype.rowBytes(x.columns))
    }
  }

  public func topRows(_ probabilities: Tensor, _ k: Int) -> [(rows: [Int32], weights: [Float])] {
    var routes = [(rows: [Int32], weights: [Float])](repeating: ([], []), count: probabilities.columns)
    for row in 0..<probabilities.rows {
      let p = UnsafeBufferPointer(
        start: probabilities.floats + row * probabilities.stride, count: probabilities.columns)
      let best = p.indices.sorted { (-p[$0], $0) < (-p[$1], $1) }.prefix(k)
      let total = best.reduce(Float(0)) { $0 + p[$1] }
      for column in best {
        routes[column].rows.append(Int32(row))
        routes[column].weights.append(p[column] / total)
      }
    }
    return routes
  }

  public func set(_ x: Tensor, _ values: [Float]) {
    precondition(x.rows == 1 && x.columns == values.count)
    x.floats.update(from: values, count: values.count)
  }

  public func integers(_ values: [Int32]) -> Tensor {
    let t = arena.tensor(1, values.count, dtype: .i32)
    t.base.assumingMemoryBound(to: Int32.self).update(from: values, count: values.count)
    return t
  }
}
