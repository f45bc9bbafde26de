import ApusText

/// A slow and obvious validator of the keywords that `RandomSchema` uses. Formats are left to the long suite.
struct SchemaValidator {
  let document: JinjaValue

  func isValid(_ value: JinjaValue) -> Bool { isValid(value, document) }

  private func member(_ value: JinjaValue, _ key: String) -> JinjaValue? {
    if case .mapping(let mapping) = value { mapping[key] } else { nil }
  }

  private func items(_ value: JinjaValue?) -> [JinjaValue]? { if case .list(let items)? = value { items } else { nil } }

  private func number(_ value: JinjaValue?) -> Double? {
    switch value {
    case .integer(let number)?: Double(number)
    case .float(let number)?: number
    default: nil
    }
  }

  private func text(_ value: JinjaValue?) -> String? { if case .string(let text)? = value { text } else { nil } }

  private func hasType(_ value: JinjaValue, _ type: String) -> Bool {
    switch value {
    case .none: type == "null"
    case .boolean: type == "boolean"
    case .integer: type == "integer" || type == "number"
    case .float: type == "number"
    case .string: type == "string"
    case .list: type == "array"
    default: type == "object"
    }
  }

  /// Equal as JSON text: enough for values that the grammar spells as the schema does.
  private func isEqual(_ a: JinjaValue, _ b: JinjaValue) -> Bool {
    do {
      return try a.json == b.json
    } catch {
      return false
    }
  }

  private func isValid(_ value: JinjaValue, _ schema: JinjaValue) -> Bool {
    if case .boolean(let isAllowed) = schema { return isAllowed }
    if text(member(schema, "$ref")) == "#/$defs/node" {
      guard let node = member(document, "$defs").flatMap({ member($0, "node") }), isValid(value, node) else {
        return false
      }
    }
    if let types = items(member(schema, "type")) ?? member(schema, "type").map({ [$0] }) {
      guard types.contains(where: { hasType(value, text($0) ?? "") }) else { return false }
    }
    if let values = items(member(schema, "enum")), !values.contains(where: { isEqual($0, value) }) { return false }
    if let constant = member(schema, "const"), !isEqual(constant, value) { return false }
    if let parts = items(member(schema, "allOf")), !parts.allSatisfy({ isValid(value, $0) }) { return false }
    if let parts = items(member(schema, "anyOf")), !parts.contains(where: { isValid(value, $0) }) { return false }
    if let number = number(value) {
      if let bound = self.number(member(schema, "minimum")), number < bound { return false }
      if let bound = self.number(member(schema, "maximum")), number > bound { return false }
      if let bound = self.number(member(schema, "exclusiveMinimum")), number <= bound { return false }
      if let bound = self.number(member(schema, "exclusiveMaximum")), number >= bound { return false }
    }
    if case .string(let string) = value {
      let length = Double(string.unicodeScalars.count)
      if let bound = number(member(schema, "minLength")), length < bound { return false }
      if let bound = number(member(schema, "maxLength")), length > bound { return false }
      if let pattern = text(member(schema, "pattern")) {
        do {
          let regex = try Regex(pattern).matchingSemantics(.unicodeScalar)
          if string.firstMatch(of: regex) == nil { return false }
        } catch {
          return false
        }
      }
    }
    if case .list(let list) = value {
      if let bound = number(member(schema, "minItems")), Double(list.count) < bound { return false }
      if let bound = number(member(schema, "maxItems")), Double(list.count) > bound { return false }
      let prefix = items(member(schema, "prefixItems")) ?? []
      for (index, item) in list.enumerated() {
        guard isValid(item, index < prefix.count ? prefix[index] : member(schema, "items") ?? .boolean(true)) else {
          return false
        }
      }
    }
    if case .mapping(let mapping) = value {
      for name in items(member(schema, "required")) ?? [] where mapping[text(name) ?? ""] == nil { return false }
      for (key, item) in zip(mapping.keys, mapping.values) {
        let own = member(schema, "properties").flatMap { member($0, text(key) ?? "") }
        guard isValid(item, own ?? member(schema, "additionalProperties") ?? .boolean(true)) else { return false }
      }
    }
    return true
  }
}
