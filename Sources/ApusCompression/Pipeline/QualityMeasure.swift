import ApusModels
import Foundation

/// What a compressed model is measured by on one text: mean cosine to the original's vectors (encoders), or perplexity
/// (decoders).
public struct QualityMeasure: Sendable {
  private let corpus: Corpus
  private let isEncoder: Bool
  /// The original's vectors; empty for a decoder.
  private let reference: [[Float]]
  /// The original's; 0 for an encoder.
  public let originalPerplexity: Double

  /// Runs the original over the text.
  public init(_ model: LoadedModel, _ corpus: Corpus) throws {
    self.corpus = corpus
    isEncoder = model.isEncoder
    reference = isEncoder ? try ModelQuality.embeddings(model, corpus.sequences) : []
    originalPerplexity = isEncoder ? 0 : try ModelQuality.perplexity(model, corpus.sequences)
  }

  public func quality(_ model: LoadedModel) throws -> Double {
    guard isEncoder else { return try ModelQuality.perplexity(model, corpus.sequences) }
    return ModelQuality.meanCosine(reference, try ModelQuality.embeddings(model, corpus.sequences))
  }

  /// 1 − cosine, or the logarithm of how many times the perplexity is the original's: 0 for the original, never below.
  public func loss(_ model: LoadedModel) throws -> Double {
    let quality = try quality(model)
    return isEncoder ? max(0, 1 - quality) : max(0, log(quality / originalPerplexity))
  }
}
