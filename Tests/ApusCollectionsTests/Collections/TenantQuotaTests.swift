import ApusVectors
import Foundation
import GRDB
import Testing

@testable import ApusCollections

@Suite struct TenantQuotaTests {
  private let near: [Float] = [1, 0, 0, 0]
  /// Of a vector, with its grant to the owner.
  private static let bare = 4 * 4 + 8

  private func total(_ bench: Bench, _ name: String) throws -> Int {
    try bench.collection.stats(of: name, as: Bench.admin).bytes.total
  }

  @Test func `bytes are those of keys, texts, payloads, vectors and grants`() throws {
    let bench = try Bench()
    try bench.collection.upsert(
      [
        Point("key", vector: near, text: "häh", payload: #"{"a":1}"#, shareWith: ["b"]), Point(7, vector: near),
      ], as: bench.a)
    let a = try bench.collection.stats(of: "a", as: bench.a)
    #expect(a.bytes == TenantBytes(points: 2, payloads: 3 + 4 + 7 + 8, held: 2, dim: 4))
    #expect(a.bytes.total == 32 + 22 + 16 && a.owned == 2)
    #expect(try bench.collection.stats(of: "b", as: bench.b).bytes.total == 8)
    let all = try bench.collection.bytes(as: Bench.admin)
    #expect(all.payloads == 22 && all.vectors > 0 && all.index > 0 && all.total == all.vectors + all.index + 22)
    // Points without an owner take bytes of the collection still.
    try bench.collection.drop("a", as: bench.a)
    #expect(try bench.collection.bytes(as: Bench.admin).payloads == 3 + 4 + 7)
  }

  @Test func `a quota of bytes holds to the byte, and what is refused changes nothing`() throws {
    let bench = try Bench()
    let limit = 2 * (Self.bare + 1) + 10
    try bench.collection.update("a", TenantUpdate(byteQuota: .at(limit)), as: Bench.admin)
    let refusal = CollectionError.quotaExceeded(path: "points", tenant: "a", quota: .bytes, limit: limit)
    try bench.collection.upsert([Point("x", vector: near), Point("y", vector: near, text: "0123456789")], as: bench.a)
    #expect(try total(bench, "a") == limit)
    func state() throws -> [String] {
      let figures = try bench.collection.listTenants(as: Bench.admin).tenants.map { "\($0)" }
      let points = try bench.collection.scroll(withVectors: true, as: bench.a).points.map { "\($0)" }
      return figures + points + ["\(bench.collection.store.lastSequence)"]
    }
    let before = try state()
    for batch in [
      [Point("x", vector: near, text: "1")], [Point("z", vector: near, shareWith: ["new"])],
      // As a whole it is too much, although its first point takes less.
      [Point("y", vector: near, text: "0"), Point("x", vector: near, text: "0123456789")],
    ] {
      #expect(throws: refusal) { try bench.collection.upsert(batch, as: bench.a) }
      #expect(try state() == before)
    }
    // As a whole it is the same.
    try bench.collection.upsert(
      [Point("x", vector: near, text: "0123456789"), Point("y", vector: near)], as: bench.a)
    #expect(try total(bench, "a") == limit)
    // Who has too much already may store less, and no more.
    try bench.collection.update("a", TenantUpdate(byteQuota: .at(1)), as: Bench.admin)
    try bench.collection.upsert([Point("x", vector: near, text: "01234")], as: bench.a)
    #expect(throws: CollectionError.self) {
      try bench.collection.upsert([Point("x", vector: near, text: "012345")], as: bench.a)
    }
    try bench.collection.delete(["x"], as: bench.a)
    try bench.collection.verify()
  }

  @Test func `a grant takes bytes of who gets it, whose limit stays its own secret`() throws {
    let bench = try Bench()
    try bench.collection.update("b", TenantUpdate(byteQuota: .at(15)), as: Bench.admin)
    try bench.collection.upsert([Point(1, vector: near), Point(2, vector: near)], as: bench.a)
    #expect(try bench.collection.grant([1], to: ["b"], as: bench.a) == 1)
    #expect(throws: CollectionError.quotaExceeded(path: "tenants", tenant: "b", quota: .bytes, limit: nil)) {
      try bench.collection.grant([2], to: ["b"], as: bench.a)
    }
    #expect(throws: CollectionError.quotaExceeded(path: "points", tenant: "b", quota: .bytes, limit: nil)) {
      try bench.collection.upsert([Point(3, vector: near, shareWith: ["b"])], as: bench.a)
    }
    #expect(try bench.collection.stats(of: "b", as: bench.b).held == 1)
    #expect(throws: CollectionError.notFound("the point")) { try bench.collection.get(3, as: bench.a) }
    // Again what it has.
    #expect(try bench.collection.grant([1], to: ["b"], as: bench.a) == 0)
  }

  @Test func `defaults hold for who has no quota of its own`() throws {
    let bench = try Bench(quotas: TenantQuotas(vectors: 1, bytes: 1000, queries: 2))
    try bench.collection.upsert([Point(1, vector: near)], as: bench.a)
    #expect(throws: CollectionError.quotaExceeded(path: "points.0", tenant: "a", quota: .vectors, limit: 1)) {
      try bench.collection.upsert([Point(2, vector: near)], as: bench.a)
    }
    try bench.collection.update("a", TenantUpdate(quota: .at(2), queryQuota: .at(5)), as: Bench.admin)
    try bench.collection.upsert([Point(2, vector: near)], as: bench.a)
    #expect(
      try bench.collection.stats(of: "a", as: bench.a).quotas == TenantQuotas(vectors: 2, bytes: 1000, queries: 5))
    try bench.collection.update("a", TenantUpdate(quota: .unlimited), as: Bench.admin)
    #expect(throws: CollectionError.self) { try bench.collection.upsert([Point(3, vector: near)], as: bench.a) }
    for update in [
      TenantUpdate(quota: .at(-1)), TenantUpdate(byteQuota: .at(-1)), TenantUpdate(queryQuota: .at(0)),
      TenantUpdate(queryQuota: .at(.nan)), TenantUpdate(queryQuota: .at(.infinity)),
    ] {
      #expect(throws: CollectionError.self) { try bench.collection.update("a", update, as: Bench.admin) }
    }
  }

  @Test func `queries beyond the rate are refused before a text is read, and let in when the time has come`()
    async throws
  {
    let bench = try Bench(dim: LetterEmbedder.dim, metric: .cosine)
    try bench.collection.upsert(try await bench.collection.embedding([Point("x", text: "aabb")]), as: bench.a)
    try bench.collection.update("a", TenantUpdate(queryQuota: .at(2)), as: Bench.admin)
    let query = Query(text: "ab")
    let both = try await bench.collection.prepare([query, query], as: bench.a)
    #expect(try both.map { try bench.found($0, as: bench.a) } == [["x"], ["x"]])
    let refusal = CollectionError.tooManyQueries(tenant: "a", limit: 2, retryAfter: 0.5)
    await #expect(throws: refusal) { try await bench.collection.prepare([query], as: bench.a) }
    #expect(throws: refusal) { try bench.collection.admit(as: bench.a) }
    // An administrator who acts as the tenant asks in its name; another tenant is not concerned.
    #expect(throws: refusal) { try bench.collection.admit(as: Principal(tenant: "a", isAdmin: true)) }
    try bench.collection.admit(1000, as: bench.b)
    #expect(try bench.collection.stats(of: "a", as: bench.a).refusedQueries == 3)
    bench.uptime.advance(0.5)
    try bench.collection.admit(as: bench.a)
    #expect(throws: refusal) { try bench.collection.admit(as: bench.a) }
  }

  @Test func `a tenant that forgets itself keeps its quotas and nothing else`() throws {
    let bench = try Bench()
    let quotas = TenantQuotas(vectors: 1, bytes: 500, queries: 2)
    try bench.collection.update(
      "a", TenantUpdate(quota: .at(1), byteQuota: .at(500), queryQuota: .at(2), groups: ["team"]), as: Bench.admin)
    try bench.collection.upsert([Point(1, vector: near, text: "word", shareWith: ["b"])], as: bench.a)
    try bench.collection.admit(2, as: bench.a)
    for round in 0..<2 {
      try round == 0 ? bench.collection.drop("a", as: bench.a) : bench.collection.erase("a", as: bench.a)
      let stats = try bench.collection.stats(of: "a", as: bench.a)
      #expect(stats.quotas == quotas && stats.groups.isEmpty && stats.held == 0 && stats.bytes.total == 0)
      #expect(throws: CollectionError.self) { try bench.collection.admit(as: bench.a) }
      try bench.collection.upsert([Point(2, vector: near)], as: bench.a)
      #expect(throws: CollectionError.self) { try bench.collection.upsert([Point(3, vector: near)], as: bench.a) }
    }
    try bench.collection.verify()
    try bench.collection.close()
    let again = try bench.reopened()
    #expect(try again.stats(of: "a", as: bench.a).quotas == quotas)
    // An administrator forgets all of it.
    try again.drop("a", as: Bench.admin)
    #expect(throws: CollectionError.notFound("the tenant")) { try again.stats(of: "a", as: bench.a) }
  }

  @Test func `quotas and usage come back from the disk, from the log alone, and from a catalogue of before`() throws {
    let bench = try Bench()
    try bench.collection.update(
      "a", TenantUpdate(quota: .at(5), byteQuota: .at(900), queryQuota: .at(0.5)), as: Bench.admin)
    try bench.collection.upsert(
      [Point("x", vector: near, text: "words", shareWith: ["b"]), Point(2, vector: near, payload: "{}")], as: bench.a)
    try bench.collection.upsert([Point("gone", vector: near, text: "abc", shareWith: ["b"])], as: bench.c)
    try bench.collection.drop("c", as: bench.c)
    func figures(_ collection: VectorCollection) throws -> [TenantStats] {
      #expect(try collection.bytes(as: Bench.admin).payloads == 1 + 5 + 8 + 2 + 4 + 3)
      return try collection.listTenants(as: Bench.admin).tenants
    }
    let before = try figures(bench.collection)
    #expect(before[0].quotas == TenantQuotas(vectors: 5, bytes: 900, queries: 0.5))
    try bench.collection.close()
    var again = try bench.reopened()
    #expect(try figures(again) == before)
    try again.close()
    bench.forgetCatalogue()
    again = try bench.reopened()
    #expect(try figures(again) == before)
    // The tables of a version without usage.
    try again.catalogue.pool.write { database in
      try database.execute(
        sql: """
          DROP TRIGGER point_inserted; DROP TRIGGER point_deleted; DROP TRIGGER point_updated;
          DELETE FROM state WHERE name = 'payloadBytes'; DELETE FROM grdb_migrations WHERE identifier = 'usage';
          ALTER TABLE tenant DROP COLUMN byteQuota; ALTER TABLE tenant DROP COLUMN queryQuota;
          ALTER TABLE tenant DROP COLUMN points; ALTER TABLE tenant DROP COLUMN payloadBytes;
          """)
    }
    try again.close()
    again = try bench.reopened()
    var old = before
    // Which were unknown then, and are in the log no more for who has applied it.
    old[0].quotas = TenantQuotas(vectors: 5)
    #expect(try figures(again) == old)
    try again.verify()
  }

  @Test func `settings of an older log are read`() throws {
    let note = Array(#"{"settings":{"id":3,"state":"inactive","quota":7}}"#.utf8)
    #expect(
      try CatalogueChange(note: note)
        == .settings(id: 3, state: .inactive, quota: 7, byteQuota: nil, queryQuota: nil))
    let unlimited = Array(#"{"settings":{"id":3,"state":"active"}}"#.utf8)
    #expect(
      try CatalogueChange(note: unlimited)
        == .settings(id: 3, state: .active, quota: nil, byteQuota: nil, queryQuota: nil))
  }

  @Test func `after random changes the usage of each is what its points say`() throws {
    let seed = UInt64.random(in: 0...UInt64.max)
    var random = SeededRandom(seed: seed)
    let bench = try Bench()
    let names = ["a", "b", "c"]
    for step in 0..<400 {
      let name = names.randomElement(using: &random)!
      let (caller, other) = (Principal(tenant: name), names.randomElement(using: &random)!)
      let key: PointKey = Bool.random(using: &random) ? .integer(.random(in: 0..<6, using: &random)) : "ké"
      switch Int.random(in: 0..<12, using: &random) {
      case 0..<6:
        let text = String(repeating: "ä", count: .random(in: 1..<9, using: &random))
        try bench.collection.upsert(
          [
            Point(
              key, vector: random.vector(4), text: Bool.random(using: &random) ? text : nil,
              payload: Bool.random(using: &random) ? #"{"n":\#(step)}"# : nil,
              expiresAt: Int.random(in: 0..<5, using: &random) == 0 ? bench.clock.now + 3 : nil,
              shareWith: Bool.random(using: &random) ? [other] : [])
          ], as: caller)
      case 6: try? bench.collection.delete([key], as: caller)
      case 7: _ = try? bench.collection.grant([key], to: [other], as: caller)
      case 8: _ = try? bench.collection.revoke([key], from: [other], as: caller)
      case 9: try? bench.collection.drop(name, as: caller)
      case 10: bench.clock.advance(1)
      default: try bench.collection.sweep()
      }
      if step % 20 != 0 { continue }
      let points = try bench.collection.catalogue.pool.read { database in
        try Row.fetchAll(database, sql: "SELECT * FROM point").map(Catalogue.point)
      }
      func size(_ point: PointRecord) -> Int {
        var keyBytes = 8
        if case .text(let text) = point.key { keyBytes = text.utf8.count }
        return keyBytes + (point.text?.utf8.count ?? 0) + (point.payload?.utf8.count ?? 0)
      }
      for stats in try bench.collection.listTenants(as: Bench.admin).tenants {
        let id = bench.collection.tenants.withLock { $0[stats.tenant]!.id }
        let own = points.filter { $0.owner == id }
        let held = bench.collection.store.index.count(of: id)
        #expect(
          stats.bytes
            == TenantBytes(points: own.count, payloads: own.map(size).reduce(0, +), held: held, dim: 4),
          "seed \(seed), step \(step)")
        #expect(stats.owned == own.count { !bench.collection.isExpired($0) }, "seed \(seed), step \(step)")
      }
      #expect(
        try bench.collection.bytes(as: Bench.admin).payloads == points.map(size).reduce(0, +),
        "seed \(seed), step \(step)")
    }
    try bench.collection.verify()
  }

  @Test func `tenants are listed a page at a time, each once, in the order of their names`() throws {
    let bench = try Bench()
    let names = (0..<25).map { "tenant \($0)" } + ["Ä", "a", "B"]
    for name in names.shuffled() { try bench.collection.upsert([Point(1, vector: near)], as: Principal(tenant: name)) }
    var (found, after, pages): ([String], String?, Int) = ([], nil, 0)
    repeat {
      let page = try bench.collection.listTenants(after: after, limit: 4, as: Bench.admin)
      #expect(page.tenants.count == 4 && page.tenants.allSatisfy { $0.owned == 1 && $0.bytes.total == Self.bare + 8 })
      found += page.tenants.map(\.tenant)
      after = page.next
      pages += 1
    } while after != nil
    #expect(pages == 7 && found == names.sorted { $0.utf8.lexicographicallyPrecedes($1.utf8) })
    for limit in [0, 1001, -1] {
      #expect(throws: CollectionError.self) { try bench.collection.listTenants(limit: limit, as: Bench.admin) }
    }
  }
}
