import ApusModels

/// What a generator asks of the thing that executes a model: ``ModelRunner``, or a script in a test.
///
/// One call at a time, from one thread.
public protocol SequenceRunner: AnyObject {
  /// The most tokens that a sequence may hold.
  var contextLength: Int { get }
  /// The most tokens that one `forward` takes.
  var maxBatchTokens: Int { get }
  func makeSequence() throws -> SequenceID
  func release(_ sequence: SequenceID)
  func length(of sequence: SequenceID) -> Int
  func truncate(_ sequence: SequenceID, to length: Int)
  /// Appends the inputs' tokens to their sequences and gives `body` the logits that they ask for, in input order.
  func forward<R>(_ inputs: [ModelRunner.Input], _ body: (Logits) throws -> R) throws -> R
  /// What it takes and has taken.
  var memory: MemoryReport { get }
}

extension ModelRunner: SequenceRunner {
  public var maxBatchTokens: Int { options.maxBatchTokens }
}
