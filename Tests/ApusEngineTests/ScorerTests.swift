import ApusModels
import Foundation
import Testing

@testable import ApusEngine

@Suite struct ScorerTests {
  private let tokens: [Int32] = [5, 9, 200, 3, 77, 77, 1, 0, 256, 30]

  /// The log-probabilities by definition, one prefix at a time.
  private func expected(_ runner: ScriptedRunner) -> [Double] {
    (1..<tokens.count).map { i in
      log(SlowSampling.softmax(runner.logits(Array(tokens[..<i])).map(Double.init))[Int(tokens[i])])
    }
  }

  @Test(arguments: [true, false])
  func everyTokenButTheFirstHasItsLogProbability(stepwise: Bool) throws {
    let runner = ScriptedRunner.hashing(maxBatchTokens: 4)
    var rows = 0
    let score = try Scorer(runner: runner, vocabularySize: 259).score(tokens, top: 3, stepwise: stepwise) { row in
      #expect(row.count == 259)
      rows += 1
    }
    #expect(rows == tokens.count)
    #expect(runner.steps == (stepwise ? Array(repeating: 1, count: 10) : [4, 4, 2]))
    #expect(score.logProbabilities[0] == nil && score.top[0].isEmpty)
    let exact = expected(runner)
    for (seen, wanted) in zip(score.logProbabilities.dropFirst(), exact) {
      #expect(abs(Double(seen!) - wanted) < 1e-5)
    }
    #expect(score.top.dropFirst().allSatisfy { $0.count == 3 })
    let mean = exact.reduce(0, +) / Double(exact.count)
    #expect(abs(score.perplexity! - exp(-mean)) < 1e-4 * exp(-mean))
    #expect(runner.liveSequences == 0)
  }

  @Test func impossibleInputsAreTyped() throws {
    let scorer = Scorer(runner: ScriptedRunner.hashing(contextLength: 8), vocabularySize: 259)
    #expect(throws: GenerationError.emptyPrompt) { try scorer.score([]) }
    #expect(throws: RunnerError.contextOverflow(tokens: 10, contextLength: 8)) { try scorer.score(tokens) }
    #expect(throws: GenerationError.tokenOutOfRange(index: 0, token: -1, vocabularySize: 259)) {
      try scorer.score([-1])
    }
    #expect(try scorer.score([3]).perplexity == nil)
  }

  @Test func numPyFilesHaveTheirHeaderAndRows() throws {
    let path = NSTemporaryDirectory() + "apus-\(UUID().uuidString).npy"
    defer { try? FileManager.default.removeItem(atPath: path) }
    let writer = try NPYWriter(path: path, rows: 2, columns: 3)
    for row in [[1, 2, 3], [4, 5, 6]] as [[Float]] { try row.withUnsafeBufferPointer { try writer.append($0) } }
    let data = [UInt8](try Data(contentsOf: URL(fileURLWithPath: path)))
    #expect(data.prefix(8) == [0x93, 78, 85, 77, 80, 89, 1, 0])
    let length = Int(data[8]) + 256 * Int(data[9])
    #expect((10 + length) % 64 == 0)
    let header = String(decoding: data[10..<10 + length], as: UTF8.self)
    #expect(header.hasPrefix("{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }") && header.hasSuffix("\n"))
    let values = data[(10 + length)...].withUnsafeBytes { bytes in
      (0..<6).map { bytes.loadUnaligned(fromByteOffset: 4 * $0, as: Float.self) }
    }
    #expect(values == [1, 2, 3, 4, 5, 6])
    #expect(throws: (any Error).self) { try NPYWriter(path: "/no/such/folder/x.npy", rows: 1, columns: 1) }
  }
}
