/// Makes vectors from texts: the contract between collections and encoders.
public protocol TextEmbedder: Sendable {
  /// Numbers of a model's vectors. Throws `CollectionError.unknownModel`.
  func dim(of model: String) throws -> Int
  /// `[texts][dim]`, in the order of the texts. Throws `CollectionError.unknownModel`, `embedding`.
  func embed(_ texts: [String], model: String) async throws -> [[Float]]
}
