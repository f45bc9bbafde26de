import ApusText
import HummingbirdTesting
import Testing

@testable import ApusServer

@Suite struct TokenizeTests {
  @Test func tokensAreWrittenToTheByte() async throws {
    let host = DialectHost()
    #expect(
      try await host.send("/tokenize", #"{"model": "fake", "prompt": "hé", "return_token_strs": true}"#).text
        == #"{"count":3,"max_model_len":1000,"tokens":[104,195,169],"token_strs":["h","�","�"]}"#)
    #expect(
      try await host.send("/tokenize", #"{"prompt": ""}"#).text
        == #"{"count":0,"max_model_len":1000,"tokens":[],"token_strs":null}"#)
    #expect(
      try await host.send("/tokenize", #"{"model": "encoder", "prompt": "a"}"#).text
        == #"{"count":1,"max_model_len":16,"tokens":[97],"token_strs":null}"#)
    #expect(
      try await host.send("/tokenize", #"{"messages": [{"role": "user", "content": "Hi"}], "tools": []}"#).text
        == #"{"count":7,"max_model_len":1000,"tokens":[1,1,1,1,1,1,1],"token_strs":null}"#)
    #expect(
      try await host.send("/detokenize", #"{"model": "fake", "tokens": [104, 195.0, 169]}"#).text == #"{"prompt":"hé"}"#
    )
    #expect(try await host.send("/detokenize", #"{"tokens": []}"#).text == #"{"prompt":""}"#)
  }

  @Test func textsComeBackFromTheirTokens() async throws {
    let seed = UInt64.random(in: 0 ... .max)
    var generator = SeededGenerator(seed: seed)
    let host = DialectHost()
    for _ in 0..<50 {
      let scalars = (0..<Int.random(in: 0...20, using: &generator)).compactMap { _ in
        Unicode.Scalar(UInt32.random(in: 1...0x2FFF, using: &generator))
      }
      let sent = String(String.UnicodeScalarView(scalars))
      let tokens = try await host.send("/tokenize", text(["prompt": .string(sent)])).json["tokens"]
      let received = try await host.send("/detokenize", text(["tokens": tokens ?? []])).json["prompt"]?.string
      #expect(received == sent, "seed \(seed)")
    }
  }

  @Test func wrongFieldsAreNamed() async throws {
    let host = DialectHost()
    let messages = #""messages": [{"role": "user", "content": "a"}]"#
    for (path, body, param, code) in [
      ("/tokenize", "{}", "prompt", "missing_required_parameter"),
      ("/tokenize", #"{"prompt": 1}"#, "prompt", "invalid_value"),
      ("/tokenize", #"{"prompt": "a", "add_special_tokens": 1}"#, "add_special_tokens", "invalid_value"),
      ("/tokenize", #"{"prompt": "a", "return_token_strs": 1}"#, "return_token_strs", "invalid_value"),
      ("/tokenize", #"{"prompt": "a", "model": 1}"#, "model", "invalid_value"),
      ("/tokenize", #"{"prompt": "a", \#(messages)}"#, "prompt", "invalid_value"),
      ("/tokenize", #"{\#(messages), "add_special_tokens": true}"#, "add_special_tokens", "invalid_value"),
      ("/tokenize", #"{"messages": [{"role": "queen"}]}"#, "messages.0.role", "invalid_value"),
      ("/tokenize", #"{\#(messages), "tools": [{}]}"#, "tools.0.type", "missing_required_parameter"),
      ("/tokenize", #"{\#(messages), "tools": [{"type": "mcp"}]}"#, "tools.0.type", "invalid_value"),
      (
        "/tokenize", #"{\#(messages), "tools": [{"type": "function"}]}"#, "tools.0.function",
        "missing_required_parameter"
      ),
      (
        "/tokenize", #"{\#(messages), "tools": [{"type": "function", "function": {}}]}"#, "tools.0.function.name",
        "missing_required_parameter"
      ),
      (
        "/tokenize", #"{\#(messages), "tools": [{"type": "function", "function": {"name": "f", "strict": {}}}]}"#,
        "tools.0.function.strict", "invalid_value"
      ),
      (
        "/tokenize", #"{\#(messages), "tools": [{"type": "function", "function": {"name": "f", "parameters": 1}}]}"#,
        "tools.0.function.parameters", "invalid_value"
      ),
      ("/tokenize", #"{"model": "encoder", \#(messages)}"#, "messages", "invalid_value"),
      ("/detokenize", "{}", "tokens", "missing_required_parameter"),
      ("/detokenize", #"{"tokens": 1}"#, "tokens", "invalid_value"),
      ("/detokenize", #"{"tokens": [1, "a"]}"#, "tokens.1", "invalid_value"),
      ("/detokenize", #"{"tokens": [-1]}"#, "tokens.0", "invalid_value"),
      ("/detokenize", #"{"tokens": [0, 257]}"#, "tokens.1", "invalid_value"),
    ] {
      try await host.expectError(path, body, .badRequest, param: param, code: code)
    }
    for path in ["/tokenize", "/detokenize"] {
      try await host.expectError(
        path, #"{"model": "other", "prompt": "a", "tokens": []}"#, .notFound, param: "model", code: "model_not_found")
      try await host.expectError(path, "[", .badRequest, code: "invalid_json")
    }
  }
}

/// SplitMix64 (Steele, Lea and Flood 2014): the same numbers for the same seed.
struct SeededGenerator: RandomNumberGenerator {
  private var state: UInt64

  init(seed: UInt64) { state = seed }

  mutating func next() -> UInt64 {
    state &+= 0x9E37_79B9_7F4A_7C15
    var z = state
    z = (z ^ (z >> 30)) &* 0xBF58_476D_1CE4_E5B9
    z = (z ^ (z >> 27)) &* 0x94D0_49BB_1331_11EB
    return z ^ (z >> 31)
  }
}
