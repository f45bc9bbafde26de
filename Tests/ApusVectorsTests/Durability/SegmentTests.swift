import Testing

@testable import ApusVectors

@Suite struct SegmentTests {
  private static let folder = "/segments"

  private func write(
    _ layer: FaultyFileLayer, _ name: String, _ sections: [(String, [UInt8])], pieces: Int
  ) throws -> SegmentReference {
    try layer.makeFolder(Self.folder)
    let writer = try SegmentWriter(layer, folder: Self.folder, name: name)
    for (section, bytes) in sections {
      try writer.begin(section)
      for start in stride(from: 0, to: bytes.count, by: pieces) {
        try writer.write(bytes.span.bytes.extracting(start..<min(bytes.count, start + pieces)))
      }
    }
    return try writer.finish()
  }

  private func randomSections(_ random: inout DurabilityRandom) -> [(String, [UInt8])] {
    [0, 1, 4096, 65_536, 65_537, 200_000, 1_300_000].shuffled(using: &random).enumerated().map { index, count in
      ("part-\(index)", (0..<count).map { UInt8(truncatingIfNeeded: $0 &* 31 &+ index) })
    }
  }

  @Test func sectionsComeBackAlignedAndTheSameInputGivesTheSameBytes() throws {
    let seed = UInt64.random(in: 0 ... .max)
    var random = DurabilityRandom(seed: seed)
    let sections = randomSections(&random)
    let layer = FaultyFileLayer(seed: seed)
    let reference = try write(layer, "a", sections, pieces: 1 << 30)
    #expect(try write(layer, "b", sections, pieces: 30_001).checksum == reference.checksum, "seed \(seed)")
    #expect(layer["/segments/a"] == layer["/segments/b"], "seed \(seed)")
    let segment = try SegmentFile(layer, path: "/segments/a", expecting: reference)
    try segment.verifyAll()
    #expect(segment.names == sections.map(\.0))
    for (name, bytes) in sections {
      let section = try segment.section(name)
      #expect(section.elementsEqual(bytes), "seed \(seed), \(name)")
      if let base = section.baseAddress { #expect(Int(bitPattern: base) % 4096 == 0) }
      // Private memory: the file and its check don't see this.
      if !bytes.isEmpty { section[0] ^= 1 }
    }
    try segment.verifyAll()
    #expect { try segment.section("other") } throws: { ($0 as? DurabilityError)?.kind == .missing }
    #expect(throws: DurabilityError.self) {
      try SegmentFile(
        layer, path: "/segments/a", expecting: .init(name: "a", byteCount: reference.byteCount, checksum: 0))
    }
  }

  @Test func aFlippedBitIsFoundWithItsSectionAndBlock() throws {
    let seed = UInt64.random(in: 0 ... .max)
    var random = DurabilityRandom(seed: seed)
    let layer = FaultyFileLayer(seed: seed)
    let reference = try write(layer, "a", randomSections(&random), pieces: 1 << 30)
    let whole = layer["/segments/a"]
    var (detected, harmless) = (0, 0)
    for _ in 0..<300 {
      let at = Int(random.next() % UInt64(whole.count))
      layer["/segments/a"] = whole
      layer["/segments/a"][at] ^= 1 << UInt8(random.next() % 8)
      do {
        let segment = try SegmentFile(layer, path: "/segments/a", expecting: reference)
        try segment.verifyAll()
        // Between the sections.
        #expect(whole[at] == 0, "seed \(seed), byte \(at)")
        harmless += 1
      } catch {
        detected += 1
        if let offset = error.offset {
          #expect(error.what.contains("block") && (offset..<offset + 65_536).contains(at), "seed \(seed): \(error)")
        }
      }
    }
    #expect(detected > 250 && detected + harmless == 300, "seed \(seed)")
  }

  @Test func hostileTablesAreRefused() throws {
    let seed = UInt64.random(in: 0 ... .max)
    var random = DurabilityRandom(seed: seed)
    let layer = FaultyFileLayer(seed: seed)
    _ = try write(layer, "a", [("x", [1, 2, 3]), ("y", [UInt8](repeating: 9, count: 70_000))], pieces: 1 << 30)
    let whole = layer["/segments/a"]
    let footer = whole.count - SegmentFormat.footerBytes
    let table = Int(whole.span.bytes.load(UInt64.self, at: footer + 8))
    var opened = 0
    for _ in 0..<3000 {
      var bytes = whole
      // Any field of table and footer, with right checksums: somebody means it.
      for _ in 0...random.next() % 2 {
        let at = table + Int(random.next() % UInt64(whole.count - table - 12))
        let value = [0, 1, 255, UInt8(truncatingIfNeeded: random.next())][Int(random.next() % 4)]
        for i in 0..<Int([1, 2, 4, 8][Int(random.next() % 4)]) where at + i < whole.count - 12 { bytes[at + i] = value }
      }
      let end = bytes.count - SegmentFormat.footerBytes
      if random.next() % 4 != 0 {
        bytes.store(littleEndian: bytes.span.bytes.extracting(table..<end).crc32c(), at: end + 24)
        bytes.store(littleEndian: bytes.span.bytes.extracting(end..<end + 44).crc32c(), at: end + 44)
      }
      layer["/segments/a"] = random.next() % 8 == 0 ? Array(bytes.suffix(Int(random.next() % 5000))) : bytes
      guard let segment = try? SegmentFile(layer, path: "/segments/a") else { continue }
      for name in segment.names { #expect(try segment.section(name).count < whole.count) }
      try? segment.verifyAll()
      opened += 1
    }
    #expect(opened > 0, "seed \(seed)")
  }
}
