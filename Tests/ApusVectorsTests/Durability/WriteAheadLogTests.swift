import Synchronization
import Testing

@testable import ApusVectors

@Suite struct WriteAheadLogTests {
  private static let folder = "/log"

  private func open(
    _ layer: FaultyFileLayer, _ options: WriteAheadLog.Options = .init(), isSalvaging: Bool = false
  ) throws -> (log: WriteAheadLog, payloads: [[UInt8]], report: LogReport) {
    try layer.makeFolder(Self.folder)
    var payloads: [[UInt8]] = []
    let reader = LogReader(layer: layer, folder: Self.folder, epoch: 1, isSalvaging: isSalvaging)
    let recovered =
      try layer.list(Self.folder)! == []
      ? RecoveredLog(next: 1)
      : reader.replay(from: 1) { _, _, payload in payloads.append(payload.withUnsafeBytes { Array($0) }) }
    let log = try WriteAheadLog(recovered, layer: layer, folder: Self.folder, epoch: 1, options: options)
    return (log, payloads, recovered.report)
  }

  @Test func theChecksumIsTheReferences() {
    #expect(ReferenceCRC32C.checksum("123456789".utf8) == 0xE306_9283)
    let seed = UInt64.random(in: 0 ... .max)
    var random = DurabilityRandom(seed: seed)
    for count in 0..<200 {
      let bytes = (0..<count).map { _ in UInt8(truncatingIfNeeded: random.next()) }
      let start = UInt32(truncatingIfNeeded: random.next())
      #expect(bytes.span.bytes.crc32c(seed: start) == ReferenceCRC32C.checksum(bytes, seed: start), "seed \(seed)")
      let cut = count / 3
      let first = bytes.span.bytes.extracting(..<cut).crc32c()
      #expect(bytes.span.bytes.extracting(cut...).crc32c(seed: first) == bytes.span.bytes.crc32c(), "seed \(seed)")
    }
  }

  @Test func recordsComeBackInOrderAcrossFiles() throws {
    let layer = FaultyFileLayer(seed: 1)
    var expected: [[UInt8]] = []
    for _ in 0..<5 {
      let (log, payloads, report) = try open(layer, .init(fileBytes: 300))
      #expect(payloads == expected)
      #expect(report == LogReport(recordCount: expected.count))
      for count in [0, 1, 17, 400, 3] {
        expected.append([UInt8](repeating: UInt8(expected.count), count: count))
        #expect(try log.append(type: 255, payload: expected.last!) == UInt64(expected.count))
        try log.commit(log.lastSeq)
      }
      try log.close()
      #expect(throws: DurabilityError.self) { try log.append(type: 1, payload: []) }
    }
    #expect(layer.paths.count > 5)
  }

  @Test func manyThreadsShareSyncs() throws {
    let layer = FaultyFileLayer(seed: 1)
    let (log, _, _) = try open(layer, .init(fileBytes: 20_000))
    let (threads, each) = (8, 200)
    let acknowledged = Mutex<Set<UInt64>>([])
    inParallel(threads) { thread in
      for i in 0..<each {
        let seq = try! log.append(type: 1) {
          $0.append(littleEndian: UInt32(thread))
          $0.append(littleEndian: UInt32(i))
        }
        try! log.waitDurable(seq)
        #expect(log.durableSeq >= seq)
        acknowledged.withLock { _ = $0.insert(seq) }
      }
    }
    #expect(acknowledged.withLock { $0 } == Set((1...UInt64(threads * each))))
    let (_, payloads, _) = try open(layer.afterPowerLoss(seed: 7))
    #expect(payloads.count == threads * each)
    for thread in 0..<threads {
      let own = payloads.filter { $0[0] == UInt8(thread) }.map { Int($0[4]) | Int($0[5]) << 8 }
      #expect(own == Array(0..<each), "the order of one thread is kept")
    }
    let file = log.files(from: 1, before: .max)
    #expect(file.count > 1)
  }

  @Test func afterAFailedSyncNothingIsAcknowledgedAnyMore() throws {
    let layer = FaultyFileLayer(seed: 1)
    let (log, _, _) = try open(layer)
    try log.waitDurable(log.append(type: 1, payload: [1]))
    layer.inject(.failure(.inputOutput), at: 2)  // write, sync
    let seq = try log.append(type: 1, payload: [2])
    #expect(throws: DurabilityError.self) { try log.waitDurable(seq) }
    #expect(layer.operations.last!.hasPrefix("sync"))
    for _ in 0..<3 {
      #expect { try log.waitDurable(seq) } throws: { ($0 as? DurabilityError)?.kind == .failed }
      #expect { try log.append(type: 1, payload: [3]) } throws: { ($0 as? DurabilityError)?.kind == .failed }
      #expect(throws: DurabilityError.self) { try log.rotate() }
    }
    try log.waitDurable(1)
    // What is on the disk is known again only to who opens it.
    let (again, payloads, _) = try open(layer.afterKill())
    #expect(payloads == [[1], [2]])
    try again.waitDurable(again.append(type: 1, payload: [4]))
  }

  @Test(arguments: [true, false]) func aFullDiskLeavesWholeRecords(canReserve: Bool) throws {
    let layer = FaultyFileLayer(seed: 3)
    layer.disk.withLock { ($0.capacity, $0.canReserve) = (3 << 20, canReserve) }
    let (log, _, _) = try open(layer)
    var acknowledged = 0
    var failure: DurabilityError?
    do {
      while true {
        let seq = try log.append(type: 1, payload: [UInt8](repeating: 5, count: 100_000))
        try log.waitDurable(seq)
        acknowledged = Int(seq)
      }
    } catch { failure = error }
    #expect(failure?.kind == .diskFull)
    #expect(acknowledged > 10)
    if canReserve {
      // Refused before it was taken: with space again, the log goes on.
      #expect(log.failure == nil)
      layer.disk.withLock { $0.capacity = nil }
      acknowledged = Int(try log.append(type: 1, payload: [6]))
      try log.waitDurable(UInt64(acknowledged))
    } else {
      #expect(log.failure?.advice.contains("cut back to its last whole record") == true)
      layer.disk.withLock { $0.capacity = nil }
      #expect(throws: DurabilityError.self) { try log.append(type: 1, payload: [6]) }
    }
    var count = 0
    try log.replay(from: 1) { _, _, _ in count += 1 }
    #expect(count == acknowledged)
    let (_, payloads, report) = try open(layer.afterKill())
    #expect(payloads.count == acknowledged)
    #expect(report.tornTail == nil)
  }

  @Test func theIntervalSyncsWithoutAnybodyAsking() throws {
    let layer = FaultyFileLayer(seed: 1)
    let (log, _, _) = try open(layer, .init(policy: .interval(milliseconds: 5)))
    let seq = try log.append(type: 1, payload: [1])
    try log.commit(seq)
    while log.durableSeq < seq { pause() }
    let (never, _, _) = try open(FaultyFileLayer(seed: 1), .init(policy: .never))
    try never.commit(never.append(type: 1, payload: [1]))
    #expect(never.durableSeq == 0)
  }

  @Test func replayWhileOthersAppendGivesWhatIsDurable() throws {
    let layer = FaultyFileLayer(seed: 1)
    let (log, _, _) = try open(layer, .init(fileBytes: 2000))
    inParallel(3) { thread in
      for i in 0..<150 {
        if thread > 0 {
          try! log.waitDurable(log.append(type: 1, payload: [UInt8(i)]))
        } else {
          let (first, durable) = (UInt64(1 + i), log.durableSeq)
          var seqs: [UInt64] = []
          try! log.replay(from: first) { seq, _, _ in seqs.append(seq) }
          if durable >= first { #expect(seqs.prefix(Int(durable - first) + 1) == Array(first...durable)[...]) }
          #expect(seqs == seqs.indices.map { first + UInt64($0) })
        }
      }
    }
    try log.removeFiles(before: 200)
    #expect { try log.replay(from: 1) { _, _, _ in } } throws: { ($0 as? DurabilityError)?.kind == .missing }
  }

  /// What power loss may leave of bytes that were never synced: a later part without an earlier one.
  @Test func aTornTailIsCutAndDamageToDurableRecordsIsNot() throws {
    let layer = FaultyFileLayer(seed: 1)
    let (log, _, _) = try open(layer, .init(policy: .never))
    for i in 0..<4 { try log.append(type: 1, payload: [UInt8](repeating: UInt8(i), count: 20)) }
    try log.commit(4)
    let path = layer.paths[0]
    var bytes = layer[path]
    let torn = FaultyFileLayer(seed: 1)
    try torn.makeFolder(Self.folder)
    _ = try torn.create(path)
    // Record 3 is lost, record 4 is there; nobody was told that either is safe.
    let damagedAt = bytes.count - 2 * 37 + 25
    bytes[damagedAt] ^= 1
    torn[path] = bytes
    let (_, payloads, report) = try open(torn)
    #expect(payloads.count == 2)
    #expect(
      report.tornTail
        == .init(path: path, offset: bytes.count - 2 * 37, byteCount: 2 * 37, recordCount: 1))
    // The same damage behind a sync: refused, with the file, the place and the way out.
    try log.close()
    bytes = layer[path]
    bytes[damagedAt] ^= 1
    layer[path] = bytes
    #expect {
      try open(layer)
    } throws: {
      let error = $0 as? DurabilityError
      return error?.kind == .damaged && error?.path == path && error?.offset == damagedAt - 25
        && error?.advice.contains("--salvage") == true
    }
    let (_, salvaged, lost) = try open(layer, isSalvaging: true)
    #expect(salvaged.map(\.first) == [0, 1, 3])
    #expect(lost.lost == [3...3])
  }

  /// A tenant's payload that looks like records must not be taken for records.
  @Test func aPayloadCannotForgeARecord() throws {
    let layer = FaultyFileLayer(seed: 1)
    let (log, _, _) = try open(layer)
    var forged: [UInt8] = []
    for seq in 2..<20 as Range<UInt64> {
      var record = [UInt8](repeating: 0, count: LogRecord.headerBytes) + [66]
      LogRecord.seal(&record, from: 0, seq: seq, type: 1, salt: 0)
      forged += record
    }
    try log.append(type: 1, payload: [UInt8](repeating: 0, count: 50) + forged)
    try log.append(type: 1, payload: [7])
    try log.close()
    let path = layer.paths[0]
    layer[path][LogHeader.byteCount + 20] ^= 1
    let (_, salvaged, report) = try open(layer, isSalvaging: true)
    #expect(salvaged == [[7]])
    #expect(report.lost == [1...1])
  }
}

/// Runs `body` on `count` threads of the system and waits for all.
func inParallel(_ count: Int, _ body: @escaping @Sendable (Int) -> Void) {
  let running = Atomic(count)
  for thread in 0..<count {
    repeatInBackground(milliseconds: 0) {
      body(thread)
      running.subtract(1, ordering: .releasing)
      return false
    }
  }
  while running.load(ordering: .acquiring) > 0 { pause() }
}

func pause() { _ = Monitor(0).withLock { $0 } }
