import GRPCCore
import NIOCore
import NIOHTTP2

/// Watches the messages in the body of a call go by, and finds one that is too large before it is in memory.
///
/// Source: "gRPC over HTTP2", Length-Prefixed-Message: a flag, a length of 4 bytes, most significant first, and so many bytes.
struct MessageGauge {
  static let prefixBytes = 5
  /// Bytes of a message without its prefix.
  let limit: Int
  /// Of the message that goes by.
  private var left = 0
  /// The beginning of a prefix whose rest has not come.
  private(set) var held = ByteBuffer()

  init(limit: Int) { self.limit = limit }

  /// The bytes that may go on, up to the message that is too large, and the size of that one. O(messages): nothing is copied
  /// but prefixes that came in parts.
  mutating func take(_ buffer: ByteBuffer) -> (passed: ByteBuffer, tooLarge: Int?) {
    var whole = buffer
    if held.readableBytes > 0 {
      held.writeImmutableBuffer(buffer)
      whole = held
      held = ByteBuffer()
    }
    var scan = whole
    func passed() -> ByteBuffer {
      whole.getSlice(at: whole.readerIndex, length: scan.readerIndex - whole.readerIndex) ?? ByteBuffer()
    }
    while true {
      let step = min(left, scan.readableBytes)
      scan.moveReaderIndex(forwardBy: step)
      left -= step
      guard left == 0, scan.readableBytes > 0 else { return (whole, nil) }
      guard scan.readableBytes >= Self.prefixBytes,
        let size = scan.getInteger(at: scan.readerIndex + 1, as: UInt32.self)
      else {
        held = scan
        return (passed(), nil)
      }
      if Int(size) > limit { return (passed(), Int(size)) }
      scan.moveReaderIndex(forwardBy: Self.prefixBytes)
      left = Int(size)
    }
  }
}

/// What stands in the place of a message that is too large, and tells of its size. It travels from the connection to the
/// call in order with the other messages, so that what came before has its answers.
struct OversizeMark: Sendable {
  /// A server's own: no client can know it, and so none can send a mark.
  private let secret = (0..<16).map { _ in UInt8.random(in: 0 ... .max) }

  static let bytes = 24

  func message(size: Int) -> [UInt8] {
    secret + withUnsafeBytes(of: UInt64(size).bigEndian) { [UInt8]($0) }
  }

  /// The size that a message tells of; nil for one that is no mark.
  func size(in message: some GRPCContiguousBytes) -> Int? {
    message.withUnsafeBytes { bytes in
      guard bytes.count == Self.bytes, bytes.prefix(secret.count).elementsEqual(secret) else { return nil }
      return bytes.suffix(8).reduce(0) { $0 << 8 | Int($1) }
    }
  }
}

/// Ends the body of a call at a message that is too large: a mark takes its place, and what follows is dropped. Without it
/// the transport would reset the stream, and the client would not learn why.
final class MessageLimiter: ChannelDuplexHandler {
  typealias InboundIn = HTTP2Frame.FramePayload
  typealias InboundOut = HTTP2Frame.FramePayload
  typealias OutboundIn = HTTP2Frame.FramePayload
  typealias OutboundOut = HTTP2Frame.FramePayload

  private var gauge: MessageGauge
  private let mark: OversizeMark
  private var isCut = false
  private var clientHasEnded = false

  init(limit: Int, mark: OversizeMark) {
    gauge = MessageGauge(limit: limit)
    self.mark = mark
  }

  func channelRead(context: ChannelHandlerContext, data: NIOAny) {
    guard case .data(var part) = unwrapInboundIn(data), case .byteBuffer(let buffer) = part.data else {
      return context.fireChannelRead(data)
    }
    clientHasEnded = clientHasEnded || part.endStream
    if isCut { return }
    var (passed, tooLarge) = gauge.take(buffer)
    if let tooLarge {
      let message = mark.message(size: tooLarge)
      passed.writeInteger(UInt8(0))
      passed.writeInteger(UInt32(message.count))
      passed.writeBytes(message)
      part.endStream = true
      isCut = true
    } else if part.endStream {
      passed.writeImmutableBuffer(gauge.held)
    }
    part.data = .byteBuffer(passed)
    context.fireChannelRead(wrapInboundOut(.data(part)))
  }

  func write(context: ChannelHandlerContext, data: NIOAny, promise: EventLoopPromise<Void>?) {
    let frame = unwrapOutboundIn(data)
    context.write(data, promise: promise)
    // The client need not send what nobody reads. Source: RFC 9113, section 8.1.
    if isCut, !clientHasEnded, case .headers(let headers) = frame, headers.endStream {
      context.write(wrapOutboundOut(.rstStream(.noError)), promise: nil)
    }
  }
}
