import GRPCCore
import GRPCNIOTransportHTTP2Posix
import Synchronization

/// HTTP/2 with a record of every call, also of those that no service answers, from its metadata to the status that was sent.
struct RecordedTransport: ServerTransport {
  typealias Bytes = GRPCNIOTransportBytes

  let base: HTTP2ServerTransport.Posix
  let log: any CallLog
  let mark: OversizeMark
  /// Bytes of a message.
  let messageLimit: Int
  let departure: Departure

  func configure(context: GRPCServerContext) { base.configure(context: context) }
  func beginGracefulShutdown() { base.beginGracefulShutdown() }

  func listen(
    streamHandler: @escaping @Sendable (RPCStream<Inbound, Outbound>, ServerContext) async -> Void
  ) async throws {
    try await base.listen { stream, context in
      let call = Call(context.descriptor, log: log)
      let parts = stream.inbound.map { [mark, messageLimit] part in
        switch part {
        case .metadata(let metadata): call.begin(metadata)
        case .message(let bytes):
          if let size = mark.size(in: bytes) { throw CallError.tooLarge(size, limit: messageLimit) }
        }
        return part
      }
      let recorded = RPCStream(
        descriptor: stream.descriptor, inbound: RPCAsyncSequence(wrapping: parts),
        outbound: RPCWriter<RPCResponsePart<Bytes>>.Closable(
          wrapping: RecordedWriter(
            base: stream.outbound, call: call,
            // A server that leaves cancels calls too.
            clientIsGone: { [departure] in context.cancellation.isCancelled && !departure.hasBegun })))
      await Call.$current.withValue(call) { await streamHandler(recorded, context) }
      call.end(.cancelled, clientIsGone: true)
    }
  }
}

/// A call that is being answered, and its record.
final class Call: Sendable {
  @TaskLocal static var current: Call?

  private struct State {
    var record: (any CallRecord)?
    var reason: String?
    var bytes = 0
  }
  private let state = Mutex(State())
  private let route: String?
  private let isProbe: Bool
  private let log: any CallLog

  private static let methods = Set(WireCollections.Method.descriptors + WireHealth.Method.descriptors)

  init(_ method: MethodDescriptor, log: any CallLog) {
    route = Self.methods.contains(method) ? method.fullyQualifiedMethod : nil
    isProbe = method.service == WireHealth.descriptor
    self.log = log
  }

  /// The call's record, which begins with its metadata, or without where nobody read them.
  var record: any CallRecord { begin([:]) }

  @discardableResult
  func begin(_ metadata: Metadata) -> any CallRecord {
    state.withLock { state in
      if let record = state.record { return record }
      let record = log.begin(
        CallHead(
          route: route, isProbe: isProbe, requestID: metadata.first(MetadataKey.requestID),
          traceParent: metadata.first(MetadataKey.traceParent)))
      state.record = record
      return record
    }
  }

  /// What kind of fault the call ends with.
  func fail(_ reason: String) { state.withLock { $0.reason = reason } }

  func count(_ bytes: Int) { state.withLock { $0.bytes += bytes } }

  func end(_ code: Status.Code, clientIsGone: Bool) {
    let record = record
    let (reason, bytes) = state.withLock { ($0.reason, $0.bytes) }
    record.end(
      CallEnd(
        status: code.rawValue, reason: code == .ok ? nil : reason ?? "\(code)".lowercased(), bytes: bytes,
        clientIsGone: clientIsGone))
  }
}

/// Notes what is sent, and gives the answer the call's id.
private struct RecordedWriter: ClosableRPCWriterProtocol {
  let base: RPCWriter<RPCResponsePart<GRPCNIOTransportBytes>>.Closable
  let call: Call
  /// What is written for a client that has left may seem to be sent.
  private let clientIsGone: @Sendable () -> Bool
  private let hasHead = Flag()

  init(
    base: RPCWriter<RPCResponsePart<GRPCNIOTransportBytes>>.Closable, call: Call,
    clientIsGone: @escaping @Sendable () -> Bool
  ) {
    self.base = base
    self.call = call
    self.clientIsGone = clientIsGone
  }

  func write(_ part: RPCResponsePart<GRPCNIOTransportBytes>) async throws {
    switch part {
    case .metadata(let metadata):
      hasHead.set()
      try await base.write(.metadata(named(metadata)))
    case .message(let bytes):
      try await base.write(part)
      call.count(bytes.count)
    case .status(let status, let metadata):
      var isSent = false
      defer { call.end(status.code == .ok && !isSent ? .cancelled : status.code, clientIsGone: !isSent) }
      try await base.write(.status(status, hasHead.isSet ? metadata : named(metadata)))
      isSent = !clientIsGone()
    }
  }

  private func named(_ metadata: Metadata) -> Metadata {
    var metadata = metadata
    let id = call.record.id
    if !id.isEmpty { metadata.addString(id, forKey: MetadataKey.requestID) }
    return metadata
  }

  func write(contentsOf parts: some Sequence<RPCResponsePart<GRPCNIOTransportBytes>>) async throws {
    for part in parts { try await write(part) }
  }

  func finish() async { await base.finish() }
  func finish(throwing error: any Error) async { await base.finish(throwing: error) }
}

extension Metadata {
  func first(_ key: String) -> String? { self[stringValues: key].first { _ in true } }
}
