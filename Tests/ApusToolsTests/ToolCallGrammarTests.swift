import ApusText
import ApusTools
import TestSupport
import Testing

@Suite struct ToolCallGrammarTests {
  private static let vocabulary = VocabularyTrie(ByteTokenizer())

  private static let weather: JinjaValue = [
    "type": "object",
    "properties": [
      "city": ["type": "string", "maxLength": 4], "days": ["type": "integer", "maximum": 9, "minimum": 1],
    ],
    "required": ["city"],
  ]

  private static func tools(isStrict: Bool = false) -> [ToolSignature] {
    [
      ToolSignature(name: "weather", parameters: weather, isStrict: isStrict, schemaPath: "tools.0.parameters"),
      ToolSignature(name: "now", parameters: nil, isStrict: isStrict, schemaPath: "tools.1.parameters"),
    ]
  }

  private static func matcher(_ part: GrammarPart) throws -> GrammarMatcher {
    TokenGrammar(try Grammar(part), vocabulary: vocabulary).makeMatcher()
  }

  private func accepts(_ part: GrammarPart, _ text: some StringProtocol) throws -> Bool {
    var matcher = try Self.matcher(part)
    return matcher.accept(bytes: text.utf8) && matcher.canEnd
  }

  /// A text of the grammar, byte by byte; quotes and closing brackets are preferred, so that it ends.
  private func randomText(_ part: GrammarPart, _ random: inout SeededGenerator) throws -> String {
    var matcher = try Self.matcher(part)
    var bytes: [UInt8] = []
    while bytes.count < 4000 {
      if matcher.canEnd && (matcher.isComplete || Int.random(in: 0..<3, using: &random) == 0) { break }
      let allowed = matcher.mask().tokens.filter { $0 < 256 }
      let ending = allowed.filter { [0x22, 0x7D, 0x5D, 0x3C].contains($0) }
      let from = !ending.isEmpty && Bool.random(using: &random) ? ending : allowed
      let byte = try #require(from.randomElement(using: &random))
      let isAccepted = matcher.accept(byte)
      #expect(isAccepted)
      bytes.append(UInt8(byte))
    }
    try #require(matcher.canEnd)
    return try #require(String(validating: bytes, as: UTF8.self))
  }

  @Test(arguments: ToolCallDialect.allCases) func everyTextOfTheGrammarIsReadAsCompleteCalls(_ dialect: ToolCallDialect)
    throws
  {
    let seed = UInt64.random(in: 0 ... .max)
    var random = SeededGenerator(seed: seed)
    var several = 0
    for isParallel in [true, false] {
      let part = dialect.calls(of: Self.tools(), isParallel: isParallel)
      for _ in 0..<60 {
        let text = try randomText(part, &random)
        var parser = ToolCallParser(dialect: dialect, tools: ["weather", "now"])
        var events = parser.append(text)
        events += parser.finish()
        #expect(parser.outcomes.allSatisfy { $0 == .complete } && !parser.outcomes.isEmpty, "seed \(seed): \(text)")
        #expect(isParallel || parser.outcomes.count == 1, "seed \(seed): \(text)")
        if parser.outcomes.count > 1 { several += 1 }
        for event in events {
          switch event {
          case .text: Issue.record("seed \(seed): text in \(text)")
          case .callBegan(_, let name): #expect(["weather", "now"].contains(name))
          default: break
          }
        }
      }
    }
    #expect(several > 0, "seed \(seed)")
  }

  @Test func theUsualFormIsAllowedAndNothingElse() throws {
    let forms: [(ToolCallDialect, String)] = [
      (.hermes, "<tool_call>\n{\"name\": \"weather\", \"arguments\": {\"city\": \"Bern\"}}\n</tool_call>"),
      (.smollm2, "<tool_call>[{\"name\": \"weather\", \"arguments\": {\"city\": \"Bern\"}}]</tool_call>"),
      (.llama3, "{\"name\": \"weather\", \"parameters\": {\"city\": \"Bern\"}}"),
      (.mistral, "[TOOL_CALLS][{\"name\": \"weather\", \"arguments\": {\"city\": \"Bern\"}}]"),
    ]
    for (dialect, text) in forms {
      let part = dialect.calls(of: Self.tools(), isParallel: true)
      #expect(try accepts(part, text))
      for wrong in [
        text.replacing("weather", with: "other"), text.replacing("Bern", with: "Zürich"), "So: " + text, text + ".",
        text.replacing("\"city\": \"Bern\"", with: "\"town\": \"Bern\""),
        text.replacing("{\"city\": \"Bern\"}", with: "{}"),
      ] {
        #expect(try !accepts(part, wrong), "\(dialect): \(wrong)")
      }
    }
  }

  @Test func textIsFreeUntilACallBegins() throws {
    let part = ToolCallDialect.hermes.textOrCalls(of: Self.tools(), isParallel: false)
    let call = "<tool_call>\n{\"name\": \"now\", \"arguments\": {}}\n</tool_call>"
    for text in ["", "Just text.", "a <tool", "<tool_<tool_c>", "Well: " + call, "<<tool_call" + call, call] {
      #expect(try accepts(part, text), "\(text)")
    }
    for text in ["<tool_call>", "x<tool_call>y", call + "\n", call + call, "<tool_<tool_call>{", "<tool_<tool_call>"] {
      #expect(try !accepts(part, text), "\(text)")
    }
    let bare = ToolCallDialect.llama3.textOrCalls(of: Self.tools(), isParallel: false)
    #expect(
      try accepts(bare, "Text with {}") && accepts(bare, "") && accepts(bare, #"{"name": "now", "parameters": {}}"#))
    #expect(try !accepts(bare, "{}") && !accepts(bare, " {}"))
  }

  @Test func aSearchedMarkerIsFoundWhereverItStands() throws {
    let seed = UInt64.random(in: 0 ... .max)
    var random = SeededGenerator(seed: seed)
    for _ in 0..<300 {
      let marker = String((0..<Int.random(in: 1...5, using: &random)).map { _ in "ab".randomElement(using: &random)! })
      let text = String((0..<Int.random(in: 0...12, using: &random)).map { _ in "abc".randomElement(using: &random)! })
      let part = GrammarPart.textUntil(marker, then: .text("!"))
      #expect(try accepts(part, text) == !text.contains(marker), "seed \(seed): \(marker) in \(text)")
      guard let end = text.firstRange(of: marker)?.upperBound else { continue }
      #expect(try accepts(part, text[..<end] + "!"), "seed \(seed): \(marker) in \(text)")
    }
  }

  @Test func aSchemaThatNoGrammarCanFollowBindsStrictToolsOnly() throws {
    let schema: JinjaValue = ["type": "object", "not": ["required": ["a"]]]
    let bound = ToolSignature(name: "g", parameters: Self.weather, schemaPath: "tools.1.parameters")
    func grammar(isStrict: Bool) throws -> Grammar {
      let tool = ToolSignature(name: "f", parameters: schema, isStrict: isStrict, schemaPath: "tools.0.parameters")
      return try Grammar(of: [tool, bound], name: "tools") { ToolCallDialect.llama3.calls(of: $0, isParallel: false) }
    }
    func accepts(_ text: String) throws -> Bool {
      var matcher = TokenGrammar(try grammar(isStrict: false), vocabulary: Self.vocabulary).makeMatcher()
      return matcher.accept(bytes: text.utf8) && matcher.canEnd
    }
    #expect(try accepts(#"{"name": "f", "parameters": {"b": [1]}}"#))
    #expect(try accepts(#"{"name": "g", "parameters": {"city": "Bern"}}"#))
    #expect(try !accepts(#"{"name": "g", "parameters": {"b": [1]}}"#))
    #expect {
      _ = try grammar(isStrict: true)
    } throws: {
      ($0 as? GrammarError)?.path == "tools.0.parameters#/not"
    }
  }

  @Test func whatIsTooLargeIsAnErrorOfAllTools() throws {
    // Each alone is small enough.
    let tools = (0..<300).map { index in
      let texts = (0..<50).map { JinjaValue.string("\(index) \($0) " + String(repeating: "x", count: 60)) }
      return ToolSignature(
        name: "f\(index)", parameters: ["properties": ["a": ["enum": .list(texts)]]],
        schemaPath: "tools.\(index).parameters")
    }
    #expect {
      _ = try Grammar(of: tools, name: "tools") { ToolCallDialect.hermes.calls(of: $0, isParallel: false) }
    } throws: {
      ($0 as? GrammarError)?.kind == .limit && ($0 as? GrammarError)?.path.hasPrefix("tools") == true
    }
  }
}
