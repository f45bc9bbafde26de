/// Reads one call, `{"name": …, "arguments": {…}}`, byte by byte, and gives out its arguments as they come.
///
/// Knows nothing of what stands around the object. Keys may come in any order; `parameters` is `arguments`; other keys
/// are skipped. Arguments are an object, a string that holds one, null, or absent.
struct CallReader: Sendable {
  enum Step: Sendable { case more, ended, failed }

  /// How far the bytes read so far are part of a call that is sent.
  enum Progress: Sendable { case none, beforeByte, throughByte }

  /// What a call must be to be one.
  enum Requirement: Sendable {
    /// It stands where only calls stand: any name will do.
    case any
    /// It stands where other JSON may stand: it must begin as calls do and have arguments.
    case plausible
    /// The same, and it is a call of one of these tools.
    case known(Set<String>)
  }

  /// Names longer than this, in bytes, are no names.
  static let maximumNameLength = 256

  private enum State: Sendable {
    case start, key, keyText, colon, value, nameText, arguments, argumentText, other, next
  }
  private enum Key: Sendable { case name, arguments, other }

  private(set) var name: String?
  /// Bytes of the arguments that the caller shall send and remove. Empty before the name is known.
  var ready: [UInt8] = []
  /// What the last byte led to.
  private(set) var progress = Progress.none
  /// The arguments are complete; what follows cannot change the call.
  private(set) var hasWholeArguments = false
  /// The arguments had more bytes than allowed.
  private(set) var isOverLimit = false
  /// The object stands in a second pair of braces, as some templates show it by mistake.
  private(set) var isDoubled = false

  private var state: State
  private var key = Key.other
  private var hasKeys = false
  private var decoder = JSONTextDecoder()
  private var scratch: [UInt8] = []
  /// Of the arguments, or of a value that is skipped.
  private var scanner = JSONScanner()
  /// The scanner at the last byte of the arguments that may be sent.
  private var sendable = JSONScanner()
  /// Bytes of the arguments that may not be sent yet: the name is unknown, or they could not be closed.
  private var pending: [UInt8] = []
  private var argumentCount = 0
  private var hasArguments = false
  /// The call ends with its arguments: the name stood before them.
  private let endsWithArguments: Bool
  private let requirement: Requirement
  private let argumentLimit: Int

  /// A reader of a whole object, before its opening brace. `argumentLimit` in bytes.
  init(_ requirement: Requirement, argumentLimit: Int) {
    self.requirement = requirement
    self.argumentLimit = argumentLimit
    endsWithArguments = false
    state = .start
  }

  /// A reader of the arguments of a call whose name is known, before their opening brace.
  init(name: String, argumentLimit: Int) {
    self.name = name
    self.argumentLimit = argumentLimit
    requirement = .any
    endsWithArguments = true
    hasArguments = true
    state = .arguments
  }

  /// What completes the arguments sent so far, as if the call ended here.
  var closing: [UInt8] { hasWholeArguments ? [] : sendable.closing }

  /// Takes the next byte. A byte that fails is not part of the call.
  mutating func take(_ byte: UInt8) -> Step {
    progress = .none
    switch state {
    case .start:
      state = .key
      return byte == UInt8(ascii: "{") ? .more : .failed
    case .keyText: return takeKey(byte)
    case .nameText: return takeName(byte)
    case .arguments: return takeArgument(byte)
    case .argumentText: return takeArgumentText(byte)
    case .other: return takeOther(byte)
    case .key, .colon, .value, .next: break
    }
    if byte.isJSONSpace { return .more }
    switch (state, byte) {
    case (.key, UInt8(ascii: "\"")):
      beginText(.keyText)
      return .more
    case (.key, UInt8(ascii: "{")) where !hasKeys && !isDoubled:
      isDoubled = true
      return .more
    case (.key, UInt8(ascii: "}")), (.next, UInt8(ascii: "}")): return end()
    case (.colon, UInt8(ascii: ":")): state = .value
    case (.next, UInt8(ascii: ",")): state = .key
    case (.value, _): return beginValue(byte)
    default: return .failed
    }
    return .more
  }

  private mutating func beginText(_ next: State) {
    decoder = JSONTextDecoder(allowsControls: next == .argumentText)
    scratch.removeAll(keepingCapacity: true)
    state = next
  }

  private mutating func end() -> Step {
    guard name != nil else { return .failed }
    if !hasArguments {
      if case .plausible = requirement { return .failed }
      hasArguments = true
      setEmptyArguments()
    }
    release(.throughByte)
    return .ended
  }

  // MARK: Keys and the name

  private mutating func takeKey(_ byte: UInt8) -> Step {
    switch decoder.take(byte, into: &scratch) {
    case .invalid: return .failed
    case .more: return scratch.count <= Self.maximumNameLength ? .more : .failed
    case .end: break
    }
    switch String(decoding: scratch, as: UTF8.self) {
    case "name" where name == nil: key = .name
    case "arguments" where !hasArguments, "parameters" where !hasArguments: key = .arguments
    case "name", "arguments", "parameters": return .failed
    case "type", "id": key = .other
    default:
      key = .other
      // Other JSON shows itself by its keys, and need not be held back any longer.
      switch requirement {
      case .any: break
      case .plausible: return .failed
      case .known: if name == nil { return .failed }
      }
    }
    hasKeys = true
    state = .colon
    return .more
  }

  private mutating func takeName(_ byte: UInt8) -> Step {
    switch decoder.take(byte, into: &scratch) {
    case .invalid: return .failed
    case .more: return scratch.count <= Self.maximumNameLength ? .more : .failed
    case .end: break
    }
    let text = String(decoding: scratch, as: UTF8.self)
    if text.isEmpty { return .failed }
    if case .known(let names) = requirement, !names.contains(text) { return .failed }
    name = text
    state = .next
    if hasWholeArguments { release(.throughByte) }
    return .more
  }

  private mutating func beginValue(_ byte: UInt8) -> Step {
    switch (key, byte) {
    case (.name, UInt8(ascii: "\"")): beginText(.nameText)
    case (.arguments, UInt8(ascii: "{")):
      hasArguments = true
      scanner = JSONScanner()
      state = .arguments
      return takeArgument(byte)
    case (.arguments, UInt8(ascii: "\"")):
      hasArguments = true
      scanner = JSONScanner()
      beginText(.argumentText)
    case (.arguments, UInt8(ascii: "n")), (.other, _):
      scanner = JSONScanner()
      state = .other
      return takeOther(byte)
    default: return .failed
    }
    return .more
  }

  /// A value of another key, or null as the arguments.
  private mutating func takeOther(_ byte: UInt8) -> Step {
    if scanner.settle(before: byte), scanner.isFinished {
      state = .next
      return take(byte)
    }
    // A string of a skipped value ends at the line: an unclosed one must not swallow what follows.
    guard !(scanner.isInText && byte < 0x20), scanner.take(byte) else { return .failed }
    if scanner.isFinished {
      state = .next
      if key == .arguments {
        hasArguments = true
        setEmptyArguments()
        release(.throughByte)
      }
    }
    return .more
  }

  // MARK: Arguments

  private mutating func setEmptyArguments() {
    pending = Array("{}".utf8)
    hasWholeArguments = true
  }

  /// Lets the caller send what is pending, if the call's name is known.
  private mutating func release(_ reached: Progress) {
    guard name != nil else { return }
    ready += pending
    pending.removeAll(keepingCapacity: true)
    sendable = scanner
    progress = reached
  }

  private mutating func takeArgument(_ byte: UInt8) -> Step {
    if scanner.settle(before: byte) { release(.beforeByte) }
    guard take(argument: byte) else { return .failed }
    if scanner.isSafe { release(.throughByte) }
    if hasWholeArguments {
      state = .next
      return endsWithArguments ? .ended : .more
    }
    return .more
  }

  /// Arguments that are a string holding JSON.
  private mutating func takeArgumentText(_ byte: UInt8) -> Step {
    scratch.removeAll(keepingCapacity: true)
    let step = decoder.take(byte, into: &scratch)
    if case .invalid = step { return .failed }
    for unescaped in scratch {
      // An object that is complete, or has not begun, may have white space around it.
      if (hasWholeArguments || scanner.isAtStart) && unescaped.isJSONSpace { continue }
      if hasWholeArguments || scanner.isAtStart && unescaped != UInt8(ascii: "{") { return .failed }
      _ = scanner.settle(before: unescaped)
      guard take(argument: unescaped) else { return .failed }
    }
    if case .end = step {
      if scanner.isAtStart { setEmptyArguments() }
      guard hasWholeArguments else { return .failed }
      state = .next
      release(.throughByte)
    } else if decoder.isIdle && scanner.isSafe {
      release(.throughByte)
    }
    return .more
  }

  private mutating func take(argument byte: UInt8) -> Bool {
    // The cut comes before a character, not inside it.
    if argumentCount >= argumentLimit && byte & 0xC0 != 0x80 {
      isOverLimit = true
      return false
    }
    let isText = scanner.isInText
    guard scanner.take(byte) else { return false }
    argumentCount += 1
    if isText && byte < 0x20 { appendEscaped(byte) } else { pending.append(byte) }
    if scanner.isFinished { hasWholeArguments = true }
    return true
  }

  /// A control character that the model wrote into a string as it is.
  private mutating func appendEscaped(_ byte: UInt8) {
    pending.append(UInt8(ascii: "\\"))
    switch byte {
    case 0x0A: pending.append(UInt8(ascii: "n"))
    case 0x0D: pending.append(UInt8(ascii: "r"))
    case 0x09: pending.append(UInt8(ascii: "t"))
    default:
      let digits = Array("0123456789abcdef".utf8)
      pending += "u00".utf8
      pending += [digits[Int(byte >> 4)], digits[Int(byte & 15)]]
    }
  }
}
