import ApusCompute
import Foundation
import Testing

@testable import ApusCompression
@testable import ApusModels

/// What `svd bench` measures and draws.
@Suite struct LowRankBenchTests {
  @Test(arguments: [true, false])
  func `memory over time is what the plan says, step by step, and ends with nothing in use`(isEncoder: Bool) throws {
    let model = RandomModel.lowRank(
      isEncoder ? try RandomModel.encoder(seed: 1) : try RandomModel.decoder(seed: 1), rank: 7, seed: 2)
    let lengths = [33, 7, 97, 2]
    for execution in [Execution.whole, .streamed(rows: 24)] {
      let runner = try ModelRunner(
        model, RunnerOptions(threads: 1, contextLength: 128, maxSequences: 4, maxBatchTokens: 200, execution: execution)
      )
      var (planned, measured) = ([Int](), [Int]())
      let plan = try runner.plan(lengths) { planned.append($0) }
      let sequences = RandomModel.sequences(lengths, seed: 3)
      try runner.recordingMemory({ measured.append($0) }) {
        if isEncoder {
          _ = try runner.embed(sequences)
        } else {
          try runner.forward(try sequences.map { .init(try runner.makeSequence(), $0) }) { _ in }
        }
      }
      #expect(planned == measured && planned.count > 20)
      #expect(measured.max() == plan && plan == runner.memory.transientHighWater)
      #expect(measured.last == 0)
    }
  }

  @Test func `a page shows every mode with its plan, and nothing that it would have to load`() throws {
    for original in [try RandomModel.encoder(seed: 1), try RandomModel.decoder(seed: 1)] {
      let small = RandomModel.lowRank(original, rank: 7, seed: 2)
      let bench = LowRankBench(batch: 6, length: 40, decoded: 3, rounds: 1, piece: 24, threads: 1)
      let results = try bench.run(ExecutionMode.allCases, small: small, original: original)
      for result in results {
        #expect(result.transientPlan == result.transientHighWater)
        #expect(result.memory.map(\.bytes).max() == result.transientHighWater)
        #expect((result.decodedPerSecond != nil) == !original.isEncoder)
      }
      #expect(results[2].transientHighWater < results[1].transientHighWater)
      let html = MemoryReportPage(model: "<small>", original: "big", bench: bench, results: results).html
      #expect(html.contains("&lt;small&gt;") && !html.contains("<small>"))
      #expect(html.components(separatedBy: "class=\"memory\"").count == results.count + 1)
      #expect(html.components(separatedBy: "stroke-dasharray").count == results.count + 1)
      #expect(results.allSatisfy { html.contains(String(format: "%.3f", Double($0.transientHighWater) / 1e6)) })
      #expect(!html.contains("<script") && !html.contains("src=") && !html.contains("href="))
    }
  }

  @Test func `dense without the original, and lengths above the context, are refused`() throws {
    let model = try RandomModel.encoder(seed: 1)
    #expect(kind { _ = try LowRankBench(batch: 1, length: 8).run([.dense], small: model, original: nil) } == .missing)
    #expect(throws: RunnerError.self) {
      try LowRankBench(batch: 1, length: 1000).run([.streamed], small: model, original: nil)
    }
  }
}
