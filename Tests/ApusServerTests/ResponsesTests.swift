import ApusEngine
import ApusModels
import ApusText
import Foundation
import HTTPTypes
import HummingbirdTesting
import Testing

@testable import ApusServer

@Suite struct ResponsesTests {
  private static let path = "/v1/responses"

  private func create(_ host: DialectHost, _ fields: String) async throws -> JinjaValue {
    let response = try await host.send(Self.path, #"{"model": "fake", \#(fields)}"#)
    #expect(response.status == .ok, "\(response.text)")
    return try response.json
  }

  private func messages(_ host: DialectHost) throws -> String {
    let (prompt, _) = try #require(host.engine.asked.withLock { $0.last })
    guard case .chat(let messages, _) = prompt else { throw FakeEngine.Broken() }
    return text(.list(messages))
  }

  private func events(_ text: String) throws -> [(name: String, value: JinjaValue)] {
    var events = text.components(separatedBy: "\n\n")
    #expect(events.removeLast().isEmpty)
    return try events.map { event in
      let lines = event.split(separator: "\n")
      let name = try #require(lines.first?.dropFirst("event: ".count))
      return (String(name), try JinjaValue(json: String(lines[1].dropFirst("data: ".count))))
    }
  }

  // MARK: answers

  @Test func aWholeResponseHasTextStatusAndUsage() async throws {
    let object = try await create(DialectHost(), #""input": "Hi", "metadata": {"a": "b"}"#)
    #expect(object["object"]?.string == "response" && object["status"]?.string == "completed")
    #expect(object["output"]?.items?.first?["content"]?.items?.first?["text"]?.string == "Hé!")
    #expect(text(object["usage"]?["total_tokens"]) == "11" && text(object["metadata"]) == #"{"a":"b"}"#)
    let id = try #require(object["id"]?.string)
    #expect(id.hasPrefix("resp_") && ResponseID.key(in: id) != nil && id.count == 5 + 16 + 24)
  }

  @Test func aStreamTellsEveryStepInOrder() async throws {
    let response = try await DialectHost().send(Self.path, #"{"model": "fake", "input": "Hi", "stream": true}"#)
    #expect(response.headers[.contentType]?.hasPrefix("text/event-stream") == true)
    let events = try events(response.text)
    #expect(
      events.map { String($0.name.dropFirst("response.".count)) } == [
        "created", "in_progress", "output_item.added", "content_part.added", "output_text.delta", "output_text.delta",
        "output_text.delta", "output_text.done", "content_part.done", "output_item.done", "completed",
      ])
    #expect(events.map { text($0.value["sequence_number"]) } == events.indices.map(String.init))
    #expect(events.allSatisfy { $0.value["type"]?.string == $0.name })
    #expect(events.compactMap { $0.value["delta"]?.string }.joined() == "Hé!")
  }

  @Test func aStreamThatBreaksEndsAsFailed() async throws {
    let host = DialectHost(engine: FakeEngine(breakAfter: 1))
    let events = try events(
      try await host.send(Self.path, #"{"model": "fake", "input": "Hi", "stream": true}"#).text)
    #expect(events.last?.name == "response.failed")
    let id = try #require(events.first?.value["response"]?["id"]?.string)
    #expect(try await host.send("\(Self.path)/\(id)", method: .get).json["status"]?.string == "failed")
  }

  @Test func limitsAndStopStringsEndTheAnswer() async throws {
    let short = try await create(DialectHost(), #""input": "Hi", "max_output_tokens": 1"#)
    #expect(short["status"]?.string == "incomplete")
    let stopped = try await create(DialectHost(), #""input": "Hi", "stop": "!""#)
    #expect(stopped["status"]?.string == "completed")
    #expect(stopped["output"]?.items?.first?["content"]?.items?.first?["text"]?.string == "Hé")
    let none = try await create(DialectHost(), #""input": "Hi", "max_output_tokens": 0"#)
    #expect(none["status"]?.string == "incomplete")
  }

  @Test func itemsBecomeTheMessagesThatTemplatesKnow() async throws {
    let host = DialectHost()
    _ = try await create(
      host,
      #"""
      "instructions": "Be brief.", "input": [
        {"role": "developer", "content": "D"},
        {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "a"},
          {"type": "input_text", "text": "b"}]},
        {"type": "reasoning", "id": "rs_1", "summary": []},
        {"role": "assistant", "content": [{"type": "output_text", "text": "c"}]},
        {"type": "function_call", "call_id": "1", "name": "f", "arguments": "{\"x\": 1}"},
        {"type": "function_call", "call_id": "2", "name": "g", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "2", "output": "two"},
        {"type": "function_call_output", "call_id": "1", "output": [{"type": "input_text", "text": "one"}]},
        {"type": "function_call", "call_id": "3", "name": "f", "arguments": "{}"}]
      """#)
    #expect(
      try messages(host)
        == #"[{"role":"system","content":"Be brief."},{"role":"system","content":"D"},"#
        + #"{"role":"user","content":"ab"},{"role":"assistant","content":"c","tool_calls":["#
        + #"{"id":"1","type":"function","function":{"name":"f","arguments":{"x":1}}},"#
        + #"{"id":"2","type":"function","function":{"name":"g","arguments":{}}}]},"#
        + #"{"role":"tool","tool_call_id":"2","name":"g","content":"two"},"#
        + #"{"role":"tool","tool_call_id":"1","name":"f","content":"one"},"#
        + #"{"role":"assistant","content":"","tool_calls":["#
        + #"{"id":"3","type":"function","function":{"name":"f","arguments":{}}}]}]"#)
  }

  @Test func toolsReachTheTemplateUnlessNoneMayBeCalled() async throws {
    let tool =
      #"{"type": "function", "name": "f", "description": "d", "parameters": {"type": "object"}, "strict": true}"#
    for (choice, expected) in [
      (
        #""auto""#,
        #"[{"type":"function","function":{"name":"f","description":"d","parameters":{"type":"object"},"strict":true}}]"#
      ), (#""none""#, ""),
    ] {
      let host = DialectHost()
      _ = try await create(host, #""input": "a", "tools": [\#(tool)], "tool_choice": \#(choice)"#)
      guard case .chat(_, let tools)? = host.engine.asked.withLock({ $0.first?.0 }) else {
        Issue.record("no chat")
        return
      }
      #expect(text(tools) == expected)
    }
  }

  @Test func parametersReachTheEngine() async throws {
    let host = DialectHost()
    _ = try await create(
      host,
      #"""
      "input": "a", "temperature": 0.5, "top_p": 0.25, "seed": 3, "top_k": 2, "max_output_tokens": 9, "stop": ["x"],
      "include": ["message.output_text.logprobs", "reasoning.encrypted_content"], "top_logprobs": 2,
      "truncation": "disabled", "background": false, "service_tier": "auto", "reasoning": {"effort": "low"}
      """#)
    let (_, options) = try #require(host.engine.asked.withLock { $0.first })
    #expect(options.sampling == SamplingOptions(temperature: 0.5, topK: 2, topP: 0.25, seed: 3))
    #expect(options.maxTokens == 9 && options.stop == ["x"] && options.logProbabilities == 2)
  }

  @Test func formatsAreRead() throws {
    for (body, expected) in [
      ("{}", AnswerFormat.text), (#"{"format": {"type": "text"}}"#, .text),
      (#"{"format": {"type": "json_object"}}"#, .jsonObject),
      (
        #"{"format": {"type": "json_schema", "name": "n", "schema": {"type": "object"}}}"#,
        .jsonSchema(["type": "object"])
      ),
    ] {
      let request = try ResponseRequest(
        body: Array(#"{"model": "m", "input": "a", "text": \#(body)}"#.utf8), randomSeed: 0)
      #expect(request.format == expected)
    }
  }

  // MARK: the store

  @Test func aResponseCanBeReadListedAndDeleted() async throws {
    let host = DialectHost()
    let object = try await create(
      host, #""input": [{"role": "user", "content": "a"}, {"role": "user", "content": "b"}]"#)
    let path = "\(Self.path)/\(try #require(object["id"]?.string))"
    #expect(text(try await host.send(path, method: .get).json) == text(object))
    #expect(text(try await host.send(path + "/cancel").json) == text(object))

    func page(_ query: String) async throws -> (texts: [String?], more: String, last: String?) {
      let list = try await host.send("\(path)/input_items\(query)", method: .get).json
      #expect(list["object"]?.string == "list")
      return (
        (list["data"]?.items ?? []).map { $0["content"]?.items?.first?["text"]?.string }, text(list["has_more"]),
        list["last_id"]?.string
      )
    }
    #expect(try await page("").texts == ["b", "a"])
    #expect(try await page("?order=asc").texts == ["a", "b"])
    let first = try await page("?limit=1")
    #expect(first.texts == ["b"] && first.more == "true")
    #expect(try await page("?limit=1&after=\(try #require(first.last))").texts == ["a"])
    for (query, param) in [("limit=0", "limit"), ("limit=x", "limit"), ("order=up", "order"), ("after=x", "after")] {
      try await host.expectError(
        "\(path)/input_items?\(query)", "", method: .get, .badRequest, param: param, code: "invalid_value")
    }
    try await host.expectError(
      "\(path)?stream=true", "", method: .get, .badRequest, param: "stream", code: "invalid_value")

    let deleted = try await host.send(path, method: .delete).json
    #expect(text(deleted) == #"{"id":\#(text(object["id"])),"object":"response","deleted":true}"#)
    for (method, suffix) in [(HTTPRequest.Method.get, ""), (.delete, ""), (.post, "/cancel"), (.get, "/input_items")] {
      try await host.expectError(
        path + suffix, "", method: method, .notFound, param: "response_id", code: "response_not_found")
    }
  }

  @Test func aConversationGoesOnFromWhatWasStored() async throws {
    let host = DialectHost()
    let first = try await create(host, #""input": "one", "instructions": "I""#)
    let second = try await create(host, #""input": "two", "previous_response_id": \#(text(first["id"]))"#)
    _ = try await create(host, #""input": "three", "previous_response_id": \#(text(second["id"]))"#)
    // Instructions are of their own turn only.
    #expect(
      try messages(host)
        == #"[{"role":"user","content":"one"},{"role":"assistant","content":"Hé!"},{"role":"user","content":"two"},"#
        + #"{"role":"assistant","content":"Hé!"},{"role":"user","content":"three"}]"#)
    // The key by which a proxy finds the conversation goes on, too.
    #expect(ResponseID.key(in: second["id"]?.string ?? "") == ResponseID.key(in: first["id"]?.string ?? "-"))
  }

  @Test func aCallOfAnEarlierResponseCanBeAnswered() async throws {
    let host = DialectHost()
    let first = try await create(
      host,
      #""input": [{"role": "user", "content": "a"}, {"type": "function_call", "call_id": "1", "name": "f", "arguments": "{}"}]"#
    )
    _ = try await create(
      host,
      #""input": [{"type": "function_call_output", "call_id": "1", "output": "x"}], "previous_response_id": \#(text(first["id"]))"#
    )
    #expect(try messages(host).hasSuffix(#"{"role":"tool","tool_call_id":"1","name":"f","content":"x"}]"#))
  }

  @Test func nothingIsKeptOfWhatIsNotToBeStored() async throws {
    for (host, fields) in [(DialectHost(), #", "store": false"#), (DialectHost(store: nil), "")] {
      let object = try await create(host, #""input": "a"\#(fields)"#)
      #expect(text(object["store"]) == "false")
      let id = try #require(object["id"]?.string)
      try await host.expectError(
        "\(Self.path)/\(id)", "", method: .get, .notFound, param: "response_id", code: "response_not_found")
      try await host.expectError(
        Self.path, #"{"model": "fake", "input": "a", "previous_response_id": "\#(id)"}"#, .badRequest,
        param: "previous_response_id", code: "previous_response_not_found")
    }
  }

  @Test func nobodySeesTheResponsesOfAnother() async throws {
    let store = MemoryResponseStore()
    let object = try await create(DialectHost(store: store, principal: "ada"), #""input": "a""#)
    let path = "\(Self.path)/\(try #require(object["id"]?.string))"
    let other = DialectHost(store: store, principal: "bob")
    for (method, suffix) in [(HTTPRequest.Method.get, ""), (.delete, ""), (.post, "/cancel"), (.get, "/input_items")] {
      try await other.expectError(
        path + suffix, "", method: method, .notFound, param: "response_id", code: "response_not_found")
    }
    #expect(try await DialectHost(store: store, principal: "ada").send(path, method: .get).status == .ok)
  }

  @Test func aStoreThatFailsIsAnErrorAndNoSilentLoss() async throws {
    let host = DialectHost(store: MemoryResponseStore(isFull: true))
    try await host.expectError(
      Self.path, #"{"model": "fake", "input": "a"}"#, .internalServerError, code: "internal_error")
    let events = try events(
      try await host.send(Self.path, #"{"model": "fake", "input": "a", "stream": true}"#).text)
    #expect(events.last?.name == "response.failed")
    #expect(!events.contains { $0.name == "response.completed" })
  }

  /// Over a real socket: a second connection ends the answer of the first.
  @Test(.timeLimit(.minutes(1))) func aRunningResponseCanBeReadAndCancelled() async throws {
    let host = DialectHost(engine: FakeEngine(isEndless: true))
    try await host.run(.live) { client in
      let port = try #require(client.port)
      let socket = try ReadingSocket(port: port)
      let body = #"{"model": "fake", "input": "Hi", "stream": true}"#
      try socket.send("POST \(Self.path) HTTP/1.1\r\nHost: x\r\nContent-Length: \(body.utf8.count)\r\n\r\n\(body)")
      let head = try await socket.read(until: "response.output_text.delta")
      let id = try #require(head.firstMatch(of: /resp_[0-9a-z]+/)?.output)
      let path = "\(Self.path)/\(id)"
      let running = try await client.execute(uri: path, method: .get) { try $0.json }
      #expect(running["status"]?.string == "in_progress")
      let cancelled = try await client.execute(uri: path + "/cancel", method: .post) { try $0.json }
      #expect(cancelled["status"]?.string == "cancelled")
      let rest = try await socket.read(until: "event: response.incomplete")
      #expect(!rest.contains("response.completed"))
      // The last chunk of a body that ended well.
      _ = try await socket.read(until: "\r\n0\r\n\r\n")
      socket.close()
      let stored = try await client.execute(uri: path, method: .get) { try $0.json }
      #expect(stored["status"]?.string == "cancelled")
      while host.engine.cancelled.withLock({ $0 }) == 0 { try await Task.sleep(for: .milliseconds(5)) }
    }
  }

  // MARK: ids

  @Test func idsCarryTheKeyOfTheirConversation() {
    let key = "0123456789abcdef"
    let id = ResponseID.make(affinity: key, previous: "resp_ffffffffffffffff1")
    #expect(id.hasPrefix("resp_" + key))
    #expect(ResponseID.make(affinity: nil, previous: id).hasPrefix("resp_" + key))
    // The test vectors of the hash's authors.
    #expect(ResponseID.key(for: "") == "cbf29ce484222325")
    #expect(ResponseID.key(for: "a") == "af63dc4c8601ec8c")
    #expect(ResponseID.key(for: "foobar") == "85944171f73967e8")
    for wrong in ["", "resp_", "resp_0123", "resp_0123456789ABCDEF", "msg_0123456789abcdef", "resp_0123456789abcdeg"] {
      #expect(ResponseID.key(in: wrong) == nil)
    }
    #expect(Set((0..<100).map { _ in ResponseID.make(affinity: key, previous: nil) }).count == 100)
  }

  // MARK: errors

  @Test func wrongFieldsAreNamed() async throws {
    let host = DialectHost()
    for body in ["", "{", "[]"] { try await host.expectError(Self.path, body, .badRequest, code: "invalid_json") }
    try await host.expectError(
      Self.path, #"{"input": "a"}"#, .badRequest, param: "model", code: "missing_required_parameter")
    try await host.expectError(
      Self.path, #"{"model": "other", "input": "a"}"#, .notFound, param: "model", code: "model_not_found")
    let tool = #"{"type": "function", "name": "f"}"#
    let missing = "missing_required_parameter"
    let invalid = "invalid_value"
    for (field, param) in wrongSamplingFields + [
      (#""instructions": 1"#, "instructions"), (#""previous_response_id": 1"#, "previous_response_id"),
      (#""prompt_cache_key": 1"#, "prompt_cache_key"), (#""store": 1"#, "store"), (#""user": 1"#, "user"),
      (#""background": true"#, "background"), (#""background": 1"#, "background"),
      (#""truncation": "auto""#, "truncation"), (#""conversation": "c""#, "conversation"), (#""prompt": {}"#, "prompt"),
      (#""parallel_tool_calls": 1"#, "parallel_tool_calls"), (#""max_output_tokens": -1"#, "max_output_tokens"),
      (#""max_output_tokens": 1.5"#, "max_output_tokens"), (#""top_logprobs": 21"#, "top_logprobs"),
      (#""include": 1"#, "include"), (#""include": [1]"#, "include.0"), (#""metadata": 1"#, "metadata"),
      (#""metadata": {"a": 1}"#, "metadata.a"),
      (#""metadata": {"a": "\#(String(repeating: "x", count: 513))"}"#, "metadata.a"),
      (#""metadata": {"\#(String(repeating: "x", count: 65))": "a"}"#, "metadata"),
      (#""metadata": {\#((0..<17).map { #""k\#($0)": """# }.joined(separator: ","))}"#, "metadata"),
      (#""tools": {}"#, "tools"), (#""tools": [1]"#, "tools.0"),
      (#""tools": [{"type": "web_search"}]"#, "tools.0.type"),
      (#""tools": [{"type": "function", "name": "f", "parameters": 1}]"#, "tools.0.parameters"),
      (#""tools": [{"type": "function", "name": "f", "strict": 1}]"#, "tools.0.strict"),
      (#""tool_choice": 1"#, "tool_choice"), (#""tool_choice": "required""#, "tool_choice"),
      (#""tools": [\#(tool)], "tool_choice": {"type": "mcp"}"#, "tool_choice.type"),
      (#""tools": [\#(tool)], "tool_choice": {"type": "function", "name": "g"}"#, "tool_choice.name"),
      (#""text": 1"#, "text"), (#""text": {"format": 1}"#, "text.format"),
      (#""text": {"format": {"type": "xml"}}"#, "text.format.type"), (#""text": {"format": {}}"#, "text.format.type"),
      (#""text": {"format": {"type": "json_schema", "name": "n", "schema": 1}}"#, "text.format.schema"),
    ] {
      try await host.expectError(
        Self.path, #"{"model": "fake", "input": "a", \#(field)}"#, .badRequest, param: param, code: invalid)
    }
    for (field, param) in [
      (#""tools": [{}]"#, "tools.0.type"), (#""tools": [{"type": "function"}]"#, "tools.0.name"),
      (#""tools": [\#(tool)], "tool_choice": {"type": "function"}"#, "tool_choice.name"),
      (#""text": {"format": {"type": "json_schema", "schema": {}}}"#, "text.format.name"),
      (#""text": {"format": {"type": "json_schema", "name": "n"}}"#, "text.format.schema"),
    ] {
      try await host.expectError(
        Self.path, #"{"model": "fake", "input": "a", \#(field)}"#, .badRequest, param: param, code: missing)
    }
  }

  @Test func wrongItemsAreNamed() async throws {
    let host = DialectHost()
    let missing = "missing_required_parameter"
    let invalid = "invalid_value"
    try await host.expectError(Self.path, #"{"model": "fake"}"#, .badRequest, param: "input", code: missing)
    for (input, param, code) in [
      ("1", "input", invalid), ("[]", "input", invalid), ("[1]", "input.0", invalid),
      (#"[{"content": "a"}]"#, "input.0.role", missing),
      (#"[{"role": "queen", "content": "a"}]"#, "input.0.role", invalid),
      (#"[{"role": "user"}]"#, "input.0.content", missing),
      (#"[{"role": "user", "content": 1}]"#, "input.0.content", invalid),
      (#"[{"role": "user", "content": [1]}]"#, "input.0.content.0", invalid),
      (#"[{"role": "user", "content": [{"type": "input_image"}]}]"#, "input.0.content.0.type", invalid),
      (#"[{"role": "user", "content": [{"type": "input_text"}]}]"#, "input.0.content.0.text", missing),
      (#"[{"type": "item_reference", "id": "x"}]"#, "input.0.type", invalid),
      (#"[{"type": "function_call", "name": "f", "arguments": "{}"}]"#, "input.0.call_id", missing),
      (#"[{"type": "function_call", "call_id": "1", "arguments": "{}"}]"#, "input.0.name", missing),
      (#"[{"type": "function_call", "call_id": "1", "name": "f"}]"#, "input.0.arguments", missing),
      (#"[{"type": "function_call", "call_id": "1", "name": "f", "arguments": "{"}]"#, "input.0.arguments", invalid),
      (#"[{"type": "function_call_output", "output": "a"}]"#, "input.0.call_id", missing),
      (#"[{"type": "function_call_output", "call_id": "1"}]"#, "input.0.output", missing),
      (
        #"[{"role": "user", "content": "a"}, {"type": "function_call_output", "call_id": "1", "output": "a"}]"#,
        "input.1.call_id", invalid
      ),
    ] {
      try await host.expectError(
        Self.path, #"{"model": "fake", "input": \#(input)}"#, .badRequest, param: param, code: code)
    }
  }

  @Test func theEnginesErrorsAreAboutTheInput() async throws {
    for stream in ["false", "true"] {
      let overflow = FakeEngine(failure: RunnerError.contextOverflow(tokens: 50, contextLength: 40))
      try await DialectHost(engine: overflow).expectError(
        Self.path, #"{"model": "fake", "input": "a", "stream": \#(stream)}"#, .badRequest, param: "input",
        code: "context_length_exceeded")
    }
  }
}
