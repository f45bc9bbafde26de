import ApusText
import Foundation
import Hummingbird
import HummingbirdTesting
import Logging
import Testing

@testable import ApusServer

/// Answers that the token limit ends inside a call.
@Suite struct CutCallTests {
  private static let text = "Well. "
  private static let marker = "<tool_call>"
  /// Where the name is whole: the engine's tokens are bytes.
  private static let nameEnd =
    CallingEngine.call.utf8.count - "\", \"arguments\": {\"city\": \"Bern\"}}\n</tool_call>".utf8.count + 1

  private func message(
    _ reply: String, maxTokens: Int, choice: String = "auto", stream: Bool
  ) async throws -> (text: String, calls: [ToolCall], reason: String?) {
    let tools = #""tools": [{"type": "function", "function": {"name": "get_weather"}}]"#
    let body =
      #"{"model": "fake", "messages": [{"role": "user", "content": "Hi"}], \#(tools), "tool_choice": "\#(choice)", "#
      + #""max_tokens": \#(maxTokens), "stream": \#(stream)}"#
    let server = try Server([CallingEngine(reply: reply)], logger: .quiet)
    let response = try await server.application().test(.router) { client in
      try await client.execute(uri: "/v1/chat/completions", method: .post, body: ByteBuffer(string: body)) { $0 }
    }
    #expect(response.status == .ok)
    if !stream {
      let choice = try #require(try JSONDecoder().decode(ChatCompletion.self, from: response.body).choices.first)
      return (choice.message.content ?? "", choice.message.toolCalls ?? [], choice.finishReason)
    }
    var (text, calls, reason) = ("", [ToolCall](), String?.none)
    for event in response.text.components(separatedBy: "\n\n") where event.hasPrefix("data: {") {
      let chunk = try JSONDecoder().decode(ChatCompletionChunk.self, from: Data(event.dropFirst(6).utf8))
      let choice = try #require(chunk.choices.first)
      text += choice.delta.content ?? ""
      for call in choice.delta.toolCalls ?? [] {
        if let id = call.id {
          calls.append(.init(id: id, function: .init(name: call.function.name ?? "", arguments: "")))
        }
        calls[call.index].function.arguments += call.function.arguments
      }
      reason = choice.finishReason ?? reason
    }
    return (text, calls, reason)
  }

  @Test(arguments: [true, false]) func markupIsNoText(stream: Bool) async throws {
    for count in 1...CallingEngine.call.utf8.count {
      let (text, calls, reason) = try await message(
        Self.text + CallingEngine.call, maxTokens: Self.text.utf8.count + count, stream: stream)
      // Half a marker could as well be text.
      let half = count < Self.marker.utf8.count ? String(Self.marker.prefix(count)) : ""
      #expect(text == Self.text + half, "\(count)")
      #expect(calls.map(\.function.name) == (count < Self.nameEnd ? [] : ["get_weather"]), "\(count)")
      #expect(reason == "length", "\(count)")
      for call in calls { #expect(throws: Never.self) { try JinjaValue(json: call.function.arguments) } }
    }
  }

  @Test(arguments: [true, false]) func anAnswerThatMustCallHasNoTextAtAll(stream: Bool) async throws {
    for count in 1...CallingEngine.call.utf8.count {
      let (text, calls, reason) = try await message(
        CallingEngine.call, maxTokens: count, choice: "required", stream: stream)
      #expect(text.isEmpty && reason == "length", "\(count): \(text)")
      #expect(calls.count == (count < Self.nameEnd ? 0 : 1), "\(count)")
    }
  }

  @Test func aStopStringInACallLeavesNoneToExecute() throws {
    var parts = AnswerParts(tools: .init(dialect: .hermes, tools: ["get_weather"]))
    _ = parts.parts(for: .token(.init(id: 1, text: #"<tool_call>{"name": "get_weather", "arguments": {"city": "Be"#)))
    let end = parts.parts(
      for: .finished(
        .init(
          promptTokens: 1, tokens: [1], text: "", tail: "", finishReason: .stopSequence, stop: "x",
          timings: .init(prefill: 0, decode: 0, prefillTokens: 1, decodeTokens: 1))))
    guard case .finished(let last)? = end.last else { Issue.record("\(end)"); return }
    #expect(last.reason == .stopSequence)
  }
}
