extension JinjaValue {
  /// Parses JSON text; objects keep their order, integers stay integers. Throws `TokenizerError.malformedJSON`.
  ///
  /// Nesting beyond 256 levels and integers beyond 64 bits (which become floats) are the only deviations from Python's
  /// reader. O(bytes).
  public init(json: String) throws(TokenizerError) {
    try self.init(json: Array(json.utf8))
  }

  /// Parses JSON in UTF-8.
  public init(json bytes: [UInt8]) throws(TokenizerError) {
    var reader = JSONReader(bytes)
    self = try reader.value()
    try reader.end()
  }

  /// The value as JSON, as Python's `json.dumps(value, ensure_ascii=False)` writes it.
  public var json: String {
    get throws(TemplateError) {
      var writer = JSONWriter()
      try writer.write(self, depth: 0)
      return writer.output
    }
  }
}

/// Writes JSON as Python's `json` module does.
struct JSONWriter {
  var output = ""
  /// Text of one level of indentation; nil writes one line.
  var indent: String?
  var itemSeparator = ", "
  var keySeparator = ": "
  var ensureASCII = false
  var sortKeys = false
  /// Writing stops with an error beyond this many bytes.
  var limit = Int.max

  mutating func write(_ value: JinjaValue, depth: Int) throws(TemplateError) {
    guard depth <= JSONReader.maximumDepth else { throw TemplateError(.limit, "tojson: value is nested too deeply") }
    guard output.utf8.count <= limit else { throw TemplateError(.limit, "tojson: output grows too long") }
    switch value {
    case .none: output += "null"
    case .boolean(let flag): output += flag ? "true" : "false"
    case .integer(let number): output += String(number)
    case .float(let number): output += Self.number(number)
    case .string(let text), .object(.markup(let text)): writeString(text)
    case .list(let items):
      if items.isEmpty {
        output += "[]"
        return
      }
      output += "["
      for (index, item) in items.enumerated() {
        if index > 0 { output += itemSeparator }
        newline(depth + 1)
        try write(item, depth: depth + 1)
      }
      newline(depth)
      output += "]"
    case .mapping(let mapping):
      if mapping.count == 0 {
        output += "{}"
        return
      }
      output += "{"
      var order = Array(0..<mapping.count)
      if sortKeys {
        let names = try mapping.keys.map { (key) throws(TemplateError) in try Self.keyText(key) }
        order.sort { names[$0].unicodeScalars.lexicographicallyPrecedes(names[$1].unicodeScalars) }
      }
      for (count, index) in order.enumerated() {
        if count > 0 { output += itemSeparator }
        newline(depth + 1)
        writeString(try Self.keyText(mapping.keys[index]))
        output += keySeparator
        try write(mapping.values[index], depth: depth + 1)
      }
      newline(depth)
      output += "}"
    case .undefined, .object:
      throw TemplateError(.type, "tojson: \(value.typeName) has no JSON form")
    }
  }

  private mutating func newline(_ depth: Int) {
    guard let indent else { return }
    output += "\n"
    for _ in 0..<depth { output += indent }
  }

  private static func number(_ number: Double) -> String {
    if number.isNaN { return "NaN" }
    if number.isInfinite { return number < 0 ? "-Infinity" : "Infinity" }
    return number.description
  }

  private static func keyText(_ key: JinjaValue) throws(TemplateError) -> String {
    switch key {
    case .string(let text): text
    case .integer(let value): String(value)
    case .float(let value): number(value)
    case .boolean(let flag): flag ? "true" : "false"
    case .none: "null"
    default: throw TemplateError(.type, "tojson: a key must not be a \(key.typeName)")
    }
  }

  private mutating func writeString(_ text: String) {
    output += "\""
    for scalar in text.unicodeScalars {
      switch scalar {
      case "\"": output += "\\\""
      case "\\": output += "\\\\"
      case "\n": output += "\\n"
      case "\r": output += "\\r"
      case "\t": output += "\\t"
      case "\u{8}": output += "\\b"
      case "\u{C}": output += "\\f"
      default:
        if scalar.value < 0x20 || (ensureASCII && scalar.value > 0x7E) {
          for unit in String(scalar).utf16 { output += "\\u" + JinjaValue.hex(UInt32(unit), digits: 4) }
        } else {
          output.unicodeScalars.append(scalar)
        }
      }
    }
    output += "\""
  }
}
