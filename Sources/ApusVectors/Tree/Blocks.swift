// What tenants' trees and access lists are made of. A handle with bit 31 set is an inner node, another one a list of ids,
// 0 is nothing.

/// Ascending numbers: `[count u32][numbers u32 …]`. Bit 31 of the count says that no reader has seen the block yet.
struct IDBlock {
  static let unseen: UInt32 = 1 << 31
  private let base: UnsafeMutableRawPointer

  @inline(__always) init(_ base: UnsafeMutableRawPointer) { self.base = base }

  @inline(__always) private var word: UInt32 {
    get { base.load(as: UInt32.self) }
    nonmutating set { base.storeBytes(of: newValue, as: UInt32.self) }
  }

  @inline(__always) var count: Int {
    get { Int(word & ~Self.unseen) }
    nonmutating set { word = UInt32(newValue) | word & Self.unseen }
  }

  var isUnseen: Bool {
    get { word & Self.unseen != 0 }
    nonmutating set { word = newValue ? word | Self.unseen : word & ~Self.unseen }
  }

  @inline(__always) var numbers: UnsafeMutablePointer<UInt32> {
    (base + 4).assumingMemoryBound(to: UInt32.self)
  }

  @inline(__always) var buffer: UnsafeBufferPointer<UInt32> { UnsafeBufferPointer(start: numbers, count: count) }

  @inline(__always) static func bytes(count: Int) -> Int { 4 + 4 * count }
  @inline(__always) var bytes: Int { Self.bytes(count: count) }

  /// The place of `number`, or where it would go.
  @inline(__always) func search(_ number: UInt32) -> (place: Int, found: Bool) {
    var (low, high) = (0, count)
    let numbers = numbers
    // New slots are the greatest: one miss of the cache instead of one a step.
    if high == 0 || numbers[high - 1] < number { return (high, false) }
    while low < high {
      let middle = (low + high) >> 1
      if numbers[middle] < number { low = middle + 1 } else { high = middle }
    }
    return (low, low < count && numbers[low] == number)
  }
}

/// A node with children: `[mask u64][cluster u32][children u32 …]`, one child a bit of the mask, by ascending digit. Bit 31
/// of the cluster says that no reader has seen the block yet.
struct InnerBlock {
  static let tag: UInt32 = 1 << 31
  private static let unseen: UInt32 = 1 << 31
  private let base: UnsafeMutableRawPointer

  @inline(__always) init(_ base: UnsafeMutableRawPointer) { self.base = base }

  @inline(__always) var mask: UInt64 {
    get { base.load(as: UInt64.self) }
    nonmutating set { base.storeBytes(of: newValue, as: UInt64.self) }
  }

  /// Number of the node of the clustering tree.
  @inline(__always) var cluster: UInt32 { base.load(fromByteOffset: 8, as: UInt32.self) & ~Self.unseen }

  var isUnseen: Bool { base.load(fromByteOffset: 8, as: UInt32.self) & Self.unseen != 0 }

  func set(cluster: UInt32, isUnseen: Bool) {
    base.storeBytes(of: cluster | (isUnseen ? Self.unseen : 0), toByteOffset: 8, as: UInt32.self)
  }

  @inline(__always) var children: UnsafeMutablePointer<UInt32> {
    (base + 12).assumingMemoryBound(to: UInt32.self)
  }

  @inline(__always) var childCount: Int { mask.nonzeroBitCount }
  @inline(__always) static func bytes(children: Int) -> Int { 12 + 4 * children }
  @inline(__always) var bytes: Int { Self.bytes(children: childCount) }

  /// Where the child of `digit` is in `children`, or would go.
  @inline(__always) func rank(_ digit: Int) -> (place: Int, found: Bool) {
    let bit = UInt64(1) << UInt64(digit)
    return ((mask & (bit - 1)).nonzeroBitCount, mask & bit != 0)
  }
}
