import ApusText

/// Writes JSON on one line without blanks and with the keys in their order, as the peers' servers send it.
enum CompactJSON {
  /// O(bytes). What has no JSON form (infinities, parts of a running template) becomes null.
  static func bytes(_ value: JinjaValue) -> [UInt8] {
    var output: [UInt8] = []
    write(value, to: &output)
    return output
  }

  static func write(_ value: JinjaValue, to output: inout [UInt8]) {
    switch value {
    case .none, .undefined, .object: output += "null".utf8
    case .boolean(let flag): output += (flag ? "true" : "false").utf8
    case .integer(let number): output += String(number).utf8
    case .float(let number): output += (number.isFinite ? number.description : "null").utf8
    case .string(let text): write(text, to: &output)
    case .list(let items):
      output.append(UInt8(ascii: "["))
      for (index, item) in items.enumerated() {
        if index > 0 { output.append(UInt8(ascii: ",")) }
        write(item, to: &output)
      }
      output.append(UInt8(ascii: "]"))
    case .mapping(let mapping):
      output.append(UInt8(ascii: "{"))
      var isFirst = true
      for (key, value) in zip(mapping.keys, mapping.values) {
        guard case .string(let name) = key else { continue }
        if !isFirst { output.append(UInt8(ascii: ",")) }
        isFirst = false
        write(name, to: &output)
        output.append(UInt8(ascii: ":"))
        write(value, to: &output)
      }
      output.append(UInt8(ascii: "}"))
    }
  }

  /// Appends a string with its quotes.
  static func write(_ text: String, to output: inout [UInt8]) {
    output.append(UInt8(ascii: "\""))
    for byte in text.utf8 {
      switch byte {
      case UInt8(ascii: "\""): output += "\\\"".utf8
      case UInt8(ascii: "\\"): output += "\\\\".utf8
      case UInt8(ascii: "\n"): output += "\\n".utf8
      case UInt8(ascii: "\r"): output += "\\r".utf8
      case UInt8(ascii: "\t"): output += "\\t".utf8
      case 0..<0x20:
        let digits = Array("0123456789abcdef".utf8)
        output += "\\u00".utf8
        output += [digits[Int(byte >> 4)], digits[Int(byte & 15)]]
      default: output.append(byte)
      }
    }
    output.append(UInt8(ascii: "\""))
  }
}
