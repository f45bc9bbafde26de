import ApusKernels
import Foundation

/// A stack of transient memory: allocation moves a pointer up, `release` moves it back to a mark.
///
/// A *counting* arena hands out addresses that nobody may touch and only keeps the account: running a model's graph with
/// it is how a memory plan is made, so a plan equals the real run's high-water mark to the byte.
public final class Arena {
  /// Every allocation starts at a multiple of this many bytes.
  public static let alignment = 64

  public struct Mark: Sendable { let used: Int }

  /// Bytes in use.
  public private(set) var used = 0
  /// The most bytes that were in use since the last `resetHighWater`.
  public private(set) var highWater = 0
  public let isCounting: Bool
  /// Gets the bytes in use after every change: for who draws memory over time.
  public var onUse: ((Int) -> Void)?
  private var storage: HeapStorage?
  private let ledger: MemoryLedger?

  /// Bytes that can be used; `Int.max` when counting.
  public private(set) var capacity: Int

  /// An arena with real memory of `capacity` bytes, counted as transient in the ledger while in use.
  public init(capacity: Int, ledger: MemoryLedger) {
    self.capacity = 0
    self.ledger = ledger
    isCounting = false
    reserve(capacity)
  }

  private init() {
    capacity = Int.max
    ledger = nil
    isCounting = true
  }

  /// An arena that only counts.
  public static func counting() -> Arena { Arena() }

  /// Makes room for `bytes` in all; only while nothing is in use.
  public func reserve(_ bytes: Int) {
    guard !isCounting, bytes > capacity else { return }
    precondition(used == 0, "an arena can't grow while \(used) bytes of it are in use")
    storage = nil
    storage = HeapStorage(byteCount: bytes)
    capacity = bytes
  }

  /// An uninitialised matrix that is valid until the arena is released to a mark from before this call.
  public func tensor(_ rows: Int, _ columns: Int, dtype: DType = .f32) -> Tensor {
    let pointer = bytes(rows * dtype.rowBytes(columns))
    return Tensor(dtype: dtype, rows: rows, columns: columns, base: pointer, storage: storage)
  }

  /// Uninitialised bytes, valid like `tensor`'s.
  func bytes(_ count: Int) -> UnsafeMutableRawPointer {
    let start = used
    let size = (count + Self.alignment - 1) & ~(Self.alignment - 1)
    precondition(
      size <= capacity - start,
      "the arena holds \(capacity) bytes, \(start) in use, \(size) asked: the plan was too small")
    used = start + size
    highWater = max(highWater, used)
    onUse?(used)
    guard let storage else { return UnsafeMutableRawPointer(bitPattern: Self.alignment + start)! }
    ledger?.add(size, to: .transient)
    return storage.base + start
  }

  public func mark() -> Mark { Mark(used: used) }

  /// Frees everything allocated since `mark`.
  public func release(_ mark: Mark) {
    precondition(mark.used <= used, "released to a mark that is not on the stack any more")
    ledger?.add(mark.used - used, to: .transient)
    used = mark.used
    onUse?(used)
  }

  public func resetHighWater() { highWater = used }
}
