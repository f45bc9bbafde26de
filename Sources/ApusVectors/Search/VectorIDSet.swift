/// Ids that a search is limited to, or with `isComplement` those that it must leave out: what a condition on payloads
/// found elsewhere. It narrows what a tenant may see and never widens it.
///
/// Dense ids become a bitmap, others an ascending list. O(n) or O(n log n) to make, O(1) or O(log n) to ask.
public struct VectorIDSet: Sendable {
  /// Ids in the set, those of a complement not counted as such.
  public let count: Int
  public let isComplement: Bool
  private let first: VectorID
  /// Bit `i` stands for the id `first + i`; empty when the ids are sparse.
  private let words: [UInt64]
  /// Ascending; empty when there is a bitmap.
  private let sparse: [VectorID]

  /// A bitmap takes at most this many bits an id: half of what a list takes.
  private static let densestBits: UInt64 = 32

  public init(_ ids: some Sequence<VectorID>, isComplement: Bool = false) {
    let ids = Array(ids)
    self.isComplement = isComplement
    guard let least = ids.min(), let greatest = ids.max() else {
      (count, first, words, sparse) = (0, 0, [], [])
      return
    }
    first = least
    guard greatest - least <= UInt64(ids.count) * Self.densestBits else {
      sparse = Set(ids).sorted()
      (count, words) = (sparse.count, [])
      return
    }
    var words = [UInt64](repeating: 0, count: Int((greatest - least) / 64) + 1)
    for id in ids { words[Int((id - least) / 64)] |= 1 << ((id - least) % 64) }
    count = words.reduce(0) { $0 + $1.nonzeroBitCount }
    (self.words, sparse) = (words, [])
  }

  /// Whether a vector of this id passes.
  public func contains(_ id: VectorID) -> Bool { holds(id) != isComplement }

  private func holds(_ id: VectorID) -> Bool {
    if sparse.isEmpty {
      guard id >= first, (id - first) / 64 < UInt64(words.count) else { return false }
      return words[Int((id - first) / 64)] >> ((id - first) % 64) & 1 == 1
    }
    var (low, high) = (0, sparse.count)
    while low < high {
      let middle = (low + high) / 2
      if sparse[middle] < id { low = middle + 1 } else { high = middle }
    }
    return low < sparse.count && sparse[low] == id
  }

  /// As many of `total` vectors as can pass.
  func bound(_ total: Int) -> Int { isComplement ? total : min(total, count) }
}
