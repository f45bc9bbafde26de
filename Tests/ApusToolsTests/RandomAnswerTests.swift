import ApusTools
import Testing

/// Random answers whose contents are known, because they are written from them.
@Suite struct RandomAnswers {
  /// Writes answers of one dialect.
  struct Writer {
    var generator: SeededGenerator

    mutating func pick<T>(_ choices: [T]) -> T { choices[Int.random(in: 0..<choices.count, using: &generator)] }
    mutating func space() -> String { pick(["", "", " ", "\n", "\r\n  ", "\t"]) }

    mutating func string() -> String {
      let pieces = [
        "a", "é", "🎉", " ", "{", "}", "[", "]", ",", ":", "\\\"", "\\\\", "\\n", "\\/", "\\u00e9", "\\ud83c\\udf89",
        "<tool_call>", "</tool_call>", "```", "'", "[TOOL_CALLS]", "<|python_tag|>", "\\u007b",
      ]
      return "\"" + (0..<Int.random(in: 0...6, using: &generator)).map { _ in pick(pieces) }.joined() + "\""
    }

    mutating func value(_ depth: Int) -> String {
      switch Int.random(in: 0..<(depth > 3 ? 3 : 5), using: &generator) {
      case 0: return string()
      case 1: return pick(["0", "-1", "12.5", "1e9", "-0.25E-3", "90"])
      case 2: return pick(["true", "false", "null"])
      case 3: return object(depth + 1)
      default:
        let items = (0..<Int.random(in: 0...3, using: &generator)).map { _ in space() + value(depth + 1) + space() }
        return "[" + (items.isEmpty ? space() : items.joined(separator: ",")) + "]"
      }
    }

    mutating func object(_ depth: Int = 0) -> String {
      let members = (0..<Int.random(in: 0...3, using: &generator)).map { _ in
        space() + string() + space() + ":" + space() + value(depth) + space()
      }
      return "{" + (members.isEmpty ? space() : members.joined(separator: ",")) + "}"
    }

    /// The JSON string that holds this text, with escapes that need not be there.
    mutating func quoted(_ text: String) -> String {
      var output = "\""
      for scalar in text.unicodeScalars {
        switch scalar {
        case "\"": output += "\\\""
        case "\\": output += "\\\\"
        case "\n": output += "\\n"
        case "\r": output += "\\r"
        case "\t": output += "\\t"
        case "🎉": output += pick(["🎉", "\\ud83c\\udf89"])
        case "é": output += pick(["é", "\\u00E9"])
        default: output.unicodeScalars.append(scalar)
        }
      }
      return output + "\""
    }

    /// A call object and what it means.
    mutating func call(key: String) -> (json: String, part: Part) {
      let name = pick(["f", "get_weather", "a.b-c", "größe"])
      var arguments = object()
      var members = ["\"name\"\(space()):\(space())\"\(name)\""]
      switch Int.random(in: 0..<8, using: &generator) {
      case 0: arguments = "{}"
      case 1:
        members.append("\"\(key)\": null")
        arguments = "{}"
      case 2, 3: members.append("\"\(key)\":\(space())\(quoted(arguments))")
      default: members.append("\"\(key)\"\(space()):\(space())\(arguments)")
      }
      if pick([false, false, true]) { members.append("\"id\":\(space())\(value(2))") }
      members.shuffle(using: &generator)
      // A string in a value that is skipped may hold no raw control characters; none is written here.
      let json = "{" + space() + members.joined(separator: space() + "," + space()) + space() + "}"
      return (json, .call(name, arguments))
    }

    mutating func text() -> String {
      pick(["Well.", "é", "a < b", "x [T", "no {\"name\": \"f\", \"arguments\": {}}", "<tool>", "`` ` ```", "}"])
    }

    mutating func answer(_ dialect: ToolCallDialect) -> (answer: String, parts: [Part]) {
      var answer = ""
      var parts: [Part] = []
      func add(_ call: (json: String, part: Part)) -> String {
        parts.append(call.part)
        return call.json
      }
      func say(_ text: String) {
        answer += text
        parts.append(.text(text))
      }
      if dialect != .llama3 || pick([true, false]), pick([true, false]) { say(text()) } else { answer += space() }
      let count = Int.random(in: 1...3, using: &generator)
      switch dialect {
      case .hermes:
        for _ in 0..<count {
          answer += "<tool_call>" + space() + add(call(key: "arguments")) + space() + "</tool_call>" + space()
        }
        if pick([true, false]) {
          answer += "</tool_call>"
          parts.append(.text("</tool_call>"))
          // White space after the last call belongs to the text that follows it.
          let tail = answer.dropLast("</tool_call>".count)
          let spaces = String(tail.reversed().prefix { $0.isWhitespace }.reversed())
          parts[parts.count - 1] = .text(spaces + "</tool_call>")
        }
      case .smollm2:
        answer += "<tool_call>" + space() + "[" + space()
        for index in 0..<count {
          if index > 0 { answer += "," + space() }
          answer += add(call(key: "arguments")) + space()
        }
        answer += "]" + space() + "</tool_call>" + space()
      case .llama3:
        if case .text? = parts.first { answer += "<|python_tag|>" } else { answer += pick(["", "<|python_tag|>"]) }
        for index in 0..<count {
          // Without a marker an object that has no arguments is no call.
          var next = call(key: "parameters")
          while !next.json.contains("\"parameters\"") || next.json.contains("[TOOL") { next = call(key: "parameters") }
          if index > 0 { answer += pick([";", "; ", "\n", ";\n"]) }
          answer += add(next)
        }
        answer += space()
      case .mistral:
        answer += "[TOOL_CALLS]" + space() + "["
        for index in 0..<count {
          if index > 0 { answer += "," + space() }
          answer += add(call(key: "arguments")) + space()
        }
        answer += "]"
      }
      return (answer, parts)
    }
  }

  @Test(
    "What was written into an answer is what is read from it, however it is cut", arguments: ToolCallDialect.allCases)
  func roundTrip(_ dialect: ToolCallDialect) {
    let seed = UInt64.random(in: 0...UInt64.max)
    print("seed: \(seed)")
    var writer = Writer(generator: SeededGenerator(seed: seed))
    for _ in 0..<1_500 {
      let (answer, parts) = writer.answer(dialect)
      let longest = Int.random(in: 1...12, using: &writer.generator)
      let pieces = answer.cut(longest: longest, &writer.generator)
      let reading = Reading(pieces, dialect)
      #expect(reading.parts == parts, "\(answer.debugDescription)")
      if reading.parts != parts { return }
      #expect(Reading([answer], dialect).parts == parts)
    }
  }
}

@Suite struct Mutations {
  private static let tokens = [
    "\"", "{", "}", "[", "]", ",", ":", "null", "-", "1", "e", ".", "true", "\\", "\\u", "\\ud83c", "\u{0}", "\n", " ",
    "é",
    "🎉", "<tool_call>", "</tool_call>", "<", "```json", "```", "<tools>", "[TOOL_CALLS]", "[ARGS]", "<|python_tag|>",
    ";",
    "\"name\"", "\"arguments\"", "\"name\": \"f\"", "{\"name\": \"f\", \"arguments\": {",
  ]

  static func mutate(_ text: String, _ generator: inout SeededGenerator) -> String {
    var scalars = Array(text.unicodeScalars)
    for _ in 0..<Int.random(in: 1...4, using: &generator) {
      guard !scalars.isEmpty else { break }
      let at = Int.random(in: 0..<scalars.count, using: &generator)
      switch Int.random(in: 0..<6, using: &generator) {
      case 0: scalars.remove(at: at)
      case 1: scalars.removeSubrange(at..<min(at + Int.random(in: 1...20, using: &generator), scalars.count))
      case 2, 3: scalars.insert(contentsOf: (tokens.randomElement(using: &generator) ?? "").unicodeScalars, at: at)
      case 4:
        let from = Int.random(in: 0..<scalars.count, using: &generator)
        let part = Array(scalars[from..<min(from + Int.random(in: 1...60, using: &generator), scalars.count)])
        scalars.insert(contentsOf: part, at: at)
      default: scalars.removeSubrange(at...)
      }
    }
    var view = String.UnicodeScalarView()
    view.append(contentsOf: scalars)
    return String(view)
  }

  @Test("Whatever comes, calls are whole, text is kept, and the cut does not matter")
  func anything() {
    let seed = UInt64.random(in: 0...UInt64.max)
    print("seed: \(seed)")
    var generator = SeededGenerator(seed: seed)
    var counts: [String: Int] = [:]
    let samples = Sample.all
    for _ in 0..<20_000 {
      guard let sample = samples.randomElement(using: &generator) else { return }
      let dialect = Int.random(in: 0..<8, using: &generator) == 0 ? ToolCallDialect.mistral : sample.dialect
      let tools = Bool.random(using: &generator) ? sample.tools : ["f", "a"]
      let isLimited = Int.random(in: 0..<4, using: &generator) == 0
      let limit = isLimited ? Int.random(in: 6...24, using: &generator) : ToolCallParser.defaultArgumentLimit
      let answer = Self.mutate(sample.answer, &generator)
      // Checks the order of events and the validity of the arguments itself.
      let whole = Reading([answer], dialect, tools: tools, argumentLimit: limit)
      let pieces = answer.cut(longest: Int.random(in: 1...12, using: &generator), &generator)
      let cut = Reading(pieces, dialect, tools: tools, argumentLimit: limit)
      #expect(whole.parts == cut.parts, "\(dialect) \(tools) \(pieces)")
      #expect(answer.holdsInOrder(whole.text), "\(dialect) \(tools) \(answer.debugDescription)")
      if whole.outcomes.isEmpty {
        #expect(whole.text.utf8.elementsEqual(answer.utf8), "\(dialect) \(tools) \(answer.debugDescription)")
        counts["no call", default: 0] += 1
      }
      for outcome in whole.outcomes { counts["\(outcome)", default: 0] += 1 }
    }
    print(counts.sorted { $0.key < $1.key })
    // All that can happen has happened often.
    for kind in ["no call", "complete", "malformed", "cut", "tooLong"] {
      #expect(counts[kind, default: 0] > 30, "\(kind)")
    }
  }
}
