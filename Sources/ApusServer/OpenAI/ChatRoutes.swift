import ApusEngine
import Foundation
import HTTPTypes
import Hummingbird

/// The handlers of `/v1/models` and `/v1/chat/completions`.
struct ChatRoutes: Sendable {
  let engines: [any TextEngine]
  let bodyLimit: Int
  private let started = Int(Date().timeIntervalSince1970)

  init(engines: [any TextEngine], bodyLimit: Int) {
    self.engines = engines
    self.bodyLimit = bodyLimit
  }

  // MARK: models

  @Sendable func models(_ request: Request, _ context: some RequestContext) throws -> Response {
    try .json(ModelList(data: engines.map(description)))
  }

  @Sendable func model(_ request: Request, _ context: some RequestContext) throws -> Response {
    try .json(description(of: engine(named: context.parameters.require("name"))))
  }

  private func description(of engine: any TextEngine) -> ModelList.Model {
    .init(id: engine.name, created: started, contextLength: engine.contextLength)
  }

  private func engine(named name: String) throws -> any TextEngine {
    guard let engine = engines.first(where: { $0.name == name }) else {
      throw OpenAIError.unknownModel(name, known: engines.map(\.name))
    }
    return engine
  }

  // MARK: chat

  @Sendable func completions(_ request: Request, _ context: ServerContext) async throws -> Response {
    let bytes = try await request.body.collect(upTo: bodyLimit)
    let parsed = try ChatCompletionRequest(
      body: Array(bytes.readableBytesView), randomSeed: UInt64.random(in: 0 ... .max))
    let engine = try engine(named: parsed.model)
    let writer = ChatCompletionWriter(
      id: Self.newID(), created: Int(Date().timeIntervalSince1970), model: engine.name, tokenizer: engine.tokenizer,
      includeUsage: parsed.includeUsage)
    let prompt = Prompt.chat(messages: parsed.messages, tools: parsed.tools)
    // A stream notices a client that is gone by its next write, a whole answer only by watching the connection.
    if parsed.stream { return stream(try await engine.answer(prompt, parsed.options), writer) }
    return try await context.untilDisconnected {
      try await whole(try await engine.answer(prompt, parsed.options), writer)
    }
  }

  private func whole(_ answer: AnswerStream, _ writer: ChatCompletionWriter) async throws -> Response {
    var writer = writer
    for try await event in answer.events {
      if let completion = writer.completion(for: event) { return try .json(completion) }
    }
    throw CancellationError()
  }

  /// Once the first byte is out, the status cannot change: an error then ends the stream with an error event and
  /// without `[DONE]`, so that a cut answer looks cut.
  private func stream(_ answer: AnswerStream, _ writer: ChatCompletionWriter) -> Response {
    Response(
      status: .ok,
      headers: [.contentType: "text/event-stream; charset=utf-8", .cacheControl: "no-cache"],
      body: .init { body in
        var writer = writer
        do {
          for try await event in answer.events {
            var bytes: [UInt8] = []
            for chunk in writer.chunks(for: event) { bytes += try ServerSentEvents.data(chunk) }
            if !bytes.isEmpty { try await body.write(ByteBuffer(bytes: bytes)) }
          }
          try await body.write(ByteBuffer(bytes: ServerSentEvents.done))
        } catch let error where !(error is CancellationError) {
          try await body.write(ByteBuffer(bytes: try ServerSentEvents.data(OpenAIError(error).body)))
        }
        try await body.finish(nil)
      })
  }

  /// `chatcmpl-` and 24 letters and digits: 124 random bits, with room for an affinity key in front.
  private static func newID() -> String {
    let alphabet = Array("0123456789abcdefghijklmnopqrstuvwxyz")
    return "chatcmpl-" + String((0..<24).map { _ in alphabet.randomElement()! })
  }
}
