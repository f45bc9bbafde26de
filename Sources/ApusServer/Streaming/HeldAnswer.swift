import ApusEngine

/// An answer whose response is held back until its first token: up to then a failure still gets a status of its own, and
/// a proxy in front may send the request elsewhere.
struct HeldAnswer<Events: AsyncSequence & Sendable>: Sendable where Events.Element == GenerationEvent {
  private let events: Events
  /// The events up to and with the first that is not `started`.
  private let opening: Task<[GenerationEvent], any Error>

  /// `events` may be iterated again, and then goes on where it was left.
  init(_ events: Events) {
    self.events = events
    opening = Task {
      var opening: [GenerationEvent] = []
      for try await event in events {
        opening.append(event)
        if case .started = event { continue }
        break
      }
      return opening
    }
  }

  /// Waits for the first token or the end; false if the limit passes before. Throws what the answer throws until then.
  /// Cancelling the task cancels the answer.
  func hasBegun(within limit: Duration) async throws -> Bool {
    let (signals, signal) = AsyncStream<Bool>.makeStream()
    let watch = Task { [opening] in
      _ = await opening.result
      signal.yield(true)
    }
    let timer = Task {
      try await Task.sleep(for: limit)
      signal.yield(false)
    }
    defer {
      watch.cancel()
      timer.cancel()
    }
    let hasBegun = await withTaskCancellationHandler {
      await signals.first { _ in true }
    } onCancel: {
      opening.cancel()
    }
    guard let hasBegun else { throw CancellationError() }
    if hasBegun { _ = try await opening.value }
    return hasBegun
  }

  /// Passes the events on, in order, once. Throws what the answer or the body throws.
  func forEach(_ body: (GenerationEvent) async throws -> Void) async throws {
    let first = try await withTaskCancellationHandler {
      try await opening.value
    } onCancel: {
      opening.cancel()
    }
    for event in first { try await body(event) }
    for try await event in events { try await body(event) }
  }
}
