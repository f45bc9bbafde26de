/// A part of a model as a value: hyper-parameters as fields, replaceable parts as *slots*.
///
/// A slot is a field whose declared type is an existential of a role protocol (`any FeedForwardConfig`). Sizes that a
/// parent knows (the model's width) are arguments of the role's factory, never fields, so a slot can be filled with
/// anything that plays the role without copying fields over.
///
/// ```swift
/// public struct FeedForward: FeedForwardConfig {
///   @Required public var hidden: Int
///   public var activation = Activation.silu
///   public init() {}
///   public mutating func visit(_ v: inout some ConfigVisitor) throws {
///     try v.field("hidden", \._hidden, &self)
///     try v.field("activation", \.activation, &self)
///   }
/// }
/// ```
/// Source: AXLearn's composer (axlearn.md §3.1); a test compares `visit` with `Mirror` so that no field is forgotten.
public protocol ConfigNode: Sendable {
  /// Every field at its default; required ones unset.
  init()
  /// The name in golden text and JSON; the Swift type's name unless told.
  static var typeName: String { get }
  /// Calls `v.field` once for every stored property, in order.
  mutating func visit(_ v: inout some ConfigVisitor) throws
}

extension ConfigNode {
  public static var typeName: String { String(describing: Self.self) }
}

/// Walks the fields of a config tree. `T` is the field's *declared* type: for a slot the existential, not what is in it.
public protocol ConfigVisitor {
  mutating func field<T>(_ name: String, _ value: inout T) throws
}

extension ConfigVisitor {
  /// Visits a field by key path: `&self.slot` would open the existential and lose the slot's type.
  @inlinable
  public mutating func field<Node, T>(_ name: String, _ path: WritableKeyPath<Node, T>, _ node: inout Node) throws {
    var value = node[keyPath: path]
    try field(name, &value)
    node[keyPath: path] = value
  }
}

/// A field that has no default and must be set before the config is used.
@propertyWrapper
public struct Required<Value: ConfigValue>: Sendable {
  var stored: Value?

  public init() {}
  public init(wrappedValue: Value) { stored = wrappedValue }

  /// Reading it unset is a programming error: `validate()` is called wherever a config enters.
  public var wrappedValue: Value {
    get {
      guard let stored else { preconditionFailure("a required config field was read before validate()") }
      return stored
    }
    set { stored = newValue }
  }
}

/// What a config tree was asked for and can't give.
public struct ConfigError: Error, CustomStringConvertible, Equatable {
  /// Where in the tree, e.g. `layers[3].attention.heads`.
  public var path: String
  public var problem: String

  public init(path: String, problem: String) {
    self.path = path
    self.problem = problem
  }

  public var description: String { path.isEmpty ? problem : "\(path): \(problem)" }
}

extension ConfigNode {
  /// Throws one error that names every required field that isn't set.
  public func validate() throws {
    let missing = flattened().filter { $0.value == nil }.map(\.path)
    guard missing.isEmpty else {
      throw ConfigError(
        path: missing.joined(separator: ", "),
        problem: missing.count == 1 ? "this required field is not set" : "these required fields are not set")
    }
  }

  /// Replaces what is in every slot of a role, children first, so a wrapper that contains the role isn't visited again.
  ///
  /// ```swift
  /// try model.mapSlots((any FeedForwardConfig).self) { MixtureOfExperts(expert: $0, experts: 8) }
  /// ```
  /// - Returns: the number of slots of the role.
  /// - Throws: `ConfigError` when the tree has no such slot (unless `allowNone`): a swap that matches nothing is a bug.
  @discardableResult
  public mutating func mapSlots<Role>(
    _ role: Role.Type, allowNone: Bool = false, _ transform: (Role) throws -> Role
  ) throws -> Int {
    try withoutActuallyEscaping(transform) { transform in
      var mapper = SlotMapper(transform: transform)
      try visit(&mapper)
      guard mapper.count > 0 || allowNone else {
        throw ConfigError(path: "", problem: "\(Self.typeName) has no slot of the role \(role)")
      }
      return mapper.count
    }
  }

  /// Visits every node of type `Node` in the tree, in place: a modifier of fields rather than of slots.
  @discardableResult
  public mutating func mapNodes<Node: ConfigNode>(
    _: Node.Type, allowNone: Bool = false, _ change: (inout Node) throws -> Void
  ) throws -> Int {
    try withoutActuallyEscaping(change) { change in
      var mapper = NodeMapper(change: change)
      try mapper.field("", &self)
      guard mapper.count > 0 || allowNone else {
        throw ConfigError(path: "", problem: "\(Self.typeName) contains no \(Node.typeName)")
      }
      return mapper.count
    }
  }
}

/// Arrays and optionals of nodes or slots, seen without their element type.
private protocol ConfigContainer {
  mutating func visitElements(_ v: inout some ConfigVisitor) throws
}

extension Array: ConfigContainer {
  mutating func visitElements(_ v: inout some ConfigVisitor) throws {
    for i in indices { try v.field("[\(i)]", &self[i]) }
  }
}

extension Optional: ConfigContainer {
  mutating func visitElements(_ v: inout some ConfigVisitor) throws {
    if var value = self {
      try v.field("", &value)
      self = value
    }
  }
}

/// Calls `visit` on whatever node is in `value`; false if it isn't one.
@discardableResult
private func descend<T>(_ value: inout T, _ v: inout some ConfigVisitor) throws -> Bool {
  if var node = value as? any ConfigNode {
    try node.visit(&v)
    value = node as! T  // the same type that was taken out
    return true
  }
  if var container = value as? any ConfigContainer, !(value is any ConfigValue) {
    try container.visitElements(&v)
    value = container as! T  // likewise
    return true
  }
  return false
}

private struct SlotMapper<Role>: ConfigVisitor {
  let transform: (Role) throws -> Role
  var count = 0

  mutating func field<T>(_ name: String, _ value: inout T) throws {
    try descend(&value, &self)
    if T.self == Role.self {
      value = try transform(value as! Role) as! T  // T is Role
      count += 1
    }
  }
}

private struct NodeMapper<Node: ConfigNode>: ConfigVisitor {
  let change: (inout Node) throws -> Void
  var count = 0

  mutating func field<T>(_ name: String, _ value: inout T) throws {
    try descend(&value, &self)
    if var node = value as? Node {
      try change(&node)
      count += 1
      value = node as! T  // a Node was in it
    }
  }
}

// MARK: text

/// One line of golden text; `value` nil means required and not set.
public struct ConfigLine: Sendable, Equatable {
  public var path: String
  public var value: String?
}

private struct Flattener: ConfigVisitor {
  var prefix = ""
  var lines: [ConfigLine] = []

  mutating func field<T>(_ name: String, _ value: inout T) throws {
    let path = name.hasPrefix("[") || name.isEmpty || prefix.isEmpty ? prefix + name : prefix + "." + name
    if let leaf = ConfigLeaf(value) {
      lines.append(ConfigLine(path: path, value: leaf.scalar?.description))
      return
    }
    let outer = prefix
    prefix = path
    defer { prefix = outer }
    if let node = value as? any ConfigNode, !(value is any ConfigContainer) {
      lines.append(ConfigLine(path: path + ".type", value: type(of: node).typeName))
    }
    try descend(&value, &self)
  }
}

extension ConfigNode {
  /// Every field as `path` and `value`, in the order of the tree.
  public func flattened() -> [ConfigLine] {
    var copy = self
    var flattener = Flattener()
    try? copy.visit(&flattener)  // a Flattener doesn't throw
    return [ConfigLine(path: "type", value: Self.typeName)] + flattener.lines
  }

  /// The golden text: `path: value` by line; neighbours in a list that say the same are folded to `layers[0…29]`.
  public var goldenText: String { fold(flattened()).map { "\($0.path): \($0.value ?? "REQUIRED")\n" }.joined() }
}

/// Folds runs of equal list elements at the outermost list of each path.
private func fold(_ lines: [ConfigLine]) -> [ConfigLine] {
  var result: [ConfigLine] = []
  var i = 0
  while i < lines.count {
    guard let (list, _) = element(lines[i].path) else {
      result.append(lines[i])
      i += 1
      continue
    }
    // All lines of this list, grouped by element.
    var groups: [(index: Int, lines: [ConfigLine])] = []
    while i < lines.count, let (name, index) = element(lines[i].path), name == list {
      if groups.last?.index != index { groups.append((index, [])) }
      groups[groups.count - 1].lines.append(
        ConfigLine(path: String(lines[i].path.dropFirst("\(list)[\(index)]".count)), value: lines[i].value))
      i += 1
    }
    var g = 0
    while g < groups.count {
      var last = g
      while last + 1 < groups.count, groups[last + 1].lines == groups[g].lines { last += 1 }
      let label = last == g ? "\(groups[g].index)" : "\(groups[g].index)…\(groups[last].index)"
      result += groups[g].lines.map { ConfigLine(path: "\(list)[\(label)]\($0.path)", value: $0.value) }
      g = last + 1
    }
  }
  return result
}

/// `layers[12].x` → (`layers`, 12).
private func element(_ path: String) -> (String, Int)? {
  guard let open = path.firstIndex(of: "["), let close = path[open...].firstIndex(of: "]"),
    let index = Int(path[path.index(after: open)..<close])
  else { return nil }
  return (String(path[..<open]), index)
}

/// The lines that differ between two configs, as `- old` and `+ new`.
public func configDifference(_ a: some ConfigNode, _ b: some ConfigNode) -> [String] {
  let old = a.goldenText.split(separator: "\n").map(String.init)
  let new = b.goldenText.split(separator: "\n").map(String.init)
  var lines: [String] = []
  for change in new.difference(from: old) {
    switch change {
    case .remove(_, let line, _): lines.append("- " + line)
    case .insert(_, let line, _): lines.append("+ " + line)
    }
  }
  return lines
}
