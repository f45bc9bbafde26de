import ApusCollections
import Foundation
import GRPCCore
import GRPCProtobuf
import Synchronization
import Testing

@testable import ApusGRPC

@Suite struct CallErrorTests {
  @Test func `only known keys come in, and only an administrator's acts for others`() async throws {
    try await ServedStore.with { served in
      try await served.create()
      func count(as caller: String?, tenant: String? = nil) async throws -> UInt64 {
        let answer: WireCountResponse = try await served.call(
          Method.Count.descriptor, WireCountRequest.with { $0.collection = "docs" }, as: caller, tenant: tenant)
        return answer.count
      }
      let missing = try await fault { try await count(as: nil) }
      #expect(missing.code == .unauthenticated && missing.reason == "invalid_api_key")
      for key in ["key-of-carol", "", "key-of-alice2"] {
        #expect(try await fault { try await count(as: key) }.code == .unauthenticated, "\(key)")
      }
      let other = try await fault { try await count(as: "alice", tenant: "bob") }
      #expect(other.code == .permissionDenied && other.reason == "other_tenant")
      try await served.upsert([WirePoint(1, [1, 1, 1, 1])])
      #expect(try await count(as: "alice") == 1)
      #expect(try await count(as: "alice", tenant: "alice") == 1)
      #expect(try await count(as: "admin", tenant: "alice") == 1)
      #expect(try await count(as: "admin") == 0)

      let byOtherKey: WireCountResponse = try await served.client.unary(
        request: ClientRequest(message: .with { $0.collection = "docs" }, metadata: ["x-api-key": "key-of-alice"]),
        descriptor: Method.Count.descriptor, serializer: ProtobufSerializer<WireCountRequest>(),
        deserializer: ProtobufDeserializer<WireCountResponse>(), options: .defaults
      ) { try $0.message }
      #expect(byOtherKey.count == 1)
    }
  }

  @Test func `without keys everybody may do everything as the tenant that they name`() async throws {
    try await ServedStore.with(hasKeys: false) { served in
      let collection = WireCollection.with {
        $0.name = "docs"
        $0.dimension = 2
      }
      let _: WireCollection = try await served.call(Method.CreateCollection.descriptor, collection, as: nil)
      let upsert = WireUpsertPointsRequest.with {
        $0.collection = "docs"
        $0.points = [WirePoint(1, [1, 0])]
      }
      let _: WireUpsertPointsResponse = try await served.call(Method.UpsertPoints.descriptor, upsert, as: nil)
      let _: WireUpsertPointsResponse = try await served.call(
        Method.UpsertPoints.descriptor, upsert, as: nil, tenant: "carol")
      let get = WireGetPointRequest.with {
        $0.collection = "docs"
        $0.id = 1
      }
      for (tenant, owner) in [(nil, "default"), ("carol", "carol")] {
        let point: WireVisiblePoint = try await served.call(Method.GetPoint.descriptor, get, as: nil, tenant: tenant)
        #expect(point.owner == owner)
      }
    }
  }

  @Test func `what is absent and what is another's give the same error to the letter`() async throws {
    try await ServedStore.with { served in
      try await served.create()
      try await served.upsert([WirePoint("secret", [1, 0, 0, 0], text: "treasure")], as: "bob")
      func faults(_ id: WirePointID, _ owner: String?) async throws -> [Fault] {
        let deletion = WireDeletePointsRequest.with {
          $0.collection = "docs"
          $0.ids = [id]
          if let owner { $0.owner = owner }
        }
        let grant = WireGrantRequest.with {
          $0.collection = "docs"
          $0.ids = [id]
          $0.tenants = ["alice"]
          if let owner { $0.owner = owner }
        }
        let revoke = WireRevokeRequest.with {
          $0.collection = "docs"
          $0.ids = [id]
          $0.tenants = ["alice"]
          if let owner { $0.owner = owner }
        }
        return [
          try await fault { try await served.get(id, of: owner) },
          try await fault {
            try await served.call(Method.DeletePoints.descriptor, deletion) as WireDeletePointsResponse
          },
          try await fault { try await served.call(Method.Grant.descriptor, grant) as WireGrantResponse },
          try await fault { try await served.call(Method.Revoke.descriptor, revoke) as WireRevokeResponse },
        ]
      }
      let absent = try await faults("nothing", nil)
      #expect(absent.allSatisfy { $0.code == .notFound && $0.reason == "not_found" }, "\(absent)")
      #expect(try await faults("secret", nil) == absent)
      #expect(try await faults("secret", "bob") == absent)
      #expect(try await faults("secret", "nobody") == absent)
      #expect(try await served.get("secret", as: "bob").text == "treasure")

      func tenant(_ name: String) async throws -> Fault {
        let request = WireGetTenantRequest.with {
          $0.collection = "docs"
          $0.tenant = name
        }
        return try await fault { try await served.call(Method.GetTenant.descriptor, request) as WireTenant }
      }
      #expect(try await tenant("bob") == tenant("nobody"))
    }
  }

  /// What a call is refused for: the path, what was seen and what was expected.
  private struct Refusal: CustomStringConvertible, Sendable {
    var field: String
    var message: String
    var query = WireQuery([1, 0, 0, 0])
    var description: String { field }

    init(_ field: String, _ message: String, _ change: (inout WireQuery) -> Void) {
      self.field = field
      self.message = message
      change(&query)
    }
  }

  private static func nested(_ depth: Int) -> WirePayloadFilter {
    depth == 0
      ? .with {
        $0.field = .with {
          $0.field = "lang"
          $0.exists = true
        }
      } : .with { $0.not = nested(depth - 1) }
  }

  private static let refusals: [Refusal] = [
    Refusal("query.vector", "is 3 numbers, expected 4") { $0.vector = [1, 2, 3] },
    Refusal("query.vector.2", "is nan, expected a finite number") { $0.vector = [1, 2, .nan, 4] },
    Refusal("query.vector.0", "is inf, expected a finite number") { $0.vector = [.infinity, 2, 3, 4] },
    Refusal("query.vector", "is all zeros, expected a vector with a direction: cosine") { $0.vector = [0, 0, 0, 0] },
    Refusal("query.vector", "is nothing, expected a vector, or a text") { $0.vector = [] },
    Refusal("query.vector", "is nothing, expected a vector: the collection has no embedding model") {
      $0.vector = []
      $0.text = "words"
    },
    Refusal("query.text", "is nothing, expected the words to look for") { $0.mode = .keyword },
    Refusal("query.mode", "is 9, expected 0 to 3") { $0.mode = .UNRECOGNIZED(9) },
    Refusal("query.k", "is 0, expected 1 to 10000") { $0.k = 0 },
    Refusal("query.k", "is 4294967295, expected 1 to 10000") { $0.k = .max },
    Refusal("query.access.or.filters.1", "is nothing, expected tenant, and, or, or not") {
      $0.access = .with { $0.or = .with { $0.filters = [.with { $0.tenant = "team" }, .init()] } }
    },
    Refusal("query.filter.field", "is nothing, expected equals, in, range or exists") {
      $0.filter = .with { $0.field = .with { $0.field = "lang" } }
    },
    Refusal("query.filter.not.field.range.lt", "is nan, expected a finite number") {
      $0.filter = .with {
        $0.not = .with {
          $0.field = .with {
            $0.field = "lang"
            $0.range = .with { $0.lt = .with { $0.number = .nan } }
          }
        }
      }
    },
    Refusal("query.filter", "is the field 'secret', expected an indexed field: lang") {
      $0.filter = .with {
        $0.field = .with {
          $0.field = "secret"
          $0.equals = .with { $0.flag = true }
        }
      }
    },
    Refusal(
      "query.filter" + String(repeating: ".not", count: 16), "is deeper than 16 levels, expected a flatter formula"
    ) { $0.filter = nested(16) },
  ]

  @Test func `a search that makes no sense is refused with the field's path, what was seen and what was expected`()
    async throws
  {
    try await ServedStore.with { served in
      try await served.create(metric: .cosine, fields: ["lang"])
      // Also where nothing is to be seen.
      for caller in ["alice", "bob"] {
        for refusal in Self.refusals {
          let seen = try await fault { try await served.search(refusal.query, as: caller) }
          #expect(seen.code == .invalidArgument && seen.reason == "invalid_value", "\(seen)")
          #expect(seen.field == refusal.field)
          #expect(seen.message == "\(refusal.field) \(refusal.message)")
        }
        try await served.upsert([WirePoint(1, [1, 0, 0, 0])])
      }
      var query = WireQuery([1, 0, 0, 0])
      query.targetRecall = 1.5
      #expect(try await fault { try await served.search(query) }.field == "query.target_recall")
      query.clearTargetRecall()
      query.patience = 0
      #expect(try await fault { try await served.search(query) }.field == "query.patience")

      let batch = WireSearchBatchRequest.with {
        $0.collection = "docs"
        $0.queries = [WireQuery([1, 0, 0, 0]), WireQuery([1, 0])]
      }
      let second = try await fault {
        try await served.call(Method.SearchBatch.descriptor, batch) as WireSearchBatchResponse
      }
      #expect(second.code == .invalidArgument && second.field == "queries.1.vector")
      let greedy = WireSearchBatchRequest.with {
        $0.collection = "docs"
        $0.queries = [WireQuery([1, 0, 0, 0], k: 6000), WireQuery([1, 0, 0, 0], k: 4001)]
      }
      let tooMany = try await fault {
        try await served.call(Method.SearchBatch.descriptor, greedy) as WireSearchBatchResponse
      }
      #expect(tooMany.field == "queries" && tooMany.message.contains("10001 hits"))
    }
  }

  @Test func `points that make no sense are refused, all of them`() async throws {
    try await ServedStore.with { served in
      try await served.create(metric: .cosine)
      let good = WirePoint("good", [1, 0, 0, 0])
      var past = good
      past.id = "past"
      past.expiresAt = 5
      let bad: [(WirePoint, String)] = [
        (WirePoint("nan", [1, .nan, 0, 0]), "points.1.vector.1"), (WirePoint("short", [1]), "points.1.vector"),
        (WirePoint("zero", [0, 0, 0, 0]), "points.1.vector"), (WirePoint("none"), "points.1"),
        (WirePoint(WirePointID(), [1, 0, 0, 0]), "points.1.id"), (WirePoint("", [1, 0, 0, 0]), "points.1.id"),
        (WirePoint("good", [1, 0, 0, 0]), "points.1.id"), (past, "points.1.expires_at"),
        (WirePoint("list", [1, 0, 0, 0], payload: "[1]"), "points.1.payload"),
        (WirePoint("share", [1, 0, 0, 0], shareWith: ["bob", ""]), "points.1.share_with.1"),
      ]
      for (point, field) in bad {
        let seen = try await fault { try await served.upsert([good, point]) }
        #expect(seen.code == .invalidArgument && seen.field == field, "\(seen)")
      }
      #expect(try await fault { try await served.get("good") }.code == .notFound)

      let keyless = WireDeletePointsRequest.with { $0.collection = "docs" }
      let nothing = try await fault {
        try await served.call(Method.DeletePoints.descriptor, keyless) as WireDeletePointsResponse
      }
      #expect(nothing.field == "ids")
      for (dim, name, field) in [(0, "a", "dimension"), (1 << 20, "a", "dimension"), (4, "../a", "name")] {
        let seen = try await fault { try await served.create(name, dim: dim) }
        #expect(seen.code == .invalidArgument && seen.field == field, "\(seen)")
      }
      #expect(try await fault { try await served.create("a", metric: .UNRECOGNIZED(7)) }.field == "metric")
      for name in ["nowhere", "..", "docs/../docs", ""] {
        let unknown = try await fault { try await served.search(WireQuery([1, 0, 0, 0]), in: name) }
        #expect(unknown.code == .notFound)
      }
    }
  }

  @Test func `a quota is named to its tenant, and to nobody else`() async throws {
    try await ServedStore.with { served in
      try await served.create()
      let _: WireTenant = try await served.call(
        Method.UpdateTenant.descriptor,
        WireUpdateTenantRequest.with {
          $0.collection = "docs"
          $0.tenant = "bob"
          $0.quota = 1
        }, as: "admin")
      try await served.upsert([WirePoint(1, [1, 0, 0, 0])], as: "bob")
      let own = try await fault { try await served.upsert([WirePoint(2, [1, 0, 0, 0])], as: "bob") }
      #expect(own.code == .resourceExhausted && own.reason == "quota_exceeded" && own.field == "points.0")
      #expect(own.message.contains("its quota is 1"))
      try await served.upsert([WirePoint(3, [1, 0, 0, 0])])
      let foreign = try await fault { try await served.grant([3], to: ["bob"]) }
      #expect(foreign.code == .resourceExhausted && foreign.field == "tenants")
      #expect(!foreign.message.contains("quota is"))
    }
  }

  /// Seconds that a test sets.
  private final class Clock: Sendable {
    private let time = Mutex(0.0)
    var now: Double { time.withLock { $0 } }
    func advance(_ seconds: Double) { time.withLock { $0 += seconds } }
  }

  @Test func `bytes and queries have quotas, and a refusal says when to come back`() async throws {
    let clock = Clock()
    try await ServedStore.with(quotas: TenantQuotas(bytes: 100), uptime: { clock.now }) { served in
      try await served.create()
      @Sendable func tenant(
        _ change: @Sendable (inout WireUpdateTenantRequest) -> Void
      ) async throws -> WireTenant {
        var request = WireUpdateTenantRequest.with {
          $0.collection = "docs"
          $0.tenant = "alice"
        }
        change(&request)
        return try await served.call(Method.UpdateTenant.descriptor, request, as: "admin")
      }
      try await served.upsert([WirePoint(1, [1, 0, 0, 0])])
      let text = String(repeating: "a", count: 200)
      let full = try await fault { try await served.upsert([WirePoint(2, [1, 0, 0, 0], text: text)]) }
      #expect(full.code == .resourceExhausted && full.reason == "quota_exceeded" && full.field == "points", "\(full)")
      #expect(full.message.contains("no more bytes; its quota is 100"))
      #expect(try await tenant { $0.byteQuota = 1000 }.byteQuota == 1000)
      try await served.upsert([WirePoint(2, [1, 0, 0, 0], text: text)])

      let limited = try await tenant { $0.queryQuota = 2 }
      #expect(limited.queryQuota == 2 && limited.bytes.total == 2 * (16 + 8 + 8) + 200 && limited.hasSearches)
      let batch = WireSearchBatchRequest.with {
        $0.collection = "docs"
        $0.queries = [WireQuery([1, 0, 0, 0]), WireQuery([0, 1, 0, 0])]
      }
      func ask() async throws -> WireSearchBatchResponse { try await served.call(Method.SearchBatch.descriptor, batch) }
      #expect(try await ask().results.count == 2)
      let count = WireCountRequest.with { $0.collection = "docs" }
      let scroll = WireScrollRequest.with { $0.collection = "docs" }
      for refused in [
        try await fault { try await ask() },
        try await fault { try await served.search(WireQuery([1, 0, 0, 0])) },
        try await fault { try await served.call(Method.Count.descriptor, count) as WireCountResponse },
        try await fault { try await served.call(Method.Scroll.descriptor, scroll) as WireScrollResponse },
      ] {
        #expect(refused.code == .resourceExhausted && refused.reason == "rate_limit_exceeded", "\(refused)")
        let wait = try #require(refused.retryAfter)
        #expect(wait == .milliseconds(500) || wait == .seconds(1), "\(wait)")
      }
      // Nobody else waits.
      #expect(try await served.search(WireQuery([1, 0, 0, 0]), as: "bob").isEmpty)
      clock.advance(1)
      #expect(try await ask().results.count == 2)

      let own: WireTenant = try await served.call(
        Method.GetTenant.descriptor,
        WireGetTenantRequest.with {
          $0.collection = "docs"
          $0.tenant = "alice"
        })
      #expect(own.refusedQueries == 5 && own.queryQuota == 2 && own.byteQuota == 1000 && !own.hasSearches)
      let lifted = try await tenant {
        $0.unlimitedQueries = true
        $0.unlimitedBytes = true
      }
      #expect(!lifted.hasQueryQuota && lifted.byteQuota == 100)
      for rate in [0, -1, Double.nan, .infinity] {
        #expect(try await fault { try await tenant { $0.queryQuota = rate } }.field == "query_quota")
      }
      #expect(try await fault { try await tenant { $0.byteQuota = .max } }.field == "byte_quota")
    }
  }

  @Test func `an administrator lists tenants a page at a time, and nobody else does`() async throws {
    try await ServedStore.with { served in
      try await served.create()
      for caller in ["alice", "bob"] { try await served.upsert([WirePoint(1, [1, 0, 0, 0])], as: caller) }
      func list(as caller: String, after: String? = nil, limit: UInt32? = 1) async throws -> WireListTenantsResponse {
        try await served.call(
          Method.ListTenants.descriptor,
          WireListTenantsRequest.with {
            $0.collection = "docs"
            if let after { $0.after = after }
            if let limit { $0.limit = limit }
          }, as: caller)
      }
      let first = try await list(as: "admin")
      #expect(first.tenants.map(\.tenant) == ["alice"] && first.nextAfter == "alice")
      let second = try await list(as: "admin", after: first.nextAfter)
      #expect(second.tenants.map(\.tenant) == ["bob"] && !second.hasNextAfter)
      #expect(try await list(as: "admin", limit: nil).tenants.map(\.bytes.total) == [32, 32])
      #expect(try await fault { try await list(as: "alice") }.code == .permissionDenied)
      #expect(try await fault { try await list(as: "admin", limit: 0) }.field == "limit")
      let stats: WireStats = try await served.call(
        Method.GetStats.descriptor, WireGetStatsRequest.with { $0.collection = "docs" }, as: "admin")
      #expect(stats.collection.bytes.payloads == 16 && stats.collection.bytes.total > 16)
    }
  }

  @Test func `who is an administrator is said by the roles`() async throws {
    try await ServedStore.with(roles: Roles(["alice": .admin, "admin": .tenant])) { served in
      #expect(try await fault { try await served.create(as: "admin") }.code == .permissionDenied)
      try await served.create(as: "alice")
      let count = WireCountRequest.with { $0.collection = "docs" }
      let _: WireCountResponse = try await served.call(Method.Count.descriptor, count, as: "alice", tenant: "bob")
      let refused = try await fault {
        try await served.call(Method.Count.descriptor, count, as: "admin", tenant: "bob") as WireCountResponse
      }
      #expect(refused.reason == "other_tenant")
    }
  }

  /// Four letters, with weights that a test changes.
  private final class Weights: TextEmbedder {
    let digest = Mutex("1111")
    func weightsDigest(of model: String) -> String? { digest.withLock { $0 } }
    func dim(of model: String) throws -> Int { try Letters().dim(of: model) }
    func embed(_ texts: [String], model: String) async throws -> [[Float]] {
      try await Letters().embed(texts, model: model)
    }
  }

  @Test func `other weights of the model's name are a failed precondition`() async throws {
    let weights = Weights()
    try await ServedStore.with(embedder: weights) { served in
      #expect(try await served.create(metric: .cosine, model: "letters").embeddingWeights == "1111")
      try await served.upsert([WirePoint(1, text: "ab")])
      weights.digest.withLock { $0 = "2222" }
      var query = WireQuery([])
      query.text = "ab"
      for seen in [
        try await fault { try await served.upsert([WirePoint(2, text: "ab")]) },
        try await fault { [query] in try await served.search(query) },
      ] {
        #expect(seen.code == .failedPrecondition && seen.reason == "embedding_model_changed", "\(seen)")
        #expect(seen.field == "embedding_model" && seen.message.contains("weights 2222, expected 1111"))
      }
    }
  }

  @Test func `what goes wrong inside stays inside`() async throws {
    try await ServedStore.with { served in
      try await served.create()
      try served.store.close()
      let seen = try await fault { try await served.search(WireQuery([1, 0, 0, 0])) }
      #expect(
        seen
          == Fault(
            code: .internalError, reason: "internal_error", field: nil,
            message: "the server could not do it; its log says why"))
    }
  }

  @Test func `bytes that are no message are an invalid argument`() async throws {
    try await ServedStore.with { served in
      struct Bytes: MessageSerializer, MessageDeserializer {
        func serialize<B: GRPCContiguousBytes>(_ message: [UInt8]) throws -> B { B(message) }
        func deserialize<B: GRPCContiguousBytes>(_ bytes: B) throws -> [UInt8] { [] }
      }
      for caller in ["alice", nil] {
        let seen = try await fault {
          try await served.client.unary(
            request: ClientRequest(message: [0xFF, 0xFF, 0x01], metadata: ServedStore.metadata(caller)),
            descriptor: Method.Search.descriptor, serializer: Bytes(), deserializer: Bytes(), options: .defaults
          ) { try $0.message }
        }
        #expect(seen.code == (caller == nil ? .unauthenticated : .invalidArgument))
      }
    }
  }
}
