import ApusKernels

extension CPUDevice {
  /// Tokens of a store from which on threads share it.
  private static let sharedStore = 64

  public func store(_ x: Tensor, heads: Int, in plane: KVPlane, as order: KVOrder, at position: Int) {
    guard x.rows >= Self.sharedStore else { return store(x, plane, heads, order, at: position, 0..<x.rows) }
    // Whole blocks a thread, so that no two write to one line of the cache.
    pool.parallelFor(
      items: (position + x.rows + 15) / 16 - position / 16, grain: 2,
      over: (device: self, x: x, plane: plane, heads: heads, order: order, position: position)
    ) { c, range, _ in
      let first = c.position / 16
      let from = max(0, (first + range.lowerBound) * 16 - c.position)
      let to = min(c.x.rows, (first + range.upperBound) * 16 - c.position)
      c.device.store(c.x, c.plane, c.heads, c.order, at: c.position + from, from..<to)
    }
  }

  private func store(
    _ x: Tensor, _ plane: KVPlane, _ heads: Int, _ order: KVOrder, at position: Int, _ rows: Range<Int>
  ) {
    let source = x.constFloats + rows.lowerBound * x.stride
    switch order {
    case .columns: kernels.storeColumns(plane, source, x.stride, rows.count, x.columns, position)
    case .rows: kernels.storeRows(plane, source, x.stride, rows.count, heads, x.columns / heads, position)
    }
  }

  public func loadRows(_ plane: KVPlane, _ positions: Range<Int>, into out: Tensor) {
    byRows(out, grain: 16, over: (device: self, plane: plane, first: positions.lowerBound, out: out)) { c, rows, _ in
      c.device.kernels.loadRows(
        c.plane, c.out.floats + rows.lowerBound * c.out.stride, c.out.stride,
        c.first + rows.lowerBound..<c.first + rows.upperBound, c.out.columns)
    }
  }

  public func unpacked(_ x: Tensor) -> Tensor {
    guard x.dtype != .f32 else { return x }
    let out = arena.tensor(x.rows, x.columns)
    byRows(out, grain: 16, over: (device: self, x: x, out: out)) { c, rows, _ in
      for row in rows {
        c.device.kernels.dequantize(
          c.x.dtype, UnsafeRawPointer(c.x.base + row * c.x.rowBytes), c.x.columns, c.out.floats + row * c.out.stride)
      }
    }
    return out
  }

  // MARK: attention

  public func attention(
    _ q: Tensor, _ form: AttentionForm, _ segments: [AttentionSegment], sums: Tensor?, into out: Tensor
  ) {
    form.slopes.withUnsafeBufferPointer { slopes in
      var arguments = AttentionArguments(
        q: q.constFloats, ldq: q.stride, out: out.floats, ldo: out.stride, queries: 0, heads: form.heads,
        keyHeads: form.keyHeads, valueHeads: form.valueHeads, headDim: form.headDim, valueDim: form.valueDim,
        firstPosition: 0, keyRange: 0..<0, causal: form.causal, window: form.window, scale: form.scale,
        softcap: form.softcap, slopes: slopes.isEmpty ? nil : slopes.baseAddress, keys: segments[0].keys,
        values: segments[0].values)
      // The items of all segments in one row, so that a prompt's share the threads with other sequences' single ones.
      itemEnds.removeAll(keepingCapacity: true)
      for segment in segments {
        Self.point(&arguments, to: segment, q, sums, out)
        itemEnds.append((itemEnds.last ?? 0) + kernels.attentionItems(arguments))
      }
      pool.parallelFor(
        items: itemEnds.last ?? 0, grain: 1,
        over: (device: self, arguments: arguments, segments: segments, ends: itemEnds, q: q, sums: sums, out: out)
      ) { c, range, thread in
        var mine = c.arguments
        var segment = c.ends.firstIndex { $0 > range.lowerBound } ?? 0
        var item = range.lowerBound
        while item < range.upperBound {
          let first = segment == 0 ? 0 : c.ends[segment - 1]
          let end = min(range.upperBound, c.ends[segment])
          Self.point(&mine, to: c.segments[segment], c.q, c.sums, c.out)
          c.device.kernels.attention(mine, item - first..<end - first, c.device.pool.scratch(thread))
          item = end
          segment += 1
        }
      }
    }
  }

  private static func point(
    _ a: inout AttentionArguments, to s: AttentionSegment, _ q: Tensor, _ sums: Tensor?, _ out: Tensor
  ) {
    a.q = q.constFloats + s.rows.lowerBound * q.stride
    a.out = out.floats + s.rows.lowerBound * out.stride
    a.queries = s.rows.count
    a.firstPosition = s.firstPosition
    a.keyRange = s.keyRange
    a.keys = s.keys
    a.values = s.values
    a.sums = sums.map { $0.floats + s.rows.lowerBound * $0.stride }
    a.goesOn = s.goesOn
    a.isLast = s.isLast
  }

  // MARK: heads

  /// One `projectHeads`.
  private struct HeadProjection {
    var x, weight, out: Tensor
    var bias: Tensor?
    var heads, kvHeads: Int
    var group: Int { heads / kvHeads }
    /// Rows of the weight that a key head has.
    var headDim: Int { weight.rows / kvHeads }
    /// Elements of a head of x and of out, padding included.
    var xWidth: Int { x.columns / heads }
    var outWidth: Int { out.columns / heads }
    /// A piece of work: so many rows of x, or, of few rows, so many columns of out.
    static let rowTile = 48
    static let columnTile = 16
    static let fewRows = 6
  }

  public func projectHeads(
    _ x: Tensor, heads: Int, _ weight: Tensor, kvHeads: Int, bias: Tensor?, transposed: Bool, into out: Tensor
  ) {
    precondition(weight.dtype == .f32 && heads % kvHeads == 0 && weight.rows % kvHeads == 0)
    let p = HeadProjection(x: x, weight: weight, out: out, bias: bias, heads: heads, kvHeads: kvHeads)
    let rowTiles = (x.rows + HeadProjection.rowTile - 1) / HeadProjection.rowTile
    if transposed {
      pool.parallelFor(items: heads * rowTiles, grain: 1, over: (device: self, p: p, tiles: rowTiles)) {
        c, range, thread in
        for item in range { c.device.narrowed(c.p, item / c.tiles, item % c.tiles, thread) }
      }
    } else if x.rows <= HeadProjection.fewRows {
      let tiles = (p.headDim + HeadProjection.columnTile - 1) / HeadProjection.columnTile
      pool.parallelFor(items: kvHeads * tiles, grain: 1, over: (device: self, p: p, tiles: tiles)) { c, range, thread in
        for item in range { c.device.widenedFew(c.p, item / c.tiles, item % c.tiles, thread) }
      }
    } else {
      pool.parallelFor(items: heads * rowTiles, grain: 1, over: (device: self, p: p, tiles: rowTiles)) {
        c, range, thread in
        for item in range {
          let rows =
            item % c.tiles
            * HeadProjection.rowTile..<min(
              c.p.x.rows, (item % c.tiles + 1) * HeadProjection.rowTile)
          c.device.widened(c.p, item / c.tiles, rows, 0..<c.p.headDim, thread)
        }
      }
    }
  }

  /// `x_h · block` of a head, for a tile of rows.
  private func narrowed(_ p: HeadProjection, _ head: Int, _ tile: Int, _ thread: Int) {
    let first = tile * HeadProjection.rowTile
    kernels.gemm(
      GEMMArguments(
        m: min(HeadProjection.rowTile, p.x.rows - first), n: p.weight.columns, k: p.headDim,
        a: p.x.constFloats + first * p.x.stride + head * p.xWidth, lda: p.x.stride,
        b: p.weight.constFloats + head / p.group * p.headDim * p.weight.stride, ldb: p.weight.stride,
        c: p.out.floats + first * p.out.stride + head * p.outWidth, ldc: p.out.stride, scratch: pool.scratch(thread)))
  }

  /// `x_h · blockᵀ + bias` of the heads of one key head, for a tile of columns of few rows.
  private func widenedFew(_ p: HeadProjection, _ kvHead: Int, _ tile: Int, _ thread: Int) {
    let columns =
      tile * HeadProjection.columnTile..<min(p.headDim, (tile + 1) * HeadProjection.columnTile)
    if p.x.rows == 1 && p.group > 1 {
      // The heads of the group are rows of one product, so that the block is read once.
      var one = p
      one.x = Tensor(
        dtype: .f32, rows: p.group, columns: p.xWidth, base: p.x.base + kvHead * p.group * p.xWidth * 4,
        storage: p.x.storage)
      one.out = Tensor(
        dtype: .f32, rows: p.group, columns: p.outWidth, base: p.out.base + kvHead * p.group * p.outWidth * 4,
        storage: p.out.storage)
      one.weight = p.weight.rows(kvHead * p.headDim..<(kvHead + 1) * p.headDim)
      one.bias = p.bias?.columns(kvHead * p.headDim..<(kvHead + 1) * p.headDim)
      (one.heads, one.kvHeads) = (1, 1)
      widened(one, 0, 0..<p.group, columns, thread)
    } else {
      for head in kvHead * p.group..<(kvHead + 1) * p.group { widened(p, head, 0..<p.x.rows, columns, thread) }
    }
  }

  private func widened(
    _ p: HeadProjection, _ head: Int, _ rows: Range<Int>, _ columns: Range<Int>, _ thread: Int
  ) {
    let block = head / p.group * p.headDim
    let out = p.out.floats + rows.lowerBound * p.out.stride + head * p.outWidth
    kernels.floatMatmul(
      FloatMatmulArguments(
        kind: .f32, w: UnsafeRawPointer(p.weight.base + block * p.weight.rowBytes), rowBytes: p.weight.rowBytes,
        rowRange: columns, x: p.x.constFloats + rows.lowerBound * p.x.stride + head * p.xWidth, ldx: p.x.stride,
        rows: rows.count, k: p.weight.columns, out: out, ldo: p.out.stride, scratch: pool.scratch(thread)))
    guard let bias = p.bias else { return }
    for row in 0..<rows.count {
      let y = out + row * p.out.stride + columns.lowerBound
      kernels.add(FloatPointer(y), bias.constFloats + block + columns.lowerBound, y, columns.count)
    }
  }
}
