import Foundation
import Synchronization

/// Writes whole lines to a descriptor, one at a time. A reader that is behind does not stop the server: lines that find no
/// room are dropped, and their number is told when there is room again.
final class LogPipe: Sendable {
  private struct State {
    var dropped = 0
    /// The beginning of a line was written and its end was not.
    var isCut = false
  }

  /// How long a reader may take to make room, in milliseconds; after that lines are dropped without waiting.
  private static let patience: Int32 = 100
  /// POSIX promises that a pipe which is ready takes as much at once.
  private static let chunk = 4096

  private let descriptor: Int32
  private let report: @Sendable (Int) -> [UInt8]
  private let state = Mutex(State())

  /// `report` makes the line that tells how many were dropped.
  init(_ descriptor: Int32, report: @escaping @Sendable (_ dropped: Int) -> [UInt8]) {
    self.descriptor = descriptor
    self.report = report
  }

  func write(_ line: [UInt8]) {
    state.withLock { state in
      var lines = line
      if state.dropped > 0 { lines = report(state.dropped) + lines }
      if state.isCut { lines.insert(UInt8(ascii: "\n"), at: 0) }
      let isWritten = send(lines, wasBehind: state.dropped > 0, isCut: &state.isCut)
      state.dropped = isWritten ? 0 : state.dropped + 1
    }
  }

  private func send(_ bytes: [UInt8], wasBehind: Bool, isCut: inout Bool) -> Bool {
    var rest = bytes[...]
    while !rest.isEmpty {
      var room = pollfd(fd: descriptor, events: Int16(POLLOUT), revents: 0)
      let isReady = poll(&room, 1, wasBehind ? 0 : Self.patience) > 0
      let count =
        isReady ? rest.prefix(Self.chunk).withUnsafeBytes { Foundation.write(descriptor, $0.baseAddress, $0.count) } : 0
      if count < 0 && errno == EINTR { continue }
      // Where nobody listens any more there is nobody to tell.
      guard count > 0 else { return false }
      isCut = true
      rest = rest.dropFirst(count)
    }
    isCut = false
    return true
  }
}
