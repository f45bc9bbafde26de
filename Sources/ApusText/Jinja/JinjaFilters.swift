/// The filters of templates, named and defined as in Jinja; `tojson` as in transformers.
enum JinjaFilters {
  typealias Arguments = JinjaInterpreter.Arguments

  static let names: Set<String> = [
    "tojson", "trim", "upper", "lower", "title", "capitalize", "length", "count", "join", "default", "d", "first",
    "last", "list", "map", "selectattr", "rejectattr", "select", "reject", "items", "dictsort", "replace", "int",
    "float", "string", "safe", "escape", "e", "forceescape", "indent", "round", "abs", "unique", "sort", "reverse",
    "batch", "slice", "sum", "min", "max", "attr", "groupby", "wordcount", "center", "format", "truncate",
    "urlencode", "pprint",
  ]

  /// The result of `value | name(arguments)`.
  static func apply(
    _ name: String, _ value: JinjaValue, _ arguments: Arguments, _ interpreter: inout JinjaInterpreter
  ) throws(TemplateError) -> JinjaValue {
    if case .object(.markup) = value {
      if ["safe", "escape", "e"].contains(name) { return value }
      return try apply(name, value.plain, arguments, &interpreter)
    }
    switch name {
    case "tojson": return try toJSON(value, arguments, &interpreter)
    case "default", "d":
      let replacesFalse = arguments.value(1, "boolean")?.isTrue ?? false
      if value.isUndefined || (replacesFalse && !value.isTrue) {
        return arguments.value(0, "default_value") ?? ""
      }
      return value
    case "length", "count": return .integer(try length(value, &interpreter))
    case "string": return .string(value.text)
    case "safe": return .object(.markup(value.text))
    case "int", "float", "abs", "round": return try number(name, value, arguments, interpreter)
    case "attr":
      guard case .string(let attribute)? = arguments.value(0, "name") else {
        throw interpreter.error(.type, "'attr' needs a name")
      }
      // Unlike `value.name`, the filter does not fall back to an item of that name.
      if case .mapping = value, !JinjaMethods.ofMapping.contains(attribute) { return .undefined(name: attribute) }
      return try interpreter.attribute(value, attribute)
    case "items":
      switch value {
      case .undefined: return []
      case .mapping: return try JinjaMethods.call(value, "items", Arguments(), &interpreter)
      default: throw interpreter.error(.type, "'items' needs a mapping, found a \(value.typeName)")
      }
    case "upper", "lower", "title", "capitalize", "trim", "replace", "escape", "e", "forceescape", "indent",
      "wordcount", "center", "format", "truncate", "urlencode":
      return try text(name, value, arguments, &interpreter)
    default:
      guard names.contains(name) else { throw interpreter.error(.unsupported, "the filter '\(name)'") }
      return try sequence(name, value, arguments, &interpreter)
    }
  }

  static func length(_ value: JinjaValue, _ interpreter: inout JinjaInterpreter) throws(TemplateError) -> Int {
    switch value {
    case .string(let text):
      try interpreter.chargeBytes(text.utf8.count)
      return JinjaText.count(text)
    case .list(let items): return items.count
    case .mapping(let mapping): return mapping.count
    case .undefined: return 0
    default: throw interpreter.error(.type, "a \(value.typeName) has no length")
    }
  }

  private static func toJSON(
    _ value: JinjaValue, _ arguments: Arguments, _ interpreter: inout JinjaInterpreter
  ) throws(TemplateError) -> JinjaValue {
    var writer = JSONWriter()
    writer.limit = interpreter.limits.outputBytes
    writer.ensureASCII = arguments.value(0, "ensure_ascii")?.isTrue ?? false
    switch arguments.value(1, "indent") {
    case .integer(let width)?: writer.indent = String(repeating: " ", count: min(max(width, 0), 64))
    case .string(let text)?: writer.indent = text
    default: break
    }
    if writer.indent != nil { writer.itemSeparator = "," }
    if case .list(let pair)? = arguments.value(2, "separators"), pair.count == 2 {
      writer.itemSeparator = pair[0].text
      writer.keySeparator = pair[1].text
    }
    writer.sortKeys = arguments.value(3, "sort_keys")?.isTrue ?? false
    do {
      try writer.write(value, depth: 0)
    } catch {
      throw interpreter.error(error.kind, error.message)
    }
    try interpreter.chargeBytes(writer.output.utf8.count)
    return .string(writer.output)
  }

  // MARK: Numbers

  private static func number(
    _ name: String, _ value: JinjaValue, _ arguments: Arguments, _ interpreter: JinjaInterpreter
  ) throws(TemplateError) -> JinjaValue {
    switch name {
    case "int":
      let fallback = arguments.value(0, "default") ?? .integer(0)
      if let integer = value.asInteger { return .integer(integer) }
      if case .string(let text) = value {
        let trimmed = JinjaText.strip(text, nil, left: true, right: true)
        let base = arguments.value(1, "base")?.asInteger ?? 10
        if base >= 2 && base <= 36, let integer = Int(trimmed, radix: base) { return .integer(integer) }
        guard let double = Double(trimmed), double.magnitude < 9.2e18 else { return fallback }
        return .integer(Int(double))
      }
      guard let double = value.asDouble, double.magnitude < 9.2e18 else { return fallback }
      return .integer(Int(double))
    case "float":
      if let double = value.asDouble { return .float(double) }
      if case .string(let text) = value, let double = Double(JinjaText.strip(text, nil, left: true, right: true)) {
        return .float(double)
      }
      return arguments.value(0, "default") ?? .float(0)
    case "abs":
      if case .float(let double) = value { return .float(double.magnitude) }
      guard let integer = value.asInteger, integer != .min else {
        throw interpreter.error(.type, "'abs' needs a number, found a \(value.typeName)")
      }
      return .integer(abs(integer))
    default:
      guard let double = value.asDouble else {
        throw interpreter.error(.type, "'round' needs a number, found a \(value.typeName)")
      }
      let digits = min(max(arguments.value(0, "precision")?.asInteger ?? 0, -300), 300)
      let scale = JinjaText.power(10, Double(digits))
      switch arguments.value(1, "method")?.text ?? "common" {
      case "ceil": return .float((double * scale).rounded(.up) / scale)
      case "floor": return .float((double * scale).rounded(.down) / scale)
      case "common":
        if case .integer = value, digits >= 0 { return value }
        if digits >= 0 { return .float(Double(JinjaText.fixed(double, digits)) ?? double) }
        return .float((double * scale).rounded(.toNearestOrEven) / scale)
      case let method: throw interpreter.error(.type, "'round' knows no method '\(method)'")
      }
    }
  }

  // MARK: Text

  private static func text(
    _ name: String, _ value: JinjaValue, _ arguments: Arguments, _ interpreter: inout JinjaInterpreter
  ) throws(TemplateError) -> JinjaValue {
    let text = value.text
    try interpreter.chargeBytes(text.utf8.count)
    switch name {
    case "upper": return .string(text.uppercased())
    case "lower": return .string(text.lowercased())
    case "title": return .string(JinjaText.titleFiltered(text))
    case "capitalize": return .string(JinjaText.capitalized(text))
    case "trim":
      var characters: String?
      if case .string(let set)? = arguments.value(0, "chars") { characters = set }
      return .string(JinjaText.strip(text, characters, left: true, right: true))
    case "replace":
      guard let old = arguments.value(0, "old"), let new = arguments.value(1, "new") else {
        throw interpreter.error(.type, "'replace' needs an old and a new text")
      }
      let count = arguments.value(2, "count")?.asInteger ?? -1
      return .string(try JinjaText.replace(text, old.text, new.text, count, &interpreter))
    case "escape", "e", "forceescape":
      return .object(.markup(JinjaText.escaped(text)))
    case "indent": return .string(try indent(text, arguments, &interpreter))
    case "wordcount": return .integer(JinjaText.split(text, nil, -1).count)
    case "center":
      let width = arguments.value(0, "width") ?? .integer(80)
      return try JinjaMethods.call(.string(text), name, Arguments(positional: [width]), &interpreter)
    case "format": return .string(try JinjaText.percentFormat(text, .list(arguments.positional), interpreter))
    case "truncate":
      let length = max(0, arguments.value(0, "length")?.asInteger ?? 255)
      let end = arguments.value(2, "end")?.text ?? "..."
      let leeway = arguments.value(3, "leeway")?.asInteger ?? 5
      let scalars = Array(text.unicodeScalars)
      if scalars.count <= length + leeway { return .string(text) }
      var view = String.UnicodeScalarView()
      view.append(contentsOf: scalars.prefix(max(0, length - JinjaText.count(end))))
      var cut = String(view)
      if !(arguments.value(1, "killwords")?.isTrue ?? false), let space = cut.unicodeScalars.lastIndex(of: " ") {
        cut = String(cut.unicodeScalars[..<space])
      }
      return .string(cut + end)
    default:
      var output = ""
      for byte in text.utf8 {
        let scalar = Unicode.Scalar(byte)
        if scalar.properties.isAlphabetic && byte < 0x80 || (byte >= 0x30 && byte <= 0x39)
          || "_.-~/".utf8.contains(byte)
        {
          output.unicodeScalars.append(scalar)
        } else {
          output += "%" + JinjaValue.hex(UInt32(byte), digits: 2).uppercased()
        }
      }
      return .string(output)
    }
  }

  /// `indent(width=4, first=False, blank=False)`
  private static func indent(
    _ text: String, _ arguments: Arguments, _ interpreter: inout JinjaInterpreter
  ) throws(TemplateError) -> String {
    var prefix = "    "
    switch arguments.value(0, "width") {
    case .integer(let width)?: prefix = String(repeating: " ", count: min(max(width, 0), 1024))
    case .string(let given)?: prefix = given
    default: break
    }
    let first = arguments.value(1, "first")?.isTrue ?? false
    let blank = arguments.value(2, "blank")?.isTrue ?? false
    // Jinja adds a newline and splits, so that a text that ends with one keeps it.
    let lines = JinjaText.lines(text + "\n")
    try interpreter.chargeBytes(lines.count * prefix.utf8.count)
    var output = ""
    for (index, line) in lines.enumerated() {
      if index > 0 { output += "\n" }
      if index == 0 ? first : (blank || !line.isEmpty) { output += prefix }
      output += line
    }
    return output
  }

  // MARK: Sequences

  private static func sequence(
    _ name: String, _ value: JinjaValue, _ arguments: Arguments, _ interpreter: inout JinjaInterpreter
  ) throws(TemplateError) -> JinjaValue {
    if name == "dictsort" { return try dictionarySort(value, arguments, &interpreter) }
    if name == "reverse", case .string(let text) = value {
      return .string(String(String.UnicodeScalarView(text.unicodeScalars.reversed())))
    }
    if name == "pprint" { return .string(JinjaValue.list([value]).text) }
    // These do not even look at a value that is false, such as none.
    let toleratesFalse = ["map", "select", "reject", "selectattr", "rejectattr"].contains(name)
    let items = toleratesFalse && !value.isTrue ? [] : try interpreter.iterate(value)
    try interpreter.charge(items.count)
    switch name {
    case "list": return .list(items)
    case "first": return items.first ?? .undefined(name: "the first item of an empty list")
    case "last": return items.last ?? .undefined(name: "the last item of an empty list")
    case "reverse": return .list(items.reversed())
    case "join":
      let separator = arguments.value(0, "d")?.text ?? ""
      var parts: [String] = []
      for item in items {
        let part = try keyed(item, arguments.value(1, "attribute"), interpreter).text
        try interpreter.chargeBytes(part.utf8.count + separator.utf8.count)
        parts.append(part)
      }
      return .string(parts.joined(separator: separator))
    case "map": return .list(try map(items, arguments, &interpreter))
    case "select", "reject", "selectattr", "rejectattr": return .list(try select(name, items, arguments, &interpreter))
    case "sort":
      return .list(
        try sorted(
          items, arguments.value(2, "attribute"), isReversed: arguments.value(0, "reverse")?.isTrue ?? false,
          isCaseSensitive: arguments.value(1, "case_sensitive")?.isTrue ?? false, &interpreter))
    case "unique":
      var seen: [JinjaValue] = []
      var kept: [JinjaValue] = []
      let isCaseSensitive = arguments.value(0, "case_sensitive")?.isTrue ?? false
      for item in items {
        let key = folded(try keyed(item, arguments.value(1, "attribute"), interpreter), isCaseSensitive)
        try interpreter.charge(seen.count)
        if !seen.contains(where: { $0.isEqual(to: key) }) {
          seen.append(key)
          kept.append(item)
        }
      }
      return .list(kept)
    case "sum":
      var total = arguments.value(1, "start") ?? .integer(0)
      for item in items {
        total = try JinjaArithmetic.apply(
          .add, total, try keyed(item, arguments.value(0, "attribute"), interpreter), &interpreter)
      }
      return total
    case "min", "max":
      let ordered = try sorted(
        items, arguments.value(1, "attribute"), isReversed: name == "max",
        isCaseSensitive: arguments.value(0, "case_sensitive")?.isTrue ?? false, &interpreter)
      return ordered.first ?? .undefined(name: "the \(name) of an empty list")
    case "batch", "slice": return .list(try cut(name, items, arguments, interpreter))
    case "groupby": return .list(try group(items, arguments, &interpreter))
    default: throw interpreter.error(.unsupported, "the filter '\(name)'")
    }
  }

  /// An item's attribute by dotted path; the item itself without one.
  private static func keyed(
    _ item: JinjaValue, _ attribute: JinjaValue?, _ interpreter: JinjaInterpreter
  ) throws(TemplateError) -> JinjaValue {
    switch attribute {
    case nil, JinjaValue.none?: return item
    case .string(let path)?:
      var value = item
      for part in path.split(separator: ".", omittingEmptySubsequences: false) {
        let key: JinjaValue = Int(part).map { .integer($0) } ?? .string(String(part))
        value = try interpreter.item(value, key)
      }
      return value
    case let key?: return try interpreter.item(item, key)
    }
  }

  private static func folded(_ value: JinjaValue, _ isCaseSensitive: Bool) -> JinjaValue {
    if !isCaseSensitive, case .string(let text) = value { return .string(text.lowercased()) }
    return value
  }

  /// A stable merge sort by key, so that comparisons may fail with a typed error.
  private static func sorted(
    _ items: [JinjaValue], _ attribute: JinjaValue?, isReversed: Bool, isCaseSensitive: Bool,
    _ interpreter: inout JinjaInterpreter
  ) throws(TemplateError) -> [JinjaValue] {
    var runs: [[(key: JinjaValue, item: JinjaValue)]] = []
    for item in items {
      runs.append([(folded(try keyed(item, attribute, interpreter), isCaseSensitive), item)])
    }
    while runs.count > 1 {
      try interpreter.charge(items.count)
      var merged: [[(key: JinjaValue, item: JinjaValue)]] = []
      var index = 0
      while index < runs.count {
        if index + 1 == runs.count {
          merged.append(runs[index])
        } else {
          merged.append(try merge(runs[index], runs[index + 1], isReversed, interpreter))
        }
        index += 2
      }
      runs = merged
    }
    return runs.first?.map(\.item) ?? []
  }

  private static func merge(
    _ a: [(key: JinjaValue, item: JinjaValue)], _ b: [(key: JinjaValue, item: JinjaValue)], _ isReversed: Bool,
    _ interpreter: JinjaInterpreter
  ) throws(TemplateError) -> [(key: JinjaValue, item: JinjaValue)] {
    var output: [(key: JinjaValue, item: JinjaValue)] = []
    output.reserveCapacity(a.count + b.count)
    var i = 0
    var j = 0
    while i < a.count && j < b.count {
      let order = try interpreter.order(a[i].key, b[j].key)
      if isReversed ? order >= 0 : order <= 0 {
        output.append(a[i])
        i += 1
      } else {
        output.append(b[j])
        j += 1
      }
    }
    return output + a[i...] + b[j...]
  }

  private static func dictionarySort(
    _ value: JinjaValue, _ arguments: Arguments, _ interpreter: inout JinjaInterpreter
  ) throws(TemplateError) -> JinjaValue {
    guard case .mapping(let mapping) = value else {
      throw interpreter.error(.type, "'dictsort' needs a mapping, found a \(value.typeName)")
    }
    let pairs = (0..<mapping.count).map { JinjaValue.list([mapping.keys[$0], mapping.values[$0]]) }
    let by = arguments.value(1, "by")?.text ?? "key"
    return .list(
      try sorted(
        pairs, .integer(by == "value" ? 1 : 0), isReversed: arguments.value(2, "reverse")?.isTrue ?? false,
        isCaseSensitive: arguments.value(0, "case_sensitive")?.isTrue ?? false, &interpreter))
  }

  private static func map(
    _ items: [JinjaValue], _ arguments: Arguments, _ interpreter: inout JinjaInterpreter
  ) throws(TemplateError) -> [JinjaValue] {
    var output: [JinjaValue] = []
    if let attribute = arguments.named("attribute") {
      let fallback = arguments.named("default")
      for item in items {
        let value = try keyed(item, attribute, interpreter)
        output.append(value.isUndefined ? fallback ?? value : value)
      }
      return output
    }
    guard case .string(let filter)? = arguments.positional.first else {
      throw interpreter.error(.type, "'map' needs a filter's name or attribute=…")
    }
    let rest = Arguments(positional: Array(arguments.positional.dropFirst()), named: arguments.named)
    for item in items {
      try interpreter.charge()
      output.append(try apply(filter, item, rest, &interpreter))
    }
    return output
  }

  private static func select(
    _ name: String, _ items: [JinjaValue], _ arguments: Arguments, _ interpreter: inout JinjaInterpreter
  ) throws(TemplateError) -> [JinjaValue] {
    let hasAttribute = name.hasSuffix("attr")
    let keeps = name.hasPrefix("select")
    var rest = arguments.positional[...]
    let attribute = hasAttribute ? rest.popFirst() : nil
    if hasAttribute && attribute == nil { throw interpreter.error(.type, "'\(name)' needs an attribute") }
    let test = rest.popFirst()
    var output: [JinjaValue] = []
    for item in items {
      try interpreter.charge()
      let value = try keyed(item, attribute, interpreter)
      let result: Bool
      if let test {
        result = try interpreter.test(test.text, value, Array(rest))
      } else {
        result = value.isTrue
      }
      if result == keeps { output.append(item) }
    }
    return output
  }

  private static func cut(
    _ name: String, _ items: [JinjaValue], _ arguments: Arguments, _ interpreter: JinjaInterpreter
  ) throws(TemplateError) -> [JinjaValue] {
    let fill = arguments.value(1, "fill_with")
    guard let count = arguments.value(0, name == "batch" ? "linecount" : "slices")?.asInteger, count > 0,
      count <= 100_000
    else { throw interpreter.error(.type, "'\(name)' needs a count from 1 to 100000") }
    var output: [JinjaValue] = []
    if name == "batch" {
      var start = 0
      while start < items.count {
        var part = Array(items[start..<min(start + count, items.count)])
        if let fill, part.count < count { part += Array(repeating: fill, count: count - part.count) }
        output.append(.list(part))
        start += count
      }
      return output
    }
    let size = items.count / count
    let extra = items.count % count
    var start = 0
    for index in 0..<count {
      let end = start + size + (index < extra ? 1 : 0)
      var part = Array(items[start..<end])
      if let fill, index >= extra { part.append(fill) }
      output.append(.list(part))
      start = end
    }
    return output
  }

  private static func group(
    _ items: [JinjaValue], _ arguments: Arguments, _ interpreter: inout JinjaInterpreter
  ) throws(TemplateError) -> [JinjaValue] {
    guard let attribute = arguments.value(0, "attribute") else {
      throw interpreter.error(.type, "'groupby' needs an attribute")
    }
    var output: [JinjaValue] = []
    var members: [JinjaValue] = []
    var current: JinjaValue?
    for item in try sorted(items, attribute, isReversed: false, isCaseSensitive: false, &interpreter) {
      let key = try keyed(item, attribute, interpreter)
      if let current, !folded(current, false).isEqual(to: folded(key, false)) {
        output.append(.mapping(["grouper": current, "list": .list(members)]))
        members = []
      }
      if members.isEmpty { current = key }
      members.append(item)
    }
    if let current { output.append(.mapping(["grouper": current, "list": .list(members)])) }
    return output
  }
}

extension JinjaInterpreter {
  mutating func applyFilter(
    _ name: String, _ value: JinjaValue, _ arguments: JinjaArguments
  ) throws(TemplateError) -> JinjaValue {
    let evaluated = try evaluate(arguments).plain
    return try JinjaFilters.apply(name, value, evaluated, &self)
  }
}
