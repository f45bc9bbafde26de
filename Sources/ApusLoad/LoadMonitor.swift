import Synchronization

/// How far a run is.
public struct LoadProgress: Sendable, Equatable {
  public var isWarmingUp = false
  public var sent = 0
  public var succeeded = 0
  public var failed = 0
  /// Events with text so far, of all requests.
  public var tokenEvents = 0
  /// Since the first measured request could be sent.
  public var elapsed = Duration.zero
}

/// Shows a run to somebody who asks, from any thread, while it goes on.
public final class LoadMonitor: Sendable {
  private struct State {
    var progress = LoadProgress()
    var start: ContinuousClock.Instant?
  }

  private let state = Mutex(State())

  public init() {}

  public var progress: LoadProgress {
    state.withLock { state in
      var progress = state.progress
      if let start = state.start { progress.elapsed = start.duration(to: .now) }
      return progress
    }
  }

  func warmUp() { state.withLock { $0.progress.isWarmingUp = true } }

  func start(at instant: ContinuousClock.Instant) {
    state.withLock { state in
      state.progress = LoadProgress()
      state.start = instant
    }
  }

  func didSend() { state.withLock { $0.progress.sent += 1 } }

  func didReceive(tokenEvents: Int) { state.withLock { $0.progress.tokenEvents += tokenEvents } }

  func didEnd(_ outcome: RequestMeasurement.Outcome?) {
    state.withLock { state in
      switch outcome {
      case .succeeded: state.progress.succeeded += 1
      case .failed: state.progress.failed += 1
      case .interrupted, nil: break
      }
    }
  }
}
