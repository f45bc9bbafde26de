import Foundation

/// What a terminal is, and how to write to it.
enum Terminal {
  static let outputIsTerminal = isatty(STDOUT_FILENO) == 1
  static let errorIsTerminal = isatty(STDERR_FILENO) == 1
  static let inputIsTerminal = isatty(STDIN_FILENO) == 1

  /// Writes all of a text now: answers appear as they are written.
  static func write(_ text: String, to descriptor: Int32 = STDOUT_FILENO) {
    var text = text
    text.withUTF8 { buffer in
      var rest = UnsafeRawBufferPointer(buffer)
      while !rest.isEmpty {
        let count = Foundation.write(descriptor, rest.baseAddress!, rest.count)
        // The reader of a pipe may be gone: there is nobody to tell.
        if count < 0 && errno != EINTR { return }
        if count > 0 { rest = UnsafeRawBufferPointer(rebasing: rest[count...]) }
      }
    }
  }

  static func note(_ text: String) { write(text + "\n", to: STDERR_FILENO) }

  static func error(_ text: String) { note(Style.error.apply("apus:", on: STDERR_FILENO) + " " + text) }
}

/// A colour, on terminals only, and only if `NO_COLOR` isn't set (no-color.org).
enum Style: String {
  case error = "31"
  case dim = "2"
  case bold = "1"
  case prompt = "36"

  private static let isForbidden = ProcessInfo.processInfo.environment["NO_COLOR"].map { !$0.isEmpty } ?? false

  func apply(_ text: String, on descriptor: Int32) -> String {
    if Self.isForbidden || isatty(descriptor) != 1 { return text }
    return "\u{1B}[\(rawValue)m\(text)\u{1B}[0m"
  }
}
