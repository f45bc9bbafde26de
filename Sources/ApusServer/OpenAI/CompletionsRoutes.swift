import ApusEngine
import ApusText
import Foundation
import HTTPTypes
import Hummingbird

/// The handler of `/v1/completions`.
struct CompletionRoutes: Sendable {
  let state: ServerState
  let bodyLimit: Int

  func add(to router: some RouterMethods<ServerContext>) { router.post("v1/completions", use: completions) }

  /// Prompts of one request that are answered at once; the others wait, so that one request leaves room for others.
  private static let concurrentPrompts = 16

  /// One request, and what answers it.
  private struct Job: Sendable {
    var request: CompletionRequest
    var engine: any TextEngine
    var header: CompletionHeader
    var origin: RequestOrigin
    var client: ConnectedClient
  }

  @Sendable func completions(_ request: Request, _ context: ServerContext) async throws -> Response {
    let bytes = try await context.body(of: request, upTo: bodyLimit)
    let client = try await context.client()
    return try await client.whileConnected {
      let job = try await state.preparation.run { try prepare(bytes, context, client) }
      return job.request.stream ? try await stream(job) : try await whole(job)
    }
  }

  private func prepare(_ bytes: ByteBuffer, _ context: ServerContext, _ client: ConnectedClient) throws -> Job {
    let parsed = try CompletionRequest(body: Array(bytes.readableBytesView), randomSeed: .random(in: 0 ... .max))
    let engine = try state.engine(named: parsed.model)
    for prompt in parsed.prompts { try prompt.checkTokens(vocabularySize: engine.tokenizer.vocabularySize) }
    let id = RandomID.make("cmpl-")
    return Job(
      request: parsed, engine: engine,
      header: CompletionHeader(id: id, created: Int(Date().timeIntervalSince1970), model: engine.name),
      origin: RequestOrigin(
        id: id, principal: context.principal,
        namespace: state.namespace(of: context.principal, salt: parsed.cacheSalt)),
      client: client)
  }

  private func writer(_ index: Int, _ job: Job) -> CompletionChoiceWriter {
    var echo: String?
    if job.request.echo {
      switch job.request.prompts[index].content {
      case .text(let text): echo = text
      case .tokens(let tokens): echo = job.engine.tokenizer.decode(tokens, skipSpecial: false)
      }
    }
    return CompletionChoiceWriter(
      index: index, echo: echo, scoresPrompt: job.request.options.promptLogProbabilities != nil,
      tokenizer: job.engine.tokenizer)
  }

  private func answer(_ index: Int, _ job: Job) async throws -> AnswerStream {
    let prompt = job.request.prompts[index]
    var origin = job.origin
    // Each prompt is a request of its own to the engine.
    if index > 0 { origin.id += "-\(index)" }
    return try await OpenAIError.naming(prompt.path) { [origin] in
      try await state.preparation.run {
        try await job.client.answer(from: job.engine, to: prompt.prompt, job.request.options, for: origin)
      }
    }
  }

  private func whole(_ job: Job) async throws -> Response {
    let count = job.request.prompts.count
    let finished = try await withThrowingTaskGroup(of: (Int, JinjaValue, AnswerEnd).self) { group in
      var next = 0
      func add() {
        let index = next
        next += 1
        group.addTask {
          let (choice, end) = try await choice(index, job)
          return (index, choice, end)
        }
      }
      while next < min(count, Self.concurrentPrompts) { add() }
      var finished: [(Int, JinjaValue, AnswerEnd)] = []
      while let one = try await group.next() {
        finished.append(one)
        if next < count { add() }
      }
      return finished.sorted { $0.0 < $1.0 }
    }
    let object = job.header.object(choices: finished.map(\.1))
    return .json(object.setting("usage", CompletionHeader.usage(finished.map(\.2))))
  }

  private func choice(_ index: Int, _ job: Job) async throws -> (JinjaValue, AnswerEnd) {
    let state = (parts: AnswerParts(tools: nil), writer: writer(index, job))
    return try await answer(index, job).whole(state) { state, event in
      state.parts.parts(for: event).reduce(nil) { $0 ?? state.writer.whole(for: $1) }
    }
  }

  /// The prompts of a stream are answered in order: the first begins before the headers leave, so that a request that
  /// cannot be answered fails with a status.
  private func stream(_ job: Job) async throws -> Response {
    let first = try await HeldStream(answer(0, job))
    let request = job.request
    return .stream(.openAI) { body in
      var ends: [AnswerEnd] = []
      for index in request.prompts.indices {
        var parts = AnswerParts(tools: nil)
        var writer = writer(index, job)
        try await (index == 0 ? first : HeldStream(answer(index, job))).write(to: &body, .openAI) { event in
          var bytes: [UInt8] = []
          for part in parts.parts(for: event) {
            if case .finished(let end) = part { ends.append(end) }
            for choice in writer.pieces(for: part) {
              let object = job.header.object(choices: [choice])
              // The usage is null, not absent, until the end.
              bytes += ServerSentEvents.data(request.includeUsage ? object.setting("usage", .none) : object)
            }
          }
          return bytes
        }
      }
      if request.includeUsage {
        let object = job.header.object(choices: []).setting("usage", CompletionHeader.usage(ends))
        try await body.write(ByteBuffer(bytes: ServerSentEvents.data(object)))
      }
      try await body.write(ByteBuffer(bytes: ServerSentEvents.done))
    }
  }
}
