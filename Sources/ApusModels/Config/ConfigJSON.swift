import Foundation

/// The node types that JSON may name, by `typeName`.
///
/// Ours are registered here; a package that adds a part registers it once at start.
public enum ConfigRegistry {
  nonisolated(unsafe) private static var types: [String: any ConfigNode.Type] = Dictionary(
    uniqueKeysWithValues: builtInConfigTypes.map { ($0.typeName, $0) })
  // `types` is only touched under this lock.
  private static let lock = NSLock()

  public static func register(_ type: any ConfigNode.Type) { lock.withLock { types[type.typeName] = type } }
  public static func type(named name: String) -> (any ConfigNode.Type)? { lock.withLock { types[name] } }
  public static var names: [String] { lock.withLock { types.keys.sorted() } }
}

extension ConfigNode {
  /// The tree as JSON with sorted keys; each node carries its `type`.
  public func json() throws -> Data {
    try JSONSerialization.data(withJSONObject: jsonObject(self), options: [.sortedKeys, .prettyPrinted])
  }

  /// Reads what `json()` wrote.
  /// - Throws: `ConfigError` with the path of an unknown type, a wrong one or an unknown field.
  public init(json: Data) throws {
    let object: Any
    do {
      object = try JSONSerialization.jsonObject(with: json)
    } catch {
      throw ConfigError(path: "", problem: "this is not JSON: \(error)")
    }
    self.init()
    guard let fields = object as? [String: Any] else {
      throw ConfigError(path: "", problem: "expected an object, found \(describe(object))")
    }
    if let name = fields["type"] as? String, name != Self.typeName {
      throw ConfigError(path: "type", problem: "expected \(Self.typeName), found \(name)")
    }
    try read(&self, fields, "")
  }
}

/// A shared shape of all JSON values that hold nodes, for encoding.
private func jsonObject(_ node: some ConfigNode) -> [String: Any] {
  var copy = node
  var encoder = Encoder()
  try? copy.visit(&encoder)  // an Encoder doesn't throw
  encoder.object["type"] = type(of: node).typeName
  return encoder.object
}

private struct Encoder: ConfigVisitor {
  var object: [String: Any] = [:]

  mutating func field<T>(_ name: String, _ value: inout T) throws { object[name] = encode(value) }

  private func encode(_ value: Any) -> Any {
    if let leaf = ConfigLeaf(value) { return leaf.scalar.map(foundation) ?? NSNull() }
    if let node = value as? any ConfigNode { return jsonObject(node) }
    if let list = value as? [Any] { return list.map(encode) }
    return NSNull()  // an empty optional slot
  }
}

private func foundation(_ scalar: JSONScalar) -> Any {
  switch scalar {
  case .null: NSNull()
  case .bool(let v): v
  case .int(let v): v
  case .double(let v): v
  case .string(let v): v
  case .list(let v): v.map(foundation)
  }
}

private func scalar(_ value: Any) -> JSONScalar? {
  switch value {
  case is NSNull: return .null
  case let v as String: return .string(v)
  case let v as [Any]:
    let items = v.compactMap(scalar)
    return items.count == v.count ? .list(items) : nil
  case let v as NSNumber:
    let type = String(cString: v.objCType)
    if type == "c" || type == "B" { return .bool(v.boolValue) }
    return type == "d" || type == "f" ? .double(v.doubleValue) : .int(v.intValue)
  default: return nil
  }
}

private func describe(_ value: Any) -> String {
  switch value {
  case is NSNull: "null"
  case is [String: Any]: "an object"
  case is [Any]: "a list"
  case let v as String: "\"\(v)\""
  default: "\(value)"
  }
}

private func read(_ node: inout some ConfigNode, _ fields: [String: Any], _ path: String) throws {
  var decoder = Decoder(fields: fields, path: path)
  try node.visit(&decoder)
  let unknown = Set(fields.keys).subtracting(decoder.seen).subtracting(["type"]).sorted()
  if let first = unknown.first {
    let near = nearest(first, in: Array(decoder.seen)).map { "; did you mean \($0)?" } ?? ""
    throw ConfigError(path: join(path, first), problem: "unknown field\(near)")
  }
}

private func join(_ path: String, _ name: String) -> String { path.isEmpty ? name : path + "." + name }

/// An array whose element is a node or a slot, filled from JSON.
private protocol JSONFillable {
  mutating func fill(_ items: [Any], _ path: String) throws
}

extension Array: JSONFillable {
  fileprivate mutating func fill(_ items: [Any], _ path: String) throws {
    self = try items.enumerated().map { i, item in
      guard let element = try makeNode(item, "\(path)[\(i)]", Element.self) as? Element else {
        throw ConfigError(path: "\(path)[\(i)]", problem: "expected \(Element.self), found \(describe(item))")
      }
      return element
    }
  }
}

private func makeNode<T>(_ value: Any, _ path: String, _ expected: T.Type) throws -> any ConfigNode {
  guard let fields = value as? [String: Any], let name = fields["type"] as? String else {
    throw ConfigError(path: path, problem: "expected an object with a type, found \(describe(value))")
  }
  guard let type = ConfigRegistry.type(named: name) else {
    let near = nearest(name, in: ConfigRegistry.names).map { "; did you mean \($0)?" } ?? ""
    throw ConfigError(path: path + ".type", problem: "unknown type \(name)\(near)")
  }
  var node = type.init()
  try read(&node, fields, path)
  return node
}

private struct Decoder: ConfigVisitor {
  let fields: [String: Any]
  let path: String
  var seen: Set<String> = []

  mutating func field<T>(_ name: String, _ value: inout T) throws {
    seen.insert(name)
    guard let item = fields[name] else { return }
    let here = join(path, name)
    if let leaf = ConfigLeaf(value) {
      guard let scalar = scalar(item) else { throw wrong(here, T.self, item) }
      // What was written for a required field that isn't set.
      if scalar == .null, leaf.scalar == nil { return }
      guard let new = leaf.setting(scalar) as? T else { throw wrong(here, T.self, item) }
      value = new
    } else if var list = value as? any JSONFillable, let items = item as? [Any] {
      try list.fill(items, here)
      value = list as! T  // likewise
    } else if item is NSNull {
      return
    } else {
      guard let node = try makeNode(item, here, T.self) as? T else {
        throw ConfigError(
          path: here, problem: "\(describe((item as? [String: Any])?["type"] ?? item)) can't be a \(T.self)")
      }
      value = node
    }
  }
}

private func wrong(_ path: String, _ expected: Any.Type, _ item: Any) -> ConfigError {
  ConfigError(path: path, problem: "expected \(expected), found \(describe(item))")
}

/// The word of `words` with the fewest edits, if it is near enough to be what was meant.
package func nearest(_ word: String, in words: [String]) -> String? {
  let scored = words.map { ($0, ModelStore.editDistance(word.lowercased(), $0.lowercased())) }
  guard let best = scored.min(by: { ($0.1, $0.0) < ($1.1, $1.0) }), best.1 <= max(2, word.count / 3) else { return nil }
  return best.0
}
