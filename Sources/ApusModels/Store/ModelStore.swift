#if canImport(FoundationEssentials)
  import FoundationEssentials
#else
  import Foundation
#endif
#if canImport(Glibc)
  import Glibc
#elseif canImport(Musl)
  import Musl
#else
  import Darwin
#endif

/// A model on this machine.
public struct ModelLocation: Sendable, Equatable {
  /// The store's name; for a model used in place, its path.
  public var name: String
  /// A GGUF or safetensors file, or a folder.
  public var path: String
  public var isFolder: Bool
  /// Nil for a model used in place.
  public var manifest: ModelManifest?
}

/// The models on this machine: found by name, pulled from their sources, checked, listed and removed.
///
/// Everything lies under `home` (`$APUS_HOME`, else `~/.cache/apus`):
/// ```
/// models/NAME.gguf or models/NAME/   the model, complete and checked: it appears by one rename
/// models/NAME.json                   its manifest
/// downloads/NAME/                    what a pull has so far; a later pull goes on from there
/// locks/NAME.lock                    held during a pull, by one process at a time
/// ```
/// A store is a value without state: make one wherever it is needed.
public struct ModelStore: Sendable {
  public let home: String
  /// The variables that are looked at: `APUS_OFFLINE`, `PIP_…`, `HF_…`, `…_PROXY`, `SSL_CERT_FILE`, `HOME`.
  public let environment: [String: String]
  public var retry = RetryPolicy()

  /// The store of `home`, or of `APUS_HOME`, or `~/.cache/apus`.
  public init(home: String? = nil, environment: [String: String] = ProcessInfo.processInfo.environment) {
    func nonEmpty(_ text: String?) -> String? { text?.isEmpty == false ? text : nil }
    let chosen =
      nonEmpty(home) ?? nonEmpty(environment["APUS_HOME"])
      ?? (nonEmpty(environment["HOME"]) ?? FileManager.default.homeDirectoryForCurrentUser.path()) + "/.cache/apus"
    self.home = chosen.count > 1 && chosen.hasSuffix("/") ? String(chosen.dropLast()) : chosen
    self.environment = environment
  }

  var modelsFolder: String { home + "/models" }
  func manifestPath(_ name: String) -> String { "\(modelsFolder)/\(name).json" }
  func workFolder(_ name: String) -> String { "\(home)/downloads/\(name)" }
  func lockPath(_ name: String) -> String { "\(home)/locks/\(name).lock" }

  /// True when `APUS_OFFLINE` is set to anything but `0`, `false` or nothing.
  public var isOffline: Bool {
    let value = environment["APUS_OFFLINE"] ?? ""
    return !["", "0", "false", "no"].contains(value.lowercased())
  }

  // MARK: Finding

  /// Reads what a user wrote: a name, a path, a URL or `hf:ORG/REPO[:FILE]`.
  ///
  /// A name that is neither built in nor in the store, but the name of a file or folder here, is a path. Throws
  /// `ModelStoreError`: `invalidReference`; `unknownModel` with the closest names.
  public func resolve(_ text: String) throws(ModelStoreError) -> ModelReference {
    let reference = try ModelReference(parsing: text)
    switch reference {
    case .stored(let name):
      if FileSystem.exists(manifestPath(name)) { return reference }
      if FileSystem.exists(text) { return .path(text) }
      throw unknown(name)
    case .path(let path):
      return .path(expandingTilde(path))
    default:
      return reference
    }
  }

  /// The model on this machine, or nil when it must be pulled first. Costs a small file's read and a stat per file:
  /// nothing is hashed and no network is used.
  ///
  /// Throws `ModelStoreError`: `notFound` for a path without a file; `malformed` when the store's file has another size
  /// than its manifest says.
  public func locate(_ reference: ModelReference) throws(ModelStoreError) -> ModelLocation? {
    if case .path(let path) = reference {
      let isFolder = FileSystem.isFolder(path)
      guard isFolder || FileSystem.status(path) != nil else {
        throw ModelStoreError(
          kind: .notFound, subject: path, seen: "no such file or folder", expected: "a GGUF file or a model's folder",
          advice: "Check the path; for a model to be downloaded give its name (see: apus model ls) or hf:ORG/REPO.")
      }
      return ModelLocation(name: path, path: path, isFolder: isFolder, manifest: nil)
    }
    guard let manifest = try manifest(reference.name) else { return nil }
    let location = location(manifest)
    for file in manifest.files {
      let path = manifest.isFolder ? location.path + "/" + file.path : location.path
      guard let status = FileSystem.status(path) else { return nil }
      guard status.size == file.size else {
        throw ModelStoreError(
          kind: .malformed, subject: path, seen: "\(status.size) bytes",
          expected: "\(file.size) bytes, as when it was pulled",
          advice: "Something wrote into the cache. Run: apus model rm \(manifest.name), and pull it again.")
      }
    }
    return location
  }

  /// `resolve` and `locate` in one; throws `unknownModel` when the model isn't here.
  public func find(_ text: String) throws(ModelStoreError) -> ModelLocation {
    let reference = try resolve(text)
    if let location = try locate(reference) { return location }
    throw ModelStoreError(
      kind: .unknownModel, subject: "model '\(reference.text)'", seen: "no copy in \(modelsFolder)",
      expected: "it to be pulled before", advice: "Run: apus model pull \(reference.text)")
  }

  /// The manifest of `name`; nil when the store doesn't hold it. Throws `malformed` when it can't be read.
  public func manifest(_ name: String) throws(ModelStoreError) -> ModelManifest? {
    let path = manifestPath(name)
    guard FileSystem.status(path) != nil else { return nil }
    let data = try FileSystem.read(path)
    guard let manifest = try? JSONDecoder().decode(ModelManifest.self, from: data), manifest.version == 1,
      manifest.name == name, !manifest.files.isEmpty, manifest.files.allSatisfy({ Self.isSafePath($0.path) })
    else {
      throw ModelStoreError(
        kind: .malformed, subject: path, seen: "a manifest that can't be read", expected: "version 1 of its format",
        advice: "Run: apus model rm \(name), and pull it again.")
    }
    return manifest
  }

  /// Inside the folder that it is relative to.
  static func isSafePath(_ path: String) -> Bool {
    !path.isEmpty
      && !path.split(separator: "/", omittingEmptySubsequences: false).contains { ["", ".", ".."].contains($0) }
  }

  func location(_ manifest: ModelManifest) -> ModelLocation {
    let path = manifest.isFolder ? "\(modelsFolder)/\(manifest.name)" : "\(modelsFolder)/\(manifest.files[0].path)"
    return ModelLocation(name: manifest.name, path: path, isFolder: manifest.isFolder, manifest: manifest)
  }

  private func expandingTilde(_ path: String) -> String {
    guard path == "~" || path.hasPrefix("~/"), let home = environment["HOME"] else { return path }
    return home + path.dropFirst()
  }

  private func unknown(_ name: String) -> ModelStoreError {
    let known = Catalogue.models.map(\.name) + ((try? list())?.map(\.name) ?? [])
    let close = known.map { ($0, Self.editDistance($0, name)) }.filter { $0.1 <= max(2, name.count / 3) }
    let advice =
      if let best = close.min(by: { $0.1 < $1.1 }) {
        "Did you mean '\(best.0)'?"
      } else {
        "Built in: \(Catalogue.models.map(\.name).joined(separator: ", ")). Also: a path, a URL, or hf:ORG/REPO[:FILE]."
      }
    return ModelStoreError(
      kind: .unknownModel, subject: "model '\(ModelFileError.printable(name))'", seen: "a name that nobody has",
      expected: "a built-in model, one of the store, or a path", advice: advice)
  }

  /// Levenshtein's distance.
  static func editDistance(_ left: String, _ right: String) -> Int {
    let right = Array(right)
    var row = Array(0...right.count)
    for (i, a) in left.enumerated() {
      var diagonal = row[0]
      row[0] = i + 1
      for (j, b) in right.enumerated() {
        let next = min(row[j] + 1, row[j + 1] + 1, diagonal + (a == b ? 0 : 1))
        diagonal = row[j + 1]
        row[j + 1] = next
      }
    }
    return row[right.count]
  }

  // MARK: Keeping house

  /// The models of the store, by name. A manifest that can't be read is left out.
  public func list() throws(ModelStoreError) -> [ModelManifest] {
    guard FileSystem.isFolder(modelsFolder) else { return [] }
    guard let names = try? FileManager.default.contentsOfDirectory(atPath: modelsFolder) else {
      throw FileSystem.failure("list", modelsFolder)
    }
    var result: [ModelManifest] = []
    for file in names.sorted() where file.hasSuffix(".json") {
      if let manifest = try? manifest(String(file.dropLast(5))) { result.append(manifest) }
    }
    return result
  }

  /// Removes the model called `name` and what a broken-off pull of it has left; returns the bytes freed. A linked file
  /// itself stays. Throws `unknownModel` when there is nothing of that name.
  @discardableResult
  public func remove(_ name: String) async throws -> Int {
    guard ModelReference.isSafeName(name) else { throw unknown(name) }
    let candidates = ["\(name).gguf", "\(name).safetensors", name].map { "\(modelsFolder)/\($0)" }
    let all = candidates + [manifestPath(name), workFolder(name)]
    guard all.contains(where: FileSystem.exists) else { throw unknown(name) }
    try FileSystem.makeFolder(home + "/locks")
    let lock = try await FileLock.acquire(lockPath(name)) {}
    var freed = 0
    // The manifest first: without it the rest doesn't count as a model.
    for path in [manifestPath(name)] + candidates + [workFolder(name)] where FileSystem.exists(path) {
      freed += Self.size(path)
      try FileSystem.remove(path)
    }
    withExtendedLifetime(lock) {}
    return freed
  }

  private static func size(_ path: String) -> Int {
    var status = stat()
    guard lstat(path, &status) == 0, status.st_mode & S_IFMT != S_IFLNK else { return 0 }
    guard status.st_mode & S_IFMT == S_IFDIR else { return Int(status.st_size) }
    let children = (try? FileManager.default.contentsOfDirectory(atPath: path)) ?? []
    return children.reduce(0) { $0 + size(path + "/" + $1) }
  }

  /// Hashes the model's files and compares them with the catalogue, or with what was recorded when it was pulled.
  ///
  /// Throws `unknownModel`, or `hashMismatch` that names the file.
  public func verify(_ name: String, progress: @escaping PullProgressHandler = { _ in }) async throws -> ModelManifest {
    guard let manifest = try manifest(name) else { throw unknown(name) }
    let location = location(manifest)
    let known = Catalogue.model(name).map { Dictionary(uniqueKeysWithValues: $0.files.map { ($0.path, $0.sha256) }) }
    var before = 0
    for file in manifest.files {
      let path = manifest.isFolder ? location.path + "/" + file.path : location.path
      let base = before
      let seen = try await offPool {
        try Digest.sha256(file: path) { done in
          progress(
            PullProgress(
              model: name, phase: .verifying, file: file.path, bytesDone: base + done, bytesTotal: manifest.size))
        }
      }
      let expected = known?[file.path] ?? file.sha256
      guard seen == expected else {
        throw ModelStoreError(
          kind: .hashMismatch, subject: path, seen: "sha256 \(seen)", expected: "sha256 \(expected)",
          advice: "The file has changed since it was pulled. Run: apus model rm \(name), and pull it again.")
      }
      before += file.size
    }
    progress(
      PullProgress(model: name, phase: .done, file: location.path, bytesDone: manifest.size, bytesTotal: manifest.size))
    return manifest
  }

  /// Throws `invalidReference` for a name that a new model can't have.
  func checkNewName(_ name: String) throws(ModelStoreError) {
    guard ModelReference.isSafeName(name), Catalogue.model(name) == nil else {
      throw ModelStoreError(
        kind: .invalidReference, subject: "name '\(ModelFileError.printable(name))'",
        seen: "a name that is built in or has other characters", expected: "letters, digits, '.', '-', '_' and '@'",
        advice: "Choose another name.")
    }
  }

  /// Throws `fileSystem` when the store holds a model of that name; of use while the name's lock is held.
  func checkIsFree(_ name: String) throws(ModelStoreError) {
    guard !FileSystem.exists(manifestPath(name)) else {
      throw ModelStoreError(
        kind: .fileSystem, subject: "name '\(name)'", seen: "a model of that name", expected: "a free name",
        advice: "Choose another name, or run: apus model rm \(name)")
    }
  }

  /// Gives a file of this machine a name in the store, by a symbolic link. The file stays where it is.
  ///
  /// Throws `invalidReference` for a name that can't be one, `notFound`, or `fileSystem` when the name is taken.
  public func link(_ path: String, as name: String) async throws -> ModelLocation {
    try checkNewName(name)
    let full = URL(filePath: expandingTilde(path)).standardizedFileURL.path(percentEncoded: false)
    guard let status = FileSystem.status(full) else {
      throw ModelStoreError(
        kind: .notFound, subject: path, seen: "no such file", expected: "a model file", advice: "Check the path.")
    }
    try FileSystem.makeFolder(modelsFolder)
    try FileSystem.makeFolder(home + "/locks")
    let lock = try await FileLock.acquire(lockPath(name)) {}
    defer { withExtendedLifetime(lock) {} }
    try checkIsFree(name)
    let file = name + (full.hasSuffix(".safetensors") ? ".safetensors" : ".gguf")
    let target = "\(modelsFolder)/\(file)"
    let sha256 = try await offPool { try Digest.sha256(file: full) }
    try FileSystem.remove(target)
    guard symlink(full, target) == 0 else { throw FileSystem.failure("link", target) }
    let manifest = ModelManifest(
      name: name, source: "link:\(full)", licence: nil, isFolder: false,
      files: [.init(path: file, size: status.size, sha256: sha256)], isVerified: false, pulledAt: ModelManifest.now())
    try FileSystem.writeAtomically(manifest.encoded(), to: manifestPath(name))
    return location(manifest)
  }
}
