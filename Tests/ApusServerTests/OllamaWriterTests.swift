import ApusText
import Foundation
import Testing
import TestSupport

@testable import ApusServer

@Suite struct OllamaWriterTests {
  /// 2026-01-02T03:04:05.625Z.
  private static let time = Date(timeIntervalSince1970: 1_767_323_045.625)
  private static let head = #"{"model":"fake","created_at":"2026-01-02T03:04:05.625Z","#
  private static let figures =
    #""total_duration":4,"load_duration":1,"prompt_eval_count":12,"prompt_eval_duration":2,"eval_count":3,"#
    + #""eval_duration":3}"#

  private static func end(_ reason: AnswerEnd.Reason, text: String = "") -> AnswerPart {
    .finished(AnswerEnd(reason: reason, text: text, promptTokens: 12, cachedTokens: 5, completionTokens: 3))
  }

  private static func writer(_ shape: OllamaWriter.Shape) -> OllamaWriter {
    var writer = OllamaWriter(shape, model: "fake", tokenizer: ByteTokenizer())
    writer.durations = .init(total: 4, load: 1, promptEvaluation: 2, evaluation: 3)
    return writer
  }

  private func stream(_ shape: OllamaWriter.Shape, _ parts: [AnswerPart]) -> [String] {
    var writer = Self.writer(shape)
    var lines = String(decoding: parts.flatMap { writer.lines(for: $0, at: Self.time) }, as: UTF8.self)
      .split(separator: "\n", omittingEmptySubsequences: false).map(String.init)
    #expect(lines.popLast() == "")
    return lines
  }

  private func whole(_ shape: OllamaWriter.Shape, _ parts: [AnswerPart]) -> String? {
    var writer = Self.writer(shape)
    var answer: JinjaValue?
    for part in parts { answer = writer.answer(for: part, at: Self.time) }
    return answer.map { String(decoding: CompactJSON.bytes($0), as: UTF8.self) }
  }

  @Test func aChatIsALineAPiece() {
    let parts: [AnswerPart] = [
      .started(promptTokens: 12, cached: 5), .text("a\n", []), .text("", []), .text("\"é", []),
      Self.end(.stop, text: "a\n\"é"),
    ]
    #expect(
      stream(.chat, parts) == [
        Self.head + #""message":{"role":"assistant","content":"a\n"},"done":false}"#,
        Self.head + #""message":{"role":"assistant","content":"\"é"},"done":false}"#,
        Self.head + #""message":{"role":"assistant","content":""},"done":true,"done_reason":"stop","# + Self.figures,
      ])
    #expect(
      whole(.chat, parts) == Self.head
        + #""message":{"role":"assistant","content":"a\n\"é"},"done":true,"done_reason":"stop","# + Self.figures)
  }

  @Test func aGenerationIsPlainText() {
    let parts: [AnswerPart] = [.started(promptTokens: 12, cached: 5), .text("a", []), Self.end(.length, text: "a")]
    #expect(
      stream(.generate, parts) == [
        Self.head + #""response":"a","done":false}"#,
        Self.head + #""response":"","done":true,"done_reason":"length","# + Self.figures,
      ])
    #expect(
      whole(.generate, parts) == Self.head + #""response":"a","done":true,"done_reason":"length","# + Self.figures)
  }

  @Test func callsComeWholeAndInTheirOrder() {
    let parts: [AnswerPart] = [
      .started(promptTokens: 12, cached: 5), .callBegan(index: 0, id: "x", name: "f"),
      .callArguments(index: 0, json: #"{"a": [1"#), .callArguments(index: 0, json: ", 2.5]}"), .callEnded(index: 0),
      .callBegan(index: 1, id: "y", name: "g"), .callEnded(index: 1), Self.end(.toolCalls),
    ]
    let calls = [
      #"{"function":{"index":0,"name":"f","arguments":{"a":[1,2.5]}}}"#,
      #"{"function":{"index":1,"name":"g","arguments":{}}}"#,
    ]
    #expect(
      stream(.chat, parts)
        == calls.map {
          Self.head + #""message":{"role":"assistant","content":"","tool_calls":[\#($0)]},"done":false}"#
        } + [
          Self.head + #""message":{"role":"assistant","content":""},"done":true,"done_reason":"stop","# + Self.figures
        ])
    #expect(
      whole(.chat, parts) == Self.head
        + #""message":{"role":"assistant","content":"","tool_calls":[\#(calls.joined(separator: ","))]},"done":true,"#
        + #""done_reason":"stop","# + Self.figures)
  }

  @Test func logProbabilitiesComeWithTheirText() {
    let reports = [
      TokenReport(id: 65, logProbabilities: .init(chosen: -0.5, top: [.init(token: 66, logProbability: -.infinity)])),
      TokenReport(id: 67, logProbabilities: .init(chosen: -1.25, top: [])),
    ]
    let json =
      #""logprobs":[{"token":"A","logprob":-0.5,"bytes":[65],"top_logprobs":[{"token":"B","logprob":-9999.0,"#
      + #""bytes":[66]}]},{"token":"C","logprob":-1.25,"bytes":[67],"top_logprobs":[]}]"#
    #expect(
      stream(.generate, [.text("AC", reports)]) == [Self.head + #""response":"AC","done":false,\#(json)}"#])
    #expect(
      whole(.generate, [.text("AC", reports), Self.end(.stop, text: "AC")])
        == Self.head + #""response":"AC","done":true,\#(json),"done_reason":"stop","# + Self.figures)
  }

  @Test func aCancelledAnswerNeverLooksWhole() {
    #expect(stream(.chat, [Self.end(.cancelled)]) == [#"{"error":"the answer was cancelled"}"#])
    #expect(whole(.chat, [Self.end(.cancelled)]) == nil)
  }

  @Test func aLoadedModelSaysSo() {
    #expect(
      String(decoding: CompactJSON.bytes(Self.writer(.generate).loaded(at: Self.time)), as: UTF8.self) == Self.head
        + #""response":"","done":true,"done_reason":"load"}"#)
  }
}
