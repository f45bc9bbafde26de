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
    /// The block before, or `root`.
    var parent: Int32
    var children = 0
    /// The tree's clock when it was last matched or inserted. Using a block uses all before it, too: they learn of it
    /// when the block is evicted.
    var lastUse: UInt64
  }

  /// By block.
  private var nodes: [Int32: Node] = [:]
  private var index: [BlockName: Int32] = [:]
  /// Leaves by last use; an entry whose node was used or given children since is skipped when it comes up.
  private var leaves = LeafQueue()
  /// Leaves that an eviction passes over.
  private var kept: [LeafQueue.Leaf] = []
  private var clock: UInt64 = 0
  private static let root: Int32 = -1
  /// Outdated entries of the queue that are not worth making it anew.
  private static let spareEntries = 64

  /// Blocks that the tree holds.
  var blockCount: Int { nodes.count }

  /// Finds the blocks of the longest known beginning of `tokens`, whole blocks only and never all of the tokens: the last
  /// one must be computed for its logits. O(blocks found).
  mutating func match(_ tokens: [Int32], _ names: inout BlockNames, into blocks: inout [Int32]) {
    clock += 1
    blocks.removeAll(keepingCapacity: true)
    while (blocks.count + 1) * kvBlockTokens < tokens.count,
      let block = index[names.name(of: blocks.count, in: tokens)]
    {
      blocks.append(block)
    }
    if let last = blocks.last { touch(last) }
  }

  /// Makes some blocks of a sequence known: `range` of those in `blocks`, which hold the keys and values of whole blocks of
  /// `tokens`. Calls `retain` for each block that the tree takes; a block whose name is known already stays its owner's.
  /// O(blocks), and those before that were known and are not any more.
  mutating func insert(
    _ tokens: [Int32], _ names: inout BlockNames, _ blocks: UnsafeBufferPointer<Int32>, _ range: Range<Int>,
    retain: (Int32) -> Void
  ) {
    clock += 1
    // What stands before in the tree may be another sequence's block, which can have been evicted meanwhile.
    var first = range.lowerBound
    while first > 0, index[names.name(of: first - 1, in: tokens)] == nil { first -= 1 }
    var parent = first > 0 ? index[names.name(of: first - 1, in: tokens)]! : Self.root
    for i in first..<range.upperBound {
      let name = names.name(of: i, in: tokens)
      if let known = index[name] {
        parent = known
        continue
      }
      retain(blocks[i])
      nodes[blocks[i]] = Node(name: name, parent: parent, lastUse: clock)
      index[name] = blocks[i]
      if parent != Self.root { nodes[parent]!.children += 1 }
      parent = blocks[i]
    }
    if parent != Self.root { touch(parent) }
  }

  /// Gives up the least recently used leaves whose blocks nobody else uses, until `count` are freed or none is left;
  /// returns how many. `isShared` says whether a block has other users, `release` gives one back.
  mutating func evict(_ count: Int, isShared: (Int32) -> Bool, release: (Int32) -> Void) -> Int {
    var freed = 0
    while freed < count, let leaf = leaves.pop() {
      guard let node = nodes[leaf.block], node.children == 0, node.lastUse == leaf.lastUse else { continue }
      if isShared(leaf.block) {
        kept.append(leaf)
        continue
      }
      remove(leaf.block, release)
      freed += 1
    }
    for leaf in kept { leaves.push(leaf) }
    kept.removeAll(keepingCapacity: true)
    return freed
  }

  /// Gives up everything.
  mutating func removeAll(release: (Int32) -> Void) {
    for block in nodes.keys { release(block) }
    nodes.removeAll()
    index.removeAll()
    leaves.removeAll()
  }

  private mutating func touch(_ block: Int32) {
    nodes[block]!.lastUse = clock
    guard nodes[block]!.children == 0 else { return }
    // Every use of a leaf leaves an outdated entry behind; without this they would pile up until something is evicted.
    if leaves.count > 2 * nodes.count + Self.spareEntries {
      leaves.removeAll()
      for (leaf, node) in nodes where node.children == 0 { leaves.push(.init(block: leaf, lastUse: node.lastUse)) }
    } else {
      leaves.push(.init(block: block, lastUse: clock))
    }
  }

  private mutating func remove(_ block: Int32, _ release: (Int32) -> Void) {
    let node = nodes.removeValue(forKey: block)!
    index[node.name] = nil
    release(block)
    guard node.parent != Self.root else { return }
    var parent = nodes[node.parent]!
    parent.children -= 1
    parent.lastUse = max(parent.lastUse, node.lastUse)
    nodes[node.parent] = parent
    if parent.children == 0 { leaves.push(.init(block: node.parent, lastUse: parent.lastUse)) }
  }

  /// Traps unless names, children and the queue of leaves agree with the nodes.
  func checkInvariants() {
    precondition(index.count == nodes.count && kept.isEmpty)
    var children: [Int32: Int] = [:]
    for (block, node) in nodes {
      precondition(index[node.name] == block)
      precondition(node.parent == Self.root || nodes[node.parent] != nil, "a node without its parent")
      children[node.parent, default: 0] += 1
    }
    for (block, node) in nodes {
      precondition(node.children == children[block, default: 0])
      precondition(
        node.children > 0 || leaves.contains(.init(block: block, lastUse: node.lastUse)),
        "a leaf that can't be evicted")
    }
  }
}

/// The name of a block by what it holds: SHA-256 over the parent's name and the tokens.
struct BlockName: Hashable, Sendable {
  private var words: SIMD4<UInt64>

  /// The root of a namespace. Requests see each other's prefixes only under the same salt.
  init(salt: String) { self.init(SHA256.hash(data: Array(salt.utf8))) }

  private init(_ digest: SHA256.Digest) {
    words = digest.withUnsafeBytes { $0.loadUnaligned(as: SIMD4<UInt64>.self) }
  }

  func child(_ tokens: ArraySlice<Int32>) -> BlockName {
    var hash = SHA256()
    withUnsafeBytes(of: words) { hash.update(bufferPointer: $0) }
    tokens.withUnsafeBytes { hash.update(bufferPointer: $0) }
    return BlockName(hash.finalize())
  }

  /// Any part of a SHA-256 is a hash.
  func hash(into hasher: inout Hasher) { hasher.combine(words[0]) }
}

/// The names of one sequence's whole blocks, each made when it is first asked for: a sequence only grows, so a name stays.
struct BlockNames: Sendable {
  let namespace: BlockName
  private var names: [BlockName] = []

  init(namespace: BlockName) { self.namespace = namespace }

  /// The name of the sequence's block `index`, which `tokens` must fill. O(1), and a hash for each name that is new.
  mutating func name(of index: Int, in tokens: [Int32]) -> BlockName {
    while names.count <= index {
      let first = names.count * kvBlockTokens
      names.append((names.last ?? namespace).child(tokens[first..<first + kvBlockTokens]))
    }
    return names[index]
  }

  /// For a sequence that has the first `count` blocks' tokens in common with this one.
  func prefix(_ count: Int) -> BlockNames {
    var prefix = self
    prefix.names = Array(names.prefix(count))
    return prefix
  }

  /// Traps unless the names are those of the tokens.
  func checkInvariants(_ tokens: [Int32]) {
    var fresh = BlockNames(namespace: namespace)
    for (i, name) in names.enumerated() {
      precondition(fresh.name(of: i, in: tokens) == name, "a block's name is not its own")
    }
  }
}

/// A binary heap of leaves, the least recently used first.
private struct LeafQueue {
  struct Leaf: Equatable {
    var block: Int32
    var lastUse: UInt64
  }

  private var heap: [Leaf] = []

  var count: Int { heap.count }

  func contains(_ leaf: Leaf) -> Bool { heap.contains(leaf) }

  mutating func removeAll() { heap.removeAll(keepingCapacity: true) }

  mutating func push(_ leaf: Leaf) {
    heap.append(leaf)
    var child = heap.count - 1
    while child > 0, heap[child].lastUse < heap[(child - 1) / 2].lastUse {
      heap.swapAt(child, (child - 1) / 2)
      child = (child - 1) / 2
    }
  }

  mutating func pop() -> Leaf? {
    guard let first = heap.first else { return nil }
    heap[0] = heap[heap.count - 1]
    heap.removeLast()
    var parent = 0
    while true {
      var least = parent
      for child in 2 * parent + 1..<2 * parent + 3 where child < heap.count {
        if heap[child].lastUse < heap[least].lastUse { least = child }
      }
      if least == parent { break }
      heap.swapAt(parent, least)
      parent = least
    }
    return first
  }
}
