import Foundation
import Testing

@testable import ApusServer

@Suite struct ResponsesStoreTests {
  private func withStore(_ body: (SQLiteResponseStore, String) async throws -> Void) async throws {
    let directory = FileManager.default.temporaryDirectory.appending(path: "apus-responses-\(UUID().uuidString)")
    try FileManager.default.createDirectory(at: directory, withIntermediateDirectories: true)
    defer { try? FileManager.default.removeItem(at: directory) }
    let path = directory.appending(path: "responses.sqlite").path
    try await body(try SQLiteResponseStore(path: path), path)
  }

  private func response(_ id: String, previous: String? = nil, owner: String = "ada", body: String = "{}")
    -> StoredResponse
  {
    StoredResponse(id: id, owner: owner, previous: previous, created: Self.now, body: body, input: "[]")
  }

  private static let now = Int(Date().timeIntervalSince1970)

  @Test func responsesAreForgottenAfterTheirTime() async throws {
    try await withStore { store, path in
      var old = response("old")
      old.created = Self.now - SQLiteResponseStore.defaultLifetime - 60
      var recent = response("recent", previous: "old")
      recent.created = Self.now - SQLiteResponseStore.defaultLifetime + 3600
      try await store.save(recent)
      try await store.save(old)
      #expect(try await store.response("old", of: "ada") == nil)
      #expect(try await store.response("recent", of: "ada") == recent)
      #expect(try await store.conversation(endingAt: "recent", of: "ada") == nil)
      // Not only hidden: it is gone for who would keep everything.
      let patient = try SQLiteResponseStore(path: path, lifetime: Self.now)
      #expect(try await patient.response("old", of: "ada") == nil)
      #expect(try await patient.response("recent", of: "ada") == recent)
    }
  }

  @Test func responsesComeBackAsTheyWere() async throws {
    try await withStore { store, _ in
      let saved = response("a", body: #"{"text": "é\u0000'\""}"#)
      try await store.save(saved)
      #expect(try await store.response("a", of: "ada") == saved)
      #expect(try await store.response("a", of: "bob") == nil)
      #expect(try await store.response("b", of: "ada") == nil)
      let changed = response("a", body: "{2}")
      try await store.save(changed)
      #expect(try await store.response("a", of: "ada") == changed)
      // Somebody else's id cannot be written over.
      try await store.save(response("a", owner: "bob", body: "{3}"))
      #expect(try await store.response("a", of: "ada") == changed)
      #expect(try await store.delete("a", of: "bob") == false)
      #expect(try await store.delete("a", of: "ada") == true)
      #expect(try await store.delete("a", of: "ada") == false)
    }
  }

  @Test func aConversationIsThereAsLongAsAllOfIt() async throws {
    try await withStore { store, _ in
      let chain = [response("a"), response("b", previous: "a"), response("c", previous: "b")]
      for one in chain { try await store.save(one) }
      #expect(try await store.conversation(endingAt: "c", of: "ada") == chain)
      #expect(try await store.conversation(endingAt: "a", of: "ada") == [chain[0]])
      #expect(try await store.conversation(endingAt: "c", of: "bob") == nil)
      _ = try await store.delete("a", of: "ada")
      #expect(try await store.conversation(endingAt: "c", of: "ada") == nil)
    }
  }

  /// What is committed is in the log on disk: a copy of the files as they lie while the store is open is what a process
  /// that was killed leaves behind.
  @Test func whatWasSavedSurvivesTheProcess() async throws {
    try await withStore { store, path in
      for index in 0..<20 { try await store.save(response("r\(index)", body: String(repeating: "x", count: 10_000))) }
      let copy = path + ".copy"
      for suffix in ["", "-wal"] { try FileManager.default.copyItem(atPath: path + suffix, toPath: copy + suffix) }
      let reopened = try SQLiteResponseStore(path: copy)
      for index in 0..<20 {
        #expect(try await reopened.response("r\(index)", of: "ada")?.body.count == 10_000)
      }
    }
  }

  @Test func manyCanWriteAtOnce() async throws {
    try await withStore { store, _ in
      try await withThrowingTaskGroup(of: Void.self) { group in
        for index in 0..<100 { group.addTask { try await store.save(response("r\(index)")) } }
        try await group.waitForAll()
      }
      for index in 0..<100 { #expect(try await store.response("r\(index)", of: "ada") != nil) }
    }
  }
}
