import ApusKernels
import ApusModels
import Foundation
import Testing

@testable import ApusCompression

/// Calibration statistics against sums written out, and their file against damage.
@Suite struct CalibrationTests {
  @Test(arguments: [(1, 1), (3, 2), (97, 130), (130, 300), (200, 513)])
  func `sums and products are those of the loops`(size: Int, count: Int) throws {
    let seed = UInt64(31 + size)
    var random = TestRandom(seed: seed)
    let rows = random.floatMatrix(count, size)
    var statistics = InputStatistics(size: size)
    try statistics.add(rows, on: testPool)
    #expect(statistics.count == count)
    let tolerance = 1e-15 * Double(count)
    for i in 0..<size {
      let column = (0..<count).map { Double(rows[$0, i]) }
      #expect(abs(statistics.sum[i] - column.reduce(0, +)) <= tolerance, "seed \(seed)")
      #expect(abs(statistics.absoluteSum[i] - column.reduce(0) { $0 + abs($1) }) <= tolerance, "seed \(seed)")
    }
    let second = try statistics.secondMoment(), covariance = try statistics.covariance()
    let mean = statistics.sum.map { $0 / Double(count) }
    #expect(second.mean == nil && covariance.mean == mean)
    for i in 0..<size {
      for j in 0..<size {
        let expected = (0..<count).reduce(0.0) { $0 + Double(rows[$1, i]) * Double(rows[$1, j]) } / Double(count)
        if abs(second.matrix[i, j] - expected) > tolerance
          || abs(covariance.matrix[i, j] - (expected - mean[i] * mean[j])) > tolerance
        {
          Issue.record("[\(i), \(j)] of \(size) after \(count) rows, seed \(seed)")
          return
        }
      }
    }
  }

  @Test func `the same calls give the same bits for any number of threads`() throws {
    var random = TestRandom(seed: 32)
    let parts = [300, 1, 77].map { random.floatMatrix($0, 210) }
    let results = try [1, 2, 3].map { threads in
      let pool = ThreadPool(threads: threads)
      var statistics = InputStatistics(size: 210)
      for part in parts { try statistics.add(part, on: pool) }
      return statistics
    }
    #expect(results[1] == results[0] && results[2] == results[0])
  }

  private func sample() throws -> CalibrationStatistics {
    var random = TestRandom(seed: 33)
    var statistics = CalibrationStatistics(model: "aa11", corpus: "bb22")
    try statistics.add(random.floatMatrix(40, 6), to: "layer.0.attention \"in\"\n", on: testPool)
    try statistics.add(random.floatMatrix(40, 3), to: "layer.0.feed_forward", on: testPool)
    statistics.tokens = 40
    return statistics
  }

  @Test func `merged parts are the whole up to rounding, and what does not fit changes nothing`() throws {
    var random = TestRandom(seed: 34)
    let parts = (0..<3).map { _ in random.floatMatrix(50, 20) }
    var whole = CalibrationStatistics(model: "m", corpus: "c")
    var merged = whole
    for part in parts {
      try whole.add(part, to: "x", on: testPool)
      var one = CalibrationStatistics(model: "m", corpus: "c")
      try one.add(part, to: "x", on: testPool)
      one.tokens = 50
      try merged.merge(one)
    }
    #expect(merged.tokens == 150)
    let (a, b) = (try whole.statistics(of: "x"), try merged.statistics(of: "x"))
    #expect(a.count == b.count)
    for (x, y) in zip(a.products + a.sum + a.absoluteSum, b.products + b.sum + b.absoluteSum) {
      #expect(abs(x - y) <= 1e-13)
    }

    let before = merged
    var narrow = CalibrationStatistics(model: "m", corpus: "c")
    try narrow.add(Matrix(zeros: 1, 4), to: "a", on: testPool)
    try narrow.add(Matrix(zeros: 1, 4), to: "x", on: testPool)
    #expect(kind { try merged.merge(narrow) } == .shape)
    #expect(kind { try merged.merge(CalibrationStatistics(model: "n", corpus: "c")) } == .otherSource)
    #expect(kind { try merged.merge(CalibrationStatistics(model: "m", corpus: "d")) } == .otherSource)
    #expect(kind { _ = try merged.statistics(of: "y") } == .missing)
    #expect(merged == before)
  }

  @Test func `NaN, infinity and rows of another length are refused by name and change nothing`() throws {
    var statistics = try sample()
    let before = statistics
    for value in [Float.nan, .infinity] {
      var rows = Matrix<Float>(zeros: 300, 3)
      rows[299, 1] = value
      #expect {
        try statistics.add(rows, to: "layer.0.feed_forward", on: testPool)
      } throws: {
        ($0 as? CompressionError)?.kind == .notFinite && "\($0)".contains("layer.0.feed_forward")
          && "\($0)".contains("[299, 1]")
      }
    }
    #expect(kind { try statistics.add(Matrix(zeros: 1, 4), to: "layer.0.feed_forward", on: testPool) } == .shape)
    #expect(kind { try statistics.add(Matrix(zeros: 2, 0), to: "new", on: testPool) } == .shape)
    let bad = Matrix<Float>(rows: 1, columns: 2, elements: [1, .nan])
    #expect(kind { try statistics.add(bad, to: "new", on: testPool) } == .notFinite)
    #expect(statistics == before)
    #expect(kind { _ = try InputStatistics(size: 3).secondMoment() } == .missing)
  }

  @Test func `shrinkage keeps the trace and is recommended below ten vectors an element`() throws {
    var random = TestRandom(seed: 35)
    var statistics = InputStatistics(size: 8)
    try statistics.add(random.floatMatrix(4, 8), on: testPool)
    #expect(statistics.recommendedShrinkage == 1e-2)
    let moment = try statistics.secondMoment()
    let shrunk = moment.shrunk(0.25)
    let trace = (0..<8).reduce(0.0) { $0 + moment.matrix[$1, $1] }
    #expect(abs((0..<8).reduce(0.0) { $0 + shrunk.matrix[$1, $1] } - trace) < 1e-14)
    #expect(shrunk.matrix[0, 1] == 0.75 * moment.matrix[0, 1])
    // Four vectors span four of the eight directions; after shrinking none is silent.
    let values = try SymmetricEigen(moment.matrix, on: testPool).values
    let shrunkValues = try SymmetricEigen(shrunk.matrix, on: testPool).values
    #expect(abs(values[4]) < 1e-14 && abs(shrunkValues[7] - 0.25 * trace / 8) < 1e-14)
    try statistics.add(random.floatMatrix(36, 8), on: testPool)
    #expect(statistics.recommendedShrinkage == 2e-3)
    try statistics.add(random.floatMatrix(40, 8), on: testPool)
    #expect(statistics.recommendedShrinkage == 0)
  }

  // MARK: the file

  @Test func `an interrupted calibration goes on to the same bits`() throws {
    let folder = TestFolder()
    let path = folder.path + "/statistics.safetensors"
    var random = TestRandom(seed: 36)
    let parts = (0..<4).map { _ in random.floatMatrix(60, 30) }
    var whole = CalibrationStatistics(model: "m", corpus: "c")
    for part in parts {
      try whole.add(part, to: "x", on: testPool)
      whole.tokens += 60
    }
    var first = CalibrationStatistics(model: "m", corpus: "c")
    try first.write(to: path)
    for index in 0..<4 {
      // Each part by a process that has nothing but the file.
      var resumed = try CalibrationStatistics(path: path, model: "m", corpus: "c")
      #expect(resumed.tokens == 60 * index)
      try resumed.add(parts[index], to: "x", on: testPool)
      resumed.tokens += 60
      try resumed.write(to: path)
      first = resumed
    }
    #expect(first == whole)
    #expect(try CalibrationStatistics(path: path) == whole)
    #expect(try FileManager.default.contentsOfDirectory(atPath: folder.path) == ["statistics.safetensors"])
  }

  @Test func `the file of another model, corpus or kind is refused`() throws {
    let folder = TestFolder()
    let path = folder.path + "/s"
    let statistics = try sample()
    try statistics.write(to: path)
    #expect(try CalibrationStatistics(path: path, model: "aa11", corpus: "bb22") == statistics)
    #expect(kind { _ = try CalibrationStatistics(path: path, model: "cc") } == .otherSource)
    #expect(kind { _ = try CalibrationStatistics(path: path, model: "aa11", corpus: "cc") } == .otherSource)
    let bytes = try Data(contentsOf: URL(fileURLWithPath: path))
    for (old, new) in [
      ("apus.calibration", "apus.calibratioN"), ("\"version\":\"1\"", "\"version\":\"2\""), ("\"40\"", "\"-4\""),
    ] {
      let text = try #require(bytes.range(of: Data(old.utf8)))
      var other = bytes
      other.replaceSubrange(text, with: new.utf8)
      try other.write(to: URL(fileURLWithPath: path))
      #expect(throws: ModelFileError.self) { try CalibrationStatistics(path: path) }
    }
    for value in [Double.nan, -.infinity] {
      var other = bytes
      other.replaceSubrange(other.count - 8..<other.count, with: withUnsafeBytes(of: value) { Data($0) })
      try other.write(to: URL(fileURLWithPath: path))
      #expect(kind { _ = try CalibrationStatistics(path: path) } == .notFinite)
    }
    // The first number of the data is the count of the first input.
    let start = 8 + bytes.withUnsafeBytes { Int($0.loadUnaligned(as: UInt64.self)) }
    for count in [-1, 0.5, 1e300] {
      var other = bytes
      other.replaceSubrange(start..<start + 8, with: withUnsafeBytes(of: count) { Data($0) })
      try other.write(to: URL(fileURLWithPath: path))
      #expect(kind { _ = try CalibrationStatistics(path: path) } == .parameter)
    }
    #expect(throws: ModelFileError.self) { try CalibrationStatistics(path: folder.path + "/none") }
    // A folder is in the way: nothing is left behind.
    try FileManager.default.createDirectory(atPath: folder.path + "/folder", withIntermediateDirectories: false)
    #expect { try statistics.write(to: folder.path + "/folder") } throws: {
      ($0 as? ModelFileError)?.kind == .unwritable
    }
    #expect(try FileManager.default.contentsOfDirectory(atPath: folder.path).sorted() == ["folder", "s"])
    #expect(throws: ModelFileError.self) { try statistics.write(to: folder.path + "/none/s") }
  }

  @Test func `4,000 damaged files give typed errors or statistics, within the memory bound`() async {
    await #expect(processExitsWith: .success) {
      let seed: UInt64 = 37
      print("seed \(seed)")
      alarm(120)
      let folder = TestFolder(inMemory: true)
      let path = folder.path + "/s"
      var statistics = CalibrationStatistics(model: "m", corpus: "c")
      var random = TestRandom(seed: seed)
      try statistics.add(random.floatMatrix(9, 5), to: "a", on: testPool)
      try statistics.add(random.floatMatrix(9, 2), to: "b", on: testPool)
      try statistics.write(to: path)
      let bytes = [UInt8](try Data(contentsOf: URL(fileURLWithPath: path)))
      let headerBytes = Int(bytes[0]) + Int(bytes[1]) << 8
      let before = peakResidentBytes()
      var accepted = 0
      for _ in 0..<4000 {
        var damaged = bytes
        for _ in 0..<1 + random.next() % 3 {
          let place = Int(random.next() % UInt64(max(1, damaged.count)))
          switch random.next() % 7 {
          case 0: damaged = Array(damaged[..<place])
          case 1: damaged.insert(contentsOf: damaged[place...].prefix(9), at: place)
          case 2 where place < damaged.count: damaged[place] = UInt8(truncatingIfNeeded: random.next())
          case 3 where damaged.count >= 8:
            damaged.replaceSubrange(0..<8, with: withUnsafeBytes(of: random.next()) { Array($0) })
          case 4 where headerBytes < damaged.count:
            // A digit of a shape, an offset or a count.
            let digits = damaged[..<headerBytes].indices.filter { (48...57).contains(damaged[$0]) }
            damaged[digits[Int(random.next() % UInt64(digits.count))]] = UInt8(48 + random.next() % 10)
          case 5 where damaged.count >= 8:
            let value = [Double.nan, .infinity, -1, 0.5, 1e300][Int(random.next() % 5)]
            damaged.replaceSubrange(damaged.count - 8..<damaged.count, with: withUnsafeBytes(of: value) { Array($0) })
          default: damaged[min(place, damaged.count - 1)..<damaged.count] = []
          }
          if damaged.isEmpty { break }
        }
        try Data(damaged).write(to: URL(fileURLWithPath: path))
        do {
          let read = try CalibrationStatistics(path: path)
          for input in read.inputs.values where input.count > 0 { _ = try input.covariance() }
          accepted += 1
        } catch is ModelFileError {
        } catch is CompressionError {
        }
      }
      precondition(accepted > 40 && accepted < 3960, "\(accepted) accepted")
      precondition(peakResidentBytes() - before < 64 << 20, "\(peakResidentBytes() - before) bytes")
    }
  }
}

/// The kind of the `CompressionError` that `body` throws; nil when it throws none or another.
func kind(_ body: () throws -> Void) -> CompressionError.Kind? {
  do {
    try body()
    return nil
  } catch {
    return (error as? CompressionError)?.kind
  }
}

/// A folder that goes with the last reference.
final class TestFolder: Sendable {
  let path: String

  /// In memory where the system has such a folder (`/dev/shm`), if asked.
  init(inMemory: Bool = false) {
    let memory = URL(fileURLWithPath: "/dev/shm")
    let parent =
      inMemory && FileManager.default.isWritableFile(atPath: memory.path)
      ? memory : FileManager.default.temporaryDirectory
    path = parent.appendingPathComponent("apus-test-\(UUID().uuidString)").path
    try? FileManager.default.createDirectory(atPath: path, withIntermediateDirectories: true)
  }

  deinit { try? FileManager.default.removeItem(atPath: path) }
}

/// Peak resident bytes of this process so far.
private func peakResidentBytes() -> Int {
  let status = (try? String(contentsOfFile: "/proc/self/status", encoding: .utf8)) ?? ""
  let line = status.split(separator: "\n").first { $0.hasPrefix("VmHWM:") }
  return (line?.split(separator: " ").dropLast().last.flatMap { Int($0) } ?? 0) * 1024
}
