import Foundation

@testable import ApusModels

/// What the files of real models say, for recipes without the files.
struct KnownMetadata: ModelMetadata {
  var values: [String: Any]
  var tensors: Set<String> = []

  private func value<T>(_ key: String) throws -> T {
    guard let value = values[key] as? T else { throw ConfigError(path: key, problem: "not in the metadata") }
    return value
  }

  func int(_ key: String) throws -> Int { try value(key) }
  func double(_ key: String) throws -> Double { try value(key) }
  func string(_ key: String) throws -> String { try value(key) }
  func has(_ key: String) -> Bool { values[key] != nil }
  func hasTensor(_ name: String) -> Bool { tensors.contains(name) }
}

private func decoder(
  _ key: String, layers: Int, dim: Int, heads: Int, kvHeads: Int, hidden: Int, vocabulary: Int, context: Int,
  epsilon: Double, theta: Double, _ more: [String: Any] = [:]
) -> [String: Any] {
  [
    "\(key).block_count": layers, "\(key).embedding_length": dim, "\(key).attention.head_count": heads,
    "\(key).attention.head_count_kv": kvHeads, "\(key).feed_forward_length": hidden,
    "tokenizer.vocabulary": vocabulary, "\(key).context_length": context,
    "\(key).attention.layer_norm_rms_epsilon": epsilon, "\(key).rope.freq_base": theta,
  ].merging(more) { $1 }
}

/// The configs that the recipes make of the models of the store.
func knownConfigs() throws -> [(name: String, config: any ModelConfig)] {
  let bert: [String: Any] = [
    "hidden_act": "gelu", "layer_norm_eps": 1e-12, "num_attention_heads": 12, "hidden_size": 384, "vocab_size": 30522,
    "max_position_embeddings": 512, "type_vocab_size": 2, "intermediate_size": 1536, "num_hidden_layers": 6,
  ]
  return [
    (
      "smollm2-135m",
      try Llama.config(
        KnownMetadata(
          values: decoder(
            "llama", layers: 30, dim: 576, heads: 9, kvHeads: 3, hidden: 1536, vocabulary: 49152, context: 8192,
            epsilon: 1e-5, theta: 100000, ["llama.rope.dimension_count": 64])))
    ),
    (
      "qwen2.5-coder-0.5b",
      try Qwen2.config(
        KnownMetadata(
          values: decoder(
            "qwen2", layers: 24, dim: 896, heads: 14, kvHeads: 2, hidden: 4864, vocabulary: 151936, context: 32768,
            epsilon: 1e-6, theta: 1e6), tensors: ["output.weight"]))
    ),
    (
      "gemma-3-270m",
      try Gemma3.config(
        KnownMetadata(
          values: decoder(
            "gemma3", layers: 18, dim: 640, heads: 4, kvHeads: 1, hidden: 2048, vocabulary: 262144, context: 32768,
            epsilon: 1e-6, theta: 1e6, ["gemma3.attention.key_length": 256, "gemma3.attention.sliding_window": 512])))
    ),
    ("minilm-l6", try BERT.config(KnownMetadata(values: bert))),
  ]
}
