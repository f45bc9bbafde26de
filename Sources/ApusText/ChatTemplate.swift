/// A model's chat template: the Jinja program that turns messages into the prompt that the model was trained on.
///
///     let template = try ChatTemplate(source)
///     let prompt = try template.render(
///       messages: [ChatMessage(role: "user", content: "Hi").jinjaValue], addGenerationPrompt: true)
///
/// Runs the subset of Jinja that public templates use, with the options that transformers sets (`trim_blocks`,
/// `lstrip_blocks`, `loopcontrols`, no escaping). Tuples are lists here, which only shows when one is printed as a
/// whole, and filters give lists rather than generators. Rendering is bounded by `TemplateLimits`: a hostile template ends in
/// a `TemplateError`.
public struct ChatTemplate: Sendable {
  private let statements: [JinjaStatement]
  /// The source as given.
  public let source: String
  public var limits = TemplateLimits()
  /// The time that `strftime_now` tells.
  public var clock = TemplateClock()

  /// Parses a template. Throws `TemplateError` with the line.
  public init(_ source: String) throws(TemplateError) {
    self.source = source
    statements = try JinjaParser.parse(source)
  }

  /// The prompt for a conversation.
  ///
  /// - Parameters:
  ///   - messages: one mapping each, with `role` and `content`.
  ///   - tools: JSON schemas of the tools on offer; nil leaves `tools` none, as templates test for it.
  ///   - addGenerationPrompt: open the assistant's turn at the end.
  ///   - bosToken: text of the token that begins a sequence, which many templates write themselves.
  ///   - eosToken: text of the token that ends a sequence.
  ///   - extra: further variables, such as `enable_thinking` or `documents`.
  public func render(
    messages: [JinjaValue], tools: [JinjaValue]? = nil, addGenerationPrompt: Bool = false, bosToken: String? = nil,
    eosToken: String? = nil, extra: [String: JinjaValue] = [:]
  ) throws(TemplateError) -> String {
    var globals: [String: JinjaValue] = [
      "messages": .list(messages),
      "tools": tools.map { .list($0) } ?? .none,
      "documents": .none,
      "add_generation_prompt": .boolean(addGenerationPrompt),
    ]
    if let bosToken { globals["bos_token"] = .string(bosToken) }
    if let eosToken { globals["eos_token"] = .string(eosToken) }
    globals.merge(extra) { $1 }
    return try render(variables: globals)
  }

  /// Renders with exactly these variables.
  public func render(variables: [String: JinjaValue]) throws(TemplateError) -> String {
    var interpreter = JinjaInterpreter(globals: variables, limits: limits, clock: clock)
    _ = try interpreter.run(statements)
    return interpreter.output
  }
}

/// One message of a conversation.
public struct ChatMessage: Sendable {
  /// A call that the assistant made.
  public struct ToolCall: Sendable {
    public var id: String?
    public var name: String
    /// The arguments, usually a mapping.
    public var arguments: JinjaValue

    public init(id: String? = nil, name: String, arguments: JinjaValue) {
      self.id = id
      self.name = name
      self.arguments = arguments
    }
  }

  /// `system`, `user`, `assistant`, `tool` or what else the template knows.
  public var role: String
  /// The text; nil for an assistant's turn that only calls tools.
  public var content: String?
  public var toolCalls: [ToolCall]
  /// Of a tool's answer: the call that it answers.
  public var toolCallID: String?
  /// The name of the participant or tool.
  public var name: String?
  /// What the assistant thought before answering, where a template shows it.
  public var reasoning: String?

  public init(
    role: String, content: String?, toolCalls: [ToolCall] = [], toolCallID: String? = nil, name: String? = nil,
    reasoning: String? = nil
  ) {
    self.role = role
    self.content = content
    self.toolCalls = toolCalls
    self.toolCallID = toolCallID
    self.name = name
    self.reasoning = reasoning
  }

  /// The message as templates see it, with the keys of the OpenAI dialect. Absent parts have no key, except `content`,
  /// which is none.
  public var jinjaValue: JinjaValue {
    var mapping: JinjaMapping = ["role": .string(role), "content": content.map { .string($0) } ?? .none]
    if let name { mapping["name"] = .string(name) }
    if let reasoning { mapping["reasoning_content"] = .string(reasoning) }
    if let toolCallID { mapping["tool_call_id"] = .string(toolCallID) }
    if !toolCalls.isEmpty {
      mapping["tool_calls"] = .list(
        toolCalls.map { call in
          var entry: JinjaMapping = [
            "type": "function", "function": ["name": .string(call.name), "arguments": call.arguments],
          ]
          if let id = call.id { entry["id"] = .string(id) }
          return .mapping(entry)
        })
    }
    return .mapping(mapping)
  }
}
