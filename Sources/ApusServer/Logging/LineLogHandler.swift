import ApusText
import Foundation
import Logging
import Synchronization

/// Writes a line for each event of a log: for people, or as a JSON object.
///
/// A line of either form holds no line break and no control character, whatever a message or a value contains.
struct LineLogHandler: LogHandler {
  var logLevel: Logger.Level
  var metadata: Logger.Metadata = [:]
  var metadataProvider: Logger.MetadataProvider?
  private let format: LogFormat
  private let write: @Sendable ([UInt8]) -> Void

  /// `write` takes a line with its end; several threads call it.
  init(_ format: LogFormat, level: Logger.Level, write: @escaping @Sendable ([UInt8]) -> Void) {
    self.format = format
    logLevel = level
    self.write = write
  }

  subscript(metadataKey key: String) -> Logger.Metadata.Value? {
    get { metadata[key] }
    set { metadata[key] = newValue }
  }

  func log(event: LogEvent) {
    var values = metadata
    if let provided = metadataProvider?.get() { values.merge(provided) { $1 } }
    if let own = event.metadata { values.merge(own) { $1 } }
    var fields: [(String, JinjaValue)] = values.map { (Self.names[$0.key] ?? $0.key, Self.json($0.value)) }
    if let error = event.error { fields.append(("error", .string("\(error)"))) }
    // The fixed ones stand first and cannot be given again.
    fields.removeAll { Self.fixed.contains($0.0) }
    fields.sort { (Self.rank($0.0), $0.0) < (Self.rank($1.0), $1.0) }
    write(line(event, fields))
  }

  private func line(_ event: LogEvent, _ fields: [(String, JinjaValue)]) -> [UInt8] {
    let time = Date().rfc3339
    let message = event.message.description
    switch format {
    case .json:
      var object: JinjaMapping = [
        "time": .string(time), "level": .string(event.level.rawValue), "message": .string(message),
      ]
      for (name, value) in fields { object[name] = value }
      return CompactJSON.bytes(.mapping(object)) + [UInt8(ascii: "\n")]
    case .text:
      let level = event.level.rawValue.padding(toLength: Self.levelWidth, withPad: " ", startingAt: 0)
      let pairs = fields.map { " \($0.0)=\(Self.word($0.1))" }.joined()
      return Array("\(time) \(level) \(Self.printable(message))\(pairs)\n".utf8)
    }
  }

  private static let fixed: Set<String> = ["time", "level", "message"]
  private static let levelWidth = 8
  /// Names of the HTTP library, by ours.
  private static let names = ["hb.request.id": "request_id"]
  /// The order of a request's fields; others follow by name.
  private static let order: [String: Int] = Dictionary(
    uniqueKeysWithValues: [
      "request_id", "method", "route", "status", "principal", "model", "answer_id", "prompt_tokens", "cached_tokens",
      "completion_tokens", "finish_reason", "queue_ms", "ttft_ms", "duration_ms", "bytes",
    ].enumerated().map { ($1, $0) })

  private static func rank(_ name: String) -> Int { order[name] ?? order.count }

  private static func json(_ value: Logger.Metadata.Value) -> JinjaValue {
    switch value {
    case .string(let text): .string(text)
    case .stringConvertible(let value as Int): .integer(value)
    case .stringConvertible(let value as Double): value.isFinite ? .float(value) : .string("\(value)")
    case .stringConvertible(let value as Bool): .boolean(value)
    case .stringConvertible(let value): .string(value.description)
    case .array(let values): .list(values.map(json))
    case .dictionary(let values):
      .mapping(values.sorted { $0.key < $1.key }.reduce(into: [:]) { $0[$1.key] = json($1.value) })
    }
  }

  /// A value between spaces: quoted as JSON where it would not be one word.
  private static func word(_ value: JinjaValue) -> String {
    if case .string(let text) = value, !text.isEmpty, text.utf8.allSatisfy({ $0 > 0x20 && $0 < 0x7F && $0 != 0x22 }) {
      return text
    }
    return String(decoding: CompactJSON.bytes(value), as: UTF8.self)
  }

  private static func printable(_ text: String) -> String {
    String(text.unicodeScalars.map { $0.properties.generalCategory == .control ? " " : Character($0) })
  }
}

extension Logger {
  /// The server's log on standard error.
  public static func apus(_ format: LogFormat, level: Logger.Level) -> Logger {
    let pipe = LogPipe(STDERR_FILENO) { dropped in
      let lines = Mutex<[UInt8]>([])
      LineLogHandler(format, level: .trace) { line in lines.withLock { $0 += line } }
        .log(
          event: LogEvent(
            level: .warning, message: "lines of the log were dropped: their reader was behind",
            metadata: ["count": .stringConvertible(dropped)], source: "apus", file: #fileID, function: #function,
            line: #line))
      return lines.withLock { $0 }
    }
    return Logger(label: "apus") { _ in LineLogHandler(format, level: level) { pipe.write($0) } }
  }
}
