import ApusText
import ApusTools
import Testing

struct SeededGenerator: RandomNumberGenerator {
  private var state: UInt64
  init(seed: UInt64) { state = seed }

  mutating func next() -> UInt64 {
    state &+= 0x9E37_79B9_7F4A_7C15
    var z = state
    z = (z ^ (z >> 30)) &* 0xBF58_476D_1CE4_E5B9
    z = (z ^ (z >> 27)) &* 0x94D0_49BB_1331_11EB
    return z ^ (z >> 31)
  }
}

/// What an answer holds, with each run of pieces joined.
enum Part: Equatable, CustomStringConvertible {
  case text(String)
  case call(String, String)
  /// A call that did not end `complete`.
  case brokenCall(String, String, ToolCallParser.Outcome)

  var description: String {
    switch self {
    case .text(let text): "text(\(text.debugDescription))"
    case .call(let name, let arguments): "call(\(name.debugDescription), \(arguments))"
    case .brokenCall(let name, let arguments, let outcome): "\(outcome)(\(name.debugDescription), \(arguments))"
    }
  }
}

/// Reads an answer piece by piece and checks what must hold of the events of any answer.
struct Reading {
  var parts: [Part] = []
  var events: [ToolCallParser.Event] = []
  var outcomes: [ToolCallParser.Outcome] = []

  /// All text of the answer.
  var text: String {
    parts.map { if case .text(let text) = $0 { text } else { "" } }.joined()
  }

  init(
    _ pieces: [String], _ dialect: ToolCallDialect, tools: [String] = [],
    argumentLimit: Int = ToolCallParser.defaultArgumentLimit, isCut: Bool = false,
    sourceLocation: SourceLocation = #_sourceLocation
  ) {
    var parser = ToolCallParser(dialect: dialect, tools: tools, argumentLimit: argumentLimit)
    for piece in pieces { events += parser.append(piece) }
    events += parser.finish(isCut: isCut)
    #expect(parser.finish().isEmpty, sourceLocation: sourceLocation)
    outcomes = parser.outcomes
    if let fault = collect() { Issue.record("\(fault) in \(pieces): \(events)", sourceLocation: sourceLocation) }
  }

  /// Joins the events to parts; says what is wrong with their order or with a call's arguments.
  private mutating func collect() -> String? {
    var open: (index: Int, name: String, arguments: String)?
    var calls = 0
    for event in events {
      switch event {
      case .text(let piece):
        if piece.isEmpty { return "an empty text" }
        if open != nil { return "text inside a call" }
        if case .text(let before)? = parts.last {
          parts[parts.count - 1] = .text(before + piece)
        } else {
          parts.append(.text(piece))
        }
      case .callBegan(let index, let name):
        if open != nil || index != calls { return "a call begins at the wrong time" }
        if name.isEmpty { return "a call without a name" }
        open = (index, name, "")
      case .arguments(let index, let json):
        if json.isEmpty { return "an empty piece of arguments" }
        guard open?.index == index else { return "arguments outside their call" }
        open?.arguments += json
      case .callEnded(let index):
        guard let call = open, call.index == index, index < outcomes.count else {
          return "a call ends at the wrong time"
        }
        guard case .mapping? = try? JinjaValue(json: call.arguments) else {
          return "arguments are not a JSON object: \(call.arguments)"
        }
        let outcome = outcomes[index]
        parts.append(
          outcome == .complete ? .call(call.name, call.arguments) : .brokenCall(call.name, call.arguments, outcome))
        open = nil
        calls += 1
      }
    }
    if open != nil { return "a call does not end" }
    return calls == outcomes.count ? nil : "\(outcomes.count) outcomes of \(calls) calls"
  }
}

extension String {
  /// The string cut at random between scalars, into pieces of 1 to `longest` scalars.
  func cut(longest: Int, _ generator: inout SeededGenerator) -> [String] {
    var rest = Array(unicodeScalars)[...]
    var pieces: [String] = []
    while !rest.isEmpty {
      let count = Int.random(in: 1...longest, using: &generator)
      var piece = String.UnicodeScalarView()
      piece.append(contentsOf: rest.prefix(count))
      rest = rest.dropFirst(count)
      pieces.append(String(piece))
    }
    return pieces
  }

  /// One piece a scalar.
  var scalars: [String] { unicodeScalars.map { String($0) } }

  /// Whether the bytes of `other` occur here in this order, perhaps with others between them.
  func holdsInOrder(_ other: String) -> Bool {
    var bytes = utf8.makeIterator()
    return other.utf8.allSatisfy { byte in
      while let next = bytes.next() { if next == byte { return true } }
      return false
    }
  }
}
