/// When a best-first search ends.
protocol EndRule {
  /// Asked after each list of which something was compared; `best` is what was found so far.
  mutating func ends(improved: Bool, best: LeastHeap) -> Bool
}

/// After so many lists in a row that improved nothing.
struct Patience: EndRule {
  let limit: Int
  private var misses = 0

  init(_ limit: Int) { self.limit = limit }

  @inline(__always) mutating func ends(improved: Bool, best: LeastHeap) -> Bool {
    misses = improved ? 0 : misses + 1
    return misses >= limit
  }
}

/// Notes what a search of each patience would have found, in one walk: a search of patience p is the walk up to where it
/// first missed p times in a row. The walk ends where more patience can find no more.
struct RecallTrace: EndRule {
  /// Slots of the true answer.
  let wanted: Set<UInt32>
  /// How many of them a search of this patience finds, and of every greater one up to the next step.
  private(set) var steps: [(patience: Int, hits: Int)] = []
  private var misses = 0
  private var longest = 0

  init(wanted: Set<UInt32>, steps: [(patience: Int, hits: Int)] = []) { (self.wanted, self.steps) = (wanted, steps) }

  mutating func ends(improved: Bool, best: LeastHeap) -> Bool {
    misses = improved ? 0 : misses + 1
    if misses > longest {
      longest = misses
      note(longest, best)
    }
    return improved && hits(best) == wanted.count
  }

  /// What every patience finds that the walk did not try.
  mutating func finish(_ best: LeastHeap) { note(longest + 1, best) }

  private mutating func note(_ patience: Int, _ best: LeastHeap) {
    let hits = hits(best)
    if hits != steps.last?.hits { steps.append((patience, hits)) }
  }

  private func hits(_ best: LeastHeap) -> Int { best.entries.count { wanted.contains(ScoredNumber.number($0)) } }
}
