/// One symbol of a word that is being merged: an id (-1 where no piece equals the bytes) and its bytes' range.
struct MergeSymbol {
  var id: Int32
  var start: Int32
  var end: Int32
}

/// Decides which neighbours may merge, and in which order.
protocol MergeRule {
  /// The merge of two neighbours as `rank << 32 | id of the merged piece`, or `noMerge`. Lower ranks go first.
  func merge(_ left: MergeSymbol, _ right: MergeSymbol, _ bytes: [UInt8]) -> UInt64
}

/// What `MergeRule.merge` returns where nothing merges.
let noMerge = UInt64.max

/// Merges a word's symbols in order of rank, leftmost first among equals, until nothing merges.
///
/// Short words look for the smallest rank by scanning; long ones use a heap over a linked list, so that a word of n
/// symbols costs O(n log n) whatever it holds. Buffers are kept between words.
struct MergeEngine {
  var symbols: [MergeSymbol] = []
  private var merges: [UInt64] = []
  private var next: [Int32] = []
  private var previous: [Int32] = []
  private var heap: [Candidate] = []

  /// Up to this many symbols a scan per merge is faster than a heap (measured on English and Japanese words).
  private static let scanLimit = 24

  private struct Candidate {
    /// `rank << 32 | index of the left symbol`: the order in which candidates are taken.
    var key: UInt64
    var id: Int32
    /// Ends of the two symbols when the candidate was made; if either has grown since, it is stale.
    var leftEnd: Int32
    var rightEnd: Int32
  }

  /// Merges `symbols` in place.
  mutating func run(_ rule: some MergeRule, _ bytes: [UInt8]) {
    if symbols.count < 2 { return }
    if symbols.count <= Self.scanLimit { scan(rule, bytes) } else { runHeap(rule, bytes) }
  }

  private mutating func scan(_ rule: some MergeRule, _ bytes: [UInt8]) {
    merges.removeAll(keepingCapacity: true)
    for index in 0..<(symbols.count - 1) { merges.append(rule.merge(symbols[index], symbols[index + 1], bytes)) }
    while true {
      var best = -1
      var bestRank = UInt64(UInt32.max)
      for index in 0..<merges.count where merges[index] >> 32 < bestRank {
        best = index
        bestRank = merges[index] >> 32
      }
      if best < 0 { return }
      symbols[best].id = Int32(truncatingIfNeeded: merges[best])
      symbols[best].end = symbols[best + 1].end
      symbols.remove(at: best + 1)
      merges.remove(at: best)
      if best > 0 { merges[best - 1] = rule.merge(symbols[best - 1], symbols[best], bytes) }
      if best < merges.count { merges[best] = rule.merge(symbols[best], symbols[best + 1], bytes) }
    }
  }

  private mutating func runHeap(_ rule: some MergeRule, _ bytes: [UInt8]) {
    let count = symbols.count
    next.removeAll(keepingCapacity: true)
    previous.removeAll(keepingCapacity: true)
    heap.removeAll(keepingCapacity: true)
    for index in 0..<count {
      next.append(index + 1 < count ? Int32(index + 1) : -1)
      previous.append(Int32(index - 1))
    }
    for index in 0..<(count - 1) { offer(rule, bytes, index, index + 1) }
    while let candidate = pop() {
      let left = Int(candidate.key & 0xFFFF_FFFF)
      // A merged-away symbol has an end of -1 and so matches no candidate.
      guard symbols[left].end == candidate.leftEnd, next[left] >= 0 else { continue }
      let right = Int(next[left])
      guard symbols[right].end == candidate.rightEnd else { continue }
      symbols[left].id = candidate.id
      symbols[left].end = symbols[right].end
      symbols[right].end = -1
      let after = next[right]
      next[left] = after
      if after >= 0 {
        previous[Int(after)] = Int32(left)
        offer(rule, bytes, left, Int(after))
      }
      if previous[left] >= 0 { offer(rule, bytes, Int(previous[left]), left) }
    }
    symbols.removeAll { $0.end < 0 }
  }

  private mutating func offer(_ rule: some MergeRule, _ bytes: [UInt8], _ left: Int, _ right: Int) {
    let merge = rule.merge(symbols[left], symbols[right], bytes)
    if merge == noMerge { return }
    push(
      Candidate(
        key: (merge & 0xFFFF_FFFF_0000_0000) | UInt64(left), id: Int32(truncatingIfNeeded: merge),
        leftEnd: symbols[left].end, rightEnd: symbols[right].end))
  }

  private mutating func push(_ candidate: Candidate) {
    var hole = heap.count
    heap.append(candidate)
    while hole > 0 {
      let parent = (hole - 1) / 2
      if heap[parent].key <= candidate.key { break }
      heap[hole] = heap[parent]
      hole = parent
    }
    heap[hole] = candidate
  }

  private mutating func pop() -> Candidate? {
    guard let top = heap.first, let last = heap.popLast() else { return nil }
    let count = heap.count
    if count == 0 { return top }
    var hole = 0
    while true {
      var child = 2 * hole + 1
      if child >= count { break }
      if child + 1 < count && heap[child + 1].key < heap[child].key { child += 1 }
      if heap[child].key >= last.key { break }
      heap[hole] = heap[child]
      hole = child
    }
    heap[hole] = last
    return top
  }
}

/// Merges of byte-pair encoding as a table from a pair of ids to rank and merged id.
struct PairMerges: MergeRule, Sendable {
  private struct Slot {
    var key: UInt64
    var value: UInt64
  }
  private static let empty = UInt64.max
  private var slots: [Slot]
  private let mask: Int
  private let seed = ByteHash.seed

  init(capacity count: Int) {
    var capacity = 16
    while capacity * 3 < count * 4 { capacity *= 2 }
    slots = [Slot](repeating: Slot(key: Self.empty, value: noMerge), count: capacity)
    mask = capacity - 1
  }

  /// Adds a merge; a pair that is there already keeps its rank.
  mutating func insert(left: Int32, right: Int32, rank: Int, merged: Int32) {
    let key = UInt64(UInt32(bitPattern: left)) << 32 | UInt64(UInt32(bitPattern: right))
    var slot = Int(truncatingIfNeeded: ByteHash.hash(key, seed: seed)) & mask
    while slots[slot].key != Self.empty {
      if slots[slot].key == key { return }
      slot = (slot + 1) & mask
    }
    slots[slot] = Slot(key: key, value: UInt64(rank) << 32 | UInt64(UInt32(bitPattern: merged)))
  }

  @inline(__always)
  func merge(_ left: MergeSymbol, _ right: MergeSymbol, _ bytes: [UInt8]) -> UInt64 {
    let key = UInt64(UInt32(bitPattern: left.id)) << 32 | UInt64(UInt32(bitPattern: right.id))
    var slot = Int(truncatingIfNeeded: ByteHash.hash(key, seed: seed)) & mask
    while slots[slot].key != Self.empty {
      if slots[slot].key == key { return slots[slot].value }
      slot = (slot + 1) & mask
    }
    return noMerge
  }
}

/// SentencePiece's rule: neighbours merge if their bytes together are a piece; the piece with the best score first.
struct ScoreMerges: MergeRule, Sendable {
  let vocabulary: Vocabulary
  /// Sort key of each id's score: lower is better.
  let ranks: [UInt32]

  init(vocabulary: Vocabulary, scores: [Float]) {
    self.vocabulary = vocabulary
    ranks = scores.map { score in
      // Maps floats to integers in the same order, then reverses it: the best score has the lowest rank. Adding 0
      // makes -0 and 0 equal. The largest rank is reserved for "no merge".
      let bits = (score + 0).bitPattern
      let ascending = bits & 0x8000_0000 != 0 ? ~bits : bits | 0x8000_0000
      return min(~ascending, UInt32.max - 1)
    }
  }

  @inline(__always)
  func merge(_ left: MergeSymbol, _ right: MergeSymbol, _ bytes: [UInt8]) -> UInt64 {
    let id = vocabulary.id(of: bytes, Int(left.start), Int(right.end))
    if id < 0 { return noMerge }
    return UInt64(ranks[Int(id)]) << 32 | UInt64(UInt32(bitPattern: id))
  }
}
