import ApusCollections
import ApusVectors
import Foundation
import Testing

/// What a store of collections does by itself.
@Suite struct MaintenanceTests {
  private static let admin = Principal(tenant: "root", isAdmin: true)

  @Test func `maintenance trains what has grown, once, and deletes what has expired`() throws {
    let folder = FileManager.default.temporaryDirectory.appending(path: "apus-\(UUID().uuidString)").path
    defer { try? FileManager.default.removeItem(atPath: folder) }
    let store = try CollectionStore(folder, now: { 1000 })
    let docs = try store.create(
      CollectionConfig(name: "docs", vectors: VectorConfig(dim: 4, metric: .l2)), as: Self.admin)
    let caller = Principal(tenant: "a")
    #expect(store.maintain().isEmpty)
    var random = SystemRandomNumberGenerator()
    for batch in 0..<5 {
      try docs.upsert(
        (0..<1000).map { i in
          let vector = (0..<4).map { _ in Float.random(in: -1...1, using: &random) }
          return Point(PointKey.integer(Int64(batch * 1000 + i)), vector: vector, expiresAt: i == 7 ? 1001 : nil)
        }, as: caller)
    }
    let first = store.maintain()
    guard first.count == 1, case ("docs", .trained(.untrained)) = first[0] else {
      Issue.record("\(first)")
      return
    }
    #expect(try docs.stats(as: Self.admin).clusters > 10)
    #expect(store.maintain().isEmpty)
    // What a search costs is counted for its tenant alone.
    for _ in 0..<3 { _ = try docs.search(Query(vector: [1, 0, 0, 0]), as: caller) }
    let searches = try #require(try docs.stats(of: "a", as: Self.admin).searches)
    #expect(searches.count == 3 && searches.scanned >= 30 && searches.microseconds > 0)
    #expect(try docs.stats(of: "a", as: caller).searches == nil)
    try store.close()

    let later = try CollectionStore(folder, now: { 2000 })
    _ = try later.collection("docs")
    let second = later.maintain()
    guard second.count == 1, case ("docs", .deleted(5)) = second[0] else {
      Issue.record("\(second)")
      return
    }
    try later.close()
  }
}
