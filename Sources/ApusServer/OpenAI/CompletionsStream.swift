import ApusEngine
import HTTPTypes
import Hummingbird

/// An answer that is sent as server-sent events, begun: the response's headers leave with its first token, so that up to
/// then a failure has a status of its own and a proxy may send the request elsewhere.
struct HeldStream: Sendable {
  private let answer: HeldAnswer<AnswerEvents>
  private let hasBegun: Bool

  /// The longest time until the headers leave, token or not.
  private static let longestWait = Duration.seconds(10)
  /// A comment that clients skip.
  private static let ping = ": ping\n\n"

  /// Waits for the first token. Throws what the answer throws until then.
  init(_ answer: AnswerStream) async throws {
    self.answer = HeldAnswer(answer.events)
    hasBegun = try await self.answer.hasBegun(within: Self.longestWait)
  }

  func forEach(_ body: (GenerationEvent) async throws -> Void) async throws { try await answer.forEach(body) }

  /// The response whose events `write` writes. An error ends it with `errorEvent`, if there is one, and never as a whole
  /// answer ends.
  func response(
    errorEvent: (@Sendable (any Error) throws -> [UInt8])? = nil,
    _ write: @escaping @Sendable (inout any ResponseBodyWriter) async throws -> Void
  ) -> Response {
    Response(
      status: .ok,
      headers: [.contentType: "text/event-stream; charset=utf-8", .cacheControl: "no-cache"],
      body: .init { [hasBegun] body in
        if !hasBegun { try await body.write(ByteBuffer(string: Self.ping)) }
        do {
          try await write(&body)
        } catch let error where !(error is CancellationError) && errorEvent != nil {
          if let bytes = try errorEvent?(error) { try await body.write(ByteBuffer(bytes: bytes)) }
        }
        try await body.finish(nil)
      })
  }
}
