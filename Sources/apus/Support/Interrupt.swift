import ApusEngine
import Dispatch
import Foundation
import Synchronization

/// Ctrl-C while an answer is written: the first one cancels the answer, the second one ends the program.
///
/// The signal is ignored in the ordinary way and read from a dispatch source, so that the handler may do anything.
final class Interrupt {
  private final class Current: Sendable {
    let cancellation = Mutex<Cancellation?>(nil)
  }

  private let current = Current()
  private let source: any DispatchSourceSignal

  init() {
    signal(SIGINT, SIG_IGN)
    source = DispatchSource.makeSignalSource(signal: SIGINT, queue: .global(qos: .userInteractive))
    source.setEventHandler { [current] in
      let cancellation = current.cancellation.withLock { $0 }
      guard let cancellation, !cancellation.isCancelled else { Foundation.exit(Self.status) }
      cancellation.cancel()
    }
    source.resume()
  }

  /// 128 + SIGINT, as shells report it.
  static let status: Int32 = 130

  /// Runs a body whose cancellation Ctrl-C raises.
  func cancelling<T>(_ body: (Cancellation) throws -> T) rethrows -> T {
    let cancellation = Cancellation()
    current.cancellation.withLock { $0 = cancellation }
    defer { current.cancellation.withLock { $0 = nil } }
    return try body(cancellation)
  }
}
