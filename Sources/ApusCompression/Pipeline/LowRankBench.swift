import ApusModels
import Foundation

/// How a compressed model is executed, beside the original.
public enum ExecutionMode: String, Sendable, Codable, CaseIterable {
  /// The original, all rows at once.
  case dense
  /// The compressed model, all rows at once: every intermediate result is as large as the batch.
  case materialized
  /// The compressed model in pieces of the rows.
  case streamed
  /// The compressed model by the device's operations for low rank.
  case fused

  /// - Parameter piece: rows of a piece when streamed, at least when fused.
  public func execution(piece: Int) -> Execution {
    switch self {
    case .dense, .materialized: .whole
    case .streamed: .streamed(rows: piece)
    case .fused: .fused(rows: max(piece, Execution.standardFusedPiece))
    }
  }
}

/// Time and memory of a model and its compressed form, in turns in one process.
public struct LowRankBench {
  /// Sequences of a pass, and tokens of each.
  public var batch: Int
  public var length: Int
  /// Tokens that a decoder writes after each prefill, one a step; 0 for none.
  public var decoded: Int
  public var rounds: Int
  public var piece: Int
  public var threads: Int?
  /// The last word on a runner's options: who computes.
  public var options: (RunnerOptions) -> RunnerOptions

  public init(
    batch: Int = 32, length: Int = 256, decoded: Int = 32, rounds: Int = 5, piece: Int = Execution.standardPiece,
    threads: Int? = nil, options: @escaping (RunnerOptions) -> RunnerOptions = { $0 }
  ) {
    self.batch = batch
    self.length = length
    self.decoded = decoded
    self.rounds = rounds
    self.piece = piece
    self.threads = threads
    self.options = options
  }

  /// Transient memory in use from a moment on.
  public struct MemoryPoint: Sendable, Codable, Equatable {
    /// From the start of the pass.
    public var seconds: Double
    public var bytes: Int
  }

  public struct Result: Sendable, Codable {
    public var mode: ExecutionMode
    /// Who computed.
    public var device: String
    /// Of a pass over the batch (a decoder's prefill): the median of the rounds.
    public var seconds: Double
    /// What a decoder writes, one sequence; nil for an encoder.
    public var decodedPerSecond: Double?
    public var weights: Int
    public var transientPlan: Int
    public var transientHighWater: Int
    /// Of one pass.
    public var memory: [MemoryPoint]
  }

  /// Runs each mode in turn, after a round to warm up. The original is needed for `dense` only.
  ///
  /// Throws `RunnerError`, e.g. for a length above the model's context.
  public func run(_ modes: [ExecutionMode], small: LoadedModel, original: LoadedModel?) throws -> [Result] {
    let models = try modes.map { mode in
      guard mode == .dense else { return small }
      guard let original else {
        throw CompressionError(
          kind: .missing, what: "mode 'dense'", seen: "no original", expected: "the model that was compressed")
      }
      return original
    }
    var random = SystemRandomNumberGenerator()
    let bound = Int32(models.map(\.vocabularySize).min() ?? 1)
    let sequences = (0..<batch).map { _ in (0..<length).map { _ in Int32.random(in: 0..<bound, using: &random) } }
    let runners = try zip(models, modes).map { model, mode in
      try ModelRunner(
        model,
        options(
          RunnerOptions(
            threads: threads, contextLength: model.isEncoder ? nil : length + decoded, maxSequences: batch,
            maxBatchTokens: batch * length, execution: mode.execution(piece: piece))))
    }
    var seconds = modes.map { _ in [Double]() }
    var rates = modes.map { _ in [Double]() }
    for round in 0...rounds {
      for (i, runner) in runners.enumerated() {
        let (pass, rate) = try time(runner, sequences)
        guard round > 0 else { continue }
        seconds[i].append(pass)
        rates[i].append(rate ?? 0)
      }
    }
    return try modes.indices.map { i in
      let (plan, highWater) = (runners[i].memory.transientPlan, runners[i].memory.transientHighWater)
      return Result(
        mode: modes[i], device: runners[i].deviceName, seconds: Self.median(seconds[i]),
        decodedPerSecond: models[i].isEncoder || decoded == 0 ? nil : Self.median(rates[i]),
        weights: runners[i].memory.weights, transientPlan: plan, transientHighWater: highWater,
        memory: try memory(runners[i], sequences))
    }
  }

  private static func median(_ values: [Double]) -> Double { values.sorted()[values.count / 2] }

  /// Seconds of a pass, and the tokens a second that a decoder writes after it.
  private func time(_ runner: ModelRunner, _ sequences: [[Int32]]) throws -> (Double, Double?) {
    let clock = ContinuousClock()
    if runner.model.isEncoder {
      return (try clock.measure { _ = try runner.embed(sequences) }.seconds, nil)
    }
    let ids = try sequences.map { _ in try runner.makeSequence() }
    defer { for id in ids { runner.release(id) } }
    let inputs = zip(ids, sequences).map { ModelRunner.Input($0, $1) }
    let pass = try clock.measure { try runner.forward(inputs) { _ in } }.seconds
    guard decoded > 0 else { return (pass, nil) }
    let steps = try clock.measure {
      for i in 0..<decoded {
        try runner.forward([ModelRunner.Input(ids[0], [sequences[0][i % length]])]) { _ in }
      }
    }
    return (pass, Double(decoded) / steps.seconds)
  }

  private func memory(_ runner: ModelRunner, _ sequences: [[Int32]]) throws -> [MemoryPoint] {
    let clock = ContinuousClock()
    let start = clock.now
    var points: [MemoryPoint] = []
    try runner.recordingMemory({ bytes in
      points.append(MemoryPoint(seconds: (clock.now - start).seconds, bytes: bytes))
    }) {
      if runner.model.isEncoder {
        _ = try runner.embed(sequences)
      } else {
        let ids = try sequences.map { _ in try runner.makeSequence() }
        defer { for id in ids { runner.release(id) } }
        try runner.forward(zip(ids, sequences).map { ModelRunner.Input($0, $1) }) { _ in }
      }
    }
    return points
  }
}

extension Duration {
  fileprivate var seconds: Double { Double(components.seconds) + Double(components.attoseconds) * 1e-18 }
}
