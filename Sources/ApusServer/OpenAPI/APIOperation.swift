import ApusText

/// One route, as the OpenAPI document describes it.
struct APIOperation: Sendable {
  /// Whose objects a route speaks, which decides what its errors look like.
  enum Dialect: String, Sendable {
    case openAI = "OpenAI"
    case anthropic = "Anthropic"
    case ollama = "Ollama"
    case collections = "Collections"
    case service = "Service"

    /// The component that holds the shape of an error.
    var errorSchema: String {
      switch self {
      case .openAI, .collections, .service: "Error"
      case .anthropic: "AnthropicError"
      case .ollama: "OllamaError"
      }
    }
  }

  enum Method: String, Sendable {
    case get, post, delete, head, put
  }

  /// A parameter of the path, of the query or of the header.
  struct Parameter: Sendable {
    var name: String
    var place: String
    var schema: Schema
    var description: String

    static func path(
      _ name: String, _ description: String, _ schema: Schema = .string(length: 1...Int.max)
    ) -> Parameter {
      Parameter(name: name, place: "path", schema: schema, description: description)
    }

    static func query(_ name: String, _ schema: Schema, _ description: String) -> Parameter {
      Parameter(name: name, place: "query", schema: schema, description: description)
    }

    static func header(_ name: String, _ schema: Schema, _ description: String) -> Parameter {
      Parameter(name: name, place: "header", schema: schema, description: description)
    }

    var json: JinjaValue {
      [
        "name": .string(name), "in": .string(place), "required": .boolean(place == "path"),
        "description": .string(description), "schema": schema.json,
      ]
    }
  }

  /// What a status means, and what comes with it.
  struct Answer: Sendable {
    var status: Int
    var description: String
    /// By media type; no schema says nothing of the content.
    var content: [(type: String, schema: Schema?)]

    static func json(_ schema: Schema, _ description: String, status: Int = 200) -> Answer {
      Answer(status: status, description: description, content: [("application/json", schema)])
    }

    /// JSON, or a stream of events if the request asks for one.
    static func jsonOrEvents(_ schema: Schema, _ description: String) -> Answer {
      Answer(
        status: 200, description: description, content: [("application/json", schema), ("text/event-stream", nil)])
    }

    /// JSON, or a stream with one JSON object a line if the request asks for one.
    static func jsonOrLines(_ schema: Schema, _ description: String) -> Answer {
      Answer(
        status: 200, description: description, content: [("application/json", schema), ("application/x-ndjson", nil)])
    }

    var json: JinjaValue {
      var types = JinjaMapping()
      for (type, schema) in content { types[type] = schema.map { ["schema": $0.json] } ?? [:] }
      return ["description": .string(description), "content": .mapping(types)]
    }
  }

  var method: Method
  /// With parameters in braces.
  var path: String
  var id: String
  var summary: String
  var dialect: Dialect
  var parameters: [Parameter] = []
  var request: Schema?
  var answers: [Answer]
  /// Statuses of errors.
  var errors: [Int] = []

  /// Every status that an error of this server can have, with its meaning.
  static let meanings = [
    400: "The request is wrong; the error names the field.",
    401: "The API key is missing or unknown.",
    403: "The caller may not do this.",
    404: "There is no such model or object.",
    408: "The body did not arrive in time.",
    409: "There is such an object already, and it is another; or other weights answer to the collection's model.",
    413: "The body is larger than the server's limit.",
    422: "The request is understood, and cannot be carried out.",
    429: "Too many requests wait, or came too fast; `retry-after` says when to come back.",
    500: "The server failed.",
    503: "The server is starting or stopping; `retry-after` says when to come back.",
    529: "The server is overloaded; `retry-after` says when to come back.",
  ]

  /// The errors that any route can answer which takes a body and runs a model.
  static let modelErrors = [400, 401, 404, 413, 422, 429, 503]

  var json: JinjaValue {
    var operation: JinjaMapping = [
      "operationId": .string(id), "summary": .string(summary), "tags": [.string(dialect.rawValue)],
    ]
    if !parameters.isEmpty { operation["parameters"] = .list(parameters.map(\.json)) }
    if let request {
      operation["requestBody"] = [
        // Where nothing must be said, nothing may be sent.
        "required": .boolean(!request.fitsEmptyObject), "content": ["application/json": ["schema": request.json]],
      ]
    }
    var responses = JinjaMapping()
    for answer in answers { responses["\(answer.status)"] = answer.json }
    for status in errors.sorted() {
      responses["\(status)"] =
        Answer.json(.ref(dialect.errorSchema), Self.meanings[status] ?? "An error.", status: status).json
    }
    operation["responses"] = .mapping(responses)
    if dialect == .service { operation["security"] = [[:]] }
    return .mapping(operation)
  }
}
