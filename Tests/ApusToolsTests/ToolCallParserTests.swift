import ApusTools
import Testing

@Suite struct Answers {
  @Test("Every sample holds what it is said to hold", arguments: Sample.all)
  func samples(_ sample: Sample) {
    #expect(Reading([sample.answer], sample.dialect, tools: sample.tools).parts == sample.parts)
  }

  @Test("One scalar at a time, every sample holds the same", arguments: Sample.all)
  func scalarByScalar(_ sample: Sample) {
    #expect(Reading(sample.answer.scalars, sample.dialect, tools: sample.tools).parts == sample.parts)
  }

  @Test("However a sample is cut into pieces, it holds the same")
  func anyCut() {
    let seed = UInt64.random(in: 0...UInt64.max)
    print("seed: \(seed)")
    var generator = SeededGenerator(seed: seed)
    for sample in Sample.all {
      for longest in [2, 3, 5, 9, 20, 60] {
        for _ in 0..<8 {
          let pieces = sample.answer.cut(longest: longest, &generator)
          #expect(Reading(pieces, sample.dialect, tools: sample.tools).parts == sample.parts, "\(pieces)")
        }
      }
    }
  }

  @Test("Cut anywhere into two, a sample holds the same", arguments: Sample.all)
  func twoPieces(_ sample: Sample) {
    let scalars = sample.answer.unicodeScalars
    for index in scalars.indices {
      let pieces = [String(scalars[..<index]), String(scalars[index...])]
      #expect(Reading(pieces, sample.dialect, tools: sample.tools).parts == sample.parts, "\(pieces)")
    }
  }

  @Test("An answer that ends anywhere loses no text and ends every call", arguments: Sample.all)
  func prefixes(_ sample: Sample) {
    let scalars = sample.answer.unicodeScalars
    for index in scalars.indices {
      let answer = String(scalars[..<index])
      let reading = Reading([answer], sample.dialect, tools: sample.tools)
      #expect(answer.holdsInOrder(reading.text), "\(answer.debugDescription): \(reading.parts)")
      if reading.outcomes.isEmpty { #expect(reading.text == answer) }
    }
  }

  @Test("Arguments longer than allowed end the call before a character, and the rest is text")
  func limit() {
    let answer = "<tool_call>{\"name\": \"f\", \"arguments\": {\"a\": \"éééééééé\"}}</tool_call>"
    for limit in 7...22 {
      let reading = Reading([answer], .hermes, argumentLimit: limit)
      guard case .brokenCall("f", let arguments, .tooLong)? = reading.parts.first, reading.parts.count == 2 else {
        Issue.record("\(limit): \(reading.parts)")
        continue
      }
      #expect(arguments.utf8.count <= limit + 3 && reading.outcomes == [.tooLong])
      #expect("{\"a\": \"éééééééé\"}}" == arguments.dropLast(2) + reading.text)
      #expect(Reading(answer.scalars, .hermes, argumentLimit: limit).parts == reading.parts)
    }
    #expect(Reading([answer], .hermes, argumentLimit: 25).outcomes == [.complete])
    #expect(Reading([answer], .hermes, argumentLimit: 24).outcomes == [.tooLong])
    #expect(Reading([answer], .hermes, argumentLimit: 6).parts == [.text(answer)])
    #expect(Reading([answer], .hermes, argumentLimit: .max).outcomes == [.complete])
  }

  @Test("What waits without end for a call is given back as text when it is longer than allowed")
  func holdLimit() {
    for padding in [String(repeating: " ", count: 10_000), "{\"x\": \"" + String(repeating: "y", count: 10_000)] {
      let answer = "<tool_call>" + padding
      var parser = ToolCallParser(dialect: .hermes, argumentLimit: 100)
      let given = parser.append(answer).map { if case .text(let text) = $0 { text } else { "" } }.joined()
      #expect(given.utf8.count > 5_000 && answer.hasPrefix(given))
      #expect(Reading([answer], .hermes, argumentLimit: 100).parts == [.text(answer)])
    }
  }

  @Test("Arguments nested deeper than 64 levels end the call")
  func depth() {
    func answer(_ depth: Int) -> String {
      "<tool_call>{\"name\": \"f\", \"arguments\": {\"b\": 0, \"a\": " + String(repeating: "[", count: depth - 1)
        + String(repeating: "]", count: depth - 1) + "}}</tool_call>"
    }
    #expect(Reading([answer(64)], .hermes).outcomes == [.complete])
    #expect(Reading([answer(65)], .hermes).parts.first == .brokenCall("f", "{\"b\": 0}", .malformed))
  }

  @Test("Hostile bytes take no longer than others", .timeLimit(.minutes(1)))
  func linear() {
    let patterns = [
      "<tool_call>", "<tool_call>{", "<tool_call>{\"name\": \"", "<tool_call>{\"name\":\"f\",\"arguments\":{},\"x\":\"",
      "<tool_call>[{\"name\":\"f\",\"arguments\":{\"a\":\"", "<<<<", " ", "[TOOL_CALLS]a[ARGS]", "{{\"name\"", "[[[",
      "```json",
    ]
    for pattern in patterns {
      let answer = String(repeating: pattern, count: 200_000 / pattern.utf8.count)
      for dialect in ToolCallDialect.allCases {
        let reading = Reading([answer], dialect, tools: ["f"])
        if reading.outcomes.isEmpty { #expect(reading.text == answer) }
      }
    }
  }
}

@Suite struct CutAnswers {
  private static func read(_ answer: String, _ dialect: ToolCallDialect = .hermes, tools: [String] = ["f", "get"])
    -> Reading
  {
    Reading([answer], dialect, tools: tools, isCut: true)
  }

  @Test("A call that is cut before its first argument is its name, or nothing, and never text")
  func beforeArguments() {
    let start = "Let me look.\n<tool_call>\n"
    for end in ["", "{", "{\"na", "{\"name\"", "{\"name\": \"ge"] {
      #expect(Self.read(start + end).parts == [.text("Let me look.\n")], "\(end)")
    }
    for end in ["\"", "\", ", "\", \"argu", "\", \"arguments\": ", "\", \"arguments\": {", "\", \"arguments\": {\"ci"] {
      #expect(
        Self.read(start + "{\"name\": \"get" + end).parts == [.text("Let me look.\n"), .brokenCall("get", "{}", .cut)],
        "\(end)")
    }
  }

  @Test("A call that is cut in its arguments ends with the last whole value, and its rest is no text")
  func inArguments() {
    let call = "<tool_call>\n{\"name\": \"get\", \"arguments\": {\"city\": \"Par"
    #expect(Self.read(call).parts == [.brokenCall("get", "{\"city\": \"Par\"}", .cut)])
    for end in ["is\", \"da", "is\", \"days\": 1"] {
      #expect(Self.read(call + end).parts == [.brokenCall("get", "{\"city\": \"Paris\"}", .cut)], "\(end)")
    }
  }

  @Test("After whole arguments a call is whole, wherever the answer is cut")
  func afterArguments() {
    let call = "<tool_call>\n{\"name\": \"get\", \"arguments\": {}"
    for end in [
      "", "}", ", \"id\": \"a", "}\n</tool", "}\n</tool_call>", "}\n</tool_call>\n<tool_", "}</tool_call>\n<tool_call>",
    ] {
      #expect(Self.read(call + end).parts == [.call("get", "{}")], "\(end)")
    }
    #expect(
      Self.read(call + "}</tool_call>\n<tool_call>{\"name\": \"f\", ").parts
        == [.call("get", "{}"), .brokenCall("f", "{}", .cut)])
  }

  @Test("What could as well be text stays text when it is cut")
  func text() {
    for answer in ["a < b", "a <tool_", "```json\n{\"na", "{\"name\": \"ge", "{\"x", " ", "{\"name\": \"other\""] {
      #expect(Self.read(answer).parts == [.text(answer)], "\(answer)")
    }
    #expect(Self.read("{\"name\": \"Ada\"", .llama3, tools: []).parts == [.text("{\"name\": \"Ada\"")])
  }

  @Test("A name before its arguments counts when it is whole")
  func leadingNames() {
    #expect(Self.read("[TOOL_CALLS]ge", .mistral).parts == [])
    for end in ["[", "[ARGS]", "[CALL_ID]x", "[ARGS]{", "[ARGS]{\"a"] {
      #expect(Self.read("[TOOL_CALLS]get" + end, .mistral).parts == [.brokenCall("get", "{}", .cut)], "\(end)")
    }
    #expect(Self.read("[TOOL_CALLS][{\"name\": \"get\"", .mistral).parts == [.brokenCall("get", "{}", .cut)])
  }

  @Test(
    "However a sample is cut, no marker of its dialect is given out as text after it was whole", arguments: Sample.all)
  func samples(_ sample: Sample) {
    let scalars = sample.answer.unicodeScalars
    for index in scalars.indices {
      let answer = String(scalars[..<index])
      let whole = Reading([answer], sample.dialect, tools: sample.tools)
      let cut = Reading([answer], sample.dialect, tools: sample.tools, isCut: true)
      // Only what was held back differs: what has been given out stays.
      #expect(whole.text.hasPrefix(cut.text) || cut.outcomes.count > 0, "\(answer.debugDescription): \(cut.parts)")
      #expect(cut.outcomes.count >= whole.outcomes.count && cut.outcomes.count <= whole.outcomes.count + 1)
    }
  }
}

@Suite struct Promptness {
  @Test("Arguments are given out as they arrive")
  func arguments() {
    var parser = ToolCallParser(dialect: .hermes)
    #expect(parser.append("Hi <tool_call>{\"name\": \"f\", \"arguments\": {") == [.text("Hi ")])
    #expect(
      parser.append("\"city\": \"Par") == [
        .callBegan(index: 0, name: "f"), .arguments(index: 0, json: "{\"city\": \"Par"),
      ])
    #expect(parser.append("is") == [.arguments(index: 0, json: "is")])
    #expect(parser.append("\\") == [])
    #expect(parser.append("n\", \"days\": 1") == [.arguments(index: 0, json: "\\n\"")])
    #expect(parser.append("2") == [])
    #expect(parser.append("}") == [.arguments(index: 0, json: ", \"days\": 12}")])
    #expect(parser.append("}") == [.callEnded(index: 0)])
    #expect(parser.append("\n</tool_call>") == [])
    #expect(parser.append(" Bye") == [.text(" Bye")])
    #expect(parser.finish() == [])
    #expect(parser.outcomes == [.complete])
  }

  @Test("Arguments in a string are unescaped as they arrive")
  func escapedArguments() {
    var parser = ToolCallParser(dialect: .hermes)
    #expect(parser.append("<tool_call>{\"name\": \"f\", \"arguments\": \"{\\\"a\\\": \\") == [])
    #expect(
      parser.append("\"x") == [.callBegan(index: 0, name: "f"), .arguments(index: 0, json: "{\"a\": \"x")])
    #expect(parser.append("\\u00e") == [])
    #expect(parser.append("9y") == [.arguments(index: 0, json: "éy")])
    #expect(parser.append("\\\"}\"") == [.arguments(index: 0, json: "\"}")])
    #expect(parser.append("}</tool_call>") == [.callEnded(index: 0)])
  }

  @Test("Text that only looks like a start is held back no longer than it does")
  func text() {
    var parser = ToolCallParser(dialect: .hermes)
    #expect(parser.append("a <tool") == [.text("a ")])
    #expect(parser.append("_") == [])
    #expect(parser.append("box> <<") == [.text("<tool_box> <")])
    #expect(parser.append("tool_call>") == [])
    #expect(parser.append("\n") == [])
    #expect(parser.append("s") == [.text("<tool_call>\ns")])
    #expect(parser.append(" {\"name\"") == [.text(" {\"name\"")])
    #expect(parser.append("<") == [])
    #expect(parser.finish() == [.text("<")])
  }

  @Test("JSON that cannot be a call is given out at its first key")
  func otherJSON() {
    var parser = ToolCallParser(dialect: .llama3, tools: ["f"])
    #expect(parser.append("{\"answer\"") == [.text("{\"answer\"")])
    var named = ToolCallParser(dialect: .llama3, tools: ["f"])
    #expect(named.append("{\"name\": \"Ada\"") == [.text("{\"name\": \"Ada\"")])
    var fenced = ToolCallParser(dialect: .hermes, tools: ["f"])
    #expect(fenced.append("```json\n{\"a\"") == [.text("```json\n{\"a\"")])
  }

  @Test("A parser is a value: a copy goes its own way")
  func copies() {
    var parser = ToolCallParser(dialect: .hermes)
    _ = parser.append("<tool_call>{\"name\": \"f\", \"arguments\": {\"a\": \"")
    var copy = parser
    #expect(copy.append("b\"}}") == [.arguments(index: 0, json: "b\"}"), .callEnded(index: 0)])
    #expect(parser.append("c") == [.arguments(index: 0, json: "c")])
  }
}

@Suite struct Dialects {
  @Test("A template's dialect is found from what it asks for")
  func detection() {
    let cases: [(String, ToolCallDialect?)] = [
      (#"{{- "<tool_call>\n{\"name\": <function-name>, \"arguments\": <args-json-object>}\n</tool_call>" }}"#, .hermes),
      (#"{{- "<tool_call>\n{{\"name\": <function-name>}}\n</tool_call>" }}"#, .hermes),
      (#"<tool_call>[ {"name": "func_name1", "arguments": {}} ]</tool_call>"#, .smollm2),
      (#"{{- "<tool_call>\n[{\"name\": 1}]" }}"#, .smollm2),
      (#"{{- "<tool_call>\n<function=example_function_name>\n" }}"#, nil),
      (#"<tool_call>{function-name}\n<arg_key>{arg-key-1}</arg_key>"#, nil),
      (
        #"{{- 'Respond in the format {"name": function name, "parameters": dictionary of arguments}.' }}"#,
        .llama3
      ),
      (#"{{- "<|python_tag|>" + tool_call.name }}"#, .llama3),
      (#"{{- "[TOOL_CALLS] [" }}"#, .mistral),
      ("{% for message in messages %}{{ message.content }}{% endfor %}", nil),
      ("", nil),
    ]
    for (template, dialect) in cases { #expect(ToolCallDialect.detect(template: template) == dialect, "\(template)") }
  }

  @Test("A dialect's name in configuration is its case")
  func names() {
    #expect(ToolCallDialect.allCases.map(\.rawValue) == ["hermes", "llama3", "smollm2", "mistral"])
  }
}
