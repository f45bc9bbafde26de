#if canImport(FoundationEssentials)
  import FoundationEssentials
#else
  import Foundation
#endif

/// What a model's files say about it.
public struct ModelDescription: Codable, Sendable, Equatable {
  /// The share of one storage kind.
  public struct Kind: Codable, Sendable, Equatable {
    /// The field's spelling, e.g. `Q4_K`.
    public var type: String
    public var tensors: Int
    public var parameters: Int
    /// Nil when Apus doesn't know the type's size.
    public var bytes: Int?
  }

  public var name: String
  public var path: String
  /// `gguf` or `safetensors`.
  public var format: String
  public var architecture: String?
  /// Numbers in all tensors.
  public var parameters: Int
  /// By parameters, largest first.
  public var kinds: [Kind]
  /// Tokens.
  public var contextLength: Int?
  /// Tokens.
  public var vocabularySize: Int?
  public var hasChatTemplate: Bool
  public var licence: String?
  /// Bytes of all files.
  public var size: Int
  /// Of a model of one file, as recorded by the store; nil for a model used in place.
  public var sha256: String?
  public var source: String?
  public var pulledAt: String?
  /// True when the hashes were known before the pull.
  public var isVerified: Bool
  /// The first tensor type that Apus doesn't read, if any.
  public var unsupported: String?
}

extension ModelStore {
  /// Reads the headers of the model's files. Weights aren't touched.
  ///
  /// Throws `ModelFileError` when a file is broken or is neither GGUF nor safetensors.
  public func describe(_ location: ModelLocation) throws(ModelFileError) -> ModelDescription {
    var result =
      if location.isFolder {
        try Self.describeFolder(location.path)
      } else if location.path.hasSuffix(".safetensors") {
        try Self.describe(SafetensorsFile(path: location.path))
      } else {
        try Self.describe(GGUFFile(path: location.path))
      }
    result.name = location.name
    result.path = location.path
    if let manifest = location.manifest {
      result.licence = manifest.licence ?? result.licence
      result.size = manifest.size
      result.sha256 = manifest.files.count == 1 ? manifest.files[0].sha256 : nil
      result.source = manifest.source
      result.pulledAt = manifest.pulledAt
      result.isVerified = manifest.isVerified
    }
    return result
  }

  private static func empty(_ format: String, size: Int) -> ModelDescription {
    ModelDescription(
      name: "", path: "", format: format, architecture: nil, parameters: 0, kinds: [], contextLength: nil,
      vocabularySize: nil, hasChatTemplate: false, licence: nil, size: size, sha256: nil, source: nil, pulledAt: nil,
      isVerified: false, unsupported: nil)
  }

  private static func histogram(_ tensors: [(type: String, parameters: Int, bytes: Int?)]) -> [ModelDescription.Kind] {
    var kinds: [String: ModelDescription.Kind] = [:]
    for (type, parameters, bytes) in tensors {
      var kind = kinds[type] ?? .init(type: type, tensors: 0, parameters: 0, bytes: 0)
      kind.tensors += 1
      // Tensors don't overlap, so bytes can't overflow; the shapes of types of unknown size may be anything.
      kind.parameters = kind.parameters.addingReportingOverflow(parameters).partialValue
      kind.bytes = kind.bytes.flatMap { sum in bytes.map { sum + $0 } }
      kinds[type] = kind
    }
    return kinds.values.sorted { ($1.parameters, $0.type) < ($0.parameters, $1.type) }
  }

  private static func describe(_ file: GGUFFile) -> ModelDescription {
    var result = empty("gguf", size: file.file.size)
    result.architecture = try? file.string("general.architecture")
    result.kinds = histogram(file.tensors.map { ($0.typeName, $0.elementCount, $0.byteCount) })
    result.parameters = result.kinds.reduce(0) { $0.addingReportingOverflow($1.parameters).partialValue }
    result.contextLength = result.architecture.flatMap { try? file.int("\($0).context_length") }
    result.vocabularySize = (try? file.stringArray("tokenizer.ggml.tokens"))?.count
    result.hasChatTemplate = file.hasKey("tokenizer.chat_template")
    result.licence = try? file.string("general.license")
    do {
      try file.validate()
    } catch {
      result.unsupported = error.description
    }
    return result
  }

  private static func describe(_ file: SafetensorsFile) -> ModelDescription {
    var result = empty("safetensors", size: file.file.size)
    result.kinds = histogram(file.tensors.map { ($0.typeName, $0.shape.reduce(1, *), $0.range.count) })
    result.parameters = result.kinds.reduce(0) { $0 + $1.parameters }
    return result
  }

  private struct Configuration: Decodable {
    var model_type: String?
    var max_position_embeddings: Int?
    var vocab_size: Int?
  }

  private static func describeFolder(_ path: String) throws(ModelFileError) -> ModelDescription {
    let model = try SafetensorsModel(directory: path)
    var result = empty("safetensors", size: model.shards.reduce(0) { $0 + $1.file.size })
    result.kinds = histogram(
      model.shards.flatMap { $0.tensors }.map { ($0.typeName, $0.shape.reduce(1, *), $0.range.count) })
    result.parameters = result.kinds.reduce(0) { $0 + $1.parameters }
    func json<T: Decodable>(_ name: String, _: T.Type) -> T? {
      (try? FileSystem.read(path + "/" + name)).flatMap { try? JSONDecoder().decode(T.self, from: $0) }
    }
    if let configuration = json("config.json", Configuration.self) {
      result.architecture = configuration.model_type
      result.contextLength = configuration.max_position_embeddings
      result.vocabularySize = configuration.vocab_size
    }
    struct Tokenizer: Decodable {
      struct Anything: Decodable { init(from _: any Decoder) {} }
      var chat_template: Anything?
    }
    result.hasChatTemplate =
      json("tokenizer_config.json", Tokenizer.self)?.chat_template != nil
      || FileSystem.status(path + "/chat_template.jinja") != nil
    return result
  }
}
