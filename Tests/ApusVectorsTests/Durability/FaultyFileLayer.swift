import Synchronization

@testable import ApusVectors

/// A disk in memory that fails or loses power at the n-th operation.
///
/// What a program sees (`content`) and what the disk has (`durable`) are apart: a sync moves the bytes written since the
/// last one, and a failed sync forgets that they are dirty, as Linux does. Names become durable with their folder. Power
/// loss keeps a random part of the rest.
final class FaultyFileLayer: FileLayer {
  enum Fault: Sendable {
    /// Power is lost while the operation runs; everything after it fails.
    case powerLoss
    /// The operation fails, half done if it writes.
    case failure(DurabilityError.Kind)
  }

  struct File {
    var content: [UInt8] = []
    var durable: [UInt8] = []
    var dirty: [Range<Int>] = []
    var reserved = 0
  }

  enum NameChange {
    case add(String, Int)
    case remove(String)
    case rename(String, String, Int)
  }

  struct Disk: Sendable {
    var files: [Int: File] = [:]
    var names: [String: Int] = [:]
    var durableNames: [String: Int] = [:]
    var folders: Set<String> = []
    var pending: [String: [NameChange]] = [:]
    var locks: [String: Int] = [:]
    var nextID = 0
    var operations: [String] = []
    var syncCount = 0
    var faults: [Int: Fault] = [:]
    var isDown = false
    var random: DurabilityRandom
    /// Bytes that fit; nil for no end.
    var capacity: Int?
    var canReserve = true
    /// A disk that says that it has synced and hasn't.
    var ignoresSync = false
  }

  let disk: Mutex<Disk>

  init(seed: UInt64) { disk = Mutex(Disk(random: DurabilityRandom(seed: seed))) }
  private init(_ disk: Disk) { self.disk = Mutex(disk) }

  /// Sets what goes wrong at the `operation`-th changing operation from the first injection on (the first is 1).
  func inject(_ fault: Fault, at operation: Int) {
    disk.withLock {
      if $0.faults.isEmpty { $0.operations = [] }
      $0.faults[operation] = fault
    }
  }

  var isDown: Bool { disk.withLock { $0.isDown } }
  var operations: [String] { disk.withLock { $0.operations } }

  /// The machine as a program that starts now finds it, no power lost.
  func afterKill() -> FaultyFileLayer {
    FaultyFileLayer(
      disk.withLock {
        var disk = $0
        disk.locks = [:]
        disk.faults = [:]
        disk.isDown = false
        disk.operations = []
        return disk
      })
  }

  /// The machine after power loss: durable bytes and names, and a random part of the others.
  func afterPowerLoss(seed: UInt64) -> FaultyFileLayer {
    let old = disk.withLock { $0 }
    var new = Disk(random: DurabilityRandom(seed: seed))
    var random = new.random
    new.folders = old.folders
    new.nextID = old.nextID
    new.durableNames = old.durableNames
    for (_, changes) in old.pending.sorted(by: { $0.key < $1.key }) {
      let mode = random.next() % 4
      let kept = Int(random.next() % UInt64(changes.count + 1))
      for (index, change) in changes.enumerated() {
        let survives = [false, true, index < kept, random.next() % 2 == 0][Int(mode)]
        guard survives else { continue }
        switch change {
        case .add(let name, let id): new.durableNames[name] = id
        case .remove(let name): new.durableNames[name] = nil
        case .rename(let name, let target, let id):
          if new.durableNames[name] == id { new.durableNames[name] = nil }
          new.durableNames[target] = id
        }
      }
    }
    new.names = new.durableNames
    for id in Set(new.names.values).sorted() {
      let file = old.files[id]!
      let content = Self.survivors(of: file, &random)
      new.files[id] = File(content: content, durable: content)
    }
    (new.random, new.capacity, new.canReserve) = (random, old.capacity, old.canReserve)
    return FaultyFileLayer(new)
  }

  private static func survivors(of file: File, _ random: inout DurabilityRandom) -> [UInt8] {
    let sector = 64
    let mode = random.next() % 4
    if mode == 0 || file.dirty.isEmpty { return file.durable }
    if mode == 1 { return applying(file.dirty, of: file, to: file.content.count) }
    let last = file.dirty.map(\.upperBound).max()!
    let cut = file.durable.count + Int(random.next() % UInt64(max(1, last - min(last, file.durable.count) + 1)))
    if mode == 2 { return applying(file.dirty.map { $0.clamped(to: 0..<cut) }, of: file, to: cut) }
    var kept: [Range<Int>] = []
    for range in file.dirty {
      for start in stride(from: range.lowerBound / sector * sector, to: range.upperBound, by: sector)
      where random.next() % 2 == 0 { kept.append(range.clamped(to: start..<start + sector)) }
    }
    return applying(kept, of: file, to: random.next() % 2 == 0 ? file.content.count : kept.map(\.upperBound).max() ?? 0)
  }

  /// The durable bytes with those of `ranges` that the program had written.
  private static func applying(_ ranges: [Range<Int>], of file: File, to length: Int) -> [UInt8] {
    let length = min(max(length, min(file.durable.count, file.content.count)), file.content.count)
    var bytes = Array(file.durable.prefix(length)) + [UInt8](repeating: 0, count: max(0, length - file.durable.count))
    for range in ranges.map({ $0.clamped(to: 0..<length) }) { bytes[range] = file.content[range] }
    return bytes
  }

  // MARK: files as they are, for tests that damage them

  var paths: [String] { disk.withLock { $0.names.keys.sorted() } }
  subscript(path: String) -> [UInt8] {
    get { disk.withLock { $0.files[$0.names[path]!]!.content } }
    set {
      disk.withLock {
        let id = $0.names[path]!
        $0.files[id] = File(content: newValue, durable: newValue)
      }
    }
  }

  // MARK: FileLayer

  private func operate<R>(
    _ what: String, _ path: String, half: (inout Disk) -> Void = { _ in },
    _ body: (inout Disk) throws(DurabilityError) -> R
  ) throws(DurabilityError) -> R {
    try disk.withLock { (disk) throws(DurabilityError) -> R in
      func error(_ kind: DurabilityError.Kind, _ seen: String) -> DurabilityError {
        DurabilityError(kind, path, what, seen: seen, expected: "success")
      }
      if disk.isDown { throw error(.inputOutput, "no power") }
      disk.operations.append("\(what) \(path)")
      if let fault = disk.faults[disk.operations.count] {
        half(&disk)
        switch fault {
        case .powerLoss:
          disk.isDown = true
          throw error(.inputOutput, "no power")
        case .failure(let kind): throw error(kind, "an injected failure")
        }
      }
      return try body(&disk)
    }
  }

  private func look<R>(_ path: String, _ body: (inout Disk) -> R?) throws(DurabilityError) -> R {
    guard let result = disk.withLock({ $0.isDown ? nil : body(&$0) }) else {
      throw DurabilityError(.missing, path, "read", seen: "nothing", expected: "a file")
    }
    return result
  }

  func makeFolder(_ path: String) throws(DurabilityError) {
    try operate("mkdir", path) { (disk) throws(DurabilityError) in _ = disk.folders.insert(path) }
  }

  func list(_ folder: String) throws(DurabilityError) -> [String]? {
    try look(folder) { disk -> [String]?? in
      guard disk.folders.contains(folder) else { return .some(nil) }
      return disk.names.keys.filter { $0.hasPrefix(folder + "/") }.map { String($0.dropFirst(folder.count + 1)) }
        .sorted()
    }
  }

  func size(_ path: String) throws(DurabilityError) -> Int {
    try look(path) { disk in disk.names[path].map { disk.files[$0]!.content.count } }
  }

  func read(_ path: String, _ range: Range<Int>) throws(DurabilityError) -> [UInt8] {
    let content = try look(path) { disk in disk.names[path].map { disk.files[$0]!.content } }
    guard range.upperBound <= content.count else {
      throw DurabilityError(.damaged, path, "length", seen: "\(content.count)", expected: "\(range.upperBound)")
    }
    return Array(content[range])
  }

  func map(_ path: String) throws(DurabilityError) -> MappedBytes {
    let content = try look(path) { disk in disk.names[path].map { disk.files[$0]!.content } }
    let memory = UnsafeMutableRawBufferPointer.allocate(byteCount: content.count, alignment: 4096)
    memory.copyBytes(from: content)
    return MappedBytes(memory) { $0.deallocate() }
  }

  func create(_ path: String) throws(DurabilityError) -> any AppendFile {
    let id = try operate("create", path) { (disk) throws(DurabilityError) -> Int in
      disk.nextID += 1
      disk.files[disk.nextID] = File()
      disk.names[path] = disk.nextID
      disk.change(path, .add(path, disk.nextID))
      return disk.nextID
    }
    return Handle(layer: self, id: id, path: path)
  }

  func rename(_ path: String, to target: String) throws(DurabilityError) {
    try operate("rename", path) { (disk) throws(DurabilityError) in
      let id = disk.names.removeValue(forKey: path)!
      disk.names[target] = id
      disk.change(path, .rename(path, target, id))
    }
  }

  func link(_ path: String, to target: String) throws(DurabilityError) -> Bool {
    try operate("link", target) { (disk) throws(DurabilityError) in
      let id = disk.names[path]!
      if disk.random.next() % 4 == 0 { return false }
      disk.names[target] = id
      disk.change(target, .add(target, id))
      return true
    }
  }

  func remove(_ path: String) throws(DurabilityError) {
    try operate("remove", path) { (disk) throws(DurabilityError) in
      disk.names[path] = nil
      disk.change(path, .remove(path))
    }
  }

  func synchronizeFolder(_ path: String) throws(DurabilityError) {
    try operate("fsync", path) { (disk) throws(DurabilityError) in
      if disk.ignoresSync { return }
      disk.pending[path] = nil
      let names = disk.names.filter { Disk.folder($0.key) == path }
      disk.durableNames = disk.durableNames.filter { Disk.folder($0.key) != path }.merging(names) { $1 }
    }
  }

  func lock(_ folder: String) throws(DurabilityError) -> any AnyObject & Sendable {
    let isFree = disk.withLock { disk in
      if disk.locks[folder] != nil { return false }
      disk.locks[folder] = 1
      return true
    }
    guard isFree else { throw DurabilityError(.locked, folder, "lock", seen: "held", expected: "free") }
    return Lock(layer: self, folder: folder)
  }

  private final class Lock: Sendable {
    let layer: FaultyFileLayer
    let folder: String
    init(layer: FaultyFileLayer, folder: String) { (self.layer, self.folder) = (layer, folder) }
    deinit { layer.disk.withLock { $0.locks[folder] = nil } }
  }

  private final class Handle: AppendFile {
    let layer: FaultyFileLayer
    let id: Int
    let path: String

    init(layer: FaultyFileLayer, id: Int, path: String) { (self.layer, self.id, self.path) = (layer, id, path) }

    func write(_ bytes: RawSpan) throws(DurabilityError) {
      let bytes = bytes.withUnsafeBytes { Array($0) }
      let half = layer.disk.withLock { Int($0.random.next() % UInt64(bytes.count + 1)) }
      func put(_ bytes: ArraySlice<UInt8>, _ disk: inout Disk) {
        let start = disk.files[id]!.content.count
        disk.files[id]!.content += bytes
        disk.files[id]!.dirty.append(start..<start + bytes.count)
      }
      try layer.operate("write", path, half: { put(bytes[..<half], &$0) }) { (disk) throws(DurabilityError) in
        if let capacity = disk.capacity, disk.usedBytes + disk.growth(id, bytes.count) > capacity {
          put(bytes[..<half], &disk)
          throw DurabilityError(.diskFull, path, "write", seen: "a full disk", expected: "free space")
        }
        put(bytes[...], &disk)
      }
    }

    func reserve(_ length: Int) throws(DurabilityError) {
      try layer.operate("reserve", path) { (disk) throws(DurabilityError) in
        guard disk.canReserve else { return }
        let growth = disk.growth(id, length - disk.files[id]!.content.count)
        if let capacity = disk.capacity, disk.usedBytes + growth > capacity {
          throw DurabilityError(.diskFull, path, "reserve", seen: "a full disk", expected: "free space")
        }
        disk.files[id]!.reserved = max(disk.files[id]!.reserved, length)
      }
    }

    func truncate(_ length: Int) throws(DurabilityError) {
      try layer.operate("truncate", path) { (disk) throws(DurabilityError) in
        disk.files[id]!.content.removeSubrange(length...)
        disk.files[id]!.dirty = disk.files[id]!.dirty.map { $0.clamped(to: 0..<length) }
        disk.files[id]!.reserved = length
      }
    }

    func synchronize() throws(DurabilityError) {
      try layer.operate("sync", path, half: { $0.files[id]!.dirty = [] }) { (disk) throws(DurabilityError) in
        disk.syncCount += 1
        if disk.ignoresSync { return }
        let file = disk.files[id]!
        disk.files[id]!.durable = FaultyFileLayer.applying(file.dirty, of: file, to: file.content.count)
        disk.files[id]!.dirty = []
      }
    }
  }
}

extension FaultyFileLayer.Disk {
  static func folder(_ path: String) -> String { String(path[..<(path.lastIndex(of: "/") ?? path.startIndex)]) }

  mutating func change(_ path: String, _ change: FaultyFileLayer.NameChange) {
    pending[Self.folder(path), default: []].append(change)
  }

  /// Bytes that the disk's named files take.
  var usedBytes: Int { Set(names.values).reduce(0) { $0 + max(files[$1]!.content.count, files[$1]!.reserved) } }

  /// How many more bytes the file takes when it gets `count` more.
  func growth(_ id: Int, _ count: Int) -> Int {
    let file = files[id]!
    return max(0, file.content.count + count - max(file.content.count, file.reserved))
  }
}

/// SplitMix64.
struct DurabilityRandom: RandomNumberGenerator, Sendable {
  private var state: UInt64
  init(seed: UInt64) { state = seed }
  mutating func next() -> UInt64 {
    state &+= 0x9E37_79B9_7F4A_7C15
    var z = state
    z = (z ^ (z >> 30)) &* 0xBF58_476D_1CE4_E5B9
    z = (z ^ (z >> 27)) &* 0x94D0_49BB_1331_11EB
    return z ^ (z >> 31)
  }
}
