import ApusKernels
import Foundation

/// Memory that tensors point into; it lives as long as a tensor refers to it.
///
/// Subclassed by whoever owns memory differently (a mapped file, a device's arena).
open class Storage: @unchecked Sendable {
  // Sendable holds: the fields are immutable after init. Who may write to the memory behind them is decided by the
  // owner (weights are never written; activations belong to the one thread that runs the step).
  public let base: UnsafeMutableRawPointer
  public let byteCount: Int
  /// Whether this process may read and write at `base`; otherwise it is an address of a device, only good for kernels.
  public let isHostMemory: Bool

  public init(base: UnsafeMutableRawPointer, byteCount: Int, isHostMemory: Bool = true) {
    self.base = base
    self.byteCount = byteCount
    self.isHostMemory = isHostMemory
  }
}

/// Zeroed memory of this process, at least 64-byte aligned, counted in a ledger until it is freed. Large pieces are mapped:
/// pages that are never touched cost nothing.
public final class HeapStorage: Storage, @unchecked Sendable {
  private static let mapAbove = 1 << 20

  private let ledger: MemoryLedger?
  private let line: MemoryLedger.Line

  /// `byteCount` is rounded up to 64.
  public init(byteCount: Int, ledger: MemoryLedger? = nil, line: MemoryLedger.Line = .persistent) {
    let bytes = max(64, (byteCount + 63) & ~63)
    let base: UnsafeMutableRawPointer
    if bytes > Self.mapAbove {
      let mapped = mmap(nil, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)
      guard let mapped, mapped != MAP_FAILED else {
        fatalError("the system gave no \(bytes) bytes of memory: \(String(cString: strerror(errno)))")
      }
      base = mapped
    } else {
      base = UnsafeMutableRawPointer.allocate(byteCount: bytes, alignment: 64)
      memset(base, 0, bytes)
    }
    self.ledger = ledger
    self.line = line
    super.init(base: base, byteCount: bytes)
    ledger?.add(bytes, to: line)
  }

  deinit {
    if byteCount > Self.mapAbove { munmap(base, byteCount) } else { base.deallocate() }
    ledger?.add(-byteCount, to: line)
  }
}
