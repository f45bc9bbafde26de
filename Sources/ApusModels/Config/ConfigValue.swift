import ApusCompute
import ApusKernels
import Foundation

/// A leaf of a config tree: prints as one word and reads back from JSON.
public protocol ConfigValue: Sendable, Hashable {
  var configJSON: JSONScalar { get }
  init?(configJSON: JSONScalar)
}

/// What a leaf is in JSON.
public enum JSONScalar: Sendable, Hashable, CustomStringConvertible {
  case null
  case bool(Bool)
  case int(Int)
  case double(Double)
  case string(String)
  case list([JSONScalar])

  public var description: String {
    switch self {
    case .null: "nil"
    case .bool(let v): "\(v)"
    case .int(let v): "\(v)"
    case .double(let v): "\(v)"
    case .string(let v): v
    case .list(let v): "[" + v.map(\.description).joined(separator: ", ") + "]"
    }
  }
}

extension Int: ConfigValue {
  public var configJSON: JSONScalar { .int(self) }
  public init?(configJSON: JSONScalar) {
    guard case .int(let v) = configJSON else { return nil }
    self = v
  }
}

extension Double: ConfigValue {
  public var configJSON: JSONScalar { .double(self) }
  public init?(configJSON: JSONScalar) {
    switch configJSON {
    case .double(let v): self = v
    case .int(let v): self = Double(v)
    default: return nil
    }
  }
}

extension Bool: ConfigValue {
  public var configJSON: JSONScalar { .bool(self) }
  public init?(configJSON: JSONScalar) {
    guard case .bool(let v) = configJSON else { return nil }
    self = v
  }
}

extension String: ConfigValue {
  public var configJSON: JSONScalar { .string(self) }
  public init?(configJSON: JSONScalar) {
    guard case .string(let v) = configJSON else { return nil }
    self = v
  }
}

extension Optional: ConfigValue where Wrapped: ConfigValue {
  public var configJSON: JSONScalar { self?.configJSON ?? .null }
  public init?(configJSON: JSONScalar) {
    if case .null = configJSON {
      self = .none
    } else if let value = Wrapped(configJSON: configJSON) {
      self = value
    } else {
      return nil
    }
  }
}

extension Array: ConfigValue where Element: ConfigValue {
  public var configJSON: JSONScalar { .list(map(\.configJSON)) }
  public init?(configJSON: JSONScalar) {
    guard case .list(let items) = configJSON else { return nil }
    let values = items.compactMap(Element.init(configJSON:))
    guard values.count == items.count else { return nil }
    self = values
  }
}

/// An enumeration whose cases are words.
public protocol ConfigEnum: ConfigValue, CaseIterable {}

extension ConfigEnum {
  public var configJSON: JSONScalar { .string("\(self)") }
  public init?(configJSON: JSONScalar) {
    guard case .string(let word) = configJSON, let match = Self.allCases.first(where: { "\($0)" == word }) else {
      return nil
    }
    self = match
  }
}

extension Activation: ConfigEnum {}
extension ActivationPrecision: ConfigEnum {}
extension RotaryPairing: ConfigEnum {
  public static var allCases: [RotaryPairing] { [.interleaved, .halfSplit] }
}

/// A field that is a leaf, required or not; nil for nodes, slots and lists of them.
///
/// Any `ConfigValue` is one, also types that other packages add.
struct ConfigLeaf {
  private enum Kind {
    case value(any ConfigValue)
    case required(any RequiredValue)
  }

  private var kind: Kind

  init?(_ field: Any) {
    if let required = field as? any RequiredValue {
      kind = .required(required)
    } else if let value = field as? any ConfigValue {
      kind = .value(value)
    } else {
      return nil
    }
  }

  /// Nil: required and not set.
  var scalar: JSONScalar? {
    switch kind {
    case .value(let v): v.configJSON
    case .required(let r): r.scalar
    }
  }

  /// The field with another value; nil when the JSON has the wrong type.
  func setting(_ scalar: JSONScalar) -> Any? {
    switch kind {
    case .value(let v): return type(of: v).init(configJSON: scalar)
    case .required(let r): return r.setting(scalar)
    }
  }
}

private protocol RequiredValue {
  var scalar: JSONScalar? { get }
  func setting(_ scalar: JSONScalar) -> Any?
}

extension Required: RequiredValue {
  fileprivate var scalar: JSONScalar? { stored?.configJSON }
  fileprivate func setting(_ scalar: JSONScalar) -> Any? {
    Value(configJSON: scalar).map { Required(wrappedValue: $0) }
  }
}
