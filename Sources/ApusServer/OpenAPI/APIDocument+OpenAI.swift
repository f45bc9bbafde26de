import ApusText

// The routes of OpenAI's dialect, and those that other servers of open models put beside it.
extension APIDocument {
  static func openAIOperations(_ shapes: RequestShapes) -> [APIOperation] {
    let errors = APIOperation.modelErrors
    return [
      .init(
        method: .get, path: "/v1/models", id: "listModels", summary: "The loaded models", dialect: .openAI,
        answers: [
          .json(
            .object([.required("object", .constant("list")), .required("data", .array(of: .ref("Model")))]),
            "The models.")
        ], errors: [401]),
      .init(
        method: .get, path: "/v1/models/{model}", id: "getModel", summary: "One model", dialect: .openAI,
        parameters: [.path("model", "The model's name.")], answers: [.json(.ref("Model"), "The model.")],
        errors: [401, 404]),
      .init(
        method: .post, path: "/v1/chat/completions", id: "createChatCompletion", summary: "Answers a conversation",
        dialect: .openAI, request: chatRequest(shapes),
        answers: [.jsonOrEvents(.ref("ChatCompletion"), "The answer.")], errors: errors),
      .init(
        method: .post, path: "/v1/completions", id: "createCompletion", summary: "Continues text", dialect: .openAI,
        request: completionRequest(shapes), answers: [.jsonOrEvents(.ref("Completion"), "The continuations.")],
        errors: errors),
    ] + responseOperations(shapes) + [
      .init(
        method: .post, path: "/v1/embeddings", id: "createEmbedding", summary: "Turns texts into vectors",
        dialect: .openAI,
        request: .object([
          .required("model", shapes.embeddingModel), .required("input", texts(atMost: EmbeddingRequest.maximumInputs)),
          .optional("encoding_format", .string(oneOf: EmbeddingRequest.Encoding.allCases.map(\.rawValue))),
          .optional("dimensions", .integer(1...Int.max), "Must be the size of the model's vectors."),
        ]), answers: [.json(.ref("EmbeddingList"), "The vectors.")], errors: errors),
      rerank("/v1/rerank", "rerank", shapes), rerank("/rerank", "rerankShort", shapes),
      .init(
        method: .post, path: "/tokenize", id: "tokenize", summary: "The tokens of a text or of a conversation",
        dialect: .openAI,
        request: .anyOf([
          .object([
            .optional("model", shapes.anyModel), .required("prompt", .string()),
            .optional("add_special_tokens", .boolean), .optional("return_token_strs", .boolean),
          ]),
          .object([
            .optional("model", shapes.textModel), .required("messages", messages), .optional("tools", tools),
            .optional("return_token_strs", .boolean),
          ]),
        ]),
        answers: [
          .json(
            .object([
              .required("count", .integer()), .required("max_model_len", .integer()),
              .required("tokens", .array(of: .integer())), .nullable("token_strs", .array(of: .string())),
            ]), "The tokens.")
        ], errors: [400, 401, 404, 413]),
      .init(
        method: .post, path: "/detokenize", id: "detokenize", summary: "The text of tokens", dialect: .openAI,
        request: .object([
          .optional("model", shapes.anyModel), .required("tokens", .array(of: .integer(0...Int(Int32.max)))),
        ]), answers: [.json(.object([.required("prompt", .string())]), "The text.")], errors: [400, 401, 404, 413]),
    ]
  }

  private static func rerank(_ path: String, _ id: String, _ shapes: RequestShapes) -> APIOperation {
    .init(
      method: .post, path: path, id: id, summary: "Orders documents by their likeness to a query", dialect: .openAI,
      request: .object([
        .required("model", shapes.embeddingModel), .required("query", .string()),
        .required(
          "documents",
          .array(
            of: .anyOf([.string(), .object([.required("text", .string())])]),
            count: 1...RerankRequest.maximumDocuments)),
        .optional("top_n", .integer(1...Int.max)), .optional("return_documents", .boolean),
      ]),
      answers: [
        .json(
          .object([
            .required("id", .string()), .required("model", .string()),
            .required(
              "results",
              .array(
                of: .object([.required("index", .integer()), .required("relevance_score", .number(-1.001...1.001))]))),
            .required("usage", .object([.required("total_tokens", .integer())])),
          ]), "The best first.")
      ], errors: APIOperation.modelErrors)
  }

  // MARK: requests

  /// A text, texts, token ids, arrays of token ids.
  private static func texts(atMost limit: Int) -> Schema {
    let ids = Schema.array(of: .integer(0...Int(Int32.max)), count: 1...Int.max)
    return .anyOf([
      .string(), .array(of: .string(), count: 1...limit), ids, .array(of: ids, count: 1...limit),
    ])
  }

  /// Fields that shape sampling, under the names that servers of open models share.
  private static let sampling: [Property] = [
    .optional("temperature", .number(0...2).defaulting(to: 1)), .optional("top_p", .number(0...1).defaulting(to: 1)),
    .optional("top_k", .integer(1...Int.max)), .optional("min_p", .number(0...1)),
    .optional("typical_p", .number(1e-6...1)), .optional("presence_penalty", .number(-2...2)),
    .optional("frequency_penalty", .number(-2...2)), .optional("repetition_penalty", .number(0.01...100)),
    .optional(
      "logit_bias", .map(of: .number(-100...100), keys: .string(pattern: "^[0-9]+$")),
      "By token id. Ids that the model does not have are refused."),
    .optional("seed", .integer(Int.min...Int.max)),
    .optional("stop", .anyOf([.string(), .array(of: .string(), count: 0...64)])), .optional("ignore_eos", .boolean),
  ]

  private static let streaming: [Property] = [
    .optional("stream", .boolean.defaulting(to: false)),
    .optional("stream_options", .object([.optional("include_usage", .boolean)])),
  ]

  private static func completionRequest(_ shapes: RequestShapes) -> Schema {
    .object(
      [
        .required("model", shapes.textModel), .required("prompt", texts(atMost: CompletionRequest.maximumPrompts)),
        .optional("max_tokens", shapes.maxTokens.defaulting(to: .integer(CompletionRequest.defaultMaxTokens))),
        .optional("echo", .boolean, "Not beside logprobs."), .optional("logprobs", .integer(0...20)),
        .optional("n", .integer(1...1)), .optional("best_of", .integer(1...1)),
        .optional("suffix", .string(length: 0...0), "Text is not filled in."),
      ] + sampling + streaming)
  }

  private static let textPart = Schema.object([.required("type", .constant("text")), .required("text", .string())])
  private static let content = Schema.anyOf([.string(), .array(of: textPart)])
  private static let toolCall = Schema.object([
    .required("function", .map(), "Its name and its arguments, which templates write as they are.")
  ])

  /// Messages of a chat.
  static let messages = Schema.array(
    of: .anyOf([
      .object([
        .required("role", .string(oneOf: ["system", "developer", "user", "tool", "function"])),
        .required("content", content),
      ]),
      .object([
        .required("role", .constant("assistant")), .optional("content", content),
        .optional("tool_calls", .array(of: toolCall)),
      ]),
    ]), count: 1...Int.max)

  /// Functions that a model may call in a chat.
  static let tools = tools(.required("type", .constant("function")))

  static func tools(_ type: Property) -> Schema {
    .array(
      of: .object([
        type,
        .required(
          "function",
          .object([
            .required("name", .string(length: 1...Int.max)), .optional("description", .string()),
            .optional("parameters", .map(), "A JSON schema."), .optional("strict", .boolean),
          ])),
      ]))
  }

  private static func chatRequest(_ shapes: RequestShapes) -> Schema {
    .object(
      [
        .required("model", shapes.textModel), .required("messages", messages),
        .optional("max_tokens", shapes.maxTokens), .optional("max_completion_tokens", shapes.maxTokens),
        .optional("n", .integer(1...1)), .optional("logprobs", .boolean),
        .optional("top_logprobs", .integer(0...20), "Only beside logprobs."), .optional("tools", tools),
        .optional(
          "tool_choice",
          .anyOf([
            .string(oneOf: ["none", "auto", "required"]),
            .object([
              .required("type", .constant("function")),
              .required("function", .object([.required("name", .string())])),
            ]),
          ]), "A function that is named must be among the tools."),
        .optional("parallel_tool_calls", .boolean),
        .optional(
          "response_format",
          .anyOf([
            .object([.required("type", .string(oneOf: ["text", "json_object"]))]),
            .object([
              .required("type", .constant("json_schema")),
              .required(
                "json_schema",
                .object([.optional("schema", .map(), "Without one, any JSON object will do.")])),
            ]),
          ])),
      ] + sampling + streaming)
  }

  // MARK: responses

  private static func responseOperations(_ shapes: RequestShapes) -> [APIOperation] {
    let id = [APIOperation.Parameter.path("response_id", "The response's id.")]
    return [
      .init(
        method: .post, path: "/v1/responses", id: "createResponse", summary: "Answers, and keeps the response",
        dialect: .openAI, request: responseRequest(shapes),
        answers: [.jsonOrEvents(.ref("Response"), "The response.")], errors: APIOperation.modelErrors),
      .init(
        method: .get, path: "/v1/responses/{response_id}", id: "getResponse", summary: "A response that was kept",
        dialect: .openAI, parameters: id + [.query("stream", .string(oneOf: ["false"]), "Responses are read whole.")],
        answers: [.json(.ref("Response"), "The response.")], errors: [400, 401, 404]),
      .init(
        method: .delete, path: "/v1/responses/{response_id}", id: "deleteResponse", summary: "Forgets a response",
        dialect: .openAI, parameters: id,
        answers: [
          .json(
            .object([
              .required("id", .string()), .required("object", .constant("response")), .required("deleted", .boolean),
            ]), "It is gone.")
        ], errors: [401, 404]),
      .init(
        method: .post, path: "/v1/responses/{response_id}/cancel", id: "cancelResponse",
        summary: "Ends a response that is being streamed; one that has ended is given as it is", dialect: .openAI,
        parameters: id, answers: [.json(.ref("Response"), "The response.")], errors: [401, 404]),
      .init(
        method: .get, path: "/v1/responses/{response_id}/input_items", id: "listInputItems",
        summary: "The items that the response's own request brought", dialect: .openAI,
        parameters: id + [
          .query("limit", .integer(1...100), "The most items; 20 without it."),
          .query("order", .string(oneOf: ["asc", "desc"]), "The newest come first without it."),
          .query("after", .string(), "Begins after the item with this id."),
        ],
        answers: [
          .json(
            .object([
              .required("object", .constant("list")), .required("data", .array(of: .map())),
              .nullable("first_id", .string()), .nullable("last_id", .string()), .required("has_more", .boolean),
            ]), "The items.")
        ], errors: [400, 401, 404]),
    ]
  }

  private static func responseRequest(_ shapes: RequestShapes) -> Schema {
    let part = Schema.object([
      .required("type", .string(oneOf: ["input_text", "output_text", "text"])), .required("text", .string()),
    ])
    let text = Schema.anyOf([.string(), .array(of: part)])
    let item = Schema.anyOf([
      .object([
        .optional("type", .constant("message")),
        .required("role", .string(oneOf: ["user", "assistant", "system", "developer"])), .required("content", text),
        .optional("id", .string()),
      ]),
      .object([
        .required("type", .constant("function_call")), .required("call_id", .string()), .required("name", .string()),
        .required("arguments", .string().described("A JSON object.")), .optional("id", .string()),
      ]),
      .object([
        .required("type", .constant("function_call_output")),
        .required("call_id", .string(), "That of a call before it."), .required("output", text),
        .optional("id", .string()),
      ]),
    ])
    return .object(
      [
        .required("model", shapes.textModel),
        .required("input", .anyOf([.string(), .array(of: item, count: 1...Int.max)])),
        .optional("instructions", .string(), "The system's text for this turn."),
        .optional("previous_response_id", .string(), "The response that this one continues."),
        .optional("max_output_tokens", shapes.maxTokens), .optional("store", .boolean.defaulting(to: true)),
        .optional(
          "metadata", .map(of: .string(length: 0...512), keys: .string(length: 0...64), count: 16)),
        .optional(
          "tools",
          .array(
            of: .object([
              .required("type", .constant("function")), .required("name", .string(length: 1...Int.max)),
              .optional("description", .string()), .optional("parameters", .map(), "A JSON schema."),
              .optional("strict", .boolean),
            ]))),
        .optional(
          "tool_choice",
          .anyOf([
            .string(oneOf: ["none", "auto", "required"]),
            .object([.required("type", .constant("function")), .required("name", .string())]),
          ]), "A function that is named must be among the tools; 'required' needs tools."),
        .optional("parallel_tool_calls", .boolean),
        .optional(
          "text",
          .object([
            .optional(
              "format",
              .anyOf([
                .object([.required("type", .string(oneOf: ["text", "json_object"]))]),
                .object([
                  .required("type", .constant("json_schema")), .required("name", .string()),
                  .required("schema", .map()), .optional("strict", .boolean),
                ]),
              ]))
          ])),
        .optional("top_logprobs", .integer(0...20)), .optional("include", .array(of: .string())),
        .optional("truncation", .constant("disabled")), .optional("background", .off),
        .optional("prompt_cache_key", .string()), .optional("user", .string()),
      ] + sampling + streaming)
  }

  // MARK: components

  private static let usage = Schema.object([
    .required("prompt_tokens", .integer()), .required("completion_tokens", .integer()),
    .required("total_tokens", .integer()),
  ])

  static let openAIComponents: [(name: String, schema: Schema)] = [
    (
      "Model",
      .object([
        .required("id", .string()), .required("object", .constant("model")), .required("created", .integer()),
        .required("owned_by", .string()),
      ])
    ),
    (
      "ChatCompletion",
      .object([
        .required("id", .string()), .required("object", .constant("chat.completion")),
        .required("created", .integer()), .required("model", .string()),
        .required(
          "choices",
          .array(
            of: .object([
              .required("index", .integer()), .required("finish_reason", .string()),
              .required("message", .object([.required("role", .constant("assistant"))])),
            ]), count: 1...Int.max)),
        .required("usage", usage),
      ])
    ),
    (
      "Completion",
      .object([
        .required("id", .string()), .required("object", .constant("text_completion")),
        .required("created", .integer()), .required("model", .string()),
        .required(
          "choices",
          .array(
            of: .object([
              .required("text", .string()), .required("index", .integer()), .required("finish_reason", .string()),
            ]), count: 1...CompletionRequest.maximumPrompts)),
        .required("usage", usage),
      ])
    ),
    (
      "Response",
      .object([
        .required("id", .string(pattern: "^resp_[0-9a-f]{16}")), .required("object", .constant("response")),
        .required("created_at", .integer()),
        .required(
          "status", .string(oneOf: ["completed", "incomplete", "in_progress", "cancelled", "failed"])),
        .required("model", .string()),
        .required(
          "output",
          .array(
            of: .object([
              .required("id", .string()), .required("type", .string(oneOf: ["message", "function_call"])),
              .required("status", .string(oneOf: ["completed", "incomplete", "in_progress"])),
            ]))),
        .nullable("previous_response_id", .string()), .required("store", .boolean),
        .nullable(
          "usage",
          .object([
            .required("input_tokens", .integer()), .required("output_tokens", .integer()),
            .required("total_tokens", .integer()),
          ])),
      ])
    ),
    (
      "EmbeddingList",
      .object([
        .required("object", .constant("list")), .required("model", .string()),
        .required(
          "data",
          .array(
            of: .object([
              .required("object", .constant("embedding")), .required("index", .integer()),
              .required("embedding", .anyOf([.array(of: .number()), .string()])),
            ]), count: 1...EmbeddingRequest.maximumInputs)),
        .required(
          "usage", .object([.required("prompt_tokens", .integer()), .required("total_tokens", .integer())])),
      ])
    ),
  ]
}
