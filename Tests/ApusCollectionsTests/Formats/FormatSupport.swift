import Foundation
import Testing

@testable import ApusCollections

/// A folder of a test's own, removed with the object; in memory where the system has such a folder.
final class FormatFolder: Sendable {
  let path: String

  init() {
    let memory = FileManager.default.isWritableFile(atPath: "/dev/shm")
    let parent = memory ? URL(filePath: "/dev/shm") : FileManager.default.temporaryDirectory
    path = parent.appending(path: "apus-format-\(UUID().uuidString)").path
    try? FileManager.default.createDirectory(atPath: path, withIntermediateDirectories: true)
  }

  deinit { try? FileManager.default.removeItem(atPath: path) }

  var names: [String] { (try? FileManager.default.contentsOfDirectory(atPath: path)) ?? [] }

  @discardableResult
  func write(_ name: String, _ bytes: [UInt8]) -> String {
    let target = "\(path)/\(name)"
    precondition(FileManager.default.createFile(atPath: target, contents: Data(bytes)), "can't make \(target)")
    return target
  }
}

/// SplitMix64, so that the printed seed brings a failure back.
struct FormatRandom: RandomNumberGenerator {
  var state: UInt64

  mutating func next() -> UInt64 {
    state &+= 0x9E37_79B9_7F4A_7C15
    var z = state
    z = (z ^ z >> 30) &* 0xBF58_476D_1CE4_E5B9
    z = (z ^ z >> 27) &* 0x94D0_49BB_1331_11EB
    return z ^ z >> 31
  }
}

/// The files that numpy and scipy wrote, with `Fixtures/make.py`.
enum FormatFixture {
  static let folder = URL(filePath: #filePath).deletingLastPathComponent().appending(path: "Fixtures").path

  static func path(_ name: String) -> String { "\(folder)/\(name)" }
  static func bytes(_ name: String) throws -> [UInt8] { [UInt8](try Data(contentsOf: URL(filePath: path(name)))) }

  /// What `make.py` put into row `row` and column `column` of an integer type.
  static func number(_ row: Int, _ column: Int, isSigned: Bool = true) -> Int {
    (7 * row + 3 * column) % 17 - (isSigned ? 8 : 0)
  }

  /// The columns in which `make.py`'s access matrix has an entry.
  static func tenants(_ row: Int) -> [UInt32] { (0..<7).filter { (3 * row + 5 * Int($0)) % 4 == 0 } }
}

/// Little-endian bytes of the values.
func bytes<T: FixedWidthInteger>(_ values: T...) -> [UInt8] {
  values.flatMap { value in (0..<MemoryLayout<T>.size).map { UInt8(truncatingIfNeeded: value >> T(8 * $0)) } }
}

/// An npy file of version 1.0 around `data`.
func npyBytes(_ type: String, _ shape: String, _ data: [UInt8], isFortranOrder: Bool = false) -> [UInt8] {
  let order = isFortranOrder ? "True" : "False"
  let text = Array("{'descr': '\(type)', 'fortran_order': \(order), 'shape': \(shape), }\n".utf8)
  return [0x93] + "NUMPY".utf8 + [1, 0] + bytes(UInt16(text.count)) + text + data
}

/// A zip archive with stored members; the checksum is computed bit by bit.
func zipBytes(_ members: [(name: String, data: [UInt8])]) -> [UInt8] {
  var (result, directory): ([UInt8], [UInt8]) = ([], [])
  for (name, data) in members {
    let checksum = ~data.reduce(UInt32.max) { crc, byte in
      (0..<8).reduce(crc ^ UInt32(byte)) { crc, _ in crc & 1 == 1 ? crc >> 1 ^ 0xEDB8_8320 : crc >> 1 }
    }
    let size = UInt32(data.count)
    let common = bytes(UInt16(20), 0, 0, 0, 33) + bytes(checksum, size, size) + bytes(UInt16(name.utf8.count), 0)
    directory += bytes(UInt32(0x0201_4B50)) + bytes(UInt16(20)) + common + bytes(UInt16(0), 0, 0)
    directory += bytes(UInt32(0), UInt32(result.count)) + name.utf8
    result += bytes(UInt32(0x0403_4B50)) + common + name.utf8 + data
  }
  let count = UInt16(members.count)
  let end = bytes(UInt32(0x0605_4B50)) + bytes(UInt16(0), 0, count, count)
  return result + directory + end + bytes(UInt32(directory.count), UInt32(result.count)) + bytes(UInt16(0))
}

/// Expects `body` to throw a `VectorFileError` with `text` in it, and every part of the error to say something.
func expectError(_ text: String, sourceLocation: SourceLocation = #_sourceLocation, _ body: () throws -> Void) {
  do {
    try body()
    Issue.record("nothing was thrown, expected '\(text)'", sourceLocation: sourceLocation)
  } catch let error as VectorFileError {
    let message = "\(error)"
    #expect(message.contains(text), sourceLocation: sourceLocation)
    let parts = [error.path, error.field, error.seen, error.expected, error.wayOut]
    #expect(parts.allSatisfy { !$0.isEmpty }, "\(message)", sourceLocation: sourceLocation)
  } catch {
    Issue.record("an error of another type: \(error)", sourceLocation: sourceLocation)
  }
}
