import Foundation
import Testing

@testable import ApusCollections

/// What a careless caller would do with a file: open it as everything that its name allows and read all of it.
enum FormatUse {
  /// Returns how many of the openings read to the end; throws when an error is of another type than the library's.
  static func all(_ path: String) throws -> Int {
    var uses: [(String) throws -> Void] = []
    switch FileReference(path).ending {
    case "jsonl": uses = [records]
    case "spmat": uses = [access]
    case "npz":
      uses = [{ _ = try NPZFile(path: $0) }, access, vectors, integers]
      for member in (try? NPZFile(path: path))?.members ?? [] {
        uses += [{ try vectors("\($0):\(member.name)") }, { try integers("\($0):\(member.name)") }]
      }
    default: uses = [vectors, integers]
    }
    return try uses.count { use in
      do {
        try use(path)
        return true
      } catch is VectorFileError {
        return false
      }
    }
  }

  private static func vectors(_ path: String) throws {
    let file = try VectorFile(path: path)
    var count = 0
    try file.forEachBatch(rows: 7) { first, values in
      precondition(first == count && values.count % file.dim == 0)
      count += values.count / file.dim
    }
    precondition(count == file.count)
  }

  private static func integers(_ path: String) throws {
    let file = try IntegerFile(path: path)
    let numbers = try file.readAll()
    precondition(numbers.count == file.count * file.columns)
  }

  private static func access(_ path: String) throws {
    let matrix = try AccessMatrix(path: path)
    var (rows, grants) = (0, 0)
    try matrix.forEachBatch(rows: 4) { batch in
      precondition(batch.firstRow == rows)
      for row in 0..<batch.count { grants += batch[row].count }
      precondition(batch.tenants.allSatisfy { Int($0) < matrix.columns ?? .max })
      rows += batch.count
    }
    precondition(rows == matrix.rows && grants == matrix.grants)
  }

  private static func records(_ path: String) throws {
    // Foundation must accept each line that the reader accepts.
    let lines = (FileManager.default.contents(atPath: path) ?? Data()).split(
      separator: 0x0A, omittingEmptySubsequences: false)
    var reader = try JSONLinesFile(path: path).reader()
    while try reader.next() != nil {
      let line = Data(lines[reader.line - 1])
      // But for numbers that no double holds, which a payload may have: their text is kept.
      let isBeyond = String(decoding: line, as: UTF8.self).contains("e999")
      precondition(
        isBeyond || (try? JSONSerialization.jsonObject(with: line)) != nil,
        "line \(reader.line): \(String(decoding: line, as: UTF8.self))")
    }
  }
}

/// Bends valid files the way damage and malice do.
private struct FormatMutator {
  var random: FormatRandom

  static let numbers: [UInt64] = [
    0, 1, 2, 3, 7, 8, 255, 256, 65_535, 65_536, 65_537, 1 << 31, (1 << 31) - 1, (1 << 32) - 1, 1 << 32, 1 << 59,
    1 << 62, (1 << 63) - 1, 1 << 63, .max, .max - 7,
  ]
  static let fragments = [
    "[[[[[[[[", "{\"a\":{", "\\ud800", "\\u0000", "18446744073709551616", "-1", "1e999", "null", ",", "}", "\"", "(",
    "),", "'<f8'", "'|O'", "True", "'shape': (9223372036854775807, 4)", "PK\u{1}\u{2}", "PK\u{6}\u{6}",
  ]

  mutating func mutate(_ bytes: [UInt8]) -> [UInt8] {
    var result = bytes
    for _ in 0..<Int.random(in: 1...3, using: &random) {
      if result.isEmpty { return result }
      let place = Int.random(in: 0..<result.count, using: &random)
      let length = Int.random(in: 1...min(32, result.count - place), using: &random)
      switch Int.random(in: 0..<8, using: &random) {
      case 0: result[place] ^= 1 << UInt8.random(in: 0..<8, using: &random)
      case 1: result[place] = UInt8.random(in: 0...255, using: &random)
      case 2: result.removeSubrange(place...)
      case 3, 4:
        // A number of 2, 4 or 8 bytes: special, or near what is left of the file.
        let width = min([2, 4, 8].randomElement(using: &random)!, result.count - place)
        var value = Self.numbers.randomElement(using: &random)!
        if Bool.random(using: &random) {
          value = UInt64(result.count - place) &+ UInt64.random(in: 0...8, using: &random) &- 4
        }
        for index in 0..<width { result[place + index] = UInt8(truncatingIfNeeded: value >> UInt64(8 * index)) }
      case 5: result.insert(contentsOf: result[place..<place + length], at: place)
      case 6: result.removeSubrange(place..<place + length)
      default: result.replaceSubrange(place..<place, with: Self.fragments.randomElement(using: &random)!.utf8)
      }
    }
    return result
  }
}

@Suite("Hostile vector files", .serialized)
struct FormatFuzzTests {
  @Test(
    "mutated files of every format give typed errors or values, within the memory bound",
    arguments: [
      ("v1.npy", 3000), ("v2.npy", 1000), ("types.npz", 2000), ("deflated.npz", 3000), ("zip64.npz", 2000),
      ("csr.npz", 3000), ("access.spmat", 3000), ("base.fvecs", 2000), ("base.bvecs", 1000), ("base.fbin", 2000),
      ("base.u8bin", 1000), ("records.jsonl", 4000),
    ])
  func fuzz(name: String, count: Int) async {
    await #expect(processExitsWith: .success) { [name = name as String, count = count as Int] in
      let seed = UInt64(truncatingIfNeeded: name.utf8.reduce(17) { $0 &* 31 &+ Int($1) })
      print("seed \(seed)")
      // A hang ends the process as a crash would.
      alarm(120)
      let folder = FormatFolder()
      let sample = try FormatFixture.bytes(name)
      let uses = try FormatUse.all(folder.write(name, sample))
      precondition(uses > 0, "the sample itself isn't read")
      var mutator = FormatMutator(random: FormatRandom(state: seed))
      let before = peakResidentBytes()
      var (accepted, refused) = (0, 0)
      // The quick suite takes a part.
      let count = ProcessInfo.processInfo.environment["APUS_LONG_TESTS"] == nil ? count / 6 : count
      for _ in 0..<count {
        if try FormatUse.all(folder.write(name, mutator.mutate(sample))) > 0 { accepted += 1 } else { refused += 1 }
      }
      let grown = peakResidentBytes() - before
      precondition(grown <= 64 << 20, "seed \(seed): \(grown) bytes above the start")
      // Both must occur often, or the mutations are too weak or too strong to test anything.
      precondition(min(accepted, refused) > count / 100, "\(accepted) of \(count) accepted")
    }
  }
}
