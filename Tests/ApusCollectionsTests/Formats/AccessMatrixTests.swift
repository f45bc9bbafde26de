import Foundation
import Testing

@testable import ApusCollections

@Suite("Access matrices")
struct AccessMatrixTests {
  private let folder = FormatFolder()

  @Test(
    "scipy's npz, big-ann-benchmarks' spmat and named arrays give the same rows",
    arguments: [
      "csr.npz", "access.spmat", "csr.npz:indptr,indices",
    ])
  func fixtures(name: String) throws {
    let matrix = try AccessMatrix(path: FormatFixture.path(name))
    #expect(matrix.rows == 6 && matrix.columns == (name.contains(":") ? nil : 7))
    try matrix.validate()
    for rows in 1...7 {
      var next = 0
      try matrix.forEachBatch(rows: rows) { batch in
        #expect(batch.firstRow == next && batch.count == min(rows, 6 - next))
        for index in 0..<batch.count { #expect(Array(batch[index]) == FormatFixture.tenants(next + index)) }
        next += batch.count
      }
      #expect(next == 6)
    }
  }

  @Test("random matrices are read as they were made, whatever the batches")
  func random() throws {
    let seed: UInt64 = 0xACCE
    print("seed \(seed)")
    var random = FormatRandom(state: seed)
    for _ in 0..<60 {
      let columns = UInt32.random(in: 1...50, using: &random)
      let rows = (0..<Int.random(in: 0...40, using: &random)).map { _ in
        (0..<Int.random(in: 0...12, using: &random)).map { _ in UInt32.random(in: 0..<columns, using: &random) }
      }
      let ends = rows.reduce(into: [0]) { $0.append($0.last! + $1.count) }
      let isWide = Bool.random(using: &random)
      let indptr = npyBytes("<i8", "(\(ends.count),)", ends.flatMap { bytes(Int64($0)) })
      let data = rows.joined().flatMap { isWide ? bytes(UInt64($0)) : bytes(Int32($0)) }
      let indices = npyBytes(isWide ? "<u8" : "<i4", "(\(ends.last!),)", data)
      let shape = npyBytes("<i8", "(2,)", bytes(Int64(rows.count), Int64(columns)))
      let members = [("indices.npy", indices), ("indptr.npy", indptr), ("shape.npy", shape)]
      let matrix = try AccessMatrix(path: folder.write("a.npz", zipBytes(members)))
      #expect(matrix.rows == rows.count && matrix.columns == Int(columns) && matrix.grants == ends.last)
      var reader = try matrix.reader()
      var batch = AccessBatch()
      var read: [[UInt32]] = []
      while try !reader.next(Int.random(in: 1...9, using: &random), into: &batch).isEmpty {
        read += (0..<batch.count).map { Array(batch[$0]) }
      }
      #expect(read == rows)
    }
  }

  @Test("matrices that contradict themselves, and stored zeros, are refused")
  func bad() throws {
    func expect(
      _ text: String, indptr: [Int64] = [0, 1, 2], indices: [Int32] = [0, 1], shape: [Int64]? = [2, 2],
      location: SourceLocation = #_sourceLocation
    ) {
      var members = [
        ("indptr.npy", npyBytes("<i8", "(\(indptr.count),)", indptr.flatMap { bytes($0) })),
        ("indices.npy", npyBytes("<i4", "(\(indices.count),)", indices.flatMap { bytes($0) })),
      ]
      if let shape { members.append(("shape.npy", npyBytes("<i8", "(\(shape.count),)", shape.flatMap { bytes($0) }))) }
      let path = folder.write("a.npz", zipBytes(members))
      expectError(text, sourceLocation: location) { try AccessMatrix(path: path).validate() }
    }
    expect("row offset 0: found 1", indptr: [1, 1, 2])
    expect("row offset 0: found -1", indptr: [-1, 1, 2])
    expect("row offset 1: found 3", indptr: [0, 3, 2])
    expect("row offset 2: found 1", indptr: [0, 1, 1])
    expect("row offset 1: found -1", indptr: [0, -1, 2])
    expect("row offset 2: found 1", indptr: [0, 2, 1, 2], shape: [3, 2])
    expect("rows + 1", indptr: [], shape: nil)
    expect("tenant 2", indices: [0, 2])
    expect("tenant -1", indices: [0, -1])
    expect("tenant -1", indices: [0, -1], shape: nil)
    expect("2 rows, as indptr has", shape: [3, 2])
    expect("2 rows, as indptr has", shape: [2])
    expect("2 rows, as indptr has", shape: [2, -2])
    expectError("tocsr") { _ = try AccessMatrix(path: FormatFixture.path("csc.npz")) }
    expectError("eliminate_zeros") { try AccessMatrix(path: FormatFixture.path("zero.npz")).validate() }
    expectError("indptr and indices") { _ = try AccessMatrix(path: FormatFixture.path("types.npz")) }
    expectError("columns of float32") { _ = try AccessMatrix(path: FormatFixture.path("types.npz:f4,i8")) }
    expectError("npz or spmat") { _ = try AccessMatrix(path: FormatFixture.path("ids.npy")) }
    let spmat = try FormatFixture.bytes("access.spmat")
    for (offset, value) in [(0, Int64(-1)), (0, .max), (0, 7), (8, -1), (16, .max), (16, 1)] {
      var changed = spmat
      changed.replaceSubrange(offset..<offset + 8, with: bytes(value))
      expectError("rows, columns, grants") { _ = try AccessMatrix(path: folder.write("a.spmat", changed)) }
    }
  }
}
