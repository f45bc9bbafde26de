import Foundation

extension ModelLocation {
  /// Opens the model: under its name in the store, or under its file's name.
  /// - Parameter modify: changes the recipe's config before the model is made.
  /// - Throws: `ModelFileError`, `ConfigError` or `TokenizerError`, naming file, key or tensor.
  public func load(modify: (any ModelConfig) throws -> any ModelConfig = { $0 }) throws -> LoadedModel {
    let url = URL(fileURLWithPath: path)
    let fileName = isFolder ? url.lastPathComponent : url.deletingPathExtension().lastPathComponent
    return try LoadedModel.load(url, name: manifest == nil ? fileName : name, modify: modify)
  }
}
