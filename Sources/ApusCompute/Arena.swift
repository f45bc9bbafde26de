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
  /// How elements of activations are stored: the kind of tensors for which no other is asked.
  public let elements: DType
  /// Rows of tensors start at multiples of this many bytes.
  public let rowAlignment: Int
  private var storage: Storage?
  private let ledger: MemoryLedger?
  private let memory: (_ bytes: Int) throws -> Storage

  /// Bytes that can be used; `Int.max` when counting.
  public private(set) var capacity: Int

  /// An arena with real memory of `capacity` bytes, counted as transient in the ledger while in use.
  public init(capacity: Int, ledger: MemoryLedger) {
    self.capacity = capacity
    self.ledger = ledger
    isCounting = false
    elements = .f32
    rowAlignment = 1
    memory = { HeapStorage(byteCount: $0) }
    if capacity > 0 { storage = HeapStorage(byteCount: capacity) }
  }

  /// An arena of another kind of memory, empty until `reserve`.
  public init(
    elements: DType, rowAlignment: Int, ledger: MemoryLedger, memory: @escaping (_ bytes: Int) throws -> Storage
  ) {
    capacity = 0
    self.ledger = ledger
    isCounting = false
    self.elements = elements
    self.rowAlignment = rowAlignment
    self.memory = memory
  }

  private init(elements: DType, rowAlignment: Int) {
    capacity = Int.max
    ledger = nil
    isCounting = true
    self.elements = elements
    self.rowAlignment = rowAlignment
    memory = { HeapStorage(byteCount: $0) }
  }

  /// An arena that only counts.
  public static func counting(elements: DType = .f32, rowAlignment: Int = 1) -> Arena {
    Arena(elements: elements, rowAlignment: rowAlignment)
  }

  /// Makes room for `bytes` in all; only while nothing is in use. Throws what the memory's owner throws.
  public func reserve(_ bytes: Int) throws {
    guard !isCounting, bytes > capacity else { return }
    precondition(used == 0, "an arena can't grow while \(used) bytes of it are in use")
    storage = nil
    capacity = 0
    storage = try memory(bytes)
    capacity = bytes
  }

  /// An uninitialised matrix that is valid until the arena is released to a mark from before this call.
  public func tensor(_ rows: Int, _ columns: Int, dtype: DType? = nil) -> Tensor {
    let dtype = dtype ?? elements
    let rowBytes = (dtype.rowBytes(columns) + rowAlignment - 1) / rowAlignment * rowAlignment
    let pointer = bytes(rows * rowBytes)
    return Tensor(dtype: dtype, rows: rows, columns: columns, rowBytes: rowBytes, base: pointer, storage: storage)
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
