import ApusTools
import Testing

/// What streaming parsers are known to get wrong, each with a report of it.
@Suite struct KnownFaults {
  private static func check(
    _ answer: String, _ dialect: ToolCallDialect = .hermes, tools: [String] = [], is parts: [Part],
    sourceLocation: SourceLocation = #_sourceLocation
  ) {
    for pieces in [[answer], answer.scalars] {
      let reading = Reading(pieces, dialect, tools: tools, sourceLocation: sourceLocation)
      #expect(reading.parts == parts, sourceLocation: sourceLocation)
    }
  }

  @Test(
    "Pieces hold nothing but what was written: no bracket is closed ahead of the model",
    .bug("https://github.com/vllm-project/vllm/issues/10395"))
  func noInventedBrackets() {
    let pieces = [
      "<tool_call>", "\n", "{\"", "name", "\":", " \"", "get_current_weather", "\",", " \"", "arguments", "\":", " {\"",
      "city",
      "\":", " \"", "Dallas", "\",", " \"", "unit", "\":", " \"", "f", "\"}}\n", "</tool_call>",
    ]
    var parser = ToolCallParser(dialect: .hermes)
    var sent = ""
    for piece in pieces {
      for case .arguments(_, let json) in parser.append(piece) { sent += json }
      #expect(pieces.joined().contains(sent))
    }
    #expect(sent == #"{"city": "Dallas", "unit": "f"}"#)
  }

  @Test(
    "Braces that are never closed inside a string do not break the call",
    .bug("https://github.com/vllm-project/vllm/issues/21544"))
  func openBracesInString() {
    Self.check(
      #"<tool_call>{"name": "shell", "arguments": {"command": "mkdir -p test/{test1,test2"}}</tool_call>"#,
      is: [.call("shell", #"{"command": "mkdir -p test/{test1,test2"}"#)])
  }

  @Test(
    "Closing braces and brackets inside a string do not end the arguments",
    .bug("https://github.com/vllm-project/vllm/pull/45389"))
  func closingBracesInString() {
    Self.check(
      #"{"name": "f", "parameters": {"city": "a } b ]}}", "q": "\"}"}}"#, .llama3,
      is: [.call("f", #"{"city": "a } b ]}}", "q": "\"}"}"#)])
  }

  @Test(
    "The name before the arguments is streamed like any call",
    .bug("https://github.com/vllm-project/vllm/issues/20028"))
  func nameBeforeArguments() {
    Self.check(#"[TOOL_CALLS]add[ARGS]{"a": 3, "b": 4}"#, .mistral, is: [.call("add", #"{"a": 3, "b": 4}"#)])
  }

  @Test(
    "Integers, and several calls in a list, come out whole",
    .bug("https://github.com/vllm-project/vllm/issues/17585"))
  func integersInList() {
    Self.check(
      #"[TOOL_CALLS] [{"name": "add", "arguments": {"a": 3, "b": 4}}, "#
        + #"{"name": "add", "arguments": {"a": 10, "b": -7}}]"#,
      .mistral, is: [.call("add", #"{"a": 3, "b": 4}"#), .call("add", #"{"a": 10, "b": -7}"#)])
  }

  @Test(
    "A closing tag inside a string is part of the string",
    .bug("https://github.com/vllm-project/vllm/issues/45167"))
  func closingTagInString() {
    Self.check(
      #"<tool_call>{"name": "write", "arguments": {"text": "a</tool_call>b<tool_call>c"}}</tool_call>"#,
      is: [.call("write", #"{"text": "a</tool_call>b<tool_call>c"}"#)])
  }

  @Test(
    "A call after one with empty arguments keeps its own",
    .bug("https://github.com/vllm-project/vllm/issues/47901"))
  func afterEmptyArguments() {
    Self.check(
      #"<tool_call>{"name": "a", "arguments": {}}</tool_call>"#
        + #"<tool_call>{"name": "b", "arguments": {"x": {}}}</tool_call>"#,
      is: [.call("a", "{}"), .call("b", #"{"x": {}}"#)])
  }

  @Test(
    "Empty arguments are an empty object, not nothing",
    .bug("https://github.com/vllm-project/vllm/issues/28806"))
  func emptyArguments() {
    var parser = ToolCallParser(dialect: .hermes)
    #expect(
      parser.append("<tool_call>\n{\"name\": \"now\", \"arguments\": {}}\n</tool_call>") == [
        .callBegan(index: 0, name: "now"), .arguments(index: 0, json: "{}"), .callEnded(index: 0),
      ])
  }

  @Test(
    "The first bracket of an array of objects is not lost",
    .bug("https://github.com/vllm-project/vllm/pull/21360"))
  func arrayOfObjects() {
    Self.check(
      #"<tool_call>{"name": "sum", "arguments": {"numbers": [{"v": 1}, {"v": 2}]}}</tool_call>"#,
      is: [.call("sum", #"{"numbers": [{"v": 1}, {"v": 2}]}"#)])
  }

  @Test(
    "A stray opening tag before the call takes nothing from the call",
    .bug("https://github.com/vllm-project/vllm/pull/53638"))
  func strayTag() {
    Self.check(
      "<tool_call> I will call\n<tool_call>{\"name\": \"f\", \"arguments\": {\"a\": {\"b\": 1}}}</tool_call>",
      is: [.text("<tool_call> I will call\n"), .call("f", #"{"a": {"b": 1}}"#)])
    Self.check(
      "<tool_call><tool_call>{\"name\": \"f\", \"arguments\": {}}</tool_call>",
      is: [.text("<tool_call>"), .call("f", "{}")])
  }

  @Test(
    "The last brace comes though it arrives with the closing tag",
    .bug("https://github.com/vllm-project/vllm/issues/32152"))
  func lastBrace() {
    let pieces = ["<tool_call>{\"name\": \"f\", \"arguments\": {\"a\": {\"b\": \"c", "\"}}}\n</tool_call>"]
    #expect(Reading(pieces, .hermes).parts == [.call("f", #"{"a": {"b": "c"}}"#)])
  }

  @Test(
    "One piece may end a call and begin the next",
    .bug("https://github.com/vllm-project/vllm/issues/41967"))
  func pieceAcrossCalls() {
    let pieces = [
      "<tool_call>{\"name\": \"a\", \"arguments\": {\"x\": \"1",
      "\"}}</tool_call>\n<tool_call>{\"name\": \"b\", \"arguments\": {\"y\": \"",
      "2\"}}</tool_call>",
    ]
    var parser = ToolCallParser(dialect: .hermes)
    _ = parser.append(pieces[0])
    #expect(
      parser.append(pieces[1]) == [
        .arguments(index: 0, json: "\"}"), .callEnded(index: 0), .callBegan(index: 1, name: "b"),
        .arguments(index: 1, json: "{\"y\": \""),
      ])
    #expect(Reading(pieces, .hermes).parts == [.call("a", #"{"x": "1"}"#), .call("b", #"{"y": "2"}"#)])
  }

  @Test(
    "An opening tag that the answer breaks off in is text, streamed or not",
    .bug("https://github.com/vllm-project/vllm/issues/47137"))
  func truncatedTag() {
    Self.check("So <tool_call", is: [.text("So <tool_call")])
  }

  @Test(
    "The name and arguments of the outermost object count, however deep the others are",
    .bug("https://github.com/vllm-project/vllm/pull/27701"))
  func deepNesting() {
    let arguments = #"{"record": {"name": "x", "arguments": {"parameters": {"name": "y"}}}, "l": [[{"name": "z"}]]}"#
    Self.check(#"{"name": "predict", "parameters": \#(arguments)}"#, .llama3, is: [.call("predict", arguments)])
  }

  @Test(
    "Arguments that are a string of JSON are not encoded twice",
    .bug("https://github.com/vllm-project/vllm/pull/54964"))
  func stringArguments() {
    Self.check(
      #"<tool_call>{"name": "get_db_config", "arguments": "{\n  \"param\": \"max_connections\"\n}"}</tool_call>"#,
      is: [.call("get_db_config", "{\n  \"param\": \"max_connections\"\n}")])
  }

  @Test("An object inside something else that follows the marker is not a call")
  func objectInsidePythonCall() {
    let answer = #"<|python_tag|>foo.call(payload={"name": "bar", "parameters": {}})"#
    Self.check(answer, .llama3, is: [.text(answer)])
  }
}
