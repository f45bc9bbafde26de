import ApusText

/// One request of a file: a line of JSON with `messages` or `prompt`, and perhaps `max_tokens`.
public struct PromptRecord: Sendable {
  public enum Prompt: Sendable {
    case text(String)
    case messages([JinjaValue])
  }

  public var prompt: Prompt
  public var maxTokens: Int?

  public init(_ prompt: Prompt, maxTokens: Int? = nil) {
    self.prompt = prompt
    self.maxTokens = maxTokens
  }

  /// Reads the lines of a JSONL file; empty ones are skipped. `file` is for errors, which name the line.
  public static func read(lines text: String, file: String) throws(LoadError) -> [PromptRecord] {
    var records: [PromptRecord] = []
    for (number, line) in text.split(omittingEmptySubsequences: false, whereSeparator: \.isNewline).enumerated()
    where !line.allSatisfy(\.isWhitespace) {
      func malformed(_ seen: String, _ expected: String) -> LoadError {
        .malformedLine(file: file, line: number + 1, seen: seen, expected: expected)
      }
      guard let value = try? JinjaValue(json: String(line)), case .mapping(let fields) = value else {
        throw malformed("no JSON object", "an object with messages or prompt")
      }
      let prompt: Prompt
      switch (fields["messages"], fields["prompt"]) {
      case (.list(let messages)?, nil) where !messages.isEmpty: prompt = .messages(messages)
      case (nil, .string(let text)?): prompt = .text(text)
      case (nil, nil): throw malformed("neither messages nor prompt", "one of them")
      case (.some, .some): throw malformed("messages and prompt", "one of them")
      case (.some, nil): throw malformed("messages without a message", "a list with at least one")
      case (nil, .some): throw malformed("a prompt of another type", "a string")
      }
      var maxTokens: Int?
      switch fields["max_tokens"] {
      case nil, .some(.none): break
      case .integer(let count)? where (1...LengthDistribution.limit).contains(count): maxTokens = count
      default: throw malformed("max_tokens of another type or size", "an integer from 1 to \(LengthDistribution.limit)")
      }
      records.append(PromptRecord(prompt, maxTokens: maxTokens))
    }
    if records.isEmpty {
      throw .malformedLine(file: file, line: 1, seen: "no line", expected: "an object with messages or prompt")
    }
    return records
  }

  /// The contents of messages below each other: a prompt for a route that knows no messages.
  static func text(of messages: [JinjaValue]) -> String {
    messages.compactMap { message in
      guard case .mapping(let fields) = message, case .string(let text)? = fields["content"] else { return nil }
      return text
    }.joined(separator: "\n")
  }
}
