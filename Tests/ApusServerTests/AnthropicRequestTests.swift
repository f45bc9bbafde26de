import ApusEngine
import ApusText
import Testing

@testable import ApusServer

@Suite struct AnthropicRequestTests {
  private func request(_ fields: String, messages: String = #"[{"role": "user", "content": "Hi"}]"#) throws
    -> MessagesRequest
  {
    try MessagesRequest(
      body: Array(#"{"model": "fake", "max_tokens": 9, "messages": \#(messages), \#(fields)}"#.utf8), randomSeed: 42)
  }

  private func expectError(
    _ field: String, _ code: String = "invalid_value", sourceLocation: SourceLocation = #_sourceLocation,
    _ body: () throws -> MessagesRequest
  ) {
    do {
      _ = try body()
      Issue.record("\(field) was accepted", sourceLocation: sourceLocation)
    } catch let error as OpenAIError {
      #expect(error.param == field, "\(error.message)", sourceLocation: sourceLocation)
      #expect(error.code == code, "\(error.message)", sourceLocation: sourceLocation)
      #expect(error.message.contains(field), "\(error.message)", sourceLocation: sourceLocation)
      #expect(error.status == .badRequest, sourceLocation: sourceLocation)
    } catch {
      Issue.record("\(field): \(error)", sourceLocation: sourceLocation)
    }
  }

  @Test func theLeastRequestHasTheDefaults() throws {
    let request = try request(#""metadata": {"user_id": "x"}"#)
    #expect(request.options == GenerationOptions(sampling: SamplingOptions(seed: 42), maxTokens: 9))
    #expect(!request.stream && request.format == .text)
    #expect(
      request.prompt.tools.choice == .auto && request.prompt.tools.allowsParallelCalls
        && request.prompt.tools.offered == nil)
    #expect(try JinjaValue.list(request.prompt.messages).json == #"[{"role": "user", "content": "Hi"}]"#)
  }

  @Test func parametersReachTheEngine() throws {
    let request = try request(
      #""temperature": 0.25, "top_p": 0.5, "top_k": 4, "stop_sequences": ["a", "b"], "stream": true, "#
        + #""thinking": {"type": "disabled"}, "#
        + #""output_config": {"format": {"type": "json_schema", "schema": {"type": "object"}}}"#)
    #expect(
      request.options
        == GenerationOptions(
          sampling: SamplingOptions(temperature: 0.25, topK: 4, topP: 0.5, seed: 42), maxTokens: 9, stop: ["a", "b"]))
    #expect(request.stream)
    #expect(request.format == .jsonSchema(["type": "object"]))
    #expect(try self.request(#""top_k": 0, "top_p": 0"#).options.sampling.topK == nil)
    #expect(try self.request(#""top_p": 0"#).options.sampling.topP == .leastNonzeroMagnitude)
  }

  @Test func messagesReachTheTemplateInOpenAIsForm() throws {
    let request = try request(
      #"""
      "system": [{"type": "text", "text": "Be brief.", "cache_control": {"type": "ephemeral"}},
                 {"type": "text", "text": "Be kind."}],
      "tools": [{"name": "f", "description": "d", "input_schema": {"type": "object"}},
                {"type": "custom", "name": "g-2", "input_schema": {}}],
      "tool_choice": {"type": "auto", "disable_parallel_tool_use": true}
      """#,
      messages: #"""
        [{"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
         {"role": "user", "content": "c"},
         {"role": "assistant", "content": [
           {"type": "thinking", "thinking": "hm", "signature": "s"}, {"type": "text", "text": "Let me see."},
           {"type": "tool_use", "id": "1", "name": "f", "input": {"x": 1, "a": 2}},
           {"type": "tool_use", "id": "2", "name": "g-2", "input": {}}]},
         {"role": "user", "content": [
           {"type": "tool_result", "tool_use_id": "2", "content": [{"type": "text", "text": "two"}]},
           {"type": "tool_result", "tool_use_id": "1", "is_error": true},
           {"type": "text", "text": "Well?"}]}]
        """#)
    #expect(
      try JinjaValue.list(request.prompt.messages).json
        == #"[{"role": "system", "content": "Be brief.\nBe kind."}, {"role": "user", "content": "a\nb\n\nc"}, "#
        + #"{"role": "assistant", "content": "Let me see.", "tool_calls": [{"id": "1", "type": "function", "#
        + #""function": {"name": "f", "arguments": {"x": 1, "a": 2}}}, {"id": "2", "type": "function", "#
        + #""function": {"name": "g-2", "arguments": {}}}]}, "#
        + #"{"role": "tool", "tool_call_id": "2", "content": "two"}, "#
        + #"{"role": "tool", "tool_call_id": "1", "content": ""}, {"role": "user", "content": "Well?"}]"#)
    #expect(
      try request.prompt.tools.offered?.json
        == #"[{"type": "function", "function": {"name": "f", "description": "d", "parameters": {"type": "object"}}}, "#
        + #"{"type": "function", "function": {"name": "g-2", "parameters": {}}}]"#)
    #expect(!request.prompt.tools.allowsParallelCalls)
  }

  @Test func theToolChoiceIsRead() throws {
    let tools = #""tools": [{"name": "f", "input_schema": {}}]"#
    for (choice, expected) in [
      (#"{"type": "any"}"#, AnswerTools.Choice.required), (#"{"type": "tool", "name": "f"}"#, .function("f")),
      (#"{"type": "auto"}"#, .auto),
    ] {
      let read = try request(#"\#(tools), "tool_choice": \#(choice)"#).prompt.tools
      #expect(read.choice == expected && read.offered != nil && read.allowsParallelCalls)
    }
    let none = try request(#"\#(tools), "tool_choice": {"type": "none"}"#).prompt.tools
    #expect(none.choice == .none && none.offered == nil)
    expectError("tool_choice.name") { try request(#"\#(tools), "tool_choice": {"type": "tool", "name": "h"}"#) }
    expectError("tool_choice.name", "missing_required_parameter") {
      try request(#"\#(tools), "tool_choice": {"type": "tool"}"#)
    }
    expectError("tools", "missing_required_parameter") { try request(#""tool_choice": {"type": "any"}"#) }
    expectError("tool_choice.type") { try request(#"\#(tools), "tool_choice": {"type": "some"}"#) }
    expectError("tool_choice.type") { try request(#"\#(tools), "tool_choice": {}"#) }
    expectError("tool_choice") { try request(#"\#(tools), "tool_choice": "auto""#) }
  }

  @Test func wrongFieldsAreNamed() {
    for (fields, field) in [
      (#""temperature": 1.5"#, "temperature"), (#""temperature": "hot""#, "temperature"), (#""top_p": -1"#, "top_p"),
      (#""top_k": -1"#, "top_k"), (#""top_k": 1.5"#, "top_k"), (#""stream": 1"#, "stream"),
      (#""stop_sequences": "a""#, "stop_sequences"), (#""stop_sequences": ["a", 1]"#, "stop_sequences.1"),
      (#""stop_sequences": [""]"#, "stop_sequences.0"), (#""thinking": {"type": "enabled"}"#, "thinking.type"),
      (#""thinking": {}"#, "thinking.type"), (#""thinking": true"#, "thinking"), (#""max_tokens": -1"#, "max_tokens"),
      (#""max_tokens": 1.5"#, "max_tokens"), (#""max_tokens": "many""#, "max_tokens"), (#""system": 1"#, "system"),
      (#""system": [{"type": "image"}]"#, "system.0.type"), (#""tools": {}"#, "tools"), (#""tools": [1]"#, "tools.0"),
      (#""tools": [{"type": "web_search_20250305", "name": "web_search"}]"#, "tools.0.type"),
      (#""tools": [{"name": "a b", "input_schema": {}}]"#, "tools.0.name"),
      (#""tools": [{"name": "", "input_schema": {}}]"#, "tools.0.name"),
      (#""tools": [{"name": "a", "input_schema": []}]"#, "tools.0.input_schema"),
      (#""tools": [{"name": "a", "input_schema": {}, "description": 1}]"#, "tools.0.description"),
      (#""output_config": {"format": {"type": "text"}}"#, "output_config.format.type"),
      (#""output_config": 1"#, "output_config"), (#""output_format": {}"#, "output_format.type"),
    ] {
      expectError(field) { try request(fields) }
    }
    for (fields, field) in [
      (#""model": null"#, "model"), (#""max_tokens": null"#, "max_tokens"), (#""messages": null"#, "messages"),
      (#""tools": [{"input_schema": {}}]"#, "tools.0.name"), (#""tools": [{"name": "a"}]"#, "tools.0.input_schema"),
      (#""output_config": {"format": {"type": "json_schema"}}"#, "output_config.format.schema"),
    ] {
      expectError(field, "missing_required_parameter") { try request(fields) }
    }
  }

  @Test func wrongMessagesAreNamed() {
    let call = #"{"role": "user", "content": "a"}, {"role": "assistant", "content": ["#
    for (messages, field) in [
      ("[]", "messages"), (#""Hi""#, "messages"), ("[1]", "messages.0"),
      (#"[{"role": "system", "content": "a"}]"#, "messages.0.role"), (#"[{"content": "a"}]"#, "messages.0.role"),
      (#"[{"role": "user", "content": 1}]"#, "messages.0.content"),
      (#"[{"role": "user", "content": []}]"#, "messages.0.content"),
      (#"[{"role": "user", "content": [1]}]"#, "messages.0.content.0"),
      (#"[{"role": "user", "content": [{"type": "image", "source": {}}]}]"#, "messages.0.content.0.type"),
      (#"[{"role": "user", "content": [{"text": "a"}]}]"#, "messages.0.content.0.type"),
      (#"[{"role": "user", "content": [{"type": "text", "text": 1}]}]"#, "messages.0.content.0.text"),
      (
        #"[{"role": "user", "content": [{"type": "tool_result", "tool_use_id": "1"}]}]"#,
        "messages.0.content.0.tool_use_id"
      ),
      (
        #"[\#(call){"type": "tool_use", "id": "1", "name": "f", "input": {}}]}, "#
          + #"{"role": "user", "content": [{"type": "tool_result", "tool_use_id": "1", "content": 1}]}]"#,
        "messages.2.content.0.content"
      ),
      (
        #"[\#(call){"type": "tool_use", "id": "1", "name": "f", "input": {}}]}, "#
          + #"{"role": "user", "content": [{"type": "tool_result", "tool_use_id": "1", "is_error": 1}]}]"#,
        "messages.2.content.0.is_error"
      ),
      (#"[\#(call){"type": "tool_use", "id": "1", "name": "f", "input": "{}"}]}]"#, "messages.1.content.0.input"),
      (#"[\#(call){"type": "image"}]}]"#, "messages.1.content.0.type"),
      (#"[{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]"#, "messages.1.role"),
    ] {
      expectError(field) { try request(#""x": 1"#, messages: messages) }
    }
    for (messages, field) in [
      (#"[{"role": "user"}]"#, "messages.0.content"),
      (#"[{"role": "user", "content": [{"type": "text"}]}]"#, "messages.0.content.0.text"),
      (#"[{"role": "user", "content": [{"type": "tool_result"}]}]"#, "messages.0.content.0.tool_use_id"),
      (#"[\#(call){"type": "tool_use", "name": "f", "input": {}}]}]"#, "messages.1.content.0.id"),
      (#"[\#(call){"type": "tool_use", "id": "1", "input": {}}]}]"#, "messages.1.content.0.name"),
      (#"[\#(call){"type": "tool_use", "id": "1", "name": "f"}]}]"#, "messages.1.content.0.input"),
    ] {
      expectError(field, "missing_required_parameter") { try request(#""x": 1"#, messages: messages) }
    }
  }
}
