import ApusText
import Foundation
import Synchronization

/// The caller's place in a distributed trace, as its `traceparent` says. Source: W3C Trace Context, section 3.2.
struct TraceParent: Sendable, Equatable {
  /// 32 hexadecimal digits.
  let traceID: String
  /// 16 hexadecimal digits.
  let spanID: String
  let isSampled: Bool

  /// Nil for a header that is none, which then counts as absent.
  init?(_ header: String) {
    let parts = header.split(separator: "-", omittingEmptySubsequences: false)
    guard parts.count >= 4, parts[0].isHex(digits: 2), parts[0] != "ff", parts[0] != "00" || parts.count == 4,
      parts[1].isHex(digits: 32), parts[2].isHex(digits: 16), parts[3].isHex(digits: 2),
      parts[1].contains(where: { $0 != "0" }), parts[2].contains(where: { $0 != "0" }),
      let flags = UInt8(parts[3], radix: 16)
    else { return nil }
    traceID = String(parts[1])
    spanID = String(parts[2])
    isSampled = flags & 1 == 1
  }
}

/// The spans of a request that ended: the request, and in it the queue, prefill and decode.
///
/// As OTLP's JSON: one `resourceSpans` object a request. Source: OpenTelemetry protocol 1.x, "OTLP/HTTP, JSON protobuf
/// encoding"; attributes by OpenTelemetry's semantic conventions for HTTP and generative AI.
struct RequestSpans {
  let record: RequestRecord
  let trace: TraceParent?

  private enum Kind: Int {
    case `internal` = 1
    case server = 2
  }

  private static let faultCode = 2

  var json: JinjaValue {
    let traceID = trace?.traceID ?? Self.randomID(bytes: 16)
    let root = Self.randomID(bytes: 8)
    let end = record.endedAfter ?? record.age
    var spans = [
      span(
        name, .server, traceID, root, parent: trace?.spanID, from: 0, to: end,
        attributes)
    ]
    func phase(_ name: String, _ from: Double?, _ to: Double?) {
      guard let from, let to else { return }
      spans.append(span(name, .internal, traceID, Self.randomID(bytes: 8), parent: root, from: from, to: to, []))
    }
    // A phase that was not left ends with the request.
    phase("queue", record.submittedAfter, record.admittedAfter ?? end)
    phase("prefill", record.admittedAfter, record.firstTokenAfter ?? end)
    phase("decode", record.firstTokenAfter, end)
    return [
      "resourceSpans": [
        [
          "resource": ["attributes": .list([Self.attribute("service.name", "apus")])],
          "scopeSpans": [
            [
              "scope": ["name": "apus", "version": .string(StatusRoutes.version)], "spans": .list(spans),
            ]
          ],
        ]
      ]
    ]
  }

  /// Of a call, by the conventions for RPC, service and method.
  private var name: String {
    switch record.interface {
    case .http: "\(record.method) \(record.route ?? "")"
    case .grpc: record.route.map { String($0.dropFirst()) } ?? "grpc"
    }
  }

  /// What the conventions for HTTP or for RPC want.
  private var protocolAttributes: [JinjaValue] {
    var list: [JinjaValue] = []
    switch record.interface {
    case .http:
      list.append(Self.attribute("http.request.method", .string(record.method)))
      if let route = record.route { list.append(Self.attribute("http.route", .string(route))) }
      if let status = record.status { list.append(Self.attribute("http.response.status_code", .integer(status))) }
    case .grpc:
      list.append(Self.attribute("rpc.system", "grpc"))
      let parts = (record.route ?? "").split(separator: "/")
      if parts.count == 2 {
        list.append(Self.attribute("rpc.service", .string(String(parts[0]))))
        list.append(Self.attribute("rpc.method", .string(String(parts[1]))))
      }
      if let status = record.grpcStatus { list.append(Self.attribute("rpc.grpc.status_code", .integer(status))) }
    }
    return list
  }

  private var attributes: [JinjaValue] {
    var list = protocolAttributes + [Self.attribute("apus.request.id", .string(record.id))]
    if let tenant = record.tenant { list.append(Self.attribute("apus.tenant", .string(tenant))) }
    if let principal = record.principal { list.append(Self.attribute("enduser.id", .string(principal))) }
    if let model = record.model { list.append(Self.attribute("gen_ai.response.model", .string(model))) }
    if record.submittedAfter != nil {
      list += [
        Self.attribute("gen_ai.usage.input_tokens", .integer(record.promptTokens)),
        Self.attribute("apus.usage.cached_tokens", .integer(record.cachedTokens)),
        Self.attribute("gen_ai.usage.output_tokens", .integer(record.completionTokens)),
      ]
    }
    if let reason = record.finishReason { list.append(Self.attribute("apus.finish_reason", .string(reason))) }
    return list
  }

  /// 64-bit numbers are texts in OTLP's JSON.
  private static func attribute(_ key: String, _ value: JinjaValue) -> JinjaValue {
    switch value {
    case .integer(let number): ["key": .string(key), "value": ["intValue": .string("\(number)")]]
    default: ["key": .string(key), "value": ["stringValue": value]]
    }
  }

  private func span(
    _ name: String, _ kind: Kind, _ traceID: String, _ id: String, parent: String?, from: Double, to: Double,
    _ attributes: [JinjaValue]
  ) -> JinjaValue {
    var span: JinjaMapping = [
      "traceId": .string(traceID), "spanId": .string(id), "name": .string(name), "kind": .integer(kind.rawValue),
      "startTimeUnixNano": .string(nanoseconds(from)), "endTimeUnixNano": .string(nanoseconds(max(from, to))),
      "attributes": .list(attributes),
    ]
    if let parent { span["parentSpanId"] = .string(parent) }
    if kind == .server, record.status.map({ $0 >= 500 }) ?? false || record.finishReason == "error" {
      span["status"] = ["code": .integer(Self.faultCode)]
    }
    return .mapping(span)
  }

  private func nanoseconds(_ seconds: Double) -> String {
    "\(UInt64((record.startedAt.timeIntervalSince1970 + seconds) * 1e9))"
  }

  private static func randomID(bytes: Int) -> String {
    (0..<bytes).map { _ in UInt8.random(in: 0 ... .max) }.hex
  }
}

/// Appends the spans of requests to a file, a line a request, on a thread of its own. It never lets a request wait: what
/// comes while the buffer is full is dropped and counted.
public final class SpanFile: Sendable {
  private struct State {
    var pending: [(RequestRecord, TraceParent?)] = []
    var isDraining = false
    var dropped = 0
  }

  public struct FileError: Error, CustomStringConvertible {
    var path: String
    public var description: String {
      "\(path): the file for spans cannot be opened: check the path and its permissions"
    }
  }

  /// Requests whose spans wait to be written.
  static let capacity = 1024
  private let capacity: Int
  private let queue = DispatchQueue(label: "apus-spans")
  private let state = Mutex(State())
  private let write: @Sendable ([UInt8]) throws -> Void

  /// Appends to a file, which is made if it isn't there. Throws ``FileError``.
  public convenience init(path: String) throws {
    let descriptor = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0o600)
    guard descriptor >= 0 else { throw FileError(path: path) }
    let handle = FileHandle(fileDescriptor: descriptor, closeOnDealloc: true)
    self.init { try handle.write(contentsOf: $0) }
  }

  /// `write` takes whole lines, one call at a time; it may block.
  init(capacity: Int = capacity, write: @escaping @Sendable ([UInt8]) throws -> Void) {
    self.capacity = capacity
    self.write = write
  }

  /// Requests whose spans were not written: the buffer was full, or the file could not be written.
  var dropped: Int { state.withLock { $0.dropped } }

  /// A request that ended. A caller that is in a trace that nobody records is left out.
  func write(_ record: RequestRecord, trace: TraceParent?) {
    if let trace, !trace.isSampled { return }
    let startsDraining = state.withLock { state in
      guard state.pending.count < capacity else {
        state.dropped += 1
        return false
      }
      state.pending.append((record, trace))
      defer { state.isDraining = true }
      return !state.isDraining
    }
    if startsDraining { queue.async { self.drain() } }
  }

  private func drain() {
    while true {
      let batch = state.withLock { state in
        defer { state.pending.removeAll(keepingCapacity: true) }
        state.isDraining = !state.pending.isEmpty
        return state.pending
      }
      if batch.isEmpty { return }
      let lines = batch.flatMap {
        CompactJSON.bytes(RequestSpans(record: $0.0, trace: $0.1).json) + [UInt8(ascii: "\n")]
      }
      do { try write(lines) } catch { state.withLock { $0.dropped += batch.count } }
    }
  }

  /// Waits until everything is written.
  func flush() { queue.sync {} }
}
