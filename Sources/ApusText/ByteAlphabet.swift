/// GPT-2's alphabet: each byte is written as a printable character, so that pieces are valid text.
///
/// Printable Latin-1 stands for itself; the other 68 bytes, in order, are U+0100 onwards.
enum ByteAlphabet {
  /// The scalar that stands for each byte.
  static let scalarOfByte: [UInt32] = {
    var next: UInt32 = 0x100
    return (0..<256).map { (byte: UInt32) -> UInt32 in
      switch byte {
      case 0x21...0x7E, 0xA1...0xAC, 0xAE...0xFF: return byte
      default:
        next += 1
        return next - 1
      }
    }
  }()

  /// The byte that each scalar below U+0144 stands for, or -1.
  static let byteOfScalar: [Int16] = {
    var table = [Int16](repeating: -1, count: 0x144)
    for (byte, scalar) in scalarOfByte.enumerated() { table[Int(scalar)] = Int16(byte) }
    return table
  }()

  /// Appends the bytes that `text[start..<end]` writes to `output`; false (and a partial result) if it is not in the
  /// alphabet. Accepts any bytes.
  @inline(__always)
  static func appendDecoded(
    _ text: [UInt8], _ start: Int, _ end: Int, _ table: [Int16], to output: inout ByteStrings
  ) -> Bool {
    var position = start
    while position < end {
      let byte = text[position]
      var scalar = Int(byte)
      if byte < 0x80 {
        position += 1
      } else {
        // The alphabet ends at U+0143, so its scalars have at most two bytes.
        guard byte >= 0xC2 && byte <= 0xC5, position + 1 < end, text[position + 1] & 0xC0 == 0x80 else { return false }
        scalar = Int(byte & 0x1F) << 6 | Int(text[position + 1] & 0x3F)
        position += 2
      }
      guard scalar < table.count, table[scalar] >= 0 else { return false }
      output.appendPart(UInt8(truncatingIfNeeded: table[scalar]))
    }
    return true
  }
}
