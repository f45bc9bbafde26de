import ApusEngine
import ApusModels
import ApusText
import Crypto
import Foundation

/// What Ollama's routes tell of a model.
///
/// Source: Ollama's API documentation (docs/api.md), "List Local Models", "Show Model Information" and "List Running
/// Models".
struct OllamaCard: Sendable {
  var name: String
  /// Tokens.
  var contextLength: Int
  /// Of an encoder's vectors.
  var dimensions: Int?
  /// What the model's files say; nil for an engine that has none.
  var files: ModelDescription?
  /// What a model without files counts as changed.
  var started: Date

  /// The engine's or the encoder's architecture, which names the keys of `model_info`.
  private var architecture: String { files?.architecture ?? "apus" }

  /// The hash of the model's only file. Clients tell models apart by it and show its beginning, so one without has another
  /// that changes when its files do.
  private var digest: String {
    if let hash = files?.sha256 { return hash }
    let parts = [name, "\(contextLength)", files?.path ?? "", "\(files?.size ?? 0)", modified]
    return SHA256.hash(data: Data(parts.joined(separator: "\u{0}").utf8)).hex
  }

  /// When the model was pulled, or its file was written.
  private var modified: String {
    if let pulled = files?.pulledAt { return pulled }
    let attributes = files.flatMap { try? FileManager.default.attributesOfItem(atPath: $0.path) }
    return (attributes?[.modificationDate] as? Date ?? started).rfc3339
  }

  private var details: JinjaValue {
    let family = files?.architecture
    return [
      "parent_model": "", "format": .string(files?.format ?? ""), "family": .string(family ?? ""),
      "families": .list(family.map { [.string($0)] } ?? []),
      "parameter_size": .string(files.map { Self.size(ofParameters: $0.parameters) } ?? ""),
      // The kind that most of the numbers are stored in.
      "quantization_level": .string(files?.kinds.first?.type ?? ""),
    ]
  }

  /// An entry of `/api/tags`.
  var entry: JinjaMapping {
    [
      "name": .string(name), "model": .string(name), "modified_at": .string(modified),
      "size": .integer(files?.size ?? 0), "digest": .string(digest), "details": details,
    ]
  }

  /// An entry of `/api/ps`.
  var runningEntry: JinjaMapping {
    var model = entry
    model["modified_at"] = nil
    model["expires_at"] = .string(Self.never)
    model["size_vram"] = 0
    model["context_length"] = .integer(contextLength)
    return model
  }

  /// When a model that stays loaded expires: the last time that clients can read.
  private static let never = "9999-12-31T23:59:59Z"

  /// The answer of `/api/show`; `template` nil for an encoder or a base model.
  func shown(template: String?, capabilities: [String]) -> JinjaValue {
    // Clients look for the architecture first and then for its context length.
    var info: JinjaMapping = [
      "general.architecture": .string(architecture), "general.basename": .string(name),
      "\(architecture).context_length": .integer(files?.contextLength ?? contextLength),
    ]
    if let files { info["general.parameter_count"] = .integer(files.parameters) }
    if let size = files?.vocabularySize { info["\(architecture).vocab_size"] = .integer(size) }
    if let dimensions { info["\(architecture).embedding_length"] = .integer(dimensions) }
    return [
      "license": .string(files?.licence ?? ""), "modelfile": "", "parameters": "",
      "template": .string(template ?? ""), "details": details, "model_info": .mapping(info),
      "capabilities": .list(capabilities.map { .string($0) }), "modified_at": .string(modified),
    ]
  }

  /// A number of parameters as Ollama writes it: `134.52M`, `1.5B`. Source: ollama/format/format.go, `HumanNumber`.
  static func size(ofParameters count: Int) -> String {
    func text(_ unit: Double, _ digits: Int, _ suffix: String) -> String {
      let number = Double(count) / unit
      return String(format: "%.\(number == number.rounded(.down) ? 0 : digits)f", number) + suffix
    }
    switch count {
    case 1_000_000_000...: return text(1e9, 1, "B")
    case 1_000_000...: return text(1e6, 2, "M")
    case 1_000...: return text(1e3, 0, "K")
    default: return "\(count)"
    }
  }
}
