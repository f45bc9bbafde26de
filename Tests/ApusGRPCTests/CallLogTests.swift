import ApusCollections
import Foundation
import GRPCCore
import GRPCProtobuf
import Synchronization
import Testing

@testable import ApusGRPC

/// Keeps what is said of calls.
private final class Calls: CallLog {
  struct Entry: Sendable {
    var head: CallHead
    var owner: String?
    var tenant: String?
    var parts = 0
    var end: CallEnd?
  }

  private let entries = Mutex<[Entry]>([])

  private struct Record: CallRecord {
    let calls: Calls
    let index: Int
    let id: String

    func identify(keyOwner: String?, tenant: String) {
      calls.change(index) { ($0.owner, $0.tenant) = (keyOwner, tenant) }
    }
    func during<T>(_ body: () async throws -> T) async throws -> T {
      calls.change(index) { $0.parts += 1 }
      return try await body()
    }
    func end(_ end: CallEnd) { calls.change(index) { if $0.end == nil { $0.end = end } } }
  }

  private func change(_ index: Int, _ body: (inout Entry) -> Void) { entries.withLock { body(&$0[index]) } }

  func begin(_ call: CallHead) -> any CallRecord {
    let index = entries.withLock { entries in
      entries.append(Entry(head: call))
      return entries.count - 1
    }
    return Record(calls: self, index: index, id: call.requestID ?? "own-\(index)")
  }

  /// Waits until so many calls have ended.
  func ended(_ count: Int) async throws -> [Entry] {
    while true {
      let all = entries.withLock { $0 }
      if all.count(where: { $0.end != nil }) >= count { return all }
      try await Task.sleep(for: .milliseconds(2))
    }
  }
}

@Suite struct CallLogTests {
  @Test(.timeLimit(.minutes(1))) func `each call has one record, whatever becomes of it`() async throws {
    let calls = Calls()
    try await ServedStore.with(messageLimit: 5000, calls: calls) { served in
      try await served.create()
      try await served.upsert([WirePoint(1, [1, 0, 0, 0])])
      _ = try await fault { try await served.get(2) }
      _ = try await fault { try await served.get(1, as: "nobody") }
      _ = try await fault { try await served.upsert([WirePoint(2, text: String(repeating: "a", count: 6000))]) }
      let count = WireCountRequest.with { $0.collection = "docs" }
      let _: WireCountResponse = try await served.call(Method.Count.descriptor, count, as: "admin", tenant: "bob")
      let foreign = MethodDescriptor(fullyQualifiedService: "evil.Service", method: "Steal")
      _ = try await fault { try await served.call(foreign, count) as WireCountResponse }
      let all = try await calls.ended(7)
      let service = "apus.vectors.v1.Collections/"
      #expect(
        all.map(\.head.route) == [
          service + "CreateCollection", service + "UpsertPoints", service + "GetPoint", service + "GetPoint",
          service + "UpsertPoints", service + "Count", nil,
        ])
      #expect(all.map { $0.end?.status } == [0, 0, 5, 16, 8, 0, 12])
      #expect(
        all.map { $0.end?.reason } == [
          nil, nil, "not_found", "invalid_api_key", "request_too_large", nil, "unimplemented",
        ])
      #expect(all.map(\.owner) == ["admin", "alice", "alice", nil, "alice", "admin", nil])
      #expect(all.map(\.tenant) == ["admin", "alice", "alice", nil, "alice", "bob", nil])
      #expect(all.allSatisfy { $0.end?.clientIsGone == false && !$0.head.isProbe })
      #expect(all[0].end!.bytes > 0 && all[2].end!.bytes == 0 && all[0].parts > 0)
    }
  }

  @Test func `a call keeps its client's id and its place in a trace`() async throws {
    let calls = Calls()
    let trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    try await ServedStore.with(calls: calls) { served in
      try await served.create()
      func ask(_ collection: String) async throws -> (head: Metadata, tail: Metadata) {
        var metadata = ServedStore.metadata("alice")
        metadata.addString("my-1", forKey: "x-request-id")
        metadata.addString(trace, forKey: "traceparent")
        return try await served.client.unary(
          request: ClientRequest(message: WireCountRequest.with { $0.collection = collection }, metadata: metadata),
          descriptor: Method.Count.descriptor, serializer: ProtobufSerializer<WireCountRequest>(),
          deserializer: ProtobufDeserializer<WireCountResponse>(), options: .defaults
        ) { response in
          switch response.accepted {
          case .success(let contents): (contents.metadata, contents.trailingMetadata)
          case .failure(let error): ([:], error.metadata)
          }
        }
      }
      #expect(try await ask("docs").head.first("x-request-id") == "my-1")
      #expect(try await ask("nowhere").tail.first("x-request-id") == "my-1")
      let last = try await calls.ended(3)[2]
      #expect(last.head.requestID == "my-1" && last.head.traceParent == trace && last.end?.status == 5)
    }
  }

  /// Keeps every text for good.
  private struct Endless: TextEmbedder {
    let entered: AsyncStream<Void>.Continuation
    func dim(of model: String) -> Int { 4 }
    func embed(_ texts: [String], model: String) async throws -> [[Float]] {
      entered.yield()
      try await Task.sleep(for: .seconds(3600))
      return []
    }
  }

  @Test(.timeLimit(.minutes(1))) func `a client that leaves is gone, and its call has ended`() async throws {
    let calls = Calls()
    let (entries, entered) = AsyncStream.makeStream(of: Void.self)
    try await ServedStore.with(embedder: Endless(entered: entered), calls: calls) { served in
      try await served.create(metric: .cosine, model: "endless")
      let call = Task { try await served.upsert([WirePoint(1, text: "text")]) }
      for await _ in entries { break }
      call.cancel()
      _ = await call.result
      let last = try await calls.ended(2)[1]
      #expect(last.end?.clientIsGone == true && last.end?.status == 1, "\(String(describing: last.end))")
    }
  }

  // MARK: health

  private static func health(_ service: String) -> WireHealthCheckRequest { .with { $0.service = service } }

  @Test(.timeLimit(.minutes(1))) func `health needs no key, and is no call that people look for`() async throws {
    let calls = Calls()
    try await ServedStore.with(calls: calls) { served in
      for service in ["", "apus.vectors.v1.Collections", "grpc.health.v1.Health"] {
        let answer: WireHealthCheckResponse = try await served.call(
          WireHealth.Method.Check.descriptor, Self.health(service), as: nil)
        #expect(answer.status == .serving, "\(service)")
      }
      let unknown = try await fault {
        try await served.call(WireHealth.Method.Check.descriptor, Self.health("other"), as: nil)
          as WireHealthCheckResponse
      }
      #expect(unknown.code == .notFound)
      let (firsts, first) = AsyncStream.makeStream(of: Void.self)
      let watch = Task {
        try await served.client.serverStreaming(
          request: ClientRequest(message: Self.health("")), descriptor: WireHealth.Method.Watch.descriptor,
          serializer: ProtobufSerializer<WireHealthCheckRequest>(),
          deserializer: ProtobufDeserializer<WireHealthCheckResponse>(), options: .defaults
        ) { response in for try await _ in response.messages { first.yield() } }
      }
      for await _ in firsts { break }
      watch.cancel()
      _ = await watch.result
      let all = try await calls.ended(5)
      #expect(all.allSatisfy(\.head.isProbe) && all[4].end?.clientIsGone == true && all[4].end?.status == 1)
    }
  }

  @Test(.timeLimit(.minutes(1))) func `whoever watches learns that the server leaves, and does not keep it`()
    async throws
  {
    try await ServedStore.with { served in
      func watch(_ service: String, _ onFirst: @escaping @Sendable () -> Void) async throws
        -> [WireHealthCheckResponse.ServingStatus]
      {
        try await served.client.serverStreaming(
          request: ClientRequest(message: Self.health(service)), descriptor: WireHealth.Method.Watch.descriptor,
          serializer: ProtobufSerializer<WireHealthCheckRequest>(),
          deserializer: ProtobufDeserializer<WireHealthCheckResponse>(), options: .defaults
        ) { response in
          var seen: [WireHealthCheckResponse.ServingStatus] = []
          for try await answer in response.messages {
            seen.append(answer.status)
            onFirst()
          }
          return seen
        }
      }
      let (firsts, first) = AsyncStream.makeStream(of: Void.self)
      async let known = watch("apus.vectors.v1.Collections") { first.yield() }
      async let unknown = watch("other") { first.yield() }
      for await _ in firsts.prefix(2) {}
      served.server.beginGracefulShutdown()
      let (knownStates, unknownStates) = try await (known, unknown)
      #expect(knownStates == [.serving, .notServing] && unknownStates == [.serviceUnknown])
    }
  }
}
