import ApusEngine
import ApusText
import Foundation
import HummingbirdTesting
import Logging
import NIOCore
import Synchronization
import Testing

@testable import ApusServer

@Suite struct PreparationPoolTests {
  /// The name of the thread that asks.
  fileprivate static var threadName: String {
    Thread.current.name ?? ""
  }

  private nonisolated static func deeper() async -> String {
    await Task.yield()
    return threadName
  }

  @Test func aBodyAndWhatItAwaitsRunOnThePoolsThreads() async throws {
    let pool = PreparationPool()
    let names = try await pool.run { [Self.threadName, await Self.deeper()] }
    #expect(names == ["apus-prepare", "apus-prepare"])
    #expect(Self.threadName != "apus-prepare")
  }

  @Test func errorsComeThrough() async throws {
    await #expect(throws: FakeEngine.Broken.self) { try await PreparationPool().run { throw FakeEngine.Broken() } }
  }

  /// Holds both threads until it is let go.
  private final class Gate: Sendable {
    private let semaphore = DispatchSemaphore(value: 0)
    let held = Mutex(0)

    func hold() {
      held.withLock { $0 += 1 }
      semaphore.wait()
    }

    func open() { for _ in 0..<2 { semaphore.signal() } }
  }

  private func holdThreads(of pool: PreparationPool, _ gate: Gate, _ group: inout ThrowingTaskGroup<Void, any Error>)
    async throws
  {
    for count in 1...2 {
      group.addTask { try await pool.run { gate.hold() } }
      while gate.held.withLock({ $0 }) < count { try await Task.sleep(for: .milliseconds(2)) }
    }
  }

  @Test(.timeLimit(.minutes(1))) func beyondTheLimitRequestsAreRefused() async throws {
    let (pool, gate) = (PreparationPool(limit: 1), Gate())
    try await withThrowingTaskGroup(of: Void.self) { group in
      try await holdThreads(of: pool, gate, &group)
      await #expect {
        try await pool.run {}
      } throws: {
        ($0 as? OpenAIError)?.status == .tooManyRequests
      }
      gate.open()
      try await group.waitForAll()
    }
    try await pool.run {}
  }

  @Test(.timeLimit(.minutes(1))) func whatIsCancelledBeforeItsTurnDoesNotRun() async throws {
    let (pool, gate) = (PreparationPool(), Gate())
    let ran = Gate()
    try await withThrowingTaskGroup(of: Void.self) { group in
      try await holdThreads(of: pool, gate, &group)
      let waiting = Task { try await pool.run { ran.held.withLock { $0 += 1 } } }
      try await Task.sleep(for: .milliseconds(20))
      waiting.cancel()
      gate.open()
      await #expect(throws: CancellationError.self) { try await waiting.value }
      try await group.waitForAll()
    }
    #expect(ran.held.withLock { $0 } == 0)
  }

  /// The threads that an engine was asked on.
  private final class AskedEngine: TextEngine {
    private let engine = FakeEngine()
    let threads = Mutex<[String]>([])

    var name: String { engine.name }
    var contextLength: Int { engine.contextLength }
    var tokenizer: any Tokenizer { engine.tokenizer }
    var chatTemplate: ChatTemplate? { engine.chatTemplate }
    var vocabulary: VocabularyTrie {
      note()
      return engine.vocabulary
    }
    var stats: EngineStats { engine.stats }
    func stop() {}

    private func note() { threads.withLock { $0.append(PreparationPoolTests.threadName) } }

    func tokens(of prompt: Prompt) throws -> [Int32] {
      note()
      return try engine.tokens(of: prompt)
    }

    func answer(_ prompt: Prompt, _ options: GenerationOptions, for origin: RequestOrigin) async throws -> AnswerStream
    {
      note()
      return try await engine.answer(prompt, options, for: origin)
    }
  }

  @Test(arguments: [
    (
      "/v1/chat/completions",
      #""messages": [{"role": "user", "content": "Hi"}], "response_format": {"type": "json_object"}"#
    ),
    ("/v1/completions", #""prompt": ["a", "b"]"#), ("/v1/responses", #""input": "a""#),
    ("/v1/messages", #""max_tokens": 5, "messages": [{"role": "user", "content": "Hi"}]"#),
    ("/v1/messages/count_tokens", #""messages": [{"role": "user", "content": "Hi"}]"#),
    ("/api/chat", #""messages": [{"role": "user", "content": "Hi"}], "format": "json""#),
    ("/tokenize", #""messages": [{"role": "user", "content": "Hi"}]"#),
  ]) func everyDialectPreparesThere(path: String, fields: String) async throws {
    let engine = AskedEngine()
    try await Server([engine], logger: .quiet).application().test(.router) { client in
      let body = ByteBuffer(string: #"{"model": "fake", \#(fields)}"#)
      try await client.execute(uri: path, method: .post, body: body) { #expect($0.status == .ok) }
    }
    let threads = engine.threads.withLock { $0 }
    #expect(!threads.isEmpty && threads.allSatisfy { $0 == "apus-prepare" }, "\(threads)")
  }
}
