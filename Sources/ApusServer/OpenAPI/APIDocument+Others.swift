import ApusText

// The routes of Anthropic's and Ollama's dialects.
extension APIDocument {
  // MARK: Anthropic

  static func anthropicOperations(_ shapes: RequestShapes) -> [APIOperation] {
    let errors = APIOperation.modelErrors + [529]
    return [
      .init(
        method: .post, path: "/v1/messages", id: "createMessage", summary: "Answers a conversation",
        dialect: .anthropic,
        request: .object(
          [.required("max_tokens", shapes.maxTokens)] + anthropicConversation(shapes) + [
            .optional("temperature", .number(0...1)), .optional("top_p", .number(0...1)),
            .optional("top_k", .integer()), .optional("stop_sequences", .array(of: .string(length: 1...Int.max))),
            .optional("stream", .boolean),
          ]),
        answers: [
          .jsonOrEvents(
            .object([
              .required("id", .string()), .required("type", .constant("message")),
              .required("role", .constant("assistant")), .required("model", .string()),
              .required("content", .array(of: .object([.required("type", .string())]))),
              .nullable("stop_reason", .string(oneOf: ["end_turn", "max_tokens", "stop_sequence", "tool_use"])),
              .required(
                "usage",
                .object([.required("input_tokens", .integer()), .required("output_tokens", .integer())])),
            ]), "The answer.")
        ], errors: errors),
      .init(
        method: .post, path: "/v1/messages/count_tokens", id: "countTokens", summary: "The tokens of a conversation",
        dialect: .anthropic, request: .object(anthropicConversation(shapes)),
        answers: [.json(.object([.required("input_tokens", .integer())]), "The count.")],
        errors: [400, 401, 404, 413]),
    ]
  }

  private static func anthropicConversation(_ shapes: RequestShapes) -> [Property] {
    let text = Schema.object([.required("type", .constant("text")), .required("text", .string())])
    let content = Schema.anyOf([.string(), .array(of: text, count: 1...Int.max)])
    return [
      .required("model", shapes.textModel),
      .required(
        "messages",
        .array(
          of: .object([
            .required("role", .string(oneOf: ["user", "assistant"])), .required("content", content),
          ]), count: 1...Int.max)),
      .optional("system", .anyOf([.string(), .array(of: text)])),
      .optional(
        "tools",
        .array(
          of: .object([
            .required("name", .string(length: 1...128, pattern: "^[a-zA-Z0-9_-]+$")),
            .optional("description", .string()),
            .required("input_schema", .map(), "A JSON schema."),
          ]))),
    ]
  }

  // MARK: Ollama

  static func ollamaOperations(_ shapes: RequestShapes) -> [APIOperation] {
    let errors = APIOperation.modelErrors
    let generation: [Property] = [
      .optional("stream", .boolean.defaulting(to: true)), .optional("options", .map(), "Sampling options."),
      .optional("keep_alive", .anyOf([.string(), .number()])),
    ]
    let done: [Property] = [
      .required("model", .string()), .required("created_at", .string()), .required("done", .boolean),
    ]
    let models = Schema.object([.required("models", .array(of: .object([.required("name", .string())])))])
    return [
      .init(
        method: .post, path: "/api/chat", id: "ollamaChat", summary: "Answers a conversation", dialect: .ollama,
        request: .object(
          [
            .required("model", shapes.textModel),
            .optional(
              "messages",
              .array(
                of: .object([
                  .required("role", .string(oneOf: ["system", "user", "assistant", "tool"])),
                  .optional("content", .string()),
                ]))),
            .optional("tools", tools(.optional("type", .constant("function")))),
          ] + generation),
        answers: [.jsonOrLines(.object(done + [.required("message", .map())]), "The answer.")], errors: errors),
      .init(
        method: .post, path: "/api/generate", id: "ollamaGenerate", summary: "Answers a prompt", dialect: .ollama,
        request: .object(
          [
            .required("model", shapes.textModel), .optional("prompt", .string()), .optional("system", .string()),
            .optional("raw", .boolean),
          ] + generation),
        answers: [.jsonOrLines(.object(done + [.required("response", .string())]), "The answer.")], errors: errors),
      .init(
        method: .post, path: "/api/embed", id: "ollamaEmbed", summary: "Turns texts into vectors", dialect: .ollama,
        request: .object([
          .required("model", shapes.embeddingModel),
          .required("input", .anyOf([.string(), .array(of: .string())])), .optional("truncate", .boolean),
        ]),
        answers: [
          .json(
            .object([
              .required("model", .string()), .required("embeddings", .array(of: .array(of: .number()))),
            ]), "The vectors.")
        ], errors: errors),
      .init(
        method: .get, path: "/api/tags", id: "ollamaTags", summary: "The models", dialect: .ollama,
        answers: [.json(models, "The models.")], errors: [401]),
      .init(
        method: .get, path: "/api/ps", id: "ollamaRunning", summary: "The loaded models", dialect: .ollama,
        answers: [.json(models, "The models.")], errors: [401]),
      .init(
        method: .post, path: "/api/show", id: "ollamaShow", summary: "What is known of a model", dialect: .ollama,
        request: .object([.required("model", shapes.anyModel)]), answers: [.json(.map(), "The model.")],
        errors: [400, 401, 404, 413]),
      .init(
        method: .get, path: "/api/version", id: "ollamaVersion", summary: "The server's version", dialect: .ollama,
        answers: [.json(.object([.required("version", .string())]), "The version.")], errors: [401]),
    ]
  }
}
