import ApusEngine
import ApusModels
import ApusText
import Foundation
import HummingbirdTesting
import Testing
import TestSupport

@testable import ApusServer

@Suite struct CompletionsTests {
  private static let path = "/v1/completions"
  private let header = CompletionHeader(id: "cmpl-1", created: 5, model: "m")

  private func writer(index: Int = 0, echo: String? = nil, scoresPrompt: Bool = false) -> CompletionChoiceWriter {
    CompletionChoiceWriter(index: index, echo: echo, scoresPrompt: scoresPrompt, tokenizer: ByteTokenizer())
  }

  private func end(_ reason: AnswerEnd.Reason = .stop, _ text: String = "ab") -> AnswerEnd {
    AnswerEnd(reason: reason, text: text, promptTokens: 3, cachedTokens: 1, completionTokens: 2)
  }

  private func report(_ id: Int32, _ chosen: Float, _ top: [(Int32, Float)] = []) -> TokenReport {
    TokenReport(
      id: id,
      logProbabilities: .init(chosen: chosen, top: top.map { .init(token: $0.0, logProbability: $0.1) }))
  }

  // MARK: bytes on the wire

  @Test func aWholeCompletionIsWrittenToTheByte() {
    var writer = writer(index: 1, echo: "é>")
    for part in [.started(promptTokens: 3, cached: 1), .text("a", []), .text("b", [])] as [AnswerPart] {
      #expect(writer.whole(for: part) == nil)
    }
    guard let (choice, end) = writer.whole(for: .finished(end())) else { Issue.record("no choice"); return }
    let object = header.object(choices: [choice]).setting("usage", CompletionHeader.usage([end, end]))
    #expect(
      text(object)
        == #"{"id":"cmpl-1","object":"text_completion","created":5,"model":"m","choices":[{"text":"é>ab","index":1,"#
        + #""logprobs":null,"finish_reason":"stop"}],"usage":{"prompt_tokens":6,"completion_tokens":4,"#
        + #""total_tokens":10,"prompt_tokens_details":{"cached_tokens":2}}}"#)
  }

  @Test func aStreamedCompletionIsWrittenToTheByte() {
    var writer = writer()
    let parts: [AnswerPart] = [
      .started(promptTokens: 3, cached: 0), .text("a\n", []), .finished(end(.length)),
    ]
    let bytes = parts.flatMap { writer.pieces(for: $0) }.flatMap { ServerSentEvents.data(header.object(choices: [$0])) }
    #expect(
      String(decoding: bytes, as: UTF8.self) == #"""
        data: {"id":"cmpl-1","object":"text_completion","created":5,"model":"m","choices":[{"text":"a\n","index":0,"logprobs":null,"finish_reason":null}]}

        data: {"id":"cmpl-1","object":"text_completion","created":5,"model":"m","choices":[{"text":"","index":0,"logprobs":null,"finish_reason":"length"}]}


        """#)
  }

  @Test func aScoredPromptComesBackWithItsLogProbabilities() {
    var score = Score(of: [0x61, 0x62])
    score.logProbabilities.append(-1)
    score.top.append([.init(token: 0x63, logProbability: -0.5)])
    let parts: [AnswerPart] = [
      .started(promptTokens: 2, cached: 0), .prompt(score), .text("d", [report(0x64, -2)]),
    ]
    let expected =
      #"{"tokens":["a","b","d"],"token_logprobs":[null,-1.0,-2.0],"#
      + #""top_logprobs":[null,{"c":-0.5,"b":-1.0},{"d":-2.0}],"text_offset":[0,1,2]}"#
    var whole = writer(echo: "ab", scoresPrompt: true)
    #expect(parts.allSatisfy { whole.whole(for: $0) == nil })
    let choice = whole.whole(for: .finished(end(.stop, "d")))?.choice
    #expect(text(choice?["logprobs"]) == expected && choice?["text"]?.string == "abd")
    var streamed = writer(echo: "ab", scoresPrompt: true)
    let pieces = parts.flatMap { streamed.pieces(for: $0) }
    #expect(pieces.map { $0["text"]?.string } == ["ab", "d"])
    #expect(text(pieces[0]["logprobs"]?["token_logprobs"]) == "[null,-1.0]")
    #expect(text(pieces[1]["logprobs"]?["text_offset"]) == "[2]")
  }

  @Test func onlyAnEchoedPromptIsScored() async throws {
    for (fields, expected) in [
      (#""echo": true, "logprobs": 3"#, 3), (#""echo": true"#, nil), (#""logprobs": 3"#, nil),
    ] as [(String, Int?)] {
      let host = DialectHost()
      _ = try await host.send(Self.path, #"{"model": "fake", "prompt": "a", \#(fields)}"#)
      #expect(host.engine.asked.withLock { $0.map(\.1.promptLogProbabilities) } == [expected])
    }
  }

  @Test func logProbabilitiesAreParallelListsWithOffsetsInCharacters() {
    // é is two tokens of one byte each: the second begins where the character after the first would.
    let reports = [report(0x61, -0.1, [(0x62, -0.05), (0x61, -0.1)]), report(0xC3, -1), report(0xA9, -2)]
    var writer = writer()
    _ = writer.whole(for: .text("aé", reports))
    guard let (choice, _) = writer.whole(for: .finished(end(.stop, "aé"))) else { Issue.record("no choice"); return }
    #expect(
      text(choice["logprobs"])
        == #"{"tokens":["a","bytes:\\xc3","bytes:\\xa9"],"token_logprobs":[-0.1,-1.0,-2.0],"#
        + #""top_logprobs":[{"b":-0.05,"a":-0.1},{"bytes:\\xc3":-1.0},{"bytes:\\xa9":-2.0}],"text_offset":[0,1,2]}"#)
    // A stream goes on counting.
    var streamed = self.writer()
    let offsets = reports.flatMap { streamed.pieces(for: .text("", [$0])) }.map { text($0["logprobs"]?["text_offset"]) }
    #expect(offsets == ["[0]", "[1]", "[2]"])
    #expect(text(JinjaValue.logProbability(-.infinity)) == "-9999.0")
  }

  // MARK: answers

  @Test func everyFormOfPromptReachesTheEngine() async throws {
    for (prompt, expected) in [
      (#""Hi""#, [Prompt.text("Hi")]), (#"["a", "b"]"#, [.text("a"), .text("b")]), ("[72, 105]", [.tokens([72, 105])]),
      ("[[1], [2, 3]]", [.tokens([1]), .tokens([2, 3])]), (#""""#, [.text("")]),
    ] {
      let host = DialectHost()
      let response = try await host.send(Self.path, #"{"model": "fake", "prompt": \#(prompt)}"#)
      #expect(response.status == .ok)
      let choices = try #require(try response.json["choices"]?.items)
      #expect(choices.map { text($0["index"]) } == expected.indices.map(String.init))
      #expect(choices.allSatisfy { $0["text"]?.string == "Hé!" && $0["finish_reason"]?.string == "stop" })
      let asked = host.engine.asked.withLock { $0.map { "\($0.0)" } }
      #expect(asked.sorted() == expected.map { "\($0)" }.sorted())
      #expect(text(try response.json["usage"]?["prompt_tokens"]) == "\(7 * expected.count)")
    }
  }

  @Test func manyPromptsAreAnsweredInTheirOrder() async throws {
    let prompts = (0..<50).map { #""p\#($0)""# }.joined(separator: ",")
    let response = try await DialectHost().send(
      Self.path, #"{"model": "fake", "prompt": [\#(prompts)], "echo": true}"#)
    let texts = try #require(try response.json["choices"]?.items).map { $0["text"]?.string }
    #expect(texts == (0..<50).map { "p\($0)Hé!" })
  }

  @Test func aStreamAnswersEveryPromptAndEndsWithUsageAndDone() async throws {
    let response = try await DialectHost().send(
      Self.path,
      #"{"model": "fake", "prompt": ["a", "b"], "stream": true, "stream_options": {"include_usage": true}}"#)
    #expect(response.status == .ok)
    #expect(response.headers[.contentType]?.hasPrefix("text/event-stream") == true)
    var events = response.text.components(separatedBy: "\n\n")
    #expect(events.removeLast().isEmpty)
    #expect(events.removeLast() == "data: [DONE]")
    let chunks = try events.map { try JinjaValue(json: String($0.dropFirst("data: ".count))) }
    let choices = chunks.compactMap { $0["choices"]?.items?.first }
    for index in 0..<2 {
      let own = choices.filter { text($0["index"]) == "\(index)" }
      #expect(own.compactMap { $0["text"]?.string }.joined() == "Hé!")
      #expect(own.map { text($0["finish_reason"]) } == ["null", "null", "null", #""stop""#])
    }
    #expect(chunks.dropLast().allSatisfy { text($0["usage"]) == "null" })
    #expect(text(chunks.last?["choices"]) == "[]")
    #expect(text(chunks.last?["usage"]?["total_tokens"]) == "22")
    #expect(Set(chunks.compactMap { $0["id"]?.string }).count == 1)
  }

  @Test func aStreamThatBreaksLooksBroken() async throws {
    let response = try await DialectHost(engine: FakeEngine(breakAfter: 1)).send(
      Self.path, #"{"model": "fake", "prompt": "a", "stream": true}"#)
    #expect(response.status == .ok)
    #expect(response.text.contains(#""code":"internal_error""#))
    #expect(!response.text.contains("[DONE]"))
  }

  @Test func parametersReachTheEngine() async throws {
    let host = DialectHost()
    let body = #"""
      {"model": "fake", "prompt": "a", "temperature": 0.25, "top_p": 0.5, "seed": -3, "presence_penalty": 1,
       "frequency_penalty": -1.5, "logit_bias": {"65": 100, "66": -100}, "max_tokens": 9, "stop": ["x", "y"],
       "top_k": 4, "min_p": 0.125, "repetition_penalty": 1.5, "ignore_eos": true, "user": "someone", "logprobs": 2,
       "n": 1, "best_of": 1, "suffix": null}
      """#
    #expect(try await host.send(Self.path, body).status == .ok)
    let (_, options) = try #require(host.engine.asked.withLock { $0.first })
    #expect(
      options.sampling
        == SamplingOptions(
          temperature: 0.25, topK: 4, topP: 0.5, minP: 0.125, repetitionPenalty: 1.5, presencePenalty: 1,
          frequencyPenalty: -1.5, logitBias: [65: 100, 66: -100], seed: UInt64(bitPattern: -3)))
    #expect(options.maxTokens == 9 && options.stop == ["x", "y"] && options.ignoreEOS && options.logProbabilities == 2)
    #expect(
      try CompletionRequest(body: Array(#"{"model": "m", "prompt": "a"}"#.utf8), randomSeed: 4).options.maxTokens == 16)
  }

  @Test func noTokensMeansThatOnlyThePromptIsRead() async throws {
    let response = try await DialectHost().send(
      Self.path, #"{"model": "fake", "prompt": "abc", "max_tokens": 0, "echo": true}"#)
    let choice = try response.json["choices"]?.items?.first
    #expect(choice?["text"]?.string == "abc" && choice?["finish_reason"]?.string == "length")
  }

  @Test func tokensAreEchoedAsText() async throws {
    let response = try await DialectHost().send(Self.path, #"{"model": "fake", "prompt": [97, 98], "echo": true}"#)
    #expect(try response.json["choices"]?.items?.first?["text"]?.string == "abHé!")
  }

  // MARK: errors

  @Test func wrongFieldsAreNamed() async throws {
    let host = DialectHost()
    for body in ["", "{", "[]"] { try await host.expectError(Self.path, body, .badRequest, code: "invalid_json") }
    try await host.expectError(
      Self.path, #"{"prompt": "a"}"#, .badRequest, param: "model", code: "missing_required_parameter")
    try await host.expectError(
      Self.path, #"{"model": "fake"}"#, .badRequest, param: "prompt", code: "missing_required_parameter")
    try await host.expectError(
      Self.path, #"{"model": "other", "prompt": "a"}"#, .notFound, param: "model", code: "model_not_found")
    for (prompt, param) in [
      ("3", "prompt"), ("[]", "prompt"), ("{}", "prompt"), ("[[]]", "prompt.0"), (#"["a", 1]"#, "prompt.1"),
      (#"[1, "a"]"#, "prompt.1"), ("[[1], 2]", "prompt.1"), ("[1.5]", "prompt.0"), ("[1, -1]", "prompt.1"),
      ("[[1, 4294967296]]", "prompt.0.1"), ("[256, 257]", "prompt.1"), ("[[1], [300]]", "prompt.1.0"),
      ("[\(Array(repeating: #""a""#, count: 129).joined(separator: ","))]", "prompt"),
    ] {
      try await host.expectError(
        Self.path, #"{"model": "fake", "prompt": \#(prompt)}"#, .badRequest, param: param, code: "invalid_value")
    }
    for (field, param) in wrongSamplingFields + [
      (#""max_tokens": -1"#, "max_tokens"), (#""max_tokens": 1.5"#, "max_tokens"), (#""n": 2"#, "n"),
      (#""best_of": 3"#, "best_of"), (#""suffix": "x""#, "suffix"), (#""suffix": 1"#, "suffix"),
      (#""echo": 1"#, "echo"),
      (#""logprobs": 21"#, "logprobs"), (#""logprobs": true"#, "logprobs"),
      (#""stream_options": 3"#, "stream_options"),
      (#""stream_options": {"include_usage": 3}"#, "stream_options.include_usage"),
    ] {
      try await host.expectError(
        Self.path, #"{"model": "fake", "prompt": "a", \#(field)}"#, .badRequest, param: param, code: "invalid_value")
    }
    try await DialectHost(limit: 100).expectError(
      Self.path, #"{"model": "fake", "prompt": "\#(String(repeating: "a", count: 200))"}"#, .contentTooLarge,
      code: "request_too_large")
  }

  @Test func theEnginesErrorsAreAboutThePrompt() async throws {
    for stream in ["false", "true"] {
      let host = DialectHost(engine: FakeEngine(failure: RunnerError.contextOverflow(tokens: 50, contextLength: 40)))
      try await host.expectError(
        Self.path, #"{"model": "fake", "prompt": ["a"], "stream": \#(stream)}"#, .badRequest, param: "prompt.0",
        code: "context_length_exceeded")
      try await DialectHost(engine: FakeEngine(failure: GenerationError.emptyPrompt)).expectError(
        Self.path, #"{"model": "fake", "prompt": "", "stream": \#(stream)}"#, .badRequest, param: "prompt",
        code: "invalid_value")
      try await DialectHost(engine: FakeEngine(failure: GenerationError.stopped)).expectError(
        Self.path, #"{"model": "fake", "prompt": "", "stream": \#(stream)}"#, .serviceUnavailable,
        code: "server_stopping")
    }
  }
}
