import ApusEngine
import HTTPTypes
import Hummingbird

/// What a dialect's streams have beside the answer's own events.
struct StreamForm: Sendable {
  var contentType: String
  /// Goes out while nothing else does, so that nobody takes the connection for dead; nil if clients would not skip it.
  var ping: [UInt8]?
  /// Ends a stream that cannot be finished.
  var fault: @Sendable (OpenAIError) throws -> [UInt8]

  /// Server-sent events; a line that begins with a colon is a comment.
  static let openAI = StreamForm(
    contentType: "text/event-stream; charset=utf-8", ping: Array(": ping\n\n".utf8),
    fault: { try ServerSentEvents.data($0.body) })
  static let anthropic = StreamForm(
    contentType: "text/event-stream; charset=utf-8", ping: MessagesWriter.ping, fault: { AnthropicErrors.event($0) })
  /// A JSON object a line.
  static let ollama = StreamForm(contentType: "application/x-ndjson", fault: { OllamaErrors.line($0) })
}

/// An answer that is sent as a stream, begun: the response's headers leave with its first token, so that up to then a
/// failure has a status of its own and a proxy may send the request elsewhere.
struct HeldStream: Sendable {
  private let answer: HeldAnswer<AnswerEvents>
  private let hasBegun: Bool
  private let longestSilence: Duration

  /// Waits for the first token, at most for `longestSilence`; then a ping follows as often. Throws what the answer throws
  /// until then.
  init(_ answer: AnswerStream, longestSilence: Duration = .seconds(10)) async throws {
    self.answer = HeldAnswer(answer.events)
    self.longestSilence = longestSilence
    hasBegun = try await self.answer.hasBegun(within: longestSilence)
  }

  /// Writes what a function makes of each event. Throws what the answer or the function throws, or if the client is gone.
  func write(
    to body: inout any ResponseBodyWriter, _ form: StreamForm,
    _ bytes: (GenerationEvent) async throws -> [UInt8]
  ) async throws {
    if !hasBegun {
      repeat {
        if let ping = form.ping { try await body.write(ByteBuffer(bytes: ping)) }
      } while try await !answer.hasBegun(within: longestSilence)
    }
    try await answer.forEach { event in
      let bytes = try await bytes(event)
      if !bytes.isEmpty { try await body.write(ByteBuffer(bytes: bytes)) }
    }
  }

  /// The response that says what a function makes of each event, then `end`.
  func response<State: Sendable>(
    _ form: StreamForm, _ state: State, end: [UInt8] = [],
    _ bytes: @escaping @Sendable (inout State, GenerationEvent) throws -> [UInt8]
  ) -> Response {
    .stream(form) { body in
      var state = state
      try await write(to: &body, form) { try bytes(&state, $0) }
      if !end.isEmpty { try await body.write(ByteBuffer(bytes: end)) }
    }
  }
}

extension Response {
  /// Once the first byte is out, the status cannot change: an error then ends the stream with the form's fault, and never
  /// as a whole answer ends.
  static func stream(
    _ form: StreamForm, _ write: @escaping @Sendable (inout any ResponseBodyWriter) async throws -> Void
  ) -> Response {
    Response(
      status: .ok, headers: [.contentType: form.contentType, .cacheControl: "no-cache"],
      body: .init { body in
        do {
          try await write(&body)
        } catch let error where !(error is CancellationError) {
          try await body.write(ByteBuffer(bytes: try form.fault(OpenAIError(error))))
        }
        try await body.finish(nil)
      })
  }
}

extension AnswerStream {
  /// Reads the answer to its end: to the event of which a function makes something. Throws what the answer throws, and
  /// `CancellationError` if there is no such event.
  func whole<State, T>(
    _ state: State, _ take: (inout State, GenerationEvent) throws -> T?
  ) async throws -> T {
    var state = state
    for try await event in events {
      if let whole = try take(&state, event) { return whole }
    }
    throw CancellationError()
  }
}
