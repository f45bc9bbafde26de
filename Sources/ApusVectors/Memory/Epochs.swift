import Synchronization

#if canImport(Glibc)
  import Glibc
#elseif canImport(Darwin)
  import Darwin
#endif

/// When memory that readers may still hold can be used again: epoch-based reclamation (Fraser, "Practical lock-freedom",
/// 2004, §5.2.3).
///
/// A reader enters (notes the epoch in a place of its own), then loads a root, and leaves when done. The writer publishes
/// the new root, tags what it replaced with the epoch and moves the epoch on; what was tagged is free when every reader
/// that is inside entered later. Readers never wait for the writer, nor it for them.
///
/// `@unchecked Sendable`: the places are atomics.
final class Epochs: @unchecked Sendable {
  static let places = 256
  /// Two cache lines a place, so that readers do not write into each other's: processors fetch lines in pairs.
  private static let stride = 16
  private let entered: UnsafeMutablePointer<Atomic<UInt64>>
  private let epoch = Atomic<UInt64>(1)

  init() {
    entered = mapZeros(Self.places * Self.stride * 8)
      .bindMemory(to: Atomic<UInt64>.self, capacity: Self.places * Self.stride)
  }

  deinit { munmap(entered, Self.places * Self.stride * 8) }

  /// Takes a place; every load of a root must come after. Waits only when all places are taken.
  func enter() -> Int {
    // Threads start at different places: the address of a thread's descriptor is as good as random above its page.
    var place = Int(bitPattern: UInt(bitPattern: threadSeed()) &* 0x9e37_79b9_7f4a_7c15 >> 56) & (Self.places - 1)
    var tried = 0
    while true {
      let now = epoch.load(ordering: .sequentiallyConsistent)
      let taken = entered[place * Self.stride].compareExchange(
        expected: 0, desired: now, ordering: .sequentiallyConsistent)
      if taken.exchanged { return place }
      place = (place + 1) & (Self.places - 1)
      tried += 1
      if tried % Self.places == 0 { sched_yield() }
    }
  }

  func leave(_ place: Int) { entered[place * Self.stride].store(0, ordering: .releasing) }

  /// After a root was published: the tag of what it replaced.
  func advance() -> UInt64 { epoch.wrappingAdd(1, ordering: .sequentiallyConsistent).oldValue }

  /// What carries a lower tag than this is held by nobody.
  func oldestInside() -> UInt64 {
    var oldest = epoch.load(ordering: .sequentiallyConsistent)
    for place in 0..<Self.places {
      let e = entered[place * Self.stride].load(ordering: .sequentiallyConsistent)
      if e != 0 { oldest = min(oldest, e) }
    }
    return oldest
  }

  private func threadSeed() -> Int {
    #if canImport(Glibc)
      Int(bitPattern: UInt(pthread_self()) >> 12)
    #else
      Int(bitPattern: pthread_self()) >> 12
    #endif
  }
}

/// Blocks of a slab that are out of the published trees and wait until no reader can hold them.
struct Reclamation {
  private struct Waiting {
    var tag: UInt64
    var handle: UInt32
    var bytes: UInt32
  }

  private var session: [(handle: UInt32, bytes: UInt32)] = []
  private var waiting: [Waiting] = []
  private var first = 0

  /// A published block that the running change replaces.
  mutating func retire(_ handle: UInt32, bytes: Int) { session.append((handle, UInt32(bytes))) }

  /// The running change was published: tags its blocks, and frees those that nobody holds any more.
  mutating func published(_ epochs: Epochs, slab: Slab) {
    if !session.isEmpty {
      let tag = epochs.advance()
      for block in session { waiting.append(Waiting(tag: tag, handle: block.handle, bytes: block.bytes)) }
      session.removeAll(keepingCapacity: true)
    }
    // A scan of all readers' places for every few blocks would cost more than the blocks.
    guard waiting.count - first >= 64 else { return }
    free(epochs, slab: slab)
  }

  mutating func free(_ epochs: Epochs, slab: Slab) {
    let oldest = epochs.oldestInside()
    while first < waiting.count, waiting[first].tag < oldest {
      slab.release(waiting[first].handle, bytes: Int(waiting[first].bytes))
      first += 1
    }
    if first > 1024, first * 2 > waiting.count {
      waiting.removeFirst(first)
      first = 0
    }
  }
}

/// Lets another thread run.
func yieldThread() { sched_yield() }
