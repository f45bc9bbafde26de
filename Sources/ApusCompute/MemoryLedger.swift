import Synchronization

/// Counts bytes in use by what they are for; persistent, KV and transient are three separate lines everywhere.
///
/// Thread-safe; a count is two atomic operations.
public final class MemoryLedger: Sendable {
  /// What memory is for.
  public enum Line: Int, Sendable, CaseIterable {
    /// Weights and tables, for as long as the model is loaded.
    case persistent
    /// Keys and values of past tokens.
    case kv
    /// Activations and scratch of the step under way.
    case transient
  }

  private struct Counter: ~Copyable, Sendable {
    let current = Atomic<Int>(0)
    let highWater = Atomic<Int>(0)

    func add(_ bytes: Int) {
      let now = current.wrappingAdd(bytes, ordering: .relaxed).newValue
      _ = highWater.max(now, ordering: .relaxed)
    }
  }

  private let persistent = Counter()
  private let kv = Counter()
  private let transient = Counter()

  public init() {}

  /// Adds `bytes` (negative when freed) to a line.
  public func add(_ bytes: Int, to line: Line) {
    switch line {
    case .persistent: persistent.add(bytes)
    case .kv: kv.add(bytes)
    case .transient: transient.add(bytes)
    }
  }

  /// Bytes in use now.
  public func current(_ line: Line) -> Int {
    switch line {
    case .persistent: persistent.current.load(ordering: .relaxed)
    case .kv: kv.current.load(ordering: .relaxed)
    case .transient: transient.current.load(ordering: .relaxed)
    }
  }

  /// The most bytes that were in use at once.
  public func highWater(_ line: Line) -> Int {
    switch line {
    case .persistent: persistent.highWater.load(ordering: .relaxed)
    case .kv: kv.highWater.load(ordering: .relaxed)
    case .transient: transient.highWater.load(ordering: .relaxed)
    }
  }
}
