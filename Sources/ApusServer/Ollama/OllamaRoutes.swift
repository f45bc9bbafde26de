import ApusEngine
import ApusText
import Crypto
import Foundation
import HTTPTypes
import Hummingbird

/// The handlers of `/api/…`.
struct OllamaRoutes: Sendable {
  let state: ServerState
  let bodyLimit: Int
  /// A stream's headers leave with the first token, at the latest after this time.
  var longestSilence = Duration.seconds(10)

  /// Clients compare it with the Ollama version that brought what they need; this one has everything that is here.
  static let version = "0.12.11"

  func add(to router: some RouterMethods<ServerContext>) {
    // How clients see whether a server is there.
    router.head("/") { _, _ in Response(status: .ok) }
    router.post("api/chat") { try await answer(.chat, $0, $1) }
    router.post("api/generate") { try await answer(.generate, $0, $1) }
    router.post("api/embed", use: embed)
    router.post("api/embeddings", use: olderEmbeddings)
    router.post("api/show", use: show)
    router.get("api/tags", use: tags)
    router.head("api/tags", use: tags)
    router.get("api/ps", use: running)
    router.get("api/version", use: version)
    router.head("api/version", use: version)
  }

  // MARK: answers

  private func answer(
    _ shape: OllamaWriter.Shape, _ request: Request, _ context: ServerContext
  ) async throws -> Response {
    let start = ContinuousClock.now
    let bytes = try await context.body(of: request, upTo: bodyLimit)
    var request = try OllamaRequest(
      shape, body: Array(bytes.readableBytesView), randomSeed: .random(in: 0 ... .max))
    let engine = try engine(named: request.model)
    var tools = AnswerTools()
    if case .chat(_, .list(let offered)?)? = request.prompt { tools.functions = offered }
    request.options.grammar = try tools.grammar(for: engine, format: request.format, formatPath: "format")
    let parsed = request
    let writer = OllamaWriter(shape, model: engine.name, tokenizer: engine.tokenizer)
    guard let prompt = parsed.prompt else {
      let object = writer.loaded(at: Date())
      if !parsed.stream { return .compactJSON(object) }
      return Self.lines(.init(byteBuffer: ByteBuffer(bytes: OllamaWriter.line(object))))
    }
    let parts = AnswerParts(of: engine, tools: tools)
    let origin = RequestOrigin(
      id: RandomID.make("ollama-"), principal: context.principal,
      namespace: state.namespace(of: context.principal, salt: nil))
    return try await context.untilDisconnected {
      let answer = try await answer(prompt, parsed, engine, origin, context)
      if !parsed.stream { return try await whole(answer, parts, writer, start) }
      let held = HeldAnswer(answer.events)
      _ = try await held.hasBegun(within: longestSilence)
      return stream(held, parts, writer, start)
    }
  }

  private func answer(
    _ prompt: Prompt, _ parsed: OllamaRequest, _ engine: any TextEngine, _ origin: RequestOrigin,
    _ context: ServerContext
  ) async throws -> AnswerStream {
    do {
      return try await context.answer(from: engine, to: prompt, parsed.options, for: origin)
    } catch GenerationError.noChatTemplate where parsed.plainPrompt != nil {
      return try await context.answer(
        from: engine, to: .text(parsed.plainPrompt ?? ""), parsed.options, for: origin)
    }
  }

  private func whole(
    _ answer: AnswerStream, _ parts: AnswerParts, _ writer: OllamaWriter, _ start: ContinuousClock.Instant
  ) async throws -> Response {
    var (parts, writer) = (parts, writer)
    for try await event in answer.events {
      writer.take(event, since: start)
      for part in parts.parts(for: event) {
        if let answer = writer.answer(for: part, at: Date()) { return .compactJSON(answer) }
      }
    }
    throw CancellationError()
  }

  /// Once the first byte is out, the status cannot change: an error then ends the stream with an error line and without
  /// one that is done, so that a cut answer looks cut.
  private func stream<Events>(
    _ answer: HeldAnswer<Events>, _ parts: AnswerParts, _ writer: OllamaWriter, _ start: ContinuousClock.Instant
  ) -> Response {
    Self.lines(
      .init { body in
        var (parts, writer) = (parts, writer)
        do {
          while let event = try await answer.next() {
            writer.take(event, since: start)
            let time = Date()
            let bytes = parts.parts(for: event).flatMap { writer.lines(for: $0, at: time) }
            if !bytes.isEmpty { try await body.write(ByteBuffer(bytes: bytes)) }
          }
        } catch let error where !(error is CancellationError) {
          try await body.write(ByteBuffer(bytes: OllamaErrors.line(OpenAIError(error))))
        }
        try await body.finish(nil)
      })
  }

  private static func lines(_ body: ResponseBody) -> Response {
    Response(status: .ok, headers: [.contentType: "application/x-ndjson"], body: body)
  }

  // MARK: embeddings

  @Sendable private func embed(_ request: Request, _ context: ServerContext) async throws -> Response {
    let start = ContinuousClock.now
    let bytes = try await context.body(of: request, upTo: bodyLimit)
    let parsed = try OllamaEmbedRequest(body: Array(bytes.readableBytesView))
    let (vectors, tokens) = try await vectors(parsed, context)
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
    return Self.json(body)
  }

  @Sendable private func olderEmbeddings(_ request: Request, _ context: ServerContext) async throws -> Response {
    let bytes = try await context.body(of: request, upTo: bodyLimit)
    let parsed = try OllamaEmbedRequest(olderBody: Array(bytes.readableBytesView))
    let (vectors, _) = try await vectors(parsed, context)
    var body = Array("{".utf8)
    Self.write("embedding", to: &body)
    Self.write(vectors.first ?? [], to: &body)
    body.append(UInt8(ascii: "}"))
    return Self.json(body)
  }

  private static func json(_ bytes: [UInt8]) -> Response {
    Response(
      status: .ok, headers: [.contentType: "application/json; charset=utf-8"],
      body: .init(byteBuffer: ByteBuffer(bytes: bytes)))
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
    _ request: OllamaEmbedRequest, _ context: ServerContext
  ) async throws -> (vectors: [[Float]], tokens: Int) {
    if state.engines.contains(where: { $0.name == request.model }) {
      throw OpenAIError.invalid("model", seen: "'\(request.model)', which writes text", expected: "an encoder")
    }
    let encoder = try state.encoder(named: request.model)
    if let dimensions = request.dimensions, dimensions > encoder.dimensions {
      throw OpenAIError.invalid(
        "dimensions", seen: "\(dimensions)", expected: "at most \(encoder.dimensions), the model's own")
    }
    let inputs = try request.inputs.enumerated().map { index, text in
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
    let tokens = inputs.reduce(0) { $0 + $1.count }
    if inputs.isEmpty { return ([], 0) }
    let vectors = try await context.untilDisconnected { try await encoder.embed(inputs) }
    return (vectors.map { Self.shorten($0, to: request.dimensions) }, tokens)
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
    .compactJSON(["version": .string(Self.version)])
  }

  @Sendable private func tags(_ request: Request, _ context: ServerContext) -> Response {
    .compactJSON(["models": .list(cards.map { .mapping($0.description(started: state.started)) })])
  }

  @Sendable private func running(_ request: Request, _ context: ServerContext) -> Response {
    let models: [JinjaValue] = cards.map { card in
      var model = card.description(started: state.started)
      model["modified_at"] = nil
      model["expires_at"] = .string(Self.never)
      model["size_vram"] = 0
      model["context_length"] = .integer(card.contextLength)
      return .mapping(model)
    }
    return .compactJSON(["models": .list(models)])
  }

  /// When a model that stays loaded expires: the last time that clients can read.
  private static let never = "9999-12-31T23:59:59Z"

  @Sendable private func show(_ request: Request, _ context: ServerContext) async throws -> Response {
    let bytes = try await context.body(of: request, upTo: bodyLimit)
    let name = try OllamaModel.name(RequestReader(body: Array(bytes.readableBytesView)))
    guard let card = cards.first(where: { $0.name == name }) else {
      throw OpenAIError.unknownModel(name, known: cards.map(\.name))
    }
    var capabilities: [JinjaValue] = ["embedding"]
    if let engine = state.engines.first(where: { $0.name == name }) {
      capabilities = ["completion"]
      if engine.toolCallDialect != nil { capabilities.append("tools") }
    }
    // Clients look for the architecture first and then for its context length.
    var info: JinjaMapping = [
      "general.architecture": "apus", "general.basename": .string(name),
      "apus.context_length": .integer(card.contextLength),
    ]
    if let dimensions = card.dimensions { info["apus.embedding_length"] = .integer(dimensions) }
    return .compactJSON([
      "modelfile": "", "parameters": "", "template": "", "details": OllamaCard.details,
      "model_info": .mapping(info), "capabilities": .list(capabilities),
      "modified_at": .string(state.started.rfc3339),
    ])
  }

  private var cards: [OllamaCard] {
    state.engines.map { OllamaCard(name: $0.name, contextLength: $0.contextLength, dimensions: nil) }
      + state.encoders.map { OllamaCard(name: $0.name, contextLength: $0.contextLength, dimensions: $0.dimensions) }
  }
}

/// What the lists tell of a model.
private struct OllamaCard {
  var name: String
  /// Tokens.
  var contextLength: Int
  /// Of an encoder's vectors.
  var dimensions: Int?

  /// Clients tell models apart by it and show its beginning. Ollama's is the digest of a manifest, which isn't here.
  private var digest: String {
    SHA256.hash(data: Data("\(name) \(contextLength)".utf8)).hex
  }

  static let details: JinjaValue = [
    "parent_model": "", "format": "", "family": "", "families": [], "parameter_size": "", "quantization_level": "",
  ]

  func description(started: Date) -> JinjaMapping {
    [
      "name": .string(name), "model": .string(name), "modified_at": .string(started.rfc3339), "size": 0,
      "digest": .string(digest), "details": Self.details,
    ]
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
