import ApusModels
import Testing

@testable import ApusEngine

/// The tree against a list of everything that was inserted.
@Suite struct PrefixTreeTests {
  @Test func matchesAreTheLongestKnownBeginnings() {
    let seed = UInt64.random(in: 0 ... .max)
    var random = TestRandom(seed: seed)
    let spaces = ["a", "b"].map { BlockName(salt: $0) }
    var pool = KVBlockPool(count: 40)
    var tree = PrefixTree()
    // What should be known: the tokens of each beginning of whole blocks, by namespace, and its block.
    var known: [[[Int32]: Int32]] = [[:], [:]]
    var evictions = 0
    for _ in 0..<600 {
      let space = Int(random.next() % 2)
      // Few different tokens, so that beginnings are often common.
      let tokens = (0..<Int(random.next() % 100)).map { i in Int32(i % 16 == 3 ? random.next() % 2 : 7) }
      let hit = tree.match(tokens[...], in: spaces[space])
      var expected: [Int32] = []
      while (expected.count + 1) * 16 < tokens.count,
        let block = known[space][Array(tokens[..<((expected.count + 1) * 16)])]
      {
        expected.append(block)
      }
      #expect(hit == expected, "seed \(seed)")
      // A sequence: shares what it found, computes the rest, publishes it, leaves.
      for block in hit { pool.retain(block) }
      let count = tokens.count / 16
      var table = hit
      while table.count < count {
        if pool.freeCount == 0 {
          let freed = tree.evict(8, isShared: { pool.references(to: $0) > 1 }, release: { pool.release($0) })
          #expect(freed > 0, "seed \(seed)")
          evictions += freed
          // Whatever went, the tree must say so.
          for s in 0..<2 {
            known[s] = known[s].filter { tree.match(($0.key + [0])[...], in: spaces[s]).last == $0.value }
          }
        }
        table.append(pool.take()!)
      }
      table.withUnsafeBufferPointer { tree.insert(tokens[..<(count * 16)], $0, in: spaces[space]) { pool.retain($0) } }
      for i in 0..<count {
        let key = Array(tokens[..<((i + 1) * 16)])
        if known[space][key] == nil { known[space][key] = table[i] }
      }
      for block in table { pool.release(block) }
      tree.checkInvariants()
      pool.checkInvariants()
      #expect(pool.count - pool.freeCount == tree.blockCount, "seed \(seed)")
    }
    #expect(evictions > 0, "the pool was never full: the test tests too little")
    tree.removeAll { pool.release($0) }
    #expect(pool.freeCount == pool.count)
  }

  @Test func theLeastRecentlyUsedLeafGoesFirst() {
    var tree = PrefixTree()
    let space = BlockName(salt: "")
    var released: [Int32] = []
    func insert(_ first: Int32, _ blocks: [Int32]) {
      let tokens = blocks.indices.flatMap { i in [Int32](repeating: first + Int32(i), count: 16) }
      blocks.withUnsafeBufferPointer { tree.insert(tokens[...], $0, in: space) { _ in } }
    }
    insert(100, [1, 2])
    insert(200, [3])
    insert(300, [4])
    _ = tree.match(([Int32](repeating: 200, count: 16) + [0])[...], in: space)
    let freed = tree.evict(3, isShared: { $0 == 4 }, release: { released.append($0) })
    #expect(freed == 3)
    #expect(released == [2, 1, 3], "leaves before parents, shared ones not at all")
  }
}
