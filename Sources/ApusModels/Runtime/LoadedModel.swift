import ApusCompute
import ApusKernels
import ApusText
import Foundation

/// A model on disk, mapped and composed: config, modules, weights where they lie in the file, tokenizer. Immutable; any
/// number of runners may execute it.
public final class LoadedModel: Sendable {
  public let name: String
  /// The recipe's name, e.g. `llama`.
  public let architecture: String
  public let config: any ModelConfig
  public let module: any Model
  public let parameters: Parameters
  public let tokenizer: any Tokenizer
  public let chatTemplate: ChatTemplate?
  /// Bytes of the model's files.
  public let fileBytes: Int
  /// What its file says that layers should keep of past tokens.
  public let kvLayout: KVLayoutChoice

  public var contextLength: Int { config.contextLength }
  public var vocabularySize: Int { config.vocabulary }
  public var isEncoder: Bool { config is TextEncoder }

  /// A model of given parts: for configs that didn't come from a file.
  public init(
    name: String, architecture: String, config: any ModelConfig, tokenizer: any Tokenizer,
    chatTemplate: ChatTemplate? = nil, fileBytes: Int = 0, kvLayout: KVLayoutChoice = .auto,
    parameters: ([ParameterSpec]) throws -> Parameters
  ) throws {
    try config.validate()
    let builder = Builder()
    module = try config.make(builder)
    self.name = name
    self.architecture = architecture
    self.config = config
    self.parameters = try parameters(builder.table.specs)
    self.tokenizer = tokenizer
    self.chatTemplate = chatTemplate
    self.fileBytes = fileBytes
    self.kvLayout = kvLayout
  }

  private init(_ other: LoadedModel, parameters: Parameters) {
    name = other.name
    architecture = other.architecture
    config = other.config
    module = other.module
    self.parameters = parameters
    tokenizer = other.tokenizer
    chatTemplate = other.chatTemplate
    fileBytes = other.fileBytes
    kvLayout = other.kvLayout
  }

  /// The same model with other parameters of the same shapes.
  public func with(parameters: Parameters) -> LoadedModel { LoadedModel(self, parameters: parameters) }

  /// Opens a `.gguf` file, or a folder with `config.json`, safetensors and `tokenizer.json`.
  /// - Parameters:
  ///   - name: for people; the file's name unless told.
  ///   - modify: changes the recipe's config before the model is made.
  /// - Throws: `ModelFileError`, `ConfigError` or `TokenizerError`, naming file, key or tensor.
  public static func load(
    _ url: URL, name: String? = nil, modify: (any ModelConfig) throws -> any ModelConfig = { $0 }
  ) throws -> LoadedModel {
    var isDirectory: ObjCBool = false
    let exists = FileManager.default.fileExists(atPath: url.path, isDirectory: &isDirectory)
    let name = name ?? url.deletingPathExtension().lastPathComponent
    return exists && isDirectory.boolValue ? try loadFolder(url, name, modify) : try loadGGUF(url, name, modify)
  }

  private static func loadGGUF(
    _ url: URL, _ name: String, _ modify: (any ModelConfig) throws -> any ModelConfig
  ) throws -> LoadedModel {
    let file = try GGUFFile(path: url.path)
    let architecture = try file.string("general.architecture")
    let recipe = try recipe(architecture, path: url.path, what: "key 'general.architecture'")
    let fields = try file.tokenizerFields()
    return try LoadedModel(
      name: name, architecture: architecture, config: try modify(try recipe.config(GGUFMetadata(file: file))),
      tokenizer: try TokenizerSpec(gguf: GGUFTokenizerMetadata(fields)).makeTokenizer(),
      chatTemplate: try fields.chatTemplate.map { try ChatTemplate($0) }, fileBytes: file.file.size,
      kvLayout: try kvLayout(file.hasKey(kvLayoutKey) ? try file.string(kvLayoutKey) : nil, path: url.path),
      parameters: { try parameters($0, recipe, file, path: url.path) })
  }

  private static func loadFolder(
    _ url: URL, _ name: String, _ modify: (any ModelConfig) throws -> any ModelConfig
  ) throws -> LoadedModel {
    let metadata = try FolderMetadata(url)
    let architecture = try metadata.string("model_type")
    let recipe = try recipe(architecture, path: metadata.path, what: "key 'model_type'")
    let source = try SafetensorsModel(directory: url.path)
    let tokenizerFile = try MappedFile(path: url.appending(path: "tokenizer.json").path)
    let tokenizerConfig = try? MappedFile(path: url.appending(path: "tokenizer_config.json").path)
    return try LoadedModel(
      name: name, architecture: architecture, config: try modify(try recipe.config(metadata)),
      tokenizer: try TokenizerSpec(json: Array(tokenizerFile.bytes), config: tokenizerConfig.map { Array($0.bytes) })
        .makeTokenizer(),
      fileBytes: source.shards.reduce(0) { $0 + $1.file.size },
      kvLayout: try kvLayout(source.shards.lazy.compactMap { $0.metadata[kvLayoutKey] }.first, path: url.path),
      parameters: { try parameters($0, recipe, source, path: url.path) })
  }

  /// In a GGUF file's metadata, or a safetensors file's: the name of a `KVLayoutChoice`.
  public static let kvLayoutKey = "apus.kv.layout"

  private static func kvLayout(_ text: String?, path: String) throws -> KVLayoutChoice {
    guard let text else { return .auto }
    guard let choice = KVLayoutChoice(rawValue: text) else {
      throw ModelFileError(
        kind: .unsupported, path: path, what: "key '\(kvLayoutKey)'",
        seen: "'\(ModelFileError.printable(text))'",
        expected: "one of " + KVLayoutChoice.allCases.map(\.rawValue).joined(separator: ", "))
    }
    return choice
  }

  private static func recipe(_ architecture: String, path: String, what: String) throws -> any Recipe.Type {
    guard let recipe = Recipes.named(architecture) else {
      throw ModelFileError(
        kind: .unsupported, path: path, what: what, seen: "'\(architecture)'",
        expected: "one of " + Recipes.all.map { $0.architecture }.joined(separator: ", "))
    }
    return recipe
  }

  /// Finds every parameter in the file, checks its shape, and that no tensor of the file is left over: a tensor that the
  /// recipe doesn't know means the model isn't what the recipe computes.
  private static func parameters(
    _ specs: [ParameterSpec], _ recipe: any Recipe.Type, _ source: some TensorSource, path: String
  ) throws -> Parameters {
    var used: Set<String> = []
    var factors = LowRankFactorTensors(source, path: path)
    func find(_ spec: ParameterSpec) throws -> Tensor? {
      guard let fileName = recipe.fileName(of: spec.path) else {
        throw ModelFileError(
          kind: .missing, path: path, what: "parameter '\(spec.path)'",
          seen: "no name in the \(recipe.architecture) recipe",
          expected: "a part that this file has weights for")
      }
      // Some exporters put the encoder under its architecture's name.
      let candidates = [fileName, recipe.architecture + "." + fileName]
      guard let name = candidates.first(where: source.contains) else {
        if spec.isOptional { return nil }
        _ = try source.tensor(fileName)  // throws `missing`, naming the tensor
        return nil
      }
      used.insert(name)
      let raw = try source.tensor(name)
      let expected = spec.isVector ? [spec.columns] : [spec.rows, spec.columns]
      guard raw.shape == expected else {
        throw ModelFileError(
          kind: .malformed, path: path, what: "tensor '\(name)'", seen: "shape \(raw.shape)", expected: "\(expected)")
      }
      return Tensor(raw)
    }
    let parameters = try Parameters(
      specs,
      matrix: { spec in
        if let weight = try factors.weight(spec) { return weight }
        return try find(spec).map { StoredWeight($0) }
      },
      vector: { spec in
        guard let t = try find(spec) else { return nil }
        return t.dtype == .f32 ? t : Tensor(1, t.columns, t.floatArray())
      })
    let ignored = ["position_ids", "pooler.dense.weight", "pooler.dense.bias"]
    if let extra = source.tensorNames.first(where: { name in
      !used.contains(name) && !factors.used.contains(name) && !ignored.contains { name.hasSuffix($0) }
    }) {
      throw ModelFileError(
        kind: .unsupported, path: path, what: "tensor '\(extra)'",
        seen: "a tensor that the \(recipe.architecture) recipe doesn't use",
        expected: "only tensors of the architecture")
    }
    return parameters
  }
}

extension Tensor {
  /// The elements where they lie in the mapped file.
  package init(_ raw: RawTensor) {
    let rows = raw.shape.count > 1 ? raw.shape.dropLast().reduce(1, *) : 1
    self.init(
      dtype: raw.dtype, rows: rows, columns: raw.shape.last ?? 1,
      base: UnsafeMutableRawPointer(mutating: raw.bytes.baseAddress!),
      storage: MappedStorage(raw.owner))
  }
}

/// Keeps a mapped file for the tensors in it.
private final class MappedStorage: Storage, @unchecked Sendable {
  // Sendable holds: `file` is an immutable, Sendable reference.
  private let file: MappedFile

  init(_ file: MappedFile) {
    self.file = file
    super.init(base: UnsafeMutableRawPointer(mutating: file.bytes.baseAddress!), byteCount: file.size)
  }
}

extension GGUFTokenizerMetadata {
  init(_ f: GGUFTokenizerFields) {
    self.init(model: f.model, tokens: ByteStrings(f.tokens))
    pre = f.pre
    scores = f.scores
    tokenTypes = f.types
    merges = f.merges.map(ByteStrings.init)
    func id(_ name: String) -> Int32? { f.specialTokens[name].map(Int32.init) }
    bosID = id("bos")
    eosID = id("eos")
    eotID = id("eot")
    eomID = id("eom")
    unknownID = id("unknown")
    paddingID = id("padding")
    separatorID = id("seperator") ?? id("separator")  // llama.cpp's key has the typo
    clsID = id("cls")
    addBOS = f.addBOS
    addEOS = f.addEOS
    addSpacePrefix = f.addSpacePrefix
    chatTemplate = f.chatTemplate
  }
}

extension ByteStrings {
  init(_ strings: GGUFStringArray) {
    self.init()
    reserveCapacity(count: strings.count, bytes: strings.count * 8)
    for string in strings { append(string) }
  }
}

/// GGUF's keys as recipes read them.
private struct GGUFMetadata: ModelMetadata {
  let file: GGUFFile

  func int(_ key: String) throws -> Int {
    key == "tokenizer.vocabulary" ? try file.stringArray("tokenizer.ggml.tokens").count : try file.int(key)
  }
  func double(_ key: String) throws -> Double { try file.float(key) }
  func string(_ key: String) throws -> String { try file.string(key) }
  func has(_ key: String) -> Bool { file.hasKey(key) }
  func hasTensor(_ name: String) -> Bool { file.contains(name) }
}

/// `config.json` of a Hugging Face folder, and what sentence-transformers adds about pooling.
private struct FolderMetadata: ModelMetadata {
  let path: String
  private var values: [String: Any] = [:]

  init(_ folder: URL) throws {
    path = folder.appending(path: "config.json").path
    for file in ["config.json", "1_Pooling/config.json"] {
      let url = folder.appending(path: file)
      guard let mapped = try? MappedFile(path: url.path) else {
        if file == "config.json" { _ = try MappedFile(path: url.path) }
        continue
      }
      guard let object = try? JSONSerialization.jsonObject(with: Data(mapped.bytes)) as? [String: Any] else {
        throw ModelFileError(
          kind: .malformed, path: url.path, what: "the file", seen: "something that is not a JSON object",
          expected: "a JSON object")
      }
      for (key, value) in object where !(value is Bool && (value as? Bool) == false) { values[key] = value }
    }
  }

  private func missing(_ key: String, _ expected: String) -> ModelFileError {
    ModelFileError(
      kind: values[key] == nil ? .missing : .wrongType, path: path, what: "key '\(key)'",
      seen: values[key].map { "\($0)" } ?? "nothing", expected: expected)
  }

  func int(_ key: String) throws -> Int {
    guard let value = values[key] as? Int else { throw missing(key, "an integer") }
    return value
  }

  func double(_ key: String) throws -> Double {
    guard let value = values[key] as? Double else { throw missing(key, "a number") }
    return value
  }

  func string(_ key: String) throws -> String {
    guard let value = values[key] as? String else { throw missing(key, "a string") }
    return value
  }

  func has(_ key: String) -> Bool { values[key] != nil }
  func hasTensor(_ name: String) -> Bool { false }
}
