import ApusText

/// The OpenAPI 3.1 document of the server.
///
/// ```swift
/// let document = APIDocument(version: "0.1.0", models: .init(text: ["smollm2"], contextLength: 8192))
/// print(document.json)
/// ```
struct APIDocument: Sendable {
  /// What the document says of the loaded models: a schema with the names that exist can be tested against.
  struct Models: Sendable {
    /// Models that make text.
    var text: [String] = []
    /// Models that make vectors.
    var embedding: [String] = []
    /// The greatest context of a text model, in tokens.
    var contextLength = Int.max

    /// Names as an enumeration, if there are any.
    fileprivate static func names(_ names: [String]) -> Schema {
      names.isEmpty ? .string(length: 1...Int.max) : .string(oneOf: names)
    }
  }

  var version: String
  var operations: [APIOperation]
  /// Schemas by name.
  var components: [(name: String, schema: Schema)]

  init(version: String, models: Models = .init()) {
    self.version = version
    let shapes = RequestShapes(
      textModel: Models.names(models.text), embeddingModel: Models.names(models.embedding),
      anyModel: Models.names(models.text + models.embedding), contextLength: models.contextLength)
    operations =
      Self.serviceOperations + Self.openAIOperations(shapes) + Self.anthropicOperations(shapes)
      + Self.ollamaOperations(shapes) + Self.collectionOperations(shapes)
    components = Self.errorComponents + Self.openAIComponents + Self.collectionComponents
  }

  /// What requests of every dialect are made of.
  struct RequestShapes: Sendable {
    var textModel: Schema
    var embeddingModel: Schema
    var anyModel: Schema
    /// Tokens.
    var contextLength: Int

    /// A limit on an answer's tokens: one beyond the context can never be met.
    var maxTokens: Schema { .integer(0...contextLength) }
  }

  /// Leaves only the operations of routes that exist. A route is a method and a path, whose parameters may have any
  /// names.
  func limited(to routes: [(method: String, path: String)]) -> APIDocument {
    let known = Set(routes.map { Self.shape($0.method, $0.path) })
    var document = self
    document.operations = operations.filter { known.contains(Self.shape($0.method.rawValue, $0.path)) }
    return document
  }

  /// The method and the path without the names of its parameters: `GET /v1/models/{}`.
  static func shape(_ method: String, _ path: String) -> String {
    let parts = path.split(separator: "/").map { $0.hasPrefix(":") || $0.hasPrefix("{") ? "{}" : $0 }
    return method.uppercased() + " /" + parts.joined(separator: "/")
  }

  var json: JinjaValue {
    var paths = JinjaMapping()
    for operation in operations {
      paths[operation.path] = (paths[operation.path] ?? [:]).setting(operation.method.rawValue, operation.json)
    }
    var schemas = JinjaMapping()
    for (name, schema) in components { schemas[name] = schema.json }
    return [
      "openapi": "3.1.0",
      "info": [
        "title": "Apus", "version": .string(version),
        "description": .string(
          "Large language models and encoders behind the HTTP dialects of OpenAI, Anthropic and Ollama, "
            + "and collections of texts and vectors for many tenants."),
        "license": ["name": "Apache-2.0", "identifier": "Apache-2.0"],
      ],
      "servers": [["url": "/"]], "paths": .mapping(paths), "security": [[:], ["bearer": []]],
      "components": [
        "schemas": .mapping(schemas), "securitySchemes": ["bearer": ["type": "http", "scheme": "bearer"]],
      ],
    ]
  }

  // MARK: service

  private static let status = Schema.object([.required("status", .string())])

  private static let serviceOperations: [APIOperation] = [
    .init(
      method: .get, path: "/health", id: "health", summary: "Whether the process lives", dialect: .service,
      answers: [.json(status, "It does.")]),
    .init(
      method: .get, path: "/ready", id: "ready", summary: "Whether requests are taken", dialect: .service,
      answers: [.json(status, "They are."), .json(status, "The server is starting or stopping.", status: 503)]),
    .init(
      method: .get, path: "/metrics", id: "metrics", summary: "Counters and gauges in Prometheus' text format",
      dialect: .service,
      answers: [.init(status: 200, description: "The metrics.", content: [("text/plain", .string())])]),
    .init(
      method: .get, path: "/version", id: "version", summary: "The server's version", dialect: .service,
      answers: [.json(.object([.required("version", .string())]), "The version.")]),
    .init(
      method: .get, path: "/openapi.json", id: "openapi", summary: "This document", dialect: .service,
      answers: [
        .json(
          .object([.required("openapi", .string()), .required("info", .map()), .required("paths", .map())]),
          "The document.")
      ]),
  ]

  private static let errorComponents: [(name: String, schema: Schema)] = [
    (
      "Error",
      .object([
        .required(
          "error",
          .object([
            .required("message", .string(length: 1...Int.max)), .required("type", .string()),
            .nullable("param", .string(), "The path of the field that is wrong."), .nullable("code", .string()),
          ]))
      ])
    ),
    (
      "AnthropicError",
      .object([
        .required("type", .constant("error")),
        .required(
          "error", .object([.required("type", .string()), .required("message", .string(length: 1...Int.max))])),
      ])
    ),
    ("OllamaError", .object([.required("error", .string(length: 1...Int.max))])),
  ]
}
