import KernelInterface

/// Slots by the id of their vector: open addressing with linear probing, 4 bytes a place, at most two thirds full.
struct IDTable {
  /// Slot + 1; 0 is an empty place.
  private var places: [UInt32]
  private(set) var count = 0

  init(expecting count: Int = 0) {
    var capacity = 16
    while capacity * 2 < count * 3 { capacity *= 2 }
    places = Array(repeating: 0, count: capacity)
  }

  var bytes: Int { places.count * 4 }

  /// Neighbouring ids go far apart.
  @inline(__always) private static func hash(_ id: VectorID) -> UInt64 {
    var generator = SplitMix64(state: id)
    return generator.next()
  }

  @inline(__always) private func start(_ id: VectorID) -> Int { Int(Self.hash(id) & UInt64(places.count - 1)) }

  func slot(of id: VectorID, ids: Column<UInt64>) -> UInt32? {
    var place = start(id)
    while places[place] != 0 {
      let slot = places[place] - 1
      if ids[slot] == id { return slot }
      place = (place + 1) & (places.count - 1)
    }
    return nil
  }

  /// `id` must not be there.
  mutating func insert(_ id: VectorID, slot: UInt32, ids: Column<UInt64>) {
    if (count + 1) * 3 > places.count * 2 {
      let old = places
      places = Array(repeating: 0, count: old.count * 2)
      for entry in old where entry != 0 { place(entry, id: ids[entry - 1]) }
    }
    place(slot + 1, id: id)
    count += 1
  }

  private mutating func place(_ entry: UInt32, id: VectorID) {
    var place = start(id)
    while places[place] != 0 { place = (place + 1) & (places.count - 1) }
    places[place] = entry
  }

  /// Later entries of the run move up, so that no tombstones are needed.
  mutating func remove(_ id: VectorID, ids: Column<UInt64>) {
    let mask = places.count - 1
    var hole = start(id)
    while places[hole] != 0, ids[places[hole] - 1] != id { hole = (hole + 1) & mask }
    guard places[hole] != 0 else { return }
    count -= 1
    var next = hole
    while true {
      next = (next + 1) & mask
      guard places[next] != 0 else { break }
      let home = start(ids[places[next] - 1])
      // Moves only if its home is not between the hole and its place.
      if (next - home) & mask >= (next - hole) & mask {
        places[hole] = places[next]
        hole = next
      }
    }
    places[hole] = 0
  }
}
