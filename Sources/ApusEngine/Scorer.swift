import ApusModels
import Foundation

/// How probable a text is to a model, token by token.
public struct Score: Sendable, Equatable {
  public var tokens: [Int32]
  /// Natural logarithms; the first token has none, because nothing comes before it.
  public var logProbabilities: [Float?]
  /// The most probable tokens at each place, if asked for; the first place has none.
  public var top: [[TokenLogProbability]]

  /// Nothing is known yet but that the first token has no probability.
  public init(of tokens: [Int32]) {
    self.tokens = tokens
    logProbabilities = tokens.isEmpty ? [] : [nil]
    top = tokens.isEmpty ? [] : [[]]
  }

  var isComplete: Bool { logProbabilities.count == tokens.count }

  /// Takes what the logits `[vocabulary]` after the token at `place` say of the next one, if that is not known yet. Places
  /// come in order.
  mutating func read(_ logits: UnsafeBufferPointer<Float>, after place: Int, top count: Int) {
    guard place + 1 == logProbabilities.count, !isComplete else { return }
    let report = LogSoftmax(logits)(chosen: tokens[place + 1], top: count)
    logProbabilities.append(report.chosen)
    top.append(report.top)
  }

  /// exp(−mean log-probability); nil for a single token.
  public var perplexity: Double? {
    let known = logProbabilities.compactMap { $0 }
    return known.isEmpty ? nil : exp(-known.reduce(0) { $0 + Double($1) } / Double(known.count))
  }
}

/// Computes log-probabilities of given tokens.
///
/// Not `Sendable`: it belongs to one thread.
public final class Scorer {
  private let runner: any SequenceRunner
  private let vocabularySize: Int

  /// The context is as long as the model allows, unless the options say less.
  public convenience init(_ model: LoadedModel, _ options: RunnerOptions = .init(), tokens: Int) throws {
    var options = options
    options.contextLength = options.contextLength ?? min(model.contextLength, max(tokens, 1))
    // All rows of a pass have logits: as many rows as fit into a budget.
    options.maxBatchTokens = min(options.maxBatchTokens, Self.rowsOfPass(vocabularySize: model.vocabularySize))
    self.init(runner: try ModelRunner(model, options), vocabularySize: model.vocabularySize)
  }

  /// Scores with any runner.
  public init(runner: any SequenceRunner, vocabularySize: Int) {
    self.runner = runner
    self.vocabularySize = vocabularySize
  }

  /// Bytes of logits in one pass.
  private static let logitsBudget = 64 << 20

  /// The most rows of a pass that all have logits.
  static func rowsOfPass(vocabularySize: Int) -> Int {
    max(1, logitsBudget / (vocabularySize * MemoryLayout<Float>.stride))
  }

  /// - Parameters:
  ///   - top: how many of the most probable tokens to report at each place.
  ///   - stepwise: feeds one token a step, as decoding does, and not as many as fit, as prefill does.
  ///   - onRow: sees the logits `[vocabulary]` after each token, in order.
  /// - Throws: ``GenerationError/emptyPrompt``, `RunnerError.contextOverflow`, and what `onRow` throws.
  public func score(
    _ tokens: [Int32], top: Int = 0, stepwise: Bool = false,
    onRow: (UnsafeBufferPointer<Float>) throws -> Void = { _ in }
  ) throws -> Score {
    if tokens.isEmpty { throw GenerationError.emptyPrompt }
    if tokens.count > runner.contextLength {
      throw RunnerError.contextOverflow(tokens: tokens.count, contextLength: runner.contextLength)
    }
    if let index = tokens.firstIndex(where: { $0 < 0 || $0 >= vocabularySize }) {
      throw GenerationError.tokenOutOfRange(index: index, token: tokens[index], vocabularySize: vocabularySize)
    }
    var score = Score(of: tokens)
    let sequence = try runner.makeSequence()
    defer { runner.release(sequence) }
    let chunk = stepwise ? 1 : runner.maxBatchTokens
    for start in stride(from: 0, to: tokens.count, by: chunk) {
      let part = tokens[start..<min(start + chunk, tokens.count)]
      try runner.forward([.init(sequence, part, logits: .all)]) { logits in
        for row in 0..<logits.rows {
          let values = UnsafeBufferPointer(logits[row])
          try onRow(values)
          score.read(values, after: start + row, top: top)
        }
      }
    }
    return score
  }
}

/// Writes a float32 matrix row by row in NumPy's format.
///
/// Source: NumPy Enhancement Proposal 1, version 1.0.
public final class NPYWriter {
  private let handle: FileHandle
  private let path: String
  private let columns: Int

  /// Creates the file, for `rows` rows of `columns`. Throws if it cannot be written.
  public init(path: String, rows: Int, columns: Int) throws {
    self.path = path
    self.columns = columns
    var header = "{'descr': '<f4', 'fortran_order': False, 'shape': (\(rows), \(columns)), }"
    // Magic, version and length take 10 bytes; all together is a multiple of 64 and ends in a line break.
    let padding = 64 - (10 + header.utf8.count + 1) % 64
    header += String(repeating: " ", count: padding % 64) + "\n"
    let length = UInt16(header.utf8.count)
    let start: [UInt8] = [0x93] + Array("NUMPY".utf8) + [1, 0, UInt8(length & 255), UInt8(length >> 8)]
    guard FileManager.default.createFile(atPath: path, contents: nil), let handle = FileHandle(forWritingAtPath: path)
    else { throw CocoaError(.fileWriteUnknown, userInfo: [NSFilePathErrorKey: path]) }
    self.handle = handle
    try handle.write(contentsOf: start + Array(header.utf8))
  }

  /// Appends a row of `columns` values.
  public func append(_ row: UnsafeBufferPointer<Float>) throws {
    precondition(row.count == columns, "\(row.count) values for \(columns) columns")
    try handle.write(contentsOf: Data(buffer: row))
  }
}
