/// The methods that Python's strings, lists and dictionaries lend to templates. None of them changes its object: the
/// reference runs templates in a sandbox that refuses such methods, and so does this.
enum JinjaMethods {
  static let ofString: Set<String> = [
    "split", "rsplit", "splitlines", "strip", "lstrip", "rstrip", "startswith", "endswith", "replace", "upper",
    "lower", "title", "capitalize", "swapcase", "casefold", "join", "find", "rfind", "index", "count", "isdigit",
    "isalpha", "isalnum", "isspace", "isupper", "islower", "isnumeric", "isdecimal", "format", "removeprefix",
    "removesuffix", "zfill", "ljust", "rjust", "center", "partition", "rpartition",
  ]
  static let ofMapping: Set<String> = [
    "get", "items", "keys", "values", "copy", "pop", "popitem", "update", "setdefault", "clear",
  ]
  static let ofList: Set<String> = [
    "index", "count", "copy", "append", "extend", "insert", "pop", "remove", "clear", "sort", "reverse",
  ]
  private static let mutating: Set<String> = [
    "pop", "popitem", "update", "setdefault", "clear", "append", "extend", "insert", "remove", "sort", "reverse",
  ]

  typealias Arguments = JinjaInterpreter.Arguments

  static func call(
    _ value: JinjaValue, _ name: String, _ arguments: Arguments, _ interpreter: inout JinjaInterpreter
  ) throws(TemplateError) -> JinjaValue {
    switch value {
    case .string(let text):
      try interpreter.chargeBytes(text.utf8.count)
      return try callString(text, name, arguments, &interpreter)
    case .mapping(let mapping):
      try interpreter.charge(mapping.count)
      if mutating.contains(name) { throw refusal(name, interpreter) }
      return try callMapping(mapping, name, arguments, interpreter)
    case .list(let items):
      try interpreter.charge(items.count)
      if mutating.contains(name) { throw refusal(name, interpreter) }
      return try callList(items, name, arguments, interpreter)
    case .object(.loop(let loop)):
      guard name == "cycle", !arguments.positional.isEmpty else {
        throw interpreter.error(.type, "'loop.cycle' needs at least one value")
      }
      return arguments.positional[loop.index0 % arguments.positional.count]
    default: throw interpreter.error(.type, "a \(value.typeName) has no method '\(name)'")
    }
  }

  private static func refusal(_ name: String, _ interpreter: JinjaInterpreter) -> TemplateError {
    interpreter.error(.unsupported, "'\(name)' would change a value, which templates must not")
  }

  // MARK: Mappings and lists

  private static func callMapping(
    _ mapping: JinjaMapping, _ name: String, _ arguments: Arguments, _ interpreter: JinjaInterpreter
  ) throws(TemplateError) -> JinjaValue {
    switch name {
    case "get":
      guard let key = arguments.positional.first else { throw interpreter.error(.type, "'get' needs a key") }
      return mapping[key] ?? arguments.value(1, "default") ?? .none
    case "items": return .list((0..<mapping.count).map { .list([mapping.keys[$0], mapping.values[$0]]) })
    case "keys": return .list(mapping.keys)
    case "values": return .list(mapping.values)
    default: return .mapping(mapping)
    }
  }

  private static func callList(
    _ items: [JinjaValue], _ name: String, _ arguments: Arguments, _ interpreter: JinjaInterpreter
  ) throws(TemplateError) -> JinjaValue {
    guard name != "copy" else { return .list(items) }
    guard let element = arguments.positional.first else {
      throw interpreter.error(.type, "'\(name)' needs a value")
    }
    if name == "count" { return .integer(items.reduce(0) { $0 + ($1.isEqual(to: element) ? 1 : 0) }) }
    guard let index = items.firstIndex(where: { $0.isEqual(to: element) }) else {
      throw interpreter.error(.type, "'index': the value is not in the list")
    }
    return .integer(index)
  }

  // MARK: Strings

  private static func string(
    _ arguments: Arguments, _ index: Int, _ name: String, _ interpreter: JinjaInterpreter
  ) throws(TemplateError) -> String? {
    switch arguments.value(index, name) {
    case nil, JinjaValue.none?: return nil
    case .string(let text)?: return text
    case let other?: throw interpreter.error(.type, "a string method needs a string, found a \(other.typeName)")
    }
  }

  private static func required(
    _ arguments: Arguments, _ index: Int, _ method: String, _ interpreter: JinjaInterpreter
  ) throws(TemplateError) -> String {
    guard let text = try string(arguments, index, "", interpreter) else {
      throw interpreter.error(.type, "'\(method)' needs a string")
    }
    return text
  }

  private static func callString(
    _ text: String, _ name: String, _ arguments: Arguments, _ interpreter: inout JinjaInterpreter
  ) throws(TemplateError) -> JinjaValue {
    switch name {
    case "strip", "lstrip", "rstrip":
      let characters = try string(arguments, 0, "chars", interpreter)
      return .string(JinjaText.strip(text, characters, left: name != "rstrip", right: name != "lstrip"))
    case "split", "rsplit":
      let separator = try string(arguments, 0, "sep", interpreter)
      if separator == "" { throw interpreter.error(.type, "'\(name)': the separator is empty") }
      let limit = arguments.value(1, "maxsplit")?.asInteger ?? -1
      if name == "rsplit", let separator { return .list(JinjaText.splitFromEnd(text, separator, limit)) }
      if name == "rsplit" && limit >= 0 {
        throw interpreter.error(.unsupported, "'rsplit' at white space with a limit")
      }
      return .list(JinjaText.split(text, separator, limit))
    case "splitlines":
      let keepEnds = arguments.value(0, "keepends")?.isTrue ?? false
      return .list(JinjaText.lines(text, keepEnds: keepEnds).map { .string($0) })
    case "startswith", "endswith":
      return .boolean(try hasAffix(text, arguments, isPrefix: name == "startswith", interpreter))
    case "replace":
      let old = try required(arguments, 0, name, interpreter)
      let new = try required(arguments, 1, name, interpreter)
      let count = arguments.value(2, "count")?.asInteger ?? -1
      return .string(try JinjaText.replace(text, old, new, count, &interpreter))
    case "join":
      guard let list = arguments.positional.first else { throw interpreter.error(.type, "'join' needs a list") }
      var parts: [String] = []
      for item in try interpreter.iterate(list) {
        guard case .string(let part) = item else {
          throw interpreter.error(.type, "'join' needs strings, found a \(item.typeName)")
        }
        try interpreter.chargeBytes(part.utf8.count + text.utf8.count)
        parts.append(part)
      }
      return .string(parts.joined(separator: text))
    case "format": return .string(try JinjaText.braceFormat(text, arguments, interpreter))
    case "find", "rfind", "index", "count", "partition", "rpartition", "removeprefix", "removesuffix":
      return try search(text, name, arguments, interpreter)
    case "zfill", "ljust", "rjust", "center": return try pad(text, name, arguments, &interpreter)
    default: return try classify(text, name, interpreter)
    }
  }

  private static func hasAffix(
    _ text: String, _ arguments: Arguments, isPrefix: Bool, _ interpreter: JinjaInterpreter
  ) throws(TemplateError) -> Bool {
    var affixes: [JinjaValue] = []
    switch arguments.positional.first {
    case .list(let items)?: affixes = items
    case let value?: affixes = [value]
    case nil: throw interpreter.error(.type, "'startswith' and 'endswith' need a string")
    }
    for value in affixes {
      guard case .string(let affix) = value else {
        throw interpreter.error(.type, "'startswith' and 'endswith' need strings, found a \(value.typeName)")
      }
      if isPrefix ? text.utf8.starts(with: affix.utf8) : text.utf8.reversed().starts(with: affix.utf8.reversed()) {
        return true
      }
    }
    return false
  }

  private static func search(
    _ text: String, _ name: String, _ arguments: Arguments, _ interpreter: JinjaInterpreter
  ) throws(TemplateError) -> JinjaValue {
    let part = try required(arguments, 0, name, interpreter)
    let source = Array(text.utf8)
    let pattern = Array(part.utf8)
    func scalarIndex(_ offset: Int?) -> Int { offset.map { JinjaText.count(JinjaText.text(source[..<$0])) } ?? -1 }
    switch name {
    case "find": return .integer(scalarIndex(JinjaText.find(pattern, in: source, from: 0)))
    case "rfind": return .integer(scalarIndex(JinjaText.findLast(pattern, in: source)))
    case "index":
      guard let found = JinjaText.find(pattern, in: source, from: 0) else {
        throw interpreter.error(.type, "'index': the substring is not in the string")
      }
      return .integer(scalarIndex(found))
    case "count":
      if pattern.isEmpty { return .integer(JinjaText.count(text) + 1) }
      return .integer(JinjaText.split(text, part, -1).count - 1)
    case "removeprefix":
      return .string(source.starts(with: pattern) ? JinjaText.text(source.dropFirst(pattern.count)) : text)
    case "removesuffix":
      let ends = !pattern.isEmpty && source.suffix(pattern.count).elementsEqual(pattern)
      return .string(ends ? JinjaText.text(source.dropLast(pattern.count)) : text)
    default:
      if pattern.isEmpty { throw interpreter.error(.type, "'\(name)': the separator is empty") }
      let isLast = name == "rpartition"
      let found = isLast ? JinjaText.findLast(pattern, in: source) : JinjaText.find(pattern, in: source, from: 0)
      guard let found else { return .list(isLast ? ["", "", .string(text)] : [.string(text), "", ""]) }
      return .list([
        .string(JinjaText.text(source[..<found])), .string(part),
        .string(JinjaText.text(source[(found + pattern.count)...])),
      ])
    }
  }

  private static func pad(
    _ text: String, _ name: String, _ arguments: Arguments, _ interpreter: inout JinjaInterpreter
  ) throws(TemplateError) -> JinjaValue {
    guard let width = arguments.positional.first?.asInteger else {
      throw interpreter.error(.type, "'\(name)' needs a width")
    }
    let missing = max(0, width - JinjaText.count(text))
    try interpreter.chargeBytes(missing)
    let fill = name == "zfill" ? "0" : try string(arguments, 1, "fillchar", interpreter) ?? " "
    switch name {
    case "ljust": return .string(text + String(repeating: fill, count: missing))
    case "rjust": return .string(String(repeating: fill, count: missing) + text)
    case "center":
      let left = missing / 2 + (missing & width & 1)
      return .string(String(repeating: fill, count: left) + text + String(repeating: fill, count: missing - left))
    default:
      if let sign = text.unicodeScalars.first, sign == "-" || sign == "+" {
        return .string(String(sign) + String(repeating: "0", count: missing) + text.dropFirst())
      }
      return .string(String(repeating: "0", count: missing) + text)
    }
  }

  private static func classify(
    _ text: String, _ name: String, _ interpreter: JinjaInterpreter
  ) throws(TemplateError) -> JinjaValue {
    let scalars = text.unicodeScalars
    func all(_ predicate: (Unicode.Scalar.Properties) -> Bool) -> JinjaValue {
      .boolean(!scalars.isEmpty && scalars.allSatisfy { predicate($0.properties) })
    }
    func isAlphabetic(_ properties: Unicode.Scalar.Properties) -> Bool {
      switch properties.generalCategory {
      case .uppercaseLetter, .lowercaseLetter, .titlecaseLetter, .modifierLetter, .otherLetter: true
      default: false
      }
    }
    switch name {
    case "upper": return .string(text.uppercased())
    case "lower", "casefold": return .string(text.lowercased())
    case "title": return .string(JinjaText.titled(text))
    case "capitalize": return .string(JinjaText.capitalized(text))
    case "swapcase":
      return .string(
        scalars.map { $0.properties.isUppercase ? $0.properties.lowercaseMapping : $0.properties.uppercaseMapping }
          .joined())
    case "isdigit": return all { $0.numericType == .decimal || $0.numericType == .digit }
    case "isdecimal": return all { $0.numericType == .decimal }
    case "isnumeric": return all { $0.numericType != nil }
    case "isalpha": return all(isAlphabetic)
    case "isalnum": return all { isAlphabetic($0) || $0.numericType != nil }
    case "isspace": return .boolean(!scalars.isEmpty && scalars.allSatisfy { JinjaText.isSpace($0.value) })
    case "isupper":
      return .boolean(scalars.contains { $0.properties.isUppercase } && !scalars.contains { $0.properties.isLowercase })
    case "islower":
      return .boolean(scalars.contains { $0.properties.isLowercase } && !scalars.contains { $0.properties.isUppercase })
    default: throw interpreter.error(.type, "a string has no method '\(name)'")
    }
  }
}
