import Testing

@testable import ApusVectors

/// The smallest thing that a store can keep: the list of all records. Its checkpoint is that list, too.
final class RecordList {
  struct Record: Equatable {
    var type: UInt8
    var payload: [UInt8]
  }

  /// Record n is `records[n − 1]`.
  var records: [Record] = []
  /// How many records the checkpoint held.
  private(set) var checkpointed = 0

  static func open(
    _ layer: any FileLayer, _ folder: String, _ options: StoreDirectory.Options = .init()
  ) throws -> (store: StoreDirectory, list: RecordList) {
    let list = RecordList()
    let store = try StoreDirectory(
      opening: folder, layer: layer, options: options, load: { try list.load($0) },
      apply: { seq, type, payload in
        // In salvage numbers may be missing: their places stay empty.
        while list.records.count < seq - 1 { list.records.append(Record(type: 0, payload: [])) }
        #expect(list.records.count == seq - 1)
        list.records.append(Record(type: type, payload: payload.withUnsafeBytes { Array($0) }))
      })
    return (store, list)
  }

  private func load(_ segment: SegmentFile?) throws {
    guard let segment else { return }
    let bytes = UnsafeRawBufferPointer(try segment.section("records"))
    var at = 0
    while at < bytes.count {
      let count = Int(bytes.loadUnaligned(fromByteOffset: at, as: UInt32.self))
      let start = at + 5
      records.append(Record(type: bytes[at + 4], payload: Array(bytes[start..<start + count])))
      at = start + count
    }
    checkpointed = records.count
    let filler = try segment.section("filler")
    #expect(filler.allSatisfy { $0 == UInt8(truncatingIfNeeded: checkpointed) })
  }

  static func write(_ records: some Sequence<Record>, count: Int, to writer: SegmentWriter) throws {
    try writer.begin("records")
    for record in records {
      var bytes: [UInt8] = []
      bytes.append(littleEndian: UInt32(record.payload.count))
      bytes.append(record.type)
      bytes += record.payload
      try writer.write(bytes.span.bytes)
    }
    try writer.begin("empty")
    try writer.begin("filler")
    let filler = [UInt8](repeating: UInt8(truncatingIfNeeded: count), count: 5000)
    try writer.write(filler.span.bytes)
  }
}

/// Random work on a store, and what must be true of it afterwards whatever happens: all that was acknowledged is there, in
/// order, and nothing that was never appended.
final class StoreScript {
  let folder = "/data/store"
  let options: StoreDirectory.Options
  /// What was given to `append`, by number; the last attempt counts.
  private(set) var attempted: [RecordList.Record] = []
  private(set) var acknowledged = 0
  private(set) var acknowledgedCheckpoint = 0
  private(set) var problems: [String] = []
  private var random: DurabilityRandom
  private var snapshots: [(folder: String, count: Int)] = []

  init(seed: UInt64, options: StoreDirectory.Options = .init(log: .init(fileBytes: 600, bufferBytes: 400))) {
    random = DurabilityRandom(seed: seed)
    self.options = options
  }

  /// Runs until the end or until power is lost; a step that fails is followed by the next.
  func run(on layer: FaultyFileLayer, steps: Int) {
    do {
      if (try layer.list(folder) ?? []).allSatisfy({ !$0.hasPrefix("MANIFEST") || $0.hasSuffix(".tmp") }) {
        try StoreDirectory.create(folder, layer: layer, identifier: 1)
      }
      var (store, list) = try RecordList.open(layer, folder, options)
      check(list, store)
      for _ in 0..<steps where !layer.isDown {
        do { try step(layer, &store) } catch is DurabilityError {}
      }
    } catch let error as DurabilityError {
      if !layer.isDown, acknowledged > 0, [.damaged, .missing].contains(error.kind) { problems.append("\(error)") }
    } catch { problems.append("\(error)") }
  }

  private func step(_ layer: FaultyFileLayer, _ store: inout StoreDirectory) throws {
    switch random.next() % 16 {
    case 0..<8:
      for _ in 0...random.next() % 3 { _ = try append(store) }
    case 8..<11:
      let seq = try append(store)
      try store.log.commit(seq)
      acknowledge(Int(seq))
    case 11:
      let seq = store.log.lastSeq
      try store.log.waitDurable(seq)
      acknowledge(Int(seq))
    case 12:
      let seq = store.log.lastSeq
      try store.log.rotate()
      acknowledge(Int(seq))
    case 13:
      let seq = store.log.lastSeq
      let keepsPrevious = random.next() % 4 != 0
      try store.checkpoint(through: seq, keepsPrevious: keepsPrevious) {
        try RecordList.write(attempted.prefix(Int(seq)), count: Int(seq), to: $0)
      }
      acknowledge(Int(seq))
      acknowledgedCheckpoint = Int(seq)
    case 14:
      let target = "/data/snapshot\(snapshots.count)"
      snapshots.append((target, -1))
      let seq = Int(try store.snapshot(to: target))
      acknowledge(seq)
      snapshots[snapshots.count - 1].count = seq
    default:
      let seq = store.log.lastSeq
      try store.close()
      acknowledge(Int(seq))
      let list: RecordList
      (store, list) = try RecordList.open(layer, folder, options)
      check(list, store)
    }
  }

  private func append(_ store: StoreDirectory) throws -> UInt64 {
    let payload = (0..<random.next() % 60).map { _ in UInt8(truncatingIfNeeded: random.next()) }
    let record = RecordList.Record(type: UInt8(1 + random.next() % 255), payload: payload)
    attempted = attempted.prefix(Int(store.log.lastSeq)) + [record]
    return try store.log.append(type: record.type, payload: record.payload)
  }

  private func acknowledge(_ seq: Int) { acknowledged = max(acknowledged, seq) }

  /// Opens the store, checks it, and goes on from what it holds.
  func checkRecovery(on layer: FaultyFileLayer) {
    do {
      let (store, list) = try RecordList.open(layer, folder, options)
      check(list, store)
      if let fallback = store.report.fallback { problems.append("a fallback: \(fallback)") }
    } catch {
      // Before the first acknowledgement the store may not exist yet.
      if acknowledged > 0 || (error as? DurabilityError)?.kind != .notAStore { problems.append("\(error)") }
    }
  }

  /// Opens each snapshot that was acknowledged; all of its records must be there.
  func checkSnapshots(on layer: FaultyFileLayer) {
    for (folder, count) in snapshots where count >= 0 {
      do {
        let (store, list) = try RecordList.open(layer, folder, options)
        if list.records != Array(attempted.prefix(count)) { problems.append("\(folder): other records") }
        if !store.report.isRestored || store.epoch != 2 { problems.append("\(folder): no epoch has begun") }
      } catch { problems.append("\(folder): \(error)") }
    }
  }

  private func check(_ list: RecordList, _ store: StoreDirectory) {
    let count = list.records.count
    if count < acknowledged { problems.append("\(acknowledged) were acknowledged, \(count) are there") }
    if list.records != Array(attempted.prefix(count)) { problems.append("other records than those appended") }
    if list.checkpointed < acknowledgedCheckpoint { problems.append("a checkpoint is lost") }
    if Int(store.log.lastSeq) != count { problems.append("\(count) records, the last is \(store.log.lastSeq)") }
    // Numbers that are free again will be given to other records.
    attempted = Array(list.records)
  }
}
