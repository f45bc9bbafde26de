import ApusEngine
import ApusModels

// swift run custom-layer: the same prompt with each feed-forward layer damped a little more.
let store = ModelStore()
let location = try await store.pull(store.resolve("smollm2-135m"))
for factor in [1, 0.9, 0.5] {
  let model = try location.load { config in
    var config = config
    try config.mapSlots((any FeedForwardConfig).self) { Damped($0, by: factor) }
    return config
  }
  let answer = try TextGenerator(model).generate("The capital of France is", .init(maxTokens: 12))
  print("× \(factor):", answer.text)
}
