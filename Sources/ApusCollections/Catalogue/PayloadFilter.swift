import GRDB

/// A condition on the payload's indexed fields. A field that is absent, null or of another type than the value meets no
/// condition on its value.
public indirect enum PayloadFilter: Sendable, Equatable {
  public enum Value: Sendable, Equatable {
    case string(String)
    case integer(Int64)
    case number(Double)
    case bool(Bool)
  }
  public struct Bounds: Sendable, Equatable {
    public var above: Value?
    public var from: Value?
    public var below: Value?
    public var upTo: Value?

    public init(above: Value? = nil, from: Value? = nil, below: Value? = nil, upTo: Value? = nil) {
      self.above = above
      self.from = from
      self.below = below
      self.upTo = upTo
    }
  }
  case equals(String, Value)
  case isIn(String, [Value])
  case range(String, Bounds)
  /// There and not null.
  case exists(String)
  /// Of none: every point.
  case and([PayloadFilter])
  /// Of none: no point.
  case or([PayloadFilter])
  case not(PayloadFilter)

  public static let maximumDepth = 16
  public static let maximumValues = 1000

  /// As in the index: SQLite uses an index on an expression only where the same text stands. `field` was checked to be
  /// letters, digits, - and _ between points.
  static func expression(_ field: String) -> String { "json_extract(payload, '\(path(field))')" }

  private static func path(_ field: String) -> String {
    "$" + field.split(separator: ".").map { ".\"\($0)\"" }.joined()
  }

  /// The condition in SQL with its arguments. Throws `CollectionError.invalid` for fields without an index.
  func sql(fields: [String], path: String = "filter", depth: Int = 0) throws -> (String, [DatabaseValue]) {
    guard depth < Self.maximumDepth else {
      throw CollectionError.invalid(
        path: path, seen: "deeper than \(Self.maximumDepth)", expected: "at most \(Self.maximumDepth) levels")
    }
    func place(_ field: String) throws -> (value: String, type: String) {
      guard fields.contains(field) else {
        let known = fields.isEmpty ? "none is" : fields.joined(separator: ", ")
        throw CollectionError.invalid(path: path, seen: "the field '\(field)'", expected: "an indexed field: \(known)")
      }
      return (Self.expression(field), "json_type(payload, '\(Self.path(field))')")
    }
    func join(_ parts: [PayloadFilter], _ word: String, empty: String) throws -> (String, [DatabaseValue]) {
      let all = try parts.enumerated().map {
        try $1.sql(fields: fields, path: "\(path).\(word.lowercased()).\($0)", depth: depth + 1)
      }
      let text = all.isEmpty ? empty : "(" + all.map(\.0).joined(separator: " \(word) ") + ")"
      return (text, all.flatMap(\.1))
    }
    switch self {
    case .equals(let field, let value):
      let (expression, type) = try place(field)
      return ("(\(expression) = ? AND \(type) IN (\(value.types)))", [value.databaseValue])
    case .isIn(let field, let values):
      guard values.count <= Self.maximumValues else {
        throw CollectionError.invalid(
          path: "\(path).in", seen: "\(values.count) values", expected: "at most \(Self.maximumValues)")
      }
      return try join(values.map { .equals(field, $0) }, "OR", empty: "0")
    case .range(let field, let bounds):
      let (expression, type) = try place(field)
      let all = [(bounds.above, ">"), (bounds.from, ">="), (bounds.below, "<"), (bounds.upTo, "<=")]
      let given = all.compactMap { bound, sign in bound.map { ($0, sign) } }
      guard Set(given.map { $0.0.types }).count == 1, given.allSatisfy({ $0.0.hasOrder }) else {
        throw CollectionError.invalid(
          path: path, seen: given.isEmpty ? "a range without a bound" : "a range with bounds of these types",
          expected: "one or more bounds, all numbers or all strings")
      }
      let text = given.map { "\(expression) \($0.1) ?" }.joined(separator: " AND ")
      return ("(\(text) AND \(type) IN (\(given[0].0.types)))", given.map(\.0.databaseValue))
    case .exists(let field): return ("(\(try place(field).value) IS NOT NULL)", [])
    case .and(let parts): return try join(parts, "AND", empty: "1")
    case .or(let parts): return try join(parts, "OR", empty: "0")
    case .not(let part):
      let (text, arguments) = try part.sql(fields: fields, path: "\(path).not", depth: depth + 1)
      // What is unknown to SQL is not met, so its opposite is.
      return ("(NOT coalesce(\(text), 0))", arguments)
    }
  }
}

extension PayloadFilter.Value {
  /// The JSON types of fields that may be equal to it: to SQLite true is also 1, and an array is also its text.
  fileprivate var types: String {
    switch self {
    case .string: "'text'"
    case .integer, .number: "'integer', 'real'"
    case .bool(let flag): flag ? "'true'" : "'false'"
    }
  }

  fileprivate var hasOrder: Bool {
    if case .bool = self { false } else { true }
  }

  fileprivate var databaseValue: DatabaseValue {
    switch self {
    case .string(let text): text.databaseValue
    case .integer(let number): number.databaseValue
    case .number(let number): number.databaseValue
    case .bool(let flag): flag.databaseValue
    }
  }
}
