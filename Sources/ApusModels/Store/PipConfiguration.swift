#if canImport(FoundationEssentials)
  import FoundationEssentials
#else
  import Foundation
#endif

/// Where pip on this machine would look for packages: Apus takes the packages of its models from the same place.
///
/// Read as pip does (pip documentation, "Configuration"): the global, user and site files, or the file of
/// `PIP_CONFIG_FILE` last; then `PIP_…` variables. Later ones win.
struct PipConfiguration: Equatable, Sendable {
  static let publicIndex = "https://pypi.org/simple"

  /// In the order in which they are asked.
  var indexes: [String] = [publicIndex]
  /// A file of certificates to trust, in place of the system's.
  var certificates: String?
  var proxy: String?

  /// Reads the configuration for `environment` (variables) with `read` (path → text, nil without a file).
  init(
    environment: [String: String],
    read: (String) -> String? = { path in
      (try? FileSystem.read(path, limit: 1 << 20)).map { String(decoding: $0, as: UTF8.self) }
    }
  ) {
    var values: [String: String] = [:]
    for path in Self.files(environment) {
      guard let text = read(path) else { continue }
      values.merge(Self.parse(text)) { _, new in new }
    }
    for (variable, key) in [
      ("PIP_INDEX_URL", "index-url"), ("PIP_EXTRA_INDEX_URL", "extra-index-url"), ("PIP_CERT", "cert"),
      ("PIP_PROXY", "proxy"),
    ] {
      if let value = environment[variable], !value.isEmpty { values[key] = value }
    }
    let main = values["index-url"] ?? Self.publicIndex
    let extra = values["extra-index-url"]?.split(whereSeparator: \.isWhitespace).map(String.init) ?? []
    indexes = [main] + extra
    certificates = values["cert"]
    proxy = values["proxy"]
  }

  private static func files(_ environment: [String: String]) -> [String] {
    let home = environment["HOME"]
    let configured = environment["PIP_CONFIG_FILE"]
    // pip reads no file at all when the variable names the null device.
    if configured == "/dev/null" { return [] }
    var paths: [String] = []
    let shared = environment["XDG_CONFIG_DIRS"].flatMap { $0.isEmpty ? nil : $0 } ?? "/etc/xdg"
    paths += shared.split(separator: ":").reversed().map { $0 + "/pip/pip.conf" }
    paths.append("/etc/pip.conf")
    if let home {
      paths.append(home + "/.pip/pip.conf")
      paths.append((environment["XDG_CONFIG_HOME"] ?? home + "/.config") + "/pip/pip.conf")
    }
    if let virtual = environment["VIRTUAL_ENV"] { paths.append(virtual + "/pip.conf") }
    if let configured { paths.append(configured) }
    return paths
  }

  /// The options of `[global]`, overridden by those of `[download]`; a value goes on over indented lines.
  static func parse(_ text: String) -> [String: String] {
    var sections: [String: [String: String]] = [:]
    var section = ""
    var key: String?
    for line in text.split(omittingEmptySubsequences: false, whereSeparator: \.isNewline) {
      let content = line.trimmingPrefix { $0.isWhitespace }
      if content.isEmpty || content.hasPrefix("#") || content.hasPrefix(";") { continue }
      let isContinuation = line.first?.isWhitespace == true
      let trimmed = String(content.reversed().drop { $0.isWhitespace }.reversed())
      if isContinuation, let key {
        sections[section, default: [:]][key, default: ""] += " " + trimmed
      } else if trimmed.hasPrefix("["), trimmed.hasSuffix("]") {
        section = String(trimmed.dropFirst().dropLast())
        key = nil
      } else if let separator = trimmed.firstIndex(where: { $0 == "=" || $0 == ":" }) {
        func trim(_ text: Substring) -> String {
          String(text.trimmingPrefix { $0.isWhitespace }.reversed().drop { $0.isWhitespace }.reversed())
        }
        let name = trim(trimmed[..<separator]).lowercased().replacing("_", with: "-")
        sections[section, default: [:]][name] = trim(trimmed[trimmed.index(after: separator)...])
        key = name
      }
    }
    return (sections["global"] ?? [:]).merging(sections["download"] ?? [:]) { _, new in new }
  }
}
