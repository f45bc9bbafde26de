/// Puts lines together to messages and commands: a state machine without I/O.
struct ChatReader {
  enum Action: Equatable {
    /// The message goes on.
    case nothing
    case say(String)
    case help
    case reset
    case quit
    case system(String)
    case save(String)
    case unknown(String)
  }

  private var lines: [String] = []
  private var isQuoted = false

  /// Whether the next line belongs to the same message.
  var isUnfinished: Bool { isQuoted || !lines.isEmpty }

  private static let quote = "\"\"\""

  /// Takes a line without its line break.
  mutating func take(_ line: String) -> Action {
    if isQuoted {
      guard line.hasSuffix(Self.quote) else {
        lines.append(line)
        return .nothing
      }
      let last = String(line.dropLast(Self.quote.count))
      if !last.isEmpty { lines.append(last) }
      isQuoted = false
      return finish()
    }
    if lines.isEmpty, line.hasPrefix(Self.quote) {
      let rest = String(line.dropFirst(Self.quote.count))
      if rest.hasSuffix(Self.quote) {
        lines = [String(rest.dropLast(Self.quote.count))]
        return finish()
      }
      if !rest.isEmpty { lines.append(rest) }
      isQuoted = true
      return .nothing
    }
    if line.hasSuffix("\\") {
      lines.append(String(line.dropLast()))
      return .nothing
    }
    if lines.isEmpty, line.hasPrefix("/") { return Self.command(line) }
    lines.append(line)
    return finish()
  }

  private mutating func finish() -> Action {
    defer { lines.removeAll() }
    let text = lines.joined(separator: "\n")
    return text.allSatisfy(\.isWhitespace) ? .nothing : .say(text)
  }

  private static func command(_ line: String) -> Action {
    let parts = line.split(separator: " ", maxSplits: 1)
    let argument = parts.count > 1 ? parts[1].trimmingPrefix(while: \.isWhitespace) : ""
    switch parts[0] {
    case "/help", "/?": return .help
    case "/reset", "/clear": return .reset
    case "/quit", "/exit", "/bye": return .quit
    case "/system": return .system(String(argument))
    case "/save" where !argument.isEmpty: return .save(String(argument))
    case "/save": return .unknown("/save without a file")
    default: return .unknown(String(parts[0]))
    }
  }
}
