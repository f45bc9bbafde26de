import ApusCompute
import ApusText

@testable import ApusEngine
@testable import ApusModels

/// Bytes as tokens, with an end (256), a beginning (257) and a control token (258).
struct ByteTokenizer: Tokenizer {
  static let eos: Int32 = 256
  static let bos: Int32 = 257
  static let control: Int32 = 258
  /// Of the ids from 256 on.
  private static let names = (256...258).map { Array("<\($0)>".utf8) }
  let specialTokens: SpecialTokens

  init(hasBOS: Bool = true) {
    var tokens = SpecialTokens()
    tokens.eos = Self.eos
    tokens.bos = hasBOS ? Self.bos : nil
    tokens.endOfGeneration = [Self.eos]
    specialTokens = tokens
  }

  var vocabularySize: Int { 259 }
  func encode(_ text: String, options: EncodingOptions) -> [Int32] { text.utf8.map { Int32($0) } }
  func bytes(of id: Int32) -> [UInt8] { id < 256 ? [UInt8(id)] : Self.names[Int(id) - 256] }
  func appendBytes(of id: Int32, to bytes: inout [UInt8]) {
    if id < 256 { bytes.append(UInt8(id)) } else { bytes += self.bytes(of: id) }
  }
  func kind(of id: Int32) -> TokenKind { id < 256 ? .normal : .control }
  var decodingStyle: DecodingStyle { .plain }
}

/// A runner whose logits are a function of the whole sequence, so that a wrongly kept, cut or shifted past shows; it also
/// checks the contract that a generator must keep.
final class ScriptedRunner: SequenceRunner {
  struct StepFailed: Error {}

  let contextLength: Int
  let maxBatchTokens: Int
  let vocabularySize = 259
  let memory = MemoryReport(weights: 0, persistent: 0, kv: 0, kvPerToken: 0, transientPlan: 0, transientHighWater: 0)
  /// The logits after the given tokens.
  var logits: ([Int32]) -> [Float]
  /// How many tokens each forward took.
  var steps: [Int] = []
  /// Fails this step.
  var failingStep: Int?
  private var sequences: [SequenceID: [Int32]] = [:]
  private var next = 0

  init(contextLength: Int = 64, maxBatchTokens: Int = 8, logits: @escaping ([Int32]) -> [Float]) {
    self.contextLength = contextLength
    self.maxBatchTokens = maxBatchTokens
    self.logits = logits
  }

  /// Writes the answer after any prompt of the given length, then ends.
  static func writing(_ answer: [Int32], afterPromptOf count: Int, contextLength: Int = 64) -> ScriptedRunner {
    ScriptedRunner(contextLength: contextLength) { tokens in
      let index = tokens.count - count
      return oneHot(index < answer.count ? answer[index] : ByteTokenizer.eos)
    }
  }

  /// Pseudo-random logits that depend on every token.
  static func hashing(contextLength: Int = 64, maxBatchTokens: Int = 8) -> ScriptedRunner {
    ScriptedRunner(contextLength: contextLength, maxBatchTokens: maxBatchTokens) { tokens in
      var seed: UInt64 = 14_695_981_039_346_656_037
      for t in tokens { seed = (seed ^ UInt64(bitPattern: Int64(t))) &* 1_099_511_628_211 }
      var random = TestRandom(seed: seed)
      return random.logits(259, spread: 2)
    }
  }

  static func oneHot(_ token: Int32) -> [Float] {
    var row = [Float](repeating: -10, count: 259)
    row[Int(token)] = 10
    return row
  }

  var liveSequences: Int { sequences.count }

  func makeSequence() throws -> SequenceID {
    precondition(sequences.isEmpty, "the generator keeps one sequence")
    next += 1
    let id = SequenceID(index: next)
    sequences[id] = []
    return id
  }

  func release(_ sequence: SequenceID) { precondition(sequences.removeValue(forKey: sequence) != nil) }
  func length(of sequence: SequenceID) -> Int { sequences[sequence]!.count }

  func truncate(_ sequence: SequenceID, to length: Int) {
    precondition(length <= sequences[sequence]!.count)
    sequences[sequence]!.removeLast(sequences[sequence]!.count - length)
  }

  func forward<R>(_ inputs: [ModelRunner.Input], _ body: (Logits) throws -> R) throws -> R {
    precondition(inputs.count == 1 && (1...maxBatchTokens).contains(inputs[0].tokens.count))
    if steps.count == failingStep {
      steps.append(0)
      throw StepFailed()
    }
    steps.append(inputs[0].tokens.count)
    let id = inputs[0].sequence
    var rows: [[Float]] = []
    for token in inputs[0].tokens {
      sequences[id]!.append(token)
      if inputs[0].logits == .all { rows.append(logits(sequences[id]!)) }
    }
    precondition(sequences[id]!.count <= contextLength, "the context overflowed")
    if inputs[0].logits == .last { rows.append(logits(sequences[id]!)) }
    return try body(Logits(tensor: Tensor(rows.count, vocabularySize, rows.flatMap { $0 })))
  }
}
