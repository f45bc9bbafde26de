/// Operations on UTF-8 bytes that are known to be valid (they came from a `String` or from a normaliser).
enum UTF8Text {
  /// Decodes the scalar that starts at `position`; returns it and the position after it.
  @inline(__always)
  static func scalar(_ bytes: [UInt8], at position: Int) -> (scalar: UInt32, next: Int) {
    let first = UInt32(bytes[position])
    if first < 0x80 { return (first, position + 1) }
    if first < 0xE0 { return ((first & 0x1F) << 6 | tail(bytes, position + 1), position + 2) }
    if first < 0xF0 {
      return ((first & 0x0F) << 12 | tail(bytes, position + 1) << 6 | tail(bytes, position + 2), position + 3)
    }
    let high = (first & 0x07) << 18 | tail(bytes, position + 1) << 12
    return (high | tail(bytes, position + 2) << 6 | tail(bytes, position + 3), position + 4)
  }

  @inline(__always)
  private static func tail(_ bytes: [UInt8], _ position: Int) -> UInt32 { UInt32(bytes[position] & 0x3F) }

  /// The scalar that ends just before `position`.
  static func scalarBefore(_ bytes: [UInt8], _ position: Int) -> (scalar: UInt32, start: Int) {
    var start = position - 1
    while start > 0 && bytes[start] & 0xC0 == 0x80 { start -= 1 }
    return (scalar(bytes, at: start).scalar, start)
  }

  /// Length in bytes of the sequence that a valid lead byte opens.
  @inline(__always)
  static func sequenceLength(_ lead: UInt8) -> Int { lead < 0x80 ? 1 : lead < 0xE0 ? 2 : lead < 0xF0 ? 3 : 4 }

  @inline(__always)
  static func append(_ scalar: UInt32, to output: inout [UInt8]) {
    if scalar < 0x80 {
      output.append(UInt8(scalar))
    } else if scalar < 0x800 {
      output.append(UInt8(0xC0 | scalar >> 6))
      output.append(UInt8(0x80 | scalar & 0x3F))
    } else if scalar < 0x10000 {
      output.append(UInt8(0xE0 | scalar >> 12))
      output.append(UInt8(0x80 | scalar >> 6 & 0x3F))
      output.append(UInt8(0x80 | scalar & 0x3F))
    } else {
      output.append(UInt8(0xF0 | scalar >> 18))
      output.append(UInt8(0x80 | scalar >> 12 & 0x3F))
      output.append(UInt8(0x80 | scalar >> 6 & 0x3F))
      output.append(UInt8(0x80 | scalar & 0x3F))
    }
  }

  static func scalars(_ bytes: [UInt8]) -> [UInt32] {
    var output: [UInt32] = []
    output.reserveCapacity(bytes.count)
    var position = 0
    while position < bytes.count {
      let (scalar, next) = scalar(bytes, at: position)
      output.append(scalar)
      position = next
    }
    return output
  }

  static func encode(_ scalars: [UInt32]) -> [UInt8] {
    var output: [UInt8] = []
    output.reserveCapacity(scalars.count)
    for scalar in scalars { append(scalar, to: &output) }
    return output
  }

  /// Whether any scalar carries one of the flags in the Unicode table. ASCII carries none of the flags asked for.
  private static func contains(_ flag: UInt8, in bytes: [UInt8]) -> Bool {
    let table = UnicodeTable.shared
    var position = 0
    while position < bytes.count {
      if bytes[position] < 0x80 {
        position += 1
        continue
      }
      let (scalar, next) = scalar(bytes, at: position)
      if table.classes[Int(scalar)] & flag != 0 { return true }
      position = next
    }
    return false
  }

  /// Normalisation form C; text that holds nothing unstable (most text) is returned as it is.
  static func nfc(_ bytes: [UInt8]) -> [UInt8] {
    guard contains(UnicodeTable.unstableInNFC, in: bytes) else { return bytes }
    let table = UnicodeTable.shared
    return encode(table.composed(table.decomposed(scalars(bytes))))
  }

  /// Normalisation form D.
  static func nfd(_ bytes: [UInt8]) -> [UInt8] {
    guard contains(UnicodeTable.unstableInNFD, in: bytes) else { return bytes }
    return encode(UnicodeTable.shared.decomposed(scalars(bytes)))
  }

  /// Normalisation form KC.
  static func nfkc(_ bytes: [UInt8]) -> [UInt8] {
    guard bytes.contains(where: { $0 >= 0x80 }) else { return bytes }
    let table = UnicodeTable.shared
    return encode(table.composed(table.decomposed(CompatibilityTable.shared.expanded(scalars(bytes)))))
  }

  /// Normalisation form KD.
  static func nfkd(_ bytes: [UInt8]) -> [UInt8] {
    guard bytes.contains(where: { $0 >= 0x80 }) else { return bytes }
    return encode(UnicodeTable.shared.decomposed(CompatibilityTable.shared.expanded(scalars(bytes))))
  }

  /// Lower case by scalar, without context (final sigma stays σ), as the reference normalizers do.
  static func lowercased(_ bytes: [UInt8]) -> [UInt8] {
    let table = UnicodeTable.shared
    var output: [UInt8] = []
    output.reserveCapacity(bytes.count)
    var position = 0
    while position < bytes.count {
      let byte = bytes[position]
      if byte < 0x80 {
        output.append(byte >= 0x41 && byte <= 0x5A ? byte + 0x20 : byte)
        position += 1
        continue
      }
      let (scalar, next) = scalar(bytes, at: position)
      if scalar == 0x130 {  // İ is the only scalar whose lower case has two: i and a combining dot
        append(0x69, to: &output)
        append(0x307, to: &output)
      } else {
        append(table.lowercased(scalar), to: &output)
      }
      position = next
    }
    return output
  }
}
