import ApusText
import Testing

@testable import ApusServer

@Suite struct AnthropicWriterTests {
  private static func end(_ reason: AnswerEnd.Reason, text: String = "") -> AnswerPart {
    .finished(AnswerEnd(reason: reason, text: text, promptTokens: 12, cachedTokens: 5, completionTokens: 3))
  }

  private static let call: [AnswerPart] = [
    .callBegan(index: 0, id: "toolu_1", name: "weather"), .callArguments(index: 0, json: #"{"city": "#),
    .callArguments(index: 0, json: #""Zürich"}"#), .callEnded(index: 0),
    .callBegan(index: 1, id: "toolu_2", name: "now"), .callArguments(index: 1, json: "{}"), .callEnded(index: 1),
  ]

  private func stream(_ parts: [AnswerPart]) -> String {
    var writer = MessagesWriter(id: "msg_1", model: "fake")
    return String(decoding: parts.flatMap { writer.events(for: $0) }, as: UTF8.self)
  }

  private func whole(_ parts: [AnswerPart]) -> String? {
    var writer = MessagesWriter(id: "msg_1", model: "fake")
    var message: JinjaValue?
    for part in parts { message = writer.message(for: part) }
    return message.map { String(decoding: CompactJSON.bytes($0), as: UTF8.self) }
  }

  private static let start = """
    event: message_start
    data: {"type":"message_start","message":{"id":"msg_1","type":"message","role":"assistant","model":"fake",\
    "content":[],"stop_reason":null,"stop_sequence":null,"usage":{"input_tokens":7,"cache_creation_input_tokens":0,\
    "cache_read_input_tokens":5,"output_tokens":0}}}


    """

  private static func close(_ reason: String, sequence: String = "null") -> String {
    """
    event: message_delta
    data: {"type":"message_delta","delta":{"stop_reason":"\(reason)","stop_sequence":\(sequence)},\
    "usage":{"input_tokens":7,"cache_creation_input_tokens":0,"cache_read_input_tokens":5,"output_tokens":3}}

    event: message_stop
    data: {"type":"message_stop"}


    """
  }

  @Test func aTextIsOneBlockOfDeltas() {
    let parts: [AnswerPart] = [
      .started(promptTokens: 12, cached: 5), .text("", []), .text("Hi \"you\"", []), .text("\n\u{1}é", []),
      Self.end(.stop),
    ]
    #expect(
      stream(parts) == Self.start + #"""
        event: content_block_start
        data: {"type":"content_block_start","index":0,"content_block":{"type":"text","text":""}}

        event: content_block_delta
        data: {"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"Hi \"you\""}}

        event: content_block_delta
        data: {"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"\n\u0001é"}}

        event: content_block_stop
        data: {"type":"content_block_stop","index":0}


        """# + Self.close("end_turn"))
    #expect(
      whole(parts) == #"{"id":"msg_1","type":"message","role":"assistant","model":"fake","#
        + #""content":[{"type":"text","text":"Hi \"you\"\n\u0001é"}],"stop_reason":"end_turn","stop_sequence":null,"#
        + #""usage":{"input_tokens":7,"cache_creation_input_tokens":0,"cache_read_input_tokens":5,"output_tokens":3}}"#)
  }

  @Test func callsAreBlocksOfTheirOwn() {
    let parts =
      [.started(promptTokens: 12, cached: 5), .text("Let me see.", [])] + Self.call + [Self.end(.toolCalls)]
    #expect(
      stream(parts) == Self.start + #"""
        event: content_block_start
        data: {"type":"content_block_start","index":0,"content_block":{"type":"text","text":""}}

        event: content_block_delta
        data: {"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"Let me see."}}

        event: content_block_stop
        data: {"type":"content_block_stop","index":0}

        event: content_block_start
        data: {"type":"content_block_start","index":1,"content_block":{"type":"tool_use","id":"toolu_1","name":"weather","input":{}}}

        event: content_block_delta
        data: {"type":"content_block_delta","index":1,"delta":{"type":"input_json_delta","partial_json":"{\"city\": "}}

        event: content_block_delta
        data: {"type":"content_block_delta","index":1,"delta":{"type":"input_json_delta","partial_json":"\"Zürich\"}"}}

        event: content_block_stop
        data: {"type":"content_block_stop","index":1}

        event: content_block_start
        data: {"type":"content_block_start","index":2,"content_block":{"type":"tool_use","id":"toolu_2","name":"now","input":{}}}

        event: content_block_delta
        data: {"type":"content_block_delta","index":2,"delta":{"type":"input_json_delta","partial_json":"{}"}}

        event: content_block_stop
        data: {"type":"content_block_stop","index":2}


        """# + Self.close("tool_use"))
    let content =
      #"[{"type":"text","text":"Let me see."},{"type":"tool_use","id":"toolu_1","name":"weather","#
      + #""input":{"city":"Zürich"}},{"type":"tool_use","id":"toolu_2","name":"now","input":{}}]"#
    #expect(whole(parts)?.contains(#""content":\#(content),"stop_reason":"tool_use""#) == true)
  }

  @Test func textAfterACallIsANewBlock() {
    let parts: [AnswerPart] =
      [.started(promptTokens: 12, cached: 5)] + Self.call.prefix(4) + [.text("a", []), .text("b", []), Self.end(.stop)]
    #expect(whole(parts)?.contains(#""input":{"city":"Zürich"}},{"type":"text","text":"ab"}]"#) == true)
    #expect(stream(parts).contains(#""index":1,"delta":{"type":"text_delta","text":"b"}"#))
  }

  @Test func everyReasonHasItsName() {
    for (reason, name) in [
      (AnswerEnd.Reason.stop, "end_turn"), (.length, "max_tokens"), (.stopSequence, "stop_sequence"),
      (.toolCalls, "tool_use"),
    ] {
      #expect(stream([Self.end(reason)]) == Self.close(name))
      #expect(whole([Self.end(reason)])?.contains(#""content":[],"stop_reason":"\#(name)""#) == true)
    }
    var end = AnswerEnd(reason: .stopSequence, text: "", promptTokens: 12, cachedTokens: 5, completionTokens: 3)
    end.stopSequence = "\n"
    #expect(stream([.finished(end)]) == Self.close("stop_sequence", sequence: #""\n""#))
  }

  @Test func aCancelledAnswerNeverLooksWhole() {
    let text = stream([.started(promptTokens: 12, cached: 5), .text("a", []), Self.end(.cancelled)])
    #expect(
      text.hasSuffix(
        "event: error\n"
          + #"data: {"type":"error","error":{"type":"api_error","message":"the answer was cancelled"}}"# + "\n\n"))
    #expect(!text.contains("message_stop") && !text.contains("message_delta"))
    #expect(whole([Self.end(.cancelled)]) == nil)
  }

  @Test func argumentsThatWereCutAreAnEmptyObject() {
    let parts: [AnswerPart] = [
      .callBegan(index: 0, id: "toolu_1", name: "f"), .callArguments(index: 0, json: #"{"a": "#), .callEnded(index: 0),
      Self.end(.length),
    ]
    #expect(whole(parts)?.contains(#""name":"f","input":{}}"#) == true)
  }
}
