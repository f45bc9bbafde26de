import ApusEngine
import ApusModels
import ApusText
import Foundation
import Hummingbird
import HummingbirdTesting
import Logging
import Synchronization
import Testing
import TestSupport

@testable import ApusServer

/// Bytes as directions: a text's vector counts its letters a, b and c.
final class FakeEncoder: EmbeddingEngine {
  let name = "encoder"
  let contextLength = 16
  let dimensions = 3
  let tokenizer: any Tokenizer = ByteTokenizer()
  let asked = Mutex<[[Int32]]>([])

  func embed(_ inputs: [[Int32]]) async throws -> [[Float]] {
    asked.withLock { $0 += inputs }
    return inputs.map { input in
      let counts = (Int32(97)...99).map { letter in Float(input.count { $0 == letter }) }
      let length = counts.reduce(0) { $0 + $1 * $1 }.squareRoot()
      return length > 0 ? counts.map { $0 / length } : counts
    }
  }

  func stop() {}
}

/// Keeps responses as long as a test runs.
actor MemoryResponseStore: ResponseStore {
  struct Full: Error {}

  private var responses: [String: StoredResponse] = [:]
  /// Refuses to keep anything.
  private let isFull: Bool

  init(isFull: Bool = false) { self.isFull = isFull }

  func save(_ response: StoredResponse) throws {
    if isFull { throw Full() }
    responses[response.id] = response
  }

  func response(_ id: String, of owner: String) -> StoredResponse? {
    responses[id].flatMap { $0.owner == owner ? $0 : nil }
  }

  func conversation(endingAt id: String, of owner: String) -> [StoredResponse]? {
    var chain: [StoredResponse] = []
    var next: String? = id
    while let id = next {
      guard let response = response(id, of: owner) else { return nil }
      chain.append(response)
      next = response.previous
    }
    return chain.reversed()
  }

  func delete(_ id: String, of owner: String) -> Bool {
    response(id, of: owner) != nil && responses.removeValue(forKey: id) != nil
  }
}

/// The routes of this dialect, alone.
struct DialectHost {
  var engine = FakeEngine()
  var encoder = FakeEncoder()
  var store: (any ResponseStore)? = MemoryResponseStore()
  var limit = 1 << 20
  var principal = "anonymous"

  func router() -> Router<ServerContext> {
    let router = Router(context: ServerContext.self)
    router.add(middleware: ErrorMiddleware(bodyLimit: limit))
    router.add(middleware: PrincipalMiddleware(principal: principal))
    let state = ServerState(engines: [engine], encoders: [encoder], keys: nil)
    CompletionRoutes(state: state, bodyLimit: limit).add(to: router)
    ResponseRoutes(state: state, bodyLimit: limit, store: store).add(to: router)
    EmbeddingRoutes(state: state, bodyLimit: limit).add(to: router)
    TokenizeRoutes(state: state, bodyLimit: limit).add(to: router)
    return router
  }

  private struct PrincipalMiddleware: RouterMiddleware {
    let principal: String
    func handle(_ request: Request, context: ServerContext, next: (Request, ServerContext) async throws -> Response)
      async throws -> Response
    {
      var context = context
      context.principal = principal
      return try await next(request, context)
    }
  }

  func run(_ setup: TestingSetup = .router, _ body: @escaping @Sendable (any TestClientProtocol) async throws -> Void)
    async throws
  {
    try await Application(
      router: router(), configuration: .init(address: .hostname("127.0.0.1", port: 0)), logger: .quiet
    )
    .test(setup) { try await body($0) }
  }

  @discardableResult
  func send(_ path: String, _ body: String = "", method: HTTPRequest.Method = .post, headers: HTTPFields = [:])
    async throws -> TestResponse
  {
    let result = Mutex<TestResponse?>(nil)
    try await run { client in
      let response = try await client.execute(
        uri: path, method: method, headers: headers, body: body.isEmpty ? nil : ByteBuffer(string: body)
      ) { $0 }
      result.withLock { $0 = response }
    }
    return try #require(result.withLock { $0 })
  }

  /// Expects an error of OpenAI's shape.
  func expectError(
    _ path: String, _ body: String, method: HTTPRequest.Method = .post, _ status: HTTPResponse.Status,
    param: String? = nil, code: String?, sourceLocation: SourceLocation = #_sourceLocation
  ) async throws {
    let response = try await send(path, body, method: method)
    #expect(response.status == status, "\(body)", sourceLocation: sourceLocation)
    let error = try #require(
      try? JSONDecoder().decode(OpenAIError.Body.self, from: response.body),
      "\(body): \(String(buffer: response.body))", sourceLocation: sourceLocation
    ).error
    #expect(error.param == param, "\(body): \(error)", sourceLocation: sourceLocation)
    #expect(error.code == code, "\(body): \(error)", sourceLocation: sourceLocation)
    #expect(!error.message.isEmpty, sourceLocation: sourceLocation)
  }
}

extension Logger {
  /// Says nothing: errors are asked for in tests, and nobody wants to read them. Its handler keeps metadata, in which
  /// Hummingbird keeps a request's id.
  static let quiet = {
    var logger = Logger(label: "test")
    logger.logLevel = .critical
    return logger
  }()
}

extension TestResponse {
  var text: String { String(buffer: body) }
  var json: JinjaValue { get throws { try JinjaValue(json: Array(body.readableBytesView)) } }
}

/// The JSON of a value, to compare it.
func text(_ value: JinjaValue?) -> String { value.map { String(decoding: CompactJSON.bytes($0), as: UTF8.self) } ?? "" }

/// Fields that no text request may have with these values, and where the error says they are.
let wrongSamplingFields = [
  (#""temperature": "hot""#, "temperature"), (#""temperature": -1"#, "temperature"),
  (#""temperature": 2.5"#, "temperature"), (#""top_p": 7"#, "top_p"), (#""top_k": 0"#, "top_k"),
  (#""min_p": 2"#, "min_p"), (#""typical_p": 0"#, "typical_p"), (#""presence_penalty": 3"#, "presence_penalty"),
  (#""frequency_penalty": -3"#, "frequency_penalty"), (#""repetition_penalty": 0"#, "repetition_penalty"),
  (#""logit_bias": 1"#, "logit_bias"), (#""logit_bias": {"x": 1}"#, "logit_bias"),
  (#""logit_bias": {"-1": 1}"#, "logit_bias"), (#""logit_bias": {"1": 101}"#, "logit_bias.1"),
  (#""seed": "x""#, "seed"), (#""stop": [1]"#, "stop.0"), (#""stop": 3"#, "stop"), (#""stream": 1"#, "stream"),
  (#""ignore_eos": 1"#, "ignore_eos"), (#""cache_salt": 1"#, "cache_salt"),
]

/// A plain TCP connection to this machine that reads without holding a thread.
final class ReadingSocket: Sendable {
  private let descriptor: Int32
  private let text = Mutex<[UInt8]>([])

  struct Failed: Error {}

  init(port: Int) throws {
    descriptor = socket(AF_INET, Int32(SOCK_STREAM.rawValue), 0)
    var address = sockaddr_in()
    address.sin_family = sa_family_t(AF_INET)
    address.sin_port = in_port_t(port).bigEndian
    address.sin_addr.s_addr = inet_addr("127.0.0.1")
    let result = withUnsafePointer(to: &address) {
      $0.withMemoryRebound(to: sockaddr.self, capacity: 1) {
        connect(descriptor, $0, socklen_t(MemoryLayout<sockaddr_in>.size))
      }
    }
    if result != 0 { throw Failed() }
  }

  func send(_ text: String) throws {
    let bytes = Array(text.utf8)
    if Foundation.send(descriptor, bytes, bytes.count, 0) != bytes.count { throw Failed() }
  }

  /// All text up to and with a mark. Throws if the connection ends before.
  func read(until mark: String) async throws -> String {
    var buffer = [UInt8](repeating: 0, count: 4096)
    while true {
      let found: String? = text.withLock { bytes in
        let all = String(decoding: bytes, as: UTF8.self)
        guard let range = all.range(of: mark) else { return nil }
        bytes = Array(all[range.upperBound...].utf8)
        return String(all[..<range.upperBound])
      }
      if let found { return found }
      let count = recv(descriptor, &buffer, buffer.count, Int32(MSG_DONTWAIT))
      if count > 0 { text.withLock { $0 += buffer[..<count] } } else if count == 0 { throw Failed() }
      if count < 0 { try await Task.sleep(for: .milliseconds(2)) }
    }
  }

  /// Says that nothing more will be sent.
  func closeOutput() { shutdown(descriptor, Int32(SHUT_WR)) }

  func close() { Foundation.close(descriptor) }
}
