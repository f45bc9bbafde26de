/// Which tenants may see which vectors: a sparse matrix in CSR form, a row for each vector and a column for each tenant.
///
/// Read from an npz with `indptr`, `indices` and perhaps `shape` (scipy.sparse.save_npz writes these too), from arrays of
/// other names as `PATH.npz:INDPTR,INDICES`, or from the `spmat` of big-ann-benchmarks. Every stored entry is a grant; a
/// zero among stored values is refused, because nobody can tell which of the two was meant.
public struct AccessMatrix: Sendable {
  public let path: String
  /// Vectors.
  public var rows: Int { offsets.rows - 1 }
  /// Tenants; nil when the file doesn't say.
  public let columns: Int?
  /// Grants.
  public var grants: Int { indices.rows }
  fileprivate let offsets: StoredArray
  fileprivate let indices: StoredArray
  fileprivate let values: StoredArray?

  /// Opens the matrix and checks its headers; `validate()` or reading checks the rest. Throws `VectorFileError`.
  public init(path: String) throws(VectorFileError) {
    let reference = FileReference(path)
    self.path = path
    switch reference.ending {
    case "npz":
      let archive = try ZipArchive(FileBytes(path: reference.path))
      (offsets, indices, values, columns) = try Self.open(archive, reference.names)
    case "spmat":
      (offsets, indices, values, columns) = try Self.open(spmat: ByteSource(FileBytes(path: path)))
    default:
      throw VectorFileError(
        path: path, field: "ending", seen: "'.\(VectorFileError.printable(reference.ending))'",
        expected: "npz or spmat", wayOut: "write it with scipy.sparse.save_npz")
    }
    for array in [offsets, indices] {
      try array.source.check(
        array.type.isInteger && array.columns == 1, "type", seen: "\(array.columns) columns of \(array.type)",
        expected: "one dimension of integers", wayOut: "write it with scipy.sparse.save_npz")
    }
    try indices.source.check(
      offsets.rows >= 1 && (values == nil || values?.rows == indices.rows && values?.columns == 1), "shape",
      seen: "\(offsets.rows) row offsets, \(indices.rows) indices, \(values?.rows ?? 0) values",
      expected: "rows + 1, and as many indices as values")
  }

  private typealias Parts = (StoredArray, StoredArray, StoredArray?, Int?)

  private static func open(_ archive: ZipArchive, _ names: [String]) throws(VectorFileError) -> Parts {
    func has(_ name: String) -> Bool { archive.members.contains { $0.name == name + ".npy" } }
    func array(_ name: String) throws(VectorFileError) -> StoredArray {
      try StoredArray(npy: archive.source(name), isRow: false)
    }
    if names.isEmpty ? !has("indptr") || !has("indices") : names.count != 2 {
      throw VectorFileError(
        path: archive.file.path, field: "members", seen: archive.memberList, expected: "indptr and indices",
        wayOut: "write it with scipy.sparse.save_npz, or name the arrays: PATH.npz:INDPTR,INDICES")
    }
    if !names.isEmpty { return (try array(names[0]), try array(names[1]), nil, nil) }
    if has("format") {
      let source = try archive.source("format")
      let header = try NPYHeader(source)
      // A string of bytes, in old files of UCS-4 characters.
      let text = try source.head(header.dataOffset + 12).dropFirst(header.dataOffset).filter { $0 != 0 }
      try source.check(
        text == Array("csr".utf8), "value", seen: VectorFileError.printable(String(decoding: text, as: UTF8.self)),
        expected: "csr", wayOut: "save matrix.tocsr()")
    }
    let offsets = try array("indptr")
    var columns: Int?
    if has("shape") {
      let shape = try array("shape")
      let reader = try RowReader<Int64>(shape)
      var numbers: [Int64] = []
      if shape.type.isInteger { _ = try reader.next(3, into: &numbers) }
      try shape.source.check(
        numbers.count == 2 && numbers[0] == Int64(offsets.rows - 1) && numbers[1] >= 0, "value", seen: "\(numbers)",
        expected: "\(offsets.rows - 1) rows, as indptr has, and columns")
      columns = Int(numbers[1])
    }
    return (offsets, try array("indices"), has("data") ? try array("data") : nil, columns)
  }

  /// int64 rows, columns, nnz; int64 indptr[rows + 1]; int32 indices[nnz]; float32 values[nnz].
  /// Source: big-ann-benchmarks, dataset_io.py.
  private static func open(spmat source: ByteSource) throws(VectorFileError) -> Parts {
    let head = try source.head(24)
    try source.check(head.count == 24, "header", seen: "\(source.count) bytes", expected: "three numbers in 24 bytes")
    let numbers = [0, 8, 16].map { Int(head.number(Int64.self, at: $0)) }
    let (rows, columns, grants) = (numbers[0], numbers[1], numbers[2])
    // Each is bounded by the file before they are multiplied.
    try source.check(
      numbers.allSatisfy { $0 >= 0 } && rows < source.count / 8 && grants <= source.count / 8
        && source.count == 24 + 8 * (rows + 1) + 8 * grants, "rows, columns, grants",
      seen: "\(numbers), but \(source.count) bytes", expected: "24 + 8 · (rows + 1) + 8 · grants bytes")
    func part(
      _ name: String, _ type: ElementType, at start: Int, _ count: Int
    ) throws(VectorFileError) -> StoredArray {
      var part = source
      part.name = name
      part.range = start..<start + count * type.byteCount
      part.count = part.range.count
      return try StoredArray(part, type, rows: count, columns: 1, start: 0)
    }
    let start = 24 + 8 * (rows + 1)
    return (
      try part("indptr", .int64, at: 24, rows + 1), try part("indices", .int32, at: start, grants),
      try part("values", .float32, at: start + 4 * grants, grants), columns
    )
  }

  /// A reader at the first row.
  public func reader() throws(VectorFileError) -> AccessReader { try AccessReader(self) }

  /// Calls `body` with the rows, front to back, up to `rows` at a time.
  public func forEachBatch(rows: Int = 4096, _ body: (AccessBatch) throws -> Void) throws {
    var reader = try reader()
    var batch = AccessBatch()
    while try !reader.next(rows, into: &batch).isEmpty { try body(batch) }
  }

  /// Reads the whole matrix and keeps nothing: throws what is wrong in it before anything is imported.
  public func validate() throws { try forEachBatch { _ in } }
}

/// The tenants of some rows of an access matrix.
public struct AccessBatch: Sendable {
  public fileprivate(set) var firstRow = 0
  /// Of all rows, one after the other.
  public fileprivate(set) var tenants: [UInt32] = []
  /// Where the rows end in `tenants`, with a 0 in front.
  public fileprivate(set) var offsets: [Int] = [0]

  public init() {}

  public var count: Int { offsets.count - 1 }

  /// The tenants of row `firstRow + index`, as stored.
  public subscript(index: Int) -> ArraySlice<UInt32> { tenants[offsets[index]..<offsets[index + 1]] }
}

/// Reads an access matrix front to back.
public struct AccessReader: ~Copyable {
  private let matrix: AccessMatrix
  private let offsetReader: RowReader<Int64>
  private let indexReader: RowReader<Int64>
  private let valueReader: RowReader<Float>?
  /// Of the rows of the last batch, checked; the last one is where the next row begins.
  private var offsets: [Int64] = []
  private var row = 0
  private var integers: [Int64] = []
  private var floats: [Float] = []

  fileprivate init(_ matrix: AccessMatrix) throws(VectorFileError) {
    let (offsets, indices) = (try RowReader<Int64>(matrix.offsets), try RowReader<Int64>(matrix.indices))
    let values = try matrix.values.map { values throws(VectorFileError) in try RowReader<Float>(values) }
    (self.matrix, offsetReader, indexReader, valueReader) = (matrix, offsets, indices, values)
  }

  /// Makes `batch` the next `rows` rows, fewer only at the end; returns their numbers, none at the end.
  ///
  /// Throws `VectorFileError` for offsets that go down, tenants outside of the matrix, and rows with more than
  /// `VectorFileLimits.grants` grants together.
  @discardableResult
  public mutating func next(_ rows: Int, into batch: inout AccessBatch) throws(VectorFileError) -> Range<Int> {
    precondition(rows > 0)
    let range = row..<row + min(rows, matrix.rows - row)
    offsets.removeFirst(max(0, offsets.count - 1))
    try extend(by: range.count + (offsets.isEmpty ? 1 : 0))
    batch.firstRow = row
    batch.offsets = offsets.map { Int($0 - offsets[0]) }
    try readTenants(batch.offsets[range.count], into: &batch.tenants)
    row = range.upperBound
    return range
  }

  /// Reads `count` more offsets.
  private mutating func extend(by count: Int) throws(VectorFileError) {
    if count == 0 { return }
    let range = try offsetReader.next(count, into: &integers)
    for (index, offset) in zip(range, integers) {
      let (least, most) = (offsets.last ?? 0, Int64(matrix.grants))
      let isLast = index == matrix.rows
      try matrix.offsets.source.check(
        offset >= least && offset <= (index == 0 ? 0 : most) && (!isLast || offset == most), "row offset \(index)",
        seen: "\(offset)", expected: index == 0 ? "0" : isLast ? "\(most), as many as indices" : "\(least) to \(most)",
        wayOut: "write the matrix with scipy.sparse.save_npz")
      offsets.append(offset)
    }
  }

  private mutating func readTenants(_ count: Int, into tenants: inout [UInt32]) throws(VectorFileError) {
    try matrix.indices.source.check(
      count <= VectorFileLimits.grants, "rows from \(row) on", seen: "\(count) grants",
      expected: "at most \(VectorFileLimits.grants) at a time",
      wayOut: "grant to a group instead, or read fewer rows at a time")
    tenants.removeAll(keepingCapacity: true)
    tenants.reserveCapacity(count)
    let bound = Int64(min(matrix.columns ?? .max, 1 << 32))
    while tenants.count < count {
      let range = try indexReader.next(min(count - tenants.count, 1 << 18), into: &integers)
      for (index, tenant) in zip(range, integers) {
        try matrix.indices.source.check(
          tenant >= 0 && tenant < bound, "index \(index)", seen: "tenant \(tenant)",
          expected: "at least 0 and below \(bound)", wayOut: "give the matrix as many columns as there are tenants")
        tenants.append(UInt32(tenant))
      }
      _ = try valueReader?.next(range.count, into: &floats)
      try matrix.indices.source.check(
        !floats.contains(0), "indices \(range)", seen: "an entry whose value is 0",
        expected: "only entries that are grants", wayOut: "call matrix.eliminate_zeros() before saving")
    }
  }
}
