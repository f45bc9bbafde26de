import AsyncHTTPClient
import NIOCore
import NIOHTTP1
import NIOPosix
import Synchronization

#if canImport(Glibc)
  import Glibc
#elseif canImport(Musl)
  import Musl
#else
  import Darwin
#endif

/// Feeds a measurement on the connection's event loop, so that times are taken where the bytes arrive and no task has to
/// be woken for a token.
final class StreamObserver: HTTPClientResponseDelegate {
  typealias Response = Void

  private let state: Mutex<RequestMeasurement>
  private let start: ContinuousClock.Instant
  private let monitor: LoadMonitor

  /// `start` is the zero of the measurement's times.
  init(_ measurement: RequestMeasurement, start: ContinuousClock.Instant, monitor: LoadMonitor) {
    state = Mutex(measurement)
    self.start = start
    self.monitor = monitor
  }

  var measurement: RequestMeasurement { state.withLock { $0 } }

  private var now: Duration { start.duration(to: .now) }

  func didReceiveHead(task: HTTPClient.Task<Void>, _ head: HTTPResponseHead) -> EventLoopFuture<Void> {
    let time = now
    state.withLock {
      $0.receiveHead(status: Int(head.status.code), contentType: head.headers.first(name: "content-type"), at: time)
    }
    return task.eventLoop.makeSucceededVoidFuture()
  }

  func didReceiveBodyPart(task: HTTPClient.Task<Void>, _ buffer: ByteBuffer) -> EventLoopFuture<Void> {
    let time = now
    let tokens = state.withLock { $0.receiveBody(buffer.readableBytesView, at: time) }
    if tokens > 0 { monitor.didReceive(tokenEvents: tokens) }
    return task.eventLoop.makeSucceededVoidFuture()
  }

  func didFinishRequest(task: HTTPClient.Task<Void>) {
    let time = now
    state.withLock { $0.receiveEnd(at: time) }
  }

  /// Also called for requests that never reached a connection.
  func fail(_ error: any Error) {
    let time = now
    state.withLock {
      if error as? HTTPClientError == .cancelled {
        $0.interrupt(at: time)
      } else {
        $0.receiveFailure(RequestFailure(error), at: time)
      }
    }
  }
}

extension RequestFailure {
  /// Names what the HTTP client met.
  init(_ error: any Error) {
    if let error = error as? HTTPClientError {
      let timeouts: [HTTPClientError] = [
        .connectTimeout, .readTimeout, .writeTimeout, .deadlineExceeded, .getConnectionFromPoolTimeout,
        .tlsHandshakeTimeout,
      ]
      self.init(timeouts.contains(error) ? .timeout : .connection, error.shortDescription)
    } else if let error = error as? NIOConnectionError {
      guard let last = error.connectionErrors.last else {
        self.init(.connection, "no address for the host '\(error.host)' (DNS)")
        return
      }
      self.init(.connection, "no connection to \(error.host):\(error.port) (\(Self.reason(last.error)))")
    } else if case .connectTimeout? = error as? ChannelError {
      self.init(.timeout, "no connection in time")
    } else {
      self.init(.connection, Self.reason(error))
    }
  }

  private static func reason(_ error: any Error) -> String {
    (error as? IOError).map { String(cString: strerror($0.errnoCode)) } ?? String(describing: error)
  }
}
