import ApusKernels
import KernelInterface

/// Everything that readers of one generation see: the clustering tree, the vectors' rows and the roots of the tenants'
/// trees. A new clustering tree makes a new generation; readers of the old one finish on it.
///
/// `@unchecked Sendable`: the views point into what the generation keeps.
final class Generation: @unchecked Sendable {
  let encoding: VectorEncoding
  let tree: ClusterTree
  let slab: Slab
  let blocks: SlabView
  /// `[padded]` f32 a slot.
  let floats: ChunkedRows
  let floatRows: RowChunks
  /// With a quantizer: rows of `CodeLayout` (sq8) or `BitLayout` (rabitq).
  let codes: ChunkedRows?
  let codeRows: RowChunks?
  let bits: BitEncoding?
  let ids: Column<UInt64>
  let paths: Column<UInt64>
  /// List of the tenants that were granted a slot.
  let access: PublishedReader<UInt32>
  /// Root of a tenant's tree in the low half, number of its vectors in the high half.
  let roots: PublishedReader<UInt64>
  /// List of the groups that a tenant is in.
  let groups: PublishedReader<UInt32>

  init(
    encoding: VectorEncoding, quantizer: VectorQuantizer, tree: ClusterTree, slab: Slab, floats: ChunkedRows,
    codes: ChunkedRows?,
    ids: Column<UInt64>, paths: Column<UInt64>, access: PublishedReader<UInt32>, roots: PublishedReader<UInt64>,
    groups: PublishedReader<UInt32>
  ) {
    self.encoding = encoding
    self.tree = tree
    self.slab = slab
    blocks = slab.view
    self.floats = floats
    floatRows = floats.view
    self.codes = codes
    codeRows = codes?.view
    bits = quantizer == .rabitq ? BitEncoding(encoding: encoding, tree: tree) : nil
    self.ids = ids
    self.paths = paths
    self.access = access
    self.roots = roots
    self.groups = groups
  }

  /// The f32 row of a slot without its padding, `[dim]`.
  func vector(at slot: UInt32) -> [Float] {
    let row = floats.row(slot).assumingMemoryBound(to: Float.self)
    return Array(UnsafeBufferPointer(start: row, count: encoding.dim))
  }
}

/// The root and the number of vectors of a tenant's tree, as one number that is published at once.
struct TenantRoot {
  /// In the place of the root of a tenant whose tree is out of memory. No block has this handle: the slab ends before.
  static let offloaded = UInt32.max

  var root: UInt32
  var count: UInt32

  init(root: UInt32, count: UInt32) {
    self.root = root
    self.count = count
  }

  init(_ word: UInt64) {
    root = UInt32(truncatingIfNeeded: word)
    count = UInt32(truncatingIfNeeded: word >> 32)
  }

  var word: UInt64 { UInt64(count) << 32 | UInt64(root) }
}
