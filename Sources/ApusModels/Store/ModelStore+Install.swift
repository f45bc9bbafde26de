import Foundation

extension ModelLocation {
  /// SHA-256 of the weights, in hex: of the file, or of a folder's safetensors files together.
  ///
  /// Taken from the manifest where there is one. Throws `ModelStoreError` when a file cannot be read.
  public func weightsDigest() throws -> String {
    let files = manifest?.files.filter { !isFolder || $0.path.hasSuffix(".safetensors") } ?? []
    if !files.isEmpty { return Self.combined(files.map(\.sha256)) }
    guard isFolder else { return try Digest.sha256(file: path) }
    let names = try FileManager.default.contentsOfDirectory(atPath: path).filter { $0.hasSuffix(".safetensors") }
    return Self.combined(try names.sorted().map { try Digest.sha256(file: "\(path)/\($0)") })
  }

  private static func combined(_ digests: [String]) -> String {
    digests.count == 1 ? digests[0] : Digest.sha256(Array(digests.joined().utf8))
  }
}

extension ModelStore {
  /// Puts a model that `make` writes into the store: `make` gets the path of a file, or of a folder, that does not exist.
  ///
  /// Throws `ModelStoreError`: `invalidReference` for a name that can't be one, `fileSystem` when it is taken (unless
  /// `replaces`); and what `make` throws.
  public func install(
    _ name: String, source: String, isFolder: Bool, replaces: Bool = false, make: @Sendable (String) throws -> Void
  ) async throws -> ModelLocation {
    try checkNewName(name)
    for folder in [modelsFolder, home + "/locks", workFolder(name)] { try FileSystem.makeFolder(folder) }
    let lock = try await FileLock.acquire(lockPath(name)) {}
    defer { withExtendedLifetime(lock) {} }
    if !replaces { try checkIsFree(name) }
    let draft = workFolder(name) + (isFolder ? "/model" : "/model.gguf")
    try FileSystem.remove(draft)
    try make(draft)
    let target = modelsFolder + "/" + name + (isFolder ? "" : ".gguf")
    let paths = isFolder ? try FileManager.default.subpathsOfDirectory(atPath: draft).sorted() : [name + ".gguf"]
    let files = try paths.compactMap { path -> ModelManifest.File? in
      let full = isFolder ? "\(draft)/\(path)" : draft
      guard let status = FileSystem.status(full), !FileSystem.isFolder(full) else { return nil }
      return .init(path: path, size: status.size, sha256: try Digest.sha256(file: full))
    }
    let manifest = ModelManifest(
      name: name, source: source, licence: nil, isFolder: isFolder, files: files, isVerified: false,
      pulledAt: ModelManifest.now())
    try FileSystem.remove(manifestPath(name))
    try FileSystem.remove(target)
    try FileSystem.publish(draft, as: target)
    try FileSystem.writeAtomically(manifest.encoded(), to: manifestPath(name))
    try FileSystem.remove(workFolder(name))
    return location(manifest)
  }
}
