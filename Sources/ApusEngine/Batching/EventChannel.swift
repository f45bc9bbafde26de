import Synchronization

/// A bounded channel of one answer's events, from the engine's thread to one reader.
///
/// The engine never waits: it asks `isFull` before a step and passes over the sequence while its reader is behind. The
/// reader may suspend. When the reader goes away, or its task is cancelled, `onCancel` is called once.
final class EventChannel: Sendable {
  private struct State {
    var events = Ring<GenerationEvent>()
    var end: Result<Void, any Error>?
    var reader: CheckedContinuation<GenerationEvent?, any Error>?
    var isCancelled = false
    /// The engine has seen the channel full and wants to hear when there is room.
    var isWaitedFor = false
  }

  private let state = Mutex(State())
  private let capacity: Int
  private let onRoom: @Sendable () -> Void
  private let onCancel: @Sendable () -> Void

  /// - Parameters:
  ///   - capacity: events that wait for the reader before the sequence is paused.
  ///   - onRoom: the reader has caught up after `isFull` was true.
  ///   - onCancel: the reader is gone.
  init(capacity: Int, onRoom: @escaping @Sendable () -> Void, onCancel: @escaping @Sendable () -> Void) {
    self.capacity = capacity
    self.onRoom = onRoom
    self.onCancel = onCancel
  }

  // MARK: the engine's side

  /// Whether the reader is behind; asking makes `onRoom` be called once it has read half.
  var isFull: Bool {
    state.withLock { state in
      if state.events.count >= capacity { state.isWaitedFor = true }
      return state.events.count >= capacity
    }
  }

  func send(_ event: GenerationEvent) {
    let reader: CheckedContinuation<GenerationEvent?, any Error>? = state.withLock { state in
      if state.isCancelled || state.end != nil { return nil }
      if let reader = state.reader {
        state.reader = nil
        return reader
      }
      state.events.append(event)
      return nil
    }
    reader?.resume(returning: event)
  }

  /// Ends the channel after what was sent; the first end counts.
  func finish(_ end: Result<Void, any Error> = .success(())) {
    let reader: CheckedContinuation<GenerationEvent?, any Error>? = state.withLock { state in
      if state.end == nil { state.end = end }
      defer { state.reader = nil }
      return state.reader
    }
    reader?.resume(with: end.map { nil })
  }

  // MARK: the reader's side

  /// The next event if it is there already.
  func poll() -> GenerationEvent? {
    let (event, hasRoom): (GenerationEvent?, Bool) = state.withLock { state in
      let event = state.events.popFirst()
      let hasRoom = state.isWaitedFor && state.events.count <= capacity / 2
      if hasRoom { state.isWaitedFor = false }
      return (event, hasRoom)
    }
    if hasRoom { onRoom() }
    return event
  }

  func next() async throws -> GenerationEvent? {
    if !Task.isCancelled, let event = poll() { return event }
    return try await withTaskCancellationHandler {
      try await withCheckedThrowingContinuation { continuation in
        enum Answer {
          case event(GenerationEvent)
          case end(Result<Void, any Error>)
          case wait
        }
        let answer: Answer = state.withLock { state in
          if state.isCancelled { return .end(.failure(CancellationError())) }
          // Sent since `poll`; whether there is room again is seen by the next one.
          if let event = state.events.popFirst() { return .event(event) }
          if let end = state.end { return .end(end) }
          precondition(state.reader == nil, "an answer has one reader")
          state.reader = continuation
          return .wait
        }
        switch answer {
        case .event(let event): continuation.resume(returning: event)
        case .end(let end): continuation.resume(with: end.map { nil })
        case .wait: break
        }
      }
    } onCancel: {
      cancel()
    }
  }

  /// The reader wants no more.
  func cancel() {
    let (reader, isFirst): (CheckedContinuation<GenerationEvent?, any Error>?, Bool) = state.withLock { state in
      if state.isCancelled { return (nil, false) }
      state.isCancelled = true
      state.events = Ring()
      defer { state.reader = nil }
      return (state.reader, state.end == nil)
    }
    reader?.resume(throwing: CancellationError())
    if isFirst { onCancel() }
  }
}

/// A queue whose memory goes round: it grows while it is full, and otherwise allocates nothing. O(1), amortised.
struct Ring<Element> {
  private var slots: [Element?] = []
  private var first = 0
  private(set) var count = 0
  private static var smallest: Int { 8 }

  mutating func append(_ element: Element) {
    if count == slots.count { grow() }
    slots[(first + count) % slots.count] = element
    count += 1
  }

  mutating func popFirst() -> Element? {
    if count == 0 { return nil }
    defer {
      slots[first] = nil
      first = (first + 1) % slots.count
      count -= 1
    }
    return slots[first]
  }

  private mutating func grow() {
    var larger: [Element?] = []
    larger.reserveCapacity(max(Self.smallest, 2 * slots.count))
    larger += slots[first...]
    larger += slots[..<first]
    while larger.count < larger.capacity { larger.append(nil) }
    slots = larger
    first = 0
  }
}

/// The events of one answer, read once. Dropping them cancels the answer.
public struct AnswerEvents: AsyncSequence, Sendable {
  public typealias Element = GenerationEvent

  /// Cancels the answer when the last copy of the sequence and its iterator are gone.
  fileprivate final class Reader: Sendable {
    let channel: EventChannel
    init(_ channel: EventChannel) { self.channel = channel }
    deinit { channel.cancel() }
  }

  private let reader: Reader
  private var observer: (@Sendable (Result<GenerationEvent, any Error>) -> Void)?

  init(_ channel: EventChannel) { reader = Reader(channel) }

  public struct AsyncIterator: AsyncIteratorProtocol {
    fileprivate let reader: Reader
    fileprivate let observer: (@Sendable (Result<GenerationEvent, any Error>) -> Void)?

    public func next() async throws -> GenerationEvent? {
      do {
        let event = try await reader.channel.next()
        if let event { observer?(.success(event)) }
        return event
      } catch {
        observer?(.failure(error))
        throw error
      }
    }
  }

  public func makeAsyncIterator() -> AsyncIterator { AsyncIterator(reader: reader, observer: observer) }

  /// Cancels the answer. Does not keep it.
  public var cancellation: @Sendable () -> Void {
    { [weak channel = reader.channel] in channel?.cancel() }
  }

  /// The same events; a function is told each when it is read, and the error that ends them.
  public func observed(by observer: @escaping @Sendable (Result<GenerationEvent, any Error>) -> Void) -> AnswerEvents {
    var events = self
    events.observer = observer
    return events
  }

  /// Events that a function sends, for other engines than ``BatchEngine``: `body` gets a function that sends one event,
  /// and returns when the answer has ended. The cancellation tells it that the reader is gone.
  public static func made(
    by body: @escaping @Sendable (_ send: @Sendable (GenerationEvent) -> Void, Cancellation) async throws -> Void
  ) -> AnswerEvents {
    let cancellation = Cancellation()
    let channel = EventChannel(capacity: .max, onRoom: {}, onCancel: { cancellation.cancel() })
    Task {
      do {
        try await body({ channel.send($0) }, cancellation)
        channel.finish()
      } catch {
        channel.finish(.failure(error))
      }
    }
    return AnswerEvents(channel)
  }
}
