import ApusCollections
import ApusText
import ApusVectors

// The routes of collections: vectors and texts of many tenants.
extension APIDocument {
  private static let collection = APIOperation.Parameter.path(
    "collection", "The collection's name.", .string(pattern: "^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"))
  private static let noControls = "^[^\\u0000-\\u001f]*$"
  private static let tenantName = Schema.string(length: 1...256, pattern: noControls)
  private static let point = APIOperation.Parameter.path("point", "The point's id; a slash in it is written %2F.")
  private static let tenant = APIOperation.Parameter.path("tenant", "The tenant's or group's name.", tenantName)
  private static let caller = APIOperation.Parameter.header(
    "x-apus-tenant", tenantName,
    "Who acts, where the server asks for no keys, or where the key is an administrator's; otherwise the key says it.")
  private static let ofPoint = [
    APIOperation.Parameter.query(
      "key", .string(oneOf: ["string"]), "The id is a string, although it looks like a number."),
    .query("owner", .string(), "Whose point, where it is not the caller's own."),
  ]

  static func collectionOperations(_ shapes: RequestShapes) -> [APIOperation] {
    collectionAdministration(shapes) + points + searches + tenants
  }

  private static func operation(
    _ method: APIOperation.Method, _ path: String, _ id: String, _ summary: String,
    _ parameters: [APIOperation.Parameter], request: Schema? = nil, _ answer: APIOperation.Answer, errors: [Int] = []
  ) -> APIOperation {
    let usual = [401, 403, 404, 503] + (request == nil ? [] : [400, 408, 413, 429])
    return APIOperation(
      method: method, path: "/v1/collections" + path, id: id, summary: summary, dialect: .collections,
      parameters: parameters + [caller], request: request, answers: [answer],
      errors: Array(Set(usual + errors)).sorted())
  }

  // MARK: collections

  private static func collectionAdministration(_ shapes: RequestShapes) -> [APIOperation] {
    let common: [Property] = [
      .optional(
        "metric", .string(oneOf: VectorMetric.allCases.map(\.rawValue)).defaulting(to: "cosine"),
        "l2 is the squared distance, ip the negative inner product."),
      .optional(
        "quantizer",
        .string(oneOf: VectorQuantizer.allCases.map(\.rawValue)).defaulting(
          to: .string(VectorQuantizer.standard.rawValue))),
      .optional(
        "indexed_fields",
        .array(
          of: .string(pattern: "^[A-Za-z0-9_-]+(\\.[A-Za-z0-9_-]+)*$"), count: 0...CollectionConfig.maximumFields,
          areUnique: true),
        "Paths in payloads, each once, that filters may name."),
    ]
    return [
      operation(
        .get, "", "listCollections", "The collections", [],
        .json(
          .object([.required("object", .constant("list")), .required("data", .array(of: .ref("Collection")))]), "All."),
        errors: [400]),
      operation(
        .put, "/{collection}", "createCollection",
        "Makes a collection, or leaves one of the same configuration as it is; an administrator's", [collection],
        request: .anyOf([
          .object(
            [.required("embedding_model", shapes.embeddingModel, "Makes vectors of texts, and says their size.")]
              + common),
          .object(
            [.required("dimension", .integer(1...VectorConfig.maximumDimension), "Numbers of a vector.")] + common),
        ]), .json(.ref("Collection"), "The collection."), errors: [409]),
      operation(
        .get, "/{collection}", "getCollection", "What a collection is", [collection],
        .json(.ref("Collection"), "The collection."), errors: [400]),
      operation(
        .delete, "/{collection}", "deleteCollection", "Deletes a collection; an administrator's", [collection],
        .json(deleted("collection", named: "name"), "It is gone."), errors: [400]),
      operation(
        .get, "/{collection}/stats", "collectionStats",
        "The caller's figures and, for an administrator, those of all tenants together", [collection],
        .json(
          .object([
            .required("object", .constant("stats")), .nullable("tenant", .ref("TenantStats")),
            .optional("collection", .ref("CollectionStats"), "For an administrator."),
          ]), "The figures."), errors: [400]),
      operation(
        .post, "/{collection}/train", "trainCollection",
        "Trains the clustering tree and, for a target, fits searches to a recall; an administrator's", [collection],
        request: .object([.optional("target_recall", .number(0.01...1))]),
        .json(
          .object([.required("object", .constant("collection.trained")), .required("name", .string())]),
          "It is trained.")),
      operation(
        .post, "/{collection}/snapshot", "snapshotCollection",
        "Copies a collection as it is at one moment, to the server's disk; an administrator's", [collection],
        .json(
          .object([.required("object", .constant("snapshot")), .required("path", .string())]), "The copy's place."),
        errors: [400]),
    ]
  }

  private static func deleted(_ what: String, named name: String) -> Schema {
    .object([
      .required("object", .constant("\(what).deleted")), .required(name, key), .required("deleted", .boolean),
    ])
  }

  // MARK: points

  private static let key = Schema.anyOf([
    .string(length: 1...512, pattern: noControls), .integer(Int.min...Int.max),
  ])
  private static let names = Schema.array(of: tenantName)
  private static let vector = Schema.array(of: .number())

  private static var points: [APIOperation] {
    let given: [Property] = [
      .required("id", key), .optional("payload", .map(), "Anything; indexed fields can be filtered by."),
      .optional("expires_at", .integer(), "Seconds since 1970; then the point is gone."),
      .optional("share_with", names, "Tenants and groups that may see the point too."),
    ]
    return [
      operation(
        .put, "/{collection}/points", "upsertPoints", "Stores points of the caller's own, all or none", [collection],
        request: .object([
          .required(
            "points",
            .array(
              of: .anyOf([
                .object(given + [.required("text", .string(length: 1...Int.max)), .optional("vector", vector)]),
                .object(given + [.required("vector", vector), .optional("text", .string(length: 1...Int.max))]),
              ]), count: 0...VectorCollection.maximumBatch),
            "A text without a vector gets that of the collection's embedding model.")
        ]),
        .json(
          .object([.required("object", .constant("points.upserted")), .required("count", .integer())]),
          "They are stored."), errors: [409]),
      operation(
        .get, "/{collection}/points/{point}", "getPoint", "A point that the caller may see",
        [collection, point] + ofPoint, .json(.ref("Point"), "The point."), errors: [400]),
      operation(
        .delete, "/{collection}/points/{point}", "deletePoint", "Deletes a point of the caller's own",
        [collection, point] + ofPoint, .json(deleted("point", named: "id"), "It is gone."), errors: [400]),
      operation(
        .post, "/{collection}/points/{point}/grants", "grantPoint", "Lets tenants see a point of the caller's own",
        [collection, point] + ofPoint, request: .object([.required("tenants", names)]),
        .json(
          .object([.required("object", .constant("grants")), .required("granted", .integer())]), "How many are new.")),
      operation(
        .delete, "/{collection}/points/{point}/grants/{tenant}", "revokePoint",
        "Takes a point of the caller's own from a tenant: once it is answered, the tenant sees it no more",
        [collection, point, tenant] + ofPoint,
        .json(
          .object([.required("object", .constant("grants")), .required("revoked", .integer())]), "How many there were."),
        errors: [400]),
    ]
  }

  // MARK: reading

  private static let conditions: [Property] = [
    .optional("filter", .ref("PayloadFilter")), .optional("access", .ref("TenantFilter")),
  ]

  private static var searches: [APIOperation] {
    let options: [Property] =
      [
        .optional("k", .integer(1...SearchOptions.maximumK).defaulting(to: 10)),
        .optional("patience", .integer(1...Int(Int32.max)), "Lists without improvement after which a search ends."),
        .optional(
          "target_recall", .number(0.01...1),
          "Without patience: the recall to reach, of those that the collection was tuned for the least that is not below."
        ),
        .optional("exact", .boolean, "Compares with every vector that the caller may see."),
      ] + conditions
    let mode = Schema.string(oneOf: Query.Mode.allCases.map(\.rawValue))
    return [
      operation(
        .post, "/{collection}/search", "searchPoints", "The best of what the caller may see", [collection],
        request: .anyOf([
          .object(
            [
              .required("text", .string(length: 1...Int.max)),
              .optional("mode", mode, "Likeness of meaning, BM25 of the words, or both fused by their ranks."),
            ] + options),
          .object(
            [
              .required("vector", vector), .optional("mode", .constant(Query.Mode.vector.rawValue)),
            ] + options),
        ]),
        .json(
          .object([.required("object", .constant("list")), .required("data", .array(of: .ref("Hit")))]),
          "The best first."), errors: [409]),
      operation(
        .post, "/{collection}/scroll", "scrollPoints", "What the caller may see, a page at a time, the oldest first",
        [collection],
        request: .object(
          [
            .optional("limit", .integer(1...1000).defaulting(to: 100)),
            .optional("cursor", .string(), "That of the page before."),
            .optional("with_vectors", .boolean, "Gives the points' vectors too."),
          ] + conditions),
        .json(
          .object([
            .required("object", .constant("list")), .required("data", .array(of: .ref("Point"))),
            .nullable("next_cursor", .string()),
          ]), "A page.")),
      operation(
        .post, "/{collection}/count", "countPoints", "How many points the caller may see", [collection],
        request: .object(conditions),
        .json(.object([.required("object", .constant("count")), .required("count", .integer())]), "The number.")),
    ]
  }

  // MARK: tenants

  private static var tenants: [APIOperation] {
    [
      operation(
        .get, "/{collection}/tenants", "listTenants", "All tenants' figures, by name; an administrator's",
        [
          collection, .query("limit", .integer(1...VectorCollection.maximumTenantPage), "Tenants of a page: 100."),
          .query("after", .string(), "The `next_after` of the page before."),
        ],
        .json(
          .object([
            .required("object", .constant("list")), .required("data", .array(of: .ref("TenantStats"))),
            .nullable("next_after", .string(), "Null after the last page."),
          ]), "A page."), errors: [400]),
      operation(
        .get, "/{collection}/tenants/{tenant}", "getTenant", "A tenant's figures, for itself or an administrator",
        [collection, tenant], .json(.ref("TenantStats"), "The figures."), errors: [400]),
      operation(
        .put, "/{collection}/tenants/{tenant}", "updateTenant", "Changes a tenant, or makes it; an administrator's",
        [collection, tenant],
        request: .object([
          .optional("state", .string(oneOf: TenantState.allCases.map(\.rawValue))),
          .optional("quota", .integer(), "Vectors that it may hold; null for the server's default."),
          .optional("byte_quota", .integer(), "Bytes that it may store; null for the server's default."),
          .optional(
            "query_quota", .number(RequestReader.queryRates),
            "Searches, scrolls and counts a second; null for the server's default."),
          .optional("groups", names, "All groups whose points it sees."),
        ]), .json(.ref("TenantStats"), "The figures.")),
      operation(
        .delete, "/{collection}/tenants/{tenant}", "dropTenant",
        "Forgets a tenant and what only it may see, for itself or an administrator",
        [
          collection, tenant,
          .query("erase", .string(oneOf: ["true", "false"]), "Also takes its bytes from all files before it answers."),
        ],
        .json(deleted("tenant", named: "tenant"), "It is gone."), errors: [400]),
      operation(
        .get, "/{collection}/tenants/{tenant}/export", "exportTenant",
        "All points that a tenant owns, as JSON lines that can be stored again", [collection, tenant],
        .init(status: 200, description: "The points.", content: [("application/x-ndjson", nil)]), errors: [400]),
    ]
  }

  // MARK: components

  private static let scalar = Schema.anyOf([.string(), .integer(Int.min...Int.max), .number(), .boolean])

  private static func formula(_ name: String, _ leaves: [Schema]) -> (name: String, schema: Schema) {
    let part = Schema.ref(name)
    return (
      name,
      .anyOf(
        leaves + [
          .object([.required("and", .array(of: part))]), .object([.required("or", .array(of: part))]),
          .object([.required("not", part)]),
        ])
    )
  }

  static var collectionComponents: [(name: String, schema: Schema)] {
    let field = Property.required("field", .string(), "An indexed field.")
    let bound = Schema.anyOf([.string(), .number()])
    let point: [Property] = [
      .required("id", key), .nullable("owner", .string()), .nullable("text", .string()), .nullable("payload", .map()),
      .nullable("expires_at", .integer()),
    ]
    return [
      (
        "Collection",
        .object([
          .required("object", .constant("collection")), .required("name", .string()),
          .required("dimension", .integer(1...VectorConfig.maximumDimension)),
          .required("metric", .string(oneOf: VectorMetric.allCases.map(\.rawValue))),
          .required("quantizer", .string(oneOf: VectorQuantizer.allCases.map(\.rawValue))),
          .nullable("embedding_model", .string()),
          .nullable("embedding_weights", .string(), "SHA-256 of the model's weights, where the collection knows them."),
          .required("indexed_fields", .array(of: .string())),
        ])
      ),
      ("Point", .object(point + [.optional("vector", vector)])),
      (
        "Hit",
        .object(
          point + [
            .nullable("distance", .number(), "Of the vectors, smaller is nearer."),
            .required(
              "score", .number(), "Greater is better: negative distance, BM25, or the sum of reciprocal ranks."),
          ])
      ),
      (
        "TenantStats",
        .object([
          .required("tenant", .string()), .required("state", .string(oneOf: TenantState.allCases.map(\.rawValue))),
          .nullable("quota", .integer(), "Limits `held`."),
          .nullable("byte_quota", .integer(), "Limits `bytes.total`."),
          .nullable("query_quota", .number(), "Searches, scrolls and counts a second."),
          .required("groups", .array(of: .string())), .required("owned", .integer()), .required("held", .integer()),
          .required("visible", .integer()),
          .required(
            "bytes",
            .object([
              .required("vectors", .integer(), "Of its own points."), .required("payloads", .integer()),
              .required("grants", .integer()), .required("total", .integer()),
            ])),
          .required("refused_queries", .integer(), "That came too fast since the collection was opened."),
          .optional(
            "searches",
            .object([
              .required("count", .integer()), .required("scanned", .integer(), "Vectors that were compared."),
              .required("microseconds", .integer()),
            ]), "Since the collection was opened; for an administrator."),
        ])
      ),
      (
        "CollectionStats",
        .object([
          .required("vectors", .integer()), .required("deleted", .integer()), .required("tenants", .integer()),
          .required("grants", .integer()), .required("clusters", .integer()),
          .required(
            "bytes",
            .object([
              .required("vectors", .integer(), "In memory, with their codes."),
              .required("index", .integer(), "In memory."),
              .required("payloads", .integer(), "On the disk: ids, texts and payloads."),
              .required("total", .integer()),
            ])),
        ])
      ),
      formula("TenantFilter", [.object([.required("tenant", .string(), "Points that it was granted.")])]),
      formula(
        "PayloadFilter",
        [
          .object([field, .required("equals", scalar)]),
          .object([field, .required("in", .array(of: scalar, count: 0...PayloadFilter.maximumValues))]),
          .object([field, .required("exists", .boolean)]),
          .object([
            field, .optional("gt", bound), .optional("gte", bound), .optional("lt", bound), .optional("lte", bound),
          ]),
        ]),
    ]
  }
}
