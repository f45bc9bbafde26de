import ApusCompute
import ApusModels
import ApusText
import Foundation

// Enables each feature in N variants of the real recipes and runs every one of them: a feature counts as enabled only
// when the changed model computes finite numbers that differ from the unchanged model's. Prints JSON for run.py.

/// The hyper-parameters of an invented model file, small enough to run a hundred of.
struct Variant: ModelMetadata {
  let recipe: any Recipe.Type
  let layers: Int
  let tied: Bool
  private var numbers: [String: Double] = [:]
  private var words: [String: String] = [:]

  /// Variant `index`: the recipes take turns; depth, heads, sharing of key heads, widths and tying vary.
  init(_ index: Int) {
    recipe = Recipes.all[index % Recipes.all.count]
    let turn = index / Recipes.all.count
    layers = 2 + turn % 3
    tied = turn % 2 == 0
    let heads = [2, 4, 8][turn % 3]
    let kvHeads = [heads, 1, heads / 2][turn % 3]
    let headDim = 16 * (1 + turn % 2)
    let hidden = Double(32 * (1 + turn % 5))
    let key = recipe.architecture
    words["hidden_act"] = "gelu"
    numbers = [
      "tokenizer.vocabulary": 64, "\(key).embedding_length": Double(heads * headDim),
      "\(key).attention.head_count": Double(heads), "\(key).attention.head_count_kv": Double(kvHeads),
      "\(key).attention.key_length": Double(headDim), "\(key).attention.layer_norm_rms_epsilon": 1e-6,
      "\(key).attention.sliding_window": 4, "\(key).block_count": Double(layers), "\(key).context_length": 64,
      "\(key).feed_forward_length": hidden, "\(key).rope.dimension_count": Double(headDim),
      "hidden_size": Double(heads * headDim), "vocab_size": 64, "max_position_embeddings": 64, "type_vocab_size": 2,
      "layer_norm_eps": 1e-12, "num_attention_heads": Double(heads), "intermediate_size": hidden,
      "num_hidden_layers": Double(layers),
    ]
  }

  func double(_ key: String) throws -> Double {
    guard let value = numbers[key] else { throw ConfigError(path: key, problem: "the variant has no such key") }
    return value
  }
  func int(_ key: String) throws -> Int { Int(try double(key)) }
  func string(_ key: String) throws -> String { words[key] ?? "" }
  func has(_ key: String) -> Bool { numbers[key] != nil }
  func hasTensor(_ name: String) -> Bool { name == "output.weight" && !tied }
}

/// A seeded generator of weights (SplitMix64, Steele et al. 2014).
struct Weights {
  var state: UInt64

  mutating func next() -> Float {
    state &+= 0x9E37_79B9_7F4A_7C15
    var z = state
    z = (z ^ (z >> 30)) &* 0xBF58_476D_1CE4_E5B9
    z = (z ^ (z >> 27)) &* 0x94D0_49BB_1331_11EB
    return Float((z ^ (z >> 31)) >> 40) / Float(1 << 24) - 0.5
  }

  /// Small enough that activations stay of order 1.
  mutating func matrix(_ rows: Int, _ columns: Int) -> Tensor {
    let scale = 3 / Float(columns).squareRoot()
    return Tensor(rows, columns, (0..<rows * columns).map { _ in next() * scale })
  }
}

/// What the model of a config gives for eight tokens, with weights that depend only on their names.
func output(_ config: any ModelConfig) throws -> [Float] {
  var vocabulary = GGUFTokenizerMetadata(model: "bert", tokens: ByteStrings((0..<64).map { "t\($0)" }))
  vocabulary.unknownID = 0
  let model = try LoadedModel(
    name: "variant", architecture: "composed", config: config,
    tokenizer: TokenizerSpec(gguf: vocabulary).makeTokenizer(),
    parameters: { specs in
      func seeded(_ path: String) -> Weights { Weights(state: path.utf8.reduce(5381) { $0 &* 33 &+ UInt64($1) }) }
      return try Parameters(
        specs,
        matrix: { spec in
          var weights = seeded(spec.path)
          return StoredWeight(weights.matrix(spec.rows, spec.columns))
        },
        vector: { spec in
          var weights = seeded(spec.path)
          return Tensor(1, spec.columns, (0..<spec.columns).map { _ in 1 + weights.next() / 4 })
        })
    })
  let runner = try ModelRunner(model, RunnerOptions(threads: 1, exact: true, contextLength: 32))
  let ids: [Int32] = [7, 3, 60, 22, 22, 1, 45, 9]
  if model.isEncoder { return try runner.embed([ids])[0] }
  let sequence = try runner.makeSequence()
  return try runner.forward([.init(sequence, ids)]) { Array($0[0]) }
}

struct Feature {
  let name: String
  let enable: (inout any ModelConfig) throws -> Int
  /// The slots that a variant must have changed.
  let expected: (any ModelConfig) -> Int
}

/// How often a golden text names a node type.
func occurrences(of type: String, in config: any ModelConfig) -> Int {
  config.flattened().filter { $0.value == type }.count
}

let norms = ["RMSNorm", "LayerNorm"]
let features = [
  Feature(name: "ALiBi", enable: { try $0.enableALiBi() }, expected: { $0.layers.count }),
  Feature(
    name: "PlainLayerNorm", enable: { try $0.enablePlainLayerNorm() },
    expected: { config in norms.reduce(0) { $0 + occurrences(of: $1, in: config) } }),
  Feature(
    name: "MixtureOfExperts", enable: { try $0.enableMixtureOfExperts(4) }, expected: { $0.layers.count }),
]

struct Result: Encodable {
  var feature: String
  var variants: Int
  var enabled: Int
  var slots: Int
}

let counts = CommandLine.arguments.dropFirst().compactMap { Int($0) }
var results: [Result] = []
for count in counts.isEmpty ? [4, 10, 50, 100] : counts {
  for feature in features {
    var result = Result(feature: feature.name, variants: count, enabled: 0, slots: 0)
    for index in 0..<count {
      let variant = Variant(index)
      let before = try variant.recipe.config(variant)
      var after = before
      let changed = try feature.enable(&after)
      let old = try output(before)
      let new = try output(after)
      let expected = feature.expected(before)
      guard changed == expected, new.allSatisfy(\.isFinite), new != old else {
        let seen = "\(changed) slots changed of \(expected), output differs: \(new != old)"
        FileHandle.standardError.write(Data("\(feature.name), variant \(index): \(seen)\n".utf8))
        continue
      }
      result.enabled += 1
      result.slots += changed
    }
    results.append(result)
  }
}
let encoder = JSONEncoder()
encoder.outputFormatting = [.prettyPrinted, .sortedKeys]
print(String(decoding: try encoder.encode(results), as: UTF8.self))
