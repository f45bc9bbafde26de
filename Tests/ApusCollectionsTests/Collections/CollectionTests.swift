import ApusVectors
import Foundation
import Testing

@testable import ApusCollections

@Suite struct CollectionTests {
  private let near: [Float] = [1, 0, 0, 0]

  @Test func `a point comes back as it was, also after opening again`() throws {
    let bench = try Bench()
    let payload = #"{"lang":"de","year":2024,"n":1.50}"#
    try bench.collection.upsert(
      [
        Point("one", vector: near, text: "Erster Text", payload: payload, expiresAt: 5000, shareWith: ["b"]),
        Point(1, vector: [0, 1, 0, 0]), Point("1", vector: [0, 0, 1, 0]),
      ], as: bench.a)
    func check(_ collection: VectorCollection) throws {
      #expect(
        try collection.get("one", as: bench.a)
          == VisiblePoint(
            key: "one", owner: "a", text: "Erster Text", payload: payload, expiresAt: 5000, vector: near))
      #expect(try collection.get(1, as: bench.a).vector == [0, 1, 0, 0])
      #expect(try collection.get("1", as: bench.a).vector == [0, 0, 1, 0])
      #expect(try collection.get("one", of: "a", as: bench.b).text == "Erster Text")
      #expect(try collection.count(as: bench.a) == 3 && collection.count(as: bench.b) == 1)
      try collection.verify()
    }
    try check(bench.collection)
    try bench.collection.close()
    try check(try bench.reopened())
  }

  @Test func `the catalogue is made again from the log alone`() throws {
    let bench = try Bench()
    try bench.collection.upsert([Point("x", vector: near, text: "words", shareWith: ["b"])], as: bench.a)
    try bench.collection.update("b", TenantUpdate(quota: .at(7), groups: ["team"]), as: Bench.admin)
    try bench.collection.upsert([Point("y", vector: near)], as: bench.c)
    try bench.collection.drop("c", as: bench.c)
    let before = try bench.collection.stats(of: "b", as: bench.b)
    try bench.collection.close()
    for suffix in ["", "-wal", "-shm"] {
      try? FileManager.default.removeItem(atPath: bench.path + "/catalogue.sqlite" + suffix)
    }
    let again = try bench.reopened()
    #expect(try again.stats(of: "b", as: bench.b) == before && before.quotas.vectors == 7 && before.groups == ["team"])
    #expect(try again.get("x", as: bench.a).text == "words")
    #expect(try again.tenantNames(as: Bench.admin) == ["a", "b", "team"])
    #expect(try again.search(Query(mode: .keyword, text: "words"), as: bench.b).map(\.point.key) == ["x"])
    // Numbers of tenants and vectors that are gone are not given out again.
    try again.upsert([Point("z", vector: near)], as: bench.c)
    #expect(again.tenants.withLock { $0["c"]!.id } > 4)
    try again.verify()
  }

  @Test func `a log that ends between a note and its vector leaves no point`() throws {
    let bench = try Bench()
    try bench.collection.upsert([Point("x", vector: near)], as: bench.a)
    let owner = bench.collection.tenants.withLock { $0["a"]!.id }
    let record = PointRecord(id: 99, owner: owner, key: "torn")
    // What a crash leaves of a batch.
    try bench.collection.store.commit([CatalogueChange.point(record).note()])
    try bench.collection.close()
    let again = try bench.reopened()
    #expect(throws: CollectionError.notFound("the point")) { try again.get("torn", as: bench.a) }
    try again.upsert([Point("torn", vector: near)], as: bench.a)
    try again.verify()
    try again.close()
    #expect(try bench.reopened().count(as: bench.a) == 2)
  }

  @Test func `a catalogue without its checkpoint's points is refused`() throws {
    let bench = try Bench()
    try bench.collection.upsert([Point("x", vector: near)], as: bench.a)
    try bench.collection.checkpoint()
    try bench.collection.close()
    for suffix in ["", "-wal", "-shm"] {
      try? FileManager.default.removeItem(atPath: bench.path + "/catalogue.sqlite" + suffix)
    }
    #expect(throws: CollectionError.self) { try bench.reopened() }
  }

  @Test func `after a checkpoint nothing is missing and numbers go on`() throws {
    let bench = try Bench()
    try bench.collection.upsert([Point("x", vector: near, text: "hello")], as: bench.a)
    try bench.collection.checkpoint()
    try bench.collection.upsert([Point("y", vector: near)], as: bench.a)
    try bench.collection.close()
    let again = try bench.reopened()
    try again.upsert([Point("z", vector: near)], as: bench.a)
    #expect(try again.scroll(as: bench.a).points.map(\.key) == ["x", "y", "z"])
    try again.verify()
  }

  @Test func `a snapshot opens as a collection`() throws {
    let bench = try Bench()
    try bench.collection.upsert([Point("x", vector: near, text: "hello", shareWith: ["b"])], as: bench.a)
    let copy = bench.folder.path + "/copy"
    try bench.collection.snapshot(to: copy, as: Bench.admin)
    try bench.collection.delete(["x"], as: bench.a)
    let opened = try VectorCollection.open(copy)
    #expect(try opened.get("x", of: "a", as: bench.b).text == "hello")
    try opened.verify()
    #expect(throws: CollectionError.self) { try bench.collection.snapshot(to: copy, as: Bench.admin) }
  }

  @Test func `replacing a point keeps its grants and forgets its old words`() throws {
    let bench = try Bench()
    try bench.collection.upsert([Point("x", vector: near, text: "apple pie", shareWith: ["b"])], as: bench.a)
    try bench.collection.upsert([Point("x", vector: [0, 0, 0, 1], text: "pear")], as: bench.a)
    #expect(try bench.found(Query(mode: .keyword, text: "apple"), as: bench.b).isEmpty)
    #expect(try bench.found(Query(mode: .keyword, text: "pear"), as: bench.b) == ["x"])
    #expect(try bench.collection.get("x", of: "a", as: bench.b).vector == [0, 0, 0, 1])
    #expect(try bench.collection.count(as: bench.a) == 1)
    try bench.collection.verify()
  }

  @Test func `what is wrong in a batch is named, and nothing of the batch is stored`() throws {
    let bench = try Bench(metric: .cosine)
    let good = Point("good", vector: near)
    func path(_ points: [Point]) -> String? {
      do {
        try bench.collection.upsert(points, as: bench.a)
        return nil
      } catch CollectionError.invalid(let path, _, _) { return path } catch { return "\(error)" }
    }
    #expect(path([good, Point("x", vector: [1, 2])]) == "points.1.vector")
    #expect(path([good, Point("x", vector: [1, .nan, 0, 0])]) == "points.1.vector.1")
    #expect(path([good, Point("x", vector: [0, 0, 0, 0])]) == "points.1.vector")
    #expect(path([good, Point("x")]) == "points.1.vector")
    #expect(path([good, good]) == "points.1.id")
    #expect(path([good, Point("", vector: near)]) == "points.1.id")
    #expect(path([good, Point("x", vector: near, payload: "[1]")]) == "points.1.payload")
    #expect(path([good, Point("x", vector: near, payload: "{")]) == "points.1.payload")
    #expect(path([good, Point("x", vector: near, text: "")]) == "points.1.text")
    #expect(path([good, Point("x", vector: near, expiresAt: 1000)]) == "points.1.expires_at")
    #expect(path([good, Point("x", vector: near, shareWith: [""])]) == "points.1.share_with.0")
    #expect(try bench.collection.count(as: bench.a) == 0)
    #expect(path([good]) == nil)
    try bench.collection.verify()
  }

  @Test func `quotas hold for own and granted vectors, and say nothing of others`() throws {
    let bench = try Bench()
    try bench.collection.update("a", TenantUpdate(quota: .at(2)), as: Bench.admin)
    try bench.collection.update("b", TenantUpdate(quota: .at(1)), as: Bench.admin)
    #expect(throws: CollectionError.quotaExceeded(path: "points.2", tenant: "a", quota: .vectors, limit: 2)) {
      try bench.collection.upsert([1, 2, 3].map { Point(.integer($0), vector: near) }, as: bench.a)
    }
    try bench.collection.upsert([Point(1, vector: near), Point(2, vector: near)], as: bench.a)
    // Replacing takes no room.
    try bench.collection.upsert([Point(2, vector: near)], as: bench.a)
    #expect(try bench.collection.grant([1], to: ["b"], as: bench.a) == 1)
    #expect(try bench.collection.grant([1], to: ["b"], as: bench.a) == 0)
    #expect(throws: CollectionError.quotaExceeded(path: "tenants", tenant: "b", quota: .vectors, limit: nil)) {
      try bench.collection.grant([2], to: ["b"], as: bench.a)
    }
    #expect(throws: CollectionError.self) { try bench.collection.upsert([Point(1, vector: near)], as: bench.b) }
    try bench.collection.update("b", TenantUpdate(quota: .unlimited), as: Bench.admin)
    #expect(try bench.collection.grant([2], to: ["b"], as: bench.a) == 1)
  }

  @Test func `expired points are gone at once, and their bytes with the sweep`() throws {
    let bench = try Bench()
    try bench.collection.upsert(
      [
        Point("short", vector: near, text: "fleeting", payload: #"{"lang":"de"}"#, expiresAt: 1010, shareWith: ["b"]),
        Point("long", vector: [0, 1, 0, 0], text: "lasting", payload: #"{"lang":"de"}"#),
      ], as: bench.a)
    #expect(try bench.found(Query(vector: near), as: bench.a) == ["short", "long"])
    bench.clock.advance(10)
    #expect(try bench.found(Query(vector: near, options: SearchOptions(k: 1)), as: bench.a) == ["long"])
    #expect(try bench.found(Query(vector: near), as: bench.b).isEmpty)
    #expect(try bench.found(Query(mode: .keyword, text: "fleeting lasting"), as: bench.a) == ["long"])
    #expect(
      try bench.found(Query(vector: near, payload: .equals("lang", .string("de"))), as: bench.a) == ["long"])
    #expect(try bench.collection.scroll(as: bench.a).points.map(\.key) == ["long"])
    #expect(try bench.collection.count(as: bench.a) == 1 && bench.collection.count(as: bench.b) == 0)
    #expect(throws: CollectionError.notFound("the point")) { try bench.collection.get("short", as: bench.a) }
    #expect(throws: CollectionError.notFound("the point")) {
      try bench.collection.grant(["short"], to: ["c"], as: bench.a)
    }
    // A new point of the same key has none of the old one's grants.
    try bench.collection.upsert([Point("short", vector: near)], as: bench.a)
    #expect(try bench.found(Query(vector: near), as: bench.b).isEmpty)
    try bench.collection.upsert([Point("again", vector: near, expiresAt: 1020)], as: bench.a)
    bench.clock.advance(20)
    #expect(try bench.collection.sweep() == 1 && bench.collection.sweep() == 0)
    #expect(bench.collection.store.index.stats.vectors == 2)
    try bench.collection.verify()
    try bench.collection.close()
    #expect(try bench.reopened().count(as: bench.a) == 2)
  }

  @Test func `an inactive tenant is refused until it is active again`() throws {
    let bench = try Bench()
    try bench.collection.upsert([Point("x", vector: near)], as: bench.a)
    for state in [TenantState.inactive, .offloaded] {
      try bench.collection.update("a", TenantUpdate(state: state), as: Bench.admin)
      let error = CollectionError.inactive(tenant: "a", state: state)
      #expect(throws: error) { try bench.collection.search(Query(vector: near), as: bench.a) }
      #expect(throws: error) { try bench.collection.upsert([Point("y", vector: near)], as: bench.a) }
      #expect(throws: error) { try bench.collection.get("x", as: bench.a) }
      #expect(throws: error) { try bench.collection.delete(["x"], as: bench.a) }
      #expect(throws: error) { try bench.collection.scroll(as: bench.a) }
      #expect(throws: error) { try bench.collection.count(as: bench.a) }
      #expect(throws: error) { try bench.collection.export("a", as: bench.a) { _ in } }
      // It would come back active.
      #expect(throws: error) { try bench.collection.drop("a", as: bench.a) }
      #expect(throws: error) { try bench.collection.erase("a", as: bench.a) }
    }
    try bench.collection.close()
    let again = try bench.reopened()
    #expect(throws: CollectionError.self) { try again.search(Query(vector: near), as: bench.a) }
    try again.update("a", TenantUpdate(state: .active), as: Bench.admin)
    #expect(try again.search(Query(vector: near), as: bench.a).count == 1)
  }

  @Test
  func `an offloaded tenant is out of memory, its points still expire, are shared and deleted, and it comes back`()
    throws
  {
    let bench = try Bench()
    let docs = bench.collection
    let points = (0..<300).map {
      Point(.integer($0), vector: [Float($0), 1, 0, 0], text: "p\($0)", expiresAt: $0 == 7 ? 1100 : nil)
    }
    try docs.upsert(points, as: bench.a)
    try docs.upsert([Point("b", vector: near, shareWith: ["a", "team"])], as: bench.b)
    try docs.update("c", TenantUpdate(groups: ["team", "a"]), as: Bench.admin)
    let memory = docs.store.index.memory
    try docs.update("a", TenantUpdate(state: .offloaded), as: Bench.admin)
    #expect(docs.store.index.memory.onDisk > 300 * 4 * 4)
    #expect(docs.store.index.memory.vectors < memory.vectors / 100, "compacted: only b's is left")
    let away = CollectionError.inactive(tenant: "a", state: .offloaded)
    // Its members are not shown less than they may see.
    #expect(throws: away) { try docs.search(Query(vector: near), as: bench.c) }
    #expect(throws: away) { try docs.count(as: bench.c) }
    #expect(throws: away) { try docs.get(.integer(3), of: "a", as: bench.c) }
    #expect(throws: away) { try docs.export("a", as: Bench.admin) { _ in } }
    #expect(try docs.search(Query(vector: near), as: bench.b).map(\.point.key) == ["b"])
    let stats = try docs.stats(of: "a", as: Bench.admin)
    #expect(stats.held == 301 && stats.visible == 301 && stats.state == .offloaded)
    // An administrator's and the clock's work goes on.
    try docs.delete([.integer(5)], of: "a", as: Bench.admin)
    try docs.grant([.integer(6)], to: ["b"], of: "a", as: Bench.admin)
    bench.clock.advance(200)
    #expect(try docs.sweep() == 1)
    #expect(try docs.revoke(["b"], from: ["a"], as: bench.b) == 1)
    #expect(try docs.count(as: bench.b) == 2)
    try docs.verify()
    try docs.checkpoint()
    try docs.close()
    let again = try bench.reopened()
    try again.verify()
    #expect(throws: away) { try again.search(Query(vector: near), as: bench.a) }
    try again.update("a", TenantUpdate(state: .active), as: Bench.admin)
    #expect(again.store.index.memory.onDisk == 0)
    #expect(try again.count(as: bench.a) == 298 && again.count(as: bench.c) == 299)
    let query = Query(mode: .hybrid, vector: [42, 1, 0, 0], text: "p42")
    #expect(try again.search(query, as: bench.a).first?.point.key == .integer(42))
    // Gone while it is away: what it shared stays.
    try again.update("a", TenantUpdate(state: .offloaded), as: Bench.admin)
    try again.drop("a", as: Bench.admin)
    try again.verify()
    #expect(try again.count(as: bench.b) == 2 && again.stats(as: Bench.admin).vectors == 2)
    try again.close()
  }

  @Test func `an export holds what the tenant owns, and can be read back`() throws {
    let bench = try Bench()
    try bench.collection.upsert(
      [Point("x", vector: near, text: "t/\"", payload: #"{"n":1.50}"#, expiresAt: 9000, shareWith: ["b", "c"])],
      as: bench.a)
    try bench.collection.upsert([Point("y", vector: near, shareWith: ["a"])], as: bench.b)
    var lines = Data()
    try bench.collection.export("a", as: bench.a) { lines += $0 }
    #expect(
      String(decoding: lines, as: UTF8.self)
        == #"{"expires_at":9000,"id":"x","share_with":["b","c"],"text":"t/\"","vector":[1,0,0,0],"# + ""
        + #""payload":{"n":1.50}}"# + "\n")
    #expect(throws: CollectionError.notFound("the tenant")) {
      try bench.collection.export("a", as: bench.b) { _ in }
    }
  }

  @Test func `erasing a tenant leaves no byte of what only it had`() throws {
    let bench = try Bench(dim: 8)
    var random = SeededRandom(seed: 5)
    let secret = random.vector(8)
    let shared = random.vector(8)
    let secretBytes = secret.withUnsafeBytes { Data($0) }
    let sharedBytes = shared.withUnsafeBytes { Data($0) }
    for i in 0..<300 {
      try bench.collection.upsert(
        [Point(.integer(Int64(i)), vector: random.vector(8), text: "other \(i)")], as: bench.b)
    }
    try bench.collection.upsert(
      [
        Point("secretkey", vector: secret, text: "xylophonequartz waltz", payload: #"{"lang":"hushpayload"}"#),
        Point("open", vector: shared, text: "sharedword", shareWith: ["b"]),
      ], as: Principal(tenant: "mallory-tenant"))
    let words = ["xylophonequartz", "hushpayload", "secretkey", "mallory-tenant"]
    // The proof must be able to fail: before, all of it is there.
    let before = try bench.folder.allBytes()
    for word in words { #expect(before.range(of: Data(word.utf8)) != nil, "\(word)") }
    #expect(before.range(of: secretBytes) != nil)
    try bench.collection.checkpoint()
    #expect(try bench.folder.allBytes().range(of: secretBytes) != nil)
    try bench.collection.erase("mallory-tenant", as: Bench.admin)
    func check() throws {
      let after = try bench.folder.allBytes()
      for word in words { #expect(after.range(of: Data(word.utf8)) == nil, "\(word)") }
      #expect(after.range(of: secretBytes) == nil)
      // What it shared is others' now.
      #expect(after.range(of: sharedBytes) != nil)
    }
    try check()
    let hits = try bench.collection.search(Query(mode: .keyword, text: "sharedword"), as: bench.b)
    #expect(hits.map(\.point.key) == ["open"] && hits[0].point.owner == nil)
    try bench.collection.verify()
    try bench.collection.close()
    try check()
    #expect(try bench.reopened().count(as: bench.b) == 301)
  }

  @Test func `texts become vectors by the collection's model`() async throws {
    let bench = try Bench(dim: LetterEmbedder.dim, metric: .cosine)
    try bench.collection.upsert(
      try await bench.collection.embedding([Point("x", text: "aabb"), Point("y", text: "zzyy")]), as: bench.a)
    let query = try await bench.collection.embedding(Query(text: "abab"))
    #expect(try bench.found(query, as: bench.a) == ["x", "y"])
    await #expect(throws: CollectionError.self) { try await bench.collection.embedding([Point("z")]) }
    let plain = try VectorCollection.create(
      bench.folder.path + "/plain", CollectionConfig(name: "plain", vectors: VectorConfig(dim: 4)))
    await #expect(throws: CollectionError.self) { try await plain.embedding([Point("z", text: "a")]) }
  }

  @Test func `a store makes, lists, opens and deletes collections`() throws {
    let folder = TestFolder()
    let admin = Bench.admin
    let store = try CollectionStore(folder.path)
    let config = CollectionConfig(name: "one", vectors: VectorConfig(dim: 4))
    #expect(throws: CollectionError.self) { try store.create(config, as: Principal(tenant: "a")) }
    try store.create(config, as: admin).upsert([Point("x", vector: near)], as: Principal(tenant: "a"))
    #expect(throws: CollectionError.exists("the collection 'one'")) { try store.create(config, as: admin) }
    for name in ["", "..", "a/b", ".hidden", "ä", String(repeating: "n", count: 65)] {
      var wrong = config
      wrong.name = name
      #expect(throws: CollectionError.self, "\(name)") { try store.create(wrong, as: admin) }
      #expect(throws: CollectionError.self, "\(name)") { try store.collection(name) }
    }
    var two = config
    two.name = "two"
    try store.create(two, as: admin)
    _ = try store.snapshot("two", as: admin)
    #expect(try store.names() == ["one", "two"])
    try store.close()
    let again = try CollectionStore(folder.path)
    #expect(try again.names() == ["one", "two"])
    #expect(try again.collection("one").count(as: Principal(tenant: "a")) == 1)
    #expect(throws: CollectionError.self) { try again.delete("one", as: Principal(tenant: "a")) }
    try again.delete("one", as: admin)
    #expect(throws: CollectionError.notFound("the collection 'one'")) { try again.collection("one") }
    #expect(try again.names() == ["two"])
  }
}
