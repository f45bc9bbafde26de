import ApusCollections
import ApusVectors

/// What messages say, checked; errors name the field. An absent message counts as an empty one.

extension WireCollection {
  /// Without a dimension, that of the embedding model.
  func config(embedder: (any TextEmbedder)?) throws -> CollectionConfig {
    let model = hasEmbeddingModel ? embeddingModel : nil
    guard let dim = try dimension > 0 ? Int(dimension) : model.flatMap({ try embedder?.dim(of: $0) }) else {
      throw CallError.missing("dimension", expected: "how many numbers a vector has, or an embedding model's name")
    }
    return CollectionConfig(
      name: name, vectors: VectorConfig(dim: dim, metric: try vectorMetric, quantizer: try vectorQuantizer),
      embeddingModel: model, indexedFields: indexedFields)
  }

  private var vectorMetric: VectorMetric {
    get throws {
      switch metric {
      case .unspecified, .cosine: .cosine
      case .l2: .l2
      case .ip: .ip
      case .UNRECOGNIZED(let number): throw unknownChoice("metric", number, WireMetric.allCases)
      }
    }
  }

  private var vectorQuantizer: VectorQuantizer {
    get throws {
      switch quantizer {
      case .unspecified: .standard
      case .sq8: .sq8
      case .none: .none
      case .rabitq: .rabitq
      case .UNRECOGNIZED(let number): throw unknownChoice("quantizer", number, WireQuantizer.allCases)
      }
    }
  }
}

private func unknownChoice<T>(_ path: String, _ number: Int, _ all: [T]) -> CollectionError {
  .invalid(path: path, seen: "\(number)", expected: "0 to \(all.count - 1)")
}

extension WirePointID {
  func key(_ path: String) throws -> PointKey {
    switch id {
    case .integer(let number): .integer(number)
    case .text(let text): .text(text)
    case nil: throw CallError.missing(path, expected: "an integer or a text")
    }
  }

  static func keys(_ ids: [WirePointID]) throws -> [PointKey] {
    guard !ids.isEmpty else { throw CallError.missing("ids", expected: "ids of points") }
    guard ids.count <= VectorCollection.maximumBatch else {
      throw CollectionError.invalid(
        path: "ids", seen: "\(ids.count) ids", expected: "at most \(VectorCollection.maximumBatch)")
    }
    return try ids.enumerated().map { try $1.key("ids.\($0)") }
  }
}

extension WirePoint {
  func point(_ path: String) throws -> Point {
    Point(
      try id.key("\(path).id"), vector: vector.isEmpty ? nil : vector, text: hasText ? text : nil,
      payload: hasPayload ? payload : nil, expiresAt: hasExpiresAt ? Int(expiresAt) : nil, shareWith: shareWith)
  }
}

extension WireUpsertPointsRequest {
  func checkedPoints() throws -> [Point] { try points.enumerated().map { try $1.point("points.\($0)") } }
}

extension WireQuery {
  func query(for config: CollectionConfig) throws -> Query {
    let mode = try queryMode
    guard !vector.isEmpty || hasText else { throw CallError.missing("vector", expected: "a vector, or a text") }
    guard mode == .keyword || !vector.isEmpty || config.embeddingModel != nil else {
      throw CallError.missing("vector", expected: "a vector: the collection has no embedding model")
    }
    return Query(
      mode: mode, vector: vector.isEmpty ? nil : vector, text: hasText ? text : nil,
      access: try hasAccess ? access.filter("access") : nil, payload: try hasFilter ? filter.filter("filter") : nil,
      options: SearchOptions(
        k: hasK ? Int(k) : Self.usualK, patience: hasPatience ? Int(patience) : nil,
        targetRecall: hasTargetRecall ? targetRecall : nil, exact: exact))
  }

  static let usualK = 10

  private var queryMode: Query.Mode {
    get throws {
      switch mode {
      case .unspecified: !vector.isEmpty && hasText ? .hybrid : .vector
      case .vector: .vector
      case .keyword: .keyword
      case .hybrid: .hybrid
      case .UNRECOGNIZED(let number): throw unknownChoice("mode", number, Self.Mode.allCases)
      }
    }
  }
}

extension WireSearchBatchRequest {
  func checkedQueries(for config: CollectionConfig) throws -> [Query] {
    let queries = try queries.enumerated().map { i, query in
      try inField("queries.\(i)") { try query.query(for: config) }
    }
    let hits = queries.reduce(0) { $0 + $1.options.k }
    // As many as one search may give: an answer has to fit into memory.
    guard hits <= SearchOptions.maximumK else {
      throw CollectionError.invalid(
        path: "queries", seen: "\(hits) hits asked for", expected: "at most \(SearchOptions.maximumK) in one call")
    }
    return queries
  }
}

// MARK: conditions

private let deepest = 16

private func checkDepth(_ depth: Int, _ path: String) throws {
  guard depth < deepest else {
    throw CollectionError.invalid(path: path, seen: "deeper than \(deepest) levels", expected: "a flatter formula")
  }
}

extension WireTenantFilter {
  func filter(_ path: String, depth: Int = 0) throws -> TenantFilter {
    try checkDepth(depth, path)
    func parts(_ word: String, _ all: WireTenantFilters) throws -> [TenantFilter] {
      try all.filters.enumerated().map { try $1.filter("\(path).\(word).filters.\($0)", depth: depth + 1) }
    }
    switch condition {
    case .tenant(let name): return .tenant(name)
    case .and(let all): return .and(try parts("and", all))
    case .or(let all): return .or(try parts("or", all))
    case .not(let part): return .not(try part.filter("\(path).not", depth: depth + 1))
    case nil: throw CallError.missing(path, expected: "tenant, and, or, or not")
    }
  }
}

extension WirePayloadFilter {
  func filter(_ path: String, depth: Int = 0) throws -> PayloadFilter {
    try checkDepth(depth, path)
    func parts(_ word: String, _ all: WirePayloadFilters) throws -> [PayloadFilter] {
      try all.filters.enumerated().map { try $1.filter("\(path).\(word).filters.\($0)", depth: depth + 1) }
    }
    switch condition {
    case .field(let condition): return try condition.filter("\(path).field")
    case .and(let all): return .and(try parts("and", all))
    case .or(let all): return .or(try parts("or", all))
    case .not(let part): return .not(try part.filter("\(path).not", depth: depth + 1))
    case nil: throw CallError.missing(path, expected: "field, and, or, or not")
    }
  }
}

extension WireFieldCondition {
  fileprivate func filter(_ path: String) throws -> PayloadFilter {
    switch test {
    case .equals(let value): return .equals(field, try value.scalar("\(path).equals"))
    case .in(let values):
      return .isIn(field, try values.values.enumerated().map { try $1.scalar("\(path).in.values.\($0)") })
    case .range(let bounds):
      func bound(_ isGiven: Bool, _ value: WireValue, _ word: String) throws -> PayloadFilter.Value? {
        try isGiven ? value.scalar("\(path).range.\(word)") : nil
      }
      return .range(
        field,
        .init(
          above: try bound(bounds.hasGt, bounds.gt, "gt"), from: try bound(bounds.hasGte, bounds.gte, "gte"),
          below: try bound(bounds.hasLt, bounds.lt, "lt"), upTo: try bound(bounds.hasLte, bounds.lte, "lte")))
    case .exists(let isThere): return isThere ? .exists(field) : .not(.exists(field))
    case nil: throw CallError.missing(path, expected: "equals, in, range or exists")
    }
  }
}

extension WireValue {
  fileprivate func scalar(_ path: String) throws -> PayloadFilter.Value {
    switch value {
    case .text(let text): return .string(text)
    case .integer(let number): return .integer(number)
    case .number(let number):
      guard number.isFinite else {
        throw CollectionError.invalid(path: path, seen: "\(number)", expected: "a finite number")
      }
      return .number(number)
    case .flag(let flag): return .bool(flag)
    case nil: throw CallError.missing(path, expected: "a text, a number, true or false")
    }
  }
}

// MARK: tenants

extension WireUpdateTenantRequest {
  func update() throws -> TenantUpdate {
    var update = TenantUpdate(groups: hasGroups ? groups.names : nil)
    switch state {
    case .unspecified: break
    case .active: update.state = .active
    case .inactive: update.state = .inactive
    case .offloaded: update.state = .offloaded
    case .UNRECOGNIZED(let number): throw unknownChoice("state", number, WireTenantState.allCases)
    }
    switch quotaChange {
    case .quota(let count): update.quota = .at(try limit(count, "quota"))
    case .unlimited(true): update.quota = .unlimited
    case .unlimited(false), nil: break
    }
    switch byteQuotaChange {
    case .byteQuota(let count): update.byteQuota = .at(try limit(count, "byte_quota"))
    case .unlimitedBytes(true): update.byteQuota = .unlimited
    case .unlimitedBytes(false), nil: break
    }
    switch queryQuotaChange {
    case .queryQuota(let rate): update.queryQuota = .at(rate)
    case .unlimitedQueries(true): update.queryQuota = .unlimited
    case .unlimitedQueries(false), nil: break
    }
    return update
  }

  private func limit(_ count: UInt64, _ path: String) throws -> Int {
    guard let limit = Int(exactly: count) else {
      throw CollectionError.invalid(path: path, seen: "\(count)", expected: "at most \(Int.max)")
    }
    return limit
  }
}
