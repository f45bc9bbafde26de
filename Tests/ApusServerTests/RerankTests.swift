import ApusText
import Foundation
import HummingbirdTesting
import Testing

@testable import ApusServer

@Suite struct RerankTests {
  private static let query = #""model": "encoder", "query": "ab""#
  private static let documents = #""documents": ["c", {"text": "ba"}, "a", "b"]"#

  private func request(_ fields: String) throws -> RerankRequest {
    try RerankRequest(body: Array("{\(Self.query), \(fields)}".utf8))
  }

  @Test func aRankingIsWrittenToTheByte() throws {
    let vectors: [[Float]] = [[1, 0], [0, 2], [3, 0], [-1, 0]]
    let request = try request(#""documents": ["a", {"text": "b"}, "c"], "return_documents": true, "top_n": 2"#)
    #expect(
      text(request.response(id: "rerank-1", model: "m", vectors: vectors, tokens: 9))
        == #"{"id":"rerank-1","model":"m","results":[{"index":1,"relevance_score":1.0,"document":{"text":"b"}},"#
        + #"{"index":0,"relevance_score":0.0,"document":{"text":"a"}}],"#
        + #""usage":{"prompt_tokens":9,"total_tokens":9}}"#)
  }

  @Test func theBestComeFirstAndEqualOnesInTheirOrder() async throws {
    for path in ["/v1/rerank", "/rerank"] {
      let response = try await DialectHost().send(path, "{\(Self.query), \(Self.documents)}")
      #expect(response.status == .ok)
      let results = try #require(try response.json["results"]?.items)
      #expect(results.map { text($0["index"]) } == ["1", "2", "3", "0"])
      #expect(results.allSatisfy { $0["document"] == nil })
      let scores = results.compactMap { $0["relevance_score"]?.number }
      #expect(abs(scores[0] - 1) < 1e-6 && abs(scores[1] - 0.5.squareRoot()) < 1e-6 && scores[3] == 0)
    }
  }

  @Test func cosinesAgreeWithTheAngle() {
    for degrees in [0, 30, 90, 135, 180] {
      let angle = Double(degrees) * .pi / 180
      let cosine = RerankRequest.cosine([2, 0], [Float(5 * cos(angle)), Float(5 * sin(angle))])
      #expect(abs(Double(cosine) - cos(angle)) < 1e-6)
    }
    #expect(RerankRequest.cosine([0, 0], [1, 2]) == 0)
  }

  @Test func wrongFieldsAreNamed() async throws {
    let host = DialectHost()
    for path in ["/v1/rerank", "/rerank"] {
      for (body, param, code) in [
        (#"{"query": "a", "documents": ["a"]}"#, "model", "missing_required_parameter"),
        (#"{"model": "encoder", "documents": ["a"]}"#, "query", "missing_required_parameter"),
        (#"{"model": "encoder", "query": 1, "documents": ["a"]}"#, "query", "invalid_value"),
        (#"{"model": "encoder", "query": "", "documents": ["a"]}"#, "query", "invalid_value"),
        (#"{\#(Self.query)}"#, "documents", "missing_required_parameter"),
        (#"{\#(Self.query), "documents": []}"#, "documents", "invalid_value"),
        (#"{\#(Self.query), "documents": "a"}"#, "documents", "invalid_value"),
        (#"{\#(Self.query), "documents": ["a", 1]}"#, "documents.1", "invalid_value"),
        (#"{\#(Self.query), "documents": ["a", {}]}"#, "documents.1.text", "missing_required_parameter"),
        (#"{\#(Self.query), "documents": ["a", {"text": ""}]}"#, "documents.1.text", "invalid_value"),
        (
          #"{\#(Self.query), "documents": ["\#(String(repeating: "a", count: 17))"]}"#, "documents.0",
          "context_length_exceeded"
        ),
        (#"{\#(Self.query), "documents": ["a"], "top_n": 0}"#, "top_n", "invalid_value"),
        (#"{\#(Self.query), "documents": ["a"], "return_documents": 1}"#, "return_documents", "invalid_value"),
        (#"{"model": "fake", "query": "a", "documents": ["a"]}"#, "model", "invalid_value"),
      ] {
        try await host.expectError(path, body, .badRequest, param: param, code: code)
      }
    }
    try await host.expectError(
      "/rerank", #"{"model": "other", "query": "a", "documents": ["a"]}"#, .notFound, param: "model",
      code: "model_not_found")
  }
}
