/// What a collection's distance is.
public enum VectorMetric: String, Sendable, Codable, CaseIterable {
  /// Squared Euclidean distance.
  case l2
  /// Inner product, the greatest first; reported as its negative, so that a smaller distance is always nearer.
  case ip
  /// Cosine: vectors and queries are scaled to length 1, distance = 1 − cos.
  case cosine
}

/// How vectors are kept beside their f32 form for the first pass of a search.
public enum VectorQuantizer: String, Sendable, Codable, CaseIterable {
  /// f32 only.
  case none
  /// int8 with a scale per vector; the best candidates are ranked again in f32.
  case sq8
  /// One bit a dimension, which bounds the distance; what the bound cannot rule out is compared in f32.
  case rabitq

  /// The fastest at every recall that was measured, and the smallest.
  public static let standard = rabitq
}

/// The shape of an index; fixed when it is created.
public struct VectorConfig: Sendable, Codable, Equatable {
  public static let maximumDimension = 65_536

  public var dim: Int
  public var metric: VectorMetric
  public var quantizer: VectorQuantizer
  /// Children of a node of the clustering tree, 2…64.
  public var branching: Int
  /// Ids of one tenant that one node holds before the tenant's tree goes deeper (C).
  public var bufferCapacity: Int
  /// Training vectors below which a node stays a leaf.
  public var leafCapacity: Int

  public init(
    dim: Int, metric: VectorMetric = .cosine, quantizer: VectorQuantizer = .standard, branching: Int = 16,
    bufferCapacity: Int = 128, leafCapacity: Int = 128
  ) {
    self.dim = dim
    self.metric = metric
    self.quantizer = quantizer
    self.branching = branching
    self.bufferCapacity = bufferCapacity
    self.leafCapacity = leafCapacity
  }

  /// Throws `VectorError.configuration` naming the field, the value and the range.
  public func validate() throws {
    func check(_ field: String, _ value: Int, _ range: ClosedRange<Int>) throws {
      guard range.contains(value) else { throw VectorError.configuration(field: field, value: value, allowed: range) }
    }
    try check("dim", dim, 1...Self.maximumDimension)
    try check("branching", branching, 2...ClusterTree.maximumBranching)
    try check("bufferCapacity", bufferCapacity, 1...65_536)
    try check("leafCapacity", leafCapacity, 1...1_048_576)
  }
}

/// The number under which a caller knows a vector.
public typealias VectorID = UInt64

/// A tenant, or a group of tenants: whoever can be granted a vector.
public typealias TenantID = UInt32
