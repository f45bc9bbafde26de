/// A value that templates compute with: JSON's kinds, with integers apart from floats and mappings in order.
public indirect enum JinjaValue: Sendable {
  /// A missing variable, key or attribute; the name is for error messages.
  case undefined(name: String)
  case none
  case boolean(Bool)
  case integer(Int)
  case float(Double)
  case string(String)
  case list([JinjaValue])
  case mapping(JinjaMapping)
  /// Something of the running template: a macro, a namespace, a method. Never part of input or output.
  case object(JinjaObject)
}

/// What only exists while a template runs. The interpreter holds the state; these are handles into it.
public enum JinjaObject: Sendable {
  case namespace(Int)
  case macro(Int)
  case caller(Int)
  case function(String)
  case method(JinjaValue, String)
  case loop(JinjaLoop)
  /// Text that `safe` or `escape` marked: adding plain text to it escapes that text, as Python's Markup does.
  case markup(String)
}

/// The `loop` variable of one iteration.
public struct JinjaLoop: Sendable {
  var index0: Int
  var items: [JinjaValue]
  var depth: Int
}

/// A dictionary that keeps the order of insertion, as Python's does.
///
/// Small mappings are searched; larger ones have an index, so look-up is O(1) on average.
public struct JinjaMapping: Sendable, ExpressibleByDictionaryLiteral {
  public private(set) var keys: [JinjaValue] = []
  public private(set) var values: [JinjaValue] = []
  private var index: [HashKey: Int] = [:]

  private static let searchLimit = 8

  /// Keys compare as Python's: numbers by value, strings by code points.
  private enum HashKey: Hashable {
    case none
    case number(Double)
    case string([UInt8])
    case other
  }

  public init() {}

  public init(dictionaryLiteral elements: (String, JinjaValue)...) {
    for (key, value) in elements { self[key] = value }
  }

  public var count: Int { keys.count }

  private static func hashKey(_ key: JinjaValue) -> HashKey {
    switch key {
    case .none: .none
    case .boolean(let flag): .number(flag ? 1 : 0)
    case .integer(let number): .number(Double(number))
    case .float(let number): .number(number)
    case .string(let text): .string(Array(text.utf8))
    default: .other
    }
  }

  private func position(of key: JinjaValue) -> Int? {
    if keys.count <= Self.searchLimit { return keys.firstIndex { $0.isEqual(to: key) } }
    return index[Self.hashKey(key)]
  }

  public subscript(key: JinjaValue) -> JinjaValue? {
    get { position(of: key).map { values[$0] } }
    set {
      guard let newValue else {
        remove(key)
        return
      }
      if let position = position(of: key) {
        values[position] = newValue
        return
      }
      keys.append(key)
      values.append(newValue)
      if keys.count == Self.searchLimit + 1 {
        for (position, key) in keys.enumerated() { index[Self.hashKey(key)] = position }
      } else if keys.count > Self.searchLimit {
        index[Self.hashKey(key)] = keys.count - 1
      }
    }
  }

  public subscript(key: String) -> JinjaValue? {
    get { self[.string(key)] }
    set { self[.string(key)] = newValue }
  }

  private mutating func remove(_ key: JinjaValue) {
    guard let position = position(of: key) else { return }
    keys.remove(at: position)
    values.remove(at: position)
    index = [:]
    if keys.count > Self.searchLimit {
      for (position, key) in keys.enumerated() { index[Self.hashKey(key)] = position }
    }
  }
}

extension JinjaValue: ExpressibleByStringLiteral, ExpressibleByBooleanLiteral, ExpressibleByIntegerLiteral,
  ExpressibleByFloatLiteral, ExpressibleByArrayLiteral, ExpressibleByDictionaryLiteral
{
  public init(stringLiteral value: String) { self = .string(value) }
  public init(booleanLiteral value: Bool) { self = .boolean(value) }
  public init(integerLiteral value: Int) { self = .integer(value) }
  public init(floatLiteral value: Double) { self = .float(value) }
  public init(arrayLiteral elements: JinjaValue...) { self = .list(elements) }
  public init(dictionaryLiteral elements: (String, JinjaValue)...) {
    var mapping = JinjaMapping()
    for (key, value) in elements { mapping[key] = value }
    self = .mapping(mapping)
  }
}

extension JinjaValue {
  /// Python's truth: empty, zero, none and undefined are false.
  var isTrue: Bool {
    switch self {
    case .undefined, .none: false
    case .boolean(let flag): flag
    case .integer(let number): number != 0
    case .float(let number): number != 0
    case .string(let text): !text.isEmpty
    case .list(let items): !items.isEmpty
    case .mapping(let mapping): mapping.count > 0
    case .object(.markup(let text)): !text.isEmpty
    case .object: true
    }
  }

  /// The value with marked text as an ordinary string.
  var plain: JinjaValue {
    if case .object(.markup(let text)) = self { return .string(text) }
    return self
  }

  /// The name of the value's type, for error messages.
  var typeName: String {
    switch self {
    case .undefined(let name): "undefined value '\(name)'"
    case .none: "none"
    case .boolean: "boolean"
    case .integer: "integer"
    case .float: "float"
    case .string: "string"
    case .list: "list"
    case .mapping: "mapping"
    case .object(.markup): "string"
    case .object: "object"
    }
  }

  var isUndefined: Bool { if case .undefined = self { true } else { false } }

  /// The value as a number, where booleans count as 0 and 1.
  var asInteger: Int? {
    switch self {
    case .integer(let number): number
    case .boolean(let flag): flag ? 1 : 0
    default: nil
    }
  }

  var asDouble: Double? {
    if case .float(let number) = self { return number }
    return asInteger.map(Double.init)
  }

  /// Python's `==`: strings by code points, numbers by value across types.
  func isEqual(to other: JinjaValue) -> Bool {
    switch (self, other) {
    case (.undefined, .undefined), (.none, .none): return true
    case (.string(let a), .string(let b)): return a.utf8.elementsEqual(b.utf8)
    case (.list(let a), .list(let b)):
      guard a.count == b.count else { return false }
      for index in a.indices where !a[index].isEqual(to: b[index]) { return false }
      return true
    case (.mapping(let a), .mapping(let b)):
      guard a.count == b.count else { return false }
      for (index, key) in a.keys.enumerated() {
        guard let value = b[key], value.isEqual(to: a.values[index]) else { return false }
      }
      return true
    case (.object(.namespace(let a)), .object(.namespace(let b))): return a == b
    case (.object(.macro(let a)), .object(.macro(let b))): return a == b
    case (.object(.markup), _), (_, .object(.markup)): return plain.isPlainEqual(to: other.plain)
    default:
      if let a = asInteger, let b = other.asInteger { return a == b }
      if let a = asDouble, let b = other.asDouble { return a == b }
      return false
    }
  }

  private func isPlainEqual(to other: JinjaValue) -> Bool {
    guard case .string = self, case .string = other else { return false }
    return isEqual(to: other)
  }

  /// The text that `{{ value }}` writes: Python's `str`.
  var text: String {
    switch self {
    case .undefined: return ""
    case .string(let text), .object(.markup(let text)): return text
    default:
      var output = ""
      writeRepresentation(to: &output, depth: 0)
      return output
    }
  }

  /// Python's `repr`.
  private func writeRepresentation(to output: inout String, depth: Int) {
    if depth > JSONReader.maximumDepth {
      output += "..."
      return
    }
    switch self {
    case .undefined: output += "Undefined"
    case .none: output += "None"
    case .boolean(let flag): output += flag ? "True" : "False"
    case .integer(let number): output += String(number)
    case .float(let number): output += Self.floatText(number)
    case .string(let text): Self.writeQuoted(text, to: &output)
    case .list(let items):
      output += "["
      for (index, item) in items.enumerated() {
        if index > 0 { output += ", " }
        item.writeRepresentation(to: &output, depth: depth + 1)
      }
      output += "]"
    case .mapping(let mapping):
      output += "{"
      for index in 0..<mapping.count {
        if index > 0 { output += ", " }
        mapping.keys[index].writeRepresentation(to: &output, depth: depth + 1)
        output += ": "
        mapping.values[index].writeRepresentation(to: &output, depth: depth + 1)
      }
      output += "}"
    case .object(let object):
      switch object {
      case .namespace: output += "<Namespace>"
      case .macro, .caller: output += "<Macro>"
      case .function(let name), .method(_, let name): output += "<function \(name)>"
      case .loop: output += "<LoopContext>"
      case .markup(let text): Self.writeQuoted(text, to: &output)
      }
    }
  }

  static func floatText(_ number: Double) -> String {
    if number.isNaN { return "nan" }
    if number.isInfinite { return number < 0 ? "-inf" : "inf" }
    return number.description
  }

  private static func writeQuoted(_ text: String, to output: inout String) {
    let quote: Unicode.Scalar = text.utf8.contains(0x27) && !text.utf8.contains(0x22) ? "\"" : "'"
    output.unicodeScalars.append(quote)
    for scalar in text.unicodeScalars {
      switch scalar {
      case "\n": output += "\\n"
      case "\r": output += "\\r"
      case "\t": output += "\\t"
      case "\\": output += "\\\\"
      case quote: output += "\\\(quote)"
      case _ where scalar.value < 0x20 || scalar.value == 0x7F:
        output += "\\x" + hex(scalar.value, digits: 2)
      default: output.unicodeScalars.append(scalar)
      }
    }
    output.unicodeScalars.append(quote)
  }

  static func hex(_ value: UInt32, digits: Int) -> String {
    let text = String(value, radix: 16)
    return String(repeating: "0", count: max(0, digits - text.utf8.count)) + text
  }
}
