/// What a collection takes.
public struct CollectionBytes: Sendable, Codable, Equatable {
  /// In memory: the vectors and their codes.
  public var vectors: Int
  /// In memory: the clustering tree, the tenants' trees, and who may see what.
  public var index: Int
  /// On the disk: keys, texts and payloads.
  public var payloads: Int

  public var total: Int { vectors + index + payloads }
}
