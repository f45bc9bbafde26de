/// Ids of answers, calls and lists.
enum RandomID {
  /// The prefix and 24 letters and digits: 124 random bits.
  static func make(_ prefix: String) -> String {
    let alphabet = Array("0123456789abcdefghijklmnopqrstuvwxyz".utf8)
    return prefix
      + String(unsafeUninitializedCapacity: 24) { bytes in
        for index in 0..<24 { bytes.initializeElement(at: index, to: alphabet[Int.random(in: 0..<alphabet.count)]) }
        return 24
      }
  }
}
