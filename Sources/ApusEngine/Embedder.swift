import ApusModels
import ApusText

/// Turns texts into vectors with an encoder.
///
/// ```swift
/// let embedder = try Embedder(model)
/// let vectors = try embedder.embed(["a swift", "a bird"])
/// ```
///
/// Not `Sendable`: it belongs to one thread.
public final class Embedder {
  private let runner: ModelRunner
  private let tokenizer: any Tokenizer
  private let maximumTokens: Int

  /// `maximumTokens` cuts longer texts; nil is the model's context. Throws
  /// ``GenerationError/wrongKindOfModel(model:architecture:expected:)`` for a model that makes no embeddings.
  public init(_ model: LoadedModel, _ options: RunnerOptions = .init(), maximumTokens: Int? = nil) throws {
    try model.requireEncoder()
    if let maximumTokens, maximumTokens < 2 {
      throw GenerationError.invalidOption(
        name: "max_tokens", value: "\(maximumTokens)",
        expected: "2 or more: every text has a beginning and an end token")
    }
    runner = try ModelRunner(model, options)
    tokenizer = model.tokenizer
    self.maximumTokens = min(maximumTokens ?? .max, model.contextLength)
  }

  /// One vector a text, in order: pooled and normalised as the model says.
  public func embed(_ texts: [String]) throws -> [[Float]] {
    let options = EncodingOptions(maximumLength: maximumTokens)
    return try runner.embed(texts.map { tokenizer.encode($0, options: options) })
  }
}
