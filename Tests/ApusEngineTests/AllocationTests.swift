import AllocationCounter
import ApusModels
import Testing

@testable import ApusEngine

/// What the engine's thread allocates. Waking a reader that waits is left out: Swift's runtime takes two pieces of heap for
/// it in libdispatch.
@Suite(.enabled(if: allocations_are_counted(), "only glibc's heap can be counted, and not under a sanitizer"))
struct AllocationTests {
  @Test func theCounterCounts() {
    let before = allocations_of_this_thread()
    let array = [Int](repeating: 0, count: Int.random(in: 100...200))
    #expect(allocations_of_this_thread() > before)
    #expect(array.count >= 100)
  }

  @Test(arguments: [1, 4, 16]) func aWarmDecodeStepAllocatesNothing(streams: Int) async throws {
    try await expectNone(try tinyModel(), streams: streams)
  }

  @Test(.enabled(if: RealModels.hasDefault, "smollm2-135m is not here: apus model pull smollm2-135m"))
  func aWarmDecodeStepOfAQuantisedModelAllocatesNothing() async throws {
    try await expectNone(try RealModels.smollm2(), streams: 4)
  }

  /// Runs some sequences side by side, greedy and sampled, over two and a half blocks, and then counts over as many.
  private func expectNone(_ model: LoadedModel, streams: Int) async throws {
    let runner = try ModelRunner(
      model, RunnerOptions(threads: 2, contextLength: 256, maxSequences: streams, kvPoolBytes: 64 << 20))
    let figures = PublishedStats()
    var time = 0.0
    let scheduler = Scheduler(runner, BatchOptions(maxRunning: streams), figures) {
      time += 1e-3
      return time
    }
    // Random weights over bytes write anything; what is no UTF-8 Swift's String repairs through arrays of its own.
    let isBytes = model.vocabularySize == ByteTokenizer().vocabularySize
    let bias = isBytes ? Dictionary(uniqueKeysWithValues: (Int32(128)..<259).map { ($0, Float(-100)) }) : [:]
    var channels: [EventChannel] = []
    for i in 0..<streams {
      var sampling = [
        SamplingOptions.greedy, SamplingOptions(temperature: 0.8, seed: 1),
        SamplingOptions(topK: 100, topP: 0.9, seed: 2),
        SamplingOptions(topK: 100, repetitionPenalty: 1.1, repetitionWindow: 16, seed: 3),
      ][i % 4]
      sampling.logitBias = bias
      let channel = EventChannel.open()
      channels.append(channel)
      scheduler.submit(
        try EngineSequence(
          id: "\(i)", namespace: BlockName(salt: ""), tokens: (0...Int32(10 + i)).map { $0 % 200 + 30 },
          options: .init(sampling: sampling, maxTokens: 200, ignoreEOS: true), tokenizer: model.tokenizer,
          vocabularySize: model.vocabularySize, channel: channel, submitted: 0))
    }
    let (warmUp, measured) = (40, 40)
    for step in 0..<warmUp + measured {
      let before = allocations_of_this_thread()
      let wentOn = scheduler.step()
      scheduler.publishFigures()
      let allocations = Int(allocations_of_this_thread() - before)
      #expect(wentOn)
      // A string of more than 15 bytes is a piece of heap, and belongs to the reader.
      var longTexts = 0
      for channel in channels {
        while let event = channel.poll() {
          if case .token(let token) = event, token.text.utf8.count > 15 { longTexts += 1 }
        }
      }
      if step >= warmUp { #expect(allocations <= longTexts, "step \(step)") }
    }
    #expect(figures.value.generatedTokens >= streams * (warmUp + measured - 2))
    scheduler.checkInvariants()
  }
}
