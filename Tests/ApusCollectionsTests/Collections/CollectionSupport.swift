import ApusVectors
import Foundation
import Synchronization
import Testing

@testable import ApusCollections

/// A folder that is removed with the test.
final class TestFolder: Sendable {
  let path = NSTemporaryDirectory() + "apus-collections-" + UUID().uuidString
  init() { try? FileManager.default.createDirectory(atPath: path, withIntermediateDirectories: true) }
  deinit { try? FileManager.default.removeItem(atPath: path) }

  /// All bytes of all files.
  func allBytes() throws -> Data {
    var all = Data()
    for case let name as String in FileManager.default.enumerator(atPath: path)! {
      var isFolder: ObjCBool = false
      let file = "\(path)/\(name)"
      if FileManager.default.fileExists(atPath: file, isDirectory: &isFolder), !isFolder.boolValue {
        all += try Data(contentsOf: URL(filePath: file))
      }
    }
    return all
  }
}

/// Seconds that a test sets.
final class TestClock: Sendable {
  private let time = Atomic(1000)
  var now: Int { time.load(ordering: .relaxed) }
  func advance(_ seconds: Int) { time.add(seconds, ordering: .relaxed) }
}

/// Seconds with fractions that a test sets.
final class TestUptime: Sendable {
  private let time = Mutex(0.0)
  var now: Double { time.withLock { $0 } }
  func advance(_ seconds: Double) { time.withLock { $0 += seconds } }
}

/// Counts letters, so that texts of the same letters are near.
struct LetterEmbedder: TextEmbedder {
  static let dim = 26
  var weights: String?
  func weightsDigest(of model: String) -> String? { weights }
  func dim(of model: String) throws -> Int {
    guard model == "letters" else { throw CollectionError.unknownModel(model, known: ["letters"]) }
    return Self.dim
  }
  func embed(_ texts: [String], model: String) -> [[Float]] {
    texts.map { text in
      var counts = [Float](repeating: 0.01, count: Self.dim)
      for byte in text.lowercased().utf8 where (97...122).contains(byte) { counts[Int(byte) - 97] += 1 }
      return counts
    }
  }
}

struct Bench {
  let folder = TestFolder()
  let clock = TestClock()
  let collection: VectorCollection
  static let admin = Principal(tenant: "root", isAdmin: true)
  let a = Principal(tenant: "a")
  let b = Principal(tenant: "b")
  let c = Principal(tenant: "c")

  let uptime = TestUptime()

  init(
    dim: Int = 4, metric: VectorMetric = .l2, fields: [String] = ["lang", "year", "author.name", "draft"],
    quotas: TenantQuotas = TenantQuotas(), weights: String? = nil
  ) throws {
    let (clock, uptime) = (clock, uptime)
    collection = try VectorCollection.create(
      folder.path + "/docs",
      CollectionConfig(
        name: "docs", vectors: VectorConfig(dim: dim, metric: metric),
        embeddingModel: dim == LetterEmbedder.dim ? "letters" : nil, indexedFields: fields),
      embedder: LetterEmbedder(weights: weights), quotas: quotas, now: { clock.now }, uptime: { uptime.now })
  }

  var path: String { folder.path + "/docs" }

  func reopened(weights: String? = nil) throws -> VectorCollection {
    let (clock, uptime) = (clock, uptime)
    return try VectorCollection.open(
      path, embedder: LetterEmbedder(weights: weights), now: { clock.now }, uptime: { uptime.now })
  }

  /// Removes what is made again from the log.
  func forgetCatalogue() {
    for suffix in ["", "-wal", "-shm"] {
      try? FileManager.default.removeItem(atPath: path + "/catalogue.sqlite" + suffix)
    }
  }

  func found(_ query: Query, as principal: Principal) throws -> [PointKey] {
    try collection.search(query, as: principal).map(\.point.key)
  }
}

/// splitmix64, so that a seed gives the same test everywhere.
struct SeededRandom: RandomNumberGenerator {
  var state: UInt64
  init(seed: UInt64) { state = seed }
  mutating func next() -> UInt64 {
    state &+= 0x9e37_79b9_7f4a_7c15
    var z = state
    z = (z ^ z >> 30) &* 0xbf58_476d_1ce4_e5b9
    z = (z ^ z >> 27) &* 0x94d0_49bb_1331_11eb
    return z ^ z >> 31
  }
  mutating func vector(_ dim: Int) -> [Float] { (0..<dim).map { _ in Float.random(in: -1...1, using: &self) } }
}
