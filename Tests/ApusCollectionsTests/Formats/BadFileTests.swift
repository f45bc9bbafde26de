import Foundation
import Testing

@testable import ApusCollections

@Suite("Vector files that contradict themselves")
struct BadFileTests {
  private let folder = FormatFolder()

  private func vectors(_ name: String, _ bytes: [UInt8], _ text: String, location: SourceLocation = #_sourceLocation) {
    let path = folder.write(name, bytes)
    expectError(text, sourceLocation: location) { _ = try VectorFile(path: path).readAll() }
  }

  @Test("files that numpy can write and Apus does not read say how to convert them")
  func unsupported() throws {
    for (name, text) in [
      ("fortran.npy", "ascontiguousarray"), ("big-endian.npy", "astype('<f4')"), ("object.npy", "astype('<f4')"),
      ("fields.npy", "plain array"), ("cube.npy", "one or two dimensions"), ("scalar.npy", "one or two dimensions"),
    ] {
      expectError(text) { _ = try VectorFile(path: FormatFixture.path(name)) }
      expectError(text) { _ = try IntegerFile(path: FormatFixture.path(name)) }
    }
    expectError("name one") { _ = try VectorFile(path: FormatFixture.path("types.npz")) }
    expectError("only f2.npy, f4.npy") { _ = try VectorFile(path: FormatFixture.path("types.npz:x")) }
    expectError("one of npy, npz, bvecs") { _ = try VectorFile(path: folder.write("x.parquet", [])) }
    expectError("name the file by its format") { _ = try VectorFile(path: folder.write("x", [])) }
    expectError("No such file") { _ = try VectorFile(path: folder.path + "/absent.npy") }
    expectError("a directory") { _ = try JSONLinesFile(path: folder.path) }
    expectError("2 columns") { _ = try IntegerFile(path: FormatFixture.path("ids.npy"), columns: 2) }
    expectError("above 9223372036854775807") {
      let data = bytes(UInt64(1), .max)
      _ = try IntegerFile(path: folder.write("x.npy", npyBytes("<u8", "(2,)", data))).readAll()
    }
  }

  @Test("npy headers are checked against the file before anything is allocated")
  func npy() {
    vectors("a.npy", [], "npy magic")
    vectors("a.npy", [0x93] + "NUMPY".utf8 + [4, 0, 1, 0, 0, 0], "version 1, 2 or 3")
    vectors("a.npy", [0x93] + "NUMPY".utf8 + [1, 0, 0xFF, 0xFF, 0x7B, 0x7D], "npy header length: found 65535")
    vectors("a.npy", [0x93] + "NUMPY".utf8 + [2, 0, 0xFF, 0xFF, 0xFF, 0xFF], "npy header length: found 4294967295")
    for shape in ["(-1, 4)", "(4, -1)", "(99999999999999999999, 4)", "(4", "4", "[1, 4]", "(1, a)"] {
      vectors("a.npy", npyBytes("<f4", shape, [0, 0, 0, 0]), "npy header")
    }
    let shapes = [
      "(9223372036854775807, 4)", "(4611686018427387904, 65536)", "(2, 65537)", "(1, 0)", "()", "(1, 1, 1)",
    ]
    for shape in shapes {
      vectors("a.npy", npyBytes("<f4", shape, [0, 0, 0, 0]), "shape")
    }
    vectors("a.npy", npyBytes("<f4", "(2, 1)", [0, 0, 0, 0, 0, 0, 0]), "7 bytes of data, expected 8 bytes")
    vectors("a.npy", npyBytes("<f4", "(2, 1)", [0, 0, 0, 0, 0, 0, 0, 0, 0]), "9 bytes of data, expected 8 bytes")
    vectors("a.npy", npyBytes("<c8", "(1, 1)", [0, 0, 0, 0, 0, 0, 0, 0]), "'<c8'")
    vectors("a.npy", npyBytes("\u{1B}[31m", "(1, 1)", []), "\\u{1B}")
  }

  @Test("the headers of vecs and bin files are checked against the file")
  func binaries() {
    vectors("a.fvecs", [], "at least one row")
    vectors("a.fvecs", bytes(Int32(-3), 0), "d of row 0: found -3")
    vectors("a.fvecs", bytes(Int32(0), 0), "d of row 0: found 0")
    vectors("a.fvecs", bytes(Int32.max, 0), "d of row 0: found 2147483647")
    vectors("a.fvecs", bytes(Int32(1), 0, 1), "a multiple of 8")
    vectors("a.fvecs", bytes(Int32(1), 0, 2, 0), "d of row 1: found 2, expected 1")
    vectors("a.bvecs", bytes(Int32(3)) + [1, 2], "a multiple of 7")
    vectors("a.fbin", [1, 0, 0], "n and d in 8 bytes")
    vectors("a.fbin", bytes(UInt32.max, .max), "1 to 65536 columns")
    vectors("a.fbin", bytes(UInt32.max, 65_536), "but 0 bytes of data")
    vectors("a.fbin", bytes(UInt32(1), 0), "1 to 65536 columns")
    vectors("a.u8bin", bytes(UInt32(1), 4) + [1, 2, 3, 4, 5], "5 bytes of data, expected 4 bytes")
  }

  @Test("archives: truncated, forged, bombs, broken streams, encrypted, wrong checksums")
  func archives() throws {
    let good = try FormatFixture.bytes("deflated.npz")
    let entry = try #require(good.firstRange(of: bytes(UInt32(0x0201_4B50)))?.lowerBound)
    func forged(_ offset: Int, _ new: [UInt8], _ text: String, location: SourceLocation = #_sourceLocation) {
      var changed = good
      changed.replaceSubrange(offset..<offset + new.count, with: new)
      let path = folder.write("a.npz", changed)
      expectError(text, sourceLocation: location) { _ = try VectorFile(path: path + ":half").readAll() }
    }
    vectors("a.npz", [], "zip end record")
    vectors("a.npz", Array(good.dropLast(30)), "zip end record")
    vectors("a.npz", Array(good.dropFirst(100)), "zip directory")
    forged(entry + 8, [1], "an encrypted one")
    forged(entry + 10, [12], "compression method")
    forged(entry + 16, [1, 2, 3, 4], "CRC-32")
    forged(entry + 20, [10], "too early")
    forged(entry + 20, [0xFF, 0xFF, 0, 0], "before byte")
    // 1 GiB out of 200 bytes; within deflate's ratio but more than the stream has; less than it has.
    forged(entry + 24, [0, 0, 0, 0x40], "deflate's limit")
    forged(entry + 24, [0, 16, 0, 0], "but 3968 bytes of data")
    forged(entry + 24, [20], "but 404 bytes of data")
    forged(entry + 42, [0xFF, 0xFF, 0xFF, 0x7F], "header offset")
    forged(entry + 42, [1], "local header")
    // A block of the type that deflate reserves, where the data start.
    forged(58, [0xFF], "a broken deflate stream")
    let twice = npyBytes("<f4", "(1, 1)", [0, 0, 0, 0])
    vectors("a.npz", zipBytes([("a.npy", twice), ("a.npy", twice)]), "each name once")
    #expect(try VectorFile(path: folder.write("b.npz", zipBytes([("a.npy", twice)]))).readAll() == [0])
    // The shape agrees with the announced size, the stream doesn't have it.
    let long = npyBytes("<f4", "(1, 1)", [0, 0, 0, 0])
    var zip = zipBytes([("a.npy", long)])
    zip[30 + 5 + 2] ^= 1
    vectors("a.npz", zip, "npy magic")
  }

  @Test("every truncation of every fixture gives an error or a file of the rows that are left")
  func truncations() throws {
    for name in try FileManager.default.contentsOfDirectory(atPath: FormatFixture.folder) where !name.hasSuffix(".py") {
      let whole = try FormatFixture.bytes(name)
      for count in 0..<whole.count { _ = try FormatUse.all(folder.write(name, Array(whole[..<count]))) }
    }
  }
}
