import Synchronization
import Testing

@testable import ApusVectors

/// Power loss and failures at every operation of a script.
@Suite struct CrashTests {
  static let seeds: [UInt64] = [1, 2, 3]

  private func operationCount(seed: UInt64, steps: Int) -> Int {
    let layer = FaultyFileLayer(seed: seed)
    let script = StoreScript(seed: seed)
    script.run(on: layer, steps: steps)
    script.checkRecovery(on: layer.afterKill())
    script.checkSnapshots(on: layer.afterKill())
    #expect(script.problems == [], "seed \(seed)")
    return layer.operations.count
  }

  @Test(arguments: seeds) func powerLossAtEveryOperationLosesNothingThatWasAcknowledged(seed: UInt64) {
    let steps = 40
    let count = operationCount(seed: seed, steps: steps)
    #expect(count > 100, "the script does too little")
    for operation in 1...count {
      let survivors = seed << 32 | UInt64(operation)
      let layer = FaultyFileLayer(seed: seed)
      layer.inject(.powerLoss, at: operation)
      let script = StoreScript(seed: seed)
      script.run(on: layer, steps: steps)
      #expect(layer.isDown)
      // Power is lost again while the store recovers, and then while it works on.
      let second = layer.afterPowerLoss(seed: survivors)
      second.inject(.powerLoss, at: 1 + operation % 23)
      script.run(on: second, steps: 5)
      let third = second.afterPowerLoss(seed: survivors + 1)
      script.run(on: third, steps: 8)
      let fourth = third.afterPowerLoss(seed: survivors + 2)
      script.checkRecovery(on: fourth)
      script.checkSnapshots(on: fourth.afterKill())
      #expect(script.problems == [], "seed \(seed), operation \(operation): \(layer.operations.last!)")
    }
  }

  @Test(arguments: seeds) func aFailureOfEachOperationIsNeverFollowedByAFalseAcknowledgement(seed: UInt64) {
    let steps = 40
    let count = operationCount(seed: seed, steps: steps)
    for operation in 1...count {
      for (kind, powerIsLost) in [(DurabilityError.Kind.inputOutput, false), (.diskFull, false), (.inputOutput, true)] {
        let layer = FaultyFileLayer(seed: seed)
        layer.inject(.failure(kind), at: operation)
        if powerIsLost { layer.inject(.powerLoss, at: operation + 1 + Int(seed) * operation % 19) }
        let script = StoreScript(seed: seed)
        script.run(on: layer, steps: steps)
        // The process restarts, works on, and only then is power lost: what a failed sync forgot must not count.
        let second = layer.isDown ? layer.afterPowerLoss(seed: seed &+ UInt64(operation)) : layer.afterKill()
        script.checkRecovery(on: second)
        let third = second.afterKill()
        script.run(on: third, steps: 6)
        script.checkRecovery(on: third.afterPowerLoss(seed: seed << 32 | UInt64(operation)))
        #expect(script.problems == [], "seed \(seed), operation \(operation): \(kind)")
      }
    }
  }

  @Test func powerLossWhileThreadsAppendLosesNothingThatWasAcknowledged() throws {
    let seed = UInt64.random(in: 0 ... .max)
    var lossesWithRecords = 0
    for round in 0..<60 {
      let layer = FaultyFileLayer(seed: seed)
      try StoreDirectory.create("/s", layer: layer)
      let options = StoreDirectory.Options(log: .init(fileBytes: 500, bufferBytes: 300))
      let store = try RecordList.open(layer, "/s", options).store
      layer.inject(.powerLoss, at: 1 + round * 5)
      let acknowledged = Mutex<[UInt64: RecordList.Record]>([:])
      inParallel(4) { thread in
        for i in 0..<100 {
          let record = RecordList.Record(type: UInt8(thread + 1), payload: [UInt8](repeating: UInt8(i), count: i / 2))
          guard let seq = try? store.log.append(type: record.type, payload: record.payload) else { return }
          // Some only append; their records become durable with those of others.
          if thread == 3 { continue }
          guard (try? store.log.waitDurable(seq)) != nil else { return }
          acknowledged.withLock { $0[seq] = record }
        }
      }
      let list = try RecordList.open(layer.afterPowerLoss(seed: seed &+ UInt64(round)), "/s", options).list
      let all = acknowledged.withLock { $0 }
      for (seq, record) in all {
        #expect(seq <= list.records.count && list.records[Int(seq) - 1] == record, "seed \(seed), round \(round)")
      }
      // One thread's records keep their order, and none is missing between two.
      for thread in 1...4 as ClosedRange<UInt8> {
        let own = list.records.filter { $0.type == thread }.map { $0.payload.count }
        #expect(own == own.indices.map { $0 / 2 }, "seed \(seed), round \(round)")
      }
      lossesWithRecords += all.isEmpty ? 0 : 1
    }
    #expect(lossesWithRecords > 20)
  }

  /// It may be unknown which manifest is on the disk: the next checkpoint must not take the segment of either away.
  @Test func aFailedCheckpointAndPowerLossInTheNextOneLoseNothing() throws {
    var (pairs, failures) = (0, 0)
    for failing in 1..<40 {
      for losing in 1..<40 {
        let layer = FaultyFileLayer(seed: 1)
        try StoreDirectory.create("/s", layer: layer)
        let store = try RecordList.open(layer, "/s").store
        var records: [RecordList.Record] = []
        var acknowledged = 0
        layer.inject(.failure(.inputOutput), at: failing)
        layer.inject(.powerLoss, at: failing + losing)
        for round in 1...3 {
          let record = RecordList.Record(type: 1, payload: [UInt8](repeating: UInt8(round), count: 10))
          guard let seq = try? store.log.append(type: 1, payload: record.payload) else { continue }
          records.append(record)
          do {
            try store.checkpoint(through: seq) { try RecordList.write(records, count: Int(seq), to: $0) }
            acknowledged = Int(seq)
          } catch { failures += 1 }
        }
        let (again, list) = try RecordList.open(layer.afterPowerLoss(seed: UInt64(failing * 64 + losing)), "/s")
        #expect(again.report.fallback == nil, "failure at \(failing), power loss \(losing) later")
        #expect(list.records.count >= acknowledged && records.starts(with: list.records))
        pairs += 1
      }
    }
    #expect(failures > pairs)
  }

  /// The control: the checks above must notice a disk that lies.
  @Test func theChecksNoticeADiskThatDoesNotSync() {
    var noticed = 0
    for seed in Self.seeds {
      let layer = FaultyFileLayer(seed: seed)
      layer.disk.withLock { $0.ignoresSync = true }
      let script = StoreScript(seed: seed)
      script.run(on: layer, steps: 40)
      script.checkRecovery(on: layer.afterPowerLoss(seed: seed))
      noticed += script.problems.isEmpty ? 0 : 1
    }
    #expect(noticed == Self.seeds.count)
  }
}
