import ApusVectors
import Foundation
import GRDB
import Testing

@testable import ApusCollections

@Suite struct CollectionSearchTests {
  @Test func `filters on payloads are what Swift says they are, however they are planned`() throws {
    let seed = UInt64.random(in: 0 ... .max)
    var random = SeededRandom(seed: seed)
    let bench = try Bench()
    struct Row {
      var lang: String?
      var year: Int?
      var draft: Bool?
      var author: String?
    }
    var rows: [Row] = []
    var points: [Point] = []
    for i in 0..<400 {
      let row = Row(
        lang: [nil, "de", "en", "1"].randomElement(using: &random)!,
        year: [nil, 0, 1, 2000, 2024].randomElement(using: &random)!,
        draft: [nil, true, false].randomElement(using: &random)!,
        author: [nil, "x", "y"].randomElement(using: &random)!)
      var parts: [String] = []
      if let lang = row.lang { parts.append(#""lang":"\#(lang)""#) }
      if let year = row.year { parts.append(#""year":\#(year)"#) }
      if let draft = row.draft { parts.append(#""draft":\#(draft)"#) }
      if let author = row.author { parts.append(#""author":{"name":"\#(author)"}"#) }
      rows.append(row)
      points.append(
        Point(
          .integer(Int64(i)), vector: random.vector(4), payload: "{\(parts.joined(separator: ","))}",
          shareWith: i % 3 == 0 ? ["b"] : []))
    }
    try bench.collection.upsert(points, as: bench.a)
    indirect enum Formula {
      case leaf(PayloadFilter, (Row) -> Bool)
      case and([Formula])
      case or([Formula])
      case not(Formula)
      var filter: PayloadFilter {
        switch self {
        case .leaf(let filter, _): filter
        case .and(let parts): .and(parts.map(\.filter))
        case .or(let parts): .or(parts.map(\.filter))
        case .not(let part): .not(part.filter)
        }
      }
      func holds(_ row: Row) -> Bool {
        switch self {
        case .leaf(_, let holds): holds(row)
        case .and(let parts): parts.allSatisfy { $0.holds(row) }
        case .or(let parts): parts.contains { $0.holds(row) }
        case .not(let part): !part.holds(row)
        }
      }
    }
    let leaves: [Formula] = [
      .leaf(.equals("lang", .string("de"))) { $0.lang == "de" },
      .leaf(.equals("lang", .string("1"))) { $0.lang == "1" },
      .leaf(.equals("lang", .integer(1))) { _ in false },
      .leaf(.equals("year", .integer(1))) { $0.year == 1 },
      .leaf(.equals("year", .number(2024))) { $0.year == 2024 },
      .leaf(.equals("draft", .integer(1))) { _ in false },
      .leaf(.equals("draft", .bool(true))) { $0.draft == true },
      .leaf(.equals("draft", .bool(false))) { $0.draft == false },
      .leaf(.isIn("lang", [.string("en"), .string("1")])) { $0.lang == "en" || $0.lang == "1" },
      .leaf(.isIn("lang", [])) { _ in false },
      .leaf(.range("year", .init(from: .integer(1), below: .integer(2024)))) { (1..<2024).contains($0.year ?? 0) },
      .leaf(.range("lang", .init(above: .string("de"), upTo: .string("en")))) { $0.lang == "en" },
      .leaf(.exists("draft")) { $0.draft != nil }, .leaf(.exists("author.name")) { $0.author != nil },
      .leaf(.equals("author.name", .string("y"))) { $0.author == "y" },
    ]
    func formula(_ depth: Int) -> Formula {
      let kind = depth == 0 ? 0 : Int.random(in: 0..<4, using: &random)
      let parts = (0..<Int.random(in: 0...3, using: &random)).map { _ in depth == 0 ? leaves[0] : formula(depth - 1) }
      switch kind {
      case 0: return leaves.randomElement(using: &random)!
      case 1: return .and(parts)
      case 2: return .or(parts)
      default: return .not(formula(depth - 1))
      }
    }
    for formula in leaves + (0..<200).map({ _ in formula(4) }) {
      let expected = Set(rows.indices.filter { formula.holds(rows[$0]) })
      let found = try bench.found(
        Query(vector: random.vector(4), payload: formula.filter, options: SearchOptions(k: 500)), as: bench.a)
      #expect(Set(found) == Set(expected.map { .integer(Int64($0)) }), "seed \(seed): \(formula.filter)")
      #expect(try bench.collection.count(payload: formula.filter, as: bench.b) == expected.count { $0 % 3 == 0 })
      // The other plan: SQLite's index over everybody's points.
      let all = try bench.collection.catalogue.pool.read {
        try bench.collection.condition(formula.filter, visible: nil, in: $0)!
      }
      #expect(all.count == expected.count, "seed \(seed): \(formula.filter)")
    }
  }

  @Test func `the single nearest of a small tenant is found, whatever is asked`() throws {
    let folder = TestFolder()
    var random = SeededRandom(seed: 5)
    let docs = try VectorCollection.create(
      folder.path + "/docs",
      CollectionConfig(name: "docs", vectors: VectorConfig(dim: 24, bufferCapacity: 4, leafCapacity: 8)))
    let vectors = (0..<6000).map { _ in random.vector(24) }
    for start in stride(from: 0, to: 6000, by: 1000) {
      try docs.upsert(
        (start..<start + 1000).map { Point(.integer(Int64($0)), vector: vectors[$0]) },
        as: Principal(tenant: start == 0 ? "small" : "large"))
    }
    let few = (0..<400).map { PointKey.integer(Int64($0)) }
    try docs.grant(few, to: ["few"], as: Principal(tenant: "small"))
    try docs.train(as: Bench.admin)
    let tenant = try #require(docs.tenants.withLock { $0["few"] }).id
    var misses = 0
    for _ in 0..<100 {
      let query = random.vector(24)
      let exact = try docs.search(
        Query(vector: query, options: SearchOptions(k: 1, exact: true)), as: Principal(tenant: "few"))
      let found = try docs.search(Query(vector: query, options: SearchOptions(k: 1)), as: Principal(tenant: "few"))
      #expect(found == exact)
      // The tree alone, soon content.
      let tree = try docs.store.index.search(query, as: tenant, options: SearchOptions(k: 1, patience: 1))
        .neighbours
      if abs(tree[0].distance - exact[0].distance!) > 1e-6 { misses += 1 }
    }
    #expect(misses > 0, "the tree alone finds all: this test shows nothing")
  }

  @Test func `an equality walks the field's index when the tenant is large`() throws {
    let bench = try Bench()
    let (sql, arguments) = try PayloadFilter.equals("author.name", .string("x")).sql(
      fields: bench.collection.config.indexedFields)
    let plan = try bench.collection.catalogue.pool.read { database in
      try Row.fetchAll(
        database, sql: "EXPLAIN QUERY PLAN SELECT id FROM point WHERE \(sql)", arguments: StatementArguments(arguments)
      ).map { $0["detail"] as String }
    }
    #expect(plan.contains { $0.contains("USING INDEX payload_2") }, "\(plan)")
  }

  @Test func `a field without an index is refused by name`() throws {
    let bench = try Bench()
    for filter in [PayloadFilter.exists("other"), .not(.and([.equals("lang') OR 1 --", .integer(1))]))] {
      #expect(throws: CollectionError.self) {
        try bench.collection.search(Query(vector: [1, 0, 0, 0], payload: filter), as: bench.a)
      }
      try bench.collection.upsert([Point("x", vector: [1, 0, 0, 0])], as: bench.a)
    }
    for field in ["", "a..b", "a'b", "a\"b", "a b", ".a"] {
      #expect(throws: CollectionError.self, "\(field)") {
        try CollectionConfig(name: "n", vectors: VectorConfig(dim: 2), indexedFields: [field]).validate()
      }
    }
  }

  @Test func `words are ranked by BM25 over the tenant's own points`() throws {
    let bench = try Bench()
    let texts = [
      "the quick brown fox", "the lazy dog", "quick quick quick", "a fox and a dog and a fox in the long long grass",
      "nothing here",
    ]
    try bench.collection.upsert(
      texts.enumerated().map { Point(.integer(Int64($0)), vector: [Float($0), 0, 0, 0], text: $1) }, as: bench.a)
    // An independent BM25.
    func expected(_ query: [String]) -> [(PointKey, Double)] {
      let documents = texts.map { $0.split(separator: " ").map(String.init) }
      let matching = documents.filter { document in query.contains { document.contains($0) } }
      let average = Double(matching.reduce(0) { $0 + $1.count }) / Double(matching.count)
      return documents.enumerated().compactMap { i, document -> (PointKey, Double)? in
        var score = 0.0
        for word in query {
          let having = Double(documents.count { $0.contains(word) })
          let count = Double(document.count { $0 == word })
          let idf = log(1 + (5 - having + 0.5) / (having + 0.5))
          score += idf * count * 2.2 / (count + 1.2 * (0.25 + 0.75 * Double(document.count) / average))
        }
        return score > 0 ? (.integer(Int64(i)), score) : nil
      }.sorted { $0.1 > $1.1 }
    }
    for query in [["fox"], ["quick", "dog"], ["the", "fox", "grass"], ["absent"]] {
      let hits = try bench.collection.search(
        Query(mode: .keyword, text: query.joined(separator: " ").uppercased() + "!"), as: bench.a)
      let wanted = query == ["absent"] ? [] : expected(query)
      #expect(hits.map(\.point.key) == wanted.map(\.0), "\(query)")
      for (hit, (_, score)) in zip(hits, wanted) { #expect(abs(hit.score - score) < 1e-9, "\(query)") }
    }
    // No syntax of the full-text index gets through.
    for text in ["\"", "fox OR", "fox*", "NEAR(", "text:fox", "-", "(", "AND"] {
      _ = try bench.collection.search(Query(mode: .keyword, text: text), as: bench.a)
    }
  }

  @Test func `ranks are fused as Cormack and others say`() {
    let fused = ReciprocalRank.fuse([[1, 2, 3], [3, 1, 9]])
    #expect(fused.map(\.id) == [1, 3, 2, 9])
    #expect(abs(fused[0].score - (1 / 61.0 + 1 / 62.0)) < 1e-12 && abs(fused[3].score - 1 / 63.0) < 1e-12)
  }

  @Test func `hybrid finds what either list has`() throws {
    let bench = try Bench()
    try bench.collection.upsert(
      [
        Point("near", vector: [1, 0, 0, 0], text: "unrelated"), Point("both", vector: [0.9, 0, 0, 0], text: "heron"),
        Point("word", vector: [-1, 0, 0, 0], text: "heron"),
      ], as: bench.a)
    let hits = try bench.collection.search(
      Query(mode: .hybrid, vector: [1, 0, 0, 0], text: "heron"), as: bench.a)
    #expect(hits.map(\.point.key) == ["both", "word", "near"])
  }

  @Test func `a search among ids is the exact answer over them`() throws {
    let seed = UInt64.random(in: 0 ... .max)
    var random = SeededRandom(seed: seed)
    for quantizer in VectorQuantizer.allCases {
      let index = try VectorIndex(
        VectorConfig(dim: 8, metric: .l2, quantizer: quantizer, branching: 8, bufferCapacity: 16, leafCapacity: 16))
      let count = 12_000
      let vectors = (0..<count).map { _ in random.vector(8) }
      try index.write { writer in
        for (id, vector) in vectors.enumerated() {
          try writer.upsert(VectorID(id), vector, owner: TenantID(id % 2), shareWith: id % 5 == 0 ? [7] : [])
        }
      }
      try index.train(TrainingOptions(threads: 1))
      for share in [0, 0.001, 0.05, 0.5, 0.9] {
        let chosen = (0..<count).filter { _ in Double.random(in: 0..<1, using: &random) < share }
        for isComplement in [false, true] {
          let set = VectorIDSet(chosen.map { VectorID($0) }, isComplement: isComplement)
          let members = Set(chosen)
          let query = random.vector(8)
          let tenant: TenantID = [0, 1, 7].randomElement(using: &random)!
          let truth = (0..<count).filter { id in
            members.contains(id) != isComplement && (tenant == 7 ? id % 5 == 0 : id % 2 == Int(tenant))
          }.map { id -> (Float, VectorID) in
            (zip(vectors[id], query).reduce(0) { $0 + ($1.0 - $1.1) * ($1.0 - $1.1) }, VectorID(id))
          }.sorted { $0 < $1 }.prefix(10).map(\.1)
          // All patience: then the tree search is exact too.
          let found = try index.search(
            query, as: tenant, among: set, options: SearchOptions(k: 10, patience: 1 << 20, rerankFactor: 20)
          ).neighbours.map(\.id)
          #expect(Set(found) == Set(truth), "seed \(seed), \(quantizer), \(share), \(isComplement)")
          let usual = try index.search(query, as: tenant, among: set, options: SearchOptions(k: 10)).neighbours
          #expect(usual.count == truth.count && usual.allSatisfy { set.contains($0.id) }, "seed \(seed)")
        }
      }
    }
  }

  @Test func `sets of ids hold what was put in, dense or sparse`() {
    var random = SeededRandom(seed: 2)
    for span in [10, 1000, 1 << 40] as [UInt64] {
      let ids: [VectorID] =
        (0..<200).map { _ in UInt64.random(in: 5...(5 + span), using: &random) } + [VectorID.max - 1]
      for ids in [ids, ids.filter { $0 < VectorID.max - 1 }, []] as [[VectorID]] {
        let (set, complement) = (VectorIDSet(ids), VectorIDSet(ids, isComplement: true))
        #expect(set.count == Set(ids).count)
        for id in ids + [0, 4, 5, 6, 5 + span, 6 + span, VectorID.max] {
          #expect(set.contains(id) == ids.contains(id) && complement.contains(id) != set.contains(id), "\(id)")
        }
      }
    }
  }
}
