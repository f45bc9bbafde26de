import ApusModels
import Foundation
import Yams

/// One thing that is wrong with a configuration file.
public struct ConfigurationProblem: Sendable, Equatable, Codable, CustomStringConvertible {
  /// Counted from 1.
  public var line: Int
  /// Where in the file's tree, such as `log.level`; empty for the file as a whole.
  public var path: String
  public var seen: String
  public var expected: String
  /// The known key that is most like an unknown one.
  public var suggestion: String?

  public var description: String {
    "\(line): \(path.isEmpty ? "" : path + " is ")\(seen), expected \(expected)"
      + (suggestion.map { "; did you mean '\($0)'?" } ?? "")
  }
}

/// Everything that is wrong with a configuration file.
public struct ConfigurationError: Error, Equatable, CustomStringConvertible {
  public var file: String
  public var problems: [ConfigurationProblem]

  /// A line a problem: file, line, path, what was seen and what was expected.
  public var description: String { problems.map { "\(file):\($0)" }.joined(separator: "\n") }
}

extension ServerConfiguration {
  /// Bytes of a file; a larger one is not read.
  static let sizeLimit = 1 << 20

  /// Reads a YAML file. Throws ``ConfigurationError`` with all that is wrong with it.
  public init(file path: String) throws(ConfigurationError) {
    guard let handle = FileHandle(forReadingAtPath: path) else {
      throw ConfigurationError(
        file: path,
        problems: [.init(line: 1, path: "", seen: "a file that cannot be read", expected: "a YAML file")])
    }
    // One byte more than is allowed tells a larger file without reading it.
    let data = (try? handle.read(upToCount: Self.sizeLimit + 1)) ?? Data()
    try self.init(yaml: Array(data), file: path)
  }

  /// Reads the text of a file of that name. Throws ``ConfigurationError`` with all that is wrong with it.
  public init(yaml: [UInt8], file: String) throws(ConfigurationError) {
    do throws(ConfigurationProblem.List) {
      self = try Self.read(yaml)
    } catch {
      throw ConfigurationError(file: file, problems: error.problems)
    }
  }

  private static func read(_ yaml: [UInt8]) throws(ConfigurationProblem.List) -> ServerConfiguration {
    guard yaml.count <= sizeLimit else {
      throw .init(line: 1, seen: "a file of more than \(sizeLimit) bytes", expected: "at most as many")
    }
    guard let text = String(validating: yaml, as: UTF8.self) else {
      throw .init(line: 1, seen: "a text that is not UTF-8", expected: "UTF-8")
    }
    if let reference = YAMLReferences.first(in: yaml) {
      throw .init(
        line: reference.line, seen: "a file with the anchor or alias \(reference.name)",
        expected: "values written out; in a comment or a text, no word right behind the sign")
    }
    let root: Node?
    do { root = try Yams.compose(yaml: text) } catch { throw .init(error) }
    guard let root, !ConfigurationNode(root).isNull else { return ServerConfiguration() }
    var reader = ConfigurationReader()
    reader.read(root, at: "")
    if !reader.problems.isEmpty { throw .init(problems: reader.problems.sorted { $0.line < $1.line }) }
    return reader.configuration
  }
}

extension ConfigurationProblem {
  /// Problems on their way to the error that names the file.
  fileprivate struct List: Error {
    var problems: [ConfigurationProblem]

    init(problems: [ConfigurationProblem]) { self.problems = problems }

    init(line: Int, seen: String, expected: String) {
      problems = [ConfigurationProblem(line: line, path: "", seen: seen, expected: expected)]
    }

    /// What the YAML parser says, without the text of the file that its own description repeats.
    init(_ error: any Error) {
      switch error as? YamlError {
      case .scanner(_, let problem, let mark, _), .parser(_, let problem, let mark, _),
        .composer(_, let problem, let mark, _):
        self.init(line: mark.line, seen: "no YAML: \(problem)", expected: "YAML")
      case .duplicatedKeysInMapping(let duplicates, let context):
        let keys = duplicates.map { "'\(ConfigurationNode.brief($0))'" }.joined(separator: ", ")
        self.init(line: context.mark.line, seen: "a mapping with \(keys) twice", expected: "each key once")
      default: self.init(line: 1, seen: "no YAML", expected: "YAML")
      }
    }
  }
}

/// Walks a file's tree along the known settings and collects what is wrong.
private struct ConfigurationReader {
  var configuration = ServerConfiguration()
  var problems: [ConfigurationProblem] = []
  /// A suggestion for a longer key would be no help, and dear.
  private static let longestKey = 64

  /// Reads a mapping whose keys continue a path, which is empty or ends with a dot.
  mutating func read(_ node: Node, at prefix: String) {
    let known = ServerConfiguration.settings.filter { $0.path.hasPrefix(prefix) }
    guard case .mapping(let mapping) = node else {
      let keys = known.map { String($0.path.dropFirst(prefix.count)) }
      problems.append(
        problem(node, String(prefix.dropLast()), expected: "a mapping with keys such as \(keys[0])"))
      return
    }
    for (key, value) in mapping { read(key, value, at: prefix, known) }
    // One without the other is no TLS.
    if prefix == "tls.", (configuration.tlsCertificate == nil) != (configuration.tlsKey == nil),
      !problems.contains(where: { $0.path.hasPrefix(prefix) })
    {
      problems.append(
        ConfigurationProblem(
          line: node.mark?.line ?? 1, path: "tls", seen: "only one of certificate and key", expected: "both"))
    }
  }

  private mutating func read(
    _ key: Node, _ value: Node, at prefix: String, _ known: [ServerConfiguration.Setting]
  ) {
    guard let name = ConfigurationNode(key).text else {
      return problems.append(problem(key, prefix + "a key", expected: "a text"))
    }
    let path = prefix + name
    if let setting = known.first(where: { $0.path == path }) {
      let node = ConfigurationNode(value)
      // A key without a value is one that is not given.
      if node.isNull { return }
      if let expected = setting.read(node, &configuration) {
        problems.append(problem(value, path, expected: expected))
      }
    } else if known.contains(where: { $0.path.hasPrefix(path + ".") }) {
      if !ConfigurationNode(value).isNull { read(value, at: path + ".") }
    } else {
      let names = Set(known.compactMap { $0.path.dropFirst(prefix.count).split(separator: ".").first }.map(String.init))
      problems.append(
        ConfigurationProblem(
          line: key.mark?.line ?? 1, path: ConfigurationNode.brief(path), seen: "an unknown key",
          expected: names.sorted().joined(separator: ", "),
          suggestion: name.utf8.count > Self.longestKey ? nil : nearest(name, in: Array(names))))
    }
  }

  private func problem(_ node: Node, _ path: String, expected: String) -> ConfigurationProblem {
    ConfigurationProblem(
      line: node.mark?.line ?? 1, path: path, seen: ConfigurationNode(node).brief, expected: expected)
  }
}

/// A node of a file, read strictly: a quoted number is a text, and `yes` is no flag.
struct ConfigurationNode {
  private let node: Node

  init(_ node: Node) { self.node = node }

  private enum Value {
    case null
    case flag(Bool)
    case integer(Int)
    case number(Double)
    case text(String)
    case list([Node])
    case mapping
  }

  /// By YAML 1.2's core schema (10.3), without octal and hexadecimal numbers.
  private var value: Value {
    switch node {
    case .mapping, .alias: return .mapping
    case .sequence(let items): return .list(Array(items))
    case .scalar(let scalar):
      guard scalar.style == .plain else { return .text(scalar.string) }
      switch scalar.string {
      case "", "~", "null": return .null
      case "true": return .flag(true)
      case "false": return .flag(false)
      default:
        if let integer = Int(scalar.string) { return .integer(integer) }
        if scalar.string.wholeMatch(of: /[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?/) != nil {
          return .number(Double(scalar.string) ?? .infinity)
        }
        return .text(scalar.string)
      }
    }
  }

  var isNull: Bool { if case .null = value { true } else { false } }
  var flag: Bool? { if case .flag(let flag) = value { flag } else { nil } }
  var integer: Int? { if case .integer(let number) = value { number } else { nil } }
  /// Of a mapping whose keys are all texts.
  var entries: [(key: String, value: ConfigurationNode)]? {
    guard case .mapping(let mapping) = node else { return nil }
    let entries = mapping.compactMap { key, value in
      ConfigurationNode(key).text.map { (key: $0, value: ConfigurationNode(value)) }
    }
    return entries.count == mapping.count ? entries : nil
  }
  var items: [ConfigurationNode]? { if case .list(let items) = value { items.map(Self.init) } else { nil } }

  /// Finite.
  var number: Double? {
    switch value {
    case .integer(let number): Double(number)
    case .number(let number) where number.isFinite: number
    default: nil
    }
  }

  /// Not empty.
  var text: String? { if case .text(let text) = value, !text.isEmpty { text } else { nil } }

  /// The node in a few words.
  var brief: String {
    switch value {
    case .null: "nothing"
    case .flag(let flag): "\(flag)"
    case .integer(let number): "\(number)"
    case .number, .text: "'\(Self.brief(node.scalar?.string ?? ""))'"
    case .list(let items): items.isEmpty ? "an empty list" : "a list"
    case .mapping: "a mapping"
    }
  }

  /// At most 40 characters of a text, none of which controls a terminal.
  static func brief(_ text: String) -> String {
    let printable = String(text.unicodeScalars.prefix(41).map { $0.properties.isPrintable ? Character($0) : "�" })
    return printable.count > 40 ? printable.prefix(40) + "…" : printable
  }
}

extension Unicode.Scalar.Properties {
  fileprivate var isPrintable: Bool {
    switch generalCategory {
    case .control, .format, .surrogate, .privateUse, .unassigned, .lineSeparator, .paragraphSeparator: false
    default: true
    }
  }
}

/// Looks for anchors and aliases, without which a file cannot stand for more than its own size.
enum YAMLReferences {
  /// The first `&name` or `*name` that could be one. The parser may only take a sign for one at the beginning of a token,
  /// so every sign behind a space, a bracket, a comma, a colon or a line break counts, also in comments and quotes: what
  /// is quoted is not known before the file is parsed.
  static func first(in yaml: [UInt8]) -> (line: Int, name: String)? {
    var line = 1
    var previous = UInt8(ascii: "\n")
    for (index, byte) in yaml.enumerated() {
      if byte == UInt8(ascii: "&") || byte == UInt8(ascii: "*"), mayEndToken(previous) {
        let name = yaml[(index + 1)...].prefix(longestName).prefix { $0 > 0x20 && !brackets.contains($0) }
        if !name.isEmpty { return (line, String(decoding: [byte] + name, as: UTF8.self)) }
      }
      if byte == UInt8(ascii: "\n") { line += 1 }
      previous = byte
    }
    return nil
  }

  private static let longestName = 32
  private static let brackets = Set(#"'",]}"#.utf8)
  private static let openers = Set("[{,:".utf8)

  /// Bytes above ASCII may end a Unicode line break.
  private static func mayEndToken(_ byte: UInt8) -> Bool {
    byte <= 0x20 || byte >= 0x80 || openers.contains(byte)
  }
}
