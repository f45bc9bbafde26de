/// Remembers the ids of words within one `encode`, since texts repeat their words.
///
/// Open addressing over the words' bytes; full tables take no more words. Not shared between calls: a tokenizer stays
/// an immutable value.
struct WordCache {
  private struct Slot {
    var hash: UInt64 = 0
    var keyStart: Int32 = 0
    var keyLength: Int32 = -1
    var idStart: Int32 = 0
    var idCount: Int32 = 0
  }
  private var slots: [Slot]
  private let mask: Int
  private var keys: [UInt8] = []
  private var ids: [Int32] = []
  private var used = 0
  private let seed = ByteHash.seed

  /// Longer words repeat too rarely to be worth their space.
  static let longestWord = 64

  /// Sized for a text of `textLength` bytes.
  init(textLength: Int) {
    var capacity = 64
    while capacity < 1 << 16 && capacity * 16 < textLength { capacity *= 2 }
    slots = [Slot](repeating: Slot(), count: capacity)
    mask = capacity - 1
  }

  /// Appends the ids of a known word to `output`; false if the word is new.
  @inline(__always)
  func lookUp(_ bytes: [UInt8], _ start: Int, _ end: Int, hash: UInt64, into output: inout [Int32]) -> Bool {
    var slot = Int(truncatingIfNeeded: hash) & mask
    while slots[slot].keyLength >= 0 {
      let entry = slots[slot]
      if entry.hash == hash && Int(entry.keyLength) == end - start && same(bytes, start, entry) {
        let first = Int(entry.idStart)
        for index in first..<(first + Int(entry.idCount)) { output.append(ids[index]) }
        return true
      }
      slot = (slot + 1) & mask
    }
    return false
  }

  @inline(__always)
  private func same(_ bytes: [UInt8], _ start: Int, _ entry: Slot) -> Bool {
    var offset = 0
    let key = Int(entry.keyStart)
    while offset < Int(entry.keyLength) {
      if bytes[start + offset] != keys[key + offset] { return false }
      offset += 1
    }
    return true
  }

  func hash(_ bytes: [UInt8], _ start: Int, _ end: Int) -> UInt64 { ByteHash.hash(bytes, start, end, seed: seed) }

  mutating func insert(_ bytes: [UInt8], _ start: Int, _ end: Int, hash: UInt64, ids word: ArraySlice<Int32>) {
    guard used * 4 < slots.count * 3 else { return }
    var slot = Int(truncatingIfNeeded: hash) & mask
    while slots[slot].keyLength >= 0 { slot = (slot + 1) & mask }
    slots[slot] = Slot(
      hash: hash, keyStart: Int32(keys.count), keyLength: Int32(end - start), idStart: Int32(ids.count),
      idCount: Int32(word.count))
    keys.append(contentsOf: bytes[start..<end])
    ids.append(contentsOf: word)
    used += 1
  }
}
