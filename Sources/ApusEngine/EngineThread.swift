import CSIMD
import Dispatch
import Foundation
import Synchronization

/// A thread that owns a value which is not `Sendable`, and runs jobs on it one after another.
///
/// Compute never runs on Swift's cooperative pool: a step takes milliseconds to seconds, and the pool has as many threads
/// as the kernels want. The value is made on the thread and never leaves it.
///
/// ```swift
/// let thread = EngineThread(name: "engine") { try TextGenerator(model) }
/// let answer = try await thread.run { try $0.generate(prompt, .init()) }
/// ```
public final class EngineThread<State>: Sendable {
  private typealias Job = @Sendable (Result<State, any Error>) -> Void

  private struct Queue {
    /// In order; the first waiting one is at `first`.
    var jobs: [Job] = []
    var first = 0
    var isStopped = false
  }

  private final class Shared: Sendable {
    let queue = Mutex(Queue())
    /// One signal for every job, and one for the end.
    let signals = DispatchSemaphore(value: 0)
  }

  private let shared = Shared()

  /// Starts the thread. If `makeState` throws, every job gets its error.
  public init(name: String, makeState: @escaping @Sendable () throws -> State) {
    let shared = shared
    let thread = Thread {
      // `Thread.name` does not reach the system on Linux, and profilers would show the creator's name.
      csimd_name_thread(name)
      let state = Result { try makeState() }
      while true {
        shared.signals.wait()
        let job: Job? = shared.queue.withLock { queue in
          guard queue.first < queue.jobs.count else { return nil }
          defer {
            queue.first += 1
            if queue.first == queue.jobs.count {
              queue.jobs.removeAll(keepingCapacity: true)
              queue.first = 0
            }
          }
          return queue.jobs[queue.first]
        }
        guard let job else { return }
        job(state)
      }
    }
    // The default of a secondary thread is too small for deep recursion in a debug build.
    thread.stackSize = 8 << 20
    thread.start()
  }

  deinit { stop() }

  /// Lets the jobs that wait finish, refuses new ones, and ends the thread.
  public func stop() {
    let isFirst = shared.queue.withLock { queue in
      defer { queue.isStopped = true }
      return !queue.isStopped
    }
    if isFirst { shared.signals.signal() }
  }

  /// How many jobs wait or run.
  public var waiting: Int { shared.queue.withLock { $0.jobs.count - $0.first } }

  /// Puts a job at the end of the queue; false if the thread has been stopped. The job's argument is the error if the
  /// state could not be made.
  @discardableResult
  public func enqueue(_ job: @escaping @Sendable (Result<State, any Error>) -> Void) -> Bool {
    let isAccepted = shared.queue.withLock { queue in
      if !queue.isStopped { queue.jobs.append(job) }
      return !queue.isStopped
    }
    if isAccepted { shared.signals.signal() }
    return isAccepted
  }

  /// Runs a job and returns what it returns. Throws ``GenerationError/stopped`` after `stop()`.
  public func run<T: Sendable>(_ body: @escaping @Sendable (State) throws -> T) async throws -> T {
    try await withCheckedThrowingContinuation { continuation in
      let isAccepted = enqueue { state in
        continuation.resume(with: Result { try body(state.get()) })
      }
      if !isAccepted { continuation.resume(throwing: GenerationError.stopped) }
    }
  }
}
