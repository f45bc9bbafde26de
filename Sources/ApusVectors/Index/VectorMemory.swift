/// Where an index's bytes are.
public struct VectorMemory: Sendable, Codable {
  public var vectors: Int
  public var codes: Int
  public var clusteringTree: Int
  public var columns: Int
  public var trees: Int
  public var tenants: Int
  /// What is kept of offloaded tenants.
  public var offloaded: Int
  /// What offloaded tenants have on disk; in no sum.
  public var onDisk: Int
  /// All but the f32 vectors and their codes.
  public var index: Int { clusteringTree + columns + trees + tenants + offloaded }
  public var total: Int { vectors + codes + index }
}
