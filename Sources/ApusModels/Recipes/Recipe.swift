import ApusCompute
import Foundation

/// How one family of models is composed from the common layers, and what its files call the parameters.
///
/// A recipe is composition only: sizes come from the file, parts from `Layers`, and there is no code that runs.
public protocol Recipe: SendableMetatype {
  /// `general.architecture` in GGUF, `model_type` in a Hugging Face `config.json`.
  static var architecture: String { get }
  static func config(_ m: some ModelMetadata) throws -> any ModelConfig
  /// The file's name of each parameter path, where `{}` stands for the layer number.
  static var names: [String: String] { get }
}

/// The recipes that files are matched with.
public enum Recipes {
  public static let all: [any Recipe.Type] = [Llama.self, Qwen2.self, Gemma3.self, BERT.self]

  public static func named(_ architecture: String) -> (any Recipe.Type)? {
    all.first { $0.architecture == architecture }
  }
}

/// The hyper-parameters that a file carries.
public protocol ModelMetadata {
  /// Throws a typed error that names the file and the key.
  func int(_ key: String) throws -> Int
  func double(_ key: String) throws -> Double
  func string(_ key: String) throws -> String
  func has(_ key: String) -> Bool
  /// True when the file holds the tensor.
  func hasTensor(_ name: String) -> Bool
}

extension ModelMetadata {
  func int(_ key: String, or value: @autoclosure () throws -> Int) throws -> Int {
    has(key) ? try int(key) : try value()
  }

  func double(_ key: String, or value: @autoclosure () throws -> Double) throws -> Double {
    has(key) ? try double(key) : try value()
  }
}

extension Recipe {
  /// The file's name of a parameter, e.g. `layers.3.attention.query.weight` → `blk.3.attn_q.weight`.
  static func fileName(of path: String) -> String? {
    if let name = names[path] { return name }
    let parts = path.split(separator: ".", maxSplits: 2)
    guard parts.count == 3, parts[0] == "layers", Int(parts[1]) != nil,
      let name = names["layers.{}." + parts[2]]
    else { return nil }
    return name.replacingOccurrences(of: "{}", with: parts[1])
  }
}

/// What llama.cpp's converter calls the parameters of decoders.
let decoderNamesInGGUF: [String: String] = [
  "embedding.weight": "token_embd.weight",
  "norm.weight": "output_norm.weight",
  "head.weight": "output.weight",
  "layers.{}.attentionResidual.before.weight": "blk.{}.attn_norm.weight",
  "layers.{}.attentionResidual.after.weight": "blk.{}.post_attention_norm.weight",
  "layers.{}.attention.query.weight": "blk.{}.attn_q.weight",
  "layers.{}.attention.query.bias": "blk.{}.attn_q.bias",
  "layers.{}.attention.key.weight": "blk.{}.attn_k.weight",
  "layers.{}.attention.key.bias": "blk.{}.attn_k.bias",
  "layers.{}.attention.value.weight": "blk.{}.attn_v.weight",
  "layers.{}.attention.value.bias": "blk.{}.attn_v.bias",
  "layers.{}.attention.queryNorm.weight": "blk.{}.attn_q_norm.weight",
  "layers.{}.attention.keyNorm.weight": "blk.{}.attn_k_norm.weight",
  "layers.{}.attention.output.weight": "blk.{}.attn_output.weight",
  "layers.{}.feedForwardResidual.before.weight": "blk.{}.ffn_norm.weight",
  "layers.{}.feedForwardResidual.after.weight": "blk.{}.post_ffw_norm.weight",
  "layers.{}.feedForward.gate.weight": "blk.{}.ffn_gate.weight",
  "layers.{}.feedForward.up.weight": "blk.{}.ffn_up.weight",
  "layers.{}.feedForward.down.weight": "blk.{}.ffn_down.weight",
]
