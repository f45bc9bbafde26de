import ApusKernels
import KernelInterface

/// One query over one or several tenants' trees of a generation: best-first by the score of clusters, until patience
/// ends. Keeps its memory from query to query; one thread at a time uses it.
final class TreeSearch {
  private let kernels = Kernels.current
  /// The query as a row: `[padded]` f32, and its codes.
  private var floats: [Float] = []
  private var codeRow: [UInt8] = []
  private var codeSum: Int32 = 0
  private var codeScale: Float = 0
  private var scores: [Float] = []
  private var numbers: [UInt32] = []
  /// Of a filter's tree.
  private lazy var filtered = Slab()
  private var frontier = LeastFirstHeap()
  private(set) var best = LeastHeap()
  private(set) var scanned = 0
  private(set) var scoredNodes = 0
  private(set) var lists = 0

  /// Encodes the query. Throws `dimension`, `notFinite` or `zeroVector`.
  func prepare(_ query: UnsafeBufferPointer<Float>, encoding: VectorEncoding) throws {
    if floats.count != encoding.padded {
      floats = Array(repeating: 0, count: encoding.padded)
      codeRow = Array(repeating: 0, count: encoding.codeRowBytes)
    }
    try floats.withUnsafeMutableBufferPointer { row in
      try encoding.encode(query, to: row.baseAddress!)
      codeRow.withUnsafeMutableBytes { encoding.encodeCodes(row.baseAddress!, to: $0.baseAddress!) }
    }
    codeRow.withUnsafeBytes { row in
      codeScale = row.loadUnaligned(as: Float.self)
      codeSum = 0
      for i in CodeLayout.codesOffset..<row.count { codeSum += Int32(Int8(bitPattern: row[i])) }
    }
    if scores.isEmpty {
      scores = Array(repeating: 0, count: ClusterTree.maximumBranching)
      numbers = Array(repeating: 0, count: ClusterTree.maximumBranching)
    }
  }

  /// Fills `best` with the nearest of what `view` shows and `filter` lets through, as (raw distance, slot).
  func search(
    _ view: RightsView, filter: AccessFilter?, in generation: Generation, options: SearchOptions, capacity: Int,
    patience: (Int) -> Int
  ) {
    guard let filter else {
      search(
        view.roots, total: view.count, slab: generation.slab, in: generation, options: options,
        patience: patience(view.count))
      return
    }
    filtered.reset()
    let bounded = AccessFilter.and([.or(view.tenants.map { .tenant($0) }), filter])
    var tree = FilteredTree(bounded, tenants: view.tenants, in: generation, capacity: capacity, slab: filtered)
    let root = tree.build(roots: view.allRoots)
    search(
      [root], total: tree.count, slab: filtered, in: generation, options: options, patience: patience(tree.count))
  }

  /// The trees at `roots` lie in `slab`; two may share vectors.
  private func search(
    _ roots: [UInt32], total: Int, slab: Slab, in generation: Generation, options: SearchOptions, patience: Int
  ) {
    (scanned, scoredNodes, lists) = (0, 0, 0)
    let shared = roots.count > 1
    if options.exact || total <= max(options.exactThreshold, options.k) {
      best.reset(capacity: options.k)
      for root in roots { scanAll(root, slab: slab, in: generation, shared: shared) }
      return
    }
    if let codes = generation.codes {
      best.reset(capacity: options.k * options.rerankFactor)
      run(roots, slab: slab, in: generation, options: options, patience: patience) { [self] list in
        scanCodes(list, codes: codes, generation: generation, shared: shared)
      }
      rerank(options.k, in: generation)
    } else {
      best.reset(capacity: options.k)
      run(roots, slab: slab, in: generation, options: options, patience: patience) { [self] list in
        scanFloats(list, generation: generation, shared: shared)
      }
    }
  }

  // MARK: walking

  /// Best-first; `scan` says whether a list improved the best.
  private func run(
    _ roots: [UInt32], slab: Slab, in generation: Generation, options: SearchOptions, patience: Int,
    _ scan: (IDBlock) -> Bool
  ) {
    frontier.removeAll()
    for root in roots where root != 0 { frontier.push(ScoredNumber.pack(-.infinity, root)) }
    var misses = 0
    while let node = frontier.pop() {
      let handle = ScoredNumber.number(node)
      if handle & InnerBlock.tag != 0 {
        expand(InnerBlock(slab.address(handle)), in: generation, options: options) { frontier.push($0) }
        continue
      }
      lists += 1
      if scan(IDBlock(slab.address(handle))) {
        misses = 0
      } else {
        misses += 1
        if misses >= patience { return }
      }
    }
  }

  /// Scores the children that the node has.
  @inline(__always) private func expand(
    _ node: InnerBlock, in generation: Generation, options: SearchOptions, _ emit: (UInt64) -> Void
  ) {
    let tree = generation.tree
    let first = tree.firstChild[Int(node.cluster)]
    var mask = node.mask
    var count = 0
    while mask != 0 {
      numbers[count] = first + UInt32(mask.trailingZeroBitCount)
      mask &= mask - 1
      count += 1
    }
    scoredNodes += count
    scoreCodes(numbers, count: count, rows: tree.centroids.view, metric: generation.encoding.metric)
    let children = node.children
    for i in 0..<count {
      var score = scores[i]
      if options.varianceBoost != 0 { score -= options.varianceBoost * tree.meanSquare[Int(numbers[i])] }
      emit(ScoredNumber.pack(score, children[i]))
    }
  }

  // MARK: scanning

  /// Rank by code: ‖x‖² − 2·q·x, or −q·x.
  private func scoreCodes(_ numbers: [UInt32], count: Int, rows: RowChunks, metric: VectorMetric) {
    numbers.withUnsafeBufferPointer { scoreCodes($0.baseAddress!, count: count, rows: rows, metric: metric) }
  }

  private func scoreCodes(_ numbers: UnsafePointer<UInt32>, count: Int, rows: RowChunks, metric: VectorMetric) {
    codeRow.withUnsafeBytes { row in
      let query = CodeQuery(
        codes: (row.baseAddress! + CodeLayout.codesOffset).assumingMemoryBound(to: Int8.self),
        count: row.count - CodeLayout.codesOffset, sum: codeSum, factor: (metric == .l2 ? -2 : -1) * codeScale,
        offsetFactor: metric == .l2 ? 1 : 0)
      scores.withUnsafeMutableBufferPointer { kernels.codeScores(query, rows, numbers, count, $0.baseAddress!) }
    }
  }

  private func scoreFloats(_ numbers: UnsafePointer<UInt32>, count: Int, generation: Generation) {
    let length = floats.count
    floats.withUnsafeBufferPointer { query in
      scores.withUnsafeMutableBufferPointer { out in
        if generation.encoding.metric == .l2 {
          kernels.squaredDistances(
            query.baseAddress!, length, generation.floats.view, numbers, count, out.baseAddress!)
        } else {
          kernels.innerProducts(query.baseAddress!, length, generation.floats.view, numbers, count, out.baseAddress!)
          for i in 0..<count { out[i] = -out[i] }
        }
      }
    }
  }

  @inline(__always) private func offer(_ numbers: UnsafePointer<UInt32>, count: Int, shared: Bool) -> Bool {
    var improved = !best.isFull
    for i in 0..<count {
      let entry = ScoredNumber.pack(scores[i], numbers[i])
      if entry < best.bound, best.offer(entry, unique: shared) { improved = true }
    }
    scanned += count
    return improved
  }

  private func scanCodes(_ list: IDBlock, codes: ChunkedRows, generation: Generation, shared: Bool) -> Bool {
    let (numbers, count) = (list.numbers, list.count)
    if count > scores.count { scores = Array(repeating: 0, count: count) }
    scoreCodes(numbers, count: count, rows: codes.view, metric: generation.encoding.metric)
    return offer(numbers, count: count, shared: shared)
  }

  private func scanFloats(_ list: IDBlock, generation: Generation, shared: Bool) -> Bool {
    let (numbers, count) = (list.numbers, list.count)
    if count > scores.count { scores = Array(repeating: 0, count: count) }
    scoreFloats(numbers, count: count, generation: generation)
    return offer(numbers, count: count, shared: shared)
  }

  private func scanAll(_ root: UInt32, slab: Slab, in generation: Generation, shared: Bool) {
    guard root != 0 else { return }
    if root & InnerBlock.tag != 0 {
      let node = InnerBlock(slab.address(root))
      for i in 0..<node.childCount { scanAll(node.children[i], slab: slab, in: generation, shared: shared) }
    } else {
      lists += 1
      _ = scanFloats(IDBlock(slab.address(root)), generation: generation, shared: shared)
    }
  }

  /// The candidates' real distances; the best `k` stay.
  private func rerank(_ k: Int, in generation: Generation) {
    numbers.removeAll(keepingCapacity: true)
    for entry in best.entries { numbers.append(ScoredNumber.number(entry)) }
    let count = numbers.count
    if count > scores.count { scores = Array(repeating: 0, count: count) }
    numbers.withUnsafeBufferPointer { scoreFloats($0.baseAddress!, count: count, generation: generation) }
    best.reset(capacity: k)
    for i in 0..<count { _ = best.offer(ScoredNumber.pack(scores[i], numbers[i]), unique: false) }
    while numbers.count < ClusterTree.maximumBranching { numbers.append(0) }
  }
}
