/// The trees of all tenants over one clustering tree: persistent (path-copying) structures in a slab.
///
/// A tenant's tree is the part of the clustering tree that it needs: where it has few vectors the branch ends early in a
/// list of their slots, where it has many the branch goes deeper. Invariants, with C = `bufferCapacity`:
/// - I1 on a way from the root to a leaf there is at most one list;
/// - I2 a slot is in the list that its path leads to;
/// - I3 a list above the leaves of the clustering tree has at most C slots;
/// - I4 children that are all lists hold more than C/2 slots together;
/// - I5 no list is empty and no inner node is without children.
///
/// A change copies one list and the nodes above it, and returns the new root; blocks that readers may hold are retired,
/// not freed. Between two calls of `seal` blocks that no reader has seen are changed in place.
struct TenantForest {
  let tree: ClusterTree
  let slab: Slab
  let capacity: Int
  private(set) var reclamation = Reclamation()
  /// Blocks made since the last `seal`.
  private var unseen: [UInt32] = []
  /// Those of them that are out of use again.
  private var dropped: [(handle: UInt32, bytes: Int)] = []
  /// Scratch of `split`.
  private var distribution: [UInt32] = []

  init(tree: ClusterTree, slab: Slab, capacity: Int) {
    self.tree = tree
    self.slab = slab
    self.capacity = capacity
  }

  @inline(__always) private func list(_ handle: UInt32) -> IDBlock { IDBlock(slab.address(handle)) }
  @inline(__always) private func inner(_ handle: UInt32) -> InnerBlock { InnerBlock(slab.address(handle)) }
  @inline(__always) private func isInner(_ handle: UInt32) -> Bool { handle & InnerBlock.tag != 0 }

  // MARK: blocks

  private mutating func makeList(count: Int) -> UInt32 {
    let handle = slab.allocate(bytes: IDBlock.bytes(count: count))
    unseen.append(handle)
    let block = list(handle)
    block.isUnseen = true
    block.count = count
    return handle
  }

  private mutating func makeInner(cluster: UInt32, mask: UInt64) -> UInt32 {
    let handle = slab.allocate(bytes: InnerBlock.bytes(children: mask.nonzeroBitCount)) | InnerBlock.tag
    unseen.append(handle)
    let block = inner(handle)
    block.mask = mask
    block.set(cluster: cluster, isUnseen: true)
    return handle
  }

  private mutating func discard(_ handle: UInt32) {
    let (bytes, isUnseen) =
      isInner(handle) ? (inner(handle).bytes, inner(handle).isUnseen) : (list(handle).bytes, list(handle).isUnseen)
    if isUnseen { dropped.append((handle, bytes)) } else { reclamation.retire(handle, bytes: bytes) }
  }

  /// From here on readers may see all blocks: call it before roots are published.
  mutating func seal() {
    for handle in unseen {
      if isInner(handle) {
        let block = inner(handle)
        block.set(cluster: block.cluster, isUnseen: false)
      } else {
        list(handle).isUnseen = false
      }
    }
    unseen.removeAll(keepingCapacity: true)
  }

  /// After roots were published: frees what no reader holds any more.
  mutating func reclaim(_ epochs: Epochs) {
    for block in dropped { slab.release(block.handle, bytes: block.bytes) }
    dropped.removeAll(keepingCapacity: true)
    reclamation.published(epochs, slab: slab)
  }

  // MARK: lists (also the access lists of vectors)

  /// The list with `number`, or nil when it was there. O(count).
  mutating func adding(_ number: UInt32, to handle: UInt32) -> UInt32? {
    guard handle != 0 else {
      let new = makeList(count: 1)
      list(new).numbers[0] = number
      return new
    }
    let block = list(handle)
    let (place, found) = block.search(number)
    if found { return nil }
    let count = block.count
    let fits = Slab.classIndex(bytes: block.bytes) == Slab.classIndex(bytes: IDBlock.bytes(count: count + 1))
    if block.isUnseen && fits {
      let numbers = block.numbers
      (numbers + place + 1).update(from: numbers + place, count: count - place)
      numbers[place] = number
      block.count = count + 1
      return handle
    }
    let new = makeList(count: count + 1)
    let (source, target) = (block.numbers, list(new).numbers)
    target.update(from: source, count: place)
    target[place] = number
    (target + place + 1).update(from: source + place, count: count - place)
    discard(handle)
    return new
  }

  /// The list without `number` (0 when it was the last), or nil when it was not there. O(count).
  mutating func removing(_ number: UInt32, from handle: UInt32) -> UInt32? {
    guard handle != 0 else { return nil }
    let block = list(handle)
    let (place, found) = block.search(number)
    guard found else { return nil }
    let count = block.count
    if count == 1 {
      discard(handle)
      return 0
    }
    let fits = Slab.classIndex(bytes: block.bytes) == Slab.classIndex(bytes: IDBlock.bytes(count: count - 1))
    if block.isUnseen && fits {
      let numbers = block.numbers
      (numbers + place).update(from: numbers + place + 1, count: count - place - 1)
      block.count = count - 1
      return handle
    }
    let new = makeList(count: count - 1)
    let (source, target) = (block.numbers, list(new).numbers)
    target.update(from: source, count: place)
    (target + place).update(from: source + place + 1, count: count - place - 1)
    discard(handle)
    return new
  }

  mutating func makeList(_ numbers: some Collection<UInt32>) -> UInt32 {
    guard !numbers.isEmpty else { return 0 }
    let handle = makeList(count: numbers.count)
    let target = list(handle).numbers
    var place = 0
    for number in numbers {
      target[place] = number
      place += 1
    }
    return handle
  }

  func contains(_ number: UInt32, in handle: UInt32) -> Bool { handle != 0 && list(handle).search(number).found }

  func numbers(_ handle: UInt32) -> [UInt32] { handle == 0 ? [] : Array(list(handle).buffer) }

  mutating func dropList(_ handle: UInt32) { if handle != 0 { discard(handle) } }

  // MARK: trees

  /// The tree with `slot`, or nil when it was there. Moves O(depth + C) numbers, amortised.
  mutating func granting(_ slot: UInt32, in root: UInt32, paths: Column<UInt64>) -> UInt32? {
    granting(slot, path: paths[slot], in: root, cluster: 0, level: 0, paths: paths)
  }

  private mutating func granting(
    _ slot: UInt32, path: UInt64, in handle: UInt32, cluster: UInt32, level: Int, paths: Column<UInt64>
  ) -> UInt32? {
    guard isInner(handle) else {
      guard let grown = adding(slot, to: handle) else { return nil }
      let count = list(grown).count
      guard count > capacity, !tree.isLeaf(cluster) else { return grown }
      let slots = Array(list(grown).buffer)
      discard(grown)
      return build(slots, cluster: cluster, level: level, paths: paths)
    }
    let node = inner(handle)
    let digit = ClusterTree.digit(path, level)
    let (place, found) = node.rank(digit)
    let child = tree.firstChild[Int(cluster)] + UInt32(digit)
    if found {
      let old = node.children[place]
      guard let new = granting(slot, path: path, in: old, cluster: child, level: level + 1, paths: paths) else {
        return nil
      }
      return new == old ? handle : replacing(place, of: handle, by: new)
    }
    let new = makeList(count: 1)
    list(new).numbers[0] = slot
    let count = node.childCount
    let grown = makeInner(cluster: cluster, mask: node.mask | 1 << UInt64(digit))
    let (source, target) = (node.children, inner(grown).children)
    target.update(from: source, count: place)
    target[place] = new
    (target + place + 1).update(from: source + place, count: count - place)
    discard(handle)
    return grown
  }

  private mutating func replacing(_ place: Int, of handle: UInt32, by child: UInt32) -> UInt32 {
    let node = inner(handle)
    if node.isUnseen {
      node.children[place] = child
      return handle
    }
    let copy = makeInner(cluster: node.cluster, mask: node.mask)
    inner(copy).children.update(from: node.children, count: node.childCount)
    inner(copy).children[place] = child
    discard(handle)
    return copy
  }

  /// A tree over ascending `slots` that all lie below `cluster`; not empty.
  mutating func build(_ slots: [UInt32], cluster: UInt32, level: Int, paths: Column<UInt64>) -> UInt32 {
    if slots.count <= capacity || tree.isLeaf(cluster) { return makeList(slots) }
    var counts = [Int](repeating: 0, count: ClusterTree.maximumBranching)
    for slot in slots { counts[ClusterTree.digit(paths[slot], level)] += 1 }
    var mask: UInt64 = 0
    for digit in 0..<counts.count where counts[digit] > 0 { mask |= 1 << UInt64(digit) }
    var parts = counts.map { count in
      var part: [UInt32] = []
      part.reserveCapacity(count)
      return part
    }
    for slot in slots { parts[ClusterTree.digit(paths[slot], level)].append(slot) }
    let handle = makeInner(cluster: cluster, mask: mask)
    var place = 0
    for digit in 0..<counts.count where counts[digit] > 0 {
      let child = tree.firstChild[Int(cluster)] + UInt32(digit)
      let built = build(parts[digit], cluster: child, level: level + 1, paths: paths)
      inner(handle).children[place] = built
      place += 1
    }
    return handle
  }

  /// The tree without `slot` (0 when it was the last), or nil when it was not there.
  mutating func revoking(_ slot: UInt32, in root: UInt32, paths: Column<UInt64>) -> UInt32? {
    root == 0 ? nil : revoking(slot, path: paths[slot], in: root, level: 0)
  }

  private mutating func revoking(_ slot: UInt32, path: UInt64, in handle: UInt32, level: Int) -> UInt32? {
    guard isInner(handle) else { return removing(slot, from: handle) }
    let node = inner(handle)
    let (place, found) = node.rank(ClusterTree.digit(path, level))
    guard found else { return nil }
    let old = node.children[place]
    guard let new = revoking(slot, path: path, in: old, level: level + 1) else { return nil }
    var result = handle
    if new == 0 {
      let count = node.childCount
      if count == 1 {
        discard(handle)
        return 0
      }
      let shrunk = makeInner(cluster: node.cluster, mask: node.mask & ~(1 << UInt64(ClusterTree.digit(path, level))))
      let (source, target) = (node.children, inner(shrunk).children)
      target.update(from: source, count: place)
      (target + place).update(from: source + place + 1, count: count - place - 1)
      discard(handle)
      result = shrunk
    } else if new != old {
      result = replacing(place, of: handle, by: new)
    }
    return merged(result)
  }

  /// The node's children as one list when they are lists that hold at most C/2 slots together: half of C, so that a grant
  /// and a revoke at the limit do not split and merge for ever.
  private mutating func merged(_ handle: UInt32) -> UInt32 {
    let node = inner(handle)
    let (count, children) = (node.childCount, node.children)
    var total = 0
    for i in 0..<count {
      if isInner(children[i]) { return handle }
      total += list(children[i]).count
      if total > capacity / 2 { return handle }
    }
    let new = makeList(count: total)
    let target = list(new).numbers
    var place = 0
    for i in 0..<count {
      let child = list(children[i])
      (target + place).update(from: child.numbers, count: child.count)
      place += child.count
      discard(children[i])
    }
    var slots = UnsafeMutableBufferPointer(start: target, count: total)
    slots.sort()
    discard(handle)
    return new
  }

  /// An inner node over `children`, or one list where that is enough; 0 for no children.
  mutating func joined(_ children: [(digit: Int, handle: UInt32)], cluster: UInt32) -> UInt32 {
    guard !children.isEmpty else { return 0 }
    let handle = makeInner(cluster: cluster, mask: children.reduce(0) { $0 | 1 << UInt64($1.digit) })
    for (i, child) in children.enumerated() { inner(handle).children[i] = child.handle }
    return merged(handle)
  }

  /// Retires all blocks of a tree.
  mutating func drop(_ root: UInt32) {
    guard root != 0 else { return }
    if isInner(root) {
      let node = inner(root)
      for i in 0..<node.childCount { drop(node.children[i]) }
    }
    discard(root)
  }

  // MARK: reading

  /// The tree's lists in the order of the leaves.
  func forEachList(_ root: UInt32, _ body: (UnsafeBufferPointer<UInt32>) throws -> Void) rethrows {
    guard root != 0 else { return }
    guard isInner(root) else { return try body(list(root).buffer) }
    let node = inner(root)
    for i in 0..<node.childCount { try forEachList(node.children[i], body) }
  }

  /// All slots of a tree, ascending.
  func slots(_ root: UInt32) -> [UInt32] {
    var all: [UInt32] = []
    forEachList(root) { all.append(contentsOf: $0) }
    all.sort()
    return all
  }

  func contains(_ slot: UInt32, path: UInt64, in root: UInt32) -> Bool {
    var (handle, level) = (root, 0)
    while isInner(handle) {
      let (place, found) = inner(handle).rank(ClusterTree.digit(path, level))
      guard found else { return false }
      handle = inner(handle).children[place]
      level += 1
    }
    return contains(slot, in: handle)
  }

  /// Checks I1–I5 of a tree and returns its number of slots; throws `VectorError.corrupt`.
  func verify(_ root: UInt32, paths: Column<UInt64>) throws -> Int {
    root == 0 ? 0 : try verify(root, cluster: 0, level: 0, prefix: 0, paths: paths)
  }

  private func verify(
    _ handle: UInt32, cluster: UInt32, level: Int, prefix: UInt64, paths: Column<UInt64>
  ) throws -> Int {
    func fail(_ what: String) -> VectorError { .corrupt("a tenant's tree at cluster \(cluster): \(what)") }
    guard isInner(handle) else {
      let slots = list(handle).buffer
      if slots.isEmpty { throw fail("an empty list") }
      if slots.count > capacity && !tree.isLeaf(cluster) {
        throw fail("a list of \(slots.count) slots above the leaves")
      }
      let kept = level == 0 ? 0 : ~UInt64(0) << UInt64(64 - ClusterTree.digitBits * level)
      for (i, slot) in slots.enumerated() {
        if i > 0 && slots[i - 1] >= slot { throw fail("slots out of order") }
        if paths[slot] & kept != prefix { throw fail("slot \(slot) is off its path") }
      }
      return slots.count
    }
    let node = inner(handle)
    if node.cluster != cluster { throw fail("the node says it is cluster \(node.cluster)") }
    if node.mask == 0 { throw fail("an inner node without children") }
    if tree.isLeaf(cluster) { throw fail("an inner node at a leaf") }
    var (total, place, allLists) = (0, 0, true)
    for digit in 0..<ClusterTree.maximumBranching where node.mask >> UInt64(digit) & 1 == 1 {
      let child = node.children[place]
      if child == 0 { throw fail("an empty child") }
      allLists = allLists && !isInner(child)
      total += try verify(
        child, cluster: tree.firstChild[Int(cluster)] + UInt32(digit), level: level + 1,
        prefix: prefix | UInt64(digit) << UInt64(64 - ClusterTree.digitBits * (level + 1)), paths: paths)
      place += 1
    }
    if allLists && total <= capacity / 2 { throw fail("\(total) slots in separate lists") }
    return total
  }
}
