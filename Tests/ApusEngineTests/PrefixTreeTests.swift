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
    func matched(_ tokens: [Int32], _ space: Int) -> [Int32] {
      var names = BlockNames(namespace: spaces[space])
      var blocks: [Int32] = [-7]
      tree.match(tokens, &names, into: &blocks)
      names.checkInvariants(tokens)
      return blocks
    }
    // What should be known: the tokens of each beginning of whole blocks, by namespace, and its block.
    var known: [[[Int32]: Int32]] = [[:], [:]]
    var evictions = 0
    for _ in 0..<600 {
      let space = Int(random.next() % 2)
      // Few different tokens, so that beginnings are often common.
      let tokens = (0..<Int(random.next() % 100)).map { i in Int32(i % 16 == 3 ? random.next() % 2 : 7) }
      let hit = matched(tokens, space)
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
            known[s] = known[s].filter { matched($0.key + [0], s).last == $0.value }
          }
        }
        table.append(pool.take()!)
      }
      // In two parts, as a prompt's chunks come; between them what was known may go.
      var names = BlockNames(namespace: spaces[space])
      let half = Int.random(in: 0...count, using: &random)
      table.withUnsafeBufferPointer { tree.insert(tokens, &names, $0, 0..<half) { pool.retain($0) } }
      if half > 0, random.next() % 4 == 0 {
        evictions += tree.evict(3, isShared: { pool.references(to: $0) > 1 }, release: { pool.release($0) })
        for s in 0..<2 { known[s] = known[s].filter { matched($0.key + [0], s).last == $0.value } }
      }
      table.withUnsafeBufferPointer { tree.insert(tokens, &names, $0, half..<count) { pool.retain($0) } }
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
      var names = BlockNames(namespace: space)
      blocks.withUnsafeBufferPointer { tree.insert(tokens, &names, $0, blocks.indices) { _ in } }
    }
    insert(100, [1, 2])
    insert(200, [3])
    insert(300, [4])
    var names = BlockNames(namespace: space)
    var hit: [Int32] = []
    tree.match([Int32](repeating: 200, count: 16) + [0], &names, into: &hit)
    #expect(hit == [3])
    let freed = tree.evict(3, isShared: { $0 == 4 }, release: { released.append($0) })
    #expect(freed == 3)
    #expect(released == [2, 1, 3], "leaves before parents, shared ones not at all")
  }

  @Test func usingABlockUsesTheBlocksBeforeIt() {
    var tree = PrefixTree()
    let space = BlockName(salt: "")
    var released: [Int32] = []
    func tokens(_ first: Int32, _ count: Int) -> [Int32] {
      (0..<count).flatMap { [Int32](repeating: first + Int32($0), count: 16) }
    }
    func insert(_ tokens: [Int32], _ blocks: [Int32]) {
      var names = BlockNames(namespace: space)
      blocks.withUnsafeBufferPointer { tree.insert(tokens, &names, $0, blocks.indices) { _ in } }
    }
    insert(tokens(100, 2), [1, 2])
    insert(tokens(200, 1), [3])
    var names = BlockNames(namespace: space)
    var hit: [Int32] = []
    tree.match(tokens(100, 2) + [0], &names, into: &hit)
    #expect(hit == [1, 2])
    // Block 1 was inserted before 3, but used after it, when 2 was.
    #expect(tree.evict(3, isShared: { _ in false }, release: { released.append($0) }) == 3)
    #expect(released == [3, 2, 1])
  }
}
