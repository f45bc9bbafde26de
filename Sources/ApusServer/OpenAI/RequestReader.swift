import ApusText

/// Reads the fields of a JSON object and names, in its errors, the path of what is wrong.
struct RequestReader {
  /// Path of the object, empty for the body itself.
  let path: String
  let fields: JinjaMapping

  /// Parses a request's body. Throws ``OpenAIError``.
  init(body: [UInt8]) throws {
    if body.isEmpty { throw OpenAIError.malformedJSON("it is empty") }
    // The parser is lenient here, for files; a client that sends such bytes would not get back what it said.
    guard String(validating: body, as: UTF8.self) != nil else { throw OpenAIError.malformedJSON("it is not UTF-8") }
    if let offset = body.firstIndex(of: 0) { throw OpenAIError.malformedJSON("a zero byte at \(offset)") }
    do {
      guard case .mapping(let fields) = try JinjaValue(json: body) else {
        throw OpenAIError.malformedJSON("it holds something else")
      }
      self.fields = fields
      path = ""
    } catch TokenizerError.malformedJSON(let offset, let expected) {
      throw OpenAIError.malformedJSON("expected \(expected) at byte \(offset)")
    }
  }

  init(_ value: JinjaValue, path: String) throws {
    guard case .mapping(let fields) = value else {
      throw OpenAIError.invalid(path, seen: value.brief, expected: "an object")
    }
    self.fields = fields
    self.path = path
  }

  func path(_ name: String) -> String { path.isEmpty ? name : "\(path).\(name)" }

  /// The field; nil if it is absent or null.
  func value(_ name: String) -> JinjaValue? {
    guard let value = fields[name] else { return nil }
    if case .none = value { return nil }
    return value
  }

  func invalid(_ name: String, _ value: JinjaValue, expected: String) -> OpenAIError {
    .invalid(path(name), seen: value.brief, expected: expected)
  }

  func string(_ name: String) throws -> String? {
    guard let value = value(name) else { return nil }
    guard case .string(let text) = value else { throw invalid(name, value, expected: "a string") }
    return text
  }

  func bool(_ name: String) throws -> Bool? {
    guard let value = value(name) else { return nil }
    guard case .boolean(let flag) = value else { throw invalid(name, value, expected: "true or false") }
    return flag
  }

  func integer(_ name: String, _ range: ClosedRange<Int>) throws -> Int? {
    guard let value = value(name) else { return nil }
    guard let number = value.wholeNumber, range.contains(number) else {
      let bounds =
        range.upperBound == .max ? "≥ \(range.lowerBound)" : "from \(range.lowerBound) to \(range.upperBound)"
      throw invalid(name, value, expected: "a whole number \(bounds)")
    }
    return number
  }

  func number(_ name: String, _ range: ClosedRange<Double>) throws -> Double? {
    guard let value = value(name) else { return nil }
    guard let number = value.number, range.contains(number) else {
      throw invalid(name, value, expected: "a number from \(range.lowerBound) to \(range.upperBound)")
    }
    return number
  }

  func list(_ name: String) throws -> [JinjaValue]? {
    guard let value = value(name) else { return nil }
    guard case .list(let items) = value else { throw invalid(name, value, expected: "an array") }
    return items
  }
}

extension JinjaValue {
  var number: Double? {
    switch self {
    case .integer(let number): Double(number)
    case .float(let number): number
    default: nil
    }
  }

  /// The value in a few words, for error messages.
  var brief: String {
    switch self {
    case .undefined, .object: "nothing"
    case .none: "null"
    case .boolean(let flag): "\(flag)"
    case .integer(let number): "\(number)"
    case .float(let number): "\(number)"
    case .string(let text): text.count > 40 ? "'\(text.prefix(40))…'" : "'\(text)'"
    case .list(let items): items.isEmpty ? "an empty array" : "an array"
    case .mapping: "an object"
    }
  }
}
