import ApusCollections
import ApusEngine
import ApusText

/// Makes vectors of a collection's texts with encoders.
///
/// A text longer than the model's context is read in windows, and its vector is the mean of theirs, weighted by their
/// tokens: nothing of a text is left out in silence.
///
/// ```swift
/// let store = try CollectionStore("collections", embedder: EngineEmbedder([try await EncoderEngine(model)]))
/// ```
public struct EngineEmbedder: TextEmbedder {
  private let encoders: [any EmbeddingEngine]
  private let preparation: PreparationPool

  /// Tokens that an encoder gets at once: large enough to keep it busy, small enough that another request's query soon
  /// has its turn.
  private static let tokensAtOnce = 2048

  public init(_ encoders: [any EmbeddingEngine]) { self.init(encoders, preparation: PreparationPool()) }

  init(_ encoders: [any EmbeddingEngine], preparation: PreparationPool) {
    self.encoders = encoders
    self.preparation = preparation
  }

  public func dim(of model: String) throws -> Int { try encoder(model).dimensions }
  public func weightsDigest(of model: String) throws -> String? { try encoder(model).weightsDigest }

  private func encoder(_ name: String) throws -> any EmbeddingEngine {
    guard let encoder = encoders.first(where: { $0.name == name }) else {
      throw CollectionError.unknownModel(name, known: encoders.map(\.name))
    }
    guard let recorder = RequestRecorder.current else { return encoder }
    recorder.update { $0.model = name }
    return RecordingEncoder(encoder: encoder, recorder: recorder)
  }

  /// A part of a text that fits into the model's context.
  private struct Window: Sendable {
    var text: Int
    /// Those that the model expects around a text included.
    var tokens: [Int32]
  }

  public func embed(_ texts: [String], model: String) async throws -> [[Float]] {
    let encoder = try encoder(model)
    let windows = try await preparation.run {
      // Passes of texts of one length waste the least.
      try texts.indices.flatMap { try Self.windows($0, texts[$0], encoder) }
        .sorted { $0.tokens.count < $1.tokens.count }
    }
    var sums = [[Float]](repeating: [Float](repeating: 0, count: encoder.dimensions), count: texts.count)
    var next = 0
    while next < windows.count {
      let first = next
      var tokens = 0
      while next < windows.count, next == first || tokens + windows[next].tokens.count <= Self.tokensAtOnce {
        tokens += windows[next].tokens.count
        next += 1
      }
      try Task.checkCancellation()
      for (window, vector) in zip(windows[first..<next], try await encoder.embed(windows[first..<next].map(\.tokens))) {
        let weight = Float(window.tokens.count)
        for (i, element) in vector.enumerated() { sums[window.text][i] += weight * element }
      }
    }
    return sums.map { sum in
      let length = sum.reduce(0) { $0 + $1 * $1 }.squareRoot()
      return length > 0 ? sum.map { $0 / length } : sum
    }
  }

  private static func windows(_ index: Int, _ text: String, _ encoder: any EmbeddingEngine) throws -> [Window] {
    let whole = encoder.tokenizer.encode(text)
    guard !whole.isEmpty else {
      throw CollectionError.embedding("text \(index) has no token of '\(encoder.name)', expected at least one")
    }
    if whole.count <= encoder.contextLength { return [Window(text: index, tokens: whole)] }
    let bare = encoder.tokenizer.encode(text, options: EncodingOptions(addSpecial: false))
    let around = whole.count - bare.count
    guard let start = (0...max(around, 0)).first(where: { whole.dropFirst($0).starts(with: bare) }),
      encoder.contextLength > around
    else { throw CollectionError.embedding("'\(encoder.name)' cannot read text \(index) in parts: shorten it") }
    let (before, after) = (whole.prefix(start), whole.dropFirst(start + bare.count))
    // Of equal length: a short rest would say little.
    let count = (bare.count + encoder.contextLength - around - 1) / (encoder.contextLength - around)
    return (0..<count).map { i in
      let part = bare[bare.count * i / count..<bare.count * (i + 1) / count]
      return Window(text: index, tokens: Array(before + part + after))
    }
  }
}
