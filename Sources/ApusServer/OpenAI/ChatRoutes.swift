import ApusEngine
import ApusText
import Foundation
import HTTPTypes
import Hummingbird

/// The handlers of `/v1/models` and `/v1/chat/completions`.
struct ChatRoutes: Sendable {
  let state: ServerState
  let bodyLimit: Int

  func add(to router: some RouterMethods<ServerContext>) {
    router.get("v1/models", use: models)
    router.get("v1/models/:name", use: model)
    router.post("v1/chat/completions", use: completions)
  }

  // MARK: models

  @Sendable func models(_ request: Request, _ context: some RequestContext) throws -> Response {
    try .json(ModelList(data: state.engines.map(description) + state.encoders.map(description)))
  }

  @Sendable func model(_ request: Request, _ context: some RequestContext) throws -> Response {
    let name = try context.parameters.require("name")
    if let encoder = state.encoders.first(where: { $0.name == name }) { return try .json(description(of: encoder)) }
    return try .json(description(of: state.engine(named: name)))
  }

  private func description(of engine: any TextEngine) -> ModelList.Model {
    .init(id: engine.name, created: created, contextLength: engine.contextLength)
  }

  private func description(of encoder: any EmbeddingEngine) -> ModelList.Model {
    .init(id: encoder.name, created: created, contextLength: encoder.contextLength)
  }

  private var created: Int { Int(state.started.timeIntervalSince1970) }

  // MARK: chat

  /// One request, and what answers it.
  private struct Job: Sendable {
    var answer: AnswerStream
    var parts: AnswerParts
    var writer: ChatCompletionWriter
    var isStream: Bool
  }

  @Sendable func completions(_ request: Request, _ context: ServerContext) async throws -> Response {
    let bytes = try await context.body(of: request, upTo: bodyLimit)
    let client = try await context.client()
    return try await client.whileConnected {
      let job = try await state.preparation.run { try await prepare(bytes, context, client) }
      let state = (parts: job.parts, writer: job.writer)
      if job.isStream {
        return try await HeldStream(job.answer).response(.openAI, state, end: ServerSentEvents.done) { state, event in
          try state.parts.parts(for: event).flatMap { try state.writer.events(for: $0) }
        }
      }
      return try await .json(
        job.answer.whole(state) { state, event in
          state.parts.parts(for: event).reduce(nil) { $0 ?? state.writer.completion(for: $1) }
        })
    }
  }

  private func prepare(_ bytes: ByteBuffer, _ context: ServerContext, _ client: ConnectedClient) async throws -> Job {
    var parsed = try ChatCompletionRequest(body: Array(bytes.readableBytesView), randomSeed: .random(in: 0 ... .max))
    let engine = try state.engine(named: parsed.model)
    parsed.options.grammar =
      try parsed.guide.map { TokenGrammar($0, vocabulary: engine.vocabulary) }
      ?? parsed.tools.grammar(
        for: engine, format: parsed.format, formatPath: "response_format.json_schema.schema")
    let id = RandomID.make("chatcmpl-")
    let origin = RequestOrigin(
      id: id, principal: context.principal,
      namespace: state.namespace(of: context.principal, salt: parsed.cacheSalt))
    let prompt = Prompt.chat(messages: parsed.messages, tools: parsed.tools.offered)
    return Job(
      answer: try await client.answer(from: engine, to: prompt, parsed.options, for: origin),
      parts: AnswerParts(of: engine, tools: parsed.tools),
      writer: ChatCompletionWriter(
        id: id, created: Int(Date().timeIntervalSince1970), model: engine.name, tokenizer: engine.tokenizer,
        includeUsage: parsed.includeUsage, continuousUsage: parsed.continuousUsage),
      isStream: parsed.stream)
  }
}
