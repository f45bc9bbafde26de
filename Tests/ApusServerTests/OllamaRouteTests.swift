import ApusEngine
import ApusModels
import ApusText
import Foundation
import HTTPTypes
import Hummingbird
import HummingbirdTesting
import Logging
import Testing

@testable import ApusServer

@Suite struct OllamaRouteTests {
  private static let question = #""model": "fake", "messages": [{"role": "user", "content": "Hi"}]"#

  private func application(
    _ engine: any TextEngine, files: [ModelDescription] = [], limit: Int = 1 << 20
  ) -> some ApplicationProtocol {
    let router = Router(context: ServerContext.self)
    let state = ServerState(engines: [engine], encoders: [FakeEncoder()], files: files, keys: nil)
    router.add(middleware: ErrorMiddleware(bodyLimit: limit))
    router.add(middleware: AccessMiddleware(state: state))
    OllamaRoutes(state: state, bodyLimit: limit).add(to: router)
    return Application(
      router: router, configuration: .init(address: .hostname("127.0.0.1", port: 0)), logger: .quiet)
  }

  private func send(
    _ path: String, _ body: String? = nil, method: HTTPRequest.Method = .post, engine: any TextEngine = FakeEngine(),
    files: [ModelDescription] = [], limit: Int = 1 << 20,
    _ check: @Sendable @escaping (TestResponse) async throws -> Void
  ) async throws {
    try await application(engine, files: files, limit: limit).test(.router) { client in
      try await client.execute(uri: path, method: method, body: body.map { ByteBuffer(string: $0) }) {
        try await check($0)
      }
    }
  }

  private func expectError(
    _ path: String, _ body: String, engine: FakeEngine = FakeEngine(), limit: Int = 1 << 20, _ status: Int,
    saying text: String, sourceLocation: SourceLocation = #_sourceLocation
  ) async throws {
    try await send(path, body, engine: engine, limit: limit) { response in
      #expect(response.status.code == status, sourceLocation: sourceLocation)
      #expect(response.headers[.contentType]?.hasPrefix("application/json") == true, sourceLocation: sourceLocation)
      let error = try JSONDecoder().decode([String: String].self, from: response.body)
      #expect(Array(error.keys) == ["error"], sourceLocation: sourceLocation)
      #expect(error["error"]?.contains(text) == true, "\(error)", sourceLocation: sourceLocation)
    }
  }

  /// The object as text, with the fields that differ from run to run made the same.
  private static func fixed(_ text: String) -> String {
    text.replacing(/"created_at":"[0-9T:.-]*Z"/, with: #""created_at":"T""#)
      .replacing(/"total_duration":[0-9]+/, with: #""total_duration":1"#)
  }

  private static let head = #"{"model":"fake","created_at":"T","#
  private static let figures =
    #""total_duration":1,"load_duration":0,"prompt_eval_count":7,"prompt_eval_duration":100000000,"eval_count":4,"#
    + #""eval_duration":100000000}"#

  @Test func aChatStreamsUnlessToldNot() async throws {
    try await send("/api/chat", "{\(Self.question)}") { response in
      #expect(response.status == .ok)
      #expect(response.headers[.contentType] == "application/x-ndjson")
      #expect(
        Self.fixed(String(buffer: response.body))
          == ["H", "é", "!"].map {
            Self.head + #""message":{"role":"assistant","content":"\#($0)"},"done":false}"# + "\n"
          }.joined() + Self.head
          + #""message":{"role":"assistant","content":""},"done":true,"done_reason":"stop","# + Self.figures + "\n")
    }
    try await send("/api/chat", #"{\#(Self.question), "stream": false}"#) { response in
      #expect(response.headers[.contentType]?.hasPrefix("application/json") == true)
      #expect(
        Self.fixed(String(buffer: response.body)) == Self.head
          + #""message":{"role":"assistant","content":"Hé!"},"done":true,"done_reason":"stop","# + Self.figures)
    }
  }

  @Test func aGenerationStreamsUnlessToldNot() async throws {
    let engine = FakeEngine()
    let body = #"{"model": "fake:latest", "prompt": "Hi", "options": {"num_predict": 1}"#
    try await send("/api/generate", body + "}", engine: engine) { response in
      let lines = Self.fixed(String(buffer: response.body)).split(separator: "\n")
      #expect(lines.count == 2 && lines.first! == Self.head + #""response":"H","done":false}"#)
      #expect(lines.last!.contains(#""response":"","done":true,"done_reason":"length""#))
    }
    try await send("/api/generate", body + #", "stream": false}"#) { response in
      #expect(String(buffer: response.body).contains(#""response":"H","done":true,"done_reason":"length""#))
    }
    let (_, options) = try #require(engine.asked.withLock { $0.first })
    #expect(options.maxTokens == 1 && options.sampling.topK == 40)
  }

  @Test func aModelWithoutATemplateReadsThePlainPrompt() async throws {
    let engine = FakeEngine(failure: GenerationError.noChatTemplate(model: "fake"))
    try await expectError(
      "/api/generate", #"{"model": "fake", "prompt": "Hi"}"#, engine: engine, 400, saying: "template")
    let asked = engine.asked.withLock { $0.map(\.0) }
    guard asked.count == 2, case .text("Hi") = asked[1] else { Issue.record("\(asked)"); return }
  }

  @Test func withoutAPromptTheModelIsOnlyLoaded() async throws {
    let engine = FakeEngine()
    try await send("/api/generate", #"{"model": "fake"}"#, engine: engine) { response in
      #expect(response.headers[.contentType] == "application/x-ndjson")
      #expect(
        Self.fixed(String(buffer: response.body)) == Self.head
          + #""response":"","done":true,"done_reason":"load"}"# + "\n")
    }
    try await send("/api/chat", #"{"model": "fake", "messages": [], "stream": false}"#, engine: engine) { response in
      #expect(
        Self.fixed(String(buffer: response.body)) == Self.head
          + #""message":{"role":"assistant","content":""},"done":true,"done_reason":"load"}"#)
    }
    #expect(engine.asked.withLock { $0.isEmpty })
  }

  @Test func logProbabilitiesAreReportedOncePerToken() async throws {
    try await send("/api/chat", #"{\#(Self.question), "logprobs": true, "top_logprobs": 1}"#) { response in
      let text = String(buffer: response.body)
      #expect(text.components(separatedBy: #""logprob":-0.5,"bytes":["#).count == 9)
      #expect(text.contains(#""top_logprobs":[{"token":"A","logprob":-0.5,"bytes":[65]}]"#))
    }
  }

  @Test func callsComeWithTheirArguments() async throws {
    let engine = CallingEngine(reply: CallingEngine.call)
    let body = #"{\#(Self.question), "tools": [{"type": "function", "function": {"name": "get_weather"}}]"#
    let call = #""tool_calls":[{"function":{"index":0,"name":"get_weather","arguments":{"city":"Bern"}}}]}"#
    try await send("/api/chat", body + "}", engine: engine) { response in
      let lines = String(buffer: response.body).split(separator: "\n")
      #expect(lines.count == 2 && lines[0].contains(call + #","done":false}"#), "\(lines)")
      #expect(lines.last?.contains(#""content":""},"done":true,"done_reason":"stop""#) == true)
    }
    try await send("/api/chat", body + #", "stream": false}"#, engine: engine) { response in
      #expect(String(buffer: response.body).contains(call + #","done":true,"done_reason":"stop""#))
    }
    try await send("/api/show", #"{"model": "fake"}"#, engine: engine) { response in
      #expect(String(buffer: response.body).contains(#""capabilities":["completion","tools"]"#))
    }
  }

  @Test func errorsHaveOllamasShape() async throws {
    for path in ["/api/chat", "/api/generate", "/api/embed", "/api/embeddings", "/api/show"] {
      try await expectError(path, "{", 400, saying: "JSON")
      try await expectError(path, "{}", 400, saying: "model")
      try await expectError(
        path, #"{"model": "none", "input": "a", "prompt": "a", "messages": []}"#, 404, saying: "none")
      try await expectError(
        path, #"{"model": "\#(String(repeating: "y", count: 2000))"}"#, limit: 1000, 413, saying: "1000")
    }
    try await expectError("/api/nothing", "{}", 404, saying: "/api/nothing")
    try await expectError("/api/chat", #"{"model": "encoder", "messages": []}"#, 400, saying: "encoder")
    try await expectError("/api/embed", #"{"model": "fake", "input": "a"}"#, 400, saying: "an encoder")
    for stream in [true, false] {
      let body = #"{\#(Self.question), "stream": \#(stream)}"#
      try await expectError(
        "/api/chat", body, engine: FakeEngine(failure: RunnerError.contextOverflow(tokens: 5000, contextLength: 4096)),
        400, saying: "5000")
      try await expectError(
        "/api/chat", body, engine: FakeEngine(failure: GenerationError.stopped), 503, saying: "stopping")
      // Before the first token an answer that breaks still has a status.
      try await expectError("/api/chat", body, engine: FakeEngine(breakAfter: 0), 500, saying: "Broken")
    }
    try await expectError(
      "/api/chat", #"{\#(Self.question), "format": {"type": "no such type"}}"#, 400, saying: "format")
  }

  @Test func formatsReachTheEngineAsGrammars() async throws {
    let engine = FakeEngine()
    for fields in ["", #", "format": """#, #", "format": "json""#, #", "format": {"type": "object"}"#] {
      try await send("/api/chat", "{\(Self.question)\(fields)}", engine: engine) { #expect($0.status == .ok) }
    }
    #expect(engine.asked.withLock { $0.map { $0.1.grammar != nil } } == [false, false, true, true])
  }

  @Test func aStreamThatBreaksLooksBroken() async throws {
    try await send("/api/chat", "{\(Self.question)}", engine: FakeEngine(breakAfter: 1)) { response in
      let lines = String(buffer: response.body).split(separator: "\n")
      #expect(lines.count == 2)
      #expect(lines.last?.hasPrefix(#"{"error":"#) == true)
      #expect(!String(buffer: response.body).contains(#""done":true"#))
    }
  }

  // MARK: embeddings

  @Test func textsBecomeVectors() async throws {
    try await send("/api/embed", #"{"model": "encoder", "input": ["aab", "c", ""]}"#) { response in
      #expect(response.status == .ok)
      struct Body: Decodable {
        var model: String
        var embeddings: [[Float]]
        var total_duration: Int
        var load_duration: Int
        var prompt_eval_count: Int
      }
      let body = try JSONDecoder().decode(Body.self, from: response.body)
      let length = Float(5).squareRoot()
      #expect(body.embeddings == [[2 / length, 1 / length, 0], [0, 0, 1], [0, 0, 0]])
      #expect(body.model == "encoder" && body.prompt_eval_count == 4 && body.total_duration > 0)
    }
    try await send("/api/embed", #"{"model": "encoder", "input": "bbbbaaac", "dimensions": 2}"#) { response in
      struct Body: Decodable { var embeddings: [[Float]] }
      let vector = try #require(try JSONDecoder().decode(Body.self, from: response.body).embeddings.first)
      #expect(vector.count == 2 && abs(vector[0] - 0.6) < 1e-6 && abs(vector[1] - 0.8) < 1e-6)
    }
    try await send("/api/embeddings", #"{"model": "encoder", "prompt": "c"}"#) { response in
      #expect(String(buffer: response.body) == #"{"embedding":[0.0,0.0,1.0]}"#)
    }
    try await send("/api/embed", #"{"model": "encoder", "input": []}"#) { response in
      #expect(String(buffer: response.body).contains(#""embeddings":[],"#))
    }
    let long = String(repeating: "a", count: 17)
    try await expectError(
      "/api/embed", #"{"model": "encoder", "input": ["a", "\#(long)"], "truncate": false}"#, 400,
      saying: "input.1 is 17 tokens, expected at most 16")
    try await expectError(
      "/api/embed", #"{"model": "encoder", "input": "a", "dimensions": 4}"#, 400, saying: "dimensions")
  }

  // MARK: models

  @Test func modelsAreListedAndShown() async throws {
    struct Model: Decodable {
      var name: String
      var model: String
      var digest: String
      var modified_at: Date?
      var expires_at: Date?
      var context_length: Int?
    }
    @Sendable func decoder() -> JSONDecoder {
      let decoder = JSONDecoder()
      decoder.dateDecodingStrategy = .custom { decoder in
        let text = try decoder.singleValueContainer().decode(String.self)
        return try Date.ISO8601FormatStyle(includingFractionalSeconds: text.contains(".")).parse(text)
      }
      return decoder
    }
    try await send("/api/tags", method: .get) { response in
      let models = try decoder().decode([String: [Model]].self, from: response.body)["models"] ?? []
      #expect(models.map(\.name) == ["fake", "encoder"] && models.map(\.model) == ["fake", "encoder"])
      #expect(models.allSatisfy { $0.modified_at != nil && $0.digest.wholeMatch(of: /[0-9a-f]{64}/) != nil })
      #expect(Set(models.map(\.digest)).count == 2)
    }
    try await send("/api/ps", method: .get) { response in
      let models = try decoder().decode([String: [Model]].self, from: response.body)["models"] ?? []
      #expect(models.map(\.context_length) == [1000, 16])
      #expect(models.allSatisfy { $0.expires_at.map { $0 > Date() } == true && $0.modified_at == nil })
    }
    for (name, capabilities, info) in [
      ("fake:latest", #"["completion"]"#, #""apus.context_length":1000"#),
      ("encoder", #"["embedding"]"#, #""apus.context_length":16,"apus.embedding_length":3"#),
    ] {
      try await send("/api/show", #"{"model": "\#(name)"}"#) { response in
        let text = String(buffer: response.body)
        #expect(response.status == .ok)
        #expect(text.contains(#""capabilities":\#(capabilities)"#) && text.contains(info), "\(text)")
      }
    }
    try await send("/api/version", method: .get) { response in
      #expect(String(buffer: response.body) == #"{"version":"\#(OllamaRoutes.version)"}"#)
    }
  }

  @Test func modelsHaveTheFactsOfTheirFiles() async throws {
    let hash = String(repeating: "ab", count: 32)
    let files = try JSONDecoder().decode(
      ModelDescription.self,
      from: Data(
        #"""
        {"name": "fake", "path": "/nowhere/fake.gguf", "format": "gguf", "architecture": "llama",
         "parameters": 134515008, "kinds": [
           {"type": "Q8_0", "tensors": 211, "parameters": 134479872, "bytes": 142884864},
           {"type": "F32", "tensors": 61, "parameters": 35136, "bytes": 140544}],
         "contextLength": 8192, "vocabularySize": 49152, "hasChatTemplate": true, "licence": "apache-2.0",
         "size": 144811360, "sha256": "\#(hash)", "pulledAt": "2026-11-28T03:00:00Z", "isVerified": true}
        """#.utf8))
    let details =
      #""details":{"parent_model":"","format":"gguf","family":"llama","families":["llama"],"#
      + #""parameter_size":"134.52M","quantization_level":"Q8_0"}"#
    try await send("/api/tags", method: .get, files: [files]) { response in
      #expect(
        response.text.hasPrefix(
          #"{"models":[{"name":"fake","model":"fake","modified_at":"2026-11-28T03:00:00Z","size":144811360,"#
            + #""digest":"\#(hash)",\#(details)},"#), "\(response.text)")
    }
    try await send("/api/ps", method: .get, files: [files]) { response in
      let model = try response.json["models"]?.items?.first
      #expect(model?["size"]?.wholeNumber == 144_811_360 && model?["digest"]?.string == hash)
    }
    try await send("/api/show", #"{"model": "fake"}"#, files: [files]) { response in
      #expect(response.text.contains(details) && response.text.contains(#""license":"apache-2.0""#))
      let info = try response.json["model_info"]
      #expect(info?["general.architecture"]?.string == "llama")
      #expect(info?["general.parameter_count"]?.wholeNumber == 134_515_008)
      #expect(info?["llama.context_length"]?.wholeNumber == 8192)
    }
  }

  @Test(arguments: [
    (999, "999"), (22_713_216, "22.71M"), (134_515_008, "134.52M"), (494_000_000, "494M"), (1_543_714_304, "1.5B"),
    (7_000_000_000, "7B"), (12_345, "12K"),
  ]) func parametersAreCountedAsOllamaDoes(count: Int, text: String) {
    #expect(OllamaCard.size(ofParameters: count) == text)
  }

  /// Over a real socket: the answer of a client that hangs up is cancelled.
  @Test(.timeLimit(.minutes(1)), arguments: [true, false])
  func hangingUpCancelsTheAnswer(stream: Bool) async throws {
    let engine = FakeEngine(isEndless: true)
    try await application(engine).test(.live) { client in
      let socket = try Socket(port: try #require(client.port))
      let body = #"{\#(Self.question), "stream": \#(stream)}"#
      try socket.send("POST /api/chat HTTP/1.1\r\nHost: x\r\nContent-Length: \(body.utf8.count)\r\n\r\n\(body)")
      while engine.asked.withLock({ $0.isEmpty }) { try await Task.sleep(for: .milliseconds(5)) }
      try await Task.sleep(for: .milliseconds(50))
      #expect(engine.cancelled.withLock { $0 } == 0)
      socket.close()
      while engine.cancelled.withLock({ $0 }) == 0 { try await Task.sleep(for: .milliseconds(5)) }
    }
  }
}
