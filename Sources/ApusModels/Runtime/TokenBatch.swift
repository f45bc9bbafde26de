/// Which rows of a forward pass need logits.
public enum LogitsRequest: Sendable {
  case none
  case last
  case all
}

/// What one forward pass appends to some sequences: their tokens, one sequence after another without padding.
///
/// Filled anew for every pass, it keeps its memory.
///
/// ```swift
/// batch.removeAll()
/// for s in sequences { batch.append(s.id, CollectionOfOne(s.lastToken)) }
/// try runner.forward(batch) { logits in … }
/// ```
public struct TokenBatch: Sendable {
  struct Part: Sendable {
    var sequence: SequenceID
    var count: Int
    var logits: LogitsRequest
  }

  private(set) var parts: [Part] = []
  private(set) var tokens: [Int32] = []

  public init() {}

  /// Tokens of all sequences.
  public var count: Int { tokens.count }

  /// Adds tokens for one sequence, each sequence at most once.
  public mutating func append(_ s: SequenceID, _ tokens: some Sequence<Int32>, logits: LogitsRequest = .last) {
    let before = self.tokens.count
    self.tokens.append(contentsOf: tokens)
    parts.append(Part(sequence: s, count: self.tokens.count - before, logits: logits))
  }

  /// Empties the batch; its memory stays for the next one.
  public mutating func removeAll() {
    parts.removeAll(keepingCapacity: true)
    tokens.removeAll(keepingCapacity: true)
  }
}
