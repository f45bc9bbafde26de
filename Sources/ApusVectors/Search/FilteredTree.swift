/// The tree of the vectors that pass a filter, made for one query from the trees of the tenants that it names: all are
/// parts of the same clustering tree, so they are walked together, and a branch ends where the answer is certain.
///
/// O(slots of the tenants in branches that are not certain). After the resolution of predicates in arXiv 2601.01291; each
/// operand is a list wherever it is evaluated, so that formulas of any depth come out right.
struct FilteredTree {
  private let generation: Generation
  private let filter: AccessFilter
  private let tenants: [TenantID]
  private var forest: TenantForest

  /// What a tenant has below a node.
  private enum Branch {
    case nothing
    case tree(UInt32)
    case slots(ArraySlice<UInt32>)
  }

  /// Slots of the result.
  private(set) var count = 0

  /// `slab` is the caller's own and empty.
  init(_ filter: AccessFilter, tenants: [TenantID], in generation: Generation, capacity: Int, slab: Slab) {
    self.generation = generation
    self.filter = filter
    self.tenants = tenants
    forest = TenantForest(tree: generation.tree, slab: slab, capacity: capacity)
  }

  /// The root in the caller's slab; 0 when nothing passes. `roots` are those of `tenants`.
  mutating func build(roots: [UInt32]) -> UInt32 {
    resolve(roots.map { $0 == 0 ? .nothing : .tree($0) }, cluster: 0, level: 0)
  }

  private mutating func resolve(_ branches: [Branch], cluster: UInt32, level: Int) -> UInt32 {
    let certain = filter.certain { tenant in
      if case .nothing = branch(of: tenant, in: branches) { false } else { nil }
    }
    if certain == false { return 0 }
    var branches = branches
    var deeper = false
    for i in branches.indices {
      guard case .tree(let handle) = branches[i] else { continue }
      if handle & InnerBlock.tag == 0 {
        branches[i] = .slots(IDBlock(generation.slab.address(handle)).buffer[...].asArray)
      } else {
        deeper = true
      }
    }
    guard deeper else {
      let set = filter.evaluate { tenant in
        if case .slots(let slots) = branch(of: tenant, in: branches) { slots } else { [] }
      }
      precondition(!set.isComplement, "the filter is not bounded by the caller's rights")
      count += set.slots.count
      return set.slots.isEmpty
        ? 0 : forest.build(set.slots, cluster: cluster, level: level, paths: generation.paths)
    }
    return descend(branches, cluster: cluster, level: level)
  }

  private func branch(of tenant: TenantID, in branches: [Branch]) -> Branch {
    tenants.firstIndex(of: tenant).map { branches[$0] } ?? .nothing
  }

  private mutating func descend(_ branches: [Branch], cluster: UInt32, level: Int) -> UInt32 {
    let first = generation.tree.firstChild[Int(cluster)]
    let children = Int(generation.tree.childCount[Int(cluster)])
    // What each tenant has below each child.
    var below = [[Branch]](repeating: Array(repeating: .nothing, count: branches.count), count: children)
    for (i, branch) in branches.enumerated() {
      switch branch {
      case .nothing: break
      case .tree(let handle):
        let node = InnerBlock(generation.slab.address(handle))
        for digit in 0..<children {
          let (place, found) = node.rank(digit)
          if found { below[digit][i] = .tree(node.children[place]) }
        }
      case .slots(let slots):
        var parts = [[UInt32]](repeating: [], count: children)
        for slot in slots { parts[ClusterTree.digit(generation.paths[slot], level)].append(slot) }
        for digit in 0..<children where !parts[digit].isEmpty { below[digit][i] = .slots(parts[digit][...]) }
      }
    }
    var results = [(digit: Int, handle: UInt32)]()
    for digit in 0..<children {
      let handle = resolve(below[digit], cluster: first + UInt32(digit), level: level + 1)
      if handle != 0 { results.append((digit, handle)) }
    }
    return forest.joined(results, cluster: cluster)
  }
}

extension Slice where Base == UnsafeBufferPointer<UInt32> {
  fileprivate var asArray: ArraySlice<UInt32> { Array(self)[...] }
}
