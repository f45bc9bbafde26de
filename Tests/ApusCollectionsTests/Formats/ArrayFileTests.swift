import Foundation
import Testing

@testable import ApusCollections

@Suite("Files of vectors and integers")
struct ArrayFileTests {
  private func expected(_ rows: Int, _ columns: Int, _ type: ElementType) -> [Float] {
    let isSigned = type != .uint8 && type != .uint32 && type != .uint64
    let scale: Float = [.float16, .float32, .float64].contains(type) ? 0.25 : 1
    return (0..<rows * columns).map {
      Float(FormatFixture.number($0 / columns, $0 % columns, isSigned: isSigned)) * scale
    }
  }

  @Test(
    "what numpy wrote is read as numpy's values",
    arguments: [
      ("v1.npy", ElementType.float32), ("v2.npy", .float32), ("v3.npy", .float32), ("zip64.npz", .float32),
      ("types.npz:f2", .float16), ("types.npz:f4", .float32), ("types.npz:f8", .float64), ("types.npz:i1", .int8),
      ("types.npz:u1", .uint8), ("types.npz:i4", .int32), ("types.npz:u4", .uint32), ("types.npz:i8", .int64),
      ("types.npz:u8.npy", .uint64), ("base.fvecs", .float32), ("base.bvecs", .uint8), ("base.ivecs", .int32),
      ("base.fbin", .float32), ("base.f16bin", .float16), ("base.u8bin", .uint8), ("base.i8bin", .int8),
      ("base.ibin", .int32),
    ])
  func numpy(name: String, type: ElementType) throws {
    let file = try VectorFile(path: FormatFixture.path(name))
    #expect(file.count == 3 && file.dim == 5 && file.storedType == type)
    #expect(try file.readAll() == expected(3, 5, type))
    guard type.isInteger else { return expectError("integers") { _ = try IntegerFile(path: FormatFixture.path(name)) } }
    let integers = try IntegerFile(path: FormatFixture.path(name), columns: 5).readAll()
    #expect(integers == expected(3, 5, type).map { Int64($0) })
  }

  @Test("deflated members are read, and an array of one dimension is one vector or one column")
  func deflated() throws {
    let path = FormatFixture.path("deflated.npz")
    #expect(try VectorFile(path: path + ":half").readAll() == expected(40, 6, .float16))
    let (row, column) = (try VectorFile(path: path + ":ids"), try IntegerFile(path: path + ":ids", columns: 1))
    #expect(row.count == 1 && row.dim == 5 && column.count == 5)
    #expect(try column.readAll() == (0..<5).map { Int64(FormatFixture.number(0, $0)) })
    let members = try NPZFile(path: path).members
    #expect(members.map(\.name) == ["half", "ids"] && members.map(\.type) == ["<f2", "<i8"])
    #expect(members.map(\.shape) == [[40, 6], [5]])
  }

  @Test("batches of any size give the rows of one reading")
  func batches() throws {
    let seed: UInt64 = 0xBA7C
    print("seed \(seed)")
    var random = FormatRandom(state: seed)
    for name in ["deflated.npz:half", "types.npz:f8", "base.bvecs", "base.ibin"] {
      let file = try VectorFile(path: FormatFixture.path(name))
      let all = try file.readAll()
      for _ in 0..<50 {
        let reader = try file.reader()
        var (parts, values, row): ([Float], [Float], Int) = ([], [], 0)
        while true {
          let rows = Int.random(in: 1...9, using: &random)
          let range = try reader.next(rows, into: &values)
          #expect(range == row..<min(row + rows, file.count) && values.count == range.count * file.dim)
          if range.isEmpty { break }
          row = range.upperBound
          parts += values
        }
        #expect(parts == all)
      }
    }
  }

  @Test("every half becomes its float, NaN and infinity among them")
  func halves() throws {
    let folder = FormatFolder()
    let halves = (0...UInt16.max).flatMap { bytes($0) }
    let file = try VectorFile(path: folder.write("x.npy", npyBytes("<f2", "(256, 256)", halves)))
    for (bits, value) in zip(0...UInt16.max, try file.readAll()) {
      let oracle = Float(Float16(bitPattern: bits))
      #expect(value == oracle && value.sign == oracle.sign || value.isNaN && oracle.isNaN, "\(bits): \(value)")
    }
  }

  @Test("what is written is read back, and numpy's own bytes are written")
  func roundTrip() throws {
    let seed: UInt64 = 0x0707
    print("seed \(seed)")
    var random = FormatRandom(state: seed)
    let folder = FormatFolder()
    for _ in 0..<40 {
      let (rows, columns) = (Int.random(in: 0...300, using: &random), Int.random(in: 1...40, using: &random))
      let floats = (0..<rows * columns).map { _ in Float(bitPattern: UInt32(truncatingIfNeeded: random.next())) }
      let integers = (0..<rows * columns).map { _ in Int64(bitPattern: random.next()) }
      var npy = try NPYWriter<Float>(path: folder.path + "/f.npy", columns: columns)
      var ids = try NPYWriter<Int64>(path: folder.path + "/i.npy", columns: columns)
      var flat = try NPYWriter<Int64>(path: folder.path + "/flat.npy")
      for start in stride(from: 0, to: rows, by: 7) {
        let part = start * columns..<min(start + 7, rows) * columns
        try npy.append(Array(floats[part]))
        try ids.append(Array(integers[part]))
        try flat.append(Array(integers[part]))
      }
      try npy.finish()
      try ids.finish()
      try flat.finish()
      let file = try VectorFile(path: folder.path + "/f.npy", columns: columns)
      #expect(file.count == rows)
      #expect(try file.readAll().map(\.bitPattern) == floats.map(\.bitPattern))
      #expect(try IntegerFile(path: folder.path + "/i.npy", columns: columns).readAll() == integers)
      #expect(try IntegerFile(path: folder.path + "/flat.npy", columns: 1).readAll() == integers)
      if rows == 0 { continue }
      var vecs = try FVecsWriter(path: folder.path + "/f.fvecs", dim: columns)
      try vecs.append(floats)
      try vecs.finish()
      #expect(try VectorFile(path: folder.path + "/f.fvecs").readAll().map(\.bitPattern) == floats.map(\.bitPattern))
    }
    var writer = try NPYWriter<Float>(path: folder.path + "/v1.npy", columns: 5)
    try writer.append(expected(3, 5, .float32))
    try writer.finish()
    var ids = try NPYWriter<Int64>(path: folder.path + "/ids.npy")
    try ids.append((0..<5).map { Int64(FormatFixture.number(0, $0)) })
    try ids.finish()
    var vecs = try FVecsWriter(path: folder.path + "/base.fvecs", dim: 5)
    try vecs.append(expected(3, 5, .float32))
    try vecs.finish()
    for name in ["v1.npy", "ids.npy", "base.fvecs"] {
      #expect(try Data(contentsOf: URL(filePath: "\(folder.path)/\(name)")) == Data(FormatFixture.bytes(name)))
    }
  }

  @Test("a file appears when it is finished, replaces the old one then, and leaves nothing behind before")
  func publication() throws {
    let folder = FormatFolder()
    let path = folder.write("x.npy", [1, 2, 3])
    do {
      var writer = try NPYWriter<Float>(path: path, columns: 1000)
      try writer.append([Float](repeating: 1, count: 1_000_000))
      #expect(folder.names.count == 2)
    }
    #expect(folder.names == ["x.npy"] && FileManager.default.contents(atPath: path) == Data([1, 2, 3]))
    let writer = try NPYWriter<Float>(path: path, columns: 1000)
    try writer.finish()
    #expect(folder.names == ["x.npy"])
    #expect(try VectorFile(path: path).count == 0)
    expectError("No such file") { _ = try NPYWriter<Float>(path: folder.path + "/no/x.npy") }
    try FileManager.default.createDirectory(atPath: folder.path + "/d.npy/e", withIntermediateDirectories: true)
    expectError("directory") {
      let writer = try NPYWriter<Float>(path: folder.path + "/d.npy")
      try writer.finish()
    }
    #expect(folder.names.sorted() == ["d.npy", "x.npy"])
  }

  @Test("a file of 512 MiB is read in less than 64 MiB")
  func memory() async {
    await #expect(processExitsWith: .success) {
      let folder = FormatFolder()
      let path = folder.write("x.f16bin", bytes(UInt32(1 << 18), 1 << 10))
      precondition(truncate(path, 8 + 1 << 29) == 0)
      let before = peakResidentBytes()
      var count = 0
      try VectorFile(path: path).forEachBatch { count += $1.count }
      let grown = peakResidentBytes() - before
      precondition(count == 1 << 28 && grown < 64 << 20, "\(grown) bytes for \(count) numbers")
    }
  }

  @Test("a file that is shortened while it is read gives an error")
  func shortened() throws {
    let folder = FormatFolder()
    let path = folder.write("x.fbin", bytes(UInt32(1000), 100) + [UInt8](repeating: 0, count: 400_000))
    let reader = try VectorFile(path: path).reader()
    var values: [Float] = []
    #expect(try reader.next(10, into: &values) == 0..<10)
    #expect(truncate(path, 8000) == 0)
    expectError("the end of the file") { _ = try reader.next(990, into: &values) }
  }
}

/// Peak resident bytes of this process so far.
func peakResidentBytes() -> Int {
  let status = (try? String(contentsOfFile: "/proc/self/status", encoding: .utf8)) ?? ""
  let line = status.split(separator: "\n").first { $0.hasPrefix("VmHWM:") }
  return (line?.split(separator: " ").dropLast().last.flatMap { Int($0) } ?? 0) * 1024
}
