import ApusModels
import ApusText

/// Turns texts into vectors on a thread of its own, one batch after another.
public final class EncoderEngine: EmbeddingEngine {
  public let name: String
  public let contextLength: Int
  public let dimensions: Int
  public let weightsDigest: String?
  public let tokenizer: any Tokenizer
  private let thread: EngineThread<ModelRunner>

  /// `weightsDigest` names the weights to who keeps vectors of them. Throws
  /// ``GenerationError/wrongKindOfModel(model:architecture:expected:)`` for a model that makes no embeddings.
  public init(_ model: LoadedModel, _ options: RunnerOptions = .init(), weightsDigest: String? = nil) async throws {
    try model.requireEncoder()
    self.weightsDigest = weightsDigest
    name = model.name
    contextLength = model.contextLength
    dimensions = model.config.dim
    tokenizer = model.tokenizer
    thread = EngineThread(name: "apus-encoder") { try ModelRunner(model, options) }
    _ = try await thread.run { $0.threads }
  }

  public func embed(_ inputs: [[Int32]]) async throws -> [[Float]] { try await thread.run { try $0.embed(inputs) } }

  public func stop() { thread.stop() }
}
