/// Why a load could not be made or run at all. What goes wrong with single requests is counted instead.
public enum LoadError: Error, Sendable, Equatable, CustomStringConvertible {
  /// A value of the plan cannot be used.
  case invalid(field: String, seen: String, expected: String)
  /// A line of a file with prompts cannot be used; lines count from 1.
  case malformedLine(file: String, line: Int, seen: String, expected: String)
  case unreadableFile(path: String, reason: String)
  case unwritableFile(path: String, reason: String)
  /// The warm-up, or the question which models there are, brought an error: the load would only count it again and again.
  case unusableServer(url: String, failure: RequestFailure)
  case noModel(url: String)

  public var description: String {
    switch self {
    case .invalid(let field, let seen, let expected): "\(field) is \(seen), expected \(expected)"
    case .malformedLine(let file, let line, let seen, let expected):
      "\(file), line \(line): \(seen), expected \(expected)"
    case .unreadableFile(let path, let reason): "\(path) cannot be read: \(reason)"
    case .unwritableFile(let path, let reason): "\(path) cannot be written: \(reason)"
    case .unusableServer(let url, let failure):
      "\(url) does not answer as expected: \(failure.description). Check the address, the model and the key."
    case .noModel(let url): "\(url) lists no model: name one with --model"
    }
  }
}

/// Why one request failed.
public struct RequestFailure: Error, Sendable, Hashable, CustomStringConvertible {
  public enum Kind: Sendable, Hashable {
    /// No connection, or one that broke before the answer's head.
    case connection
    case timeout
    /// An answer other than 200.
    case status(Int)
    /// The answer is 200, but no stream of server-sent events.
    case notAStream
    /// The stream ended without `[DONE]` and without a finish reason, or its connection broke.
    case cutStream
    /// The stream carried an error in place of a chunk.
    case errorEvent
    /// An event is not a chunk in JSON.
    case malformedEvent
    /// The stream ended well but brought no token.
    case emptyAnswer

    /// In reports: `http_429`, `cut_stream`, …
    public var name: String {
      switch self {
      case .connection: "connection"
      case .timeout: "timeout"
      case .status(let code): "http_\(code)"
      case .notAStream: "not_a_stream"
      case .cutStream: "cut_stream"
      case .errorEvent: "error_event"
      case .malformedEvent: "malformed_event"
      case .emptyAnswer: "empty_answer"
      }
    }
  }

  public var kind: Kind
  /// What was seen, for people.
  public var detail: String

  public init(_ kind: Kind, _ detail: String) {
    self.kind = kind
    self.detail = detail
  }

  public var description: String { "\(kind.name): \(detail)" }
}
