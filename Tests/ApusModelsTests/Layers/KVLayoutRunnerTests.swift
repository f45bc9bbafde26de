import ApusCompute
import ApusKernels
import Foundation
import Testing

@testable import ApusModels

/// Whole decoders whose layers keep narrow rows.
@Suite struct KVLayoutRunnerTests {
  /// Three layers, the first with a window; keys and values of all are low-rank: the last layer's through one factor.
  private func model(seed: UInt64, contextLength: Int = 256) throws -> LoadedModel {
    var config = tinyDecoder(layers: 3)
    config.contextLength = contextLength
    var windowed = config.layers[0] as! Block
    var attention = windowed.attention as! Attention
    attention.window = 20
    attention.qkv = RoPE(
      QKNorm(LinearQKV(), norm: RMSNorm()), theta: 1e4, pairing: .halfSplit)
    windowed.attention = attention
    config.layers[0] = windowed
    let dense = try randomModel(config, seed: seed)
    var random = SeededNumbers(state: seed &+ 100)
    var shared: DownFactor?
    func factor(_ rows: Int, _ columns: Int) -> StoredWeight {
      let scale = 2 / Float(columns).squareRoot()
      return StoredWeight(Tensor(rows, columns, (0..<rows * columns).map { _ in random.float() * scale }))
    }
    return dense.with(
      parameters: dense.parameters.mapMatrices { spec, weight in
        guard spec.path.contains("attention.key.") || spec.path.contains("attention.value.") else { return weight }
        guard spec.path.hasPrefix("layers.2.") else {
          let rank = spec.path.contains(".key.") ? 10 : 16
          return LowRankWeight(
            down: DownFactor(factor(rank, spec.columns)), up: factor(spec.rows, rank))
        }
        let isFirst = shared == nil
        let down = shared ?? DownFactor(factor(20, spec.columns))
        shared = down
        return LowRankWeight(down: down, up: factor(spec.rows, 20), countsDown: isFirst)
      })
  }

  private static let text: [Int32] = Array("The quick brown fox jumps over the lazy dog, twice.".utf8).map(Int32.init)

  private func logits(_ runner: ModelRunner, _ s: SequenceID, _ ids: [Int32]) throws -> [[Float]] {
    try runner.forward([.init(s, ids, logits: .all)]) { l in (0..<l.rows).map { Array(l[$0]) } }
  }

  private func greedy(_ runner: ModelRunner, _ prompt: [Int32], count: Int) throws -> [Int32] {
    let s = try runner.makeSequence()
    defer { runner.release(s) }
    var next = prompt
    return try (0..<count).map { _ in
      let row = try logits(runner, s, next).last!
      next = [Int32(row.indices.max { (row[$0], $1) < (row[$1], $0) }!)]
      return next[0]
    }
  }

  private func difference(_ a: [[Float]], _ b: [[Float]]) -> Float {
    zip(a, b).map { zip($0, $1).map { abs($0 - $1) }.max() ?? 0 }.max() ?? 0
  }

  @Test func everyLayoutWritesTheSameTokens() throws {
    for seed: UInt64 in [1, 2, 3] {
      let model = try model(seed: seed)
      let answers = try KVLayoutChoice.allCases.map { choice in
        try greedy(
          ModelRunner(model, RunnerOptions(threads: 2, exact: true, kvLayout: choice)), Self.text, count: 128)
      }
      for answer in answers { #expect(answer == answers[0], "seed \(seed)") }
    }
  }

  @Test(arguments: KVLayoutChoice.allCases)
  func aPromptInOnePassInPartsAndTokenByTokenAgree(choice: KVLayoutChoice) throws {
    let model = try model(seed: 4)
    let runner = try ModelRunner(
      model, RunnerOptions(threads: 2, exact: true, maxSequences: 3, kvPoolBytes: 1 << 20, kvLayout: choice))
    let whole = try logits(runner, try runner.makeSequence(), Self.text)
    let chunked = try runner.makeSequence()
    let parts =
      try logits(runner, chunked, Array(Self.text[..<17])) + logits(runner, chunked, Array(Self.text[17...]))
    let stepped = try runner.makeSequence()
    let steps = try Self.text.flatMap { try logits(runner, stepped, [$0]) }
    #expect(difference(whole, parts) < 1e-4)
    #expect(difference(whole, steps) < 1e-4)
  }

  @Test(arguments: KVLayoutChoice.allCases)
  func aSequenceInABatchInAPoolOrAloneIsTheSame(choice: KVLayoutChoice) throws {
    let model = try model(seed: 5)
    let alone = try ModelRunner(model, RunnerOptions(threads: 1, kvLayout: choice))
    let shared = try ModelRunner(
      model, RunnerOptions(threads: 2, maxSequences: 4, kvPoolBytes: 1 << 20, kvLayout: choice))
    let prompts = [Self.text, Array(Self.text[5..<12]), Array(Self.text[20...])]
    let sequences = try prompts.map { _ in try shared.makeSequence() }
    let together = try shared.forward(zip(sequences, prompts).map { .init($0, $1, logits: .all) }) { l in
      (0..<l.rows).map { Array(l[$0]) }
    }
    let single = try prompts.flatMap { prompt in
      let s = try alone.makeSequence()
      defer { alone.release(s) }
      return try logits(alone, s, prompt)
    }
    #expect(difference(together, single) < 1e-5)
    // One that goes on from a part of another's blocks, and from a copy of a part of a block.
    let fork = try shared.makeSequence()
    #expect(shared.paged!.copyPrefix(of: sequences[0], tokens: 41, to: fork))
    shared.adopt(fork, tokens: 41)
    let rest = try logits(shared, fork, Array(Self.text[41...]))
    #expect(difference(rest, Array(together[41..<Self.text.count])) < 1e-5)
    shared.paged!.checkInvariants()
  }

  @Test(arguments: KVLayoutChoice.allCases, [false, true])
  func bytesAreThoseOfTheFormulaAndPlansThoseOfThePass(choice: KVLayoutChoice, exact: Bool) throws {
    let model = try model(seed: 6, contextLength: 4096)
    // Elements a token: 2 key heads of 16; ranks 10 and 16, and 20 shared, in units of 16.
    let expected: [KVLayoutChoice: Int] = [
      .dense: 3 * 64, .rankV: 2 * (32 + 16) + 64, .rankKV: 2 * (16 + 16) + 32, .auto: 64 + (32 + 16) + 64,
    ]
    let size = exact ? 4 : 2
    var kv: [Int] = []
    for context in [1024, 2048] {
      let runner = try ModelRunner(
        model, RunnerOptions(threads: 2, exact: exact, contextLength: context, kvLayout: choice))
      #expect(runner.kvBytesPerToken == expected[choice]! * size)
      let s = try runner.makeSequence()
      var length = 0
      for count in [1, 7, 51, 1, 120, 500, 1, 300] {
        _ = try logits(runner, s, (0..<count).map { Int32(($0 * 31 + length) % 200) })
        length += count
        let memory = runner.memory
        #expect(memory.transientPlan == memory.transientHighWater, "\(count) tokens at \(length - count)")
      }
      kv.append(runner.memory.kv)
    }
    // What the ledger saw grow with the context, not what the layer says of itself.
    #expect(kv[1] - kv[0] == 1024 * expected[choice]! * size)
  }

  @Test func aPoolThatIsTooSmallForWholeRowsTakesNarrowOnes() throws {
    let model = try model(seed: 7)
    let dense = try ModelRunner(model, RunnerOptions(threads: 1)).kvBytesPerToken
    let narrow = try ModelRunner(model, RunnerOptions(threads: 1, kvLayout: .rankKV)).kvBytesPerToken
    #expect(narrow < dense)
    func bytes(_ pool: Int) throws -> Int {
      try ModelRunner(model, RunnerOptions(threads: 1, kvPoolBytes: pool)).kvBytesPerToken
    }
    #expect(try bytes(256 * dense) == dense)
    #expect(try bytes(256 * dense - 16) == narrow)
    #expect(throws: RunnerError.self) { try bytes(256 * narrow - 16) }
  }
}
