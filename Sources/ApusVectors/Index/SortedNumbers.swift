/// A set of numbers that is always walked in ascending order.
struct SortedNumbers: Sequence {
  /// For what needs no order.
  private(set) var members: Set<UInt32> = []

  var count: Int { members.count }
  func contains(_ number: UInt32) -> Bool { members.contains(number) }
  mutating func insert(_ number: UInt32) { members.insert(number) }
  mutating func remove(_ number: UInt32) { members.remove(number) }

  /// Hash order must not show anywhere: O(n log n) a walk.
  func makeIterator() -> IndexingIterator<[UInt32]> { members.sorted().makeIterator() }
}
