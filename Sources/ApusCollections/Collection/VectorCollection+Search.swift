import ApusVectors
import GRDB

/// A condition on whom else a point was granted, by names. It narrows what the caller may see: a tenant that is neither the
/// caller nor a group of its counts as one that has nothing.
public indirect enum TenantFilter: Sendable, Equatable {
  case tenant(String)
  case and([TenantFilter])
  case or([TenantFilter])
  case not(TenantFilter)
}

/// What a search asks for.
public struct Query: Sendable, Equatable {
  public enum Mode: String, Sendable, CaseIterable {
    /// Nearest vectors.
    case vector
    /// BM25 of the text alone.
    case keyword
    /// Both, fused by their ranks.
    case hybrid
  }
  public var mode: Mode
  /// `[dim]`; nil is made of `text` by the collection's model.
  public var vector: [Float]?
  public var text: String?
  public var access: TenantFilter?
  public var payload: PayloadFilter?
  public var options: SearchOptions

  public init(
    mode: Mode = .vector, vector: [Float]? = nil, text: String? = nil, access: TenantFilter? = nil,
    payload: PayloadFilter? = nil, options: SearchOptions = SearchOptions()
  ) {
    self.mode = mode
    self.vector = vector
    self.text = text
    self.access = access
    self.payload = payload
    self.options = options
  }
}

/// A point that a search found.
public struct Hit: Sendable, Equatable {
  public var point: VisiblePoint
  /// Of the vectors, smaller is nearer; nil where only words led to the point.
  public var distance: Float?
  /// Greater is better: negative distance, BM25, or the sum of reciprocal ranks.
  public var score: Double
}

extension VectorCollection {
  /// Tenants of at most so many points have the payloads of their points read; for others SQLite's index says which
  /// points of anybody pass, and the index of vectors keeps what is the tenant's.
  private static let readAtMost = 5000
  /// How deep a hybrid search looks in each of its lists.
  private static let fusionDepth = 100
  /// Vectors are looked for as if at least so many were wanted, which is what patience is tuned for: after one good find
  /// nothing improves for long, and a better one is missed.
  private static let leastDepth = 10
  /// Tenants of at most so many vectors are scanned: a text is about anything, also what is far from all that a small
  /// tenant has, and there a tree misses the most. A scan takes less time than reading the payloads of the hits.
  private static let scannedAtMost = 800

  func resolve(_ filter: TenantFilter) -> AccessFilter {
    switch filter {
    case .tenant(let name): tenants.withLock { $0[name] }.map { AccessFilter.tenant($0.id) } ?? .or([])
    case .and(let parts): .and(parts.map(resolve))
    case .or(let parts): .or(parts.map(resolve))
    case .not(let part): .not(resolve(part))
    }
  }

  /// The ids that pass a condition on the payload and have not expired; nil when all do. `visible` are those that the
  /// tenant may see, nil when not known.
  func condition(
    _ payload: PayloadFilter?, visible: [VectorID]?, in database: Database
  ) throws -> VectorIDSet? {
    let time = now()
    guard let payload else {
      let expired = try Int64.fetchAll(
        database.cachedStatement(sql: "SELECT id FROM point WHERE expires <= ?"), arguments: [time])
      return expired.isEmpty ? nil : VectorIDSet(expired.map { VectorID($0) }, isComplement: true)
    }
    let (sql, values) = try payload.sql(fields: config.indexedFields)
    let test = "\(sql) AND (expires IS NULL OR expires > ?)"
    var (text, arguments) = ("SELECT id FROM point WHERE \(test)", StatementArguments(values + [time.databaseValue]))
    if let visible, visible.count <= Self.readAtMost {
      // The join's kind keeps SQLite from walking the field's index over everybody's points.
      text = """
        SELECT point.id FROM (SELECT value AS wanted FROM json_each(?)) CROSS JOIN point ON point.id = wanted
        WHERE \(test)
        """
      arguments = StatementArguments([Catalogue.list(visible).databaseValue] + values + [time.databaseValue])
    }
    return VectorIDSet(try Int64.fetchAll(database, sql: text, arguments: arguments).map { VectorID($0) })
  }

  /// Counts queries against the caller's quota, then fills in their vectors where they have only text.
  ///
  /// Throws `tooManyQueries`, before any text is read, and what making vectors throws.
  public func prepare(_ queries: [Query], as principal: Principal) async throws -> [Query] {
    try admit(queries.count, as: principal)
    var prepared: [Query] = []
    for query in queries { prepared.append(try await embedding(query)) }
    return prepared
  }

  /// Fills in the query's vector, if it needs one and has only text.
  public func embedding(_ query: Query) async throws -> Query {
    guard query.mode != .keyword, query.vector == nil, let text = query.text else { return query }
    var query = query
    query.vector = try await embed([text], path: "query")[0]
    return query
  }

  /// The best of what the caller may see, at most `options.k`, the best first. An unknown tenant finds nothing.
  ///
  /// Throws `inactive`, `invalid`, `VectorError`. Words are weighed by the caller's own points only, so that nothing of
  /// another tenant shows in the order.
  public func search(_ query: Query, as principal: Principal) throws -> [Hit] {
    try check(query)
    guard let caller = try active(principal) else { return [] }
    let start = ContinuousClock.now
    var scanned = 0
    defer {
      let time = start.duration(to: .now)
      searchCounts.withLock {
        $0[caller.id, default: SearchCounts()].add(scanned: scanned, time: time)
      }
    }
    // A vector whose point is not in the catalogue yet: its writer is about to end.
    for _ in 0..<3 {
      if let hits = try asking({ try attempt(query, caller, scanned: &scanned) }) { return hits }
      try catalogue.pool.write { _ in }
    }
    return try asking { try attempt(query, caller, scanned: &scanned, acceptsGaps: true) } ?? []
  }

  private func check(_ query: Query) throws {
    // Also where nothing is visible: a wrong field is a mistake of the caller's.
    _ = try query.payload?.sql(fields: config.indexedFields)
    if query.mode != .keyword {
      guard let vector = query.vector else {
        throw CollectionError.invalid(path: "vector", seen: "nothing", expected: "a vector")
      }
      try Check.vector(
        vector, dim: config.vectors.dim, hasDirection: config.vectors.metric == .cosine, path: "vector")
    }
    if query.mode != .vector {
      guard let text = query.text else {
        throw CollectionError.invalid(path: "text", seen: "nothing", expected: "the words to look for")
      }
      try Check.text(text, path: "text")
    }
    guard (1...SearchOptions.maximumK).contains(query.options.k) else {
      throw CollectionError.invalid(path: "k", seen: "\(query.options.k)", expected: "1 to \(SearchOptions.maximumK)")
    }
  }

  /// Nil when a point was missing that others than `acceptsGaps` must not do without.
  private func attempt(
    _ query: Query, _ caller: Tenant, scanned: inout Int, acceptsGaps: Bool = false
  ) throws -> [Hit]? {
    let filter = query.access.map(resolve)
    let k = query.options.k
    var visible: [VectorID]?
    if query.mode != .vector || (query.payload != nil && store.index.count(of: caller.id) <= Self.readAtMost) {
      visible = try store.index.ids(of: caller.id, filter: filter)
    }
    return try catalogue.pool.read { database in
      let among = try condition(query.payload, visible: visible, in: database)
      var near: [Neighbour] = []
      if query.mode != .keyword {
        var options = query.options
        options.k = max(k, query.mode == .hybrid ? Self.fusionDepth : Self.leastDepth)
        options.exactThreshold = max(options.exactThreshold, Self.scannedAtMost)
        let found = try store.index.search(
          query.vector!, as: caller.id, filter: filter, among: among, options: options)
        near = found.neighbours
        scanned += found.scanned
      }
      var ranked: [(id: VectorID, score: Double)]
      switch query.mode {
      case .vector: ranked = near.map { (id: $0.id, score: -Double($0.distance)) }
      case .keyword:
        ranked = try KeywordRanking(database).rank(query.text!, visible: visible!, among: among)
      case .hybrid:
        let words = try KeywordRanking(database).rank(query.text!, visible: visible!, among: among)
        ranked = ReciprocalRank.fuse([near.map(\.id), words.prefix(max(k, Self.fusionDepth)).map(\.id)])
      }
      ranked = Array(ranked.prefix(k))
      let points = try Catalogue.points(ranked.map(\.id), in: database)
      guard points.count == ranked.count || acceptsGaps else { return nil }
      let distances = Dictionary(near.map { ($0.id, $0.distance) }) { first, _ in first }
      return ranked.compactMap { id, score in
        points[id].map { Hit(point: self.visible($0), distance: distances[id], score: score) }
      }
    }
  }
}

extension SearchCounts {
  fileprivate mutating func add(scanned: Int, time: Duration) {
    count += 1
    self.scanned += scanned
    microseconds += Int(time / .microseconds(1))
  }
}
