/// CRC-32C (Castagnoli), slicing by eight bytes: the portable form, as a reference for the kernels.
enum ReferenceCRC32C {
  private static let tables: [[UInt32]] = {
    var tables = [(0..<256).map { byte in (0..<8).reduce(UInt32(byte)) { c, _ in c >> 1 ^ (c & 1) * 0x82F6_3B78 } }]
    for t in 1..<8 { tables.append((0..<256).map { tables[t - 1][$0] >> 8 ^ tables[0][Int(tables[t - 1][$0] & 255)] }) }
    return tables
  }()

  static func checksum(_ bytes: some Collection<UInt8>, seed: UInt32 = 0) -> UInt32 {
    var crc = ~seed
    var rest = Array(bytes)[...]
    while rest.count >= 8 {
      let block = Array(rest.prefix(8))
      let low = (0..<4).map { UInt8(truncatingIfNeeded: crc >> (8 * $0)) ^ block[$0] } + block[4...]
      crc = (0..<8).reduce(0) { $0 ^ tables[7 - $1][Int(low[$1])] }
      rest = rest.dropFirst(8)
    }
    for byte in rest { crc = crc >> 8 ^ tables[0][Int(UInt8(truncatingIfNeeded: crc) ^ byte)] }
    return ~crc
  }
}
