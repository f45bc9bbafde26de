/// What some tenants may see at one moment: the roots of their trees and of their groups' trees.
struct RightsView {
  /// Groups of groups are followed until so many trees are in the view.
  static let maximumTrees = 256

  private(set) var tenants: [TenantID] = []
  private var words: [UInt64] = []
  /// Of the tenants that have vectors.
  private(set) var roots: [UInt32] = []
  /// Vectors in all trees; one that is in two counts twice.
  private(set) var count = 0
  /// Those whose trees are out of memory; the view is without them.
  private(set) var offloaded: [TenantID] = []

  init(_ asked: [TenantID], in generation: Generation) {
    for tenant in asked where !tenants.contains(tenant) { tenants.append(tenant) }
    var next = 0
    while next < tenants.count {
      if let list = generation.groups.load(tenants[next]), list != 0 {
        for group in IDBlock(generation.blocks.address(list)).buffer
        where tenants.count < Self.maximumTrees && !tenants.contains(group) { tenants.append(group) }
      }
      next += 1
    }
    for tenant in tenants {
      let word = generation.roots.load(tenant) ?? 0
      let root = TenantRoot(word)
      if root.root == TenantRoot.offloaded { offloaded.append(tenant) }
      words.append(word)
      if root.root != 0 && root.root != TenantRoot.offloaded {
        roots.append(root.root)
        count += Int(root.count)
      }
    }
  }

  /// Throws `VectorError.offloaded` where the view is not whole.
  func requireWhole() throws { if let tenant = offloaded.first { throw VectorError.offloaded(tenant) } }

  /// Of all tenants, 0 where one has no vectors.
  var allRoots: [UInt32] { words.map { TenantRoot($0).root } }

  /// Whether one of the tenants is in the slot's access list now, and the list passes `filter`.
  func covers(_ slot: UInt32, filter: AccessFilter?, in generation: Generation) -> Bool {
    guard let list = generation.access.load(slot), list != 0 else { return false }
    let block = IDBlock(generation.blocks.address(list))
    guard tenants.contains(where: { block.search($0).found && !offloaded.contains($0) }) else { return false }
    // A tenant outside of the view has nothing, whatever the list says.
    return filter?.matches { tenants.contains($0) && block.search($0).found } ?? true
  }

  /// Whether the trees are still the published ones, after giving a writer in the middle of publishing time to end.
  func isCurrent(in generation: Generation) -> Bool {
    for _ in 0..<10_000 {
      let same = zip(tenants, words).allSatisfy { (generation.roots.load($0) ?? 0) == $1 }
      if !same { return false }
      yieldThread()
    }
    return true
  }
}
