/// Writes an npy array row by row: `Float` as `<f4`, `Int64` as `<i8`. The file appears with `finish()`.
///
///     var writer = try NPYWriter<Int64>(path: "ids.npy", columns: 10)
///     try writer.append(rows)
///     try writer.finish()
public struct NPYWriter<Element: ArrayElement>: ~Copyable {
  private let columns: Int?
  private var count = 0
  private var output: OutputFile

  /// numpy's own size for arrays of up to two dimensions: the number of rows is filled in at the end.
  private static var headerBytes: Int { 128 }

  /// An array `[n, columns]`, or `[n]` without `columns`. Throws `VectorFileError`.
  public init(path: String, columns: Int? = nil) throws(VectorFileError) {
    precondition(columns ?? 1 > 0)
    var output = try OutputFile(path: path)
    try output.append([UInt8](repeating: 0x20, count: Self.headerBytes))
    self.columns = columns
    self.output = output
  }

  /// Adds whole rows, `[rows, columns]`.
  public mutating func append(_ values: [Element]) throws(VectorFileError) {
    precondition(values.count % (columns ?? 1) == 0)
    count += values.count
    try output.append(values)
  }

  /// Completes the file and publishes it under its name.
  public consuming func finish() throws(VectorFileError) {
    let shape = columns.map { "(\(count / $0), \($0))" } ?? "(\(count),)"
    let text = "{'descr': '\(Element.elementType.rawValue)', 'fortran_order': False, 'shape': \(shape), }"
    // Magic, version 1.0, the length of the text, the text up to a newline.
    var header: [UInt8] = [0x93] + "NUMPY".utf8 + [1, 0, UInt8(Self.headerBytes - 10), 0] + text.utf8
    header += [UInt8](repeating: 0x20, count: Self.headerBytes - 1 - header.count) + [0x0A]
    try output.finish(header: header)
  }
}

/// Writes fvecs: an int32 d before the d floats of every row. The file appears with `finish()`.
public struct FVecsWriter: ~Copyable {
  private let dim: Int
  private var output: OutputFile

  /// Throws `VectorFileError`.
  public init(path: String, dim: Int) throws(VectorFileError) {
    precondition((1...VectorFileLimits.columns).contains(dim))
    output = try OutputFile(path: path)
    self.dim = dim
  }

  /// Adds whole rows, `[rows, dim]`.
  public mutating func append(_ values: [Float]) throws(VectorFileError) {
    precondition(values.count % dim == 0)
    // The header is an integer's bits in a float's place.
    let header = Float(bitPattern: UInt32(dim))
    for start in stride(from: 0, to: values.count, by: dim) {
      try output.append([header] + values[start..<start + dim])
    }
  }

  /// Publishes the file under its name.
  public consuming func finish() throws(VectorFileError) { try output.finish() }
}

/// Writes records as JSON Lines, as `JSONLinesFile` reads them. The file appears with `finish()`.
public struct JSONLinesWriter: ~Copyable {
  private var output: OutputFile
  private let path: String
  private var line = 0

  /// Throws `VectorFileError`.
  public init(path: String) throws(VectorFileError) {
    output = try OutputFile(path: path)
    self.path = path
  }

  /// Adds a line. Throws `VectorFileError` when a number isn't finite or the payload isn't a JSON object.
  public mutating func append(_ record: VectorRecord) throws(VectorFileError) {
    line += 1
    var text = "{\"id\": \(Self.json(record.id))"
    if let vector = record.vector {
      if let number = vector.first(where: { !$0.isFinite }) {
        throw error("vector", seen: "\(number)", expected: "finite numbers", wayOut: "export as npy")
      }
      text += ", \"vector\": [" + vector.map(\.description).joined(separator: ", ") + "]"
    }
    if let body = record.text { text += ", \"text\": \(Self.quoted(body))" }
    let tenants = record.tenants.map(Self.json).joined(separator: ", ")
    if !tenants.isEmpty { text += ", \"tenants\": [\(tenants)]" }
    if let payload = record.payload {
      let bytes = Array(payload.utf8)
      var cursor = JSONCursor(bytes, 0..<bytes.count)
      guard (try? cursor.objectText()) != nil, cursor.peek() == 0, cursor.at == bytes.count else {
        throw error(
          "payload", seen: VectorFileError.printable(payload), expected: "a JSON object", wayOut: "mend the record")
      }
      // Outside of strings, where JSON allows none, an end of line is white space.
      text += ", \"payload\": " + String(decoding: bytes.map { $0 == 0x0A || $0 == 0x0D ? 0x20 : $0 }, as: UTF8.self)
    }
    text += "}\n"
    try output.append(Array(text.utf8))
  }

  /// Publishes the file under its name.
  public consuming func finish() throws(VectorFileError) { try output.finish() }

  private func error(_ field: String, seen: String, expected: String, wayOut: String) -> VectorFileError {
    VectorFileError(path: path, field: "record \(line), \(field)", seen: seen, expected: expected, wayOut: wayOut)
  }

  private static func json(_ id: ExternalID) -> String {
    switch id {
    case .integer(let value): "\(value)"
    case .text(let value): quoted(value)
    }
  }

  private static func quoted(_ text: String) -> String {
    var result = "\""
    for scalar in text.unicodeScalars {
      switch scalar {
      case "\"", "\\": result.unicodeScalars.append(contentsOf: ["\\", scalar])
      case "\n": result += "\\n"
      case "\u{0}"..<" ":
        let digits = String(scalar.value, radix: 16)
        result += "\\u" + String(repeating: "0", count: 4 - digits.count) + digits
      default: result.unicodeScalars.append(scalar)
      }
    }
    return result + "\""
  }
}
