import KernelInterface
import ApusKernels

/// The clustering tree that all tenants share: hierarchical k-means, immutable once trained.
///
/// Node 0 is the root; the children of a node are consecutive. A node knows its centroid only as int8 codes
/// (`CodeLayout`): assignments and search scores then come from exact integers, so that every machine puts a vector into
/// the same leaf, and a node costs a quarter of its f32 centroid.
///
/// A vector's **path** is the digits of its way down, 6 bits a level from the top of a `UInt64`: sorting paths sorts
/// vectors into the order of the leaves.
///
/// `@unchecked Sendable`: `centroidRows` points into `centroids`.
final class ClusterTree: @unchecked Sendable {
  static let maximumDepth = 10
  static let maximumBranching = 64
  static let digitBits = 6

  let dim: Int
  /// Number of the first child; 0 for a leaf.
  let firstChild: [UInt32]
  let childCount: [UInt8]
  let level: [UInt8]
  /// Mean squared distance of the training vectors below a node to its centroid.
  let meanSquare: [Float]
  /// Rows of `CodeLayout`, offset = ‖centroid‖².
  let centroids: ChunkedRows
  let centroidRows: RowChunks
  /// 0, 1, 2, …: children of a node as the list of row numbers that kernels take.
  private let numbers: [UInt32]

  var nodeCount: Int { firstChild.count }

  /// A tree of one leaf: before training.
  convenience init(dim: Int) {
    let centroids = ChunkedRows(rowBytes: CodeLayout.bytes(dim: dim), shift: 10)
    centroids.ensure(0)
    self.init(dim: dim, firstChild: [0], childCount: [0], level: [0], meanSquare: [0], centroids: centroids)
  }

  init(
    dim: Int, firstChild: [UInt32], childCount: [UInt8], level: [UInt8], meanSquare: [Float], centroids: ChunkedRows
  ) {
    self.dim = dim
    self.firstChild = firstChild
    self.childCount = childCount
    self.level = level
    self.meanSquare = meanSquare
    self.centroids = centroids
    centroidRows = centroids.view
    numbers = (0..<UInt32(firstChild.count)).map { $0 }
  }

  @inline(__always) func isLeaf(_ node: UInt32) -> Bool { firstChild[Int(node)] == 0 }

  /// The digit of `path` at `level`.
  @inline(__always) static func digit(_ path: UInt64, _ level: Int) -> Int {
    Int(truncatingIfNeeded: path >> UInt64(64 - digitBits * (level + 1))) & (maximumBranching - 1)
  }

  /// The path of the vector whose code row is at `row`: the nearest centroid at every level, the first among equals.
  /// O(depth · branching · dim).
  func path(codeRow row: UnsafeRawPointer, kernels: KernelTable) -> UInt64 {
    let query = query(codeRow: row)
    var path: UInt64 = 0
    var node = 0
    var level = 0
    while firstChild[node] != 0 {
      let (first, children) = (Int(firstChild[node]), Int(childCount[node]))
      let nearest = withUnsafeTemporaryAllocation(of: Float.self, capacity: Self.maximumBranching) { scores in
        numbers.withUnsafeBufferPointer {
          kernels.codeScores(query, centroidRows, $0.baseAddress! + first, children, scores.baseAddress!)
        }
        var nearest = 0
        for child in 1..<children where scores[child] < scores[nearest] { nearest = child }
        return nearest
      }
      path |= UInt64(nearest) << UInt64(64 - Self.digitBits * (level + 1))
      node = first + nearest
      level += 1
    }
    return path
  }

  /// ‖c‖² − 2·x·c orders centroids c as their distance to x does.
  private func query(codeRow row: UnsafeRawPointer) -> CodeQuery {
    let count = CodeLayout.codes(dim: dim)
    let codes = (row + CodeLayout.codesOffset).assumingMemoryBound(to: Int8.self)
    var sum: Int32 = 0
    for i in 0..<count { sum &+= Int32(codes[i]) }
    return CodeQuery(
      codes: codes, count: count, sum: sum, factor: -2 * row.loadUnaligned(as: Float.self), offsetFactor: 1)
  }

  /// The leaf that a path leads to.
  func leaf(of path: UInt64) -> UInt32 {
    var (node, level) = (UInt32(0), 0)
    while !isLeaf(node) {
      node = firstChild[Int(node)] + UInt32(Self.digit(path, level))
      level += 1
    }
    return node
  }

  /// Of the vector whose code row is at `row`, to a node's centroid.
  func squaredDistance(codeRow row: UnsafeRawPointer, to node: UInt32, kernels: KernelTable) -> Float {
    let square = row.loadUnaligned(fromByteOffset: 4, as: Float.self)
    return withUnsafeTemporaryAllocation(of: Float.self, capacity: 1) { score in
      withUnsafePointer(to: node) { kernels.codeScores(query(codeRow: row), centroidRows, $0, 1, score.baseAddress!) }
      return max(0, score[0] + square)
    }
  }

  /// Checks what the rest of the room relies on; throws `VectorError.corrupt`.
  func verify() throws {
    var seen = 1
    guard nodeCount >= 1, childCount.count == nodeCount, level.count == nodeCount, meanSquare.count == nodeCount else {
      throw VectorError.corrupt("the clustering tree's columns differ in length")
    }
    for node in 0..<nodeCount where firstChild[node] != 0 {
      let (first, children) = (Int(firstChild[node]), Int(childCount[node]))
      // Children come in the order of their parents, so every node but the root has exactly one.
      guard first == seen, first > node, children >= 2, children <= Self.maximumBranching,
        first + children <= nodeCount,
        Int(level[node]) < Self.maximumDepth
      else {
        throw VectorError.corrupt("node \(node) of the clustering tree has children \(first)..<\(first + children)")
      }
      for child in first..<first + children where level[child] != level[node] + 1 {
        throw VectorError.corrupt("node \(child) of the clustering tree is on level \(level[child])")
      }
      seen += children
    }
    guard seen == nodeCount else {
      throw VectorError.corrupt("the clustering tree has \(nodeCount - seen) loose nodes")
    }
  }
}

// MARK: - As bytes: the artefact that enters the log

extension ClusterTree {
  private static let magic: UInt32 = 0x3145_5254  // "TRE1"

  /// `[magic][dim][nodes]`, then the columns, then the centroid rows; little endian.
  func encoded() -> [UInt8] {
    var out: [UInt8] = []
    let rowBytes = CodeLayout.bytes(dim: dim)
    out.reserveCapacity(12 + nodeCount * (10 + rowBytes))
    for value in [Self.magic, UInt32(dim), UInt32(nodeCount)] { out.append(littleEndian: value) }
    for value in firstChild { out.append(littleEndian: value) }
    out.append(contentsOf: childCount)
    out.append(contentsOf: level)
    for value in meanSquare { out.append(littleEndian: value.bitPattern) }
    for node in 0..<UInt32(nodeCount) {
      out.append(contentsOf: UnsafeRawBufferPointer(start: centroids.row(node), count: rowBytes))
    }
    return out
  }

  /// Reads what `encoded` wrote; throws `VectorError.corrupt`.
  convenience init(decoding bytes: UnsafeRawBufferPointer) throws {
    var reader = ByteReader(bytes, what: "clustering tree")
    guard try reader.next(UInt32.self) == Self.magic else { throw VectorError.corrupt("this is no clustering tree") }
    let (dim, nodes) = (Int(try reader.next(UInt32.self)), Int(try reader.next(UInt32.self)))
    guard (1...VectorConfig.maximumDimension).contains(dim), nodes >= 1 else {
      throw VectorError.corrupt("a clustering tree of \(nodes) nodes with \(dim) dimensions")
    }
    let rowBytes = CodeLayout.bytes(dim: dim)
    guard reader.remaining == nodes.multipliedReportingOverflow(by: 10 + rowBytes).partialValue else {
      throw VectorError.corrupt("a clustering tree of \(nodes) nodes in \(bytes.count) bytes")
    }
    let firstChild = try (0..<nodes).map { _ in try reader.next(UInt32.self) }
    let childCount = try (0..<nodes).map { _ in try reader.next(UInt8.self) }
    let level = try (0..<nodes).map { _ in try reader.next(UInt8.self) }
    let meanSquare = try (0..<nodes).map { _ in Float(bitPattern: try reader.next(UInt32.self)) }
    let centroids = ChunkedRows(rowBytes: rowBytes, shift: 10)
    for node in 0..<UInt32(nodes) {
      centroids.ensure(node)
      try reader.copy(rowBytes, to: centroids.row(node))
    }
    self.init(
      dim: dim, firstChild: firstChild, childCount: childCount, level: level, meanSquare: meanSquare,
      centroids: centroids)
    try verify()
  }
}
