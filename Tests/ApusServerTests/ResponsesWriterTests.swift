import ApusEngine
import ApusText
import Synchronization
import Testing
import TestSupport

@testable import ApusServer

@Suite struct ResponsesWriterTests {
  /// A writer whose ids are numbered.
  private func writer(_ body: String = #"{"model": "m", "input": "Hi"}"#) throws -> ResponseWriter {
    let request = try ResponseRequest(body: Array(body.utf8), randomSeed: 0) { $0 + "in" }
    let count = Mutex(0)
    return ResponseWriter(id: "resp_1", created: 5, model: "m", request: request, tokenizer: ByteTokenizer()) {
      prefix in
      count.withLock {
        $0 += 1
        return prefix + "\($0)"
      }
    }
  }

  private func end(_ reason: AnswerEnd.Reason = .stop) -> AnswerPart {
    .finished(AnswerEnd(reason: reason, text: "", promptTokens: 7, cachedTokens: 2, completionTokens: 3))
  }

  private func names(_ writer: inout ResponseWriter, _ parts: [AnswerPart]) -> [String] {
    parts.flatMap { writer.events(for: $0) }.map(\.name)
  }

  private static let created =
    #"{"id":"resp_1","object":"response","created_at":5,"status":"in_progress","background":false,"error":null,"#
    + #""incomplete_details":null,"instructions":null,"max_output_tokens":null,"model":"m","output":[],"#
    + #""parallel_tool_calls":true,"previous_response_id":null,"prompt_cache_key":null,"#
    + #""reasoning":{"effort":null,"summary":null},"service_tier":"default","store":true,"temperature":1.0,"#
    + #""text":{"format":{"type":"text"}},"tool_choice":"auto","tools":[],"top_logprobs":0,"top_p":1.0,"#
    + #""truncation":"disabled","usage":null,"user":null,"metadata":{}}"#

  @Test func aTextIsStreamedToTheByte() throws {
    var writer = try writer()
    let parts: [AnswerPart] = [.started(promptTokens: 7, cached: 2), .text("H\"", []), .text("é", []), end()]
    let bytes = parts.flatMap { writer.events(for: $0) }.flatMap { ServerSentEvents.event($0.name, $0.value) }
    let message =
      #"{"id":"msg_1","type":"message","status":"completed","role":"assistant","content":[{"type":"output_text","#
      + #""text":"H\"é","annotations":[],"logprobs":[]}]}"#
    let finished = Self.created.replacing(#""status":"in_progress""#, with: #""status":"completed""#)
      .replacing(#""output":[]"#, with: #""output":[\#(message)]"#)
      .replacing(
        #""usage":null"#,
        with: #""usage":{"input_tokens":7,"input_tokens_details":{"cached_tokens":2},"output_tokens":3,"#
          + #""output_tokens_details":{"reasoning_tokens":0},"total_tokens":10}"#)
    let place = #""item_id":"msg_1","output_index":0,"content_index":0"#
    let expected: [(String, String)] = [
      ("response.created", #""response":\#(Self.created)"#), ("response.in_progress", #""response":\#(Self.created)"#),
      (
        "response.output_item.added",
        #""output_index":0,"item":{"id":"msg_1","type":"message","status":"in_progress","role":"assistant","content":[]}"#
      ),
      (
        "response.content_part.added",
        #"\#(place),"part":{"type":"output_text","text":"","annotations":[],"logprobs":[]}"#
      ),
      ("response.output_text.delta", #"\#(place),"delta":"H\"","logprobs":[]"#),
      ("response.output_text.delta", #"\#(place),"delta":"é","logprobs":[]"#),
      ("response.output_text.done", #"\#(place),"text":"H\"é","logprobs":[]"#),
      (
        "response.content_part.done",
        #"\#(place),"part":{"type":"output_text","text":"H\"é","annotations":[],"logprobs":[]}"#
      ),
      ("response.output_item.done", #""output_index":0,"item":\#(message)"#),
      ("response.completed", #""response":\#(finished)"#),
    ]
    let text = expected.enumerated().map { index, event in
      "event: \(event.0)\ndata: {\"type\":\"\(event.0)\",\"sequence_number\":\(index),\(event.1)}\n\n"
    }.joined()
    #expect(String(decoding: bytes, as: UTF8.self) == text)
    #expect(writer.isFinished)
  }

  @Test func callsAreItemsOfTheirOwn() throws {
    var writer = try writer()
    let parts: [AnswerPart] = [
      .started(promptTokens: 7, cached: 0), .text("So: ", []), .callBegan(index: 0, id: "call_a", name: "f"),
      .callArguments(index: 0, json: #"{"x":"#), .callArguments(index: 0, json: "1}"), .callEnded(index: 0),
      .callBegan(index: 1, id: "call_b", name: "g"), .callArguments(index: 1, json: "{}"), .callEnded(index: 1),
      end(.toolCalls),
    ]
    let events = parts.flatMap { writer.events(for: $0) }
    #expect(
      events.map { String($0.name.dropFirst("response.".count)) } == [
        "created", "in_progress", "output_item.added", "content_part.added", "output_text.delta", "output_text.done",
        "content_part.done", "output_item.done", "output_item.added", "function_call_arguments.delta",
        "function_call_arguments.delta", "function_call_arguments.done", "output_item.done", "output_item.added",
        "function_call_arguments.delta", "function_call_arguments.done", "output_item.done", "completed",
      ])
    #expect(events.map { text($0.value["sequence_number"]) } == events.indices.map(String.init))
    #expect(events.allSatisfy { $0.value["type"]?.string == $0.name })
    #expect(
      text(events[8].value)
        == #"{"type":"response.output_item.added","sequence_number":8,"output_index":1,"item":{"id":"fc_2","#
        + #""type":"function_call","status":"in_progress","call_id":"call_a","name":"f","arguments":""}}"#)
    #expect(
      text(events[9].value)
        == #"{"type":"response.function_call_arguments.delta","sequence_number":9,"item_id":"fc_2","output_index":1,"#
        + #""delta":"{\"x\":"}"#)
    #expect(
      text(events[11].value)
        == #"{"type":"response.function_call_arguments.done","sequence_number":11,"item_id":"fc_2","output_index":1,"#
        + #""name":"f","arguments":"{\"x\":1}"}"#)
    let output = try #require(writer.object["output"]?.items)
    #expect(output.map { $0["type"]?.string } == ["message", "function_call", "function_call"])
    #expect(
      text(output[1])
        == #"{"id":"fc_2","type":"function_call","status":"completed","call_id":"call_a","name":"f","#
        + #""arguments":"{\"x\":1}"}"#)
    #expect(output[2]["call_id"]?.string == "call_b" && writer.object["status"]?.string == "completed")
  }

  @Test func anAnswerThatEndsTooSoonSaysSo() throws {
    var writer = try writer()
    let names = names(&writer, [.started(promptTokens: 7, cached: 0), .text("a", []), end(.length)])
    #expect(names.last == "response.incomplete")
    #expect(writer.object["status"]?.string == "incomplete")
    #expect(text(writer.object["incomplete_details"]) == #"{"reason":"max_output_tokens"}"#)
    #expect(writer.object["output"]?.items?.first?["status"]?.string == "incomplete")

    var cancelled = try self.writer()
    #expect(self.names(&cancelled, [.text("a", []), end(.cancelled)]).last == "response.incomplete")
    #expect(cancelled.object["status"]?.string == "cancelled")
    #expect(text(cancelled.object["incomplete_details"]) == "null")
  }

  @Test func anAnswerWithoutAWordIsAnEmptyMessage() throws {
    var writer = try writer()
    _ = names(&writer, [.started(promptTokens: 7, cached: 0), end()])
    #expect(writer.object["output"]?.items?.map { $0["type"]?.string } == ["message"])
    #expect(writer.object["output"]?.items?.first?["content"]?.items?.first?["text"]?.string == "")
  }

  @Test func aFailureEndsTheStreamAsFailed() throws {
    var writer = try writer()
    _ = names(&writer, [.started(promptTokens: 7, cached: 0), .text("a", [])])
    let events = writer.fail(.stopping)
    #expect(events.map(\.name) == ["response.failed"])
    #expect(text(events[0].value["sequence_number"]) == "5")
    #expect(
      text(events[0].value["response"]?["error"]) == #"{"code":"server_error","message":"the server is stopping"}"#)
    #expect(writer.object["status"]?.string == "failed" && writer.isFinished)
  }

  @Test func logProbabilitiesComeWithTheirDeltas() throws {
    var writer = try writer(
      #"{"model": "m", "input": "a", "include": ["message.output_text.logprobs"], "top_logprobs": 1}"#)
    let report = TokenReport(
      id: 0x61, logProbabilities: .init(chosen: -0.25, top: [.init(token: 0x62, logProbability: -0.125)]))
    let events = writer.events(for: .text("a", [report]))
    let entry =
      #"[{"token":"a","bytes":[97],"logprob":-0.25,"top_logprobs":[{"token":"b","bytes":[98],"logprob":-0.125}]}]"#
    #expect(text(events.last?.value["logprobs"]) == entry)
    _ = writer.events(for: end())
    #expect(text(writer.object["output"]?.items?.first?["content"]?.items?.first?["logprobs"]) == entry)
    #expect(text(writer.object["top_logprobs"]) == "1")
  }

  @Test func aResponseRepeatsItsRequest() throws {
    let writer = try writer(
      #"""
      {"model": "m", "input": "a", "instructions": "Be brief.", "max_output_tokens": 9, "temperature": 0, "top_p": 0,
       "metadata": {"k": "v"}, "parallel_tool_calls": false, "previous_response_id": "resp_0", "store": false,
       "prompt_cache_key": "key", "user": "someone", "tools": [{"type": "function", "name": "f", "parameters": {}}],
       "tool_choice": {"type": "function", "name": "f"}, "text": {"format": {"type": "json_schema", "name": "n",
       "schema": {"type": "object"}, "strict": true}}}
      """#)
    let fields: [(String, String)] = [
      ("instructions", #""Be brief.""#), ("max_output_tokens", "9"), ("temperature", "0.0"), ("top_p", "0.0"),
      ("metadata", #"{"k":"v"}"#), ("parallel_tool_calls", "false"), ("previous_response_id", #""resp_0""#),
      ("store", "false"), ("prompt_cache_key", #""key""#), ("user", #""someone""#),
      ("tools", #"[{"type":"function","name":"f","parameters":{}}]"#),
      ("tool_choice", #"{"type":"function","name":"f"}"#),
      ("text", #"{"format":{"type":"json_schema","name":"n","schema":{"type":"object"},"strict":true}}"#),
    ]
    for (name, value) in fields { #expect(text(writer.object[name]) == value, "\(name)") }
  }
}
