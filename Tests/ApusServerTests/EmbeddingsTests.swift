import ApusText
import Foundation
import HummingbirdTesting
import Testing

@testable import ApusServer

@Suite struct EmbeddingsTests {
  private static let path = "/v1/embeddings"

  @Test func vectorsAreWrittenToTheByte() {
    #expect(
      String(
        decoding: EmbeddingWriter.response([[0.1, -2], [1e-8, 3]], model: "e\"1", tokens: 5, encoding: .float),
        as: UTF8.self)
        == #"{"object":"list","data":[{"object":"embedding","index":0,"embedding":[0.1,-2.0]},"#
        + #"{"object":"embedding","index":1,"embedding":[1e-08,3.0]}],"model":"e\"1","#
        + #""usage":{"prompt_tokens":5,"total_tokens":5}}"#)
    // 1.0 is 00 00 80 3f and −2.0 is 00 00 00 c0, the lowest byte first.
    #expect(
      String(decoding: EmbeddingWriter.response([[1, -2]], model: "e", tokens: 1, encoding: .base64), as: UTF8.self)
        == #"{"object":"list","data":[{"object":"embedding","index":0,"embedding":"AACAPwAAAMA="}],"model":"e","#
        + #""usage":{"prompt_tokens":1,"total_tokens":1}}"#)
  }

  @Test func bothEncodingsGiveTheSameNumbers() async throws {
    let host = DialectHost()
    let floats = try await host.send(Self.path, #"{"model": "encoder", "input": "aab"}"#).json
    let base64 = try await host.send(
      Self.path, #"{"model": "encoder", "input": "aab", "encoding_format": "base64"}"#
    ).json
    let list = try #require(floats["data"]?.items?.first?["embedding"]?.items)
    let numbers = list.compactMap { $0.number.map { Float($0) } }
    let text = try #require(base64["data"]?.items?.first?["embedding"]?.string)
    let data = try #require(Data(base64Encoded: text))
    let decoded = stride(from: 0, to: data.count, by: 4).map { offset in
      Float(bitPattern: (0..<4).reduce(UInt32(0)) { $0 | UInt32(data[offset + $1]) << (8 * $1) })
    }
    #expect(decoded == numbers && numbers.count == 3)
    #expect(abs(numbers[0] - 2 / Float(5).squareRoot()) < 1e-6)
  }

  @Test func everyFormOfInputReachesTheEncoder() async throws {
    for (input, expected) in [
      (#""ab""#, [[97, 98]]), (#"["a", "b"]"#, [[97], [98]]), ("[97, 99]", [[97, 99]]),
      ("[[97], [98, 99]]", [[97], [98, 99]]),
    ] as [(String, [[Int32]])] {
      let host = DialectHost()
      let response = try await host.send(
        Self.path, #"{"model": "encoder", "input": \#(input), "dimensions": 3, "user": "x"}"#)
      #expect(response.status == .ok)
      #expect(host.encoder.asked.withLock { $0 } == expected)
      let count = expected.reduce(0) { $0 + $1.count }
      #expect(text(try response.json["usage"]) == #"{"prompt_tokens":\#(count),"total_tokens":\#(count)}"#)
      #expect(try response.json["data"]?.items?.map { text($0["index"]) } == expected.indices.map(String.init))
    }
  }

  @Test func wrongFieldsAreNamed() async throws {
    let host = DialectHost()
    for body in ["", "{", "[]"] { try await host.expectError(Self.path, body, .badRequest, code: "invalid_json") }
    try await host.expectError(
      Self.path, #"{"input": "a"}"#, .badRequest, param: "model", code: "missing_required_parameter")
    try await host.expectError(
      Self.path, #"{"model": "encoder"}"#, .badRequest, param: "input", code: "missing_required_parameter")
    try await host.expectError(
      Self.path, #"{"model": "other", "input": "a"}"#, .notFound, param: "model", code: "model_not_found")
    try await host.expectError(
      Self.path, #"{"model": "fake", "input": "a"}"#, .badRequest, param: "model", code: "invalid_value")
    for (fields, param, code) in [
      (#""input": 3"#, "input", "invalid_value"), (#""input": []"#, "input", "invalid_value"),
      (#""input": "" "#, "input", "invalid_value"), (#""input": ["a", ""]"#, "input.1", "invalid_value"),
      (#""input": ["a", 1]"#, "input.1", "invalid_value"), (#""input": [257]"#, "input.0", "invalid_value"),
      (#""input": [[1], []]"#, "input.1", "invalid_value"),
      (#""input": ["a", "\#(String(repeating: "b", count: 17))"]"#, "input.1", "context_length_exceeded"),
      (#""input": "a", "dimensions": 2"#, "dimensions", "invalid_value"),
      (#""input": "a", "dimensions": 0"#, "dimensions", "invalid_value"),
      (#""input": "a", "encoding_format": "int8""#, "encoding_format", "invalid_value"),
      (#""input": "a", "encoding_format": 8"#, "encoding_format", "invalid_value"),
      (
        #""input": [\#(Array(repeating: #""a""#, count: 2049).joined(separator: ","))]"#, "input", "invalid_value"
      ),
    ] {
      try await host.expectError(Self.path, #"{"model": "encoder", \#(fields)}"#, .badRequest, param: param, code: code)
    }
  }
}
