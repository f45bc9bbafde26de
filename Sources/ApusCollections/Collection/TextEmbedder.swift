/// Makes vectors from texts: the contract between collections and encoders.
public protocol TextEmbedder: Sendable {
  /// Numbers of a model's vectors. Throws `CollectionError.unknownModel`.
  func dim(of model: String) throws -> Int
  /// SHA-256 of a model's weights, in hex; nil where it has none that are a file's. Throws `CollectionError.unknownModel`.
  func weightsDigest(of model: String) throws -> String?
  /// `[texts][dim]`, in the order of the texts. Throws `CollectionError.unknownModel`, `embedding`.
  func embed(_ texts: [String], model: String) async throws -> [[Float]]
}

extension TextEmbedder {
  public func weightsDigest(of model: String) throws -> String? { nil }
}
