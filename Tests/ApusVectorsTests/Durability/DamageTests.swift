import Testing

@testable import ApusVectors

/// Bytes that change on the disk: found, or without effect; never other data.
@Suite struct DamageTests {
  private static let folder = "/data/store"

  /// A store with two generations, several log files and records after the last checkpoint, closed.
  private func makeStore(seed: UInt64) throws -> (layer: FaultyFileLayer, records: [RecordList.Record]) {
    let layer = FaultyFileLayer(seed: seed)
    var random = DurabilityRandom(seed: seed)
    try StoreDirectory.create(Self.folder, layer: layer)
    let (store, _) = try RecordList.open(layer, Self.folder, .init(log: .init(fileBytes: 400)))
    var records: [RecordList.Record] = []
    for i in 0..<90 {
      let payload = (0..<random.next() % 50).map { _ in UInt8(truncatingIfNeeded: random.next()) }
      records.append(.init(type: UInt8(1 + i % 9), payload: payload))
      let seq = try store.log.append(type: records[i].type, payload: payload)
      if i % 4 == 0 { try store.log.waitDurable(seq) }
      if i % 30 == 20 { try store.checkpoint(through: seq) { try RecordList.write(records, count: i + 1, to: $0) } }
    }
    try store.close()
    return (layer, records)
  }

  private func open(_ layer: FaultyFileLayer, _ options: StoreDirectory.Options = .init(verifiesSegment: true)) throws
    -> (store: StoreDirectory, list: RecordList)
  {
    try RecordList.open(layer, Self.folder, options)
  }

  @Test func flippedBytesAreFoundOrHarmless() throws {
    let seed = UInt64.random(in: 0 ... .max)
    let (layer, records) = try makeStore(seed: seed)
    var random = DurabilityRandom(seed: seed)
    var outcomes: [String: [Int]] = [:]
    for path in layer.paths {
      let kind = String(path.dropFirst(Self.folder.count + 1).prefix { $0.isLetter || $0 == "." })
      let count = layer[path].count
      let positions = count < 1500 ? Array(0..<count) : (0..<150).map { _ in Int(random.next() % UInt64(count)) }
      for at in positions {
        let damaged = layer.afterKill()
        damaged[path][at] ^= 1 << UInt8(random.next() % 8)
        do {
          let (store, list) = try open(damaged)
          #expect(list.records == records, "seed \(seed): byte \(at) of \(path)")
          outcomes[kind, default: [0, 0, 0]][store.report.fallback == nil ? 0 : 1] += 1
        } catch let error as DurabilityError {
          let isDetected = [.damaged, .unsupported, .missing].contains(error.kind)
          #expect(isDetected, "seed \(seed): byte \(at) of \(path): \(error)")
          outcomes[kind, default: [0, 0, 0]][2] += 1
        }
      }
    }
    // Harmless, by the generation before, refused.
    print("flipped bytes, seed \(seed): \(outcomes.sorted { $0.key < $1.key })")
    #expect(outcomes["MANIFEST"]![1] > 0 && outcomes["segment"]![1] > 0 && outcomes["wal"]![2] > 0)
  }

  @Test func aFileThatIsCutOrGoneIsFoundOrEndsTheLog() throws {
    let seed = UInt64.random(in: 0 ... .max)
    let (layer, records) = try makeStore(seed: seed)
    var random = DurabilityRandom(seed: seed)
    let lastLog = layer.paths.last { $0.contains("/wal-") }
    for path in layer.paths {
      for cut in 0..<40 {
        let damaged = layer.afterKill()
        let count = damaged[path].count
        damaged[path].removeSubrange((count < 40 ? min(cut, count) : Int(random.next() % UInt64(count)))...)
        if cut == 0 { try damaged.remove(path) }
        do {
          let (_, list) = try open(damaged)
          // Only the end of the last file can't be told from an end that was never there.
          let isBeginning = path == lastLog && records.starts(with: list.records)
          #expect(isBeginning || list.records == records, "seed \(seed)")
        } catch { #expect(error is DurabilityError, "seed \(seed)") }
      }
    }
  }

  @Test func salvageKeepsWhatIsWholeAndListsWhatIsLost() throws {
    let seed = UInt64.random(in: 0 ... .max)
    let (layer, records) = try makeStore(seed: seed)
    var random = DurabilityRandom(seed: seed)
    var losses = 0
    for _ in 0..<200 {
      let damaged = layer.afterKill()
      let logs = damaged.paths.filter { $0.contains("/wal-") }
      for _ in 0...random.next() % 3 {
        let path = logs[Int(random.next() % UInt64(logs.count))]
        if random.next() % 8 == 0 {
          if damaged.paths.contains(path) { try damaged.remove(path) }
        } else if damaged.paths.contains(path) {
          damaged[path][Int(random.next() % UInt64(damaged[path].count))] ^= 255
        }
      }
      let refusal = Result { try open(damaged.afterKill()) }
      var (store, list) = try open(damaged, .init(isSalvaging: true))
      let report = store.report.log
      if case .failure = refusal { #expect(!report.damage.isEmpty, "seed \(seed)") }
      var lost = report.lost.reduce(into: Set<Int>()) { $0.formUnion($1.map { Int($0) }) }
      losses += lost.count
      // A damaged end has nothing behind it that would tell how much there was.
      if list.records.count < records.count { lost.formUnion(list.records.count + 1...records.count) }
      for (index, record) in records.enumerated() where !lost.contains(index + 1) {
        #expect(list.records[index] == record, "seed \(seed): record \(index + 1)")
      }
      for index in lost where index <= list.records.count {
        #expect(list.records[index - 1].payload == [], "seed \(seed)")
      }
      // After a checkpoint the store is whole again, in a new epoch.
      let epoch: UInt64 = report.damage.isEmpty ? 1 : 2
      #expect(store.epoch == epoch)
      let last = store.log.lastSeq
      let kept = list.records + repeatElement(.init(type: 0, payload: []), count: Int(last) - list.records.count)
      try store.log.append(type: 1, payload: [1, 2, 3])
      try store.checkpoint(through: last, keepsPrevious: false) {
        try RecordList.write(kept, count: kept.count, to: $0)
      }
      try store.close()
      (store, list) = try open(damaged)
      #expect(list.records == kept + [.init(type: 1, payload: [1, 2, 3])], "seed \(seed)")
      #expect(store.epoch == epoch && store.report.log.damage.isEmpty)
    }
    #expect(losses > 0, "seed \(seed)")
  }

  @Test func hostileFilesNeverCrashTheReader() throws {
    let seed = UInt64.random(in: 0 ... .max)
    let (layer, _) = try makeStore(seed: seed)
    var random = DurabilityRandom(seed: seed)
    let paths = layer.paths.filter { !$0.contains("segment") }
    for _ in 0..<1500 {
      let damaged = layer.afterKill()
      let path = paths[Int(random.next() % UInt64(paths.count))]
      var bytes = damaged[path]
      let end = path.contains("/wal-") ? LogHeader.byteCount : bytes.count
      for _ in 0...random.next() % 4 {
        let at = Int(random.next() % UInt64(end - 4))
        let value = [0, 255, 127, UInt8(truncatingIfNeeded: random.next())][Int(random.next() % 4)]
        for i in at..<min(end - 4, at + Int(1 + random.next() % 8)) { bytes[i] = value }
      }
      bytes.store(littleEndian: bytes.span.bytes.extracting(..<(end - 4)).crc32c(), at: end - 4)
      if path.contains("/wal-"), random.next() % 2 == 0 {
        // A record with a right checksum and any number and length.
        let start = bytes.count
        bytes += [UInt8](repeating: 0, count: LogRecord.headerBytes + Int(random.next() % 20))
        let seq = [0, .max, 91, random.next()][Int(random.next() % 4)]
        let salt: UInt32 = bytes.span.bytes.load(at: 12)
        LogRecord.seal(&bytes, from: start, seq: seq, type: UInt8(random.next() % 3), salt: salt)
        if random.next() % 4 == 0 { bytes.store(littleEndian: UInt32(truncatingIfNeeded: random.next()), at: start) }
      }
      damaged[path] = bytes
      for isSalvaging in [false, true] {
        do {
          _ = try StoreDirectory(
            opening: Self.folder, layer: damaged.afterKill(), options: .init(isSalvaging: isSalvaging),
            load: { _ in }, apply: { _, _, _ in })
        } catch { #expect(error is DurabilityError, "seed \(seed)") }
      }
    }
  }
}
