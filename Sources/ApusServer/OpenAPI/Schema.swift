import ApusText

/// A JSON Schema as OpenAPI 3.1 has them (draft 2020-12).
///
/// ```swift
/// let size: Schema = .object([.required("width", .integer(1...100)), .optional("unit", .string(oneOf: ["mm", "in"]))])
/// ```
struct Schema: Sendable {
  var fields: JinjaMapping

  var json: JinjaValue { .mapping(fields) }

  private init(_ fields: JinjaMapping) { self.fields = fields }

  private init(type: String) { fields = ["type": .string(type)] }

  // MARK: kinds

  /// Anything.
  static let any = Schema([:])
  static let boolean = Schema(type: "boolean")
  /// A switch that this server has only in one position.
  static let off = Schema(["type": "boolean", "enum": [false]])

  static func string(
    oneOf values: [String]? = nil, length: ClosedRange<Int>? = nil, pattern: String? = nil
  ) -> Schema {
    var schema = Schema(type: "string")
    if let values { schema.fields["enum"] = .list(values.map { .string($0) }) }
    if let length {
      if length.lowerBound > 0 { schema.fields["minLength"] = .integer(length.lowerBound) }
      if length.upperBound < .max { schema.fields["maxLength"] = .integer(length.upperBound) }
    }
    if let pattern { schema.fields["pattern"] = .string(pattern) }
    return schema
  }

  static func integer(_ range: ClosedRange<Int> = 0...Int.max) -> Schema {
    var schema = Schema(type: "integer")
    schema.fields["minimum"] = .integer(range.lowerBound)
    schema.fields["maximum"] = .integer(range.upperBound)
    return schema
  }

  static func number(_ range: ClosedRange<Double>? = nil) -> Schema {
    var schema = Schema(type: "number")
    if let range {
      schema.fields["minimum"] = .float(range.lowerBound)
      schema.fields["maximum"] = .float(range.upperBound)
    }
    return schema
  }

  static func array(of items: Schema, count: ClosedRange<Int> = 0...Int.max, areUnique: Bool = false) -> Schema {
    var schema = Schema(type: "array")
    if areUnique { schema.fields["uniqueItems"] = true }
    schema.fields["items"] = items.json
    if count.lowerBound > 0 { schema.fields["minItems"] = .integer(count.lowerBound) }
    if count.upperBound < .max { schema.fields["maxItems"] = .integer(count.upperBound) }
    return schema
  }

  /// An object; fields that are not listed may be there too.
  static func object(_ properties: [Property]) -> Schema {
    var schema = Schema(type: "object")
    let required = properties.filter(\.isRequired).map { JinjaValue.string($0.name) }
    if !required.isEmpty { schema.fields["required"] = .list(required) }
    var fields = JinjaMapping()
    for property in properties { fields[property.name] = property.schema.json }
    schema.fields["properties"] = .mapping(fields)
    return schema
  }

  /// An object with any keys.
  static func map(of values: Schema = .any, keys: Schema? = nil, count: Int? = nil) -> Schema {
    var schema = Schema(type: "object")
    if let keys { schema.fields["propertyNames"] = keys.json }
    if let count { schema.fields["maxProperties"] = .integer(count) }
    schema.fields["additionalProperties"] = values.json
    return schema
  }

  static func constant(_ text: String) -> Schema { .string(oneOf: [text]) }

  static func anyOf(_ schemas: [Schema]) -> Schema { Schema(["anyOf": .list(schemas.map(\.json))]) }

  /// A schema of the document's components.
  static func ref(_ name: String) -> Schema { Schema(["$ref": .string("#/components/schemas/\(name)")]) }

  /// Whether `{}` fits: an object of which no field must be there.
  var fitsEmptyObject: Bool {
    guard case .string("object")? = fields["type"] else { return false }
    return fields["required"] == nil
  }

  // MARK: changes

  /// The same, or null.
  var nullable: Schema {
    guard case .string(let type)? = fields["type"] else { return .anyOf([self, Schema(type: "null")]) }
    var schema = self
    schema.fields["type"] = [.string(type), "null"]
    if let values = fields["enum"]?.items { schema.fields["enum"] = .list(values + [.none]) }
    return schema
  }

  func described(_ text: String) -> Schema {
    var schema = self
    schema.fields["description"] = .string(text)
    return schema
  }

  func defaulting(to value: JinjaValue) -> Schema {
    var schema = self
    schema.fields["default"] = value
    return schema
  }
}

/// A field of an object.
struct Property: Sendable {
  var name: String
  var schema: Schema
  var isRequired: Bool

  /// A field that must be there.
  static func required(_ name: String, _ schema: Schema, _ description: String? = nil) -> Property {
    Property(name: name, schema: description.map(schema.described) ?? schema, isRequired: true)
  }

  /// A field of a request that may be absent or null.
  static func optional(_ name: String, _ schema: Schema, _ description: String? = nil) -> Property {
    Property(name: name, schema: (description.map(schema.described) ?? schema).nullable, isRequired: false)
  }

  /// A field of a response that is always there and may be null.
  static func nullable(_ name: String, _ schema: Schema, _ description: String? = nil) -> Property {
    Property(name: name, schema: (description.map(schema.described) ?? schema).nullable, isRequired: true)
  }
}
