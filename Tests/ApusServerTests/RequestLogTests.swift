import ApusText
import Foundation
import Glibc
import HTTPTypes
import Hummingbird
import HummingbirdTesting
import Logging
import NIOCore
import Synchronization
import Testing

@testable import ApusEngine
@testable import ApusGRPC
@testable import ApusServer

/// Lines of a log, as they were written.
final class WrittenLines: Sendable {
  private let lines = Mutex<[String]>([])

  var all: [String] { lines.withLock { $0 } }

  func logger(_ format: LogFormat, level: Logger.Level = .info) -> Logger {
    Logger(label: "test") { _ in
      LineLogHandler(format, level: level) { line in
        self.lines.withLock { $0.append(String(decoding: line, as: UTF8.self)) }
      }
    }
  }

  /// The lines of requests, as objects.
  var requests: [JinjaValue] {
    get throws { try all.map { try JinjaValue(json: $0) }.filter { $0["message"]?.string == "request" } }
  }

  /// Waits for so many requests to end.
  func requests(_ count: Int) async throws -> [JinjaValue] {
    while try requests.count < count { try await Task.sleep(for: .milliseconds(2)) }
    return try requests
  }
}

@Suite struct LineLogHandlerTests {
  private func line(_ format: LogFormat, _ write: (inout Logger) -> Void) throws -> String {
    let lines = WrittenLines()
    var logger = lines.logger(format)
    write(&logger)
    #expect(lines.all.count == 1)
    return try #require(lines.all.first)
  }

  @Test func aLineIsAJSONObjectWithTimeLevelAndMessageFirst() throws {
    let line = try line(.json) { logger in
      logger[metadataKey: "hb.request.id"] = "r1"
      logger.warning(
        "a \"b\"\n\u{1B}c",
        metadata: [
          "count": .stringConvertible(3), "share": .stringConvertible(0.5), "is_new": .stringConvertible(true),
          "list": ["x", "y"], "map": ["k": "v"], "level": "hidden", "nan": .stringConvertible(Double.nan),
        ])
    }
    #expect(line.hasSuffix("\n") && line.dropLast().allSatisfy { !$0.isNewline && $0 != "\u{1B}" })
    #expect(line.hasPrefix(#"{"time":"2"#))
    let object = try JinjaValue(json: line)
    #expect(object["level"]?.string == "warning" && object["message"]?.string == "a \"b\"\n\u{1B}c")
    #expect(object["request_id"]?.string == "r1" && object["count"]?.wholeNumber == 3)
    #expect(object["share"]?.number == 0.5 && object["nan"]?.string == "nan")
    #expect(
      line.contains(#""is_new":true"#) && line.contains(#""list":["x","y"]"#) && line.contains(#""map":{"k":"v"}"#))
  }

  @Test func aLineForPeopleIsOneLineWhateverAMessageSays() throws {
    let line = try line(.text) { logger in
      logger.notice(
        "two\nlines\u{1B}[31m",
        metadata: [
          "path": "/a b", "id": "x", "forged": "a\n2026-01-01T00:00:00Z error", "bytes": .stringConvertible(5),
        ])
    }
    #expect(line.split(whereSeparator: \.isNewline).count == 1 && !line.contains("\u{1B}"))
    #expect(
      line.hasSuffix(
        #" notice   two lines [31m bytes=5 forged="a\n2026-01-01T00:00:00Z error" id=x path="/a b""# + "\n"),
      "\(line)")
  }

  @Test func linesBelowTheLevelAreNotWritten() {
    let lines = WrittenLines()
    let logger = lines.logger(.text, level: .warning)
    logger.info("no")
    logger.error("yes")
    #expect(lines.all.count == 1)
  }
}

@Suite struct LogPipeTests {
  /// Linux' `F_SETPIPE_SZ`, which Swift does not import.
  private static let setPipeSize: Int32 = 1031

  /// Both ends of a pipe that holds one page.
  private func pipe() throws -> (read: Int32, write: Int32) {
    var ends: [Int32] = [0, 0]
    try #require(Glibc.pipe(&ends) == 0)
    try #require(fcntl(ends[1], Self.setPipeSize, 4096) == 4096)
    return (ends[0], ends[1])
  }

  private func read(_ descriptor: Int32) -> String {
    var bytes = [UInt8](repeating: 0, count: 1 << 16)
    let count = Glibc.read(descriptor, &bytes, bytes.count)
    return String(decoding: bytes.prefix(max(0, count)), as: UTF8.self)
  }

  @Test func aReaderThatIsBehindStopsNobodyAndLearnsWhatItMissed() throws {
    let (reader, writer) = try pipe()
    defer {
      close(reader)
      close(writer)
    }
    let log = LogPipe(writer) { Array("dropped \($0)\n".utf8) }
    let line = String(repeating: "x", count: 4000)
    let start = ContinuousClock.now
    log.write(Array("first \(line)\n".utf8))
    for _ in 0..<50 { log.write(Array("lost \(line)\n".utf8)) }
    #expect(start.duration(to: .now) < .seconds(3))
    #expect(read(reader) == "first \(line)\n")
    log.write(Array("next\n".utf8))
    #expect(read(reader) == "dropped 50\nnext\n")
    log.write(Array("last\n".utf8))
    #expect(read(reader) == "last\n")
  }

  @Test func aLineThatIsCutEndsBeforeTheNext() throws {
    let (reader, writer) = try pipe()
    defer {
      close(reader)
      close(writer)
    }
    let log = LogPipe(writer) { Array("dropped \($0)\n".utf8) }
    log.write([UInt8](repeating: UInt8(ascii: "x"), count: 10_000) + [UInt8(ascii: "\n")])
    #expect(read(reader) == String(repeating: "x", count: 4096))
    log.write(Array("next\n".utf8))
    #expect(read(reader) == "\ndropped 1\nnext\n")
  }

  @Test func aLongLineArrivesWhole() async throws {
    let (reader, writer) = try pipe()
    let log = LogPipe(writer) { Array("dropped \($0)\n".utf8) }
    let line = String(repeating: "ab", count: 50_000) + "\n"
    let writing = Task.detached {
      log.write(Array(line.utf8))
      close(writer)
    }
    var text = ""
    while text.utf8.count < line.utf8.count {
      let part = read(reader)
      if part.isEmpty { break }
      text += part
    }
    await writing.value
    #expect(text == line)
    close(reader)
  }
}

@Suite struct RequestLogTests {
  private static let question = #""model": "fake", "messages": [{"role": "user", "content": "my secret"}]"#
  private static let unknown = #"{"model": "none", "messages": [{"role": "user", "content": "Hi"}]}"#

  private func host(
    _ engine: any TextEngine = FakeEngine(), keys: KeyRing? = nil, lines: WrittenLines,
    level: Logger.Level = .info, logsPrompts: Bool = false, spans: SpanFile? = nil
  ) -> (router: Router<ServerContext>, state: ServerState) {
    let state = ServerState(
      engines: [engine], encoders: [FakeEncoder()], keys: keys,
      requests: RequestLog(logger: lines.logger(.json, level: level), logsPrompts: logsPrompts, spans: spans))
    let router = Router(context: ServerContext.self)
    router.add(middleware: RequestMiddleware(log: state.requests))
    router.add(middleware: ErrorMiddleware(bodyLimit: 1 << 20))
    router.add(middleware: AccessMiddleware(state: state))
    StatusRoutes(state: state).add(to: router)
    ChatRoutes(state: state, bodyLimit: 1 << 20).add(to: router)
    CompletionRoutes(state: state, bodyLimit: 1 << 20).add(to: router)
    EmbeddingRoutes(state: state, bodyLimit: 1 << 20).add(to: router)
    MessagesRoutes(state: state, bodyLimit: 1 << 20).add(to: router)
    return (router, state)
  }

  private func application(_ router: Router<ServerContext>) -> some ApplicationProtocol {
    return Application(
      router: router, configuration: .init(address: .hostname("127.0.0.1", port: 0)), logger: .quiet)
  }

  private func ask(
    _ client: some TestClientProtocol, _ body: String, to path: String = "/v1/chat/completions",
    headers: HTTPFields = [:]
  ) async throws -> TestResponse {
    try await client.execute(uri: path, method: .post, headers: headers, body: ByteBuffer(string: body)) { $0 }
  }

  // MARK: the line

  @Test(arguments: [true, false]) func aRequestIsOneLineAtItsEnd(stream: Bool) async throws {
    let lines = WrittenLines()
    try await application(host(lines: lines).router).test(.router) { client in
      let response = try await ask(client, "{\(Self.question), \"stream\": \(stream)}", headers: [.requestID: "my-1"])
      let line = try #require(try await lines.requests(1).first)
      #expect(try lines.requests.count == 1)
      #expect(response.headers[.requestID] == "my-1" && line["request_id"]?.string == "my-1")
      #expect(line["method"]?.string == "POST" && line["route"]?.string == "/v1/chat/completions")
      #expect(line["status"]?.wholeNumber == 200 && line["principal"]?.string == "anonymous")
      #expect(line["model"]?.string == "fake" && line["answer_id"]?.string?.hasPrefix("chatcmpl-") == true)
      #expect(line["prompt_tokens"]?.wholeNumber == 7 && line["cached_tokens"]?.wholeNumber == 0)
      #expect(line["completion_tokens"]?.wholeNumber == 4 && line["finish_reason"]?.string == "stop")
      #expect(line["bytes"]?.wholeNumber == response.body.readableBytes)
      let times = try ["queue_ms", "ttft_ms", "duration_ms"].map { try #require(line[$0]?.number) }
      #expect(times.allSatisfy { $0 >= 0 } && times[0] <= times[1] && times[1] <= times[2], "\(times)")
      #expect(line["level"]?.string == "info" && line["client_gone"] == nil && line["error_code"] == nil)
    }
  }

  @Test(arguments: [true, false]) func whatWasSaidIsLoggedOnlyIfWanted(logsPrompts: Bool) async throws {
    let lines = WrittenLines()
    let (router, _) = host(lines: lines, level: .trace, logsPrompts: logsPrompts)
    try await application(router).test(.router) { client in
      _ = try await ask(client, "{\(Self.question)}")
      _ = try await ask(client, #"{"model": "fake", "prompt": "my secret", "stream": true}"#, to: "/v1/completions")
      _ = try await ask(client, #"{"model": "my secret", "messages": []}"#)
      _ = try await ask(client, #"{"model": "fake", "messages": [{"role": "my secret"}]}"#)
      _ = try await lines.requests(4)
      let text = lines.all.joined()
      #expect(text.contains("my secret") == logsPrompts && text.contains("Hé!") == logsPrompts, "\(text)")
      if logsPrompts {
        let answered = try lines.requests.prefix(2)
        #expect(answered.map { $0["answer"]?.string } == ["Hé!", "Hé!"])
        #expect(answered.last?["prompt"]?.string == "my secret")
      }
    }
  }

  @Test func anAnswerThatIsRefusedNamesItsError() async throws {
    let lines = WrittenLines()
    let (router, _) = host(FakeEngine(failure: FakeEngine.Broken()), lines: lines)
    try await application(router).test(.router) { client in
      _ = try await ask(client, "{\(Self.question)}")
      _ = try await ask(client, Self.unknown)
      _ = try await client.execute(uri: "/nowhere/secret", method: .get) { $0 }
      let requests = try await lines.requests(3)
      #expect(requests.map { $0["status"]?.wholeNumber } == [500, 404, 404])
      #expect(requests.map { $0["error_code"]?.string } == ["internal_error", "model_not_found", "unknown_url"])
      #expect(requests.map { $0["level"]?.string } == ["error", "info", "info"])
      #expect(requests.map { $0["route"]?.string } == ["/v1/chat/completions", "/v1/chat/completions", nil])
    }
  }

  @Test func anAnswerThatBreaksInItsStreamIsNoWholeOne() async throws {
    let lines = WrittenLines()
    try await application(host(FakeEngine(breakAfter: 2), lines: lines).router).test(.router) { client in
      _ = try await ask(client, "{\(Self.question), \"stream\": true}")
      let line = try #require(try await lines.requests(1).first)
      #expect(line["status"]?.wholeNumber == 200 && line["finish_reason"]?.string == "error")
      #expect(line["completion_tokens"]?.wholeNumber == 2)
    }
  }

  @Test func severalAnswersOfARequestAreCountedTogether() async throws {
    let lines = WrittenLines()
    try await application(host(lines: lines).router).test(.router) { client in
      for stream in [true, false] {
        _ = try await ask(
          client, #"{"model": "fake", "prompt": ["a", "b", "c"], "stream": \#(stream)}"#, to: "/v1/completions")
      }
      for line in try await lines.requests(2) {
        #expect(line["prompt_tokens"]?.wholeNumber == 21 && line["completion_tokens"]?.wholeNumber == 12)
      }
    }
  }

  @Test func inputsOfAnEncoderAreCounted() async throws {
    let lines = WrittenLines()
    try await application(host(lines: lines).router).test(.router) { client in
      _ = try await ask(client, #"{"model": "encoder", "input": ["abc", "de"]}"#, to: "/v1/embeddings")
      let line = try #require(try await lines.requests(1).first)
      #expect(line["model"]?.string == "encoder" && line["prompt_tokens"]?.wholeNumber == 5)
      #expect(line["completion_tokens"] == nil && line["ttft_ms"] == nil)
    }
  }

  /// Over a real socket.
  @Test(.timeLimit(.minutes(1)), arguments: [true, false])
  func aClientThatGoesAwayIsLogged(stream: Bool) async throws {
    let lines = WrittenLines()
    let (router, state) = host(FakeEngine(isEndless: true), lines: lines)
    try await application(router).test(.live) { client in
      let socket = try Socket(port: try #require(client.port))
      let body = "{\(Self.question), \"stream\": \(stream)}"
      try socket.send(
        "POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: \(body.utf8.count)\r\n\r\n\(body)")
      // A stream's status is known with its first token.
      while state.requests.records(of: nil).first.map({ stream ? $0.status == nil : $0.firstTokenAfter == nil }) ?? true
      {
        try await Task.sleep(for: .milliseconds(2))
      }
      let running = try #require(state.requests.records(of: nil).first)
      #expect(running.state == .decoding && running.completionTokens > 0 && running.endedAfter == nil)
      #expect(lines.all.isEmpty && !state.isIdle)
      socket.close()
      let line = try #require(try await lines.requests(1).first)
      guard case .boolean(true)? = line["client_gone"] else { Issue.record("\(line)"); return }
      #expect(line["finish_reason"]?.string == "cancelled")
      #expect(line["status"]?.wholeNumber == (stream ? 200 : 499))
      #expect(state.requests.records(of: nil).map(\.state) == [.ended] && state.isIdle)
    }
  }

  @Test func probesAreOfNoInterest() async throws {
    let (quiet, loud) = (WrittenLines(), WrittenLines())
    for (lines, level) in [(quiet, Logger.Level.info), (loud, .debug)] {
      let (router, state) = host(lines: lines, level: level)
      try await application(router).test(.router) { client in
        for path in ["/health", "/ready", "/metrics", "/apus/engine", "/apus/requests"] {
          try await client.execute(uri: path, method: .get) { #expect($0.headers[.requestID] != nil) }
        }
        #expect(state.requests.records(of: nil).isEmpty)
      }
    }
    #expect(quiet.all.isEmpty && loud.all.count == 5)
  }

  // MARK: ids

  @Test(arguments: ["", "a b", "a\"b", "é", String(repeating: "x", count: 129)])
  func anIDThatIsNotSaneIsReplaced(id: String) async throws {
    #expect(RequestID.sane(id) == nil)
    let lines = WrittenLines()
    try await application(host(lines: lines).router).test(.router) { client in
      let response = try await ask(client, "{\(Self.question)}", headers: [.requestID: id])
      let ours = try #require(response.headers[.requestID])
      #expect(ours != id && RequestID.sane(ours) == ours)
    }
  }

  @Test func errorsAndOtherDialectsCarryTheSameID() async throws {
    #expect(RequestID.sane("Aa0-_.:") == "Aa0-_.:" && RequestID.sane(String(repeating: "x", count: 128)) != nil)
    let lines = WrittenLines()
    try await application(host(lines: lines).router).test(.router) { client in
      let response = try await ask(client, "{}", to: "/v1/messages", headers: [.requestID: "abc"])
      #expect(response.status == .badRequest && response.headers[.requestID] == "abc")
      #expect(String(buffer: response.body).contains(#""request_id":"req_abc""#))
    }
  }

  // MARK: /apus/requests

  private func list(_ client: some TestClientProtocol, key: String? = nil) async throws -> [JinjaValue] {
    let headers: HTTPFields = key.map { [.authorization: "Bearer \($0)"] } ?? [:]
    let text = try await client.execute(uri: "/apus/requests", method: .get, headers: headers) {
      String(buffer: $0.body)
    }
    return try JinjaValue(json: text)["requests"]?.items ?? []
  }

  @Test func theConsoleListsRequestsTheLatestFirst() async throws {
    let lines = WrittenLines()
    try await application(host(lines: lines).router).test(.router) { client in
      let answer = try await ask(client, "{\(Self.question)}")
      _ = try await ask(client, Self.unknown, headers: [.requestID: "twice"])
      _ = try await ask(client, Self.unknown, headers: [.requestID: "twice"])
      let requests = try await list(client)
      #expect(requests.count == 3)
      let last = try #require(requests.last)
      #expect(last["id"]?.string == (try JinjaValue(json: String(buffer: answer.body)))["id"]?.string)
      #expect(last["route"]?.string == "/v1/chat/completions" && last["status"]?.wholeNumber == 200)
      #expect(last["model"]?.string == "fake" && last["finish_reason"]?.string == "stop")
      #expect(last["prompt_tokens"]?.wholeNumber == 7 && last["completion_tokens"]?.wholeNumber == 4)
      #expect(last["state"]?.string == "ended" && last["principal"]?.string == "anonymous")
      for name in ["queue_ms", "ttft_ms", "total_ms", "age_s"] { #expect(last[name]?.number ?? -1 >= 0, "\(name)") }
      #expect(try Date(try #require(last["at"]?.string), strategy: .iso8601.year().month().day()) < Date())
      #expect(requests[0]["status"]?.wholeNumber == 404 && requests[0]["error_code"]?.string == "model_not_found")
      // The page keeps rows apart by their ids, whatever clients send.
      #expect(requests.prefix(2).map { $0["request_id"]?.string } == ["twice", "twice"])
      #expect(Set(requests.map { $0["id"]?.string }).count == 3)
      #expect(!"\(requests)".contains("secret"))
    }
  }

  @Test func aCallerSeesOnlyHisOwnRequests() async throws {
    let path = FileManager.default.temporaryDirectory.appending(path: "apus-\(UUID().uuidString).keys").path
    defer { try? FileManager.default.removeItem(atPath: path) }
    try "anna:anna-key-1\nbert:bert-key-1\n".write(toFile: path, atomically: true, encoding: .utf8)
    let lines = WrittenLines()
    let (router, _) = host(keys: try KeyRing(file: path), lines: lines)
    try await application(router).test(.router) { client in
      for key in ["anna-key-1", "bert-key-1", "bert-key-1", "wrong-key-1"] {
        _ = try await ask(client, "{\(Self.question)}", headers: [.authorization: "Bearer \(key)"])
      }
      let anna = try await list(client, key: "anna-key-1")
      let bert = try await list(client, key: "bert-key-1")
      #expect(anna.map { $0["principal"]?.string } == ["anna"])
      #expect(bert.map { $0["principal"]?.string } == ["bert", "bert"])
      let requests = try await lines.requests(4)
      #expect(requests.map { $0["status"]?.wholeNumber } == [200, 200, 200, 401])
      #expect(requests.map { $0["principal"]?.string } == ["anna", "bert", "bert", nil])
      #expect(!lines.all.joined().contains("-key-1"))
    }
  }

  @Test func aCallerSeesOnlyHisOwnSequences() async throws {
    let path = FileManager.default.temporaryDirectory.appending(path: "apus-\(UUID().uuidString).keys").path
    defer { try? FileManager.default.removeItem(atPath: path) }
    try "anna:anna-key-1\nbert:bert-key-1\n".write(toFile: path, atomically: true, encoding: .utf8)
    for keys in [try KeyRing(file: path), nil] {
      let engine = ShowingEngine()
      let (router, _) = host(engine, keys: keys, lines: WrittenLines())
      try await application(router).test(.router) { client in
        func ask(_ path: String, _ body: String, _ key: String) async throws {
          let response = try await client.execute(
            uri: path, method: .post, headers: [.authorization: "Bearer \(key)"], body: ByteBuffer(string: body)
          ) { $0 }
          #expect(response.status == .ok)
        }
        func sequences(_ key: String) async throws -> [String] {
          let response = try await client.execute(
            uri: "/apus/engine", method: .get, headers: [.authorization: "Bearer \(key)"]
          ) { $0 }
          let model = try response.json["models"]?.items?.first
          #expect(model?["running"]?.wholeNumber == 4)
          return (model?["sequences"]?.items ?? []).compactMap { $0["id"]?.string }
        }
        try await ask("/v1/chat/completions", "{\(Self.question)}", "anna-key-1")
        try await ask("/v1/completions", #"{"model": "fake", "prompt": ["a", "b"]}"#, "bert-key-1")
        let all = engine.ids.withLock { $0 }
        #expect(all.count == 3)
        if keys == nil {
          #expect(Set(try await sequences("anna-key-1")) == Set(all + ["elsewhere"]))
        } else {
          #expect(try await sequences("anna-key-1") == all.filter { $0.hasPrefix("chatcmpl-") })
          #expect(try await sequences("bert-key-1").sorted() == all.filter { $0.hasPrefix("cmpl-") }.sorted())
        }
      }
    }
  }

  @Test func onlyTheLastRequestsAreKept() {
    let log = RequestLog()
    let count = 5 * RequestLog.capacity + 7
    for index in 0..<count {
      let id = "\(index)"
      log.begin(RequestRecord(id: id, ownID: id, method: "GET", isProbe: false)).end()
    }
    let ids = log.records(of: nil).map(\.id)
    #expect(ids == (count - RequestLog.capacity..<count).reversed().map { "\($0)" })
  }

  @Test func aCallHasTheRecordOfARequest() throws {
    let lines = WrittenLines()
    let written = Mutex<[UInt8]>([])
    let spans = SpanFile { bytes in written.withLock { $0 += bytes } }
    let log = RequestLog(logger: lines.logger(.json), spans: spans)
    let trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    func call(_ status: Int, id: String?, route: String? = "apus.vectors.v1.Collections/Search", isProbe: Bool = false)
    {
      let record = log.begin(
        CallHead(route: route, isProbe: isProbe, requestID: id, traceParent: trace))
      record.identify(keyOwner: "ops", tenant: "anna")
      record.end(CallEnd(status: status, reason: status == 0 ? nil : "some_fault", bytes: 7, clientIsGone: false))
    }
    call(0, id: "my-1")
    call(8, id: "not sane")
    call(12, id: nil, route: nil)
    call(13, id: nil)
    call(0, id: nil, isProbe: true)
    let requests = try lines.requests
    #expect(requests.map { $0["status"]?.wholeNumber } == [200, 429, 501, 500])
    #expect(requests.map { $0["grpc_status"]?.string } == ["OK", "RESOURCE_EXHAUSTED", "UNIMPLEMENTED", "INTERNAL"])
    #expect(requests.map { $0["level"]?.string } == ["info", "info", "info", "error"])
    #expect(requests.map { $0["error_code"]?.string } == [nil, "some_fault", "some_fault", "some_fault"])
    let first = requests[0]
    #expect(first["request_id"]?.string == "my-1" && first["route"]?.string == "/apus.vectors.v1.Collections/Search")
    #expect(first["principal"]?.string == "ops" && first["tenant"]?.string == "anna")
    #expect(first["method"]?.string == "POST" && first["bytes"]?.wholeNumber == 7 && first["duration_ms"] != nil)
    #expect(requests[1]["request_id"]?.string?.hasPrefix("call-") == true && requests[2]["route"] == nil)
    // People see their own, and not the probe.
    #expect(log.records(of: "ops").count == 4 && log.records(of: "anna").isEmpty)
    let counts = log.counts.sorted
    #expect(counts.map(\.count) == [1, 2, 1, 1], "\(counts)")
    #expect(counts[0].labels.map(\.1) == ["grpc", "", "", "501"])

    spans.flush()
    let text = String(decoding: written.withLock { $0 }, as: UTF8.self)
    let span = try JinjaValue(json: Array(text.split(separator: "\n")[0].utf8))["resourceSpans"]?.items?.first?[
      "scopeSpans"]?.items?.first?["spans"]?.items?.first
    #expect(span?["name"]?.string == "apus.vectors.v1.Collections/Search")
    #expect(span?["traceId"]?.string == "0af7651916cd43dd8448eb211c80319c")
    #expect(span?["parentSpanId"]?.string == "b7ad6b7169203331")
    for part in [
      #"{"key":"rpc.system","value":{"stringValue":"grpc"}}"#,
      #"{"key":"rpc.method","value":{"stringValue":"Search"}}"#,
      #"{"key":"rpc.grpc.status_code","value":{"intValue":"8"}}"#,
      #"{"key":"apus.tenant","value":{"stringValue":"anna"}}"#,
    ] { #expect(text.contains(part), "\(part)") }
    #expect(!text.contains("http.") && text.split(separator: "\n").count == 4)
  }

  @Test func theFirstEndOfARequestCounts() throws {
    let lines = WrittenLines()
    let log = RequestLog(logger: lines.logger(.json))
    let recorder = log.begin(RequestRecord(id: "a", ownID: "a", method: "GET", isProbe: false))
    recorder.end { $0.status = 200 }
    recorder.end { $0.status = 500 }
    recorder.update { $0.status = 501 }
    #expect(try lines.requests.map { $0["status"]?.wholeNumber } == [200])
    #expect(log.records(of: nil).map(\.status) == [200])
  }
}

@Suite struct SpanTests {
  @Test func aTraceParentIsReadAsW3CSays() throws {
    let (trace, span) = ("0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331")
    let parent = try #require(TraceParent("00-\(trace)-\(span)-01"))
    #expect(parent.traceID == trace && parent.spanID == span && parent.isSampled)
    #expect(TraceParent("00-\(trace)-\(span)-00")?.isSampled == false)
    // A later version may have more fields.
    #expect(TraceParent("01-\(trace)-\(span)-03-more")?.isSampled == true)
    for wrong in [
      "", "00", "00-\(trace)-\(span)", "00-\(trace)-\(span)-01-more", "ff-\(trace)-\(span)-01",
      "00-\(trace.uppercased())-\(span)-01", "00-\(String(repeating: "0", count: 32))-\(span)-01",
      "00-\(trace)-\(String(repeating: "0", count: 16))-01", "00-\(trace)0-\(span)-01", "00-\(trace)-\(span)-0x",
    ] {
      #expect(TraceParent(wrong) == nil, "\(wrong)")
    }
  }

  private func record(from a: Double?, _ b: Double?, _ c: Double?, to end: Double) -> RequestRecord {
    var record = RequestRecord(
      id: "r", ownID: "r", method: "POST", isProbe: false, startedAt: Date(timeIntervalSince1970: 1000))
    record.route = "/v1/chat/completions"
    record.status = 200
    (record.submittedAfter, record.admittedAfter, record.firstTokenAfter, record.endedAfter) = (a, b, c, end)
    return record
  }

  private func spans(_ record: RequestRecord, _ trace: TraceParent? = nil) throws -> [JinjaValue] {
    let json = RequestSpans(record: record, trace: trace).json
    let scope = try #require(json["resourceSpans"]?.items?.first?["scopeSpans"]?.items?.first)
    return try #require(scope["spans"]?.items)
  }

  private func times(_ span: JinjaValue) -> [Double] {
    ["startTimeUnixNano", "endTimeUnixNano"].map { (Double(span[$0]?.string ?? "") ?? 0) / 1e9 - 1000 }
  }

  @Test func theSpansOfARequestLieInIt() throws {
    let trace = try #require(TraceParent("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"))
    let spans = try spans(record(from: 0.25, 0.5, 1, to: 2), trace)
    #expect(spans.map { $0["name"]?.string } == ["POST /v1/chat/completions", "queue", "prefill", "decode"])
    #expect(spans.map(times) == [[0, 2], [0.25, 0.5], [0.5, 1], [1, 2]])
    #expect(spans.allSatisfy { $0["traceId"]?.string == trace.traceID })
    let ids = spans.compactMap { $0["spanId"]?.string }
    #expect(Set(ids).count == 4 && ids.allSatisfy { $0.utf8.count == 16 })
    #expect(spans.map { $0["parentSpanId"]?.string } == [trace.spanID, ids[0], ids[0], ids[0]])
    #expect(spans.map { $0["kind"]?.wholeNumber } == [2, 1, 1, 1])
  }

  @Test func aPhaseThatWasNotLeftEndsWithTheRequest() throws {
    #expect(try spans(record(from: nil, nil, nil, to: 2)).count == 1)
    #expect(try spans(record(from: 1, nil, nil, to: 2)).map(times) == [[0, 2], [1, 2]])
    #expect(try spans(record(from: 1, 1.5, nil, to: 2)).map(times) == [[0, 2], [1, 1.5], [1.5, 2]])
    let own = try spans(record(from: nil, nil, nil, to: 2))
    #expect(own[0]["traceId"]?.string?.utf8.count == 32 && own[0]["parentSpanId"] == nil)
  }

  @Test func aFileThatCannotKeepUpDropsAndCounts() {
    let gate = DispatchSemaphore(value: 0)
    let began = DispatchSemaphore(value: 0)
    let written = Mutex(0)
    let file = SpanFile(capacity: 4) { lines in
      began.signal()
      gate.wait()
      written.withLock { $0 += lines.count { $0 == UInt8(ascii: "\n") } }
    }
    let record = record(from: nil, nil, nil, to: 1)
    file.write(record, trace: nil)
    began.wait()
    // One is being written, four wait, three find no room.
    for _ in 0..<7 { file.write(record, trace: nil) }
    #expect(file.dropped == 3)
    gate.signal()
    gate.signal()
    file.flush()
    #expect(written.withLock { $0 } == 5)
    // A caller who is not sampled wants no spans, and is not counted.
    file.write(record, trace: TraceParent("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00"))
    file.flush()
    #expect(file.dropped == 3 && written.withLock { $0 } == 5)
  }

  @Test func aFileThatCannotBeWrittenLosesSpansAndNothingElse() {
    struct Full: Error {}
    let file = SpanFile { _ in throw Full() }
    file.write(record(from: nil, nil, nil, to: 1), trace: nil)
    file.flush()
    #expect(file.dropped == 1)
    #expect(throws: SpanFile.FileError.self) { try SpanFile(path: "/nowhere/at/all/spans.jsonl") }
  }

  @Test func spansAreAppendedToTheFile() throws {
    let path = FileManager.default.temporaryDirectory.appending(path: "apus-\(UUID().uuidString).jsonl").path
    defer { try? FileManager.default.removeItem(atPath: path) }
    for _ in 0..<2 {
      let file = try SpanFile(path: path)
      file.write(record(from: 0.1, 0.2, 0.3, to: 1), trace: nil)
      file.flush()
    }
    let lines = try String(contentsOfFile: path, encoding: .utf8).split(separator: "\n")
    #expect(lines.count == 2)
    for line in lines { #expect(try JinjaValue(json: String(line))["resourceSpans"]?.items?.count == 1) }
  }
}

/// An engine whose report holds every answer that it was asked for, and one that no request asked for.
final class ShowingEngine: TextEngine {
  private let engine = FakeEngine()
  let ids = Mutex<[String]>([])

  var name: String { engine.name }
  var contextLength: Int { engine.contextLength }
  var tokenizer: any Tokenizer { engine.tokenizer }
  var chatTemplate: ChatTemplate? { engine.chatTemplate }
  var vocabulary: VocabularyTrie { engine.vocabulary }
  func tokens(of prompt: Prompt) throws -> [Int32] { try engine.tokens(of: prompt) }
  func stop() {}

  var stats: EngineStats {
    var stats = EngineStats()
    stats.sequences = (ids.withLock { $0 } + ["elsewhere"]).map {
      .init(id: $0, state: .decoding, promptTokens: 7, generatedTokens: 1, cachedTokens: 0, age: 0.1)
    }
    return stats
  }

  func answer(_ prompt: Prompt, _ options: GenerationOptions, for origin: RequestOrigin) async throws -> AnswerStream {
    ids.withLock { $0.append(origin.id) }
    return try await engine.answer(prompt, options, for: origin)
  }
}
