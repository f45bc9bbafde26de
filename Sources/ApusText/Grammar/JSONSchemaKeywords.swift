/// What the keywords of JSON Schema do to validity, and which of them a grammar can follow.
enum JSONSchemaKeywords {
  /// Keywords that restrict values and are followed.
  static let constraints: Set<String> = [
    "$ref", "allOf", "anyOf", "oneOf", "enum", "const", "type", "properties", "required", "additionalProperties",
    "items",
    "prefixItems", "additionalItems", "minItems", "maxItems", "minLength", "maxLength", "pattern", "format", "minimum",
    "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf",
  ]

  /// Keywords that restrict values in a way that a grammar cannot follow, or not here.
  static let refused: Set<String> = [
    "not", "if", "then", "else", "dependencies", "dependentRequired", "dependentSchemas", "patternProperties",
    "propertyNames", "minProperties", "maxProperties", "unevaluatedProperties", "unevaluatedItems", "contains",
    "minContains", "maxContains", "uniqueItems", "$dynamicRef", "$recursiveRef",
  ]

  private static let types = ["null", "boolean", "integer", "number", "string", "array", "object"]

  /// Keywords by the type that they speak about.
  private static let subjects: [(type: String, keywords: [String])] = [
    ("number", ["minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"]),
    ("string", ["minLength", "maxLength", "pattern", "format"]),
    ("array", ["items", "prefixItems", "additionalItems", "minItems", "maxItems"]),
    ("object", ["properties", "required", "additionalProperties"]),
  ]

  /// Throws for keywords that are refused, except in a form that restricts nothing.
  static func check(_ schema: JinjaMapping, path: String) throws(GrammarError) {
    for (key, value) in zip(schema.keys, schema.values) {
      guard case .string(let name) = key, refused.contains(name) else { continue }
      switch (name, value) {
      case ("uniqueItems", .boolean(false)), ("minProperties", .integer(0)), ("unevaluatedProperties", .boolean(true)),
        ("unevaluatedItems", .boolean(true)), ("propertyNames", .boolean(true)):
        continue
      case ("patternProperties", .mapping(let patterns)) where patterns.count == 0: continue
      default:
        throw GrammarError(
          .unsupported, path: "\(path)/\(JSONSchemaReferences.escaped(name))", seen: "'\(name)'",
          expected: constraints.sorted().joined(separator: ", "))
      }
    }
  }

  /// Whether any keyword of the schema restricts values.
  static func constrains(_ schema: JinjaMapping) -> Bool {
    schema.keys.contains { key in
      guard case .string(let name) = key else { return false }
      return constraints.contains(name) || refused.contains(name)
    }
  }

  /// The types of a schema: those it names, else those its keywords speak about; nil where nothing is said.
  static func types(_ schema: JinjaMapping, path: String) throws(GrammarError) -> [String]? {
    let named: [JinjaValue]
    switch schema["type"] {
    case nil:
      let implied = subjects.filter { $0.keywords.contains { schema[$0] != nil } }.map(\.type)
      return implied.isEmpty ? nil : implied
    case .list(let list): named = list
    case .some(let one): named = [one]
    }
    var result: [String] = []
    for type in named {
      guard case .string(let name) = type, types.contains(name) else {
        throw GrammarError(
          .malformed, path: path + "/type", seen: type.shortJSON, expected: "any of \(types.joined(separator: ", "))")
      }
      if !result.contains(name) { result.append(name) }
    }
    // Every integer is a number.
    return result.contains("number") ? result.filter { $0 != "integer" } : result
  }
}

extension JinjaMapping {
  /// The mapping less one key, in order.
  func without(_ key: String) -> JinjaMapping {
    var copy = self
    copy[key] = nil
    return copy
  }
}

extension JinjaValue {
  /// The value as JSON for error messages.
  var shortJSON: String {
    do {
      return try json
    } catch {
      return "a \(typeName)"
    }
  }

  var jsonNumber: Double? {
    switch self {
    case .integer(let number): Double(number)
    case .float(let number): number
    default: nil
    }
  }

  /// Equality as JSON Schema has it: numbers by value, booleans apart from numbers.
  func isSameJSON(as other: JinjaValue) -> Bool {
    switch (self, other) {
    case (.boolean(let a), .boolean(let b)): return a == b
    case (.boolean, _), (_, .boolean): return false
    case (.list(let a), .list(let b)):
      return a.count == b.count && zip(a, b).allSatisfy { $0.isSameJSON(as: $1) }
    case (.mapping(let a), .mapping(let b)):
      return a.count == b.count
        && zip(a.keys, a.values).allSatisfy { key, value in b[key].map { value.isSameJSON(as: $0) } ?? false }
    default: return isEqual(to: other)
    }
  }

  /// Whether the value is of a type of JSON Schema.
  func hasJSONType(_ type: String) -> Bool {
    switch (self, type) {
    case (.none, "null"), (.boolean, "boolean"), (.string, "string"), (.list, "array"), (.mapping, "object"): true
    case (.integer, "integer"), (.integer, "number"), (.float, "number"): true
    case (.float(let number), "integer"): number == number.rounded()
    default: false
    }
  }
}
