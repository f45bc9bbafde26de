import ApusCollections
import ApusText
import ApusVectors
import Foundation

/// What the bodies of requests to collections say, checked; errors name the field.
extension RequestReader {
  /// A tenant in a body may only be the caller.
  func checkTenant(_ principal: Principal) throws {
    guard let name = try string("tenant") else { return }
    if name != principal.tenant { throw OpenAIError.otherTenant(path("tenant")) }
  }

  func names(_ field: String) throws -> [String]? {
    try list(field)?.enumerated().map { i, value in
      guard case .string(let name) = value else {
        throw OpenAIError.invalid("\(path(field)).\(i)", seen: value.brief, expected: "a string")
      }
      return name
    }
  }

  private func choice<T: CaseIterable & RawRepresentable<String>>(_ field: String, _ standard: T) throws -> T {
    guard let name = try string(field) else { return standard }
    guard let value = T(rawValue: name) else {
      let all = T.allCases.map { "'\($0.rawValue)'" }.joined(separator: ", ")
      throw OpenAIError.invalid(path(field), seen: "'\(name)'", expected: "one of \(all)")
    }
    return value
  }

  /// Without a dimension, that of the embedding model.
  func collectionConfig(named name: String, embedder: (any TextEmbedder)?) throws -> CollectionConfig {
    let model = try string("embedding_model")
    let given = try integer("dimension", 1...VectorConfig.maximumDimension)
    guard let dim = try given ?? model.flatMap({ try embedder?.dim(of: $0) }) else {
      throw OpenAIError.missing("dimension", expected: "how many numbers a vector has, or an embedding model's name")
    }
    return CollectionConfig(
      name: name,
      vectors: VectorConfig(
        dim: dim, metric: try choice("metric", .cosine), quantizer: try choice("quantizer", .standard)),
      embeddingModel: model, indexedFields: try names("indexed_fields") ?? [])
  }

  func vector(_ field: String) throws -> [Float]? {
    try list(field)?.enumerated().map { i, value in
      guard let number = value.number, Float(number).isFinite else {
        throw OpenAIError.invalid("\(path(field)).\(i)", seen: value.brief, expected: "a number that f32 can hold")
      }
      return Float(number)
    }
  }

  func points(_ principal: Principal) throws -> [Point] {
    guard let items = try list("points") else { throw OpenAIError.missing("points", expected: "an array of points") }
    return try items.enumerated().map { i, value in
      let point = try RequestReader(value, path: "points.\(i)")
      try point.checkTenant(principal)
      let payload = point.value("payload")
      if let payload { _ = try RequestReader(payload, path: point.path("payload")) }
      return Point(
        try point.key(), vector: try point.vector("vector"), text: try point.string("text"),
        payload: payload.map { String(decoding: CompactJSON.bytes($0), as: UTF8.self) },
        expiresAt: try point.integer("expires_at", 0...Int(Int32.max) << 20),
        shareWith: try point.names("share_with") ?? [])
    }
  }

  private func key() throws -> PointKey {
    switch value("id") {
    case .string(let text): return .text(text)
    case .integer(let number): return .integer(Int64(number))
    // JSON Schema counts 7.0 as a whole number.
    case .float(let number) where Int64(exactly: number) != nil: return .integer(Int64(number))
    case nil: throw OpenAIError.missing(path("id"), expected: "a string or a whole number")
    case let value?: throw invalid("id", value, expected: "a string or a whole number")
    }
  }

  func query() throws -> Query {
    let text = try string("text")
    let vector = try self.vector("vector")
    let standard: Query.Mode = vector != nil && text != nil ? .hybrid : .vector
    let mode = try choice("mode", standard)
    if vector == nil && text == nil { throw OpenAIError.missing("vector", expected: "a vector, or a text") }
    return Query(
      mode: mode, vector: vector, text: text, access: try access(), payload: try filter(),
      options: SearchOptions(
        k: try integer("k", 1...SearchOptions.maximumK) ?? 10, patience: try integer("patience", 1...Int(Int32.max)),
        targetRecall: try number("target_recall", 0.01...1), exact: try bool("exact") ?? false))
  }

  // MARK: conditions

  private static let deepest = 16

  /// `{"tenant": name}`, `{"and": […]}`, `{"or": […]}` or `{"not": …}`.
  func access() throws -> TenantFilter? {
    try value("access").map { try Self.access($0, path: path("access"), depth: 0) }
  }

  private static func access(_ value: JinjaValue, path: String, depth: Int) throws -> TenantFilter {
    let reader = try operation(value, path: path, depth: depth)
    func parts(_ word: String) throws -> [TenantFilter]? {
      try reader.list(word)?.enumerated().map {
        try access($1, path: "\(path).\(word).\($0)", depth: depth + 1)
      }
    }
    if let name = try reader.string("tenant") { return .tenant(name) }
    if let all = try parts("and") { return .and(all) }
    if let any = try parts("or") { return .or(any) }
    if let part = reader.value("not") { return .not(try access(part, path: "\(path).not", depth: depth + 1)) }
    throw OpenAIError.invalid(path, seen: "an object without one of them", expected: "tenant, and, or, or not")
  }

  /// `{"field": path, "equals": value}`, or in its place `in`, `gt`, `gte`, `lt`, `lte`, `exists`; or `and`, `or`, `not`.
  func filter() throws -> PayloadFilter? {
    try value("filter").map { try Self.filter($0, path: path("filter"), depth: 0) }
  }

  private static func filter(_ value: JinjaValue, path: String, depth: Int) throws -> PayloadFilter {
    let reader = try operation(value, path: path, depth: depth)
    func parts(_ word: String) throws -> [PayloadFilter]? {
      try reader.list(word)?.enumerated().map {
        try filter($1, path: "\(path).\(word).\($0)", depth: depth + 1)
      }
    }
    if let all = try parts("and") { return .and(all) }
    if let any = try parts("or") { return .or(any) }
    if let part = reader.value("not") { return .not(try filter(part, path: "\(path).not", depth: depth + 1)) }
    guard let field = try reader.string("field") else {
      throw OpenAIError.invalid(path, seen: "an object without one of them", expected: "field, and, or, or not")
    }
    if let value = reader.value("equals") { return .equals(field, try scalar(value, path: "\(path).equals")) }
    if let values = try reader.list("in") {
      return .isIn(field, try values.enumerated().map { try scalar($1, path: "\(path).in.\($0)") })
    }
    if let isThere = try reader.bool("exists") { return isThere ? .exists(field) : .not(.exists(field)) }
    func bound(_ word: String) throws -> PayloadFilter.Value? {
      try reader.value(word).map { try scalar($0, path: "\(path).\(word)") }
    }
    return .range(
      field,
      .init(above: try bound("gt"), from: try bound("gte"), below: try bound("lt"), upTo: try bound("lte")))
  }

  private static func operation(_ value: JinjaValue, path: String, depth: Int) throws -> RequestReader {
    guard depth < deepest else {
      throw OpenAIError.invalid(path, seen: "deeper than \(deepest) levels", expected: "a flatter formula")
    }
    return try RequestReader(value, path: path)
  }

  private static func scalar(_ value: JinjaValue, path: String) throws -> PayloadFilter.Value {
    switch value {
    case .string(let text): return .string(text)
    case .integer(let number): return .integer(Int64(number))
    case .float(let number): return .number(number)
    case .boolean(let flag): return .bool(flag)
    default: throw OpenAIError.invalid(path, seen: value.brief, expected: "a string, a number, true or false")
    }
  }

  // MARK: tenants

  func tenantUpdate() throws -> TenantUpdate {
    var update = TenantUpdate(groups: try names("groups"))
    if value("state") != nil { update.state = try choice("state", TenantState.active) }
    update.quota = try quota("quota") { try integer($0, 0...Int.max) }
    update.byteQuota = try quota("byte_quota") { try integer($0, 0...Int.max) }
    update.queryQuota = try quota("query_quota") { try number($0, Self.queryRates) }
    return update
  }

  /// Queries a second that a quota may allow: from one in some days to more than there can be.
  static let queryRates = 1e-6...1e9

  /// Null lifts a quota.
  private func quota<Limit>(
    _ field: String, _ read: (String) throws -> Limit?
  ) throws -> TenantUpdate.Quota<Limit>? {
    if let limit = try read(field) { return .at(limit) }
    return fields[field] == nil ? nil : .unlimited
  }
}

extension Hit {
  /// Hits as `/v1/collections/NAME/search` answers them.
  public static func json(_ hits: [Hit]) throws -> String {
    String(decoding: CompactJSON.bytes(try CollectionJSON.list(hits)), as: UTF8.self)
  }
}

/// Collections' answers.
enum CollectionJSON {
  static func description(_ collection: VectorCollection) -> JinjaValue {
    let config = collection.config
    return [
      "object": "collection", "name": .string(config.name), "dimension": .integer(config.vectors.dim),
      "metric": .string(config.vectors.metric.rawValue), "quantizer": .string(config.vectors.quantizer.rawValue),
      "embedding_model": config.embeddingModel.map { .string($0) } ?? .none,
      "embedding_weights": collection.weightsDigest.map { .string($0) } ?? .none,
      "indexed_fields": .list(config.indexedFields.map { .string($0) }),
    ]
  }

  static func key(_ key: PointKey) -> JinjaValue {
    switch key {
    case .integer(let number): .integer(Int(number))
    case .text(let text): .string(text)
    }
  }

  static func point(_ point: VisiblePoint) throws -> JinjaMapping {
    var fields: JinjaMapping = [
      "id": key(point.key), "owner": point.owner.map { .string($0) } ?? .none,
      "text": point.text.map { .string($0) } ?? .none,
      "payload": try point.payload.map { try JinjaValue(json: Array($0.utf8)) } ?? .none,
      "expires_at": point.expiresAt.map { .integer($0) } ?? .none,
    ]
    if let vector = point.vector { fields["vector"] = .list(vector.map(number)) }
    return fields
  }

  static func list(_ hits: [Hit]) throws -> JinjaValue {
    ["object": "list", "data": .list(try hits.map(hit))]
  }

  static func hit(_ hit: Hit) throws -> JinjaValue {
    var fields = try point(hit.point)
    fields["distance"] = hit.distance.map(number) ?? JinjaValue.none
    fields["score"] = .float(hit.score)
    return .mapping(fields)
  }

  /// With the digits of the f32, not those of its f64.
  private static func number(_ value: Float) -> JinjaValue { .float(Double(value.description) ?? Double(value)) }

  static func stats(_ stats: TenantStats) -> JinjaValue {
    var fields: JinjaMapping = [
      "tenant": .string(stats.tenant), "state": .string(stats.state.rawValue),
      "quota": stats.quotas.vectors.map { .integer($0) } ?? .none,
      "byte_quota": stats.quotas.bytes.map { .integer($0) } ?? .none,
      "query_quota": stats.quotas.queries.map { .float($0) } ?? .none,
      "groups": .list(stats.groups.map { .string($0) }), "owned": .integer(stats.owned), "held": .integer(stats.held),
      "visible": .integer(stats.visible),
      "bytes": [
        "vectors": .integer(stats.bytes.vectors), "payloads": .integer(stats.bytes.payloads),
        "grants": .integer(stats.bytes.grants), "total": .integer(stats.bytes.total),
      ],
      "refused_queries": .integer(stats.refusedQueries),
    ]
    if let searches = stats.searches {
      fields["searches"] = [
        "count": .integer(searches.count), "scanned": .integer(searches.scanned),
        "microseconds": .integer(searches.microseconds),
      ]
    }
    return .mapping(fields)
  }

  static func stats(_ stats: VectorStats, _ bytes: CollectionBytes) -> JinjaValue {
    [
      "vectors": .integer(stats.vectors), "deleted": .integer(stats.deleted), "tenants": .integer(stats.tenants),
      "grants": .integer(stats.grants), "clusters": .integer(stats.clusters),
      "bytes": [
        "vectors": .integer(bytes.vectors), "index": .integer(bytes.index), "payloads": .integer(bytes.payloads),
        "total": .integer(bytes.total),
      ],
    ]
  }
}
