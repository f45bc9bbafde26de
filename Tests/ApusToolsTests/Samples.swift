import ApusTools
import Testing

/// An answer and what it holds.
struct Sample: CustomTestStringConvertible {
  var dialect: ToolCallDialect
  var answer: String
  var tools: [String] = []
  var parts: [Part]

  var testDescription: String { "\(dialect): \(answer.debugDescription)" }

  static let all = real + hermes + llama3 + smollm2 + mistral + notCalls + broken

  /// What Qwen2.5-Coder 0.5B and 1.5B wrote, greedily, when their own template offered them these tools: never the tag
  /// that it asks for.
  static let real: [Sample] = [
    (
      #"{"name": "get_weather", "arguments": {"city": "Paris", "unit": "celsius"}}"#,
      [.call("get_weather", #"{"city": "Paris", "unit": "celsius"}"#)]
    ),
    (
      "```json\n{\n  \"name\": \"now\",\n  \"arguments\": {}\n}\n```",
      [.call("now", "{}")]
    ),
    (
      """
      ```json
      {
        "name": "run_python",
        "arguments": {
          "code": "for i in range(5):\\n    print(i**2)"
        }
      }
      ```
      """,
      [.call("run_python", "{\n    \"code\": \"for i in range(5):\\n    print(i**2)\"\n  }")]
    ),
    (
      #"{{"name": "get_weather", "arguments": {"city": "London", "unit": "celsius"}}}"#,
      [.call("get_weather", #"{"city": "London", "unit": "celsius"}"#)]
    ),
    (
      "```json\n{\n  \"name\": \"run_python\",\n  \"arguments\": {\n    \"code\": "
        + "\"print('a \"quoted\" {brace}')\"\n  }\n}\n```",
      [
        .brokenCall("run_python", "{\n    \"code\": \"print('a \"}", .malformed),
        .text("quoted\" {brace}')\"\n  }\n}\n"),
      ]
    ),
    (
      "I am an AI language model created by OpenAI. How can I assist you today?",
      [.text("I am an AI language model created by OpenAI. How can I assist you today?")]
    ),
  ].map { (answer: String, parts: [Part]) in
    Sample(dialect: .hermes, answer: answer, tools: ["get_weather", "run_python", "now"], parts: parts)
  }

  static let hermes: [Sample] = [
    Sample(
      dialect: .hermes,
      answer:
        "<tool_call>\n{\"name\": \"get_weather\", \"arguments\": {\"city\": \"Paris\", \"days\": 3}}\n</tool_call>",
      parts: [.call("get_weather", #"{"city": "Paris", "days": 3}"#)]),
    // Text before, between and after; white space that touches a call is not text.
    Sample(
      dialect: .hermes,
      answer: "Let me look.\n<tool_call>\n{\"name\": \"a\", \"arguments\": {\"x\": 1}}\n</tool_call>\n"
        + "<tool_call>\n{\"name\": \"b\", \"arguments\": {}}\n</tool_call>\nDone.",
      parts: [.text("Let me look.\n"), .call("a", #"{"x": 1}"#), .call("b", "{}"), .text("\nDone.")]),
    Sample(
      dialect: .hermes, answer: "\n\n<tool_call>{\"name\":\"a\",\"arguments\":{\"x\":null}}</tool_call>\n\n",
      parts: [.call("a", #"{"x":null}"#)]),
    // Keys in the other order, other keys, `parameters`.
    Sample(
      dialect: .hermes,
      answer:
        #"<tool_call>{"id": "1", "arguments": {"a": [1, {"b": "x"}], "c": -0.5e+3}, "extra": [{}, 1.5], "#
        + #""name": "f"}</tool_call>"#,
      parts: [.call("f", #"{"a": [1, {"b": "x"}], "c": -0.5e+3}"#)]),
    Sample(
      dialect: .hermes,
      answer: "<tool_call>\r\n{\r\n\"name\" : \"f\" ,\r\n\"parameters\" : { \"a\" : true } }\r\n</tool_call>",
      parts: [.call("f", "{ \"a\" : true }")]),
    // Arguments as a string, null, absent.
    Sample(
      dialect: .hermes,
      answer:
        #"<tool_call>{"name": "f", "arguments": "{\n  \"path\": \"a\\\"b\\u00e9 \u00e9 \ud83c\udf89\", "#
        + #"\"n\": 1\u007d "}</tool_call>"#,
      parts: [.call("f", "{\n  \"path\": \"a\\\"b\\u00e9 é 🎉\", \"n\": 1}")]),
    Sample(
      dialect: .hermes, answer: #"<tool_call>{"name": "f", "arguments": ""}</tool_call>"#, parts: [.call("f", "{}")]),
    Sample(
      dialect: .hermes, answer: #"<tool_call>{"name": "f", "arguments": null}</tool_call>"#, parts: [.call("f", "{}")]),
    Sample(dialect: .hermes, answer: #"<tool_call>{"name": "f"}</tool_call>"#, parts: [.call("f", "{}")]),
    Sample(
      dialect: .hermes, answer: #"<tool_call>{"arguments": "{\"a\": 1}", "id": 12, "name": "f"}</tool_call>"#,
      parts: [.call("f", #"{"a": 1}"#)]),
    // Escapes in names and in arguments, scalars of four bytes, half a surrogate pair.
    Sample(
      dialect: .hermes,
      answer:
        #"<tool_call>{"n\u0061me": "wetter_f\u00fcr_\ud83c\udf26", "#
        + #""arguments": {"stadt": "Köln 🎉 \ud83c\udf89 \ud800 \\ \""}}</tool_call>"#,
      parts: [.call("wetter_für_🌦", #"{"stadt": "Köln 🎉 \ud83c\udf89 \ud800 \\ \""}"#)]),
    // A name that no tool has is still a call: the client decides.
    Sample(
      dialect: .hermes, answer: #"<tool_call>{"name": "other", "arguments": {"a": 1}}</tool_call>"#, tools: ["f"],
      parts: [.call("other", #"{"a": 1}"#)]),
    // Several objects in one tag, a list, a missing closing tag, a missing brace, a brace too many.
    Sample(
      dialect: .hermes,
      answer:
        "<tool_call>\n{\"name\": \"a\", \"arguments\": {}}\n{\"name\": \"b\", \"arguments\": {\"x\": 1}}\n</tool_call>",
      parts: [.call("a", "{}"), .call("b", #"{"x": 1}"#)]),
    Sample(
      dialect: .hermes,
      answer:
        "<tool_call>{\"name\": \"a\", \"arguments\": {\"x\": 1}}\n<tool_call>{\"name\": \"b\", \"arguments\": {}}\n",
      parts: [.call("a", #"{"x": 1}"#), .call("b", "{}")]),
    Sample(
      dialect: .hermes, answer: "<tool_call>\n{\"name\": \"a\", \"arguments\": {\"x\": 1}\n</tool_call>\nSo.",
      parts: [.call("a", #"{"x": 1}"#), .text("\nSo.")]),
    Sample(
      dialect: .hermes, answer: "<tool_call>{\"name\": \"a\", \"arguments\": {\"x\": 1}}}</tool_call>",
      parts: [.call("a", #"{"x": 1}"#), .text("}")]),
    Sample(
      dialect: .hermes, answer: "<tool_call>{\"name\": \"a\", \"arguments\": {\"x\": 1}} and so on</tool_call> end",
      parts: [.call("a", #"{"x": 1}"#), .text(" and so on end")]),
    Sample(
      dialect: .hermes, answer: "<tool_call>{\"name\": \"a\", \"arguments\": {\"x\": 1},}</tool_call>",
      parts: [.call("a", #"{"x": 1}"#)]),
    // The template of Qwen2.5-Coder 1.5B shows doubled braces.
    Sample(
      dialect: .hermes, answer: "<tool_call>\n{{\"name\": \"a\", \"arguments\": {\"x\": {\"y\": 1}}}}\n</tool_call>",
      parts: [.call("a", #"{"x": {"y": 1}}"#)]),
    // Code with line breaks and tabs as they are.
    Sample(
      dialect: .hermes,
      answer: "<tool_call>{\"name\": \"run\", \"arguments\": {\"code\": \"if a:\n\tprint('é')\r\u{1}\"}}</tool_call>",
      parts: [.call("run", #"{"code": "if a:\n\tprint('é')\r\u0001"}"#)]),
    // What small models write instead of the tag, where the tools are known.
    Sample(
      dialect: .hermes, answer: "{\"name\": \"calc\", \"arguments\": {\"e\": \"17 * 23\"}}", tools: ["calc"],
      parts: [.call("calc", #"{"e": "17 * 23"}"#)]),
    Sample(
      dialect: .hermes,
      answer: "Sure:\n```json\n{\n  \"name\": \"calc\",\n  \"arguments\": {\n    \"e\": 1\n  }\n}\n```\nThat is it.",
      tools: ["calc"],
      parts: [.text("Sure:\n"), .call("calc", "{\n    \"e\": 1\n  }"), .text("\nThat is it.")]),
    Sample(
      dialect: .hermes, answer: "<tools>\n{\"name\": \"now\"}\n</tools>", tools: ["now"], parts: [.call("now", "{}")]),
  ]

  static let llama3: [Sample] = [
    Sample(
      dialect: .llama3, answer: #"{"name": "get_weather", "parameters": {"city": "San Francisco, CA"}}"#,
      parts: [.call("get_weather", #"{"city": "San Francisco, CA"}"#)]),
    Sample(
      dialect: .llama3,
      answer: "<|python_tag|>{\"type\": \"function\", \"name\": \"f\", \"parameters\": {\"a\": \"1\"}}",
      parts: [.call("f", #"{"a": "1"}"#)]),
    Sample(
      dialect: .llama3,
      answer: "\n{\"name\": \"f\", \"parameters\": {}}; {\"name\": \"g\", \"parameters\": {\"a\": [1]}}\n",
      parts: [.call("f", "{}"), .call("g", #"{"a": [1]}"#)]),
    Sample(
      dialect: .llama3, answer: "{\"name\": \"f\", \"arguments\": {}}\n{\"name\": \"g\", \"arguments\": {}}",
      tools: ["f", "g"], parts: [.call("f", "{}"), .call("g", "{}")]),
    Sample(
      dialect: .llama3, answer: "I look it up. <|python_tag|>{\"name\": \"f\", \"parameters\": {}};then", tools: ["g"],
      parts: [.text("I look it up. "), .call("f", "{}"), .text(";then")]),
    Sample(dialect: .llama3, answer: #"{"name": "now"}"#, tools: ["now"], parts: [.call("now", "{}")]),
  ]

  static let smollm2: [Sample] = [
    Sample(
      dialect: .smollm2,
      answer: #"<tool_call>[{"name": "a", "arguments": {"x": "y]"}}, {"name": "b", "arguments": {}}]</tool_call>"#,
      parts: [.call("a", #"{"x": "y]"}"#), .call("b", "{}")]),
    Sample(
      dialect: .smollm2, answer: "<tool_call>[\n{\"name\": \"a\", \"arguments\": {\"x\": 1}}\n,\n]\n</tool_call>ok",
      parts: [.call("a", #"{"x": 1}"#), .text("ok")]),
    Sample(
      dialect: .smollm2, answer: "<tool_call>{\"name\": \"a\", \"arguments\": {}}</tool_call>",
      parts: [.call("a", "{}")]),
    Sample(
      dialect: .smollm2, answer: "<tool_call>[{\"name\": \"a\", \"arguments\": {}}, oops]</tool_call>.",
      parts: [.call("a", "{}"), .text(", oops].")]),
    // The model's way to say that no call is needed is not a call.
    Sample(dialect: .smollm2, answer: "<tool_call>[]</tool_call>", parts: [.text("<tool_call>[]</tool_call>")]),
  ]

  static let mistral: [Sample] = [
    Sample(
      dialect: .mistral, answer: #"[TOOL_CALLS] [{"name": "a", "arguments": {"x": 3, "y": 4}, "id": "D681PevKs"}]"#,
      parts: [.call("a", #"{"x": 3, "y": 4}"#)]),
    Sample(
      dialect: .mistral,
      answer: #"[TOOL_CALLS][{"name": "a", "arguments": "{\"x\": 1}"}, {"name": "b", "arguments": {"z": "]"}}]"#,
      parts: [.call("a", #"{"x": 1}"#), .call("b", #"{"z": "]"}"#)]),
    Sample(
      dialect: .mistral, answer: #"Hm.[TOOL_CALLS]get_x[ARGS]{"a": {"b": 1}}[TOOL_CALLS]now[CALL_ID]a1B2c3[ARGS]{}"#,
      parts: [.text("Hm."), .call("get_x", #"{"a": {"b": 1}}"#), .call("now", "{}")]),
    Sample(
      dialect: .mistral, answer: #"[TOOL_CALLS]create_file{"path": "/a/b.txt", "content": "x"}"#,
      parts: [.call("create_file", #"{"path": "/a/b.txt", "content": "x"}"#)]),
    Sample(
      dialect: .mistral, answer: "[TOOL_CALLS]I do not know", parts: [.text("[TOOL_CALLS]I do not know")]),
    Sample(
      dialect: .mistral, answer: "[TOOL_CALLS]f[ARGS]x [TOOL_CALLS]f[CALLS]{}",
      parts: [.text("[TOOL_CALLS]f[ARGS]x [TOOL_CALLS]f[CALLS]{}")]),
  ]

  /// Given back as they are.
  static let notCalls: [Sample] = [
    (.hermes, [], "Use <tool_call> to call.\n"),
    (.hermes, [], "  \n<tool_call>\n  {\"name\": 5}\n</tool_call>  "),
    (.hermes, [], "<tool_call>{\"name\": \"\", \"arguments\": {}}</tool_call>"),
    (.hermes, [], "<tool_call>{\"name\": \"f\", \"arguments\": [1]}</tool_call>"),
    (.hermes, [], "<tool_call>{\"name\": \"f\", \"arguments\": \"no\"}</tool_call>"),
    (.hermes, [], "<tool_call>{\"name\": \"f\", \"arguments\": nil}</tool_call>"),
    (.hermes, [], "<tool_call>{\"name\": \"f\", \"arguments\": {oops: 1}}</tool_call>"),
    (.hermes, [], "<tool_call>{\"name\": \"f\", \"name\": \"g\", \"arguments\": {}}</tool_call>"),
    (.hermes, [], "<tool_call>{\"arguments\": {\"a\": 1}}</tool_call>"),
    (.hermes, [], "<tool_call>{}</tool_call>"),
    (.hermes, [], "<tool_call>{\"name\": \"f\", \"arguments\": {\"a\": 12"),
    (.hermes, [], "<tool_call>{\"name\": \"f\""),
    (.hermes, [], "</tool_call> a < b <tool <tool_cal"),
    (.hermes, [], "<<tool_call>>"),
    (.hermes, [], "é<tool_é"),
    (.hermes, [], " \n "),
    (.hermes, [], ""),
    (.hermes, [], "{\"name\": \"f\", \"arguments\": {}}"),
    (.hermes, [], "```json\n{\"name\": \"f\", \"arguments\": {}}\n```"),
    (.hermes, ["g"], "{\"name\": \"f\", \"arguments\": {}}"),
    (.hermes, ["g"], "```json\n{\"name\": \"f\", \"arguments\": {}}\n```"),
    (.hermes, ["g"], "```json\n[1, 2]\n```\n```swift\nlet a = 1\n```"),
    (.hermes, ["f"], "As JSON: {\"name\": \"f\", \"arguments\": {}}"),
    (.hermes, ["f"], "{\"title\": \"x\", \"name\": \"f\", \"arguments\": {}}"),
    (.llama3, [], "{\"name\": \"Ada\", \"age\": 36}"),
    (.llama3, [], "{\"name\": \"Ada\"}"),
    (.llama3, [], "{\"city\": \"Paris\"}"),
    (.llama3, [], "{}"),
    (.llama3, ["f"], "{\"name\": \"g\", \"parameters\": {}}"),
    (.llama3, [], "It is {\"name\": \"f\", \"parameters\": {}}"),
    (.llama3, [], "<|python_tag|>print(1)"),
    (.smollm2, [], "<tool_call>[[{\"name\": \"f\", \"arguments\": {}}]]</tool_call>"),
    (.mistral, [], "[TOOL_CALLS][{\"nom\": \"f\"}]"),
    (.mistral, [], "[TOOL"),
  ].map { (dialect: ToolCallDialect, tools: [String], answer: String) in
    Sample(dialect: dialect, answer: answer, tools: tools, parts: answer.isEmpty ? [] : [.text(answer)])
  }

  /// Calls that began and then went wrong.
  static let broken: [Sample] = [
    // Half an escape inside arguments that are a string.
    Sample(
      dialect: .hermes, answer: #"<tool_call>{"name": "f", "arguments": "{\"a\": \"x\u00z"}"#,
      parts: [.brokenCall("f", #"{"a": "x"}"#, .malformed), .text(#"\u00z"}"#)]),
    // A string that is not closed in a value that is skipped does not swallow the next call.
    Sample(
      dialect: .hermes,
      answer: "<tool_call>{\"id\": \"1\n</tool_call>\n<tool_call>{\"name\": \"g\", \"arguments\": {}}</tool_call>",
      parts: [.text("<tool_call>{\"id\": \"1\n</tool_call>\n"), .call("g", "{}")]),
    Sample(
      dialect: .hermes,
      answer: "<tool_call>{\"name\": \"f\", \"arguments\": {\"a\": [1, {\"b\": \"x\", oops}]}}</tool_call>!",
      parts: [.brokenCall("f", #"{"a": [1, {"b": "x"}]}"#, .malformed), .text(", oops}]}}!")]),
    Sample(
      dialect: .hermes, answer: "<tool_call>{\"name\": \"f\", \"arguments\": {\"a\": \"x\\q\"}}",
      parts: [.brokenCall("f", #"{"a": "x"}"#, .malformed), .text("\\q\"}}")]),
    Sample(
      dialect: .hermes, answer: "<tool_call>{\"name\": \"f\", \"arguments\": {\"a\": 1 2}}",
      parts: [.brokenCall("f", #"{"a": 1 }"#, .malformed), .text("2}}")]),
    Sample(
      dialect: .hermes, answer: "<tool_call>{\"name\": \"f\", \"arguments\": {\"a\": {}, \"b\": tru",
      parts: [.brokenCall("f", #"{"a": {}}"#, .cut), .text(", \"b\": tru")]),
    Sample(
      dialect: .hermes, answer: "<tool_call>{\"name\": \"f\", \"arguments\": {\"a\": \"half of a senten",
      parts: [.brokenCall("f", #"{"a": "half of a senten"}"#, .cut)]),
    Sample(
      dialect: .hermes, answer: #"<tool_call>{"name": "f", "arguments": {"a": "x\ud83c"#,
      parts: [.brokenCall("f", #"{"a": "x"}"#, .cut), .text(#"\ud83c"#)]),
    Sample(
      dialect: .hermes, answer: #"<tool_call>{"name": "f", "arguments": "{\"a\": \"b\", "}</tool_call>."#,
      parts: [.brokenCall("f", #"{"a": "b"}"#, .malformed), .text(#", "}."#)]),
    Sample(
      dialect: .hermes, answer: #"<tool_call>{"name": "f", "arguments": {"a": 1}, "id": "#,
      parts: [.call("f", #"{"a": 1}"#), .text(#", "id": "#)]),
    Sample(
      dialect: .hermes, answer: "<tool_call>{\"name\": \"f\", \"arguments\": {\"a\": 1}}\n</tool_",
      parts: [.call("f", #"{"a": 1}"#)]),
    Sample(
      dialect: .llama3, answer: "{\"name\": \"f\", \"parameters\": {\"a\": 1, \"b\": é",
      parts: [.brokenCall("f", #"{"a": 1}"#, .malformed), .text(", \"b\": é")]),
    Sample(
      dialect: .llama3, answer: "{\"name\": \"f\", \"parameters\": {\"a\": \"1\", \"b\": é",
      parts: [.brokenCall("f", #"{"a": "1"}"#, .malformed), .text(", \"b\": é")]),
  ]
}
