import ApusEngine
import ApusText
import HTTPTypes
import Hummingbird

/// The handlers of `/v1/messages` and `/v1/messages/count_tokens`.
struct MessagesRoutes: Sendable {
  let state: ServerState
  let bodyLimit: Int
  /// A stream's headers leave with the first token, at the latest after this time; then a ping follows as often.
  var longestSilence = Duration.seconds(10)

  func add(to router: some RouterMethods<ServerContext>) {
    router.post("v1/messages", use: messages)
    router.post("v1/messages/count_tokens", use: countTokens)
  }

  @Sendable func countTokens(_ request: Request, _ context: ServerContext) async throws -> Response {
    let bytes = try await context.body(of: request, upTo: bodyLimit)
    let prompt = try MessagesPrompt(body: Array(bytes.readableBytesView))
    let tokens = try state.engine(named: prompt.model).tokens(of: prompt.prompt)
    return named(.compactJSON(.mapping(["input_tokens": .integer(tokens.count)])), context)
  }

  @Sendable func messages(_ request: Request, _ context: ServerContext) async throws -> Response {
    let bytes = try await context.body(of: request, upTo: bodyLimit)
    var parsed = try MessagesRequest(body: Array(bytes.readableBytesView), randomSeed: .random(in: 0 ... .max))
    let engine = try state.engine(named: parsed.prompt.model)
    parsed.options.grammar = try parsed.prompt.tools.grammar(
      for: engine, format: parsed.format, formatPath: "output_config.format.schema")
    let writer = MessagesWriter(id: RandomID.make("msg_"), model: engine.name)
    let parts = AnswerParts(of: engine, tools: parsed.prompt.tools)
    let origin = RequestOrigin(
      id: writer.id, principal: context.principal, namespace: state.namespace(of: context.principal, salt: nil))
    let (prompt, options, isStream) = (parsed.prompt.prompt, parsed.options, parsed.stream)
    let response = try await context.untilDisconnected {
      let answer = try await context.answer(from: engine, to: prompt, options, for: origin)
      if !isStream { return try await whole(answer, parts, writer) }
      let held = HeldAnswer(answer.events)
      _ = try await held.hasBegun(within: longestSilence)
      return stream(held, parts, writer)
    }
    return named(response, context)
  }

  private func named(_ response: Response, _ context: ServerContext) -> Response {
    var response = response
    response.headers[.anthropicRequestID] = AnthropicErrors.requestID(context.id)
    return response
  }

  private func whole(
    _ answer: AnswerStream, _ parts: AnswerParts, _ writer: MessagesWriter
  ) async throws -> Response {
    var (parts, writer) = (parts, writer)
    for try await event in answer.events {
      for part in parts.parts(for: event) {
        if let message = writer.message(for: part) { return .compactJSON(message) }
      }
    }
    throw CancellationError()
  }

  /// Once the first byte is out, the status cannot change: an error then ends the stream with an error event and
  /// without `message_stop`, so that a cut answer looks cut.
  private func stream<Events>(
    _ answer: HeldAnswer<Events>, _ parts: AnswerParts, _ writer: MessagesWriter
  ) -> Response {
    Response(
      status: .ok,
      headers: [.contentType: "text/event-stream; charset=utf-8", .cacheControl: "no-cache"],
      body: .init { [longestSilence] body in
        var (parts, writer) = (parts, writer)
        do {
          while !(try await answer.hasBegun(within: longestSilence)) {
            try await body.write(ByteBuffer(bytes: MessagesWriter.ping))
          }
          while let event = try await answer.next() {
            let bytes = parts.parts(for: event).flatMap { writer.events(for: $0) }
            if !bytes.isEmpty { try await body.write(ByteBuffer(bytes: bytes)) }
          }
        } catch let error where !(error is CancellationError) {
          try await body.write(ByteBuffer(bytes: AnthropicErrors.event(OpenAIError(error))))
        }
        try await body.finish(nil)
      })
  }
}
