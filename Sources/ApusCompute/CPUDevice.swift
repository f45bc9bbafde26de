import ApusKernels

/// Executes operations on this machine's cores with the kernels of its instruction-set level.
///
/// Owned by one thread at a time; its pool's threads only run inside a call.
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

  /// A device with `threads` threads, the caller's included.
  public init(
    threads: Int, precision: Precision = .fast, arena: Arena, kernels: KernelTable = Kernels.current
  ) {
    self.arena = arena
    self.precision = precision
    self.kernels = kernels
    pool = ThreadPool(threads: threads)
  }

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
      pool.parallelFor(items: tiles, grain: grain) { range, thread in
        var first = 0
        for p in projections {
          let count = (p.weight.rows + Self.tileRows - 1) / Self.tileRows
          let mine = range.clamped(to: first..<first + count)
          if !mine.isEmpty {
            let rows =
              (mine.lowerBound - first) * Self.tileRows..<min((mine.upperBound - first) * Self.tileRows, p.weight.rows)
            product(x, p, rows, activations, pool.scratch(thread))
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
    let kernels = kernels
    pool.parallelFor(items: layout.panelCount, grain: x.rows <= 16 ? layout.panelCount : 1) { panels, _ in
      kernels.quantizeActivations(x.constFloats, x.stride, layout, panels, base)
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
    byRows(out, grain: 8) { [kernels] rows in
      for row in rows {
        let id = Int(index[row])
        precondition(id >= 0 && id < table.rows, "row \(id) of a table of \(table.rows)")
        kernels.dequantize(
          table.dtype, UnsafeRawPointer(table.base + id * table.rowBytes), table.columns,
          out.floats + row * out.stride)
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
  private func byRows(_ x: Tensor, grain: Int, _ body: (Range<Int>) -> Void) {
    if x.rows * x.columns < 1 << 14 || x.rows == 1 {
      body(0..<x.rows)
    } else {
      pool.parallelFor(items: x.rows, grain: grain) { rows, _ in body(rows) }
    }
  }

  public func rmsNorm(_ x: Tensor, weight: Tensor?, epsilon: Float, into out: Tensor) {
    byRows(x, grain: 16) { [kernels] rows in
      kernels.rmsNorm(
        x.constFloats + rows.lowerBound * x.stride, x.stride, weight?.constFloats, epsilon,
        out.floats + rows.lowerBound * out.stride, out.stride, rows.count, x.columns)
    }
  }

  public func layerNorm(_ x: Tensor, weight: Tensor?, bias: Tensor?, epsilon: Float, into out: Tensor) {
    byRows(x, grain: 16) { [kernels] rows in
      kernels.layerNorm(
        x.constFloats + rows.lowerBound * x.stride, x.stride, weight?.constFloats, bias?.constFloats, epsilon,
        out.floats + rows.lowerBound * out.stride, out.stride, rows.count, x.columns)
    }
  }

  public func rmsNormHeads(_ x: Tensor, headDim: Int, weight: Tensor?, epsilon: Float) {
    let heads = x.columns / headDim
    byRows(x, grain: 16) { [kernels] rows in
      for row in rows {
        let p = x.floats + row * x.stride
        kernels.rmsNorm(FloatPointer(p), headDim, weight?.constFloats, epsilon, p, headDim, heads, headDim)
      }
    }
  }

  public func rope(
    _ x: Tensor, headDim: Int, rotaryDim: Int, pairing: RotaryPairing, table: Tensor, positions: Tensor
  ) {
    let index = UnsafePointer(positions.base.assumingMemoryBound(to: Int32.self))
    byRows(x, grain: 16) { [kernels] rows in
      kernels.rope(
        x.floats + rows.lowerBound * x.stride, x.stride, rows.count, x.columns / headDim, headDim, rotaryDim, pairing,
        table.constFloats, index + rows.lowerBound)
    }
  }

  public func softmax(_ x: Tensor) {
    byRows(x, grain: 16) { [kernels] rows in
      let p = x.floats + rows.lowerBound * x.stride
      kernels.softmax(FloatPointer(p), x.stride, p, x.stride, rows.count, x.columns)
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

  // MARK: attention

  public func storeKV(_ k: Tensor, _ v: Tensor, kvHeads: Int, headDim: Int, _ segments: [AttentionSegment]) {
    for s in segments {
      kernels.storeKV(
        s.kv, k.constFloats + s.rows.lowerBound * k.stride, k.stride, v.constFloats + s.rows.lowerBound * v.stride,
        v.stride, s.rows.count, kvHeads, headDim, s.firstPosition)
    }
  }

  public func attention(_ q: Tensor, _ form: AttentionForm, _ segments: [AttentionSegment], into out: Tensor) {
    form.slopes.withUnsafeBufferPointer { slopes in
      var arguments = AttentionArguments(
        q: q.constFloats, ldq: q.stride, out: out.floats, ldo: out.stride, queries: 0, heads: form.heads,
        kvHeads: form.kvHeads, headDim: form.headDim, firstPosition: 0, keyCount: 0, causal: form.causal,
        window: form.window, scale: form.scale, softcap: form.softcap,
        slopes: slopes.isEmpty ? nil : slopes.baseAddress,
        kv: segments[0].kv)
      // The items of all segments in one row, so that a prompt's share the threads with other sequences' single ones.
      var ends: [Int] = []
      ends.reserveCapacity(segments.count)
      for segment in segments {
        point(&arguments, to: segment, q, out)
        ends.append((ends.last ?? 0) + kernels.attentionItems(arguments))
      }
      let shared = arguments
      pool.parallelFor(items: ends.last ?? 0, grain: 1) { range, thread in
        var mine = shared
        var segment = ends.firstIndex { $0 > range.lowerBound } ?? 0
        var item = range.lowerBound
        while item < range.upperBound {
          let first = segment == 0 ? 0 : ends[segment - 1]
          let end = min(range.upperBound, ends[segment])
          point(&mine, to: segments[segment], q, out)
          kernels.attention(mine, item - first..<end - first, pool.scratch(thread))
          item = end
          segment += 1
        }
      }
    }
  }

  private func point(_ a: inout AttentionArguments, to s: AttentionSegment, _ q: Tensor, _ out: Tensor) {
    a.q = q.constFloats + s.rows.lowerBound * q.stride
    a.out = out.floats + s.rows.lowerBound * out.stride
    a.queries = s.rows.count
    a.firstPosition = s.firstPosition
    a.keyCount = s.firstPosition + s.rows.count
    a.kv = s.kv
  }

  // MARK: elements

  public func activate(_ activation: Activation, gate: Tensor, up: Tensor?, into out: Tensor) {
    byRows(gate, grain: 4) { [kernels] rows in
      for row in rows {
        kernels.activate(
          activation, gate.constFloats + row * gate.stride, up.map { $0.constFloats + row * $0.stride },
          out.floats + row * out.stride, gate.columns)
      }
    }
  }

  public func add(_ a: Tensor, _ b: Tensor, into out: Tensor) {
    byRows(a, grain: 16) { [kernels] rows in
      for row in rows {
        kernels.add(
          a.constFloats + row * a.stride, b.constFloats + row * b.stride, out.floats + row * out.stride, a.columns)
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
    byRows(x, grain: 4) { [kernels] rows in
      for row in rows {
        let p = x.floats + row * x.stride
        kernels.softcap(cap, FloatPointer(p), p, x.columns)
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

  public func integers(_ values: some Collection<Int32>) -> Tensor {
    let t = arena.tensor(1, values.count, dtype: .i32)
    let p = t.base.assumingMemoryBound(to: Int32.self)
    for (i, value) in values.enumerated() { p[i] = value }
    return t
  }
}
