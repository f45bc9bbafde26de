import ApusCollections
import Foundation
import GRPCCore
import GRPCProtobuf
import Synchronization
import Testing

@testable import ApusGRPC

@Suite struct ServerLifeTests {
  @Test func `10,000 points go in on one stream, each batch answered in order`() async throws {
    try await ServedStore.with { served in
      try await served.create(dim: 32)
      let (batches, size) = (20, 500)
      let counts = try await Self.stream(served, batches: batches) { batch in
        var random = SeededRandom(state: UInt64(batch))
        return (0..<size).map { i in
          WirePoint(
            WirePointID(integerLiteral: Int64(batch * size + i)),
            (0..<32).map { _ in .random(in: -1...1, using: &random) })
        }
      }
      #expect(counts == Array(repeating: UInt32(size), count: batches))
      let count: WireCountResponse = try await served.call(
        Method.Count.descriptor, WireCountRequest.with { $0.collection = "docs" })
      #expect(count.count == 10_000)
      // Its own vector finds a point again.
      let point = try await served.get(7654)
      let hits = try await served.search(WireQuery(point.vector, k: 1))
      #expect(hits.map(\.point.id) == [7654] && hits[0].distance < 1e-6)
    }
  }

  @Test func `a bad batch ends the stream, and what was answered before it stays`() async throws {
    try await ServedStore.with { served in
      try await served.create(dim: 2)
      let answered = Atomic(0)
      let seen = try await fault {
        try await Self.stream(served, batches: 5, onAnswer: { answered.add(1, ordering: .relaxed) }) { batch in
          [WirePoint(WirePointID(integerLiteral: Int64(batch)), [batch == 3 ? .nan : 1, 0])]
        }
      }
      #expect(seen.code == .invalidArgument && seen.field == "points.0.vector.0")
      #expect(answered.load(ordering: .relaxed) == 3)
      let page: WireScrollResponse = try await served.call(
        Method.Scroll.descriptor, WireScrollRequest.with { $0.collection = "docs" })
      #expect(page.points.map(\.id.integer) == [0, 1, 2])
    }
  }

  /// Sends batches of alice's and returns the answers' counts.
  private static func stream(
    _ served: ServedStore, batches: Int, onAnswer: @escaping @Sendable () -> Void = {},
    _ points: @escaping @Sendable (Int) -> [WirePoint]
  ) async throws -> [UInt32] {
    try await served.client.bidirectionalStreaming(
      request: StreamingClientRequest(metadata: ServedStore.metadata("alice")) { writer in
        for batch in 0..<batches {
          try await writer.write(
            WireUpsertPointsRequest.with {
              $0.collection = "docs"
              $0.points = points(batch)
            })
        }
      }, descriptor: Method.StreamPoints.descriptor, serializer: ProtobufSerializer<WireUpsertPointsRequest>(),
      deserializer: ProtobufDeserializer<WireUpsertPointsResponse>(), options: .defaults
    ) { response in
      var counts: [UInt32] = []
      for try await answer in response.messages {
        onAnswer()
        counts.append(answer.count)
      }
      return counts
    }
  }

  @Test func `a message beyond the limit is refused, and the server goes on`() async throws {
    try await ServedStore.with(messageLimit: 10_000) { served in
      try await served.create()
      let small = WirePoint("small", [1, 0, 0, 0], text: String(repeating: "a", count: 9000))
      let large = WirePoint("large", [1, 0, 0, 0], text: String(repeating: "a", count: 11_000))
      try await served.upsert([small])
      let seen = try await fault { try await served.upsert([large]) }
      #expect(seen.code == .resourceExhausted && seen.reason == "request_too_large", "\(seen)")
      #expect(seen.message.contains("expected at most 10000") && seen.message.contains("bytes"), "\(seen)")
      // Larger than all that the connection lets through before somebody reads.
      let huge = WirePoint("huge", [1, 0, 0, 0], text: String(repeating: "a", count: 12 << 20))
      #expect(try await fault { try await served.upsert([huge]) }.reason == "request_too_large")
      // In a stream what came before is answered.
      let answered = Atomic(0)
      let last = try await fault {
        try await Self.stream(served, batches: 4, onAnswer: { answered.add(1, ordering: .relaxed) }) { batch in
          [batch == 2 ? large : WirePoint(WirePointID(integerLiteral: Int64(batch)), [0, 1, 0, 0])]
        }
      }
      #expect(last.reason == "request_too_large" && answered.load(ordering: .relaxed) == 2, "\(last)")
      #expect(try await served.get(1).id == 1)
      #expect(try await fault { try await served.get(3) }.code == .notFound)
      #expect(try await fault { try await served.get("large") }.code == .notFound)
      #expect(try await served.search(WireQuery([1, 0, 0, 0], k: 1)).map(\.point.id) == ["small"])
    }
  }

  @Test(arguments: [("127.0.0.1", false), ("127.0.0.1", true), ("::1", false), ("::1", true)])
  func `calls are answered over IPv4 and IPv6, with and without TLS`(host: String, hasTLS: Bool) async throws {
    try await ServedStore.with(host: host, hasTLS: hasTLS) { served in
      try await served.create()
      try await served.upsert([WirePoint(1, [1, 0, 0, 0])])
      #expect(try await served.search(WireQuery([1, 0, 0, 0])).map(\.point.id) == [1])
      #expect(try await fault { try await served.get(2) }.code == .notFound)
    }
  }

  @Test func `a client without TLS gets nothing from a server with it`() async throws {
    try await ServedStore.with(hasTLS: true) { served in
      try await served.create()
      let seen = try await fault {
        try await served.withNewConnection { plain in
          let request = WireGetCollectionRequest.with { $0.collection = "docs" }
          let _: WireCollection = try await plain.call(
            Method.GetCollection.descriptor, request, timeout: .milliseconds(500))
        }
        return "an answer"
      }
      #expect(seen.code == .unavailable || seen.code == .deadlineExceeded, "\(seen)")
    }
  }

  /// Keeps every text until it is let go or nobody wants it any more.
  private final class Gate: TextEmbedder {
    private let isOpen = Atomic(false)
    let waiting = Atomic(0)
    let cancelled = Atomic(0)

    func open() { isOpen.store(true, ordering: .releasing) }
    func dim(of model: String) throws -> Int { 4 }

    func embed(_ texts: [String], model: String) async throws -> [[Float]] {
      waiting.add(1, ordering: .relaxed)
      do {
        while !isOpen.load(ordering: .acquiring) { try await Task.sleep(for: .milliseconds(5)) }
      } catch {
        cancelled.add(1, ordering: .relaxed)
        throw error
      }
      return texts.map { _ in [1, 0, 0, 0] }
    }

    /// Waits until a call is in the encoder.
    func entered() async throws {
      while waiting.load(ordering: .relaxed) == 0 { try await Task.sleep(for: .milliseconds(5)) }
    }
  }

  @Test func `a call that is under way when the server leaves gets its answer, and new ones are turned away`()
    async throws
  {
    let gate = Gate()
    try await ServedStore.with(embedder: gate) { served in
      try await served.create(metric: .cosine, model: "gate")
      async let answer = served.upsert([WirePoint(1, text: "text")])
      try await gate.entered()
      served.server.beginGracefulShutdown()
      // Nobody else comes in while the call still waits.
      let late = try await fault {
        for _ in 0..<1000 { try await served.withNewConnection { try await $0.create("late") } }
        return "all calls"
      }
      #expect(late.code == .unavailable, "\(late)")
      gate.open()
      #expect(try await answer.count == 1)
      #expect(try served.store.collection("docs").count(as: Principal(tenant: "alice")) == 1)
    }
  }

  @Test func `a call that does not end in time does not keep the server`() async throws {
    let gate = Gate()
    try await ServedStore.with(drainTimeout: 0.5, embedder: gate) { served in
      try await served.create(metric: .cosine, model: "gate")
      async let seen = fault { try await served.upsert([WirePoint(1, text: "text")]) }
      try await gate.entered()
      served.server.beginGracefulShutdown()
      let code = try await seen.code
      #expect(code == .unavailable || code == .cancelled, "\(code)")
    }
    // The encoder stopped because nobody waited any more, not because the gate was opened.
    #expect(gate.cancelled.load(ordering: .relaxed) == 1)
  }

  @Test func `the encoder stops when the caller's time is over`() async throws {
    let gate = Gate()
    try await ServedStore.with(embedder: gate) { served in
      try await served.create(metric: .cosine, model: "gate")
      let request = WireUpsertPointsRequest.with {
        $0.collection = "docs"
        $0.points = [WirePoint(1, text: "text")]
      }
      let seen = try await fault {
        try await served.call(Method.UpsertPoints.descriptor, request, timeout: .milliseconds(300))
          as WireUpsertPointsResponse
      }
      #expect(seen.code == .deadlineExceeded, "\(seen)")
      while gate.cancelled.load(ordering: .relaxed) == 0 { try await Task.sleep(for: .milliseconds(5)) }
      #expect(try served.store.collection("docs").count(as: Principal(tenant: "alice")) == 0)
    }
  }

  @Test func `a port in use is an error`() async throws {
    try await ServedStore.with { served in
      let second = try CollectionServer(served.store, .init(port: served.port))
      await #expect(throws: (any Error).self) { try await second.run() }
    }
  }
}
