import Dispatch
import Synchronization

/// Waits on this thread for something asynchronous: for the main thread of a command, which has nothing else to do.
func waitFor<T: Sendable>(_ body: @escaping @Sendable () async throws -> T) throws -> T {
  let outcome = Outcome<T>()
  Task.detached {
    let result: Result<T, any Error>
    do { result = .success(try await body()) } catch { result = .failure(error) }
    outcome.result.withLock { $0 = result }
    outcome.isDone.signal()
  }
  outcome.isDone.wait()
  return try outcome.result.withLock { $0! }.get()
}

private final class Outcome<T: Sendable>: Sendable {
  let result = Mutex<Result<T, any Error>?>(nil)
  let isDone = DispatchSemaphore(value: 0)
}
