import Foundation
import HTTPTypes
import Logging

/// What is known of a request: who asked for what, how it ended, and what it took. Never what was said, unless the operator
/// wants that.
struct RequestRecord: Sendable {
  /// How a request came.
  enum Interface: String, Sendable {
    case http
    case grpc
  }

  /// The client's id or ours, in the answer's `x-request-id`.
  let id: String
  /// Ours: no two requests have the same.
  let ownID: String
  let method: String
  let startedAt: Date
  /// Whether it is a probe, or the console asking: of no interest to people who look for requests.
  let isProbe: Bool
  let interface: Interface
  /// The route's template; nil until it is known, and where there is none.
  var route: String?
  /// In HTTP, also that of a call.
  var status: Int?
  /// The number of a call's own status.
  var grpcStatus: Int?
  /// Nil for a caller who was not let in.
  var principal: String?
  /// As which tenant of collections it acts.
  var tenant: String?
  var model: String?
  /// The ids of its answers.
  var answerIDs: [String] = []
  var promptTokens = 0
  var cachedTokens = 0
  var finishReason: String?
  /// The machine's name of the error that the client was sent.
  var errorCode: String?
  /// Of the body that was sent.
  var bytes = 0
  var clientIsGone = false
  /// Seconds since the request came: to the engine, out of its queue, the first token, the end.
  var submittedAfter: Double?
  var admittedAfter: Double?
  var firstTokenAfter: Double?
  var endedAfter: Double?
  /// Only where the operator wants prompts in the log.
  var prompt: String?
  var answer: String?
  /// Tokens of the answers that ended, and by answer of those that did not.
  private var endedTokens = 0
  private var liveTokens: [String: Int] = [:]

  init(
    id: String, ownID: String, method: String, isProbe: Bool, interface: Interface = .http, startedAt: Date = Date()
  ) {
    self.id = id
    self.interface = interface
    self.ownID = ownID
    self.method = method
    self.isProbe = isProbe
    self.startedAt = startedAt
  }

  /// The id of the answer, or of the first of several.
  var answerID: String? { answerIDs.first }

  var completionTokens: Int { liveTokens.values.reduce(endedTokens, +) }

  /// An answer's next token.
  mutating func countToken(of answer: String) { liveTokens[answer, default: 0] += 1 }

  /// The whole answer's tokens, in place of those that were counted.
  mutating func endAnswer(_ answer: String, tokens: Int) {
    liveTokens[answer] = nil
    endedTokens += tokens
  }

  /// How far it is.
  enum State: String {
    /// The server reads and checks it.
    case reading
    /// In the engine's queue.
    case waiting
    case prefilling
    case decoding
    case ended
  }

  var state: State {
    if endedAfter != nil { return .ended }
    if firstTokenAfter != nil { return .decoding }
    if admittedAfter != nil { return .prefilling }
    return submittedAfter == nil ? .reading : .waiting
  }

  /// Seconds since it came, or that it took.
  var age: Double { endedAfter ?? max(0, Date().timeIntervalSince(startedAt)) }

  /// Seconds that its answers were in the engine's queue; nil for a request without.
  var queueTime: Double? {
    submittedAfter.flatMap { submitted in admittedAfter.map { max(0, $0 - submitted) } }
  }

  /// The fields of its line in the log.
  var metadata: Logger.Metadata {
    var fields: Logger.Metadata = ["request_id": .string(id), "method": .string(method)]
    func text(_ name: String, _ value: String?) { if let value { fields[name] = .string(value) } }
    func number(_ name: String, _ value: (any CustomStringConvertible & Sendable)?) {
      if let value { fields[name] = .stringConvertible(value) }
    }
    text("route", route)
    number("status", status)
    text("grpc_status", grpcStatus.map(GRPCStatus.name))
    text("principal", principal)
    text("tenant", tenant)
    text("model", model)
    text("finish_reason", finishReason)
    text("error_code", errorCode)
    number("duration_ms", endedAfter.map(Self.milliseconds))
    number("bytes", bytes)
    if clientIsGone { number("client_gone", true) }
    if submittedAfter != nil {
      text("answer_id", answerID)
      number("cached_tokens", cachedTokens)
      number("completion_tokens", completionTokens)
      number("queue_ms", queueTime.map(Self.milliseconds))
      number("ttft_ms", firstTokenAfter.map(Self.milliseconds))
    }
    if submittedAfter != nil || promptTokens > 0 { number("prompt_tokens", promptTokens) }
    text("prompt", prompt)
    text("answer", answer)
    return fields
  }

  /// To a microsecond.
  static func milliseconds(_ seconds: Double) -> Double { (seconds * 1e6).rounded() / 1e3 }
}

/// The id under which a request is known.
enum RequestID {
  private static let longest = 128

  /// A client's id as it is, if it can stand in a header, a log and a file's name.
  static func sane(_ id: String?) -> String? {
    guard let id, !id.isEmpty, id.utf8.count <= longest,
      id.utf8.allSatisfy({ byte in
        switch byte {
        case UInt8(ascii: "0")...UInt8(ascii: "9"), UInt8(ascii: "a")...UInt8(ascii: "z"),
          UInt8(ascii: "A")...UInt8(ascii: "Z"), UInt8(ascii: "-"), UInt8(ascii: "_"), UInt8(ascii: "."),
          UInt8(ascii: ":"):
          true
        default: false
        }
      })
    else { return nil }
    return id
  }
}
