import ApusEngine
import ApusText
import HTTPTypes
import Hummingbird

/// The handlers of `/tokenize` and `/detokenize`.
struct TokenizeRoutes: Sendable {
  let state: ServerState
  let bodyLimit: Int

  func add(to router: some RouterMethods<ServerContext>) {
    router.post("tokenize", use: tokenize)
    router.post("detokenize", use: detokenize)
  }

  @Sendable func tokenize(_ request: Request, _ context: ServerContext) async throws -> Response {
    let bytes = try await context.body(of: request, upTo: bodyLimit)
    return try await state.preparation.run {
      let parsed = try TokenizeRequest(body: Array(bytes.readableBytesView))
      let model = try model(named: parsed.model)
      let tokens = try OpenAIError.naming("messages") {
        try parsed.tokens(tokenizer: model.tokenizer) { prompt in
          guard let engine = model.engine else {
            throw OpenAIError.invalid(
              "messages", seen: "an array", expected: "a prompt: \(model.name) is an encoder and has no chat template")
          }
          return try engine.tokens(of: prompt)
        }
      }
      return .json(parsed.response(tokens, tokenizer: model.tokenizer, contextLength: model.contextLength))
    }
  }

  @Sendable func detokenize(_ request: Request, _ context: ServerContext) async throws -> Response {
    let bytes = try await context.body(of: request, upTo: bodyLimit)
    return try await state.preparation.run {
      let parsed = try DetokenizeRequest(body: Array(bytes.readableBytesView))
      return .json(try parsed.response(tokenizer: model(named: parsed.model).tokenizer))
    }
  }

  /// What these routes need of a model of either kind.
  private struct Model {
    var name: String
    var contextLength: Int
    var tokenizer: any Tokenizer
    /// Nil for an encoder.
    var engine: (any TextEngine)?
  }

  private func model(named name: String?) throws -> Model {
    let models =
      state.engines.map { Model(name: $0.name, contextLength: $0.contextLength, tokenizer: $0.tokenizer, engine: $0) }
      + state.encoders.map {
        Model(name: $0.name, contextLength: $0.contextLength, tokenizer: $0.tokenizer, engine: nil)
      }
    guard let model = name.map({ name in models.first { $0.name == name } }) ?? models.first else {
      throw OpenAIError.unknownModel(name ?? "", known: models.map(\.name))
    }
    return model
  }
}
