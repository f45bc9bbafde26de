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

@Suite struct AnthropicRouteTests {
  private static let question = #""model": "fake", "max_tokens": 50, "messages": [{"role": "user", "content": "Hi"}]"#

  private struct ErrorBody: Decodable {
    struct Inner: Decodable {
      var type: String
      var message: String
    }
    var type: String
    var error: Inner
    var request_id: String
  }

  private func application(_ engine: any TextEngine, limit: Int = 1 << 20) -> some ApplicationProtocol {
    let router = Router(context: ServerContext.self)
    let state = ServerState(engines: [engine], encoders: [], keys: nil)
    router.add(middleware: ErrorMiddleware(bodyLimit: limit))
    router.add(middleware: AccessMiddleware(state: state))
    router.post("v1/messages/fail/:status") { _, context -> Response in
      let status = try context.parameters.require("status", as: Int.self)
      throw OpenAIError(status: .init(code: status), message: "as asked")
    }
    router.get("v1/other") { _, _ -> Response in throw OpenAIError.malformedJSON("elsewhere") }
    MessagesRoutes(state: state, bodyLimit: limit).add(to: router)
    return Application(
      router: router, configuration: .init(address: .hostname("127.0.0.1", port: 0)), logger: .quiet)
  }

  private func post(
    _ body: String, engine: any TextEngine = FakeEngine(), limit: Int = 1 << 20, path: String = "/v1/messages",
    _ check: @Sendable @escaping (TestResponse) async throws -> Void
  ) async throws {
    try await application(engine, limit: limit).test(.router) { client in
      try await client.execute(uri: path, method: .post, body: ByteBuffer(string: body)) { try await check($0) }
    }
  }

  private func expectError(
    _ body: String, engine: FakeEngine = FakeEngine(), limit: Int = 1 << 20, path: String = "/v1/messages",
    _ status: Int, _ type: String, saying text: String = "", sourceLocation: SourceLocation = #_sourceLocation
  ) async throws {
    try await post(body, engine: engine, limit: limit, path: path) { response in
      #expect(response.status.code == status, sourceLocation: sourceLocation)
      #expect(response.headers[.contentType]?.hasPrefix("application/json") == true, sourceLocation: sourceLocation)
      let error = try JSONDecoder().decode(ErrorBody.self, from: response.body)
      #expect(error.type == "error" && error.error.type == type, "\(error)", sourceLocation: sourceLocation)
      #expect(!error.error.message.isEmpty, sourceLocation: sourceLocation)
      #expect(text.isEmpty || error.error.message.contains(text), "\(error)", sourceLocation: sourceLocation)
      #expect(error.request_id.hasPrefix("req_"), sourceLocation: sourceLocation)
      #expect(response.headers[.anthropicRequestID] == error.request_id, sourceLocation: sourceLocation)
    }
  }

  @Test func aWholeAnswerIsAMessage() async throws {
    let engine = FakeEngine()
    try await post("{\(Self.question)}", engine: engine) { response in
      #expect(response.status == .ok)
      #expect(response.headers[.anthropicRequestID]?.hasPrefix("req_") == true)
      let text = String(buffer: response.body)
      let id = try #require(text.firstMatch(of: /"id":"(msg_[0-9a-z]{24})"/)?.1)
      #expect(
        text == #"{"id":"\#(id)","type":"message","role":"assistant","model":"fake","#
          + #""content":[{"type":"text","text":"Hé!"}],"stop_reason":"end_turn","stop_sequence":null,"#
          + #""usage":{"input_tokens":7,"cache_creation_input_tokens":0,"cache_read_input_tokens":0,"output_tokens":4}}"#
      )
    }
    let (prompt, options) = try #require(engine.asked.withLock { $0.first })
    guard case .chat(let messages, nil) = prompt else { Issue.record("\(prompt)"); return }
    #expect(messages.count == 1 && options.maxTokens == 50)
  }

  @Test func aStreamIsItsEvents() async throws {
    try await post(#"{\#(Self.question), "stream": true, "stop_sequences": ["?", "!"]}"#) { response in
      #expect(response.status == .ok)
      #expect(response.headers[.contentType]?.hasPrefix("text/event-stream") == true)
      let text = String(buffer: response.body)
      let id = try #require(text.firstMatch(of: /"id":"(msg_[0-9a-z]{24})"/)?.1)
      var writer = MessagesWriter(id: String(id), model: "fake")
      let parts: [AnswerPart] = [
        .started(promptTokens: 7, cached: 0), .text("H", []), .text("é", []),
        .finished(
          AnswerEnd(
            reason: .stopSequence, stopSequence: "!", text: "Hé", promptTokens: 7, cachedTokens: 0,
            completionTokens: 4)),
      ]
      #expect(text == String(decoding: parts.flatMap { writer.events(for: $0) }, as: UTF8.self))
      #expect(text.contains(#""stop_reason":"stop_sequence","stop_sequence":"!""#))
    }
  }

  @Test func tokensAreCountedWithoutMaxTokens() async throws {
    try await post(
      #"{"model": "fake", "messages": [{"role": "user", "content": "Hi"}]}"#, path: "/v1/messages/count_tokens"
    ) { response in
      #expect(response.status == .ok)
      #expect(String(buffer: response.body) == #"{"input_tokens":7}"#)
    }
    try await expectError(
      #"{"model": "fake", "messages": []}"#, path: "/v1/messages/count_tokens", 400, "invalid_request_error",
      saying: "messages")
  }

  @Test func callsComeAsBlocks() async throws {
    let engine = CallingEngine(reply: "Well. " + CallingEngine.call)
    let tools = #""tools": [{"name": "get_weather", "input_schema": {"type": "object"}}]"#
    try await post("{\(Self.question.replacing("50", with: "500")), \(tools)}", engine: engine) { response in
      let text = String(buffer: response.body)
      let id = try #require(text.firstMatch(of: /"id":"(call_[0-9a-z]{24})"/)?.1)
      #expect(
        text.contains(
          #""content":[{"type":"text","text":"Well. "},{"type":"tool_use","id":"\#(id)","name":"get_weather","#
            + #""input":{"city":"Bern"}}],"stop_reason":"tool_use""#), "\(text)")
    }
    try await post(#"{\#(Self.question.replacing("50", with: "500")), \#(tools), "stream": true}"#, engine: engine) {
      let text = String(buffer: $0.body)
      #expect(text.contains(#"data: {"type":"content_block_start","index":1,"content_block":{"type":"tool_use","id":"#))
      let json = text.matches(of: /"partial_json":"((?:[^"\\]|\\.)*)"/).map(\.1).joined().replacing("\\\"", with: "\"")
      #expect(json.filter { $0 != " " } == #"{"city":"Bern"}"#)
      #expect(text.contains(#""stop_reason":"tool_use""#))
    }
    // Nobody offered a tool: then it is text.
    try await post("{\(Self.question.replacing("50", with: "500"))}", engine: engine) { response in
      #expect(String(buffer: response.body).contains(#"<tool_call>"#))
    }
  }

  @Test func errorsHaveAnthropicsShape() async throws {
    try await expectError("{", 400, "invalid_request_error", saying: "JSON")
    try await expectError(#"{"model": "fake"}"#, 400, "invalid_request_error", saying: "messages")
    try await expectError(
      #"{"model": "none", "max_tokens": 1, "messages": [{"role": "user", "content": "a"}]}"#, 404, "not_found_error",
      saying: "none")
    try await expectError("{}", path: "/v1/messages/nothing", 404, "not_found_error", saying: "/v1/messages/nothing")
    try await expectError(
      #"{\#(Self.question), "x": "\#(String(repeating: "y", count: 2000))"}"#, limit: 1000, 413, "request_too_large")
    for stream in ["", #", "stream": true"#] {
      let body = "{\(Self.question)\(stream)}"
      try await expectError(
        body, engine: FakeEngine(failure: RunnerError.contextOverflow(tokens: 5000, contextLength: 4096)), 400,
        "invalid_request_error", saying: "5000")
      try await expectError(body, engine: FakeEngine(failure: GenerationError.stopped), 529, "overloaded_error")
      try await expectError(body, engine: FakeEngine(failure: FakeEngine.Broken()), 500, "api_error")
      // Before the first token an answer that breaks still has a status.
      try await expectError(body, engine: FakeEngine(breakAfter: 0), 500, "api_error")
    }
    for (status, type) in [
      (400, "invalid_request_error"), (401, "authentication_error"), (403, "permission_error"),
      (404, "not_found_error"), (409, "invalid_request_error"), (413, "request_too_large"), (429, "rate_limit_error"),
      (500, "api_error"), (504, "timeout_error"), (529, "overloaded_error"),
    ] {
      try await expectError("", path: "/v1/messages/fail/\(status)", status, type, saying: "as asked")
    }
  }

  @Test func aForcedCallReachesTheEngineAsAGrammar() async throws {
    let tools = #""tools": [{"name": "f", "input_schema": {}}]"#
    let engine = FakeEngine()
    for choice in [#"{"type": "any"}"#, #"{"type": "tool", "name": "f"}"#, #"{"type": "auto"}"#] {
      try await post("{\(Self.question), \(tools), \"tool_choice\": \(choice)}", engine: engine) {
        #expect($0.status == .ok)
      }
    }
    #expect(engine.asked.withLock { $0.map { $0.1.grammar != nil } } == [true, true, false])
  }

  @Test func aStrictToolsSchemaIsNamedWhereNoGrammarCanFollowIt() async throws {
    let tool = #"{"name": "f", "strict": true, "input_schema": {"type": "object", "not": {}}}"#
    try await expectError(
      #"{\#(Self.question), "tools": [\#(tool)], "tool_choice": {"type": "any"}}"#, 400, "invalid_request_error",
      saying: "tools.0.input_schema#/not")
  }

  @Test func aSchemaReachesTheEngineAsAGrammar() async throws {
    let engine = FakeEngine()
    let format = #""output_config": {"format": {"type": "json_schema", "schema": "#
    try await post("{\(Self.question), \(format){\"type\": \"object\"}}}}", engine: engine) {
      #expect($0.status == .ok)
    }
    try await post("{\(Self.question)}", engine: engine) { #expect($0.status == .ok) }
    #expect(engine.asked.withLock { $0.map { $0.1.grammar != nil } } == [true, false])
    try await expectError(
      "{\(Self.question), \(format){\"type\": \"no such type\"}}}}", 400, "invalid_request_error",
      saying: "output_config.format.schema")
  }

  @Test func otherRoutesKeepTheirOwnShape() async throws {
    try await application(FakeEngine()).test(.router) { client in
      try await client.execute(uri: "/v1/other", method: .get) { response in
        #expect(throws: Never.self) { try JSONDecoder().decode(OpenAIError.Body.self, from: response.body) }
      }
      try await client.execute(uri: "/v1/messagesother", method: .post) { response in
        #expect(throws: Never.self) { try JSONDecoder().decode(OpenAIError.Body.self, from: response.body) }
      }
    }
  }

  @Test func aStreamThatBreaksLooksBroken() async throws {
    try await post(#"{\#(Self.question), "stream": true}"#, engine: FakeEngine(breakAfter: 1)) { response in
      let text = String(buffer: response.body)
      #expect(text.contains(#""text_delta","text":"H""#))
      #expect(text.contains("event: error\ndata: {\"type\":\"error\",\"error\":{\"type\":\"api_error\""))
      #expect(!text.contains("message_stop") && text.hasSuffix("}}\n\n"))
    }
  }

  /// Over a real socket: the answer of a client that hangs up is cancelled.
  @Test(.timeLimit(.minutes(1)), arguments: [true, false])
  func hangingUpCancelsTheAnswer(stream: Bool) async throws {
    let engine = FakeEngine(isEndless: true)
    try await application(engine).test(.live) { client in
      let socket = try Socket(port: try #require(client.port))
      let body = #"{\#(Self.question.replacing("50", with: "90000")), "stream": \#(stream)}"#
      try socket.send("POST /v1/messages HTTP/1.1\r\nHost: x\r\nContent-Length: \(body.utf8.count)\r\n\r\n\(body)")
      while engine.asked.withLock({ $0.isEmpty }) { try await Task.sleep(for: .milliseconds(5)) }
      try await Task.sleep(for: .milliseconds(50))
      #expect(engine.cancelled.withLock { $0 } == 0)
      socket.close()
      while engine.cancelled.withLock({ $0 }) == 0 { try await Task.sleep(for: .milliseconds(5)) }
    }
  }
}

@Suite struct AnthropicHeldAnswerTests {
  private static let token = GenerationEvent.token(GeneratedToken(id: 1, text: "a"))

  @Test func theAnswerHasBegunWithItsFirstToken() async throws {
    let (events, sink) = AsyncThrowingStream<GenerationEvent, any Error>.makeStream()
    let held = HeldAnswer(events)
    sink.yield(.started(promptTokens: 3, cached: 1))
    #expect(try await held.hasBegun(within: .milliseconds(20)) == false)
    #expect(try await held.hasBegun(within: .milliseconds(20)) == false)
    sink.yield(Self.token)
    #expect(try await held.hasBegun(within: .seconds(60)))
    sink.yield(Self.token)
    sink.finish()
    var kinds: [String] = []
    try await held.forEach { event in
      switch event {
      case .started: kinds.append("started")
      case .prompt: kinds.append("prompt")
      case .token: kinds.append("token")
      case .finished: kinds.append("finished")
      }
    }
    #expect(kinds == ["started", "token", "token"])
  }

  @Test func anErrorBeforeTheFirstTokenIsThrownAtOnce() async throws {
    let (events, sink) = AsyncThrowingStream<GenerationEvent, any Error>.makeStream()
    let held = HeldAnswer(events)
    sink.yield(.started(promptTokens: 3, cached: 1))
    sink.finish(throwing: FakeEngine.Broken())
    await #expect(throws: FakeEngine.Broken.self) { _ = try await held.hasBegun(within: .seconds(60)) }
  }

  @Test(.timeLimit(.minutes(1))) func cancellingTheWaitCancelsTheAnswer() async throws {
    let (events, sink) = AsyncThrowingStream<GenerationEvent, any Error>.makeStream()
    let (ends, end) = AsyncStream<Void>.makeStream()
    sink.onTermination = { _ in end.finish() }
    let held = HeldAnswer(events)
    let waiting = Task { try await held.hasBegun(within: .seconds(60)) }
    try await Task.sleep(for: .milliseconds(20))
    waiting.cancel()
    await #expect(throws: CancellationError.self) { try await waiting.value }
    for await _ in ends {}
  }

  @Test(.timeLimit(.minutes(1))) func droppingTheAnswerCancelsIt() async throws {
    let (ends, end) = AsyncStream<Void>.makeStream()
    func begin() async throws {
      let (events, sink) = AsyncThrowingStream<GenerationEvent, any Error>.makeStream()
      sink.onTermination = { _ in end.finish() }
      let held = HeldAnswer(events)
      sink.yield(Self.token)
      #expect(try await held.hasBegun(within: .seconds(60)))
    }
    try await begin()
    for await _ in ends {}
  }
}

/// A fake engine whose model writes calls between Hermes' tags.
struct CallingEngine: TextEngine {
  static let call = #"<tool_call>\#n{"name": "get_weather", "arguments": {"city": "Bern"}}\#n</tool_call>"#

  private let engine: FakeEngine
  let chatTemplate: ChatTemplate?

  init(reply: String) {
    engine = FakeEngine(reply: reply)
    chatTemplate = try? ChatTemplate(#"{{ '<tool_call>{"name": …, "arguments": …}</tool_call>' }}"#)
  }

  var name: String { engine.name }
  var contextLength: Int { engine.contextLength }
  var tokenizer: any Tokenizer { engine.tokenizer }
  var vocabulary: VocabularyTrie { engine.vocabulary }
  var stats: EngineStats { engine.stats }
  func tokens(of prompt: Prompt) throws -> [Int32] { try engine.tokens(of: prompt) }
  func stop() { engine.stop() }

  func answer(_ prompt: Prompt, _ options: GenerationOptions, for origin: RequestOrigin) async throws -> AnswerStream {
    try await engine.answer(prompt, options, for: origin)
  }
}
