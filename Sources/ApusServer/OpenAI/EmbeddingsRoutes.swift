import ApusEngine
import ApusText
import HTTPTypes
import Hummingbird

/// The handlers of `/v1/embeddings` and `/v1/rerank`.
struct EmbeddingRoutes: Sendable {
  let state: ServerState
  let bodyLimit: Int

  func add(to router: some RouterMethods<ServerContext>) {
    router.post("v1/embeddings", use: embeddings)
    router.post("v1/rerank", use: rerank)
    router.post("rerank", use: rerank)
  }

  /// One request, and what answers it.
  private struct Job<Body: Sendable>: Sendable {
    var request: Body
    var engine: any EmbeddingEngine
    /// Token ids `[inputs][tokens]`.
    var inputs: [[Int32]]

    var tokens: Int { inputs.reduce(0) { $0 + $1.count } }
  }

  @Sendable func embeddings(_ request: Request, _ context: ServerContext) async throws -> Response {
    let bytes = try await context.body(of: request, upTo: bodyLimit)
    let client = try await context.client()
    return try await client.whileConnected {
      let job = try await state.preparation.run { () throws -> Job<EmbeddingRequest> in
        let parsed = try EmbeddingRequest(body: Array(bytes.readableBytesView))
        let engine = try engine(named: parsed.model)
        return Job(request: parsed, engine: engine, inputs: try parsed.tokens(for: engine))
      }
      let vectors = try await OpenAIError.naming("input") { try await job.engine.embed(job.inputs) }
      return .json(
        bytes: EmbeddingWriter.response(
          vectors, model: job.engine.name, tokens: job.tokens, encoding: job.request.encoding))
    }
  }

  @Sendable func rerank(_ request: Request, _ context: ServerContext) async throws -> Response {
    let bytes = try await context.body(of: request, upTo: bodyLimit)
    let client = try await context.client()
    return try await client.whileConnected {
      let job = try await state.preparation.run { () throws -> Job<RerankRequest> in
        let parsed = try RerankRequest(body: Array(bytes.readableBytesView))
        let engine = try engine(named: parsed.model)
        let inputs = try ([parsed.query] + parsed.documents).map { try $0.tokens(for: engine) }
        return Job(request: parsed, engine: engine, inputs: inputs)
      }
      let vectors = try await OpenAIError.naming("documents") { try await job.engine.embed(job.inputs) }
      return .json(
        job.request.response(
          id: RandomID.make("rerank-"), model: job.engine.name, vectors: vectors, tokens: job.tokens))
    }
  }

  private func engine(named name: String) throws -> any EmbeddingEngine {
    if state.engines.contains(where: { $0.name == name }), !state.encoders.contains(where: { $0.name == name }) {
      let names = state.encoders.map(\.name).joined(separator: ", ")
      throw OpenAIError.invalid(
        "model", seen: "'\(name)', which makes text",
        expected: names.isEmpty ? "an embedding model, and none is loaded" : "an embedding model: \(names)")
    }
    return try state.encoder(named: name)
  }
}
