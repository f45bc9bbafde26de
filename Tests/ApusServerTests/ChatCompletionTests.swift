import ApusEngine
import ApusModels
import ApusText
import Foundation
import Hummingbird
import HummingbirdTesting
import Logging
import Testing

@testable import ApusServer

@Suite struct ChatCompletionTests {
  private static let question = #""messages": [{"role": "user", "content": "Hi"}]"#

  private func post(
    _ engine: FakeEngine, _ body: String, limit: Int = 1 << 20,
    _ check: @Sendable @escaping (TestResponse) async throws -> Void
  ) async throws {
    let server = try Server([engine], .init(bodyLimit: limit), logger: .quiet)
    try await server.application().test(.router) { client in
      try await client.execute(
        uri: "/v1/chat/completions", method: .post, body: ByteBuffer(string: body)
      ) { try await check($0) }
    }
  }

  private func expectError(
    _ body: String, engine: FakeEngine = FakeEngine(), limit: Int = 1 << 20, _ status: HTTPResponse.Status,
    param: String? = nil, code: String?, sourceLocation: SourceLocation = #_sourceLocation
  ) async throws {
    try await post(engine, body, limit: limit) { response in
      #expect(response.status == status, "\(body)", sourceLocation: sourceLocation)
      let error = try JSONDecoder().decode(OpenAIError.Body.self, from: response.body).error
      #expect(error.param == param, "\(error)", sourceLocation: sourceLocation)
      #expect(error.code == code, "\(error)", sourceLocation: sourceLocation)
      #expect(!error.message.isEmpty, sourceLocation: sourceLocation)
    }
  }

  private func events(_ response: TestResponse) -> [String] {
    var events = String(buffer: response.body).components(separatedBy: "\n\n")
    #expect(events.removeLast().isEmpty)
    return events.map { event in
      #expect(event.hasPrefix("data: "))
      return String(event.dropFirst(6))
    }
  }

  private func chunks(_ events: [String]) throws -> [ChatCompletionChunk] {
    try events.filter { $0 != "[DONE]" }.map {
      try JSONDecoder().decode(ChatCompletionChunk.self, from: Data($0.utf8))
    }
  }

  // MARK: answers

  @Test func aWholeAnswerHasTextReasonAndUsage() async throws {
    try await post(FakeEngine(), #"{"model": "fake", \#(Self.question)}"#) { response in
      #expect(response.status == .ok)
      #expect(response.headers[.contentType]?.hasPrefix("application/json") == true)
      let answer = try JSONDecoder().decode(ChatCompletion.self, from: response.body)
      #expect(answer.id.hasPrefix("chatcmpl-"))
      #expect(answer.object == "chat.completion")
      #expect(answer.model == "fake")
      #expect(answer.choices.map(\.message) == [.init(content: "Hé!")])
      #expect(answer.choices[0].finishReason == "stop")
      #expect(answer.usage == Usage(promptTokens: 7, completionTokens: 4))
      #expect(abs(answer.created - Int(Date().timeIntervalSince1970)) < 60)
    }
  }

  @Test func aStreamBeginsWithTheRoleAndEndsWithReasonUsageAndDone() async throws {
    let body = #"{"model": "fake", \#(Self.question), "stream": true, "stream_options": {"include_usage": true}}"#
    try await post(FakeEngine(), body) { response in
      #expect(response.status == .ok)
      #expect(response.headers[.contentType]?.hasPrefix("text/event-stream") == true)
      let events = events(response)
      #expect(events.last == "[DONE]")
      let chunks = try chunks(events)
      #expect(chunks.first?.choices[0].delta.role == "assistant")
      #expect(chunks.compactMap { $0.choices.first?.delta.content } == ["", "H", "é", "!"])
      #expect(chunks.map { $0.choices.first?.finishReason } == [nil, nil, nil, nil, "stop", nil])
      #expect(chunks.last?.choices.isEmpty == true)
      #expect(chunks.last?.usage == Usage(promptTokens: 7, completionTokens: 4))
      #expect(Set(chunks.map(\.id)).count == 1)
      // The reason is null, not absent, until the end.
      #expect(events[1].contains(#""finish_reason":null"#))
    }
    try await post(FakeEngine(), #"{"model": "fake", \#(Self.question), "stream": true}"#) { response in
      let chunks = try chunks(events(response))
      #expect(chunks.allSatisfy { $0.usage == nil })
    }
  }

  @Test func stopStringsAndLimitsEndTheAnswer() async throws {
    for (fields, text, reason) in [
      (#""stop": "é""#, "H", "stop"), (#""stop": ["x", "!"]"#, "Hé", "stop"), (#""max_tokens": 1"#, "H", "length"),
      (#""max_completion_tokens": 3"#, "Hé", "length"), (#""max_tokens": null"#, "Hé!", "stop"),
    ] {
      try await post(FakeEngine(), #"{"model": "fake", \#(Self.question), \#(fields)}"#) { response in
        let answer = try JSONDecoder().decode(ChatCompletion.self, from: response.body)
        #expect(answer.choices[0].message.content == text, "\(fields)")
        #expect(answer.choices[0].finishReason == reason, "\(fields)")
      }
    }
  }

  @Test func logProbabilitiesComeWithTokensAndBytes() async throws {
    let fields = #""model": "fake", \#(Self.question), "logprobs": true, "top_logprobs": 2"#
    try await post(FakeEngine(), "{\(fields)}") { response in
      let answer = try JSONDecoder().decode(ChatCompletion.self, from: response.body)
      let content = try #require(answer.choices[0].logprobs?.content)
      #expect(content.count == 4)
      #expect(content[0].token == "H" && content[0].bytes == [72] && content[0].logprob == -0.5)
      #expect(content[0].topLogprobs.map(\.token) == ["A", "B"])
    }
    // In a stream every token's report comes exactly once, also that of half a character.
    try await post(FakeEngine(), #"{\#(fields), "stream": true}"#) { response in
      let entries = try chunks(events(response)).flatMap { $0.choices.first?.logprobs?.content ?? [] }
      #expect(entries.flatMap(\.bytes) == Array("Hé!".utf8))
    }
  }

  @Test func parametersReachTheEngine() async throws {
    let engine = FakeEngine()
    let body = #"""
      {"model": "fake", \#(Self.question), "temperature": 0.25, "top_p": 0.5, "seed": -3, "presence_penalty": 1,
       "frequency_penalty": -1.5, "logit_bias": {"65": 100, "66": -100}, "max_tokens": 9, "stop": ["a", "b"],
       "top_k": 4, "min_p": 0.125, "repetition_penalty": 1.5, "ignore_eos": true, "user": "someone"}
      """#
    try await post(engine, body) { #expect($0.status == .ok) }
    let (prompt, options) = try #require(engine.asked.withLock { $0.first })
    guard case .chat(let messages, let tools) = prompt else { Issue.record("no chat"); return }
    #expect(messages.count == 1 && tools == nil)
    #expect(
      options.sampling
        == SamplingOptions(
          temperature: 0.25, topK: 4, topP: 0.5, minP: 0.125, repetitionPenalty: 1.5, presencePenalty: 1,
          frequencyPenalty: -1.5, logitBias: [65: 100, 66: -100], seed: UInt64(bitPattern: -3)))
    #expect(options.maxTokens == 9 && options.stop == ["a", "b"] && options.ignoreEOS)
  }

  @Test func messagesReachTheTemplateAsItKnowsThem() async throws {
    let engine = FakeEngine()
    let body = #"""
      {"model": "fake", "messages": [
        {"role": "developer", "content": "Be brief."},
        {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
        {"role": "assistant", "content": null, "tool_calls": [
          {"id": "1", "type": "function", "function": {"name": "f", "arguments": "{\"x\": 1, \"a\": 2}"}}]},
        {"role": "tool", "tool_call_id": "1", "content": "done"}],
       "tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}]}
      """#
    try await post(engine, body) { #expect($0.status == .ok) }
    let (prompt, _) = try #require(engine.asked.withLock { $0.first })
    guard case .chat(let messages, let tools) = prompt else { Issue.record("no chat"); return }
    #expect(
      try JinjaValue.list(messages).json
        == #"[{"role": "system", "content": "Be brief."}, {"role": "user", "content": "ab"}, "#
        + #"{"role": "assistant", "content": "", "tool_calls": [{"id": "1", "type": "function", "#
        + #""function": {"name": "f", "arguments": {"x": 1, "a": 2}}}]}, "#
        + #"{"role": "tool", "tool_call_id": "1", "content": "done"}]"#)
    #expect(
      try tools?.json
        == #"[{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}]"#)
  }

  // MARK: errors

  @Test func brokenBodiesAreNamed() async throws {
    for body in ["", "{", "[]", #"{"model": "fake", "messages": ["#, "\u{1}"] {
      try await expectError(body, .badRequest, code: "invalid_json")
    }
    try await expectError("{\"model\": \"f\u{0}\"}", .badRequest, code: "invalid_json")
    let q = Self.question
    try await expectError("{\(q)}", .badRequest, param: "model", code: "missing_required_parameter")
    try await expectError(#"{"model": "fake"}"#, .badRequest, param: "messages", code: "missing_required_parameter")
    try await expectError(#"{"model": "other", \#(q)}"#, .notFound, param: "model", code: "model_not_found")
    for (fields, param) in [
      (#""temperature": "hot""#, "temperature"), (#""temperature": -1"#, "temperature"),
      (#""temperature": 2.5"#, "temperature"), (#""top_p": 7"#, "top_p"), (#""max_tokens": -5"#, "max_tokens"),
      (#""max_tokens": 1.5"#, "max_tokens"), (#""seed": "x""#, "seed"), (#""stream": 1"#, "stream"),
      (#""stop": [1]"#, "stop.0"), (#""stop": 3"#, "stop"), (#""n": 2"#, "n"),
      (#""logit_bias": {"x": 1}"#, "logit_bias"), (#""logit_bias": {"1": 101}"#, "logit_bias.1"),
      (#""top_logprobs": 3"#, "top_logprobs"), (#""logprobs": true, "top_logprobs": 21"#, "top_logprobs"),
      (#""stream_options": 3"#, "stream_options"), (#""tools": {}"#, "tools"),
      (#""response_format": {"type": "xml"}"#, "response_format.type"),
      (#""guided_regex": "(""#, "guided_regex"),
    ] {
      try await expectError(
        #"{"model": "fake", \#(q), \#(fields)}"#, .badRequest, param: param, code: "invalid_value")
    }
    for (messages, param, code) in [
      ("[]", "messages", "invalid_value"), (#""hello""#, "messages", "invalid_value"),
      ("[1]", "messages.0", "invalid_value"), (#"[{"content": "a"}]"#, "messages.0.role", "missing_required_parameter"),
      (#"[{"role": "queen", "content": "a"}]"#, "messages.0.role", "invalid_value"),
      (#"[{"role": "user"}]"#, "messages.0.content", "missing_required_parameter"),
      (#"[{"role": "user", "content": "a"}, {"role": "user", "content": 3}]"#, "messages.1.content", "invalid_value"),
      (
        #"[{"role": "user", "content": [{"type": "image_url"}]}]"#, "messages.0.content.0.type", "invalid_value"
      ),
    ] {
      try await expectError(
        #"{"model": "fake", "messages": \#(messages)}"#, .badRequest, param: param, code: code)
    }
  }

  @Test func theEnginesErrorsHaveTheRightStatus() async throws {
    let body = #"{"model": "fake", \#(Self.question)}"#
    for stream in ["", #", "stream": true"#] {
      let body = body.dropLast() + stream + "}"
      try await expectError(
        String(body), engine: FakeEngine(failure: RunnerError.contextOverflow(tokens: 5000, contextLength: 4096)),
        .badRequest, param: "messages", code: "context_length_exceeded")
      try await expectError(
        String(body), engine: FakeEngine(failure: GenerationError.stopped), .serviceUnavailable, code: "server_stopping"
      )
      try await expectError(
        String(body), engine: FakeEngine(failure: FakeEngine.Broken()), .internalServerError, code: "internal_error")
    }
    try await expectError(
      #"{"model": "fake", "x": "\#(String(repeating: "y", count: 2000))", \#(Self.question)}"#, limit: 1000,
      .contentTooLarge, code: "request_too_large")
  }

  @Test func aStreamThatBreaksLooksBroken() async throws {
    let body = #"{"model": "fake", \#(Self.question), "stream": true}"#
    try await post(FakeEngine(breakAfter: 1), body) { response in
      let events = events(response)
      #expect(events.last != "[DONE]")
      #expect(events.last?.contains(#""code":"internal_error""#) == true)
    }
  }

  @Test func unknownRoutesAndMethodsHaveTheSameShape() async throws {
    try await Server([FakeEngine()], logger: .quiet).application().test(.router) { client in
      try await client.execute(uri: "/v1/nothing", method: .post) { response in
        #expect(response.status == .notFound)
        let error = try JSONDecoder().decode(OpenAIError.Body.self, from: response.body).error
        #expect(error.message.contains("/v1/nothing"))
      }
    }
  }

  // MARK: other routes

  @Test func modelsAreListedAndFound() async throws {
    try await Server([FakeEngine()], logger: .quiet).application().test(.router) { client in
      try await client.execute(uri: "/health", method: .get) { #expect($0.status == .ok) }
      try await client.execute(uri: "/v1/models", method: .get) { response in
        let list = try JSONDecoder().decode(ModelList.self, from: response.body)
        #expect(list.object == "list")
        #expect(list.data.map(\.id) == ["fake"] && list.data[0].ownedBy == "apus")
      }
      try await client.execute(uri: "/v1/models/fake", method: .get) { #expect($0.status == .ok) }
      try await client.execute(uri: "/v1/models/none", method: .get) { response in
        #expect(response.status == .notFound)
        #expect(String(buffer: response.body).contains("none"))
      }
    }
  }

  // MARK: connections

  /// Over a real socket: the answer of a client that hangs up is cancelled.
  @Test(.timeLimit(.minutes(1)), arguments: [true, false])
  func hangingUpCancelsTheAnswer(stream: Bool) async throws {
    let engine = FakeEngine(isEndless: true)
    try await Server([engine], .init(port: 0), logger: .quiet).application().test(.live) { client in
      let port = try #require(client.port)
      let socket = try Socket(port: port)
      let body = #"{"model": "fake", \#(Self.question), "stream": \#(stream)}"#
      try socket.send(
        "POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: \(body.utf8.count)\r\n\r\n\(body)")
      while engine.asked.withLock({ $0.isEmpty }) { try await Task.sleep(for: .milliseconds(5)) }
      try await Task.sleep(for: .milliseconds(50))
      #expect(engine.cancelled.withLock { $0 } == 0)
      socket.close()
      while engine.cancelled.withLock({ $0 }) == 0 { try await Task.sleep(for: .milliseconds(5)) }
    }
  }

  /// Over a real socket: a client that only closes its half could read on, but reads no further answer.
  @Test(.timeLimit(.minutes(1))) func closingOneHalfCancelsTheStream() async throws {
    let engine = FakeEngine(isEndless: true)
    try await Server([engine], .init(port: 0), logger: .quiet).application().test(.live) { client in
      let socket = try ReadingSocket(port: try #require(client.port))
      let body = #"{"model": "fake", \#(Self.question), "stream": true}"#
      try socket.send(
        "POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: \(body.utf8.count)\r\n\r\n\(body)")
      _ = try await socket.read(until: #""content":"x""#)
      #expect(engine.cancelled.withLock { $0 } == 0)
      socket.closeOutput()
      while engine.cancelled.withLock({ $0 }) == 0 { try await Task.sleep(for: .milliseconds(5)) }
      socket.close()
    }
  }

  /// Over a real socket: a body that does not come to its end is an error, and its connection ends.
  @Test(.timeLimit(.minutes(1))) func aBodyThatIsTooSlowIsRefused() async throws {
    let router = Router(context: ServerContext.self)
    router.add(middleware: ErrorMiddleware(bodyLimit: 100))
    router.post("slow") { request, context in
      String(buffer: try await context.body(of: request, upTo: 100, within: 1))
    }
    try await Application(
      router: router, configuration: .init(address: .hostname("127.0.0.1", port: 0)), logger: .quiet
    )
    .test(.live) { client in
      let socket = try ReadingSocket(port: try #require(client.port))
      try socket.send("POST /slow HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc")
      #expect(try await socket.read(until: "abc").hasPrefix("HTTP/1.1 200"))
      try socket.send("POST /slow HTTP/1.1\r\nHost: x\r\nContent-Length: 50\r\n\r\na")
      let start = ContinuousClock.now
      #expect(try await socket.read(until: "request_timeout").contains("HTTP/1.1 408"))
      #expect(ContinuousClock.now - start > .milliseconds(900))
      await #expect(throws: ReadingSocket.Failed.self) { try await socket.read(until: "more") }
      socket.close()
    }
  }
}

/// A plain TCP connection to this machine.
struct Socket {
  private let descriptor: Int32

  struct Failed: Error {}

  init(port: Int) throws {
    descriptor = socket(AF_INET, Int32(SOCK_STREAM.rawValue), 0)
    var address = sockaddr_in()
    address.sin_family = sa_family_t(AF_INET)
    address.sin_port = in_port_t(port).bigEndian
    address.sin_addr.s_addr = inet_addr("127.0.0.1")
    let result = withUnsafePointer(to: &address) {
      $0.withMemoryRebound(to: sockaddr.self, capacity: 1) {
        connect(descriptor, $0, socklen_t(MemoryLayout<sockaddr_in>.size))
      }
    }
    if result != 0 { throw Failed() }
  }

  func send(_ text: String) throws {
    let bytes = Array(text.utf8)
    if write(descriptor, bytes, bytes.count) != bytes.count { throw Failed() }
  }

  func close() { Foundation.close(descriptor) }
}
