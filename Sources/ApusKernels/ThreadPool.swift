import CSIMD
import KernelInterface
import Synchronization

#if canImport(Glibc)
  import Glibc
#elseif canImport(Darwin)
  import Darwin
#endif

/// A fixed set of operating-system threads that run one function together, again and again.
///
/// The caller is thread 0; the others are pthreads of the pool's own, never Swift's cooperative threads, so a kernel that
/// runs for milliseconds starves nobody's tasks. Between two runs a thread spins for at most 20 µs and then parks in a
/// futex.
///
/// `run` returns when every thread has finished. `parallelFor` waits only for the threads that took a piece: a thread that
/// the system has put aside is never waited for, its share is done by the others. Two outside threads that call `run` at
/// once take turns; a `run` from inside a `run` is done by the calling thread alone.
public final class ThreadPool: Sendable {
  /// How many threads a run has, the caller included.
  public let threads: Int
  private let team: Team

  /// Starts `threads − 1` threads. Fewer are started when the system refuses more; `threads` tells how many there are.
  public init(threads: Int) {
    precondition(threads >= 1, "a thread pool needs at least one thread, not \(threads)")
    let team = Team(threads: threads)
    self.team = team
    self.threads = team.start()
  }

  deinit { team.stop() }

  /// The threads that the process may use: its affinity mask, not the machine's count.
  public static var availableThreads: Int {
    #if os(Linux)
      let allowed = csimd_allowed_processors()
      if allowed > 0 { return Int(allowed) }
    #endif
    return max(1, Int(sysconf(Int32(_SC_NPROCESSORS_ONLN))))
  }

  /// Calls `body(thread)` once for every thread in `0 ..< threads`, each on its own thread, and waits for all.
  ///
  /// Inside another run of this pool the calls happen one after another on the calling thread; such a body must not use
  /// the scratch of other threads.
  public func run(_ body: (_ thread: Int) -> Void) {
    if threads == 1 {
      body(0)
    } else if team.currentThread() != nil {
      for thread in 0..<threads { body(thread) }
    } else {
      withoutActuallyEscaping(body) { body in team.run(EveryThread(body: body), needsAll: true) }
    }
  }

  /// Calls `body(range, thread)` for ranges of at most `grain` items that together are `0 ..< items`, which is less than
  /// 2³¹. Which thread gets which range is not defined.
  ///
  /// Each thread walks through a share of its own from the front, so that what it reads is one stream that it can prefetch;
  /// one that has finished takes half of what another has left.
  public func parallelFor(items: Int, grain: Int, _ body: (_ range: Range<Int>, _ thread: Int) -> Void) {
    withoutActuallyEscaping(body) { body in
      parallelFor(items: items, grain: grain, over: body) { body, range, thread in body(range, thread) }
    }
  }

  /// The same for loops that must not allocate: what the body needs is given as `context`, and it captures nothing.
  /// (Other threads can only be handed a closure that captures when its captures are moved to the heap.)
  public func parallelFor<Context>(
    items: Int, grain: Int, over context: Context,
    _ body: @escaping (_ context: Context, _ range: Range<Int>, _ thread: Int) -> Void
  ) {
    precondition(grain > 0, "grain must be positive, not \(grain)")
    if items <= 0 { return }
    let thread = threads == 1 ? 0 : team.currentThread()
    if items <= grain || thread != nil {
      // In pieces here too, so that a body sees the same ranges whoever runs it.
      var first = 0
      while first < items {
        let end = min(first + grain, items)
        body(context, first..<end, thread ?? 0)
        first = end
      }
      return
    }
    team.run(SharedLoop(items: items, grain: grain, context: context, body: body), needsAll: false)
  }

  /// `KernelTable.scratchBytes` bytes, 64-byte aligned, for the kernels that run on `thread`.
  ///
  /// Loops of one piece, and pools of one thread, run on the caller without taking turns: outside threads whose bodies use
  /// scratch at the same time need a pool each.
  public func scratch(_ thread: Int) -> UnsafeMutableRawPointer {
    precondition(thread >= 0 && thread < threads, "thread \(thread) of a pool of \(threads)")
    return team.scratch + thread * KernelTable.scratchBytes
  }
}

/// What all threads of a run do. Workers get it by its address: a value on the caller's stack.
private protocol Work {
  /// Runs on the caller's thread before any other has joined.
  func prepare(_ team: Team)
  func callAsFunction(_ team: Team, _ thread: Int)
}

extension Work {
  fileprivate static func call(_ work: UnsafeRawPointer, _ team: Team, _ thread: Int) {
    work.assumingMemoryBound(to: Self.self).pointee(team, thread)
  }
}

private struct EveryThread: Work {
  let body: (Int) -> Void

  func prepare(_ team: Team) {}
  func callAsFunction(_ team: Team, _ thread: Int) { body(thread) }
}

private struct SharedLoop<Context>: Work {
  let items: Int
  let grain: Int
  let context: Context
  let body: (Context, Range<Int>, Int) -> Void

  /// Deals out shares in whole grains, so that a range is the same whoever takes it.
  func prepare(_ team: Team) {
    let grains = (items + grain - 1) / grain
    let threads = team.threads
    for thread in 0..<threads {
      team.share(thread).set(grains * thread / threads * grain..<min(grains * (thread + 1) / threads * grain, items))
    }
  }

  func callAsFunction(_ team: Team, _ thread: Int) {
    repeat {
      while let range = team.share(thread).take(grain) { body(context, range, thread) }
    } while team.steal(for: thread, of: team.threads, grain: grain)
  }
}

/// What the threads of a pool share.
///
/// Unchecked Sendable: everything mutable is either an atomic, or (`job`, `handles`) is written only while the caller
/// holds `turn` and the workers wait, and published by the release of `epoch`.
private final class Team: @unchecked Sendable {
  /// The longest time that a waiting thread spins before it parks, in nanoseconds.
  private static let spinNanoseconds: UInt64 = 20_000

  // Each atomic has a cache line of its own. Futex words are 32 bits wide.
  private let memory: UnsafeMutableRawPointer
  /// Counts runs; workers wait for it to change.
  private var epoch: UnsafeMutablePointer<Atomic<UInt32>> { line(0) }
  /// Workers that are parked or about to park on `epoch`.
  private var parked: UnsafeMutablePointer<Atomic<UInt32>> { line(1) }
  /// Who may join the run, and who has: see `Gate`.
  private var gate: UnsafeMutablePointer<Atomic<UInt64>> { line(2) }
  /// 1 while the caller is parked or about to park on `left`.
  private var callerParked: UnsafeMutablePointer<Atomic<UInt32>> { line(3) }
  /// 1 when the workers shall return.
  private var stopping: UnsafeMutablePointer<Atomic<UInt32>> { line(4) }
  /// The outside thread that runs now, or 0.
  private var caller: UnsafeMutablePointer<Atomic<UInt>> { line(5) }
  /// Workers that have finished this run.
  private var finished: UnsafeMutablePointer<Atomic<UInt32>> { line(6) }
  /// Changes whenever a worker has left a run; the caller parks on it.
  private var left: UnsafeMutablePointer<Atomic<UInt32>> { line(7) }
  private static let lines = 8

  /// The low half counts the workers inside a run, with `open` on top while more may join; the high half is the run's
  /// epoch, so that a worker that comes late cannot slip into the next run twice.
  private enum Gate {
    static let open: UInt64 = 1 << 31
    static func opened(_ epoch: UInt32) -> UInt64 { UInt64(epoch) << 32 | open }
    static func isOpen(_ gate: UInt64, for epoch: UInt32) -> Bool { gate >> 31 == UInt64(epoch) << 1 | 1 }
    static func inside(_ gate: UInt64) -> UInt64 { gate & (open - 1) }
  }

  /// What each thread has left of a `parallelFor`.
  func share(_ thread: Int) -> Share { Share(bounds: line(Team.lines + 2 * thread)) }
  let scratch: UnsafeMutableRawPointer
  private struct Job {
    let kind: any Work.Type
    let work: UnsafeRawPointer
  }
  private let job: UnsafeMutablePointer<Job?>
  private let handles: UnsafeMutablePointer<pthread_t?>
  private let turn = Mutex<Void>(())
  private let wanted: Int
  private var started = 0
  /// With the caller.
  var threads: Int { started + 1 }

  init(threads: Int) {
    wanted = threads
    let bytes = (Team.lines + 2 * threads) * 64
    memory = .allocate(byteCount: bytes, alignment: 64)
    memory.initializeMemory(as: UInt8.self, repeating: 0, count: bytes)
    scratch = .allocate(byteCount: threads * KernelTable.scratchBytes, alignment: 64)
    job = .allocate(capacity: 1)
    job.initialize(to: nil)
    handles = .allocate(capacity: threads)
    handles.initialize(repeating: nil, count: threads)
  }

  deinit {
    memory.deallocate()
    scratch.deallocate()
    job.deinitialize(count: 1)
    job.deallocate()
    handles.deinitialize(count: wanted)
    handles.deallocate()
  }

  private func line<T>(_ i: Int) -> UnsafeMutablePointer<T> where T: ~Copyable {
    (memory + i * 64).assumingMemoryBound(to: T.self)
  }

  /// Starts the workers and returns how many threads there are with the caller.
  func start() -> Int {
    for index in 1..<max(1, wanted) {
      let argument = Unmanaged.passRetained(WorkerArgument(team: self, index: index))
      #if os(Linux)
        var handle = pthread_t()
        let code = pthread_create(&handle, nil, workerMain, argument.toOpaque())
      #else
        var handle: pthread_t? = nil
        let code = pthread_create(&handle, nil, { workerMain($0) }, argument.toOpaque())
      #endif
      if code != 0 {
        argument.release()
        break
      }
      handles[index] = handle
      started = index
    }
    return started + 1
  }

  func stop() {
    stopping.pointee.store(1, ordering: .sequentiallyConsistent)
    epoch.pointee.add(1, ordering: .sequentiallyConsistent)
    wake(epoch, started)
    for index in 1..<(started + 1) { if let handle = handles[index] { pthread_join(handle, nil) } }
  }

  /// The number of the calling thread when it is inside a run of this pool.
  func currentThread() -> Int? {
    let me = pthread_self()
    if caller.pointee.load(ordering: .relaxed) == identity(me) { return 0 }
    for index in 1..<(started + 1) {
      if let handle = handles[index], pthread_equal(handle, me) != 0 { return index }
    }
    return nil
  }

  /// Moves half of another thread's share, or its last grain, to the thread's own; false if there is nothing left.
  func steal(for thread: Int, of threads: Int, grain: Int) -> Bool {
    for step in 1..<threads {
      let victim = (thread + step) % threads
      if let range = share(victim).split(grain) {
        share(thread).set(range)
        return true
      }
    }
    return false
  }

  /// Does the work on the calling thread, and on every worker that joins before it returns (all of them if `needsAll`).
  func run<W: Work>(_ work: W, needsAll: Bool) {
    turn.withLock { _ in
      work.prepare(self)
      caller.pointee.store(identity(pthread_self()), ordering: .relaxed)
      withUnsafePointer(to: work) { pointer in
        job.pointee = Job(kind: W.self, work: UnsafeRawPointer(pointer))
        finished.pointee.store(0, ordering: .relaxed)
        let next = epoch.pointee.load(ordering: .relaxed) &+ 1
        gate.pointee.store(Gate.opened(next), ordering: .sequentiallyConsistent)
        epoch.pointee.store(next, ordering: .sequentiallyConsistent)
        if parked.pointee.load(ordering: .sequentiallyConsistent) != 0 { wake(epoch, started) }
        work(self, 0)
        if needsAll { wait { self.finished.pointee.load(ordering: .sequentiallyConsistent) == self.started } }
        gate.pointee.bitwiseAnd(~Gate.open, ordering: .sequentiallyConsistent)
        wait { Gate.inside(self.gate.pointee.load(ordering: .sequentiallyConsistent)) == 0 }
        job.pointee = nil
      }
      caller.pointee.store(0, ordering: .relaxed)
    }
  }

  /// Waits for workers, which say by `left` that something has changed.
  private func wait(until done: () -> Bool) {
    if spin(until: done) { return }
    callerParked.pointee.store(1, ordering: .sequentiallyConsistent)
    while true {
      let seen = left.pointee.load(ordering: .sequentiallyConsistent)
      if done() { break }
      park(left, while: seen)
    }
    callerParked.pointee.store(0, ordering: .relaxed)
  }

  func work(_ index: Int) {
    var seen: UInt32 = 0
    while true {
      if !spin(until: { epoch.pointee.load(ordering: .acquiring) != seen }) {
        parked.pointee.add(1, ordering: .sequentiallyConsistent)
        while epoch.pointee.load(ordering: .sequentiallyConsistent) == seen { park(epoch, while: seen) }
        parked.pointee.subtract(1, ordering: .relaxed)
      }
      seen = epoch.pointee.load(ordering: .acquiring)
      if stopping.pointee.load(ordering: .acquiring) != 0 { return }
      if !join(seen) { continue }
      // The caller keeps the work alive until every worker inside is done.
      let job = job.pointee.unsafelyUnwrapped
      job.kind.call(job.work, self, index)
      // In this order: once the gate is empty the caller may begin the next run.
      finished.pointee.add(1, ordering: .sequentiallyConsistent)
      gate.pointee.subtract(1, ordering: .sequentiallyConsistent)
      left.pointee.add(1, ordering: .sequentiallyConsistent)
      if callerParked.pointee.load(ordering: .sequentiallyConsistent) != 0 { wake(left, 1) }
    }
  }

  /// Counts the calling worker in, unless the run is over.
  private func join(_ epoch: UInt32) -> Bool {
    var seen = gate.pointee.load(ordering: .acquiring)
    while Gate.isOpen(seen, for: epoch) {
      let (exchanged, original) = gate.pointee.compareExchange(
        expected: seen, desired: seen + 1, ordering: .sequentiallyConsistent)
      if exchanged { return true }
      seen = original
    }
    return false
  }

  /// Spins until `done` or the time is over; tells whether it is done.
  @inline(__always) private func spin(until done: () -> Bool) -> Bool {
    if done() { return true }
    let start = nanoseconds()
    repeat {
      for _ in 0..<32 {
        if done() { return true }
        csimd_pause()
      }
    } while nanoseconds() &- start < Team.spinNanoseconds
    return done()
  }

  private func nanoseconds() -> UInt64 {
    var time = timespec()
    clock_gettime(CLOCK_MONOTONIC, &time)
    return UInt64(time.tv_sec) &* 1_000_000_000 &+ UInt64(time.tv_nsec)
  }

  private func park(_ word: UnsafeMutablePointer<Atomic<UInt32>>, while value: UInt32) {
    #if os(Linux)
      csimd_futex_wait(word, value)
    #else
      usleep(20)
    #endif
  }

  private func wake(_ word: UnsafeMutablePointer<Atomic<UInt32>>, _ count: Int) {
    #if os(Linux)
      csimd_futex_wake(word, Int32(count))
    #endif
  }

  private func identity(_ thread: pthread_t) -> UInt {
    #if os(Linux)
      UInt(thread)
    #else
      UInt(bitPattern: thread)
    #endif
  }
}

/// The items that a thread has left.
private struct Share {
  /// The first item in the high half, the end in the low half.
  let bounds: UnsafeMutablePointer<Atomic<UInt64>>

  private static func packed(_ first: UInt64, _ end: UInt64) -> UInt64 { first << 32 | end }
  private static func first(_ bounds: UInt64) -> UInt64 { bounds >> 32 }
  private static func end(_ bounds: UInt64) -> UInt64 { bounds & 0xFFFF_FFFF }

  /// Only while nobody else takes of it: it is empty, or no run has begun.
  func set(_ items: Range<Int>) {
    bounds.pointee.store(Share.packed(UInt64(items.lowerBound), UInt64(items.upperBound)), ordering: .releasing)
  }

  /// Up to `count` items from the front.
  func take(_ count: Int) -> Range<Int>? {
    var seen = bounds.pointee.load(ordering: .relaxed)
    while Share.first(seen) < Share.end(seen) {
      let next = min(Share.first(seen) + UInt64(count), Share.end(seen))
      let (exchanged, original) = bounds.pointee.compareExchange(
        expected: seen, desired: Share.packed(next, Share.end(seen)), ordering: .acquiringAndReleasing)
      if exchanged { return Int(Share.first(seen))..<Int(next) }
      seen = original
    }
    return nil
  }

  /// The back half in whole grains, or all if it is no more than one.
  func split(_ grain: Int) -> Range<Int>? {
    var seen = bounds.pointee.load(ordering: .relaxed)
    while Share.first(seen) < Share.end(seen) {
      let grains = (Share.end(seen) - Share.first(seen) + UInt64(grain) - 1) / UInt64(grain)
      let middle = Share.first(seen) + grains / 2 * UInt64(grain)
      let (exchanged, original) = bounds.pointee.compareExchange(
        expected: seen, desired: Share.packed(Share.first(seen), middle), ordering: .acquiringAndReleasing)
      if exchanged { return Int(middle)..<Int(Share.end(seen)) }
      seen = original
    }
    return nil
  }
}

private final class WorkerArgument {
  let team: Team
  let index: Int
  init(team: Team, index: Int) {
    self.team = team
    self.index = index
  }
}

private func workerMain(_ raw: UnsafeMutableRawPointer?) -> UnsafeMutableRawPointer? {
  guard let raw else { return nil }
  let argument = Unmanaged<WorkerArgument>.fromOpaque(raw).takeRetainedValue()
  #if os(Linux)
    csimd_name_thread("apus-\(argument.index)")
  #endif
  argument.team.work(argument.index)
  return nil
}
