import ApusEngine
import ApusText
import Testing

@testable import ApusServer

@Suite struct OllamaRequestTests {
  private func chat(_ fields: String, messages: String = #"[{"role": "user", "content": "Hi"}]"#) throws
    -> OllamaRequest
  {
    try OllamaRequest(
      .chat, body: Array(#"{"model": "fake", "messages": \#(messages), \#(fields)}"#.utf8), randomSeed: 42)
  }

  private func generate(_ fields: String) throws -> OllamaRequest {
    try OllamaRequest(.generate, body: Array(#"{"model": "fake", \#(fields)}"#.utf8), randomSeed: 42)
  }

  private func expectError(
    _ field: String, _ code: String = "invalid_value", sourceLocation: SourceLocation = #_sourceLocation,
    _ body: () throws -> some Any
  ) {
    do {
      _ = try body()
      Issue.record("\(field) was accepted", sourceLocation: sourceLocation)
    } catch let error as OpenAIError {
      #expect(error.param == field, "\(error.message)", sourceLocation: sourceLocation)
      #expect(error.code == code, "\(error.message)", sourceLocation: sourceLocation)
      #expect(error.message.contains(field) && error.status == .badRequest, sourceLocation: sourceLocation)
    } catch {
      Issue.record("\(field): \(error)", sourceLocation: sourceLocation)
    }
  }

  @Test func theLeastRequestHasOllamasDefaults() throws {
    let request = try chat(#""keep_alive": "5m""#)
    #expect(
      request.options
        == GenerationOptions(
          sampling: SamplingOptions(
            temperature: 0.8, topK: 40, topP: 0.9, repetitionPenalty: 1.1, repetitionWindow: 64, seed: 42)))
    #expect(request.stream && request.format == .text && request.model == "fake" && request.plainPrompt == nil)
    guard case .chat(let messages, nil)? = request.prompt else { Issue.record("no chat"); return }
    #expect(try JinjaValue.list(messages).json == #"[{"role": "user", "content": "Hi"}]"#)
  }

  @Test func optionsReachTheEngine() throws {
    let request = try chat(
      #"""
      "stream": false, "logprobs": true, "top_logprobs": 3, "format": {"type": "object"}, "think": false,
      "keep_alive": 0, "options": {"temperature": 0.25, "top_k": 4.0, "top_p": 0.5, "min_p": 0.125, "typical_p": 0.75,
      "seed": -3, "num_predict": 9, "stop": ["a", "b"], "repeat_penalty": 1.5, "repeat_last_n": -1,
      "presence_penalty": 1, "frequency_penalty": -1.5, "num_ctx": 2048, "num_thread": 3}
      """#)
    #expect(
      request.options
        == GenerationOptions(
          sampling: SamplingOptions(
            temperature: 0.25, topK: 4, topP: 0.5, minP: 0.125, typicalP: 0.75, repetitionPenalty: 1.5,
            presencePenalty: 1, frequencyPenalty: -1.5, seed: UInt64(bitPattern: -3)), maxTokens: 9, stop: ["a", "b"],
          logProbabilities: 3))
    #expect(!request.stream && request.format == .jsonSchema(["type": "object"]))
    let other = try chat(#""options": {"top_k": 0, "seed": -1, "num_predict": -2, "stop": "x", "repeat_last_n": 0}"#)
    #expect(other.options.sampling.topK == nil && other.options.sampling.seed == 42)
    #expect(other.options.maxTokens == nil && other.options.stop == ["x"])
    #expect(other.options.sampling.repetitionWindow == 0)
    #expect(try chat(#""format": "json""#).format == .jsonObject)
    #expect(try chat(#""format": """#).format == .text)
  }

  @Test func modelsAreNamedWithOrWithoutATag() throws {
    for (fields, name) in [
      (#""model": "a:latest""#, "a"), (#""model": "a:7b""#, "a:7b"), (#""name": "a""#, "a"),
    ] {
      #expect(try OllamaRequest(.generate, body: Array("{\(fields)}".utf8), randomSeed: 1).model == name)
    }
    for fields in [#""model": """#, #""prompt": "a""#] {
      expectError("model", "missing_required_parameter") {
        try OllamaRequest(.generate, body: Array("{\(fields)}".utf8), randomSeed: 1)
      }
    }
  }

  @Test func callsAndTheirResultsGetIDs() throws {
    let request = try chat(
      #""tools": [{"function": {"name": "f"}}, {"type": "function", "function": {"name": "g", "parameters": {}}}]"#,
      messages: #"""
        [{"role": "system", "content": "s"}, {"role": "user", "content": "u"},
         {"role": "assistant", "tool_calls": [
           {"function": {"name": "f", "arguments": {"x": 1}}}, {"function": {"name": "g", "arguments": {}}}]},
         {"role": "tool", "tool_name": "g", "content": "2"}, {"role": "tool", "content": "1"},
         {"role": "tool", "content": "?"},
         {"role": "assistant", "content": "", "tool_calls": [{"function": {"name": "f", "arguments": {}}}]},
         {"role": "tool", "content": "3"}]
        """#)
    guard case .chat(let messages, let tools?)? = request.prompt else { Issue.record("no chat"); return }
    func call(_ id: Int, _ name: String, _ arguments: String) -> String {
      #"{"id": "call_\#(id)", "type": "function", "function": {"name": "\#(name)", "arguments": \#(arguments)}}"#
    }
    #expect(
      try JinjaValue.list(messages).json
        == #"[{"role": "system", "content": "s"}, {"role": "user", "content": "u"}, "#
        + #"{"role": "assistant", "content": "", "tool_calls": [\#(call(0, "f", #"{"x": 1}"#)), \#(call(1, "g", "{}"))]}, "#
        + #"{"role": "tool", "content": "2", "name": "g", "tool_call_id": "call_1"}, "#
        + #"{"role": "tool", "content": "1", "tool_call_id": "call_0"}, {"role": "tool", "content": "?"}, "#
        + #"{"role": "assistant", "content": "", "tool_calls": [\#(call(2, "f", "{}"))]}, "#
        + #"{"role": "tool", "content": "3", "tool_call_id": "call_2"}]"#)
    #expect(
      try tools.json
        == #"[{"function": {"name": "f"}, "type": "function"}, "#
        + #"{"type": "function", "function": {"name": "g", "parameters": {}}}]"#)
  }

  @Test func aGenerationReadsAPrompt() throws {
    let plain = try generate(#""prompt": "a", "system": "", "template": "", "suffix": "", "context": []"#)
    guard case .chat(let messages, nil)? = plain.prompt else { Issue.record("no chat"); return }
    #expect(try JinjaValue.list(messages).json == #"[{"role": "user", "content": "a"}]"#)
    #expect(plain.plainPrompt == "a")
    let system = try generate(#""prompt": "a", "system": "s""#)
    guard case .chat(let both, nil)? = system.prompt else { Issue.record("no chat"); return }
    #expect(
      try JinjaValue.list(both).json == #"[{"role": "system", "content": "s"}, {"role": "user", "content": "a"}]"#)
    #expect(system.plainPrompt == nil)
    guard case .text("a")? = try generate(#""prompt": "a", "raw": true"#).prompt else {
      Issue.record("not raw")
      return
    }
    #expect(try generate(#""prompt": """#).prompt == nil)
    #expect(try generate(#""stream": true"#).prompt == nil)
    #expect(try chat(#""x": 1"#, messages: "[]").prompt == nil)
    #expect(try chat(#""x": 1"#, messages: "null").prompt == nil)
  }

  @Test func wrongFieldsAreNamed() {
    for (fields, field) in [
      (#""stream": 1"#, "stream"), (#""format": "xml""#, "format"), (#""format": 1"#, "format"),
      (#""think": true"#, "think"), (#""think": "high""#, "think"), (#""keep_alive": true"#, "keep_alive"),
      (#""logprobs": 1"#, "logprobs"), (#""top_logprobs": 3"#, "top_logprobs"),
      (#""logprobs": true, "top_logprobs": 21"#, "top_logprobs"), (#""options": 1"#, "options"),
      (#""options": {"temperature": "hot"}"#, "options.temperature"),
      (#""options": {"temperature": -1}"#, "options.temperature"), (#""options": {"top_k": 1.5}"#, "options.top_k"),
      (#""options": {"top_p": 2}"#, "options.top_p"), (#""options": {"min_p": -1}"#, "options.min_p"),
      (#""options": {"typical_p": 0}"#, "options.typical_p"), (#""options": {"seed": "x"}"#, "options.seed"),
      (#""options": {"num_predict": "x"}"#, "options.num_predict"), (#""options": {"num_ctx": 0}"#, "options.num_ctx"),
      (#""options": {"stop": 1}"#, "options.stop"), (#""options": {"stop": ["a", 1]}"#, "options.stop.1"),
      (#""options": {"repeat_penalty": 0}"#, "options.repeat_penalty"),
      (#""options": {"repeat_last_n": -2}"#, "options.repeat_last_n"),
      (#""options": {"presence_penalty": 3}"#, "options.presence_penalty"),
      (#""options": {"frequency_penalty": -3}"#, "options.frequency_penalty"), (#""tools": 1"#, "tools"),
      (#""tools": [1]"#, "tools.0"), (#""tools": [{"function": 1}]"#, "tools.0.function"),
    ] {
      expectError(field) { try chat(fields) }
    }
    for (messages, field) in [
      (#""Hi""#, "messages"), ("[1]", "messages.0"), (#"[{"content": "a"}]"#, "messages.0.role"),
      (#"[{"role": "queen"}]"#, "messages.0.role"), (#"[{"role": "user", "content": []}]"#, "messages.0.content"),
      (#"[{"role": "user", "content": "a", "images": ["AA=="]}]"#, "messages.0.images"),
      (#"[{"role": "assistant", "tool_calls": 1}]"#, "messages.0.tool_calls"),
      (#"[{"role": "assistant", "tool_calls": [1]}]"#, "messages.0.tool_calls.0"),
      (
        #"[{"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": "{}"}}]}]"#,
        "messages.0.tool_calls.0.function.arguments"
      ),
      (#"[{"role": "tool", "tool_name": 1}]"#, "messages.0.tool_name"),
    ] {
      expectError(field) { try chat(#""x": 1"#, messages: messages) }
    }
    for (messages, field) in [
      (#"[{"role": "assistant", "tool_calls": [{}]}]"#, "messages.0.tool_calls.0.function"),
      (#"[{"role": "assistant", "tool_calls": [{"function": {}}]}]"#, "messages.0.tool_calls.0.function.name"),
      (
        #"[{"role": "assistant", "tool_calls": [{"function": {"name": "f"}}]}]"#,
        "messages.0.tool_calls.0.function.arguments"
      ),
    ] {
      expectError(field, "missing_required_parameter") { try chat(#""x": 1"#, messages: messages) }
    }
    for (fields, field) in [
      (#""tools": [{}]"#, "tools.0.function"), (#""tools": [{"function": {}}]"#, "tools.0.function.name"),
    ] {
      expectError(field, "missing_required_parameter") { try chat(fields) }
    }
    for (fields, field) in [
      (#""prompt": 1"#, "prompt"), (#""prompt": "a", "suffix": "b""#, "suffix"),
      (#""template": "{{ x }}""#, "template"),
      (#""prompt": "a", "context": [1]"#, "context"), (#""prompt": "a", "images": ["AA=="]"#, "images"),
      (#""prompt": "a", "raw": true, "system": "s""#, "system"), (#""raw": 1"#, "raw"), (#""system": 1"#, "system"),
    ] {
      expectError(field) { try generate(fields) }
    }
  }

  @Test func embeddingRequestsAreRead() throws {
    let request = try OllamaEmbedRequest(
      body: Array(#"{"model": "e:latest", "input": ["a", "b"], "truncate": false, "dimensions": 2}"#.utf8))
    #expect(request.model == "e" && request.inputs == ["a", "b"] && !request.isTruncating && request.dimensions == 2)
    #expect(try OllamaEmbedRequest(body: Array(#"{"model": "e", "input": "a"}"#.utf8)).inputs == ["a"])
    #expect(try OllamaEmbedRequest(olderBody: Array(#"{"model": "e", "prompt": "a"}"#.utf8)).inputs == ["a"])
    for (fields, field) in [
      (#""input": 1"#, "input"), (#""input": ["a", [1]]"#, "input.1"), (#""input": "a", "truncate": 1"#, "truncate"),
      (#""input": "a", "dimensions": 0"#, "dimensions"), (#""input": "a", "keep_alive": []"#, "keep_alive"),
    ] {
      expectError(field) { try OllamaEmbedRequest(body: Array(#"{"model": "e", \#(fields)}"#.utf8)) }
    }
    expectError("input", "missing_required_parameter") {
      try OllamaEmbedRequest(body: Array(#"{"model": "e"}"#.utf8))
    }
    expectError("prompt", "missing_required_parameter") {
      try OllamaEmbedRequest(olderBody: Array(#"{"model": "e"}"#.utf8))
    }
  }
}
