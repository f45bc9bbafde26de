import ApusEngine
import ApusModels

// swift run generate "The capital of France is"
let prompt = CommandLine.arguments.dropFirst().joined(separator: " ")
let store = ModelStore()
let model = try await store.pull(store.resolve("smollm2-135m")).load()
let answer = try TextGenerator(model).generate(prompt, .init(sampling: .greedy, maxTokens: 32)) { event in
  if case .token(let token) = event { print(token.text, terminator: "") }
}
print(answer.tail, "\n\(answer.timings.decodeTokensPerSecond) tokens per second")
