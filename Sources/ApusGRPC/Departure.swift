import GRPCCore
import Synchronization

/// Whether the server shall leave. The transport then tells every call that it is cancelled, at once; those under way are to
/// have their answers all the same, as long as there is time.
final class Departure: Sendable {
  private let flag = Atomic(false)

  var hasBegun: Bool { flag.load(ordering: .acquiring) }
  func begin() { flag.store(true, ordering: .releasing) }

  /// Runs a part of a call; `stop` is called when nobody waits for the answer any more: the caller has gone, or its time or
  /// the server's is over.
  func whileWanted<T: Sendable>(
    stop: @escaping @Sendable () -> Void, _ work: () async throws -> T
  ) async throws -> T {
    try await withTaskCancellationHandler {
      try await withRPCCancellationHandler(operation: work) { if !self.hasBegun { stop() } }
    } onCancel: {
      stop()
    }
  }
}

/// Set once, by another thread.
final class Flag: Sendable {
  private let value = Atomic(false)

  var isSet: Bool { value.load(ordering: .relaxed) }
  func set() { value.store(true, ordering: .relaxed) }

  /// Throws `CancellationError` once it is set.
  func check() throws { if isSet { throw CancellationError() } }
}
