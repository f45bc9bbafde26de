import ApusEngine
import ApusModels
import ApusText
import Foundation
import Hummingbird
import Logging
import ServiceLifecycle
import Testing

@testable import ApusServer

@Suite(.enabled(if: ProcessInfo.processInfo.environment["APUS_E2_PORT"] != nil)) struct ResponsesLiveHost {
  @Test func serve() async throws {
    let port = Int(ProcessInfo.processInfo.environment["APUS_E2_PORT"]!)!
    let engine = try await BatchEngine(
      try ModelStore().find("smollm2-135m").load(), RunnerOptions(contextLength: 2048, kvPoolBytes: 256 << 20))
    let encoder = try await EncoderEngine(try ModelStore().find("minilm-l6").load())
    let state = ServerState(engines: [engine], encoders: [encoder], keys: nil)
    let router = Router(context: ServerContext.self)
    let limit = 16 << 20
    router.add(middleware: ErrorMiddleware(bodyLimit: limit))
    router.add(middleware: AccessMiddleware(state: state))
    StatusRoutes(state: state).add(to: router)
    ChatRoutes(state: state, bodyLimit: limit).add(to: router)
    CompletionRoutes(state: state, bodyLimit: limit).add(to: router)
    ResponseRoutes(state: state, bodyLimit: limit, store: MemoryResponseStore()).add(to: router)
    EmbeddingRoutes(state: state, bodyLimit: limit).add(to: router)
    TokenizeRoutes(state: state, bodyLimit: limit).add(to: router)
    OpenAPIRoutes.add(
      to: router, version: "0.1.0",
      models: .init(text: [engine.name], embedding: [encoder.name], contextLength: engine.contextLength))
    var logger = Logger(label: "live")
    logger.logLevel = .error
    let app = Application(
      router: router, configuration: .init(address: .hostname("127.0.0.1", port: port)), logger: logger)
    try await app.runService(gracefulShutdownSignals: [.sigterm])
  }
}
