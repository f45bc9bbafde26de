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

  @Sendable func completions(_ request: Request, _ context: ServerContext) async throws -> Response {
    let bytes = try await context.body(of: request, upTo: bodyLimit)
    var parsed = try ChatCompletionRequest(
      body: Array(bytes.readableBytesView), randomSeed: UInt64.random(in: 0 ... .max))
    let engine = try state.engine(named: parsed.model)
    parsed.options.grammar =
      try parsed.guide.map { TokenGrammar($0, vocabulary: engine.vocabulary) }
      ?? parsed.tools.grammar(
        for: engine, format: parsed.format, formatPath: "response_format.json_schema.schema")
    let (options, prompt) = (parsed.options, Prompt.chat(messages: parsed.messages, tools: parsed.tools.offered))
    let id = RandomID.make("chatcmpl-")
    let origin = RequestOrigin(
      id: id, principal: context.principal,
      namespace: state.namespace(of: context.principal, salt: parsed.cacheSalt))
    let writer = ChatCompletionWriter(
      id: id, created: Int(Date().timeIntervalSince1970), model: engine.name, tokenizer: engine.tokenizer,
      includeUsage: parsed.includeUsage, continuousUsage: parsed.continuousUsage)
    let parts = AnswerParts(of: engine, tools: parsed.tools)
    if parsed.stream {
      let answer = try await context.untilDisconnected {
        try await HeldStream(context.answer(from: engine, to: prompt, options, for: origin))
      }
      return stream(answer, parts, writer)
    }
    return try await context.untilDisconnected {
      try await whole(context.answer(from: engine, to: prompt, options, for: origin), parts, writer)
    }
  }

  private func whole(_ answer: AnswerStream, _ parts: AnswerParts, _ writer: ChatCompletionWriter) async throws
    -> Response
  {
    var (parts, writer) = (parts, writer)
    for try await event in answer.events {
      for part in parts.parts(for: event) {
        if let completion = writer.completion(for: part) { return try .json(completion) }
      }
    }
    throw CancellationError()
  }

  /// Once the first byte is out, the status cannot change: an error then ends the stream with an error event and
  /// without `[DONE]`, so that a cut answer looks cut.
  private func stream(_ answer: HeldStream, _ parts: AnswerParts, _ writer: ChatCompletionWriter) -> Response {
    answer.response(errorEvent: { try ServerSentEvents.data(OpenAIError($0).body) }) { body in
      var (parts, writer) = (parts, writer)
      try await answer.forEach { event in
        var bytes: [UInt8] = []
        for part in parts.parts(for: event) {
          bytes += try writer.events(for: part)
        }
        if !bytes.isEmpty { try await body.write(ByteBuffer(bytes: bytes)) }
      }
      try await body.write(ByteBuffer(bytes: ServerSentEvents.done))
    }
  }
}
