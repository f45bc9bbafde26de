import ApusCollections
import ApusModels
import Logging

/// The settings of a server as a file or the command line gives them; nil is one that is not given.
///
/// ```swift
/// let file = try ServerConfiguration(file: "apus.yaml")
/// let settings = flags.over(file)
/// ```
public struct ServerConfiguration: Sendable, Equatable {
  public var host: String?
  public var port: Int?
  public var unixSocket: String?
  public var models: [String]?
  public var keyFile: String?
  /// What the owners of keys may do, by their names.
  public var keyRoles: [String: Role]?
  public var tlsCertificate: String?
  public var tlsKey: String?
  public var allowedOrigins: [String]?
  /// MiB of keys and values that all answers of a model share.
  public var kvPool: Int?
  public var kvLayout: KVLayoutChoice?
  public var maxRunning: Int?
  public var maxQueue: Int?
  /// Seconds.
  public var idleUnload: Double?
  /// Seconds.
  public var drainTimeout: Double?
  public var responses: String?
  public var collections: String?
  public var grpcPort: Int?
  /// What tenants of collections may have and ask who have no quotas of their own: vectors, bytes, queries a second.
  public var tenantVectors: Int?
  public var tenantBytes: Int?
  public var tenantQueries: Double?
  /// Bytes.
  public var bodyLimit: Int?
  public var threads: Int?
  /// Tokens.
  public var contextLength: Int?
  public var exact: Bool?
  public var logLevel: Logger.Level?
  public var logFormat: LogFormat?
  public var logsPrompts: Bool?
  public var traceFile: String?

  public init() {}

  /// Every setting, by its path in the file.
  static let settings: [Setting] = [
    .init("host", \.host, .text),
    .init("port", \.port, .whole(0...65535)),
    .init("uds", \.unixSocket, .text),
    .init("models", \.models, .texts),
    .init("api-key-file", \.keyFile, .text),
    .init("keys", \.keyRoles, .roles),
    .init("tls.certificate", \.tlsCertificate, .text),
    .init("tls.key", \.tlsKey, .text),
    .init("allowed-origins", \.allowedOrigins, .texts),
    .init("kv-pool", \.kvPool, .whole(1...mostMiB)),
    .init("kv-layout", \.kvLayout, .choice),
    .init("max-running", \.maxRunning, .whole(1...Int(Int32.max))),
    .init("max-queue", \.maxQueue, .whole(1...Int(Int32.max)), isReloadable: true),
    .init("idle-unload", \.idleUnload, .seconds(orZero: false)),
    .init("drain-timeout", \.drainTimeout, .seconds(orZero: true), isReloadable: true),
    .init("responses", \.responses, .text),
    .init("collections", \.collections, .text),
    .init("grpc-port", \.grpcPort, .whole(0...65535)),
    .init("tenant-quota.vectors", \.tenantVectors, .whole(0...Int.max)),
    .init("tenant-quota.bytes", \.tenantBytes, .whole(0...Int.max)),
    .init("tenant-quota.queries", \.tenantQueries, .rate),
    .init("body-limit", \.bodyLimit, .whole(1...Int.max)),
    .init("threads", \.threads, .whole(1...1024)),
    .init("context", \.contextLength, .whole(1...Int(Int32.max))),
    .init("exact", \.exact, .flag),
    .init("log.level", \.logLevel, .choice),
    .init("log.format", \.logFormat, .choice),
    .init("log.prompts", \.logsPrompts, .flag),
    .init("trace-file", \.traceFile, .text),
  ]

  /// What still is a number of bytes in 63 bits.
  private static let mostMiB = Int.max >> 20

  /// These settings, and another's where these are not given.
  public func over(_ other: ServerConfiguration) -> ServerConfiguration {
    var sum = self
    for setting in Self.settings { setting.fill(&sum, other) }
    return sum
  }

  /// The first setting whose value is out of its range, by its path, with the value and the range in words.
  public var problem: (path: String, seen: String, expected: String)? {
    for setting in Self.settings {
      if let (seen, expected) = setting.check(self) { return (setting.path, seen, expected) }
    }
    return nil
  }

  /// The paths of the settings that differ: those that a running server takes over, and those that need a new one.
  public func changes(from old: ServerConfiguration) -> (reloadable: [String], fixed: [String]) {
    let changed = Self.settings.filter { !$0.isEqual(self, old) }
    return (changed.filter(\.isReloadable).map(\.path), changed.filter { !$0.isReloadable }.map(\.path))
  }
}

/// How lines of the log are written.
public enum LogFormat: String, Sendable, CaseIterable {
  /// For people.
  case text
  /// One JSON object a line.
  case json
}

extension ServerConfiguration {
  /// One setting: where it stands in a file and in a configuration, and what it may be.
  struct Setting: Sendable {
    let path: String
    /// Whether a running server takes a new value over.
    let isReloadable: Bool
    let isEqual: @Sendable (ServerConfiguration, ServerConfiguration) -> Bool
    /// Takes the value from the second if the first has none.
    let fill: @Sendable (inout ServerConfiguration, ServerConfiguration) -> Void
    /// A value that is out of its range, in words, and the range; nil if all is well.
    let check: @Sendable (ServerConfiguration) -> (seen: String, expected: String)?
    /// Takes the value from a file's node; returns what was expected if it is something else.
    let read: @Sendable (ConfigurationNode, inout ServerConfiguration) -> String?

    init<Value: Sendable & Equatable>(
      _ path: String, _ place: WritableKeyPath<ServerConfiguration, Value?> & Sendable, _ kind: SettingKind<Value>,
      isReloadable: Bool = false
    ) {
      self.path = path
      self.isReloadable = isReloadable
      isEqual = { $0[keyPath: place] == $1[keyPath: place] }
      fill = { if $0[keyPath: place] == nil { $0[keyPath: place] = $1[keyPath: place] } }
      check = { configuration in
        guard let value = configuration[keyPath: place], !kind.isInRange(value) else { return nil }
        return ("\(value)", kind.expected)
      }
      read = { node, configuration in
        guard let value = kind.read(node), kind.isInRange(value) else { return kind.expected }
        configuration[keyPath: place] = value
        return nil
      }
    }
  }
}

/// What a setting may be.
struct SettingKind<Value: Sendable>: Sendable {
  /// In words, for people who gave something else.
  let expected: String
  var isInRange: @Sendable (Value) -> Bool = { _ in true }
  let read: @Sendable (ConfigurationNode) -> Value?
}

extension SettingKind<String> {
  static let text = SettingKind(expected: "a text; numbers and words such as true in quotes") { $0.text }
}

extension SettingKind<[String]> {
  static let texts = SettingKind(expected: "a list of texts") { node in
    guard let items = node.items, !items.isEmpty else { return nil }
    let texts = items.compactMap(\.text)
    return texts.count == items.count ? texts : nil
  }
}

extension SettingKind<[String: Role]> {
  /// `{NAME: {role: admin}, …}`.
  static let roles = SettingKind(expected: "names of keys, each with {role: admin} or {role: tenant}") { node in
    guard let entries = node.entries else { return nil }
    var roles: [String: Role] = [:]
    for (name, properties) in entries {
      guard let properties = properties.entries, properties.count == 1, properties[0].key == "role",
        let role = properties[0].value.text.flatMap({ Role(rawValue: $0) })
      else { return nil }
      roles[name] = role
    }
    return roles
  }
}

extension SettingKind<Int> {
  static func whole(_ range: ClosedRange<Int>) -> SettingKind {
    let bounds =
      range.upperBound == .max ? "from \(range.lowerBound)" : "from \(range.lowerBound) to \(range.upperBound)"
    return SettingKind(expected: "a whole number \(bounds)", isInRange: { range.contains($0) }, read: { $0.integer })
  }
}

extension SettingKind<Double> {
  static let rate = SettingKind(
    expected: "queries a second, more than 0", isInRange: { $0.isFinite && $0 > 0 }, read: { $0.number })

  static func seconds(orZero: Bool) -> SettingKind {
    SettingKind(
      expected: orZero ? "seconds, 0 or more" : "seconds, more than 0",
      isInRange: { $0.isFinite && ($0 > 0 || (orZero && $0 == 0)) }, read: { $0.number })
  }
}

extension SettingKind<Bool> {
  static let flag = SettingKind(expected: "true or false") { $0.flag }
}

extension SettingKind where Value: CaseIterable & RawRepresentable<String> {
  static var choice: SettingKind {
    SettingKind(expected: "one of " + Value.allCases.map(\.rawValue).joined(separator: ", ")) { node in
      node.text.flatMap { Value(rawValue: $0) }
    }
  }
}
