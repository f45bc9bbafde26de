import ApusEngine
import ApusText
import Foundation
import HTTPTypes
import Hummingbird

/// The handlers of `/api/…`.
struct OllamaRoutes: Sendable {
  let state: ServerState
  let bodyLimit: Int

  /// Clients compare it with the Ollama version that brought what they need; this one has everything that is here.
  static let version = "0.12.11"

  func add(to router: some RouterMethods<ServerContext>) {
    router.post("api/chat") { try await answer(.chat, $0, $1) }
    router.post("api/generate") { try await answer(.generate, $0, $1) }
    router.post("api/embed", use: embed)
    router.post("api/embeddings", use: olderEmbeddings)
    router.post("api/show", use: show)
    router.get("api/tags", use: tags)
    router.get("api/ps", use: running)
    router.get("api/version", use: version)
  }

  // MARK: answers

  /// One request, and what answers it.
  private struct Job: Sendable {
    /// Nil for a request that only loads the model.
    var answer: AnswerStream?
    var parts: AnswerParts
    var writer: OllamaWriter
    var isStream: Bool
  }

  private func answer(
    _ shape: OllamaWriter.Shape, _ request: Request, _ context: ServerContext
  ) async throws -> Response {
    let start = ContinuousClock.now
    let bytes = try await context.body(of: request, upTo: bodyLimit)
    let client = try await context.client()
    return try await client.whileConnected {
      let job = try await state.preparation.run { try await prepare(shape, bytes, context, client) }
      guard let answer = job.answer else {
        let object = job.writer.loaded(at: Date())
        if !job.isStream { return .json(object) }
        return .stream(.ollama) { try await $0.write(ByteBuffer(bytes: OllamaWriter.line(object))) }
      }
      let state = (parts: job.parts, writer: job.writer)
      if job.isStream {
        return try await HeldStream(answer).response(.ollama, state) { state, event in
          state.writer.take(event, since: start)
          let time = Date()
          return state.parts.parts(for: event).flatMap { state.writer.lines(for: $0, at: time) }
        }
      }
      return try await .json(
        answer.whole(state) { state, event in
          state.writer.take(event, since: start)
          return state.parts.parts(for: event).reduce(nil) { $0 ?? state.writer.answer(for: $1, at: Date()) }
        })
    }
  }

  private func prepare(
    _ shape: OllamaWriter.Shape, _ bytes: ByteBuffer, _ context: ServerContext, _ client: ConnectedClient
  ) async throws -> Job {
    var parsed = try OllamaRequest(
      shape, body: Array(bytes.readableBytesView), randomSeed: .random(in: 0 ... .max))
    let engine = try engine(named: parsed.model)
    var tools = AnswerTools()
    if case .chat(_, .list(let offered)?)? = parsed.prompt { tools.functions = offered }
    parsed.options.grammar = try tools.grammar(for: engine, format: parsed.format, formatPath: "format")
    let origin = RequestOrigin(
      id: RandomID.make("ollama-"), principal: context.principal,
      namespace: state.namespace(of: context.principal, salt: nil))
    return Job(
      answer: try await answer(parsed, engine, origin, client), parts: AnswerParts(of: engine, tools: tools),
      writer: OllamaWriter(shape, model: engine.name, tokenizer: engine.tokenizer), isStream: parsed.stream)
  }

  private func answer(
    _ parsed: OllamaRequest, _ engine: any TextEngine, _ origin: RequestOrigin, _ client: ConnectedClient
  ) async throws -> AnswerStream? {
    guard let prompt = parsed.prompt else { return nil }
    do {
      return try await client.answer(from: engine, to: prompt, parsed.options, for: origin)
    } catch GenerationError.noChatTemplate where parsed.plainPrompt != nil {
      return try await client.answer(from: engine, to: .text(parsed.plainPrompt ?? ""), parsed.options, for: origin)
    }
  }

  // MARK: embeddings

  @Sendable private func embed(_ request: Request, _ context: ServerContext) async throws -> Response {
    let start = ContinuousClock.now
    let (parsed, vectors, tokens) = try await vectors(request, context) { try OllamaEmbedRequest(body: $0) }
    var body = Array("{".utf8)
    Self.write("model", to: &body)
    CompactJSON.write(parsed.model, to: &body)
    body.append(UInt8(ascii: ","))
    Self.write("embeddings", to: &body)
    body.append(UInt8(ascii: "["))
    for (index, vector) in vectors.enumerated() {
      if index > 0 { body.append(UInt8(ascii: ",")) }
      Self.write(vector, to: &body)
    }
    body += #"],"total_duration":\#(start.duration(to: .now).wholeNanoseconds),"load_duration":0,"#.utf8
    body += #""prompt_eval_count":\#(tokens)}"#.utf8
    return .json(bytes: body)
  }

  @Sendable private func olderEmbeddings(_ request: Request, _ context: ServerContext) async throws -> Response {
    let (_, vectors, _) = try await vectors(request, context) { try OllamaEmbedRequest(olderBody: $0) }
    var body = Array("{".utf8)
    Self.write("embedding", to: &body)
    Self.write(vectors.first ?? [], to: &body)
    body.append(UInt8(ascii: "}"))
    return .json(bytes: body)
  }

  private static func write(_ key: String, to bytes: inout [UInt8]) {
    CompactJSON.write(key, to: &bytes)
    bytes.append(UInt8(ascii: ":"))
  }

  /// A float's own digits: as a double it would have twice as many.
  private static func write(_ vector: [Float], to bytes: inout [UInt8]) {
    bytes.append(UInt8(ascii: "["))
    for (index, element) in vector.enumerated() {
      if index > 0 { bytes.append(UInt8(ascii: ",")) }
      bytes += element.description.utf8
    }
    bytes.append(UInt8(ascii: "]"))
  }

  private func vectors(
    _ request: Request, _ context: ServerContext, _ parse: @escaping @Sendable ([UInt8]) throws -> OllamaEmbedRequest
  ) async throws -> (request: OllamaEmbedRequest, vectors: [[Float]], tokens: Int) {
    let bytes = try await context.body(of: request, upTo: bodyLimit)
    let client = try await context.client()
    return try await client.whileConnected {
      let (parsed, encoder, inputs) = try await state.preparation.run {
        () throws -> (OllamaEmbedRequest, any EmbeddingEngine, [[Int32]]) in
        let parsed = try parse(Array(bytes.readableBytesView))
        let encoder = try self.encoder(for: parsed)
        return (parsed, encoder, try Self.tokens(of: parsed, encoder))
      }
      if inputs.isEmpty { return (parsed, [], 0) }
      let vectors = try await encoder.embed(inputs).map { Self.shorten($0, to: parsed.dimensions) }
      return (parsed, vectors, inputs.reduce(0) { $0 + $1.count })
    }
  }

  private func encoder(for request: OllamaEmbedRequest) throws -> any EmbeddingEngine {
    if state.engines.contains(where: { $0.name == request.model }) {
      throw OpenAIError.invalid("model", seen: "'\(request.model)', which writes text", expected: "an encoder")
    }
    let encoder = try state.encoder(named: request.model)
    if let dimensions = request.dimensions, dimensions > encoder.dimensions {
      throw OpenAIError.invalid(
        "dimensions", seen: "\(dimensions)", expected: "at most \(encoder.dimensions), the model's own")
    }
    return encoder
  }

  private static func tokens(of request: OllamaEmbedRequest, _ encoder: any EmbeddingEngine) throws -> [[Int32]] {
    try request.inputs.enumerated().map { index, text in
      if request.isTruncating {
        return encoder.tokenizer.encode(text, options: .init(maximumLength: encoder.contextLength))
      }
      let tokens = encoder.tokenizer.encode(text)
      guard tokens.count <= encoder.contextLength else {
        throw OpenAIError.invalid(
          "input.\(index)", seen: "\(tokens.count) tokens", expected: "at most \(encoder.contextLength), or truncate")
      }
      return tokens
    }
  }

  private static func shorten(_ vector: [Float], to dimensions: Int?) -> [Float] {
    guard let dimensions, dimensions < vector.count else { return vector }
    let head = vector.prefix(dimensions)
    let length = head.reduce(0) { $0 + $1 * $1 }.squareRoot()
    return length > 0 ? head.map { $0 / length } : Array(head)
  }

  // MARK: models

  private func engine(named name: String) throws -> any TextEngine {
    if state.encoders.contains(where: { $0.name == name }) {
      throw OpenAIError.invalid("model", seen: "'\(name)', an encoder", expected: "a model that writes text")
    }
    return try state.engine(named: name)
  }

  @Sendable private func version(_ request: Request, _ context: ServerContext) -> Response {
    .json(["version": .string(Self.version)])
  }

  @Sendable private func tags(_ request: Request, _ context: ServerContext) -> Response {
    let cards = state.engines.map(card) + state.encoders.map(card)
    return .json(["models": .list(cards.map { .mapping($0.entry) })])
  }

  /// The models that have their memory: encoders always, engines unless they are idle.
  @Sendable private func running(_ request: Request, _ context: ServerContext) -> Response {
    let engines = state.engines.filter { ($0 as? OnDemandEngine)?.isLoaded ?? true }
    let cards = engines.map(card) + state.encoders.map(card)
    return .json(["models": .list(cards.map { .mapping($0.runningEntry) })])
  }

  @Sendable private func show(_ request: Request, _ context: ServerContext) async throws -> Response {
    let bytes = try await context.body(of: request, upTo: bodyLimit)
    let name = try OllamaModel.name(RequestReader(body: Array(bytes.readableBytesView)))
    if let engine = state.engines.first(where: { $0.name == name }) {
      return .json(
        card(engine).shown(
          template: engine.chatTemplate?.source,
          capabilities: engine.toolCallDialect == nil ? ["completion"] : ["completion", "tools"]))
    }
    guard let encoder = state.encoders.first(where: { $0.name == name }) else {
      throw OpenAIError.unknownModel(name, known: state.engines.map(\.name) + state.encoders.map(\.name))
    }
    return .json(card(encoder).shown(template: nil, capabilities: ["embedding"]))
  }

  private func card(_ engine: any TextEngine) -> OllamaCard {
    OllamaCard(
      name: engine.name, contextLength: engine.contextLength, files: state.files[engine.name], started: state.started)
  }

  private func card(_ encoder: any EmbeddingEngine) -> OllamaCard {
    OllamaCard(
      name: encoder.name, contextLength: encoder.contextLength, dimensions: encoder.dimensions,
      files: state.files[encoder.name], started: state.started)
  }
}

extension OllamaWriter {
  /// Takes the times from an answer's last event.
  fileprivate mutating func take(_ event: GenerationEvent, since start: ContinuousClock.Instant) {
    guard case .finished(let generation) = event else { return }
    durations = Durations(
      total: start.duration(to: .now).wholeNanoseconds, promptEvaluation: Self.nanoseconds(generation.timings.prefill),
      evaluation: Self.nanoseconds(generation.timings.decode))
  }

  private static func nanoseconds(_ seconds: Double) -> Int { Int((seconds * 1e9).rounded()) }
}

extension Duration {
  fileprivate var wholeNanoseconds: Int {
    Int(components.seconds) * 1_000_000_000 + Int(components.attoseconds / 1_000_000_000)
  }
}
