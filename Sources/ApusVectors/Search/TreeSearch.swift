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
  /// The query's rotated codes, with quantizer rabitq.
  private var bitCodes: [Int8] = []
  private var candidates: [UInt64] = []
  private var scores: [Float] = []
  private var numbers: [UInt32] = []
  /// The ids that the search is limited to, and of a list the slots that pass.
  private var among: VectorIDSet?
  private var passing: [UInt32] = []
  /// Of a filter's tree.
  private lazy var filtered = Slab()
  private var frontier = LeastFirstHeap()
  /// Nodes by the order in which they were found, which settles equal scores: where a node lies in memory must not.
  private var found: [UInt32] = []
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
      codeSum = row[CodeLayout.codesOffset...].reduce(0) { $0 &+ Int32(Int8(bitPattern: $1)) }
    }
    if scores.isEmpty {
      scores = Array(repeating: 0, count: ClusterTree.maximumBranching)
      numbers = Array(repeating: 0, count: ClusterTree.maximumBranching)
    }
  }

  /// Up to so many ids of a set are all compared: walking the trees for them costs less than missing them.
  private static let smallSet = 4096

  /// Fills `best` with the nearest of what `view` shows and `filter` and `among` let through, as (raw distance, slot).
  func search(
    _ view: RightsView, filter: AccessFilter?, among: VectorIDSet?, in generation: Generation, options: SearchOptions,
    capacity: Int, patience: (Int) -> Double
  ) {
    self.among = among
    defer { self.among = nil }
    guard let filter else {
      var rule = Patience(whole(patience(among?.bound(view.count) ?? view.count)))
      search(view.roots, total: view.count, blocks: generation.blocks, in: generation, options: options, until: &rule)
      return
    }
    filtered.reset()
    let bounded = AccessFilter.and([.or(view.tenants.map { .tenant($0) }), filter])
    var tree = FilteredTree(bounded, tenants: view.tenants, in: generation, capacity: capacity, slab: filtered)
    let root = tree.build(roots: view.allRoots)
    var rule = Patience(whole(patience(among?.bound(tree.count) ?? tree.count)))
    search([root], total: tree.count, blocks: filtered.view, in: generation, options: options, until: &rule)
  }

  /// A fraction is rounded up for that share of queries. Which ones, the query's codes say: the same query gives the same
  /// answer.
  private func whole(_ patience: Double) -> Int {
    let floor = patience.rounded(.down)
    if patience == floor { return Int(floor) }
    let hash = codeRow.withUnsafeBytes { row in
      stride(from: CodeLayout.codesOffset, to: row.count - 7, by: 8).reduce(UInt64(row.count)) { hash, at in
        (hash ^ UInt64(littleEndian: row.loadUnaligned(fromByteOffset: at, as: UInt64.self)))
          &* 0x9e37_79b9_7f4a_7c15 ^ hash >> 29
      }
    }
    var generator = SplitMix64(state: hash)
    return Int(floor) + (Double(generator.next() >> 11) < (patience - floor) * Double(1 << 53) ? 1 : 0)
  }

  /// What searches of every patience find of the nearest, as if the vector `id` were not there.
  func recallTrace(
    _ view: RightsView, leavingOut id: VectorID, in generation: Generation, options: SearchOptions
  ) -> RecallTrace {
    among = VectorIDSet(CollectionOfOne(id), isComplement: true)
    defer { among = nil }
    func search(_ options: SearchOptions, until rule: inout some EndRule) {
      self.search(
        view.roots, total: view.count, blocks: generation.blocks, in: generation, options: options, until: &rule)
    }
    var (exact, endless) = (options, Patience(.max))
    exact.exact = true
    search(exact, until: &endless)
    var trace = RecallTrace(wanted: Set(best.entries.map(ScoredNumber.number)))
    search(options, until: &trace)
    trace.finish(best)
    return trace
  }

  /// The trees at `roots` lie in `blocks`; two may share vectors.
  private func search(
    _ roots: [UInt32], total: Int, blocks: SlabView, in generation: Generation, options: SearchOptions,
    until rule: inout some EndRule
  ) {
    (scanned, scoredNodes, lists) = (0, 0, 0)
    let shared = roots.count > 1
    let total = among?.bound(total) ?? total
    let isSmallSet = among.map { !$0.isComplement && total <= Self.smallSet } ?? false
    if options.exact || isSmallSet || total <= max(options.exactThreshold, options.k) {
      best.reset(capacity: options.k)
      for root in roots { scanAll(root, blocks: blocks, in: generation, shared: shared) }
      return
    }
    if let rows = generation.codeRows, let bits = generation.bits {
      best.reset(capacity: options.k)
      scanBits(rows, bits, in: generation) { scan in
        run(roots, blocks: blocks, in: generation, options: options, until: &rule) { scan($0, shared) }
      }
    } else if let rows = generation.codeRows {
      best.reset(capacity: options.k * options.rerankFactor)
      run(roots, blocks: blocks, in: generation, options: options, until: &rule) { [self] list in
        scanCodes(list, rows: rows, generation: generation, shared: shared)
      }
      rerank(options.k, in: generation)
    } else {
      best.reset(capacity: options.k)
      run(roots, blocks: blocks, in: generation, options: options, until: &rule) { [self] list in
        scanFloats(list, generation: generation, shared: shared)
      }
    }
  }

  // MARK: walking

  /// Best-first; `scan` says whether a list improved the best, nil for one of which nothing was looked at.
  private func run(
    _ roots: [UInt32], blocks: SlabView, in generation: Generation, options: SearchOptions,
    until rule: inout some EndRule, _ scan: (IDBlock) -> Bool?
  ) {
    frontier.removeAll()
    found.removeAll(keepingCapacity: true)
    for root in roots where root != 0 { discover(root, score: -.infinity) }
    while let node = frontier.pop() {
      let handle = found[Int(ScoredNumber.number(node))]
      if handle & InnerBlock.tag != 0 {
        expand(InnerBlock(blocks.address(handle)), in: generation, options: options)
        continue
      }
      lists += 1
      guard let improved = scan(IDBlock(blocks.address(handle))) else { continue }
      if rule.ends(improved: improved, best: best) { return }
    }
  }

  /// Scores the children that the node has.
  @inline(__always) private func expand(
    _ node: InnerBlock, in generation: Generation, options: SearchOptions
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
    scoreCodes(numbers, count: count, rows: tree.centroidRows, metric: generation.encoding.metric)
    let children = node.children
    for i in 0..<count {
      var score = scores[i]
      if options.varianceBoost != 0 { score -= options.varianceBoost * tree.meanSquare[Int(numbers[i])] }
      discover(children[i], score: score)
    }
  }

  @inline(__always) private func discover(_ handle: UInt32, score: Float) {
    frontier.push(ScoredNumber.pack(score, UInt32(found.count)))
    found.append(handle)
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
            query.baseAddress!, length, generation.floatRows, numbers, count, out.baseAddress!)
        } else {
          kernels.innerProducts(query.baseAddress!, length, generation.floatRows, numbers, count, out.baseAddress!)
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

  /// Calls `body` with the list's slots that pass `among`; nil when there are none.
  @inline(__always) private func withPassing(
    _ list: IDBlock, in generation: Generation, _ body: (UnsafePointer<UInt32>, Int) -> Bool
  ) -> Bool? {
    if list.count > scores.count { scores = Array(repeating: 0, count: list.count) }
    guard let among else { return body(list.numbers, list.count) }
    passing.removeAll(keepingCapacity: true)
    for slot in list.buffer where among.contains(generation.ids[slot]) { passing.append(slot) }
    return passing.isEmpty ? nil : passing.withUnsafeBufferPointer { body($0.baseAddress!, $0.count) }
  }

  private func scanCodes(_ list: IDBlock, rows: RowChunks, generation: Generation, shared: Bool) -> Bool? {
    withPassing(list, in: generation) { numbers, count in
      scoreCodes(numbers, count: count, rows: rows, metric: generation.encoding.metric)
      return offer(numbers, count: count, shared: shared)
    }
  }

  /// Calls `body` with what scans a list: bounds from the bits first, then those that the bounds cannot rule out in f32,
  /// the most promising first, because each may rule out others.
  private func scanBits(
    _ rows: RowChunks, _ bits: BitEncoding, in generation: Generation, _ body: ((IDBlock, Bool) -> Bool?) -> Void
  ) {
    if bitCodes.count != bits.bits { bitCodes = Array(repeating: 0, count: bits.bits) }
    bitCodes.withUnsafeMutableBufferPointer { codes in
      let query = floats.withUnsafeBufferPointer { bits.encodeQuery($0.baseAddress!, codes: codes.baseAddress!) }
      body { [self] list, shared in
        withPassing(list, in: generation) { numbers, count in
          scores.withUnsafeMutableBufferPointer { kernels.bitBounds(query, rows, numbers, count, $0.baseAddress!) }
          candidates.removeAll(keepingCapacity: true)
          for i in 0..<count {
            let entry = ScoredNumber.pack(scores[i], numbers[i])
            if entry < best.bound { candidates.append(entry) }
          }
          scanned += count
          return compareCandidates(generation, shared: shared)
        }
      }
    }
  }

  private static let comparedTogether = 8

  /// Offers the candidates whose bound is still good enough, in ascending order; says whether one improved the best.
  private func compareCandidates(_ generation: Generation, shared: Bool) -> Bool {
    var improved = !best.isFull
    if candidates.count > Self.comparedTogether { candidates.sort() }
    var next = 0
    while next < candidates.count, candidates[next] < best.bound {
      let count = min(Self.comparedTogether, candidates.count - next)
      for i in 0..<count { numbers[i] = ScoredNumber.number(candidates[next + i]) }
      numbers.withUnsafeBufferPointer { scoreFloats($0.baseAddress!, count: count, generation: generation) }
      for i in 0..<count where best.offer(ScoredNumber.pack(scores[i], numbers[i]), unique: shared) { improved = true }
      next += count
    }
    return improved
  }

  private func scanFloats(_ list: IDBlock, generation: Generation, shared: Bool) -> Bool? {
    withPassing(list, in: generation) { numbers, count in
      scoreFloats(numbers, count: count, generation: generation)
      return offer(numbers, count: count, shared: shared)
    }
  }

  private func scanAll(_ root: UInt32, blocks: SlabView, in generation: Generation, shared: Bool) {
    guard root != 0 else { return }
    if root & InnerBlock.tag != 0 {
      let node = InnerBlock(blocks.address(root))
      for i in 0..<node.childCount { scanAll(node.children[i], blocks: blocks, in: generation, shared: shared) }
    } else {
      lists += 1
      _ = scanFloats(IDBlock(blocks.address(root)), generation: generation, shared: shared)
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
