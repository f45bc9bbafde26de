import ApusEngine

/// An answer whose response is held back until its first token: up to then a failure still gets a status of its own, and
/// a proxy in front may send the request elsewhere.
struct HeldAnswer<Events: AsyncSequence & Sendable>: Sendable where Events.Element == GenerationEvent {
  private let reader: Reader
  private let opening: Task<[GenerationEvent], any Error>

  init(_ events: Events) {
    let reader = Reader(events)
    self.reader = reader
    opening = Task { try await reader.opening() }
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

  /// The next event, nil after the last. One caller at a time. Throws what the answer throws.
  func next() async throws -> GenerationEvent? {
    let first = try await withTaskCancellationHandler {
      try await opening.value
    } onCancel: {
      opening.cancel()
    }
    return try await reader.next(after: first)
  }

  /// Passes the rest of the events on, in order. Throws what the answer or the body throws.
  func forEach(_ body: (GenerationEvent) async throws -> Void) async throws {
    while let event = try await next() { try await body(event) }
  }

  /// The events' only reader: first for the opening's task, then for whoever calls ``HeldAnswer/next()``.
  private actor Reader {
    private var iterator: Events.AsyncIterator?
    /// How many events of the opening were passed on.
    private var position = 0

    init(_ events: Events) { iterator = events.makeAsyncIterator() }

    /// The events up to and with the first that is not `started`.
    func opening() async throws -> [GenerationEvent] {
      var events: [GenerationEvent] = []
      while let event = try await read() {
        events.append(event)
        if case .started = event { continue }
        break
      }
      return events
    }

    func next(after opening: [GenerationEvent]) async throws -> GenerationEvent? {
      guard position < opening.count else { return try await read() }
      position += 1
      return opening[position - 1]
    }

    private func read() async throws -> GenerationEvent? {
      guard var iterator else { return nil }
      self.iterator = nil
      let event = try await iterator.next(isolation: self)
      self.iterator = iterator
      return event
    }
  }
}
