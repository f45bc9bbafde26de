import ApusEngine
import Synchronization

/// Threads of their own for what a request needs before an engine can answer it: reading its body, compiling its grammar,
/// and making tokens of its prompt.
///
/// That is bounded, but takes up to tens of milliseconds. On Swift's cooperative pool, which has a thread a core, it would
/// keep the tokens of all streams waiting.
///
/// ```swift
/// let answer = try await pool.run { try await engine.answer(prompt, options, for: origin) }
/// ```
final class PreparationPool: Sendable {
  /// Two, so that a dear request does not hold up all others.
  private let workers = [PreparationWorker(), PreparationWorker()]
  private let limit: Int

  /// Requests that a thread may have: more than engines let wait.
  static let defaultLimit = 512

  init(limit: Int = defaultLimit) { self.limit = limit }

  /// Runs a body on a thread of the pool, also what it awaits, unless that has an executor of its own.
  ///
  /// Throws ``OpenAIError`` with status 429 if too many wait, and `CancellationError` if the task was cancelled before its
  /// turn came.
  func run<T: Sendable>(_ body: @Sendable () async throws -> T) async throws -> T {
    let worker = workers[0].load <= workers[1].load ? workers[0] : workers[1]
    if worker.load >= limit {
      throw OpenAIError.overloaded("\(worker.load) requests wait to be read, the limit is \(limit): try again later")
    }
    return try await withTaskExecutorPreference(worker) {
      try Task.checkCancellation()
      return try await body()
    }
  }
}

/// Runs the parts of tasks one after another on one thread.
private final class PreparationWorker: TaskExecutor {
  private let thread = EngineThread(name: "apus-prepare") {}
  private let jobs = Atomic(0)

  /// Parts of tasks that wait or run.
  var load: Int { jobs.load(ordering: .relaxed) }

  func enqueue(_ job: consuming ExecutorJob) {
    let job = UnownedJob(job)
    // It keeps the executor, which may be let go with the last job of its last task.
    jobs.add(1, ordering: .relaxed)
    let isAccepted = thread.enqueue { _ in
      job.runSynchronously(on: self.asUnownedTaskExecutor())
      self.jobs.subtract(1, ordering: .relaxed)
    }
    precondition(isAccepted, "a thread that is never stopped takes every job")
  }
}
