/// How a family of models writes a tool call into its answer.
public enum ToolCallDialect: String, Sendable, Codable, CaseIterable {
  /// `<tool_call>{"name": …, "arguments": {…}}</tool_call>`, one tag a call: Hermes, Qwen2.5, Qwen3, SmolLM3.
  case hermes
  /// A bare `{"name": …, "parameters": {…}}`, or several with `;` or newlines between, also after `<|python_tag|>`:
  /// Llama 3.1, 3.2 and 3.3.
  case llama3
  /// `<tool_call>[{"name": …, "arguments": {…}}, …]</tool_call>`, one tag for all calls: SmolLM2.
  case smollm2
  /// `[TOOL_CALLS][{"name": …, "arguments": {…}}, …]`, or since tokenizer version 11 `[TOOL_CALLS]name[ARGS]{…}`:
  /// Mistral.
  case mistral

  /// The dialect that a chat template asks for; nil if it asks for none of these.
  ///
  /// A guess from the template's text. Templates that put XML between the tags (Qwen3-Coder, GLM-4.5) ask for another
  /// dialect.
  public static func detect(template: String) -> ToolCallDialect? {
    // Jinja strings may escape quotes, and authors put spaces as they like.
    let text = String(decoding: template.utf8.filter { !$0.isJSONSpace && $0 != UInt8(ascii: "\\") }, as: UTF8.self)
    if text.contains("[TOOL_CALLS]") { return .mistral }
    if text.contains("<tool_call>") {
      if text.contains("<function=") || text.contains("<arg_key>") { return nil }
      return text.contains("<tool_call>[") || text.contains("<tool_call>n[") ? .smollm2 : .hermes
    }
    if text.contains("<|python_tag|>") { return .llama3 }
    if text.contains(#"{"name":functionname,"parameters":"#) { return .llama3 }
    return nil
  }
}

/// A text that begins calls, and the text that ends them.
struct ToolCallMarker: Sendable {
  var opening: [UInt8]
  /// Empty if nothing but the calls themselves ends them.
  var closing: [UInt8]
  /// Marks other things than calls too: only a call of a tool that exists counts.
  var isLoose = false

  init(_ opening: String, _ closing: String = "", isLoose: Bool = false) {
    self.opening = Array(opening.utf8)
    self.closing = Array(closing.utf8)
    self.isLoose = isLoose
  }
}

extension ToolCallDialect {
  /// The markers to look for. `Qwen2.5-Coder` is asked for Hermes tags and often answers with a code block or with the
  /// tag that its prompt lists the tools in; these can be told from other text only where the tools are known.
  func markers(toolsAreKnown: Bool) -> [ToolCallMarker] {
    switch self {
    case .hermes, .smollm2:
      let tag = ToolCallMarker("<tool_call>", "</tool_call>")
      guard toolsAreKnown else { return [tag] }
      return [
        tag, ToolCallMarker("<tools>", "</tools>", isLoose: true), ToolCallMarker("```json", "```", isLoose: true),
      ]
    case .llama3: return [ToolCallMarker("<|python_tag|>")]
    case .mistral: return [ToolCallMarker("[TOOL_CALLS]")]
    }
  }

  /// Whether an answer that begins with an object may be a call without any marker.
  func allowsBareCalls(toolsAreKnown: Bool) -> Bool {
    switch self {
    case .llama3: true
    case .hermes, .smollm2: toolsAreKnown
    case .mistral: false
    }
  }
}
