import ApusVectors
import Foundation
import Testing

@testable import ApusCollections

/// What no tenant may learn of another, verb by verb.
@Suite struct CollectionIsolationTests {
  private let near: [Float] = [1, 0, 0, 0]

  @Test func `every verb answers each role as the matrix says`() throws {
    enum Answer: Equatable {
      case done
      case refused(CollectionError)
      static let notFound = Answer.refused(.notFound("the point"))
      static let noTenant = Answer.refused(.notFound("the tenant"))
    }
    /// a owns the point, b was granted it, c knows of it, d was never heard of.
    func answer(_ verb: (VectorCollection) throws -> Void) throws -> Answer {
      let bench = try Bench()
      try bench.collection.upsert([Point("x", vector: near, text: "t", shareWith: ["b"])], as: bench.a)
      try bench.collection.upsert([Point("own", vector: near)], as: bench.c)
      do {
        try verb(bench.collection)
        return .done
      } catch let error as CollectionError { return .refused(error) }
    }
    let forbidden: (String) -> Answer = { .refused(.forbidden("only an administrator may \($0)")) }
    let verbs: [(String, (VectorCollection, Principal) throws -> Void, [Answer])] = [
      ("get", { _ = try $0.get("x", of: "a", as: $1) }, [.done, .done, .notFound, .notFound]),
      ("get own key", { _ = try $0.get("x", as: $1) }, [.done, .notFound, .notFound, .notFound]),
      ("delete", { try $0.delete(["x"], of: "a", as: $1) }, [.done, .notFound, .notFound, .notFound]),
      ("delete own key", { try $0.delete(["x"], as: $1) }, [.done, .notFound, .notFound, .notFound]),
      ("grant", { try $0.grant(["x"], to: ["c"], of: "a", as: $1) }, [.done, .notFound, .notFound, .notFound]),
      ("grant own key", { try $0.grant(["x"], to: ["c"], as: $1) }, [.done, .notFound, .notFound, .notFound]),
      ("revoke", { try $0.revoke(["x"], from: ["b"], of: "a", as: $1) }, [.done, .notFound, .notFound, .notFound]),
      ("stats", { _ = try $0.stats(of: "a", as: $1) }, [.done, .noTenant, .noTenant, .noTenant]),
      ("export", { try $0.export("a", as: $1) { _ in } }, [.done, .noTenant, .noTenant, .noTenant]),
      ("drop", { try $0.drop("a", as: $1) }, [.done, .noTenant, .noTenant, .noTenant]),
      ("erase", { try $0.erase("a", as: $1) }, [.done, .noTenant, .noTenant, .noTenant]),
      (
        "update", { try $0.update("a", TenantUpdate(groups: ["b"]), as: $1) },
        Array(repeating: forbidden("change tenants"), count: 4)
      ),
      ("all stats", { _ = try $0.stats(as: $1) }, Array(repeating: forbidden("see what all tenants have"), count: 4)),
      ("all bytes", { _ = try $0.bytes(as: $1) }, Array(repeating: forbidden("see what all tenants have"), count: 4)),
      ("tenants", { _ = try $0.listTenants(as: $1) }, Array(repeating: forbidden("list tenants"), count: 4)),
      ("names", { _ = try $0.tenantNames(as: $1) }, Array(repeating: forbidden("list tenants"), count: 4)),
      ("train", { try $0.train(as: $1) }, Array(repeating: forbidden("train a collection"), count: 4)),
      (
        "snapshot", { try $0.snapshot(to: "/nowhere/at/all", as: $1) },
        Array(repeating: forbidden("make snapshots"), count: 4)
      ),
    ]
    for (name, verb, answers) in verbs {
      for (role, expected) in zip(["a", "b", "c", "d"], answers) {
        #expect(try answer { try verb($0, Principal(tenant: role)) } == expected, "\(name) as \(role)")
      }
      // What is not there at all looks like what is another's.
      if answers.last == .notFound {
        let absent = try answer { collection in
          try collection.delete(["x"], as: Principal(tenant: "a"))
          try verb(collection, Principal(tenant: "c"))
        }
        #expect(absent == .notFound, "\(name)")
      }
      if name != "snapshot" && name != "get own key" && name != "delete own key" && name != "grant own key" {
        let admin = try answer { try verb($0, Principal(tenant: "a", isAdmin: true)) }
        #expect(admin == .done, "\(name) as administrator")
      }
    }
  }

  @Test func `an upsert reaches only the caller's own keys`() throws {
    let bench = try Bench()
    try bench.collection.upsert([Point("x", vector: near, text: "of a", shareWith: ["b"])], as: bench.a)
    try bench.collection.upsert([Point("x", vector: [0, 1, 0, 0], text: "of b")], as: bench.b)
    #expect(try bench.collection.get("x", as: bench.a).text == "of a")
    #expect(try bench.collection.get("x", as: bench.b).text == "of b")
    #expect(try bench.collection.get("x", of: "a", as: bench.b).text == "of a")
    #expect(try bench.collection.search(Query(vector: near), as: bench.b).map(\.point.owner) == ["a", "b"])
    #expect(try bench.collection.search(Query(vector: near), as: bench.a).map(\.point.owner) == ["a"])
  }

  /// All that a tenant can get out of a collection, as one text.
  private func everything(_ collection: VectorCollection, as principal: Principal, query: [Float]) throws -> String {
    var parts: [String] = []
    for mode in Query.Mode.allCases {
      for payload in [nil, PayloadFilter.equals("lang", .string("de")), .not(.exists("lang"))] as [PayloadFilter?] {
        for access in [nil, TenantFilter.tenant("b"), .not(.tenant("b")), .or([.tenant("a"), .tenant("b")])] {
          let query = Query(mode: mode, vector: query, text: "alpha beta gamma", access: access, payload: payload)
          parts.append("\(try collection.search(query, as: principal))")
          parts.append("\(try collection.count(access: access, payload: payload, as: principal))")
          parts.append("\(try collection.scroll(access: access, payload: payload, as: principal).points)")
        }
      }
    }
    for verb in [
      { _ = try collection.get("canary", of: "b", as: principal) },
      { _ = try collection.get("canary", as: principal) },
      { try collection.delete(["canary"], of: "b", as: principal) },
      { try collection.export("b", as: principal) { _ in } }, { _ = try collection.stats(of: "b", as: principal) },
      { try collection.grant(["canary"], to: ["a"], of: "b", as: principal) },
    ] as [() throws -> Void] {
      do {
        try verb()
        parts.append("done")
      } catch { parts.append("\(error)") }
    }
    parts.append("\(try collection.stats(of: principal.tenant, as: principal))")
    return parts.joined(separator: "\n")
  }

  @Test func `with or without another's exact copies a tenant sees the same to the letter`() throws {
    let bench = try Bench()
    var random = SeededRandom(seed: 11)
    let words = ["alpha", "beta", "gamma", "delta"]
    let points = (0..<40).map { i in
      Point(
        .integer(Int64(i)), vector: random.vector(4),
        text: (0..<6).map { _ in words[Int.random(in: 0..<4, using: &random)] }.joined(separator: " "),
        payload: i % 2 == 0 ? #"{"lang":"de"}"# : #"{"year":1}"#)
    }
    try bench.collection.upsert(points, as: bench.a)
    let query = points[7].vector!
    let before = try everything(bench.collection, as: bench.a, query: query)
    #expect(before.contains("owner: Optional(\"a\")"))
    // b owns copies of all of it, and texts that would change what words weigh.
    for i in 0..<20 {
      try bench.collection.upsert(
        points.enumerated().map { n, point in
          Point(
            .integer(Int64(1000 * i + n)), vector: point.vector, text: "alpha alpha alpha", payload: point.payload)
        } + [Point(.text(i == 0 ? "canary" : "canary\(i)"), vector: query, text: "alpha beta gamma")], as: bench.b)
    }
    #expect(try everything(bench.collection, as: bench.a, query: query) == before)
    try bench.collection.train(as: Bench.admin)
    #expect(try everything(bench.collection, as: bench.a, query: query) == before)
  }

  @Test func `a word that only another's point has finds nothing, and takes no place`() throws {
    let bench = try Bench()
    try bench.collection.upsert(
      (0..<300).map { Point(.integer($0), vector: near, text: "common zebra") }, as: bench.b)
    try bench.collection.upsert([Point("mine", vector: [0, 0, 0, 1], text: "common")], as: bench.a)
    #expect(try bench.found(Query(mode: .keyword, text: "zebra"), as: bench.a).isEmpty)
    for mode in [Query.Mode.keyword, .hybrid] {
      let query = Query(mode: mode, vector: near, text: "common zebra", options: SearchOptions(k: 1))
      #expect(try bench.found(query, as: bench.a) == ["mine"])
      let same = Query(mode: mode, vector: near, text: "common", options: SearchOptions(k: 1))
      #expect(
        try bench.collection.search(query, as: bench.a).map(\.score)
          == bench.collection.search(same, as: bench.a).map(\.score))
    }
  }

  @Test func `a cursor is of use to its tenant only`() throws {
    let bench = try Bench()
    let points = (0..<25).map { Point(.integer($0), vector: near) }
    try bench.collection.upsert(points, as: bench.a)
    try bench.collection.upsert(points, as: bench.b)
    var page = try bench.collection.scroll(limit: 10, as: bench.a)
    let cursor = try #require(page.cursor)
    var keys = page.points.map(\.key)
    while let next = page.cursor {
      page = try bench.collection.scroll(limit: 10, cursor: next, as: bench.a)
      keys += page.points.map(\.key)
    }
    #expect(keys == points.map(\.key))
    func refused(_ cursor: String, _ principal: Principal) -> Bool {
      do {
        _ = try bench.collection.scroll(cursor: cursor, as: principal)
        return false
      } catch CollectionError.invalid(let path, _, _) { return path == "cursor" } catch { return false }
    }
    #expect(refused(cursor, bench.b) && refused(cursor, bench.c))
    #expect(refused("", bench.a) && refused("AAAA", bench.a) && refused(String(cursor.dropLast(4)), bench.a))
    // It does not say where in the collection it points.
    #expect(try bench.collection.scroll(limit: 10, as: bench.a).cursor != cursor)
    let other = try Bench()
    try other.collection.upsert(points, as: other.a)
    #expect(throws: CollectionError.self) { try other.collection.scroll(cursor: cursor, as: other.a) }
  }

  @Test func `what was revoked is gone from every filter that found it before`() throws {
    let bench = try Bench()
    try bench.collection.update("b", TenantUpdate(groups: ["team"]), as: Bench.admin)
    try bench.collection.upsert(
      [Point("x", vector: near, text: "word", payload: #"{"lang":"de"}"#, shareWith: ["b", "team"])], as: bench.a)
    func finds() throws -> [Bool] {
      try Query.Mode.allCases.flatMap { mode in
        try [nil, TenantFilter.or([.tenant("b"), .tenant("team")]), .tenant("team")].map { access in
          try bench.found(
            Query(
              mode: mode, vector: near, text: "word", access: access, payload: .equals("lang", .string("de"))),
            as: bench.b) == ["x"]
        }
      }
    }
    #expect(try finds() == Array(repeating: true, count: 9))
    #expect(try bench.collection.revoke(["x"], from: ["team"], as: bench.a) == 1)
    #expect(try finds() == [true, true, false, true, true, false, true, true, false])
    #expect(try bench.collection.revoke(["x"], from: ["b"], as: bench.a) == 1)
    #expect(try finds() == Array(repeating: false, count: 9))
    #expect(try bench.collection.count(as: bench.b) == 0)
    #expect(throws: CollectionError.self) { try bench.collection.revoke(["x"], from: ["a"], as: bench.a) }
    #expect(try bench.collection.revoke(["x"], from: ["unheard-of"], as: bench.a) == 0)
  }

  @Test func `groups give what they were granted, and leaving one takes it`() throws {
    let bench = try Bench()
    try bench.collection.upsert([Point("x", vector: near, text: "w", shareWith: ["team"])], as: bench.a)
    #expect(try bench.collection.count(as: bench.b) == 0)
    try bench.collection.update("b", TenantUpdate(groups: ["team"]), as: Bench.admin)
    #expect(try bench.found(Query(mode: .hybrid, vector: near, text: "w"), as: bench.b) == ["x"])
    #expect(try bench.collection.get("x", of: "a", as: bench.b).key == "x")
    try bench.collection.drop("team", as: Bench.admin)
    #expect(try bench.collection.count(as: bench.b) == 0)
    #expect(try bench.collection.stats(of: "b", as: bench.b).groups.isEmpty)
    // A new group of the same name has a new number.
    try bench.collection.update("b", TenantUpdate(groups: ["team"]), as: Bench.admin)
    #expect(try bench.collection.count(as: bench.b) == 0)
    #expect(try bench.collection.count(as: bench.a) == 1)
  }

  @Test func `random changes leave every tenant what a model of sets says`() throws {
    let seed = UInt64.random(in: 0 ... .max)
    var random = SeededRandom(seed: seed)
    let bench = try Bench()
    var collection = bench.collection
    let names = ["a", "b", "c", "d"]
    struct Owned: Hashable {
      var owner: String
      var key: PointKey
    }
    var grants: [Owned: Set<String>] = [:]
    for step in 0..<600 {
      let name = names.randomElement(using: &random)!
      let point = Owned(owner: name, key: .integer(Int64.random(in: 0..<6, using: &random)))
      let other = names.randomElement(using: &random)!
      switch Int.random(in: 0..<12, using: &random) {
      case 0..<5:
        try collection.upsert(
          [Point(point.key, vector: random.vector(4), text: "w\(step)", shareWith: [other])],
          as: Principal(tenant: name))
        grants[point, default: []].formUnion([name, other])
      case 5, 6:
        let isThere = grants[point] != nil
        let done = try? collection.grant([point.key], to: [other], as: Principal(tenant: name))
        #expect((done != nil) == isThere, "seed \(seed), step \(step)")
        if isThere { grants[point]!.insert(other) }
      case 7, 8:
        guard other != name, grants[point] != nil else { continue }
        try collection.revoke([point.key], from: [other], as: Principal(tenant: name))
        grants[point]!.remove(other)
      case 9:
        if grants.removeValue(forKey: point) != nil { try collection.delete([point.key], as: Principal(tenant: name)) }
      case 10 where step % 5 == 0:
        try collection.close()
        collection = try bench.reopened()
      case 11 where step % 3 == 0: try collection.checkpoint()
      default: continue
      }
      let seen = names.randomElement(using: &random)!
      let expected = Set(grants.filter { $0.value.contains(seen) }.keys)
      let hits = try collection.search(
        Query(vector: random.vector(4), options: SearchOptions(k: 100)), as: Principal(tenant: seen))
      #expect(Set(hits.map { Owned(owner: $0.point.owner!, key: $0.point.key) }) == expected, "seed \(seed), \(step)")
      #expect(try collection.count(as: Principal(tenant: seen)) == expected.count, "seed \(seed), step \(step)")
    }
    try collection.verify()
  }
}
