import ApusModels
import Crypto

/// Which KV blocks hold which beginnings of prompts: a tree whose edges are 16 tokens and whose nodes are blocks, with one
/// root a namespace (Zheng et al. 2024, section 3, in block units).
///
/// A node's name is the hash of its tokens, its parent's name and, at the root, the namespace's salt: equal names mean
/// equal keys and values, on every machine with the same weights. The tree is one user of each of its blocks; a block that
/// has no other user can be evicted, the least recently used leaf first.
struct PrefixTree {
  private struct Node {
    var name: BlockName
    var parent: Int
    var tokens: [Int32]
    var block: Int32
    var children = 0
    /// The tree's clock when it was last matched or inserted.
    var lastUse: UInt64
  }

  private var nodes: [Int: Node] = [:]
  private var index: [BlockName: Int] = [:]
  /// Leaves by last use; an entry whose node was used or given children since is skipped when it comes up.
  private var leaves = LeafQueue()
  private var clock: UInt64 = 0
  private var nextNode = 1
  private static let root = 0
  /// Outdated entries of the queue that are not worth making it anew.
  private static let spareEntries = 64

  /// Blocks that the tree holds.
  var blockCount: Int { nodes.count }

  /// Of these, the blocks that `isShared` says have no other user.
  func unsharedBlockCount(isShared: (Int32) -> Bool) -> Int { nodes.values.count { !isShared($0.block) } }

  /// The blocks of the longest known beginning of `tokens`, whole blocks only and never all of the tokens: the last one
  /// must be computed for its logits. O(tokens).
  mutating func match(_ tokens: ArraySlice<Int32>, in namespace: BlockName) -> [Int32] {
    clock += 1
    var blocks: [Int32] = []
    var name = namespace
    var at = tokens.startIndex
    while at + kvBlockTokens < tokens.endIndex {
      let edge = tokens[at..<at + kvBlockTokens]
      name = name.child(edge)
      guard let id = index[name], nodes[id]!.tokens.elementsEqual(edge) else { break }
      touch(id)
      blocks.append(nodes[id]!.block)
      at += kvBlockTokens
    }
    return blocks
  }

  /// Makes the whole blocks of `tokens` known, whose keys and values `blocks` hold; calls `retain` for each block that
  /// the tree takes. Blocks of beginnings that are known already stay their owner's. O(tokens).
  mutating func insert(
    _ tokens: ArraySlice<Int32>, _ blocks: UnsafeBufferPointer<Int32>, in namespace: BlockName, retain: (Int32) -> Void
  ) {
    clock += 1
    var parent = Self.root
    var name = namespace
    for i in 0..<tokens.count / kvBlockTokens {
      let at = tokens.startIndex + i * kvBlockTokens
      let edge = tokens[at..<at + kvBlockTokens]
      name = name.child(edge)
      if let id = index[name] {
        // Another beginning of the same name would need a collision of SHA-256; nothing may hang below it.
        guard nodes[id]!.tokens.elementsEqual(edge) else { return }
        touch(id)
        parent = id
        continue
      }
      retain(blocks[i])
      let id = nextNode
      nextNode += 1
      nodes[id] = Node(name: name, parent: parent, tokens: Array(edge), block: blocks[i], lastUse: clock)
      index[name] = id
      if parent != Self.root { nodes[parent]!.children += 1 }
      leaves.push(id, lastUse: clock)
      parent = id
    }
  }

  /// Gives up the least recently used leaves whose blocks nobody else uses, until `count` are freed or none is left;
  /// returns how many. `isShared` says whether a block has other users, `release` gives one back.
  mutating func evict(_ count: Int, isShared: (Int32) -> Bool, release: (Int32) -> Void) -> Int {
    var freed = 0
    var kept: [(Int, UInt64)] = []
    while freed < count, let (id, lastUse) = leaves.pop() {
      guard let node = nodes[id], node.children == 0, node.lastUse == lastUse else { continue }
      if isShared(node.block) {
        kept.append((id, lastUse))
        continue
      }
      remove(id, release)
      freed += 1
    }
    for (id, lastUse) in kept { leaves.push(id, lastUse: lastUse) }
    return freed
  }

  /// Gives up everything.
  mutating func removeAll(release: (Int32) -> Void) {
    for node in nodes.values { release(node.block) }
    nodes.removeAll()
    index.removeAll()
    leaves = LeafQueue()
  }

  private mutating func touch(_ id: Int) {
    nodes[id]!.lastUse = clock
    guard nodes[id]!.children == 0 else { return }
    // Every use of a leaf leaves an outdated entry behind; without this they would pile up until something is evicted.
    if leaves.count > 2 * nodes.count + Self.spareEntries {
      leaves = LeafQueue()
      for (leaf, node) in nodes where node.children == 0 { leaves.push(leaf, lastUse: node.lastUse) }
    } else {
      leaves.push(id, lastUse: clock)
    }
  }

  private mutating func remove(_ id: Int, _ release: (Int32) -> Void) {
    let node = nodes.removeValue(forKey: id)!
    index[node.name] = nil
    release(node.block)
    guard node.parent != Self.root else { return }
    nodes[node.parent]!.children -= 1
    if nodes[node.parent]!.children == 0 { leaves.push(node.parent, lastUse: nodes[node.parent]!.lastUse) }
  }

  /// Traps unless names, children and the queue of leaves agree with the nodes.
  func checkInvariants() {
    precondition(index.count == nodes.count)
    var children: [Int: Int] = [:]
    for (id, node) in nodes {
      precondition(index[node.name] == id && node.tokens.count == kvBlockTokens)
      precondition(node.parent == Self.root || nodes[node.parent] != nil, "a node without its parent")
      children[node.parent, default: 0] += 1
    }
    for (id, node) in nodes {
      precondition(node.children == children[id, default: 0])
      precondition(node.children > 0 || leaves.contains(id, lastUse: node.lastUse), "a leaf that can't be evicted")
    }
    precondition(Set(nodes.values.map(\.block)).count == nodes.count, "a block stands for two beginnings")
  }
}

/// The name of a block by what it holds: SHA-256 over the parent's name and the tokens.
struct BlockName: Hashable, Sendable {
  private var bytes: SHA256.Digest

  /// The root of a namespace. Requests see each other's prefixes only under the same salt.
  init(salt: String) { bytes = SHA256.hash(data: Array(salt.utf8)) }

  private init(_ digest: SHA256.Digest) { bytes = digest }

  func child(_ tokens: ArraySlice<Int32>) -> BlockName {
    var hash = SHA256()
    bytes.withUnsafeBytes { hash.update(bufferPointer: $0) }
    tokens.withUnsafeBytes { hash.update(bufferPointer: $0) }
    return BlockName(hash.finalize())
  }
}

/// A binary heap of leaves, the least recently used first.
private struct LeafQueue {
  private var heap: [(id: Int, lastUse: UInt64)] = []

  var count: Int { heap.count }

  func contains(_ id: Int, lastUse: UInt64) -> Bool { heap.contains { $0.id == id && $0.lastUse == lastUse } }

  mutating func push(_ id: Int, lastUse: UInt64) {
    heap.append((id, lastUse))
    var child = heap.count - 1
    while child > 0, heap[child].lastUse < heap[(child - 1) / 2].lastUse {
      heap.swapAt(child, (child - 1) / 2)
      child = (child - 1) / 2
    }
  }

  mutating func pop() -> (Int, UInt64)? {
    guard let first = heap.first else { return nil }
    heap[0] = heap[heap.count - 1]
    heap.removeLast()
    var parent = 0
    while true {
      var least = parent
      for child in [2 * parent + 1, 2 * parent + 2] where child < heap.count {
        if heap[child].lastUse < heap[least].lastUse { least = child }
      }
      if least == parent { break }
      heap.swapAt(parent, least)
      parent = least
    }
    return first
  }
}
