import ApusKernels

/// Statistics of every distinct linear input of a model over a corpus: what factorisations at any ratio start from.
///
/// Layers that read the same vector (query, key and value; gate and up) share one input. The caller names inputs, gives
/// the rows of real tokens, and counts the tokens that it has gone through, so that an interrupted calibration can go on
/// after the last `write`.
public struct CalibrationStatistics: Sendable, Equatable {
  /// The SHA-256, in hex, of the model that ran.
  public let model: String
  /// The SHA-256, in hex, of the text that it ran on: quality must be measured on another.
  public let corpus: String
  /// Tokens of the corpus that the statistics hold.
  public var tokens = 0
  /// Of the lines of that text that were read.
  public internal(set) var lines = LineHashes()
  public internal(set) var inputs: [String: InputStatistics] = [:]

  /// Empty statistics of a model on a corpus.
  public init(model: String, corpus: String) {
    self.model = model
    self.corpus = corpus
  }

  /// Adds the rows `[count, n]` that went into the layers reading `input`. Throws as `InputStatistics.add` does, with the
  /// input's name; nothing is added then.
  public mutating func add(_ rows: Matrix<Float>, to input: String, on pool: ThreadPool) throws(CompressionError) {
    try Self.named(input) { () throws(CompressionError) in
      // In place where there are some: they are the size of the model's widest matrices.
      if try inputs[input]?.add(rows, on: pool) == nil {
        var first = InputStatistics(size: max(1, rows.columns))
        try first.add(rows, on: pool)
        inputs[input] = first
      }
    }
  }

  /// The statistics of one input. Throws `missing` when there are none.
  public func statistics(of input: String) throws(CompressionError) -> InputStatistics {
    guard let result = inputs[input] else {
      throw CompressionError(
        kind: .missing, what: "input '\(input)'", seen: "statistics of \(inputs.count) other inputs",
        expected: "statistics of it", wayOut: "calibrate this model again")
    }
    return result
  }

  /// Adds what another run over a part of the same corpus has seen, with the same model. Throws `otherSource` or `shape`;
  /// nothing is added then.
  public mutating func merge(_ other: CalibrationStatistics) throws(CompressionError) {
    try other.require(model: model, corpus: corpus, "statistics to merge")
    var merged = inputs
    for (name, statistics) in other.inputs {
      try Self.named(name) { () throws(CompressionError) in
        if try merged[name]?.merge(statistics) == nil { merged[name] = statistics }
      }
    }
    inputs = merged
    lines.formUnion(other.lines)
    tokens += other.tokens
  }

  /// Throws `otherSource` unless the statistics are of this model and corpus.
  func require(model: String, corpus: String?, _ what: String) throws(CompressionError) {
    if self.model != model {
      throw CompressionError(
        kind: .otherSource, what: what, seen: "statistics of model \(self.model)", expected: "of model \(model)",
        wayOut: "calibrate this model: another one's inputs say nothing about it")
    }
    if let corpus, self.corpus != corpus {
      throw CompressionError(
        kind: .otherSource, what: what, seen: "statistics of corpus \(self.corpus)", expected: "of corpus \(corpus)",
        wayOut: "go on with the text that the calibration began with, or begin a new file")
    }
  }

  /// Puts the input's name in front of what `body` throws.
  private static func named(
    _ input: String, _ body: () throws(CompressionError) -> Void
  ) throws(CompressionError) {
    do throws(CompressionError) {
      try body()
    } catch {
      var error = error
      error.what = "input '\(input)', \(error.what)"
      throw error
    }
  }
}
