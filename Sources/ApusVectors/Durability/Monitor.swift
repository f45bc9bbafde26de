#if canImport(Glibc)
  import Glibc
#elseif canImport(Musl)
  import Musl
#else
  import Darwin
#endif

/// State under a mutex, with a condition to wait for.
final class Monitor<State>: @unchecked Sendable {
  // @unchecked: `state` is touched only between lock and unlock of `mutex`.
  private let mutex: UnsafeMutablePointer<pthread_mutex_t>
  private let condition: UnsafeMutablePointer<pthread_cond_t>
  private var state: State

  init(_ state: sending State) {
    self.state = state
    mutex = .allocate(capacity: 1)
    mutex.initialize(to: pthread_mutex_t())
    condition = .allocate(capacity: 1)
    condition.initialize(to: pthread_cond_t())
    pthread_mutex_init(mutex, nil)
    pthread_cond_init(condition, nil)
  }

  deinit {
    pthread_cond_destroy(condition)
    pthread_mutex_destroy(mutex)
    condition.deallocate()
    mutex.deallocate()
  }

  /// Waits until `isReady`, then runs `body` with the state.
  func withLock<R, E: Error>(
    when isReady: (borrowing State) -> Bool = { _ in true }, _ body: (inout State) throws(E) -> R
  ) throws(E) -> R {
    pthread_mutex_lock(mutex)
    defer { pthread_mutex_unlock(mutex) }
    while !isReady(state) { pthread_cond_wait(condition, mutex) }
    return try body(&state)
  }

  /// Wakes everybody who waits.
  func notifyAll() { pthread_cond_broadcast(condition) }
}

/// Calls `body` every `milliseconds` on a thread of its own until it returns false.
func repeatInBackground(milliseconds: Int, _ body: @escaping @Sendable () -> Bool) {
  final class Job: Sendable {
    let run: @Sendable () -> Void
    init(_ run: @escaping @Sendable () -> Void) { self.run = run }
    static func take(_ pointer: UnsafeMutableRawPointer?) {
      Unmanaged<Job>.fromOpaque(pointer!).takeRetainedValue().run()
    }
  }
  let job = Job {
    pthread_detach(pthread_self())
    repeat { usleep(UInt32(milliseconds) * 1000) } while body()
  }
  #if os(Linux)
    var thread = pthread_t()
  #else
    var thread: pthread_t?
  #endif
  let main: @convention(c) (UnsafeMutableRawPointer?) -> UnsafeMutableRawPointer? = {
    Job.take($0); return nil
  }
  #if os(Linux)
    let code = pthread_create(&thread, nil, main, Unmanaged.passRetained(job).toOpaque())
  #else
    let code = pthread_create(&thread, nil, { main($0) }, Unmanaged.passRetained(job).toOpaque())
  #endif
  precondition(code == 0, "no thread for the log's interval: \(String(cString: strerror(code)))")
}
