/// Which of a fixed number of KV blocks are free, and by how many the others are shared. Counts only: it holds no memory.
public struct KVBlockPool: Sendable {
  /// All blocks, free or not.
  public let count: Int
  private var references: [Int32]
  private var free: [Int32]

  public init(count: Int) {
    precondition(count >= 0)
    self.count = count
    references = [Int32](repeating: 0, count: count)
    // Low numbers are taken first, so that a pool that is never full touches little memory.
    free = (0..<Int32(count)).reversed()
  }

  public var freeCount: Int { free.count }

  /// A block that belongs to the caller alone; nil when none is free.
  public mutating func take() -> Int32? {
    guard let block = free.popLast() else { return nil }
    references[Int(block)] = 1
    return block
  }

  /// One more user of a block that is in use.
  public mutating func retain(_ block: Int32) {
    precondition(references[Int(block)] > 0, "block \(block) is free and can't be shared")
    references[Int(block)] += 1
  }

  /// One user less; the last one frees the block.
  public mutating func release(_ block: Int32) {
    precondition(references[Int(block)] > 0, "block \(block) is free already")
    references[Int(block)] -= 1
    if references[Int(block)] == 0 { free.append(block) }
  }

  public func references(to block: Int32) -> Int { Int(references[Int(block)]) }

  /// Traps unless free blocks are exactly those without users.
  public func checkInvariants() {
    precondition(Set(free).count == free.count, "a block is free twice")
    precondition(free.allSatisfy { references[Int($0)] == 0 }, "a free block has users")
    precondition(free.count == references.count { $0 == 0 }, "a block without users is not free")
  }
}
