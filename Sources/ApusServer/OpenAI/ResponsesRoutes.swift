import ApusEngine
import ApusText
import Foundation
import HTTPTypes
import Hummingbird
import Synchronization

/// The handlers of `/v1/responses` and what lies under it.
struct ResponseRoutes: Sendable {
  let state: ServerState
  let bodyLimit: Int
  /// Nil keeps nothing: responses then say `store: false`.
  let store: (any ResponseStore)?
  private let running = RunningResponses()

  init(state: ServerState, bodyLimit: Int, store: (any ResponseStore)?) {
    self.state = state
    self.bodyLimit = bodyLimit
    self.store = store
  }

  func add(to router: some RouterMethods<ServerContext>) {
    router.post("v1/responses", use: create)
    router.get("v1/responses/:id", use: read)
    router.delete("v1/responses/:id", use: delete)
    router.post("v1/responses/:id/cancel", use: cancel)
    router.get("v1/responses/:id/input_items", use: inputItems)
  }

  // MARK: create

  /// One request, and what answers it.
  private struct Job: Sendable {
    var answer: AnswerStream
    var parts: AnswerParts
    var writer: ResponseWriter
    /// The response as it is stored, without its body; nil if it is not to be kept.
    var record: StoredResponse?
    var origin: RequestOrigin
    var isStream: Bool
  }

  @Sendable func create(_ request: Request, _ context: ServerContext) async throws -> Response {
    let bytes = try await context.body(of: request, upTo: bodyLimit)
    let affinity = request.headers[.apusAffinity]
    let client = try await context.client()
    return try await client.whileConnected {
      let job = try await state.preparation.run { try await prepare(bytes, affinity: affinity, context, client) }
      return job.isStream ? try await stream(job) : try await whole(job)
    }
  }

  private func prepare(
    _ bytes: ByteBuffer, affinity: String?, _ context: ServerContext, _ client: ConnectedClient
  ) async throws -> Job {
    var parsed = try ResponseRequest(body: Array(bytes.readableBytesView), randomSeed: .random(in: 0 ... .max))
    if store == nil { parsed.store = false }
    let engine = try state.engine(named: parsed.model)
    parsed.options.grammar = try parsed.tools.grammar(
      for: engine, format: parsed.format, formatPath: "text.format.schema")
    let history = try await history(parsed, of: context.principal)
    let messages = try ResponseItems.messages(
      instructions: parsed.instructions, history + parsed.input, known: history.count)
    let prompt = Prompt.chat(messages: messages, tools: parsed.tools.offered)
    let id = ResponseID.make(affinity: affinity ?? parsed.promptCacheKey, previous: parsed.previousResponseID)
    let created = Int(Date().timeIntervalSince1970)
    let origin = RequestOrigin(
      id: id, principal: context.principal, namespace: state.namespace(of: context.principal, salt: parsed.cacheSalt))
    let record = StoredResponse(
      id: id, owner: context.principal, previous: parsed.previousResponseID, created: created, body: "",
      input: String(decoding: CompactJSON.bytes(.list(parsed.input)), as: UTF8.self))
    let options = parsed.options
    return Job(
      answer: try await OpenAIError.naming("input") {
        try await client.answer(from: engine, to: prompt, options, for: origin)
      },
      parts: AnswerParts(of: engine, tools: parsed.tools),
      writer: ResponseWriter(
        id: id, created: created, model: engine.name, request: parsed, tokenizer: engine.tokenizer),
      record: parsed.store ? record : nil, origin: origin, isStream: parsed.stream)
  }

  /// The items of the conversation so far.
  private func history(_ request: ResponseRequest, of owner: String) async throws -> [JinjaValue] {
    guard let previous = request.previousResponseID else { return [] }
    guard let responses = try await store?.conversation(endingAt: previous, of: owner) else {
      throw OpenAIError.unknownPrevious(previous)
    }
    return try responses.flatMap { response in
      let input = try JinjaValue(json: response.input).items ?? []
      return input + (try JinjaValue(json: response.body)["output"]?.items ?? [])
    }
  }

  private func keep(_ object: JinjaValue, _ job: Job) async throws {
    guard var record = job.record, let store else { return }
    record.body = String(decoding: CompactJSON.bytes(object), as: UTF8.self)
    try await store.save(record)
  }

  private func whole(_ job: Job) async throws -> Response {
    let object = try await job.answer.whole((parts: job.parts, writer: job.writer)) { state, event in
      for part in state.parts.parts(for: event) { _ = state.writer.events(for: part) }
      return state.writer.isFinished ? state.writer.object : nil
    }
    try await keep(object, job)
    return .json(object)
  }

  private func stream(_ job: Job) async throws -> Response {
    let answer = try await HeldStream(job.answer)
    let id = job.origin.id
    return .stream(.openAI) { body in
      var writer = job.writer
      var parts = job.parts
      var promptTokens = 0
      var cachedTokens = 0
      var completionTokens = 0
      running.begin(id, of: job.origin.principal, writer.object)
      defer { running.end(id) }
      do {
        try await answer.write(to: &body, .openAI) { event in
          // The last event is out.
          if writer.isFinished { throw Ended() }
          var events: [ResponseWriter.Event] = []
          for part in parts.parts(for: event) {
            if case .started(let tokens, let cached) = part { (promptTokens, cachedTokens) = (tokens, cached) }
            events += writer.events(for: part)
          }
          if case .token = event { completionTokens += 1 }
          if running.isCancelled(id), !writer.isFinished {
            events += writer.events(
              for: .finished(
                AnswerEnd(
                  reason: .cancelled, text: "", promptTokens: promptTokens, cachedTokens: cachedTokens,
                  completionTokens: completionTokens)))
          }
          // Whoever has read the last event can read the response.
          if writer.isFinished { try await keep(writer.object, job) }
          return events.flatMap { ServerSentEvents.event($0.name, $0.value) }
        }
      } catch is Ended {
      } catch let error where !(error is CancellationError) {
        let events = writer.fail(OpenAIError(error))
        try? await keep(writer.object, job)
        try await body.write(ByteBuffer(bytes: events.flatMap { ServerSentEvents.event($0.name, $0.value) }))
      }
    }
  }

  /// Leaves an answer that has nothing more to say.
  private struct Ended: Error {}

  // MARK: read, cancel, delete

  @Sendable func read(_ request: Request, _ context: ServerContext) async throws -> Response {
    let id = try context.parameters.require("id")
    if let stream = request.uri.queryParameters["stream"], stream != "false" {
      throw OpenAIError.invalid("stream", seen: "'\(stream)'", expected: "false: a response is read whole")
    }
    if let object = running.object(id, of: context.principal) { return .json(object) }
    return .json(bytes: Array(try await stored(id, of: context.principal).body.utf8))
  }

  /// Ends a response that is being streamed; one that has ended is returned as it is.
  @Sendable func cancel(_ request: Request, _ context: ServerContext) async throws -> Response {
    let id = try context.parameters.require("id")
    if let object = running.cancel(id, of: context.principal) { return .json(object.setting("status", "cancelled")) }
    return .json(bytes: Array(try await stored(id, of: context.principal).body.utf8))
  }

  @Sendable func delete(_ request: Request, _ context: ServerContext) async throws -> Response {
    let id = try context.parameters.require("id")
    guard try await store?.delete(id, of: context.principal) ?? false else { throw OpenAIError.unknownResponse(id) }
    return .json(["id": .string(id), "object": "response", "deleted": true])
  }

  /// The request's own items, the newest first unless `order` says otherwise.
  @Sendable func inputItems(_ request: Request, _ context: ServerContext) async throws -> Response {
    let page = try ItemPage(request.uri.queryParameters)
    let stored = try await stored(context.parameters.require("id"), of: context.principal)
    return .json(try page.response(try JinjaValue(json: stored.input).items ?? []))
  }

  private func stored(_ id: String, of owner: String) async throws -> StoredResponse {
    guard let response = try await store?.response(id, of: owner) else { throw OpenAIError.unknownResponse(id) }
    return response
  }
}

extension OpenAIError {
  static func unknownResponse(_ id: String) -> OpenAIError {
    OpenAIError(
      status: .notFound, message: "the response '\(id)' does not exist here: it was deleted, or not stored",
      param: "response_id", code: "response_not_found")
  }

  static func unknownPrevious(_ id: String) -> OpenAIError {
    OpenAIError(
      status: .badRequest,
      message: "previous_response_id is '\(id)', and that response or one before it does not exist here",
      param: "previous_response_id", code: "previous_response_not_found")
  }
}

extension HTTPField.Name {
  /// The key by which a proxy chose this replica: 16 hexadecimal digits.
  static let apusAffinity = Self("x-apus-affinity")!
}

/// Ids of responses: `resp_`, 16 hexadecimal digits of the key by which a proxy finds the replica that knows the
/// conversation, and 24 random letters and digits.
enum ResponseID {
  private static let prefix = "resp_"
  private static let digits = 16

  /// `affinity` is a proxy's or a client's key, `previous` the id that is continued: its key goes on.
  static func make(affinity: String?, previous: String?) -> String {
    RandomID.make(prefix + (affinity.map(key) ?? previous.flatMap(key(in:)) ?? random()))
  }

  /// The key in an id.
  static func key(in id: String) -> String? {
    guard id.hasPrefix(prefix) else { return nil }
    let key = String(id.dropFirst(prefix.count).prefix(digits))
    return key.isHex(digits: digits) ? key : nil
  }

  /// A proxy's key as it is; another text's by FNV-1a in 64 bits (Fowler, Noll and Vo 1991).
  static func key(for text: String) -> String {
    if text.isHex(digits: digits) { return text }
    return hex(text.utf8.reduce(0xCBF2_9CE4_8422_2325) { ($0 ^ UInt64($1)) &* 0x100_0000_01B3 })
  }

  private static func random() -> String { hex(UInt64.random(in: 0 ... .max)) }

  private static func hex(_ number: UInt64) -> String {
    let text = String(number, radix: 16)
    return String(repeating: "0", count: digits - text.count) + text
  }
}

/// The responses that are being streamed.
private final class RunningResponses: Sendable {
  private struct Entry {
    var owner: String
    var object: JinjaValue
    var isCancelled = false
  }

  private let entries = Mutex<[String: Entry]>([:])

  func begin(_ id: String, of owner: String, _ object: JinjaValue) {
    entries.withLock { $0[id] = Entry(owner: owner, object: object) }
  }

  func end(_ id: String) { entries.withLock { $0[id] = nil } }

  func isCancelled(_ id: String) -> Bool { entries.withLock { $0[id]?.isCancelled ?? false } }

  func object(_ id: String, of owner: String) -> JinjaValue? {
    entries.withLock { entries in entries[id].flatMap { $0.owner == owner ? $0.object : nil } }
  }

  /// The response, if it runs.
  func cancel(_ id: String, of owner: String) -> JinjaValue? {
    entries.withLock { entries in
      guard let entry = entries[id], entry.owner == owner else { return nil }
      entries[id]?.isCancelled = true
      return entry.object
    }
  }
}

/// A page of a list of items, as a query asks for it.
struct ItemPage {
  var limit: Int
  var isAscending: Bool
  /// The page begins after the item with this id.
  var after: String?

  init(_ query: Parameters) throws {
    let text = query["limit"].map(String.init)
    guard let limit = text.map({ Int($0) }) ?? 20, (1...100).contains(limit) else {
      throw OpenAIError.invalid("limit", seen: "'\(text ?? "")'", expected: "a whole number from 1 to 100")
    }
    self.limit = limit
    let order = query["order"].map(String.init) ?? "desc"
    guard ["asc", "desc"].contains(order) else {
      throw OpenAIError.invalid("order", seen: "'\(order)'", expected: "'asc' or 'desc'")
    }
    isAscending = order == "asc"
    after = query["after"].map(String.init)
  }

  /// Throws ``OpenAIError`` if there is no item to begin after.
  func response(_ items: [JinjaValue]) throws -> JinjaValue {
    var rest = isAscending ? items[...] : items.reversed()[...]
    if let after {
      guard let place = rest.firstIndex(where: { $0["id"]?.string == after }) else {
        throw OpenAIError.invalid("after", seen: "'\(after)'", expected: "the id of an item of this response")
      }
      rest = rest[(place + 1)...]
    }
    let page = Array(rest.prefix(limit))
    return [
      "object": "list", "data": .list(page), "first_id": page.first?["id"] ?? .none,
      "last_id": page.last?["id"] ?? .none, "has_more": .boolean(rest.count > limit),
    ]
  }
}
