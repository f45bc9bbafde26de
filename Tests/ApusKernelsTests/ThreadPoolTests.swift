import ApusKernels
import Synchronization
import Testing

@Suite struct ThreadPoolTests {
  @Test(arguments: [1, 2, 3, 8]) func everyThreadRunsOnceInEveryRun(threads: Int) {
    let pool = ThreadPool(threads: threads)
    #expect(pool.threads == threads)
    let counts = UnsafeMutablePointer<Int>.allocate(capacity: threads)
    defer { counts.deallocate() }
    counts.initialize(repeating: 0, count: threads)
    for _ in 0..<2000 { pool.run { counts[$0] += 1 } }
    for thread in 0..<threads { #expect(counts[thread] == 2000) }
  }

  @Test(arguments: [(0, 3), (1, 1), (7, 100), (1000, 7), (4096, 1)])
  func parallelForCoversEveryItemOnce(items: Int, grain: Int) {
    let pool = ThreadPool(threads: 4)
    let hits = UnsafeMutablePointer<UInt8>.allocate(capacity: items + 1)
    defer { hits.deallocate() }
    hits.initialize(repeating: 0, count: items + 1)
    pool.parallelFor(items: items, grain: grain) { range, _ in
      #expect(range.count <= grain)
      for i in range { hits[i] += 1 }
    }
    for i in 0..<items { #expect(hits[i] == 1) }
    #expect(hits[items] == 0)
  }

  @Test func whatASlowThreadHasLeftIsDoneByTheOthers() {
    let pool = ThreadPool(threads: 3)
    let hits = UnsafeMutablePointer<Atomic<Int>>.allocate(capacity: 200)
    defer { hits.deallocate() }
    let seed = UInt64.random(in: 0 ... .max)
    for round in 0..<200 {
      for i in 0..<200 { (hits + i).initialize(to: Atomic(0)) }
      let slow = Int((seed &+ UInt64(round)) % 3)
      pool.parallelFor(items: 200, grain: 1 + round % 7) { range, thread in
        if thread == slow {
          let until = ContinuousClock.now + .microseconds(20)
          while ContinuousClock.now < until {}
        }
        for i in range { hits[i].add(1, ordering: .relaxed) }
      }
      for i in 0..<200 where hits[i].load(ordering: .relaxed) != 1 {
        Issue.record("seed \(seed), round \(round): item \(i) was done \(hits[i].load(ordering: .relaxed)) times")
      }
    }
  }

  @Test func aRunInsideARunIsDoneByTheCallingThread() {
    let pool = ThreadPool(threads: 3)
    let total = Atomic<Int>(0)
    pool.run { outer in
      pool.run { _ in total.add(1, ordering: .relaxed) }
      pool.parallelFor(items: 10, grain: 3) { range, thread in
        #expect(thread == outer)
        total.add(range.count, ordering: .relaxed)
      }
    }
    #expect(total.load(ordering: .relaxed) == 3 * 3 + 3 * 10)
  }

  @Test func parkedThreadsWakeUp() async throws {
    let pool = ThreadPool(threads: 2)
    let total = Atomic<Int>(0)
    for _ in 0..<20 {
      pool.run { _ in total.add(1, ordering: .relaxed) }
      try await Task.sleep(for: .microseconds(300))  // far longer than the spin
    }
    #expect(total.load(ordering: .relaxed) == 40)
  }

  @Test func twoCallersTakeTurns() async {
    final class Counts: Sendable {
      let inside = Atomic<Int>(0)
      let total = Atomic<Int>(0)
    }
    let pool = ThreadPool(threads: 2)
    let counts = Counts()
    await withTaskGroup(of: Void.self) { group in
      for _ in 0..<4 {
        group.addTask {
          for _ in 0..<200 {
            pool.run { _ in
              #expect(counts.inside.add(1, ordering: .relaxed).newValue <= 2)
              counts.total.add(1, ordering: .relaxed)
              counts.inside.subtract(1, ordering: .relaxed)
            }
          }
        }
      }
    }
    #expect(counts.total.load(ordering: .relaxed) == 4 * 200 * 2)
  }

  @Test func poolsComeAndGo() {
    for threads in 1...8 {
      for _ in 0..<20 {
        let pool = ThreadPool(threads: threads)
        if threads.isMultiple(of: 2) { pool.run { _ in } }
      }
    }
  }

  @Test func scratchIsAlignedAndPrivate() {
    let pool = ThreadPool(threads: 3)
    for thread in 0..<3 { #expect(Int(bitPattern: pool.scratch(thread)) % 64 == 0) }
    #expect(pool.scratch(1) - pool.scratch(0) >= KernelTable.scratchBytes)
  }
}
