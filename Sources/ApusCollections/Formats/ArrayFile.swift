/// Vectors of floats, `[count, dim]`: an npy array of one dimension is one vector. Stored integers, halves and doubles
/// are converted; NaN and infinity pass through, the index refuses them.
public typealias VectorFile = ArrayFile<Float>

/// Integers, `[count, columns]`: ids, tenants, pairs, true neighbours. An npy array of one dimension is one column.
public typealias IntegerFile = ArrayFile<Int64>

/// Rows of numbers in a file: npy, an array of an npz (`PATH.npz:NAME`), fvecs, bvecs, ivecs, fbin, f16bin, u8bin, i8bin
/// or ibin, as the path's ending says.
///
///     try VectorFile(path: "base.npy").forEachBatch { firstRow, values in … }
///
/// Opening checks the header against the file's size and reads nothing else. Memory is that of the batches, whatever the
/// file's size.
public struct ArrayFile<Element: ArrayElement>: Sendable {
  public let path: String
  public var count: Int { array.rows }
  /// Numbers of a row.
  public var columns: Int { array.columns }
  /// As stored.
  public var storedType: ElementType { array.type }
  /// Rows that fill 16 MiB.
  public var batchRows: Int { max(1, (16 << 20) / (columns * MemoryLayout<Element>.size)) }
  private let array: StoredArray

  /// Opens the file, which must have `columns` columns if that is given.
  ///
  /// Throws `VectorFileError`, also when integers are asked for and the numbers are none. Complexity: O(1), for npz
  /// O(members).
  public init(path: String, columns: Int? = nil) throws(VectorFileError) {
    self.path = path
    let isInteger = Element.elementType.isInteger
    array = try StoredArray.open(FileReference(path), isRow: !isInteger)
    try array.source.check(
      !isInteger || array.type.isInteger, "type", seen: array.type.rawValue, expected: "integers",
      wayOut: "convert it: x.astype('<i8')")
    try array.source.check(
      columns == nil || columns == array.columns, "shape", seen: "\(array.rows) × \(array.columns)",
      expected: "\(columns ?? 0) columns", wayOut: "give the file that has them")
  }

  /// A reader at the first row.
  public func reader() throws(VectorFileError) -> RowReader<Element> { try RowReader(array) }

  /// Calls `body` with the number of a first row and the `values` of up to `rows` rows, front to back; `batchRows` at a
  /// time unless `rows` is given.
  public func forEachBatch(rows: Int? = nil, _ body: (_ firstRow: Int, _ values: [Element]) throws -> Void) throws {
    let reader = try reader()
    var values: [Element] = []
    while true {
      let range = try reader.next(rows ?? batchRows, into: &values)
      if range.isEmpty { return }
      try body(range.lowerBound, values)
    }
  }

  /// All numbers, `[count, columns]`; at most `VectorFileLimits.wholeNumbers`.
  public func readAll() throws -> [Element] {
    try array.source.check(
      count <= VectorFileLimits.wholeNumbers / columns, "shape", seen: "\(count) × \(columns)",
      expected: "at most \(VectorFileLimits.wholeNumbers) numbers", wayOut: "split the file")
    var all: [Element] = []
    try forEachBatch { all += $1 }
    return all
  }
}

extension ArrayFile where Element == Float {
  /// Numbers of a vector.
  public var dim: Int { columns }
}

/// Reads rows of numbers front to back.
public final class RowReader<Element: ArrayElement> {
  let array: StoredArray
  private let stream: ByteStream
  private var row = 0
  private var encoded: EncodedRows

  init(_ array: StoredArray) throws(VectorFileError) {
    var encoded = EncodedRows(type: array.type, columns: array.columns, headerBytes: array.hasRowHeaders ? 4 : 0)
    let stream = array.source.open()
    try stream.read(array.start, into: &encoded.bytes)
    (self.array, self.stream, self.encoded) = (array, stream, encoded)
  }

  /// Makes `values` the next `rows` rows, `[rows, columns]`, fewer only at the end; returns their numbers, none at the
  /// end.
  ///
  /// Throws `VectorFileError`. Complexity: O(numbers); `values` keeps its memory from call to call.
  public func next(_ rows: Int, into values: inout [Element]) throws(VectorFileError) -> Range<Int> {
    precondition(rows > 0)
    let range = row..<row + min(rows, array.rows - row)
    if range.isEmpty {
      values.removeAll()
      return range
    }
    try stream.read(range.count * array.stride, into: &encoded.bytes)
    encoded.rows = range.count
    if array.hasRowHeaders {
      for row in range {
        let columns = encoded.bytes.number(Int32.self, at: (row - range.lowerBound) * array.stride)
        try array.source.check(
          columns == array.columns, "d of row \(row)", seen: "\(columns)", expected: "\(array.columns), as in row 0",
          wayOut: "store vectors of one dimension in a file")
      }
    }
    if let index = Element.decode(encoded, into: &values) {
      throw array.source.error(
        "row \(row + index / array.columns)", seen: "an integer above \(Int64.max)",
        expected: "64 bits with a sign", wayOut: "number from 0")
    }
    row = range.upperBound
    return range
  }
}

/// What an npz archive holds.
public struct NPZFile: Sendable {
  public struct Member: Sendable, Equatable {
    public var name: String
    /// numpy's name of the type: `<f4`.
    public var type: String
    public var shape: [Int]
  }

  public let path: String
  public let members: [Member]

  /// Reads the names and headers. Throws `VectorFileError`. Complexity: O(members).
  public init(path: String) throws(VectorFileError) {
    let archive = try ZipArchive(FileBytes(path: path))
    var members: [Member] = []
    for member in archive.members where member.name.hasSuffix(".npy") {
      let header = try NPYHeader(archive.source(member.name))
      members.append(Member(name: String(member.name.dropLast(4)), type: header.type, shape: header.shape))
    }
    self.path = path
    self.members = members
  }
}
