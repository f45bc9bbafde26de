/// A set of 64-bit codes that is emptied in O(1) and used again, for the inner loop of the automaton.
struct CodeSet {
  private var slots: [UInt64]
  /// A slot is in use where its stamp is the current one.
  private var stamps: [UInt32]
  private var stamp: UInt32 = 1
  private(set) var count = 0

  init() {
    slots = Array(repeating: 0, count: 64)
    stamps = Array(repeating: 0, count: 64)
  }

  mutating func removeAll() {
    count = 0
    stamp &+= 1
    if stamp == 0 {
      stamps = Array(repeating: 0, count: stamps.count)
      stamp = 1
    }
  }

  /// Inserts a code; false if it was there.
  mutating func insert(_ code: UInt64) -> Bool {
    if count * 2 >= slots.count { grow() }
    let mask = slots.count - 1
    var slot = Int(truncatingIfNeeded: Self.hash(code)) & mask
    while stamps[slot] == stamp {
      if slots[slot] == code { return false }
      slot = (slot + 1) & mask
    }
    slots[slot] = code
    stamps[slot] = stamp
    count += 1
    return true
  }

  private mutating func grow() {
    let codes = slots.indices.filter { stamps[$0] == stamp }.map { slots[$0] }
    slots = Array(repeating: 0, count: slots.count * 2)
    stamps = Array(repeating: 0, count: slots.count)
    stamp = 1
    count = 0
    for code in codes { _ = insert(code) }
  }

  static func hash(_ code: UInt64) -> UInt64 {
    var z = code &* 0x9E37_79B9_7F4A_7C15
    z = (z ^ (z >> 32)) &* 0xBF58_476D_1CE4_E5B9
    return z ^ (z >> 29)
  }
}
