import Foundation
import HTTPTypes
import Hummingbird
import HummingbirdTesting
import Logging
import Testing

@testable import ApusServer

@Suite struct MethodTests {
  private func send(_ path: String, _ method: HTTPRequest.Method) async throws -> TestResponse {
    let server = try Server([FakeEngine()], encoders: [FakeEncoder()], logger: .quiet)
    return try await server.application().test(.router) { client in
      try await client.execute(uri: path, method: method) { $0 }
    }
  }

  @Test(
    arguments: [
      ("/v1/chat/completions", .get, "POST"), ("/v1/models", .post, "GET, HEAD"),
      ("/v1/models/fake", .patch, "GET, HEAD"),
      ("/v1/responses/resp_1", .put, "DELETE, GET, HEAD"), ("/v1/responses/resp_1/cancel", .get, "POST"),
      ("/health", .trace, "GET, HEAD"), ("/", .delete, "GET, HEAD"), ("/openapi.json", .options, "GET, HEAD"),
    ] as [(String, HTTPRequest.Method, String)])
  func aMethodThatAPathDoesNotHaveIsRefused(path: String, method: HTTPRequest.Method, allowed: String) async throws {
    let response = try await send(path, method)
    #expect(response.status == .methodNotAllowed)
    #expect(response.headers[.allow] == allowed)
    let error = try JSONDecoder().decode(OpenAIError.Body.self, from: response.body).error
    #expect(error.code == "method_not_allowed" && error.type == "invalid_request_error" && error.param == nil)
    #expect(error.message.contains(path) && error.message.contains(method.rawValue))
  }

  @Test func theRefusalHasTheDialectsShape() async throws {
    let messages = try await send("/v1/messages", .get)
    #expect(messages.status == .methodNotAllowed && messages.headers[.allow] == "POST")
    #expect(try messages.json["type"]?.string == "error")
    #expect(try messages.json["error"]?["type"]?.string == "invalid_request_error")
    let ollama = try await send("/api/tags", .post)
    #expect(ollama.status == .methodNotAllowed && ollama.headers[.allow] == "GET, HEAD")
    #expect(try ollama.json["error"]?.string?.contains("/api/tags") == true)
  }

  @Test(arguments: ["/v1/nothing", "/nothing", "/v1/messages/nothing", "/api/nothing"])
  func aPathThatDoesNotExistStaysUnknown(path: String) async throws {
    for method in [HTTPRequest.Method.get, .post, .delete] {
      let response = try await send(path, method)
      #expect(response.status == .notFound && response.headers[.allow] == nil)
    }
  }

  @Test(arguments: ["/", "/health", "/metrics", "/v1/models", "/v1/models/fake", "/api/tags", "/api/version"])
  func headAnswersAsGetWithoutABody(path: String) async throws {
    let (head, get) = (try await send(path, .head), try await send(path, .get))
    #expect(head.status == .ok && head.body.readableBytes == 0)
    #expect(head.headers[.contentType] == get.headers[.contentType])
  }

  @Test func aKeyIsAskedForBeforeTheMethod() async throws {
    let path = FileManager.default.temporaryDirectory.appending(path: "apus-\(UUID().uuidString).keys").path
    defer { try? FileManager.default.removeItem(atPath: path) }
    try "anna-key-1\n".write(toFile: path, atomically: true, encoding: .utf8)
    let server = try Server([FakeEngine()], .init(keys: try KeyRing(file: path)), logger: .quiet)
    try await server.application().test(.router) { client in
      try await client.execute(uri: "/v1/models", method: .delete) { #expect($0.status == .unauthorized) }
      try await client.execute(uri: "/health", method: .delete) { #expect($0.status == .methodNotAllowed) }
    }
  }
}
