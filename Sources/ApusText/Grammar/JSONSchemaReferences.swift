/// A schema document: looks up its references and merges schemas that must hold at once. Counts the steps of both.
struct JSONSchemaReferences {
  private let document: JinjaValue
  private var steps = 0

  init(_ document: JinjaValue) { self.document = document }

  mutating func step(_ path: String, _ count: Int = 1) throws(GrammarError) {
    steps += count
    guard steps <= GrammarLimits.schemaSteps else {
      throw GrammarError(
        .limit, path: path,
        seen: "more than \(GrammarLimits.schemaSteps) subschemas and keywords with all references followed",
        expected: "a smaller schema")
    }
  }

  /// A name as a part of a JSON pointer.
  static func escaped(_ name: String) -> String {
    guard name.utf8.contains(where: { $0 == UInt8(ascii: "~") || $0 == UInt8(ascii: "/") }) else { return name }
    return name.reduce(into: "") { $0 += $1 == "~" ? "~0" : $1 == "/" ? "~1" : String($1) }
  }

  /// The pointer that `$ref` holds.
  func pointer(_ reference: JinjaValue, path: String) throws(GrammarError) -> String {
    guard case .string(let pointer) = reference else {
      throw GrammarError(
        .malformed, path: path + "/$ref", seen: "a \(reference.typeName)",
        expected: "a JSON pointer such as #/$defs/name")
    }
    guard pointer == "#" || pointer.hasPrefix("#/") else {
      throw GrammarError(
        .unsupported, path: path + "/$ref", seen: "'\(pointer)'",
        expected: "references into the same schema, such as #/$defs/name")
    }
    return pointer
  }

  /// The schema that a pointer names.
  func resolve(_ pointer: String, path: String) throws(GrammarError) -> JinjaValue {
    var value = document
    for part in pointer.utf8.split(separator: UInt8(ascii: "/"), omittingEmptySubsequences: false).dropFirst() {
      let name = Self.unescaped(part)
      switch value {
      case .mapping(let mapping):
        if let next = mapping[name] {
          value = next
          continue
        }
      case .list(let items):
        if let index = Int(name), items.indices.contains(index) {
          value = items[index]
          continue
        }
      default: break
      }
      throw GrammarError(.malformed, path: path + "/$ref", seen: "'\(pointer)'", expected: "a place in the schema")
    }
    return value
  }

  /// A part of a pointer in a URI fragment: `%25`, `~0` and `~1` undone.
  private static func unescaped(_ part: Substring.UTF8View) -> String {
    var bytes: [UInt8] = []
    var rest = Array(part)[...]
    while let byte = rest.popFirst() {
      if byte == UInt8(ascii: "%"), let value = UInt8(String(decoding: rest.prefix(2), as: UTF8.self), radix: 16),
        rest.count >= 2
      {
        bytes.append(value)
        rest = rest.dropFirst(2)
      } else if byte == UInt8(ascii: "~"), let next = rest.first, next == 0x30 || next == 0x31 {
        bytes.append(next == 0x30 ? UInt8(ascii: "~") : UInt8(ascii: "/"))
        rest = rest.dropFirst()
      } else {
        bytes.append(byte)
      }
    }
    return String(decoding: bytes, as: UTF8.self)
  }

  // MARK: Merging

  /// References that may have to be followed to merge two schemas.
  private static let deepestMerge = 64

  /// A schema whose values are valid under both.
  mutating func merge(
    _ left: JinjaValue, _ right: JinjaValue, path: String, depth: Int
  ) throws(GrammarError) -> JinjaValue {
    try step(path)
    guard depth <= Self.deepestMerge else {
      throw GrammarError(
        .limit, path: path, seen: "schemas that must hold at once and refer to each other without end",
        expected: "at most \(Self.deepestMerge) levels")
    }
    switch (left, right) {
    case (.boolean(true), let other), (let other, .boolean(true)): return other
    case (.boolean(false), _), (_, .boolean(false)): return .boolean(false)
    case (.mapping(let a), .mapping(let b)):
      let a = try flattened(a, path: path, depth: depth)
      let b = try flattened(b, path: path, depth: depth)
      guard case .mapping(let a) = a, case .mapping(let b) = b else {
        return try merge(a, b, path: path, depth: depth + 1)
      }
      return .mapping(try merge(a, b, path: path, depth: depth))
    default:
      throw GrammarError(
        .malformed, path: path, seen: "a value that is no schema", expected: "an object, true or false")
    }
  }

  /// A schema without `$ref`, `allOf` and `const` of its own.
  private mutating func flattened(
    _ schema: JinjaMapping, path: String, depth: Int
  ) throws(GrammarError) -> JinjaValue {
    if let reference = schema["$ref"] {
      let target = try resolve(try pointer(reference, path: path), path: path)
      return try merge(target, .mapping(schema.without("$ref")), path: path, depth: depth + 1)
    }
    if let parts = schema["allOf"] {
      guard case .list(let parts) = parts else {
        throw GrammarError(.malformed, path: path + "/allOf", seen: "a \(parts.typeName)", expected: "a list")
      }
      var merged = JinjaValue.mapping(schema.without("allOf"))
      for part in parts { merged = try merge(merged, part, path: path, depth: depth + 1) }
      return merged
    }
    guard let constant = schema["const"] else { return .mapping(schema) }
    var result = schema.without("const")
    if case .list(let values)? = schema["enum"], !values.contains(where: { $0.isSameJSON(as: constant) }) {
      result["enum"] = .list([])
    } else {
      result["enum"] = .list([constant])
    }
    return .mapping(result)
  }

  private mutating func merge(
    _ a: JinjaMapping, _ b: JinjaMapping, path: String, depth: Int
  ) throws(GrammarError) -> JinjaMapping {
    try step(path, a.count + b.count)
    var result = a
    for (key, value) in zip(b.keys, b.values) {
      guard case .string(let name) = key, let other = a[name] else {
        result[key] = value
        continue
      }
      switch name {
      case "properties", "additionalProperties": break
      case "type": result[name] = Self.commonTypes(other, value)
      case "required":
        guard case .list(let one) = other, case .list(let two) = value else { throw conflict(name, path) }
        result[name] = .list(one + two.filter { name in !one.contains { $0.isSameJSON(as: name) } })
      case "enum":
        guard case .list(let one) = other, case .list(let two) = value else { throw conflict(name, path) }
        try step(path, one.count + two.count)
        result[name] = .list(one.filter { value in two.contains { $0.isSameJSON(as: value) } })
      case "minimum", "exclusiveMinimum", "minLength", "minItems":
        guard let one = other.jsonNumber, let two = value.jsonNumber else { throw conflict(name, path) }
        result[name] = one >= two ? other : value
      case "maximum", "exclusiveMaximum", "maxLength", "maxItems":
        guard let one = other.jsonNumber, let two = value.jsonNumber else { throw conflict(name, path) }
        result[name] = one <= two ? other : value
      case "items", "additionalItems":
        if case .list = other { throw conflict(name, path) }
        if case .list = value { throw conflict(name, path) }
        result[name] = try merge(other, value, path: "\(path)/\(name)", depth: depth + 1)
      case "anyOf", "oneOf":
        guard case .list(let one) = other, case .list(let two) = value else { throw conflict(name, path) }
        var pairs: [JinjaValue] = []
        for first in one {
          for second in two { pairs.append(try merge(first, second, path: "\(path)/\(name)", depth: depth + 1)) }
        }
        result[name] = .list(pairs)
      case _ where JSONSchemaKeywords.constraints.contains(name) || JSONSchemaKeywords.refused.contains(name):
        guard other.isSameJSON(as: value) else { throw conflict(name, path) }
      default: break
      }
    }
    if (a["prefixItems"] == nil) != (b["prefixItems"] == nil), result["items"] != nil {
      throw conflict("prefixItems", path)
    }
    try mergeMembers(a, b, into: &result, path: path, depth: depth)
    return result
  }

  private func conflict(_ keyword: String, _ path: String) -> GrammarError {
    GrammarError(
      .unsupported, path: "\(path)/\(keyword)", seen: "two different '\(keyword)' that must hold at once",
      expected: "one of them, or equal ones")
  }

  private static func commonTypes(_ a: JinjaValue, _ b: JinjaValue) -> JinjaValue {
    func names(_ value: JinjaValue) -> [JinjaValue] { if case .list(let list) = value { list } else { [value] } }
    func holds(_ list: [JinjaValue], _ name: String) -> Bool { list.contains { $0.isSameJSON(as: .string(name)) } }
    let one = names(a)
    let two = names(b)
    var common = one.filter { type in two.contains { $0.isSameJSON(as: type) } }
    let isInteger =
      (holds(one, "integer") && holds(two, "number")) || (holds(one, "number") && holds(two, "integer"))
    if isInteger && !holds(common, "integer") && !holds(common, "number") { common.append("integer") }
    return .list(common)
  }

  /// A member of one schema that the other does not name must fit the other's additional members.
  private mutating func mergeMembers(
    _ a: JinjaMapping, _ b: JinjaMapping, into result: inout JinjaMapping, path: String, depth: Int
  ) throws(GrammarError) {
    func members(_ schema: JinjaMapping) throws(GrammarError) -> JinjaMapping {
      guard let value = schema["properties"] else { return JinjaMapping() }
      guard case .mapping(let mapping) = value else {
        throw GrammarError(.malformed, path: path + "/properties", seen: "a \(value.typeName)", expected: "an object")
      }
      return mapping
    }
    let one = try members(a)
    let two = try members(b)
    try step(path, one.count + two.count)
    var merged = JinjaMapping()
    for (key, value) in zip(one.keys, one.values) {
      let other = two[key] ?? b["additionalProperties"] ?? .boolean(true)
      merged[key] = try merge(value, other, path: "\(path)/properties/\(Self.escaped(key.text))", depth: depth + 1)
    }
    for (key, value) in zip(two.keys, two.values) where one[key] == nil {
      let other = a["additionalProperties"] ?? .boolean(true)
      merged[key] = try merge(value, other, path: "\(path)/properties/\(Self.escaped(key.text))", depth: depth + 1)
    }
    if a["properties"] != nil || b["properties"] != nil { result["properties"] = .mapping(merged) }
    if let first = a["additionalProperties"], let second = b["additionalProperties"] {
      result["additionalProperties"] = try merge(
        first, second, path: path + "/additionalProperties", depth: depth + 1)
    }
  }
}
