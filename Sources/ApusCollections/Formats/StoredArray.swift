/// Rows of numbers in a file, whatever its format: described and checked against the file's size, not yet read.
struct StoredArray: Sendable {
  let source: ByteSource
  let type: ElementType
  let rows: Int
  let columns: Int
  /// Bytes of the source before the first row.
  let start: Int
  /// Each row begins with its own number of columns (fvecs and its kin).
  var hasRowHeaders = false

  /// Bytes of a row in the file.
  var stride: Int { (hasRowHeaders ? 4 : 0) + columns * type.byteCount }

  /// Checks the shape against the limits and the bytes that are there.
  init(
    _ source: ByteSource, _ type: ElementType, rows: Int, columns: Int, start: Int, field: String = "shape"
  ) throws(VectorFileError) {
    let shape = "\(rows) × \(columns) of \(type)"
    try source.check(
      rows >= 0 && (1...VectorFileLimits.columns).contains(columns), field, seen: shape,
      expected: "1 to \(VectorFileLimits.columns) columns and no negative number", wayOut: "store one vector a row")
    let (bytes, overflows) = rows.multipliedReportingOverflow(by: columns * type.byteCount)
    try source.check(
      !overflows && bytes == source.count - start, field, seen: shape + ", but \(source.count - start) bytes of data",
      expected: overflows ? "a size that a file can have" : "\(bytes) bytes of data")
    (self.source, self.type, self.rows, self.columns, self.start) = (source, type, rows, columns, start)
  }

  /// A whole npy file or member of an npz; a shape of one number is one row (`isRow`) or one column.
  init(npy source: ByteSource, isRow: Bool) throws(VectorFileError) {
    let header = try NPYHeader(source)
    guard let type = ElementType(rawValue: header.type) else {
      throw source.error(
        "type", seen: "'\(VectorFileError.printable(header.type))'",
        expected: "one of " + ElementType.allCases.map(\.rawValue).joined(separator: ", "),
        wayOut: "convert it: x.astype('<f4') for vectors, x.astype('<i8') for ids")
    }
    try source.check(
      (1...2).contains(header.shape.count), "shape", seen: "\(header.shape)", expected: "one or two dimensions",
      wayOut: "reshape it: x.reshape(n, -1)")
    try source.check(
      !header.isFortranOrder || header.shape.count == 1, "fortran_order", seen: "True",
      expected: "rows that lie together (C order)", wayOut: "save numpy.ascontiguousarray(x)")
    let count = header.shape[0]
    try self.init(
      source, type, rows: header.shape.count == 2 || !isRow ? count : 1,
      columns: header.shape.count == 2 ? header.shape[1] : isRow ? count : 1, start: header.dataOffset)
  }

  /// fvecs, bvecs, ivecs: every row is an int32 d and then d numbers. Source: corpus-texmex.irisa.fr.
  init(vecs source: ByteSource, _ type: ElementType) throws(VectorFileError) {
    let head = try source.head(4)
    try source.check(head.count == 4, "d of row 0", seen: "\(source.count) bytes", expected: "at least one row")
    let columns = Int(head.number(Int32.self, at: 0))
    try source.check(
      (1...VectorFileLimits.columns).contains(columns), "d of row 0", seen: "\(columns)",
      expected: "1 to \(VectorFileLimits.columns)")
    let stride = 4 + columns * type.byteCount
    try source.check(
      source.count % stride == 0, "size", seen: "\(source.count) bytes",
      expected: "a multiple of \(stride), the bytes of a row of \(columns)")
    (self.source, self.type, self.columns, rows) = (source, type, columns, source.count / stride)
    (start, hasRowHeaders) = (0, true)
  }

  /// fbin, u8bin and their kin: uint32 n, uint32 d, then n rows of d numbers. Source: big-ann-benchmarks, README.
  init(bin source: ByteSource, _ type: ElementType) throws(VectorFileError) {
    let head = try source.head(8)
    try source.check(head.count == 8, "header", seen: "\(source.count) bytes", expected: "n and d in 8 bytes")
    try self.init(
      source, type, rows: Int(head.number(UInt32.self, at: 0)), columns: Int(head.number(UInt32.self, at: 4)),
      start: 8, field: "n and d")
  }
}

/// A path, or `PATH.npz:NAME` for an array of an archive, or `PATH.npz:NAME,NAME` for several.
struct FileReference {
  var path: String
  var names: [String]
  /// Of the path, in lower case.
  var ending: String

  init(_ text: String) {
    path = text
    names = []
    if let mark = text.ranges(of: ".npz:").last {
      path = String(text[..<mark.upperBound].dropLast())
      names = text[mark.upperBound...].split(separator: ",").map(String.init)
    }
    ending = path.split(separator: "/").last?.split(separator: ".").last.map { $0.lowercased() } ?? ""
  }
}

extension StoredArray {
  private static let vecsTypes: [String: ElementType] = ["fvecs": .float32, "bvecs": .uint8, "ivecs": .int32]
  private static let binTypes: [String: ElementType] = [
    "fbin": .float32, "f16bin": .float16, "u8bin": .uint8, "i8bin": .int8, "ibin": .int32,
  ]
  static let endings = ["npy", "npz"] + vecsTypes.keys.sorted() + binTypes.keys.sorted()

  /// Opens `reference` as what its ending says.
  static func open(_ reference: FileReference, isRow: Bool) throws(VectorFileError) -> StoredArray {
    if let type = vecsTypes[reference.ending] {
      return try StoredArray(vecs: ByteSource(FileBytes(path: reference.path)), type)
    }
    if let type = binTypes[reference.ending] {
      return try StoredArray(bin: ByteSource(FileBytes(path: reference.path)), type)
    }
    switch reference.ending {
    case "npy": return try StoredArray(npy: ByteSource(FileBytes(path: reference.path)), isRow: isRow)
    case "npz":
      let archive = try ZipArchive(FileBytes(path: reference.path))
      let names = reference.names.isEmpty ? archive.members.map(\.name) : reference.names
      guard names.count == 1 else {
        throw VectorFileError(
          path: reference.path, field: "members", seen: VectorFileError.printable(names.joined(separator: ", ")),
          expected: "one array", wayOut: "name one: PATH.npz:NAME")
      }
      return try StoredArray(npy: archive.source(names[0]), isRow: isRow)
    default:
      throw VectorFileError(
        path: reference.path, field: "ending", seen: "'.\(VectorFileError.printable(reference.ending))'",
        expected: "one of " + endings.joined(separator: ", "),
        wayOut: "name the file by its format; records (.jsonl) and access matrices (.spmat) are given apart")
    }
  }
}
