import ApusEngine
import ApusText

/// An engine whose answers are noted in the record of the request that asked for them.
struct RecordingEngine: TextEngine {
  let engine: any TextEngine
  let recorder: RequestRecorder

  var name: String { engine.name }
  var contextLength: Int { engine.contextLength }
  var tokenizer: any Tokenizer { engine.tokenizer }
  var chatTemplate: ChatTemplate? { engine.chatTemplate }
  var vocabulary: VocabularyTrie { engine.vocabulary }
  var stats: EngineStats { engine.stats }

  func tokens(of prompt: Prompt) throws -> [Int32] { try engine.tokens(of: prompt) }
  func stop() { engine.stop() }
  func limitQueue(to count: Int) { engine.limitQueue(to: count) }

  func answer(_ prompt: Prompt, _ options: GenerationOptions, for origin: RequestOrigin) async throws -> AnswerStream {
    recorder.submit(prompt, for: origin, tokenizer: tokenizer)
    var answer = try await engine.answer(prompt, options, for: origin)
    answer.events = answer.events.observed { [recorder] event in recorder.take(event, of: origin.id) }
    return answer
  }
}

/// An encoder whose inputs are counted in the record of the request that brought them.
struct RecordingEncoder: EmbeddingEngine {
  let encoder: any EmbeddingEngine
  let recorder: RequestRecorder

  var name: String { encoder.name }
  var contextLength: Int { encoder.contextLength }
  var dimensions: Int { encoder.dimensions }
  var weightsDigest: String? { encoder.weightsDigest }
  var tokenizer: any Tokenizer { encoder.tokenizer }

  func stop() { encoder.stop() }

  func embed(_ inputs: [[Int32]]) async throws -> [[Float]] {
    recorder.update { $0.promptTokens += inputs.reduce(0) { $0 + $1.count } }
    return try await encoder.embed(inputs)
  }
}
