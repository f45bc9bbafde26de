import ApusEngine
import ApusText
import HTTPTypes
import Hummingbird

/// The handlers of `/v1/messages` and `/v1/messages/count_tokens`.
struct MessagesRoutes: Sendable {
  let state: ServerState
  let bodyLimit: Int

  func add(to router: some RouterMethods<ServerContext>) {
    router.post("v1/messages", use: messages)
    router.post("v1/messages/count_tokens", use: countTokens)
  }

  @Sendable func countTokens(_ request: Request, _ context: ServerContext) async throws -> Response {
    let bytes = try await context.body(of: request, upTo: bodyLimit)
    let tokens = try await state.preparation.run {
      let prompt = try MessagesPrompt(body: Array(bytes.readableBytesView))
      return try state.engine(named: prompt.model).tokens(of: prompt.prompt)
    }
    return named(.json(.mapping(["input_tokens": .integer(tokens.count)])), context)
  }

  /// One request, and what answers it.
  private struct Job: Sendable {
    var answer: AnswerStream
    var parts: AnswerParts
    var writer: MessagesWriter
    var isStream: Bool
  }

  @Sendable func messages(_ request: Request, _ context: ServerContext) async throws -> Response {
    let bytes = try await context.body(of: request, upTo: bodyLimit)
    let client = try await context.client()
    let response = try await client.whileConnected {
      let job = try await state.preparation.run { try await prepare(bytes, context, client) }
      // The state after each part goes from event to event.
      let state = (parts: job.parts, writer: job.writer)
      if job.isStream {
        return try await HeldStream(job.answer).response(.anthropic, state) { state, event in
          state.parts.parts(for: event).flatMap { state.writer.events(for: $0) }
        }
      }
      return try await .json(
        job.answer.whole(state) { state, event in
          state.parts.parts(for: event).reduce(nil) { $0 ?? state.writer.message(for: $1) }
        })
    }
    return named(response, context)
  }

  private func prepare(_ bytes: ByteBuffer, _ context: ServerContext, _ client: ConnectedClient) async throws -> Job {
    var parsed = try MessagesRequest(body: Array(bytes.readableBytesView), randomSeed: .random(in: 0 ... .max))
    let engine = try state.engine(named: parsed.prompt.model)
    parsed.options.grammar = try parsed.prompt.tools.grammar(
      for: engine, format: parsed.format, formatPath: "output_config.format.schema")
    let writer = MessagesWriter(id: RandomID.make("msg_"), model: engine.name)
    let origin = RequestOrigin(
      id: writer.id, principal: context.principal, namespace: state.namespace(of: context.principal, salt: nil))
    return Job(
      answer: try await client.answer(from: engine, to: parsed.prompt.prompt, parsed.options, for: origin),
      parts: AnswerParts(of: engine, tools: parsed.prompt.tools), writer: writer, isStream: parsed.stream)
  }

  private func named(_ response: Response, _ context: ServerContext) -> Response {
    var response = response
    response.headers[.anthropicRequestID] = AnthropicErrors.requestID(context.id)
    return response
  }
}
