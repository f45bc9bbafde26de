/// Seeded hashing of short byte strings.
///
/// The seed is drawn once per process, so that a hostile vocabulary cannot be built to collide and turn the open
/// addressing below quadratic. 64-bit multiply-and-fold, 8 bytes a step (the scheme of wyhash).
enum ByteHash {
  static let seed: (UInt64, UInt64) = (UInt64.random(in: 0 ... .max) | 1, UInt64.random(in: 0 ... .max))

  @inline(__always)
  static func fold(_ a: UInt64, _ b: UInt64) -> UInt64 {
    let product = a.multipliedFullWidth(by: b)
    return product.high ^ product.low
  }

  /// Hash of `bytes[start..<end]`.
  @inline(__always)
  static func hash(_ bytes: [UInt8], _ start: Int, _ end: Int, seed: (UInt64, UInt64)) -> UInt64 {
    precondition(start >= 0 && start <= end && end <= bytes.count)
    return bytes.withUnsafeBytes { raw in
      var state = seed.0 ^ UInt64(truncatingIfNeeded: end - start)
      var position = start
      while end - position >= 8 {
        let word = raw.loadUnaligned(fromByteOffset: position, as: UInt64.self)
        state = fold(state ^ word, 0x9E37_79B9_7F4A_7C15 ^ seed.1)
        position += 8
      }
      var word: UInt64 = 0
      while position < end {
        word = word << 8 | UInt64(raw[position])
        position += 1
      }
      return fold(state ^ word, 0xD6E8_FEB8_6659_FD93 ^ seed.1)
    }
  }

  @inline(__always)
  static func hash(_ key: UInt64, seed: (UInt64, UInt64)) -> UInt64 {
    fold(key ^ seed.0, 0x9E37_79B9_7F4A_7C15 ^ seed.1)
  }
}
