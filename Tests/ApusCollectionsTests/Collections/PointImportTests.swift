import ApusVectors
import Foundation
import Synchronization
import Testing

@testable import ApusCollections

@Suite struct PointImportTests {
  /// Letters, counting the texts; breaks after some.
  private final class CountedEmbedder: TextEmbedder {
    struct Broken: Error {}
    let count = Atomic(0)
    let limit: Int

    init(limit: Int = .max) { self.limit = limit }

    func dim(of model: String) throws -> Int { try LetterEmbedder().dim(of: model) }
    func embed(_ texts: [String], model: String) throws -> [[Float]] {
      if count.add(texts.count, ordering: .relaxed).newValue > limit { throw Broken() }
      return LetterEmbedder().embed(texts, model: model)
    }
  }

  private let folder = TestFolder()
  private static let config = CollectionConfig(
    name: "docs", vectors: VectorConfig(dim: LetterEmbedder.dim), embeddingModel: "letters", indexedFields: ["n"])

  private func file(_ lines: [String]) throws -> JSONLinesFile {
    let path = "\(folder.path)/\(UUID().uuidString).jsonl"
    try (lines.joined(separator: "\n") + "\n").write(toFile: path, atomically: true, encoding: .utf8)
    return try JSONLinesFile(path: path)
  }

  private func collection(_ embedder: CountedEmbedder, _ name: String = "docs") throws -> VectorCollection {
    try VectorCollection.create("\(folder.path)/\(name)", Self.config, embedder: embedder)
  }

  /// Texts of random letters with one to three tenants of four.
  private static func randomLines(_ count: Int, seed: UInt64) -> [String] {
    var random = SeededRandom(seed: seed)
    return (0..<count).map { i in
      let text = String(
        (0..<Int.random(in: 3...30, using: &random)).map { _ in "abcdefgh ".randomElement(using: &random)! })
      let tenants = ["a", "b", "c", "d"].shuffled(using: &random).prefix(.random(in: 1...3, using: &random))
      return
        #"{"id": \#(i), "text": "x\#(text)", "tenants": ["\#(tenants.joined(separator: "\", \""))"], "payload": {"n": \#(i)}}"#
    }
  }

  /// All that tenants see, and whose it is.
  private func seen(_ collection: VectorCollection) throws -> [String: [VisiblePoint]] {
    var all: [String: [VisiblePoint]] = [:]
    for tenant in ["a", "b", "c", "d"] {
      var cursor: String?
      repeat {
        let page = try collection.scroll(limit: 1000, cursor: cursor, as: Principal(tenant: tenant))
        all[tenant, default: []] += page.points
        cursor = page.cursor
      } while cursor != nil
      all[tenant]?.sort { "\($0.key)" < "\($1.key)" }
    }
    return all
  }

  @Test func `the first tenant owns, the others see, and texts are found by meaning, by word and by both`() async throws
  {
    let docs = try collection(CountedEmbedder())
    let report = try await PointImport(
      try file([
        #"{"id": 1, "text": "aaab heron", "tenants": ["a", "b", "b", "a"], "payload": {"n": 1}}"#,
        #"{"id": "two", "text": "zzzz", "tenants": ["b"]}"#,
        #"{"id": 1, "text": "aaab", "tenants": ["b"]}"#,
      ]), into: docs
    ).run()
    #expect(report == .init(points: 3, embedded: 3, unchanged: 0))
    for (mode, text) in [(.vector, "aab"), (.keyword, "heron"), (.hybrid, "heron")] as [(Query.Mode, String)] {
      let query = try await docs.embedding(Query(mode: mode, text: text))
      let (a, b) = (
        try docs.search(query, as: Principal(tenant: "a")), try docs.search(query, as: Principal(tenant: "b"))
      )
      #expect(a.map(\.point.owner) == ["a"] && a[0].point.text == "aaab heron" && a[0].point.payload == #"{"n": 1}"#)
      #expect(b.contains { $0.point.owner == "a" && $0.point.key == 1 }, "\(mode)")
      #expect(try docs.search(query, as: Principal(tenant: "c")).isEmpty)
    }
  }

  @Test func `what is there is neither embedded nor written again; what changed is`() async throws {
    let embedder = CountedEmbedder()
    let docs = try collection(embedder)
    let lines = Self.randomLines(1200, seed: 7)
    #expect(
      try await PointImport(try file(lines), into: docs).run() == .init(points: 1200, embedded: 1200, unchanged: 0))
    let before = try seen(docs)
    let again = try await PointImport(try file(lines), into: docs).run()
    #expect(again == .init(points: 1200, embedded: 0, unchanged: 1200))
    #expect(embedder.count.load(ordering: .relaxed) == 1200)
    #expect(try seen(docs) == before)
    // Another payload or another reader needs no vector, another text does.
    let changed = [
      #"{"id": "p", "text": "same", "tenants": ["a"], "payload": {"n": 1}}"#,
      #"{"id": "r", "text": "same", "tenants": ["a"]}"#, #"{"id": "t", "text": "same", "tenants": ["a"]}"#,
    ]
    _ = try await PointImport(try file(changed), into: docs).run()
    let report = try await PointImport(
      try file([
        #"{"id": "p", "text": "same", "tenants": ["a"], "payload": {"n": 2}}"#,
        #"{"id": "r", "text": "same", "tenants": ["a", "d"]}"#, #"{"id": "t", "text": "other", "tenants": ["a"]}"#,
      ]), into: docs
    ).run()
    #expect(report == .init(points: 3, embedded: 1, unchanged: 0))
    #expect(try docs.get("p", as: Principal(tenant: "a")).payload == #"{"n": 2}"#)
    #expect(try docs.get("r", of: "a", as: Principal(tenant: "d")).text == "same")
    let letters = LetterEmbedder().embed(["other"], model: "letters")[0]
    let length = letters.reduce(0) { $0 + $1 * $1 }.squareRoot()
    let stored = try #require(try docs.get("t", as: Principal(tenant: "a")).vector)
    #expect(zip(stored, letters).allSatisfy { abs($0 - $1 / length) < 1e-5 })
  }

  @Test func `an import that broke goes on where it was, and ends as one that did not`() async throws {
    let lines = try file(Self.randomLines(3000, seed: 11))
    let whole = try collection(CountedEmbedder(), "whole")
    _ = try await PointImport(lines, into: whole).run()
    let broken = try collection(CountedEmbedder(limit: 2000), "broken")
    await #expect(throws: CountedEmbedder.Broken.self) { try await PointImport(lines, into: broken).run() }
    try broken.close()
    let embedder = CountedEmbedder()
    let mended = try VectorCollection.open("\(folder.path)/broken", embedder: embedder)
    let report = try await PointImport(lines, into: mended).run()
    #expect(report.points == 3000 && report.unchanged + report.embedded == 3000)
    #expect(report.unchanged > 0 && report.embedded == embedder.count.load(ordering: .relaxed))
    #expect(try seen(mended) == seen(whole))
    try mended.verify()
  }

  @Test func `progress goes from none to all`() async throws {
    let docs = try collection(CountedEmbedder())
    let steps = Mutex<[Int]>([])
    _ = try await PointImport(try file(Self.randomLines(1100, seed: 3)), into: docs).run { done, total in
      #expect(total == 1100)
      steps.withLock { $0.append(done) }
    }
    let all = steps.withLock { $0 }
    #expect(all.first == 0 && all.last == 1100 && all == all.sorted())
  }

  @Test func `mistakes are found before anything is stored, and name the line`() async throws {
    let docs = try collection(CountedEmbedder())
    let good = #"{"id": 1, "text": "aa", "tenants": ["a"]}"#
    for (bad, what) in [
      (#"{"id": 1, "text": "bb", "tenants": ["a", "b"]}"#, "line 2: found 1 of 'a', as in line 1"),
      (#"{"id": 2, "text": "bb"}"#, "line 2: found no tenant"),
      (#"{"id": 2, "tenants": ["a"]}"#, "line 2: found neither text nor vector"),
      (#"{"id": 2, "text": "", "tenants": ["a"]}"#, "line 2: found text of a text of 0 bytes"),
      (#"{"id": "", "text": "b", "tenants": ["a"]}"#, "line 2: found id of a key of 0 bytes"),
      (#"{"id": 2, "text": "b", "tenants": [""]}"#, "line 2: found tenants.0 of a name of 0 bytes"),
      (#"{"id": 2, "text": "b", "owner": "a"}"#, "line 2, column"),
    ] {
      do {
        _ = try await PointImport(try file([good, bad]), into: docs).run()
        Issue.record("\(bad) was taken")
      } catch { #expect("\(error)".contains(what), "\(error)") }
      #expect(try docs.stats(as: Bench.admin).vectors == 0)
    }
    // What only storing can tell names the line too.
    do {
      _ = try await PointImport(
        try file([good, #"{"id": 2, "vector": [1, 2], "tenants": ["a"]}"#]), into: docs
      ).run()
      Issue.record("a vector of another size was taken")
    } catch { #expect("\(error)".contains(".jsonl, line 2, vector is 2 numbers, expected 26"), "\(error)") }
    _ = try await PointImport(try file([#"{"id": 2, "text": "bb", "tenants": ["b"]}"#]), into: docs, owner: "a").run()
    #expect(try docs.get(2, of: "a", as: Principal(tenant: "b")).owner == "a")
  }

  @Test func `a collection is made for a model that there is, and its size`() throws {
    func make(_ config: CollectionConfig, _ embedder: (any TextEmbedder)?) throws {
      try VectorCollection.create(folder.path + "/new", config, embedder: embedder).close()
    }
    var config = Self.config
    #expect(throws: CollectionError.unknownModel("letters", known: [])) { try make(config, nil) }
    config.embeddingModel = "sounds"
    #expect(throws: CollectionError.unknownModel("sounds", known: ["letters"])) { try make(config, LetterEmbedder()) }
    config.embeddingModel = "letters"
    config.vectors.dim = 25
    do {
      try make(config, LetterEmbedder())
      Issue.record("another size was taken")
    } catch { #expect("\(error)" == "dimension is 25, expected 26, the size of the vectors of 'letters'") }
    #expect(!FileManager.default.fileExists(atPath: folder.path + "/new"))
  }

  @Test func `a store that was closed opens nothing, and another process may have its collections`() throws {
    let store = try CollectionStore(folder.path, embedder: LetterEmbedder())
    let docs = try store.create(Self.config, as: Bench.admin)
    try docs.upsert([Point(1, vector: LetterEmbedder().embed(["a"], model: "")[0])], as: Principal(tenant: "a"))
    #expect(throws: (any Error).self) { try VectorCollection.open(folder.path + "/docs") }
    try store.close()
    try store.close()
    #expect(throws: CollectionError.unusable("the store was closed")) { try store.collection("docs") }
    #expect(throws: CollectionError.unusable("the store was closed")) { try store.create(Self.config, as: Bench.admin) }
    let other = try CollectionStore(folder.path)
    #expect(try other.collection("docs").count(as: Principal(tenant: "a")) == 1)
    try other.close()
  }
}
