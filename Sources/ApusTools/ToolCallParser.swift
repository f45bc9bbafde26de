/// Finds the tool calls in a model's answer as it arrives, and gives out text and arguments piece by piece.
///
///     var parser = ToolCallParser(dialect: .hermes, tools: ["get_weather"])
///     parser.append("Let me look.\n<tool_call>\n{\"name\": \"get_w")       // text("Let me look.\n")
///     parser.append("eather\", \"arguments\": {\"city\": \"Par")           // callBegan, arguments({"city": "Par)
///     parser.append("is\"}}\n</tool_call>")                                // arguments(is"}), callEnded
///     parser.finish()
///
/// However the answer is cut into pieces, the events joined are the same. O(bytes) in total; memory is bounded by
/// `argumentLimit`.
///
/// What it does where models are careless:
/// - A call begins when its name and its first argument (or that it has none) are known. Up to then all is held back,
///   and if it turns out not to be a call it is given out as text exactly as it was. Markers count only where a call
///   follows, and never inside a JSON string.
/// - Every call's arguments are one JSON object when it ends. They are passed on as they were written, with two
///   exceptions: arguments given as a JSON string are unescaped, and control characters inside strings, which JSON
///   forbids, are escaped. Nothing else is repaired.
/// - Where the JSON of a call that has begun is malformed, or the answer ends within it, the call ends there: strings
///   and brackets that are open are closed, and everything after the last value that was sent is text, unless the
///   answer was cut (`finish(isCut:)`). Numbers and words are sent only when they are whole. `outcomes` tells such a
///   call from a complete one; do not execute it unasked, for a string in it may have been cut short.
/// - After the arguments are whole nothing can undo the call: a missing brace, a missing closing tag or further text
///   does no harm.
/// - A call behind its dialect's own marker counts whatever its name; the client decides what to do with an unknown
///   tool. One without a marker, in a code block or in the tag that lists the tools counts only if a tool of that name
///   exists, or, for `llama3` with no tools given, if it has arguments. Without a marker it must begin the answer.
/// - White space and separators around calls belong to them and are no text; so does white space at the start of an
///   answer that begins with a call.
public struct ToolCallParser: Sendable {
  /// What the answer turned out to hold next.
  public enum Event: Sendable, Equatable {
    case text(String)
    /// The `index`-th call of the answer, from 0. Its other events follow before anything else.
    case callBegan(index: Int, name: String)
    /// A piece of the call's arguments; all its pieces joined are one JSON object.
    case arguments(index: Int, json: String)
    case callEnded(index: Int)
  }

  /// How a call ended.
  public enum Outcome: Sendable, Equatable {
    /// Its arguments are as the model wrote them.
    case complete
    /// Its JSON broke off into something else.
    case malformed
    /// The answer ended within its arguments.
    case cut
    /// Its arguments had more bytes than allowed.
    case tooLong
  }

  /// Most bytes that a call's arguments may have unless said otherwise: 1 MiB.
  public static let defaultArgumentLimit = 1 << 20

  public let dialect: ToolCallDialect
  /// How each call that has ended did so, by its index.
  public private(set) var outcomes: [Outcome] = []

  private enum Mode: Sendable {
    /// Nothing but white space since the start or since a call.
    case between
    case text
    /// After a marker, before the call.
    case payload
    /// In a name that stands before its arguments.
    case leadingName
    case call
  }

  /// The marker that the parser is behind.
  private enum Tag: Sendable {
    case none
    /// No call has come yet: the marker may still be text.
    case opened(ToolCallMarker)
    case used(ToolCallMarker)

    var marker: ToolCallMarker? {
      switch self {
      case .none: nil
      case .opened(let marker), .used(let marker): marker
      }
    }

    var isUsed: Bool { if case .used = self { true } else { false } }
  }

  private let tools: Set<String>
  private let argumentLimit: Int
  /// Most bytes that are held back.
  private let holdLimit: Int
  private let markers: [ToolCallMarker]
  private let allowsBareCalls: Bool

  private var mode = Mode.between
  private var tag = Tag.none
  private var isInList = false
  /// Closing braces that belong to a doubled pair.
  private var spareBraces = 0
  /// Bytes that are not given out yet: text, unless they turn out to be part of a call.
  private var held: [UInt8] = []
  /// How many bytes at the end of `held` may be the beginning of a marker.
  private var candidate = 0
  private var leadingName = LeadingName()
  private var reader: CallReader
  private var callIsOpen = false
  private var output = EventBuffer()

  /// - Parameters:
  ///   - tools: names of the tools that exist; empty if any name may be called.
  ///   - argumentLimit: most bytes that a call's arguments may have; a call with more ends there, `tooLong`.
  public init(dialect: ToolCallDialect, tools: [String] = [], argumentLimit: Int = Self.defaultArgumentLimit) {
    self.dialect = dialect
    self.tools = Set(tools)
    self.argumentLimit = argumentLimit
    // Room for the name and other keys, and for escapes of arguments that wait for their name.
    holdLimit = min(argumentLimit, 1 << 40) * 2 + 4096
    markers = dialect.markers(toolsAreKnown: !tools.isEmpty)
    allowsBareCalls = dialect.allowsBareCalls(toolsAreKnown: !tools.isEmpty)
    reader = CallReader(.any, argumentLimit: argumentLimit)
  }

  /// Takes the next text of the answer.
  public mutating func append(_ text: String) -> [Event] {
    for byte in text.utf8 { take(byte) }
    return output.take()
  }

  /// Ends the answer: gives out what was held back, and ends a call that has begun.
  ///
  /// `isCut` says that not the model ended it, but a limit or a stop string. What was held back in a call, or behind the
  /// marker that only calls have, is then no text: a call whose name is whole begins, with empty arguments, and of one
  /// that has less nothing is given out. Half a marker stays text.
  public mutating func finish(isCut: Bool = false) -> [Event] {
    if isCut { cut() }
    if mode == .call { fail(.cut) }
    let isFraming = mode == .between && !outcomes.isEmpty && (candidate == 0 || holdsClosing)
    if !isFraming { output.text(held) }
    held.removeAll()
    candidate = 0
    return output.take()
  }

  /// Whether the candidate is the beginning of the tag that ends the calls just read.
  private var holdsClosing: Bool {
    tag.isUsed && tag.marker?.closing.starts(with: held.suffix(candidate)) == true
  }

  private mutating func take(_ byte: UInt8) {
    if held.count >= holdLimit && byte & 0xC0 != 0x80 { fail(.tooLong) }
    switch mode {
    case .text: takeText(byte)
    case .between: takeBetween(byte)
    case .payload: takePayload(byte)
    case .leadingName: takeLeadingName(byte)
    case .call: takeCall(byte)
    }
  }

  // MARK: Text and markers

  private mutating func takeText(_ byte: UInt8) {
    if candidate > 0 || beginsMarker(byte) {
      seekMarker(byte)
    } else {
      output.text(byte)
    }
  }

  private mutating func takeBetween(_ byte: UInt8) {
    if candidate > 0 || beginsMarker(byte) { return seekMarker(byte) }
    if byte == UInt8(ascii: "{"), tag.isUsed || allowsBareCalls { return beginObject(byte) }
    held.append(byte)
    if byte.isJSONSpace || !outcomes.isEmpty && takeSeparator(byte) { return }
    giveBack()
  }

  /// Whether the byte may stand between two calls.
  private mutating func takeSeparator(_ byte: UInt8) -> Bool {
    switch byte {
    case UInt8(ascii: ","), UInt8(ascii: ";"): return tag.isUsed || dialect == .llama3
    case UInt8(ascii: "]") where isInList:
      isInList = false
      return true
    case UInt8(ascii: "}") where spareBraces > 0:
      spareBraces -= 1
      return true
    default: return false
    }
  }

  private func beginsMarker(_ byte: UInt8) -> Bool {
    for marker in markers where marker.opening.first == byte { return true }
    return tag.isUsed && tag.marker?.closing.first == byte
  }

  /// Holds the byte back while it may belong to a marker, and acts on a marker that is whole.
  private mutating func seekMarker(_ byte: UInt8) {
    held.append(byte)
    candidate += 1
    while candidate > 0 {
      let seen = held[(held.count - candidate)...]
      if tag.isUsed, let closing = tag.marker?.closing, closing.elementsEqual(seen) { return closeTag() }
      if let marker = markers.first(where: { $0.opening.elementsEqual(seen) }) { return openTag(marker) }
      if markers.contains(where: { $0.opening.starts(with: seen) }) || holdsClosing { return }
      candidate -= 1
      output.text(held[..<(held.count - candidate)])
      held.removeSubrange(..<(held.count - candidate))
      mode = .text
    }
  }

  private mutating func openTag(_ marker: ToolCallMarker) {
    tag = .opened(marker)
    candidate = 0
    isInList = false
    spareBraces = 0
    mode = .payload
  }

  private mutating func closeTag() {
    held.removeAll(keepingCapacity: true)
    tag = .none
    candidate = 0
    isInList = false
    spareBraces = 0
    mode = .between
  }

  /// What is held back is text after all.
  private mutating func giveBack() {
    output.text(held)
    held.removeAll(keepingCapacity: true)
    candidate = 0
    if !tag.isUsed { tag = .none }
    mode = .text
  }

  // MARK: Calls

  private mutating func takePayload(_ byte: UInt8) {
    switch byte {
    case UInt8(ascii: "{"): beginObject(byte)
    case UInt8(ascii: "[") where !isInList:
      isInList = true
      held.append(byte)
    case _ where byte.isJSONSpace: held.append(byte)
    case _ where dialect == .mistral && !isInList && LeadingName.isNameByte(byte):
      leadingName = LeadingName()
      mode = .leadingName
      takeLeadingName(byte)
    default:
      giveBack()
      take(byte)
    }
  }

  private mutating func beginObject(_ byte: UInt8) {
    let standsAlone: Bool
    switch tag {
    case .none: standsAlone = true
    case .opened(let marker), .used(let marker): standsAlone = marker.isLoose
    }
    let requirement: CallReader.Requirement = !standsAlone ? .any : tools.isEmpty ? .plausible : .known(tools)
    reader = CallReader(requirement, argumentLimit: argumentLimit)
    spareBraces = 0
    mode = .call
    takeCall(byte)
  }

  private mutating func takeCall(_ byte: UInt8) {
    let step = reader.take(byte)
    switch reader.progress {
    case .none: if step != .failed { held.append(byte) }
    case .beforeByte:
      sendArguments()
      if step != .failed { held.append(byte) }
    case .throughByte: sendArguments()
    }
    switch step {
    case .more: break
    case .ended: endCall(.complete)
    case .failed:
      fail(reader.isOverLimit ? .tooLong : .malformed)
      take(byte)
    }
  }

  private mutating func sendArguments() {
    if !callIsOpen {
      output.begin(index: outcomes.count, name: reader.name ?? "")
      callIsOpen = true
      if case .opened(let marker) = tag { tag = .used(marker) }
    }
    output.arguments(reader.ready)
    reader.ready.removeAll(keepingCapacity: true)
    held.removeAll(keepingCapacity: true)
  }

  private mutating func endCall(_ outcome: Outcome) {
    output.end()
    outcomes.append(outcome)
    callIsOpen = false
    spareBraces = reader.isDoubled ? 1 : 0
    candidate = 0
    mode = .between
  }

  /// The bytes held back do not go on as the call, or as what stands before it.
  private mutating func fail(_ outcome: Outcome) {
    guard mode == .call, callIsOpen else { return giveBack() }
    output.arguments(reader.closing)
    endCall(reader.hasWholeArguments ? .complete : outcome)
    // After whole arguments, what the object still had (white space, a comma) is no text.
    let isFraming = reader.hasWholeArguments && held.allSatisfy { $0.isJSONSpace || $0 == UInt8(ascii: ",") }
    if isFraming { held.removeAll(keepingCapacity: true) } else { giveBack() }
  }

  /// Ends the call that the answer broke off in, and forgets what was held back of it.
  private mutating func cut() {
    let isBehindMarker = tag.marker.map { !$0.isLoose } ?? false
    switch mode {
    case .text: return
    case .between: if outcomes.isEmpty { return }
    case .payload: if !isBehindMarker { return }
    case .leadingName: if let name = leadingName.wholeName { giveCut(name) }
    case .call:
      if callIsOpen {
        output.arguments(reader.closing)
        endCall(reader.hasWholeArguments ? .complete : .cut)
      } else if let name = reader.name, isBehindMarker || !tools.isEmpty {
        // Where no marker stands, a reader only knows names of tools that exist.
        giveCut(name)
      } else if !isBehindMarker {
        return
      }
    }
    held.removeAll()
    candidate = 0
    mode = .between
  }

  private mutating func giveCut(_ name: String) {
    output.begin(index: outcomes.count, name: name)
    output.arguments(Array("{}".utf8))
    endCall(.cut)
  }

  private mutating func takeLeadingName(_ byte: UInt8) {
    switch leadingName.take(byte) {
    case .more: held.append(byte)
    case .ended:
      reader = CallReader(name: leadingName.name, argumentLimit: argumentLimit)
      mode = .call
      takeCall(byte)
    case .failed:
      giveBack()
      take(byte)
    }
  }
}
