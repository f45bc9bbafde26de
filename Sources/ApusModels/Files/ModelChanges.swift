import Foundation

/// What a new model file has in place of some of a model's tensors.
public struct ModelChanges: Sendable {
  /// Under the names that they get: those of `LowRankNames`.
  public var factors: [NewTensor] = []
  /// Paths of the matrices that are left out.
  public var replaced: Set<String> = []
  /// New numbers of vectors, and of matrices that are whole again, by path.
  public var vectors: [String: [Float]] = [:]
  public var matrices: [String: NewTensor] = [:]

  public init() {}
}

extension LoadedModel {
  /// Writes the model at `source` with `changes`: a GGUF file as a GGUF file, a folder as a folder with all its other
  /// files. `metadata` says where it comes from.
  ///
  /// Throws `ModelFileError`.
  public static func rewrite(
    _ source: URL, _ changes: ModelChanges, metadata: [(key: String, value: String)], to target: URL
  ) throws {
    var isDirectory: ObjCBool = false
    _ = FileManager.default.fileExists(atPath: source.path, isDirectory: &isDirectory)
    if isDirectory.boolValue {
      try rewriteFolder(source, changes, metadata, to: target)
    } else {
      let file = try GGUFFile(path: source.path)
      let tensors = try tensors(of: file, architecture: try file.string("general.architecture"), changes)
      try ModelFileWriter.gguf(like: file, tensors, metadata: metadata, to: target.path)
    }
  }

  /// What `rewrite` noted in a model's file under `key`; nil when it has no such note. Throws `ModelFileError`.
  public static func note(_ key: String, of model: URL) throws -> String? {
    var isDirectory: ObjCBool = false
    _ = FileManager.default.fileExists(atPath: model.path, isDirectory: &isDirectory)
    if isDirectory.boolValue {
      return try SafetensorsModel(directory: model.path).shards.lazy.compactMap { $0.metadata[key] }.first
    }
    let file = try GGUFFile(path: model.path)
    return file.hasKey(key) ? try file.string(key) : nil
  }

  private static func rewriteFolder(
    _ source: URL, _ changes: ModelChanges, _ metadata: [(key: String, value: String)], to target: URL
  ) throws {
    let model = try SafetensorsModel(directory: source.path)
    let config = try JSONSerialization.jsonObject(with: Data(contentsOf: source.appending(path: "config.json")))
    let architecture = (config as? [String: Any])?["model_type"] as? String ?? ""
    let tensors = try tensors(of: model, architecture: architecture, changes)
    do {
      try FileManager.default.createDirectory(at: target, withIntermediateDirectories: true)
      for name in try FileManager.default.contentsOfDirectory(atPath: source.path)
      where !name.contains(".safetensors") && !name.hasPrefix(".") {
        let copy = target.appending(path: name)
        try? FileManager.default.removeItem(at: copy)
        try FileManager.default.copyItem(at: source.appending(path: name).resolvingSymlinksInPath(), to: copy)
      }
    } catch {
      throw ModelFileError(
        kind: .unwritable, path: target.path, what: "the folder", seen: "\(error.localizedDescription)",
        expected: "a place that can be written")
    }
    try ModelFileWriter.safetensors(
      tensors, metadata: Dictionary(metadata.map { ($0.key, $0.value) }) { first, _ in first },
      to: target.appending(path: "model.safetensors").path)
  }

  /// Those of the file, changed, and the factors.
  private static func tensors(
    of source: some TensorSource, architecture: String, _ changes: ModelChanges
  ) throws -> [NewTensor] {
    guard let recipe = Recipes.named(architecture) else { return [] }
    /// In the file, by parameter.
    func names(_ paths: some Sequence<String>) -> [String: String] {
      var result: [String: String] = [:]
      for path in paths {
        guard let name = recipe.fileName(of: path) else { continue }
        for candidate in [name, recipe.architecture + "." + name] where source.contains(candidate) {
          result[candidate] = path
        }
      }
      return result
    }
    let gone = names(changes.replaced)
    let vectors = names(changes.vectors.keys)
    var tensors: [NewTensor] = []
    let factors = Set(
      changes.matrices.keys.flatMap { [LowRankNames.up($0), LowRankNames.down($0), LowRankNames.sharedDown($0)] }
        .flatMap(SafetensorsTensor.storedNames))
    // Numbers 0, 1, 2, …, in a kind that Apus does not write and nobody reads.
    for name in source.tensorNames
    where gone[name] == nil && !factors.contains(name) && !name.hasSuffix("position_ids") {
      if let path = vectors[name], let values = changes.vectors[path] {
        tensors.append(
          NewTensor(
            name: name, shape: [values.count], dtype: .f32, content: .made(values.withUnsafeBytes { Array($0) })))
      } else {
        tensors.append(NewTensor(copying: try source.tensor(name)))
      }
    }
    for (path, tensor) in changes.matrices.sorted(by: { $0.key < $1.key }) {
      var tensor = tensor
      tensor.name = recipe.fileName(of: path) ?? path
      tensors.append(tensor)
    }
    return tensors + changes.factors
  }
}
