import ApusEngine
import ApusText

extension RequestReader {
  /// The sampling options under the names that OpenAI and other servers of open models share; `randomSeed` is used when
  /// there is none.
  func samplingOptions(randomSeed: UInt64) throws -> SamplingOptions {
    var sampling = SamplingOptions()
    sampling.temperature = try number("temperature", 0...2) ?? 1
    sampling.topP = try number("top_p", 0...1) ?? 1
    // OpenAI allows 0, which leaves the most probable token.
    if sampling.topP == 0 { sampling.topP = .leastNonzeroMagnitude }
    sampling.topK = try integer("top_k", 1...Int.max)
    sampling.minP = try number("min_p", 0...1) ?? 0
    sampling.typicalP = try number("typical_p", 1e-6...1) ?? 1
    sampling.presencePenalty = try number("presence_penalty", -2...2) ?? 0
    sampling.frequencyPenalty = try number("frequency_penalty", -2...2) ?? 0
    sampling.repetitionPenalty = try number("repetition_penalty", 0.01...100) ?? 1
    sampling.logitBias = try logitBiases()
    sampling.seed = try integer("seed", Int.min...Int.max).map { UInt64(bitPattern: Int64($0)) } ?? randomSeed
    return sampling
  }

  private func logitBiases() throws -> [Int32: Float] {
    guard let value = value("logit_bias") else { return [:] }
    let map = try RequestReader(value, path: path("logit_bias"))
    var biases: [Int32: Float] = [:]
    for (key, value) in zip(map.fields.keys, map.fields.values) {
      guard case .string(let name) = key, let token = Int32(name), token >= 0 else {
        throw OpenAIError.invalid(map.path, seen: "the key \(key.brief)", expected: "token ids as keys")
      }
      guard let bias = value.number, (-100...100).contains(bias) else {
        throw map.invalid(name, value, expected: "a number from -100 to 100")
      }
      biases[token] = Float(bias)
    }
    return biases
  }

  /// `stop`: a string or an array of them. Four at most at OpenAI; clients of open models send more.
  func stopStrings(atMost limit: Int = 64) throws -> [String] {
    guard let value = value("stop") else { return [] }
    switch value {
    case .string(let text): return [text]
    case .list(let items) where items.count <= limit:
      return try items.enumerated().map { index, item in
        guard case .string(let text) = item else {
          throw OpenAIError.invalid(path("stop.\(index)"), seen: item.brief, expected: "a string")
        }
        return text
      }
    default: throw invalid("stop", value, expected: "a string, or an array of at most \(limit) strings")
    }
  }

  /// `stream_options.include_usage`.
  func includeUsage() throws -> Bool {
    guard let value = value("stream_options") else { return false }
    return try RequestReader(value, path: path("stream_options")).bool("include_usage") ?? false
  }

  /// A field that must be 1 if it is there: this server gives one answer a prompt.
  func requireOne(_ name: String) throws {
    guard let value = value(name) else { return }
    guard value.wholeNumber == 1 else { throw invalid(name, value, expected: "1: one answer a prompt") }
  }
}
