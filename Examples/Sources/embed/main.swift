import ApusEngine
import ApusModels

// swift run embed "a swift" "a bird" "a database"
let texts = Array(CommandLine.arguments.dropFirst())
let store = ModelStore()
let model = try await store.pull(store.resolve("minilm-l6")).load()
let vectors = try Embedder(model).embed(texts)
for (text, vector) in zip(texts, vectors) {
  // The vectors have length 1: the dot product is the cosine.
  print(zip(vector, vectors[0]).map { $0 * $1 }.reduce(0, +), text)
}
