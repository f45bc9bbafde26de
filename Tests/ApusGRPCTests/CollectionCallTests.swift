import ApusCollections
import Foundation
import GRPCCore
import GRPCProtobuf
import Testing

@testable import ApusGRPC

@Suite struct CollectionCallTests {
  @Test func `collections are made once, listed, described and deleted`() async throws {
    try await ServedStore.with { served in
      let made = try await served.create("docs", dim: 8, metric: .ip, fields: ["lang"])
      #expect(made.dimension == 8 && made.metric == .ip && made.quantizer == .rabitq && made.indexedFields == ["lang"])
      #expect(try await served.create("docs", dim: 8, metric: .ip, fields: ["lang"]) == made)
      let other = try await fault { try await served.create("docs", dim: 9) }
      #expect(other.code == .alreadyExists && other.reason == "already_exists")
      try await served.create("more")
      let all: WireListCollectionsResponse = try await served.call(
        Method.ListCollections.descriptor, WireListCollectionsRequest())
      #expect(all.collections.map(\.name) == ["docs", "more"])
      let request = WireGetCollectionRequest.with { $0.collection = "docs" }
      let described: WireCollection = try await served.call(Method.GetCollection.descriptor, request)
      #expect(described == made)

      let deletion = WireDeleteCollectionRequest.with { $0.collection = "docs" }
      let byTenant = try await fault {
        try await served.call(Method.DeleteCollection.descriptor, deletion) as WireDeleteCollectionResponse
      }
      #expect(byTenant.code == .permissionDenied && byTenant.reason == "forbidden")
      let _: WireDeleteCollectionResponse = try await served.call(
        Method.DeleteCollection.descriptor, deletion, as: "admin")
      let gone = try await fault {
        try await served.call(Method.GetCollection.descriptor, request) as WireCollection
      }
      #expect(gone.code == .notFound && gone.message == "the collection 'docs' does not exist")
    }
  }

  @Test func `points are stored, read back, replaced and deleted`() async throws {
    try await ServedStore.with { served in
      try await served.create()
      let later = Int64(Date().timeIntervalSince1970) + 1000
      var first = WirePoint(7, [1, 2, 3, 4], text: "seven", payload: #"{"n":12345678901234567}"#)
      first.expiresAt = later
      #expect(try await served.upsert([first, WirePoint("eight", [0, 0, 0, 1])]).count == 2)

      let seven = try await served.get(7)
      #expect(seven.id == 7 && seven.owner == "alice" && seven.vector == [1, 2, 3, 4] && seven.text == "seven")
      #expect(seven.payload == #"{"n":12345678901234567}"# && seven.expiresAt == later)
      let eight = try await served.get("eight")
      #expect(eight.vector == [0, 0, 0, 1] && !eight.hasText && !eight.hasPayload && !eight.hasExpiresAt)
      // An integer and the text of its digits are two ids.
      #expect(try await fault { try await served.get("7") }.code == .notFound)

      try await served.upsert([WirePoint(7, [4, 3, 2, 1])])
      let replaced = try await served.get(7)
      #expect(replaced.vector == [4, 3, 2, 1] && !replaced.hasText)

      let deletion = WireDeletePointsRequest.with {
        $0.collection = "docs"
        $0.ids = [7, "nine"]
      }
      let none = try await fault {
        try await served.call(Method.DeletePoints.descriptor, deletion) as WireDeletePointsResponse
      }
      #expect(none.code == .notFound)
      #expect(try await served.get(7).id == 7)
      let _: WireDeletePointsResponse = try await served.call(
        Method.DeletePoints.descriptor,
        WireDeletePointsRequest.with {
          $0.collection = "docs"
          $0.ids = [7, "eight"]
        })
      #expect(try await fault { try await served.get(7) }.code == .notFound)
    }
  }

  @Test(arguments: [UInt64(1), 2, 3]) func `each tenant finds exactly what it may see`(seed: UInt64) async throws {
    print("seed \(seed)")
    try await ServedStore.with { served in
      try await served.create(dim: 6)
      var random = SeededRandom(state: seed)
      func vector() -> [Float] { (0..<6).map { _ in Float.random(in: -1...1, using: &random) } }
      // What each may see, as (owner, number) and vector.
      var visible: [String: [(owner: String, number: Int64, vector: [Float])]] = ["alice": [], "bob": []]
      for (owner, other) in [("alice", "bob"), ("bob", "alice")] {
        var points: [WirePoint] = []
        for number in 0..<Int64(150) {
          let isShared = Bool.random(using: &random)
          let point = WirePoint(
            WirePointID(integerLiteral: number), vector(), shareWith: isShared && number % 2 == 0 ? [other] : [])
          points.append(point)
          visible[owner]!.append((owner, number, point.vector))
          if isShared { visible[other]!.append((owner, number, point.vector)) }
        }
        try await served.upsert(points, as: owner)
        let late = visible[other]!.filter { $0.owner == owner && $0.number % 2 == 1 }
        let ids = late.map { WirePointID(integerLiteral: $0.number) }
        if !ids.isEmpty { #expect(try await served.grant(ids, to: [other], as: owner) == ids.count) }
      }
      for caller in ["alice", "bob"] {
        var queries: [WireQuery] = []
        for k in [1, 5, 60] {
          let query = WireQuery(vector(), k: k)
          queries.append(query)
          let hits = try await served.search(query, as: caller)
          func distance(_ vector: [Float]) -> Float {
            zip(vector, query.vector).reduce(0) { $0 + ($1.0 - $1.1) * ($1.0 - $1.1) }
          }
          let nearest = visible[caller]!.sorted { distance($0.vector) < distance($1.vector) }.prefix(k)
          #expect(
            hits.map { "\($0.point.owner) \($0.point.id.integer)" } == nearest.map { "\($0.owner) \($0.number)" })
          for (hit, expected) in zip(hits, nearest) {
            #expect(abs(hit.distance - distance(expected.vector)) < 1e-4 && hit.score == -Double(hit.distance))
          }
        }
        let batch: WireSearchBatchResponse = try await served.call(
          Method.SearchBatch.descriptor,
          WireSearchBatchRequest.with {
            $0.collection = "docs"
            $0.queries = queries
          }, as: caller)
        #expect(batch.results.count == queries.count)
        for (query, result) in zip(queries, batch.results) {
          #expect(try await served.search(query, as: caller) == result.hits)
        }
        let count: WireCountResponse = try await served.call(
          Method.Count.descriptor, WireCountRequest.with { $0.collection = "docs" }, as: caller)
        #expect(Int(count.count) == visible[caller]!.count)
      }
    }
  }

  @Test func `a revoked point is gone when the call has returned`() async throws {
    try await ServedStore.with { served in
      try await served.create()
      try await served.upsert([WirePoint("a", [1, 0, 0, 0]), WirePoint("b", [0, 1, 0, 0])])
      #expect(try await served.search(WireQuery([1, 0, 0, 0]), as: "bob").isEmpty)
      #expect(try await served.grant(["a", "b"], to: ["bob"]) == 2)
      #expect(try await served.grant(["a"], to: ["bob"]) == 0)
      #expect(try await served.search(WireQuery([1, 0, 0, 0]), as: "bob").map(\.point.id) == ["a", "b"])
      #expect(try await served.get("a", of: "alice", as: "bob").owner == "alice")
      #expect(try await served.revoke(["a"], from: ["bob", "nobody"]) == 1)
      #expect(try await served.search(WireQuery([1, 0, 0, 0]), as: "bob").map(\.point.id) == ["b"])
      #expect(try await fault { try await served.get("a", of: "alice", as: "bob") }.code == .notFound)
    }
  }

  @Test func `texts go in, and queries are texts`() async throws {
    try await ServedStore.with(embedder: Letters()) { served in
      let made = try await served.create(dim: 0, metric: .cosine, model: "letters")
      #expect(made.dimension == 4 && made.embeddingModel == "letters")
      try await served.upsert([
        WirePoint("aa", text: "aaaa banana"), WirePoint("dd", text: "dddd"), WirePoint("own", [0, 0, 1, 0]),
      ])
      #expect(abs(try await served.get("dd").vector[3] - 1) < 1e-3)
      var query = WireQuery()
      query.text = "ddd"
      let near = try await served.search(query)
      #expect(near.map(\.point.id).first == "dd" && near.count == 3 && near[0].point.text == "dddd")
      query.mode = .keyword
      query.text = "banana"
      let words = try await served.search(query)
      #expect(words.map(\.point.id) == ["aa"] && !words[0].hasDistance && words[0].score > 0)
      query.mode = .unspecified
      query.vector = [0, 0, 1, 0]
      let both = try await served.search(query)
      #expect(Set(both.prefix(2).map(\.point.id)) == ["own", "aa"])
      let unknown = try await fault { try await served.create("other", dim: 4, model: "sounds") }
      #expect(unknown.code == .notFound && unknown.reason == "model_not_found")
    }
  }

  @Test func `conditions on payloads and on tenants narrow searches, counts and pages`() async throws {
    try await ServedStore.with { served in
      try await served.create(fields: ["lang", "year"])
      try await served.upsert(
        (0..<20).map { i in
          WirePoint(
            WirePointID(integerLiteral: Int64(i)), [Float(i), 0, 0, 0],
            payload: #"{"lang":"\#(i % 2 == 0 ? "en" : "de")","year":\#(2000 + i)}"#,
            shareWith: i < 4 ? ["team"] : [])
        })
      let _: WireTenant = try await served.call(
        Method.UpdateTenant.descriptor,
        WireUpdateTenantRequest.with {
          $0.collection = "docs"
          $0.tenant = "alice"
          $0.groups = .with { $0.names = ["team"] }
        }, as: "admin")
      func field(_ name: String, _ change: (inout WireFieldCondition) -> Void) -> WirePayloadFilter {
        .with {
          $0.field = .with {
            $0.field = name
            change(&$0)
          }
        }
      }
      let english = field("lang") { $0.equals = .with { $0.text = "en" } }
      let early = field("year") {
        $0.range = .with {
          $0.gte = .with { $0.integer = 2002 }
          $0.lt = .with { $0.number = 2008.5 }
        }
      }
      let odd = field("year") {
        $0.in = .with { $0.values = [2001, 2003].map { year in .with { $0.integer = Int64(year) } } }
      }
      let named = field("lang") { $0.exists = true }
      let both = WirePayloadFilter.with { $0.and = .with { $0.filters = [english, early, named] } }
      let either = WirePayloadFilter.with { $0.or = .with { $0.filters = [both, odd] } }
      var query = WireQuery([0, 0, 0, 0], k: 20)
      query.filter = either
      #expect(try await served.search(query).map(\.point.id.integer) == [1, 2, 3, 4, 6, 8])
      query.filter = .with { $0.not = either }
      #expect(try await served.search(query).count == 14)
      query.access = .with { $0.tenant = "team" }
      #expect(try await served.search(query).map(\.point.id.integer) == [0])
      let outside = WireTenantFilter.with { $0.not = .with { $0.tenant = "team" } }
      let count: WireCountResponse = try await served.call(
        Method.Count.descriptor,
        WireCountRequest.with {
          $0.collection = "docs"
          $0.access = outside
          $0.filter = english
        })
      #expect(count.count == 8)

      var seen: [Int64] = []
      var request = WireScrollRequest.with {
        $0.collection = "docs"
        $0.limit = 3
        $0.filter = english
      }
      repeat {
        let page: WireScrollResponse = try await served.call(Method.Scroll.descriptor, request)
        seen += page.points.map(\.id.integer)
        request.cursor = page.nextCursor
        if !page.hasNextCursor { break }
      } while true
      #expect(seen == (0..<10).map { 2 * $0 })
      request.clearCursor()
      let again: WireScrollResponse = try await served.call(Method.Scroll.descriptor, request)
      request.cursor = again.nextCursor
      let stolen = try await fault {
        try await served.call(Method.Scroll.descriptor, request, as: "bob") as WireScrollResponse
      }
      #expect(stolen.code == .invalidArgument && stolen.field == "cursor")
    }
  }

  @Test func `a tenant's figures, its settings, its export and its end`() async throws {
    try await ServedStore.with { served in
      try await served.create()
      try await served.upsert((0..<600).map { WirePoint(WirePointID(integerLiteral: $0), [Float($0), 1, 0, 0]) })
      let request = WireGetTenantRequest.with {
        $0.collection = "docs"
        $0.tenant = "alice"
      }
      let own: WireTenant = try await served.call(Method.GetTenant.descriptor, request)
      #expect(own.owned == 600 && own.held == 600 && own.visible == 600 && own.state == .active && !own.hasQuota)
      let foreign = try await fault {
        try await served.call(Method.GetTenant.descriptor, request, as: "bob") as WireTenant
      }
      #expect(foreign.code == .notFound)

      let stats: WireStats = try await served.call(
        Method.GetStats.descriptor, WireGetStatsRequest.with { $0.collection = "docs" })
      #expect(stats.tenant == own && !stats.hasCollection)
      let all: WireStats = try await served.call(
        Method.GetStats.descriptor, WireGetStatsRequest.with { $0.collection = "docs" }, as: "admin")
      #expect(all.collection.vectors == 600 && !all.hasTenant)

      let export = WireExportTenantRequest.with {
        $0.collection = "docs"
        $0.tenant = "alice"
      }
      let lines = try await served.client.serverStreaming(
        request: ClientRequest(message: export, metadata: ServedStore.metadata("alice")),
        descriptor: Method.ExportTenant.descriptor, serializer: ProtobufSerializer<WireExportTenantRequest>(),
        deserializer: ProtobufDeserializer<WireExportTenantResponse>(), options: .defaults
      ) { response in
        var lines: [String] = []
        for try await message in response.messages {
          lines += String(decoding: message.lines, as: UTF8.self).split(separator: "\n").map(String.init)
        }
        return lines
      }
      #expect(lines.count == 600 && lines[599].contains(#""id":599"#))

      let settings = WireUpdateTenantRequest.with {
        $0.collection = "docs"
        $0.tenant = "alice"
        $0.state = .inactive
      }
      let byTenant = try await fault {
        try await served.call(Method.UpdateTenant.descriptor, settings) as WireTenant
      }
      #expect(byTenant.code == .permissionDenied)
      let changed: WireTenant = try await served.call(Method.UpdateTenant.descriptor, settings, as: "admin")
      #expect(changed.state == .inactive)
      let asleep = try await fault { try await served.search(WireQuery([0, 0, 0, 0])) }
      #expect(asleep.code == .permissionDenied && asleep.reason == "tenant_inactive")

      let _: WireDeleteTenantResponse = try await served.call(
        Method.DeleteTenant.descriptor,
        WireDeleteTenantRequest.with {
          $0.collection = "docs"
          $0.tenant = "alice"
          $0.erase = true
        }, as: "admin")
      let gone = try await fault {
        try await served.call(Method.GetTenant.descriptor, request, as: "admin") as WireTenant
      }
      #expect(gone == foreign)
    }
  }

  @Test func `an administrator trains to a recall and makes a snapshot`() async throws {
    try await ServedStore.with { served in
      try await served.create()
      var random = SeededRandom(state: 5)
      try await served.upsert(
        (0..<2000).map {
          WirePoint(WirePointID(integerLiteral: $0), (0..<4).map { _ in .random(in: -1...1, using: &random) })
        })
      let training = WireTrainCollectionRequest.with {
        $0.collection = "docs"
        $0.targetRecall = 0.9
      }
      let byTenant = try await fault {
        try await served.call(Method.TrainCollection.descriptor, training) as WireTrainCollectionResponse
      }
      #expect(byTenant.code == .permissionDenied)
      let _: WireTrainCollectionResponse = try await served.call(
        Method.TrainCollection.descriptor, training, as: "admin")
      var query = WireQuery([0, 0, 0, 0], k: 5)
      query.targetRecall = 0.9
      #expect(try await served.search(query).count == 5)
      let snapshot: WireSnapshotCollectionResponse = try await served.call(
        Method.SnapshotCollection.descriptor, WireSnapshotCollectionRequest.with { $0.collection = "docs" }, as: "admin"
      )
      let copy = try VectorCollection.open(snapshot.path)
      #expect(try copy.count(as: Principal(tenant: "alice")) == 2000)
      try copy.close()
    }
  }
}
