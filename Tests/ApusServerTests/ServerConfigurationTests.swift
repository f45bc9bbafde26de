import Foundation
import Logging
import Testing

@testable import ApusServer

@Suite struct ServerConfigurationTests {
  private func read(_ yaml: String) throws -> ServerConfiguration {
    try ServerConfiguration(yaml: Array(yaml.utf8), file: "apus.yaml")
  }

  /// What is wrong with a file, in words.
  private func problems(_ yaml: String) -> [ConfigurationProblem] { problems(Array(yaml.utf8)) }

  private func problems(_ yaml: [UInt8]) -> [ConfigurationProblem] {
    do {
      _ = try ServerConfiguration(yaml: yaml, file: "apus.yaml")
      return []
    } catch {
      #expect(error.file == "apus.yaml" && !error.problems.isEmpty)
      return error.problems
    }
  }

  /// A value for every setting.
  private static let values: KeyValuePairs<String, String> = [
    "host": "0.0.0.0", "port": "9000", "uds": "/run/apus.sock", "models": "[a, b]", "api-key-file": "keys.txt",
    "keys": "{ops: {role: admin}, admin: {role: tenant}}",
    "tls.certificate": "cert.pem", "tls.key": "key.pem", "allowed-origins": #"["*"]"#, "kv-pool": "512",
    "kv-layout": "rank-kv", "max-running": "8", "max-queue": "16", "idle-unload": "1.5", "drain-timeout": "0",
    "responses": "r.sqlite", "collections": "library", "grpc-port": "50051", "tenant-quota.vectors": "1000",
    "tenant-quota.bytes": "0", "tenant-quota.queries": "2.5",
    "body-limit": "1000", "threads": "2", "context": "2048", "exact": "true", "log.level": "debug",
    "log.format": "json", "log.prompts": "true", "trace-file": "spans.jsonl",
  ]

  private static var everything: ServerConfiguration {
    var all = ServerConfiguration()
    all.host = "0.0.0.0"
    all.port = 9000
    all.unixSocket = "/run/apus.sock"
    all.models = ["a", "b"]
    all.keyFile = "keys.txt"
    all.keyRoles = ["ops": .admin, "admin": .tenant]
    all.tlsCertificate = "cert.pem"
    all.tlsKey = "key.pem"
    all.allowedOrigins = ["*"]
    all.kvPool = 512
    all.kvLayout = .rankKV
    all.maxRunning = 8
    all.maxQueue = 16
    all.idleUnload = 1.5
    all.drainTimeout = 0
    all.responses = "r.sqlite"
    all.collections = "library"
    all.grpcPort = 50_051
    all.tenantVectors = 1000
    all.tenantBytes = 0
    all.tenantQueries = 2.5
    all.bodyLimit = 1000
    all.threads = 2
    all.contextLength = 2048
    all.exact = true
    all.logLevel = .debug
    all.logFormat = .json
    all.logsPrompts = true
    all.traceFile = "spans.jsonl"
    return all
  }

  @Test func aFileGivesEverySetting() throws {
    #expect(Self.values.map(\.key) == ServerConfiguration.settings.map(\.path))
    var lines: [String] = []
    for (path, value) in Self.values {
      let parts = path.split(separator: ".")
      if parts.count == 2, !lines.contains("\(parts[0]):") { lines.append("\(parts[0]):") }
      lines.append((parts.count == 2 ? "  " : "") + "\(parts.last!): \(value)")
    }
    let read = try read("# Settings\n" + lines.joined(separator: "\n") + "\n")
    #expect(read == Self.everything)
    // Each value went to a place of its own.
    for setting in ServerConfiguration.settings { #expect(!setting.isEqual(read, ServerConfiguration())) }
  }

  @Test func filesAndKeysWithoutAValueGiveNothing() throws {
    for yaml in ["", "\n", "# Nothing\n", "---\n", "{}", "null", "host:\ntls:\nlog: ~\nmodels: null\n"] {
      #expect(try read(yaml) == ServerConfiguration(), "\(yaml)")
    }
  }

  @Test func theCommandLineWinsOverTheFile() throws {
    var flags = ServerConfiguration()
    flags.port = 1
    flags.models = ["c"]
    let settings = flags.over(Self.everything)
    var expected = Self.everything
    expected.port = 1
    expected.models = ["c"]
    #expect(settings == expected)
    #expect(ServerConfiguration().over(Self.everything) == Self.everything)
    #expect(Self.everything.over(flags) == Self.everything)
  }

  @Test func whatTheCommandLineGivesHasTheRangesOfTheFile() throws {
    #expect(ServerConfiguration().problem == nil && Self.everything.problem == nil)
    let wrong: [(path: String, value: String, set: (inout ServerConfiguration) -> Void)] = [
      ("port", "65536", { $0.port = 65536 }), ("kv-pool", "0", { $0.kvPool = 0 }),
      ("max-running", "0", { $0.maxRunning = 0 }), ("max-queue", "-1", { $0.maxQueue = -1 }),
      ("idle-unload", "0.0", { $0.idleUnload = 0 }), ("drain-timeout", "-1.0", { $0.drainTimeout = -1 }),
      ("body-limit", "0", { $0.bodyLimit = 0 }), ("threads", "0", { $0.threads = 0 }),
      ("context", "0", { $0.contextLength = 0 }),
    ]
    for (path, value, set) in wrong {
      var flags = Self.everything
      set(&flags)
      let problem = try #require(flags.problem, "\(path)")
      #expect(problem.path == path && problem.seen == value)
      #expect(problems("\(path): \(value)").map(\.expected) == [problem.expected], "\(path)")
    }
    var endless = ServerConfiguration()
    endless.drainTimeout = .infinity
    #expect(endless.problem?.path == "drain-timeout")
  }

  @Test func whatChangedIsToldApartByWhatARunningServerTakesOver() {
    var new = Self.everything
    new.port = 1
    new.maxQueue = 1
    new.drainTimeout = nil
    new.logsPrompts = false
    let changes = new.changes(from: Self.everything)
    #expect(changes.reloadable == ["max-queue", "drain-timeout"])
    #expect(changes.fixed == ["port", "log.prompts"])
  }

  @Test func allProblemsAreToldAtOnceInTheOrderOfTheFile() {
    let found = problems(
      """
      host: 127.0.0.1
      prot: 8080
      port: "8080"
      models: smollm2-135m
      log:
        level: loud
        fromat: json
      exact: yes
      nonsense: 1
      """)
    let keys =
      "allowed-origins, api-key-file, body-limit, collections, context, drain-timeout, exact, grpc-port, host, "
      + "idle-unload, keys, kv-layout, kv-pool, log, max-queue, max-running, models, port, responses, tenant-quota, threads, "
      + "tls, trace-file, uds"
    #expect(
      found == [
        .init(line: 2, path: "prot", seen: "an unknown key", expected: keys, suggestion: "port"),
        .init(line: 3, path: "port", seen: "'8080'", expected: "a whole number from 0 to 65535"),
        .init(line: 4, path: "models", seen: "'smollm2-135m'", expected: "a list of texts"),
        .init(
          line: 6, path: "log.level", seen: "'loud'",
          expected: "one of trace, debug, info, notice, warning, error, critical"),
        .init(
          line: 7, path: "log.fromat", seen: "an unknown key", expected: "format, level, prompts", suggestion: "format"),
        .init(line: 8, path: "exact", seen: "'yes'", expected: "true or false"),
        .init(line: 9, path: "nonsense", seen: "an unknown key", expected: keys),
      ])
    #expect(
      "\(ConfigurationError(file: "apus.yaml", problems: Array(found.prefix(2))))"
        == "apus.yaml:2: prot is an unknown key, expected \(keys); did you mean 'port'?\n"
        + "apus.yaml:3: port is '8080', expected a whole number from 0 to 65535")
  }

  @Test(arguments: [
    ("port: 65536", "65536"), ("port: -1", "-1"), ("port: 80.5", "'80.5'"), ("port: [1]", "a list"),
    ("host: 1", "1"), ("host: true", "true"), ("host: ''", "''"), ("host: {a: 1}", "a mapping"),
    ("kv-pool: 0", "0"), ("kv-pool: 9223372036854775807", "9223372036854775807"),
    ("kv-pool: 99999999999999999999", "'99999999999999999999'"), ("models: []", "an empty list"),
    ("models: [1]", "a list"), ("idle-unload: 0", "0"), ("idle-unload: 1e999", "'1e999'"),
    ("idle-unload: .nan", "'.nan'"), ("drain-timeout: -1", "-1"), ("drain-timeout: 30s", "'30s'"),
    ("exact: 1", "1"), ("exact: 'true'", "'true'"), ("log: json", "'json'"), ("log: [json]", "a list"),
    ("port: \(String(repeating: "x", count: 99))", "'\(String(repeating: "x", count: 40))…'"),
  ])
  func aWrongValueIsShown(yaml: String, seen: String) throws {
    let found = problems(yaml)
    #expect(found.count == 1 && found.first?.seen == seen && found.first?.line == 1, "\(found)")
  }

  @Test func whatIsShownDoesNotControlATerminal() {
    #expect(problems(#"port: "\e[31mred\n""#).map(\.seen) == ["'�[31mred�'"])
    #expect(problems(#""\e[31m": 1"#).map(\.path) == ["�[31m"])
  }

  @Test func zeroIsATimeToDrain() throws {
    #expect(try read("drain-timeout: 0").drainTimeout == 0)
    #expect(try read("idle-unload: 2").idleUnload == 2)
  }

  @Test func aRoleIsOneOfTwo() {
    for keys in ["[ops]", "ops", "{ops: admin}", "{ops: {role: king}}", "{ops: {}}", "{ops: {role: admin, x: 1}}"] {
      #expect(
        problems("port: 1\nkeys: \(keys)").map { "\($0.line) \($0.path) \($0.expected)" }
          == ["2 keys names of keys, each with {role: admin} or {role: tenant}"], "\(keys)")
    }
    #expect(problems("tenant-quota: {queries: 0}").map(\.path) == ["tenant-quota.queries"])
  }

  @Test func halfOfTLSIsNone() {
    for half in ["certificate: a", "key: a"] {
      let found = problems("port: 1\ntls:\n  \(half)\n")
      #expect(
        found == [.init(line: 3, path: "tls", seen: "only one of certificate and key", expected: "both")], "\(half)")
    }
    // What is wrong with it anyway is told alone.
    #expect(problems("tls: {certificate: a, kye: b}").map(\.path) == ["tls.kye"])
  }

  @Test func whatIsNoYAMLIsRefusedWithItsLine() {
    #expect(problems("port: 1\nhost: [a\n").first?.line ?? 0 >= 2)
    #expect(problems("port: 1\n\thost: a\n").first?.line == 2)
    #expect(problems("port: 1\nport: 2\n").map(\.seen) == ["a mapping with 'port' twice"])
    #expect(problems("port: 1\n---\nport: 2\n").count == 1)
    #expect(problems("- port\n").map(\.seen) == ["a list"])
    #expect(problems("8080").map(\.seen) == ["8080"])
    #expect(problems("[a]: 1").map(\.path) == ["a key"])
    #expect(problems([0x61, 0x3A, 0x20, 0xFF]).map(\.expected) == ["UTF-8"])
  }

  @Test func aFileThatStandsForMoreThanItsSizeIsRefused() {
    var bomb = "a: &a [x, x, x, x, x, x, x, x, x]\n"
    for (before, name) in zip("abcdefghijklmno", "bcdefghijklmnop") {
      bomb += "\(name): &\(name) [\((0..<9).map { _ in "*\(before)" }.joined(separator: ","))]\n"
    }
    bomb += "? *p\n: 1\n"
    let start = ContinuousClock.now
    #expect(problems(bomb).map(\.seen) == ["a file with the anchor or alias &a"])
    // However it is hidden from those who look for quotes and comments.
    for hidden in [
      "models: [b 'c, &x y]", "[b\n 'c, *x]", "\"a\n# \": *x", "a: !!str \" # \"\nb: *x", "a:\r*x", "a:\u{85}*x",
      "a:\u{2028}*x", "{\"a\":*x}", "?\t*x",
    ] {
      #expect(problems(hidden).first?.seen.hasPrefix("a file with the anchor or alias") == true, "\(hidden)")
    }
    #expect(start.duration(to: .now) < .seconds(5))
    #expect(problems("a: R&D\nb: 2*3\nc: a * b\nallowed-origins: ['*']").map(\.path) == ["a", "b", "c"])
  }

  @Test func deepAndLargeFilesAreRefused() {
    for deep in [
      String(repeating: "[", count: 500_000), String(repeating: "{a: ", count: 200_000),
      String(repeating: "- ", count: 500_000),
    ] {
      #expect(problems(deep).count == 1)
    }
    let limit = ServerConfiguration.sizeLimit
    #expect(problems("#" + String(repeating: " ", count: limit - 1)).isEmpty)
    #expect(
      problems("#" + String(repeating: " ", count: limit)).map(\.seen) == ["a file of more than \(limit) bytes"])
    let long = String(repeating: "k", count: 1000)
    #expect(problems("\(long): 1").map(\.path.count) == [41])
  }

  @Test func aFileIsReadFromItsPath() throws {
    let path = FileManager.default.temporaryDirectory.appending(path: "apus-\(UUID().uuidString).yaml").path
    defer { try? FileManager.default.removeItem(atPath: path) }
    try "port: 1\nprot: 2\n".write(toFile: path, atomically: true, encoding: .utf8)
    #expect {
      try ServerConfiguration(file: path)
    } throws: { error in
      "\(error)".hasPrefix("\(path):2: prot is an unknown key")
    }
    try Data(count: ServerConfiguration.sizeLimit + 10).write(to: URL(filePath: path))
    #expect {
      try ServerConfiguration(file: path)
    } throws: { error in
      "\(error)".contains("more than")
    }
    #expect {
      try ServerConfiguration(file: path + ".none")
    } throws: { error in
      "\(error)".contains("cannot be read")
    }
  }
}
