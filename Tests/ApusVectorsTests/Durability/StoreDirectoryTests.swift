import Synchronization
import Testing

@testable import ApusVectors

#if canImport(Glibc)
  import Glibc
#elseif canImport(Musl)
  import Musl
#else
  import Darwin
#endif

/// A folder of the system that goes with the object.
final class ScratchFolder {
  let path: String

  init() {
    path = String(cString: getenv("TMPDIR") ?? strdup("/tmp")) + "/apus-store-\(UInt64.random(in: 0 ... .max))"
    mkdir(path, 0o755)
  }

  deinit { Self.remove(path) }

  private static func remove(_ path: String) {
    for name in (try? SystemFileLayer().list(path)) ?? [] where unlink("\(path)/\(name)") != 0 {
      remove("\(path)/\(name)")
    }
    rmdir(path)
  }
}

@Suite struct StoreDirectoryTests {
  private let layer = SystemFileLayer()

  @Test func aStoreOnARealDiskLivesThroughCheckpointsSnapshotsAndRestarts() throws {
    let scratch = ScratchFolder()
    let path = scratch.path + "/a/deep/store"
    try StoreDirectory.create(path)
    var records: [RecordList.Record] = []
    for round in 0..<4 {
      let (store, list) = try RecordList.open(layer, path, .init(log: .init(fileBytes: 4000), verifiesSegment: true))
      #expect(list.records == records)
      #expect(store.report.log.tornTail == nil && store.report.fallback == nil && !store.report.isRestored)
      for i in 0..<200 {
        records.append(.init(type: 3, payload: [UInt8](repeating: UInt8(i), count: i)))
        try store.log.append(type: 3, payload: records.last!.payload)
      }
      try store.log.commit(store.log.lastSeq)
      if round % 2 == 1 {
        try store.checkpoint(through: UInt64(records.count - 50)) {
          try RecordList.write(records.dropLast(50), count: records.count - 50, to: $0)
        }.verifyAll()
      }
      #expect(try store.snapshot(to: "\(scratch.path)/snapshot\(round)") == UInt64(records.count))
      try store.close()
    }
    for round in 0..<4 {
      let copy = "\(scratch.path)/snapshot\(round)"
      for isFirst in [true, false] {
        let (store, list) = try RecordList.open(layer, copy)
        #expect(list.records.count == 200 * (round + 1) + (isFirst ? 0 : 1))
        #expect(store.report.isRestored == isFirst && store.epoch == 2)
        try store.log.append(type: 1, payload: [1])
        try store.close()
      }
    }
    // What the copies wrote since isn't in the store that they came from.
    #expect(try RecordList.open(layer, path).list.records == records)
  }

  @Test func foldersThatAreNoStoresAreRefused() throws {
    let scratch = ScratchFolder()
    func kind(_ body: () throws -> Void) -> DurabilityError.Kind? {
      do { try body() } catch { return (error as? DurabilityError)?.kind }
      return nil
    }
    #expect(kind { _ = try RecordList.open(layer, scratch.path + "/none") } == .notAStore)
    #expect(kind { _ = try RecordList.open(layer, scratch.path) } == .notAStore)
    try layer.prepare("letter", in: scratch.path, with: [1])
    #expect(kind { try StoreDirectory.create(scratch.path) } == .notAStore)
    let path = scratch.path + "/store"
    try StoreDirectory.create(path)
    #expect(kind { try StoreDirectory.create(path) } == .notAStore)
    let (store, _) = try RecordList.open(layer, path)
    do {
      _ = try RecordList.open(layer, path)
      Issue.record("opened twice")
    } catch let error as DurabilityError {
      #expect(error.kind == .locked && error.seen.contains("\(getpid())"))
    }
    #expect(kind { try store.snapshot(to: path) } == .notAStore)
    try store.close()
    _ = try RecordList.open(layer, path)
  }

  @Test func snapshotsAndCheckpointsWhileThreadsAppend() throws {
    let seed = UInt64.random(in: 0 ... .max)
    let faulty = FaultyFileLayer(seed: seed)
    try StoreDirectory.create("/s", layer: faulty)
    let (store, _) = try RecordList.open(faulty, "/s", .init(log: .init(fileBytes: 3000, bufferBytes: 500)))
    let written = Mutex<[UInt64: RecordList.Record]>([:])
    inParallel(4) { thread in
      for i in 0..<60 {
        if thread == 0 {
          if i % 6 == 0 {
            // The state after exactly the records that are known to be complete here.
            let (prefix, count) = written.withLock { all in
              var count = 0
              while all[UInt64(count + 1)] != nil { count += 1 }
              return ((0..<count).map { all[UInt64($0 + 1)]! }, count)
            }
            try! store.checkpoint(through: UInt64(count)) { try RecordList.write(prefix, count: count, to: $0) }
          }
          if i % 10 == 5 { try! store.snapshot(to: "/copy\(i)") }
        } else {
          let record = RecordList.Record(type: UInt8(thread), payload: [UInt8(i), UInt8(thread)])
          let seq = try! store.log.append(type: record.type, payload: record.payload)
          written.withLock { $0[seq] = record }
          try! store.log.commit(seq)
        }
      }
    }
    let all = written.withLock { all in (1...UInt64(all.count)).map { all[$0]! } }
    try store.close()
    for i in stride(from: 5, to: 60, by: 10) {
      let (_, list) = try RecordList.open(faulty, "/copy\(i)")
      #expect(list.records == Array(all.prefix(list.records.count)), "seed \(seed)")
    }
    #expect(try RecordList.open(faulty.afterPowerLoss(seed: seed), "/s").list.records == all, "seed \(seed)")
  }

  /// Erasure: bytes of deleted records must leave the disk.
  @Test func aCheckpointWithoutThePreviousGenerationLeavesNothingBehind() throws {
    let faulty = FaultyFileLayer(seed: 1)
    try StoreDirectory.create("/s", layer: faulty)
    let (store, _) = try RecordList.open(faulty, "/s")
    let secret = Array("a secret of a tenant".utf8)
    func isThere() -> Bool {
      faulty.paths.contains { path in
        let bytes = faulty[path]
        return bytes.indices.contains { bytes[$0] == secret[0] && bytes[$0...].starts(with: secret) }
      }
    }
    try store.log.waitDurable(store.log.append(type: 1, payload: secret))
    #expect(isThere())
    try store.checkpoint(through: 1) { try RecordList.write([], count: 1, to: $0) }
    #expect(isThere(), "the generation before keeps it")
    try store.checkpoint(through: 1, keepsPrevious: false) { try RecordList.write([], count: 1, to: $0) }
    #expect(!isThere())
  }

  @Test func aCheckpointThatFailsLeavesTheStoreUsable() throws {
    struct Cancelled: Error {}
    let faulty = FaultyFileLayer(seed: 1)
    try StoreDirectory.create("/s", layer: faulty)
    let (store, _) = try RecordList.open(faulty, "/s")
    try store.log.waitDurable(store.log.append(type: 1, payload: [1]))
    #expect(throws: Cancelled.self) {
      try store.checkpoint(through: 1) {
        try $0.begin("records")
        throw Cancelled()
      }
    }
    #expect(!faulty.paths.contains { $0.hasSuffix(".tmp") })
    try store.log.waitDurable(store.log.append(type: 1, payload: [2]))
    try store.checkpoint(through: 2) {
      try RecordList.write([.init(type: 1, payload: [1]), .init(type: 1, payload: [2])], count: 2, to: $0)
    }
    try store.close()
    #expect(try RecordList.open(faulty, "/s").list.records.map(\.payload) == [[1], [2]])
  }

  /// A real process that dies by SIGKILL while four threads write.
  @Test(.serialized, arguments: [30, 80, 200]) func aKilledProcessLosesNothingThatItAcknowledged(milliseconds: Int)
    async throws
  {
    let scratch = ScratchFolder()
    setenv("APUS_KILLED_STORE", "\(scratch.path) \(milliseconds)", 1)
    await #expect(processExitsWith: .signal(SIGKILL)) {
      let parts = String(cString: getenv("APUS_KILLED_STORE")).split(separator: " ").map(String.init)
      try StoreDirectory.create(parts[0] + "/store")
      let (store, _) = try RecordList.open(
        SystemFileLayer(), parts[0] + "/store", .init(log: .init(fileBytes: 20_000)))
      let records = Mutex<[UInt64: RecordList.Record]>([:])
      repeatInBackground(milliseconds: Int(parts[1])!) { kill(getpid(), SIGKILL) != 0 }
      inParallel(5) { thread in
        let acknowledgements = open("\(parts[0])/\(thread)", O_WRONLY | O_CREAT | O_APPEND, 0o644)
        for i in 0... {
          if thread == 4 {
            let prefix = records.withLock { all in (1...).prefix { all[$0] != nil }.map { all[$0]! } }
            try! store.checkpoint(through: UInt64(prefix.count)) {
              try RecordList.write(prefix, count: prefix.count, to: $0)
            }
          } else {
            let payload = [UInt8](repeating: UInt8(i & 255), count: 40)
            let record = RecordList.Record(type: UInt8(thread + 1), payload: payload)
            let seq = try! store.log.append(type: record.type, payload: record.payload)
            records.withLock { $0[seq] = record }
            try! store.log.waitDurable(seq)
            var line = (seq, UInt64(thread + 1), UInt64(i & 255))
            _ = withUnsafeBytes(of: &line) { write(acknowledgements, $0.baseAddress!, $0.count) }
          }
        }
      }
    }
    let (store, list) = try RecordList.open(layer, scratch.path + "/store", .init(verifiesSegment: true))
    var acknowledged = 0
    for thread in 0..<4 {
      let path = "\(scratch.path)/\(thread)"
      // A thread that was killed before its first acknowledgement has no file.
      guard let size = try? layer.size(path) else { continue }
      let bytes = try layer.read(path, 0..<size / 24 * 24)
      for at in stride(from: 0, to: bytes.count, by: 24) {
        let seq: UInt64 = bytes.span.bytes.load(at: at)
        guard list.records.count >= seq else {
          Issue.record("record \(seq) was acknowledged; \(list.records.count) are there")
          return
        }
        let record = list.records[Int(seq) - 1]
        #expect(record.type == bytes[at + 8] && record.payload.allSatisfy { $0 == bytes[at + 16] })
        acknowledged += 1
      }
    }
    print("killed after \(milliseconds) ms: \(acknowledged) records, \(list.checkpointed) of them in a checkpoint")
    #expect(acknowledged > 0 && store.report.fallback == nil)
  }
}
