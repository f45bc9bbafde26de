import ApusText
import Foundation

/// The reference implementations, run by the Python that `APUS_TEXT_PEER_PYTHON` names: it needs more packages than the
/// quick suite installs (Benchmarks/text/README.md).
enum Peer {
  static let python = ProcessInfo.processInfo.environment["APUS_TEXT_PEER_PYTHON"]
  static var isAvailable: Bool { python != nil }

  static let root = URL(fileURLWithPath: #filePath).deletingLastPathComponent().deletingLastPathComponent()
    .deletingLastPathComponent()
  static let scripts = root.appendingPathComponent("Benchmarks/text")
  static let fixtures = root.appendingPathComponent("Tests/Fixtures/text")

  struct Failure: Error, CustomStringConvertible {
    var description: String
  }

  /// Runs a script with `input` on its standard input and returns its standard output.
  static func run(_ script: String, _ arguments: [String], input: Data = Data()) throws -> Data {
    guard let python else { throw Failure(description: "APUS_TEXT_PEER_PYTHON is not set") }
    let folder = FileManager.default.temporaryDirectory.appendingPathComponent("apus-peer-\(UUID().uuidString)")
    try FileManager.default.createDirectory(at: folder, withIntermediateDirectories: true)
    defer { try? FileManager.default.removeItem(at: folder) }
    let inputURL = folder.appendingPathComponent("in")
    let outputURL = folder.appendingPathComponent("out")
    try input.write(to: inputURL)
    try Data().write(to: outputURL)
    let process = Process()
    process.executableURL = URL(fileURLWithPath: python)
    process.arguments = [scripts.appendingPathComponent(script).path] + arguments
    var environment = ProcessInfo.processInfo.environment
    environment["TOKENIZERS_PARALLELISM"] = "false"
    process.environment = environment
    process.standardInput = try FileHandle(forReadingFrom: inputURL)
    process.standardOutput = try FileHandle(forWritingTo: outputURL)
    try process.run()
    process.waitUntilExit()
    guard process.terminationStatus == 0 else {
      throw Failure(description: "\(script) \(arguments) ended with status \(process.terminationStatus)")
    }
    return try Data(contentsOf: outputURL)
  }

  struct Tokenized: Decodable {
    var ids: [[Int32]]
    var decoded: [String]
    /// CPU seconds of encoding all texts.
    var seconds: Double
  }

  static func tokenize(_ texts: [String], model: URL, parseSpecial: Bool = false, rounds: Int = 1) throws -> Tokenized {
    struct Request: Encodable {
      var texts: [String]
      var parse_special: Bool
      var rounds: Int
    }
    let input = try JSONEncoder().encode(Request(texts: texts, parse_special: parseSpecial, rounds: rounds))
    return try JSONDecoder().decode(
      Tokenized.self, from: run("reference.py", ["tokenize", model.path], input: input))
  }

  /// Lines of real text in many languages, collected once per test run.
  static let lines: Result<[String], any Error> = Result {
    let url = FileManager.default.temporaryDirectory.appendingPathComponent("apus-lines-\(UUID().uuidString).json")
    defer { try? FileManager.default.removeItem(at: url) }
    _ = try run("collect_lines.py", [url.path])
    return try JSONDecoder().decode([String].self, from: Data(contentsOf: url))
  }
}

/// A small seeded generator (SplitMix64), so that a failing case can be repeated.
struct SeededGenerator: RandomNumberGenerator {
  private var state: UInt64
  init(seed: UInt64) { state = seed }

  mutating func next() -> UInt64 {
    state &+= 0x9E37_79B9_7F4A_7C15
    var z = state
    z = (z ^ (z >> 30)) &* 0xBF58_476D_1CE4_E5B9
    z = (z ^ (z >> 27)) &* 0x94D0_49BB_1331_11EB
    return z ^ (z >> 31)
  }
}

/// Random text that leans towards what tokenizers get wrong: white space, marks, digits, apostrophes, rare planes.
enum RandomText {
  static func make(_ generator: inout SeededGenerator) -> String {
    var text = String.UnicodeScalarView()
    for _ in 0..<Int.random(in: 0...40, using: &generator) {
      text.append(scalar(&generator))
    }
    return String(text)
  }

  private static let spaces: [UInt32] = [
    0x20, 0x20, 0x20, 0x09, 0x0A, 0x0A, 0x0D, 0x0B, 0x0C, 0x85, 0xA0, 0x1680, 0x2003, 0x2028, 0x2029, 0x202F, 0x205F,
    0x3000, 0x200B, 0xFEFF, 0x1C, 0x2581,
  ]
  private static let snippets = ["'s", "'S", "'ll", "'LL", "'re", "'Ve", "'ſ", "<|", "|>", "##", "[SEP]", "</s>", "  "]

  private static func scalar(_ generator: inout SeededGenerator) -> Unicode.Scalar {
    func pick(_ range: ClosedRange<UInt32>) -> UInt32 { UInt32.random(in: range, using: &generator) }
    let value: UInt32 =
      switch Int.random(in: 0..<16, using: &generator) {
      case 0, 1: spaces[Int.random(in: 0..<spaces.count, using: &generator)]
      case 2, 3: pick(0x61...0x7A)
      case 4: pick(0x21...0x7E)
      case 5: pick(0x30...0x39)
      case 6: Array(snippets[Int.random(in: 0..<snippets.count, using: &generator)].unicodeScalars)[0].value
      case 7: pick(0xA1...0x24F)
      case 8: pick(0x300...0x36F)
      case 9: pick(0x370...0x6FF)
      case 10: pick(0x900...0xEFF)
      case 11: pick(0x1100...0x11FF)
      case 12: pick(0x3041...0x30FF)
      case 13: pick(0x4E00...0x9FFF)
      case 14: pick(0x1F300...0x1FAFF)
      default: pick(0...0x10FFFF)
      }
    return Unicode.Scalar(value) ?? "\u{FFFD}"
  }
}
