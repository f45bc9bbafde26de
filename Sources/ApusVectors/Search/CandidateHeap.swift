/// Scores with a number, as one integer each that sorts by score and then by number.
enum ScoredNumber {
  /// The order of the integers is that of the floats (NaN does not occur: vectors are finite).
  @inline(__always) static func pack(_ score: Float, _ number: UInt32) -> UInt64 {
    let bits = score.bitPattern
    let ordered = bits ^ (UInt32(bitPattern: Int32(bitPattern: bits) >> 31) | 0x8000_0000)
    return UInt64(ordered) << 32 | UInt64(number)
  }

  @inline(__always) static func number(_ packed: UInt64) -> UInt32 { UInt32(truncatingIfNeeded: packed) }

  @inline(__always) static func score(_ packed: UInt64) -> Float {
    let ordered = UInt32(truncatingIfNeeded: packed >> 32)
    return Float(bitPattern: ordered & 0x8000_0000 != 0 ? ordered ^ 0x8000_0000 : ~ordered)
  }
}

/// The `capacity` least of the numbers that were offered: a binary heap with the greatest on top.
struct LeastHeap {
  private(set) var entries: [UInt64] = []
  private(set) var capacity = 0

  mutating func reset(capacity: Int) {
    entries.removeAll(keepingCapacity: true)
    self.capacity = capacity
  }

  @inline(__always) var isFull: Bool { entries.count == capacity }

  /// What a number must be below to get in.
  @inline(__always) var bound: UInt64 { isFull ? entries[0] : .max }

  /// False when it is too great, or (with `unique`) there already.
  mutating func offer(_ entry: UInt64, unique: Bool) -> Bool {
    guard entry < bound else { return false }
    if unique && entries.contains(entry) { return false }
    if isFull {
      entries[0] = entry
      sink()
    } else {
      entries.append(entry)
      var place = entries.count - 1
      while place > 0, entries[(place - 1) / 2] < entries[place] {
        entries.swapAt(place, (place - 1) / 2)
        place = (place - 1) / 2
      }
    }
    return true
  }

  private mutating func sink() {
    entries.withUnsafeMutableBufferPointer { heap in
      let (count, moving) = (heap.count, heap[0])
      var place = 0
      while true {
        var child = 2 * place + 1
        guard child < count else { break }
        if child + 1 < count && heap[child + 1] > heap[child] { child += 1 }
        guard heap[child] > moving else { break }
        heap[place] = heap[child]
        place = child
      }
      heap[place] = moving
    }
  }
}

/// A binary heap with the least on top.
struct LeastFirstHeap {
  private var entries: [UInt64] = []

  var isEmpty: Bool { entries.isEmpty }
  mutating func removeAll() { entries.removeAll(keepingCapacity: true) }

  mutating func push(_ entry: UInt64) {
    entries.append(entry)
    entries.withUnsafeMutableBufferPointer { heap in
      var place = heap.count - 1
      while place > 0 {
        let parent = (place - 1) / 2
        guard heap[parent] > entry else { break }
        heap[place] = heap[parent]
        place = parent
      }
      heap[place] = entry
    }
  }

  mutating func pop() -> UInt64? {
    guard let last = entries.popLast() else { return nil }
    guard !entries.isEmpty else { return last }
    return entries.withUnsafeMutableBufferPointer { heap in
      let top = heap[0]
      let count = heap.count
      var place = 0
      while true {
        var child = 2 * place + 1
        guard child < count else { break }
        if child + 1 < count && heap[child + 1] < heap[child] { child += 1 }
        guard heap[child] < last else { break }
        heap[place] = heap[child]
        place = child
      }
      heap[place] = last
      return top
    }
  }
}
