/// A name that users give to a vector or a tenant.
public enum ExternalID: Sendable, Hashable, CustomStringConvertible {
  case integer(Int64)
  case text(String)

  public var description: String {
    switch self {
    case .integer(let value): "\(value)"
    case .text(let value): value
    }
  }
}

/// A vector with all that belongs to it: a line of JSON.
public struct VectorRecord: Sendable, Equatable {
  public var id: ExternalID
  /// Absent where the collection makes it from `text`.
  public var vector: [Float]?
  public var text: String?
  public var tenants: [ExternalID]
  /// A JSON object, as text.
  public var payload: String?

  public init(
    id: ExternalID, vector: [Float]? = nil, text: String? = nil, tenants: [ExternalID] = [], payload: String? = nil
  ) {
    self.id = id
    self.vector = vector
    self.text = text
    self.tenants = tenants
    self.payload = payload
  }
}

/// A file of one JSON object a line with `id` and perhaps `vector`, `text`, `tenants` and `payload`.
///
///     {"id": 7, "vector": [0.5, -1.25], "text": "…", "tenants": [3, "acme"], "payload": {"year": 2024}}
///
/// Other keys are errors, null is the same as an absent key, empty lines are passed over.
public struct JSONLinesFile: Sendable {
  public let path: String
  private let file: FileBytes

  public init(path: String) throws(VectorFileError) {
    self.path = path
    file = try FileBytes(path: path)
  }

  /// A reader at the first line.
  public func reader() -> JSONLinesReader { JSONLinesReader(stream: ByteSource(file).open()) }

  /// Calls `body` with each record, front to back.
  public func forEach(_ body: (VectorRecord) throws -> Void) throws {
    var reader = reader()
    while let record = try reader.next() { try body(record) }
  }
}

/// Reads records line by line; memory is that of the longest line, at most `VectorFileLimits.lineBytes`.
public struct JSONLinesReader: ~Copyable {
  /// Of the record that was read last, from 1.
  public private(set) var line = 0
  private let stream: ByteStream
  private var buffer: [UInt8] = []
  private var position = 0
  private var piece: [UInt8] = []

  private static let pieceBytes = 1 << 20

  fileprivate init(stream: ByteStream) { self.stream = stream }

  /// The next record, nil at the end. Throws `VectorFileError` with line and column.
  public mutating func next() throws(VectorFileError) -> VectorRecord? {
    while let range = try nextLine() {
      var cursor = JSONCursor(buffer, range)
      if cursor.peek() == 0 && cursor.at == range.upperBound { continue }
      do {
        return try Self.record(&cursor)
      } catch {
        throw stream.source.error(
          "line \(line), column \(error.at - range.lowerBound + 1)", seen: error.seen, expected: error.expected,
          wayOut: "mend or delete that line")
      }
    }
    return nil
  }

  /// The next line's place in the buffer, without its end.
  private mutating func nextLine() throws(VectorFileError) -> Range<Int>? {
    var searched = position
    while true {
      if let end = buffer[searched...].firstIndex(of: 0x0A) {
        defer { position = end + 1 }
        line += 1
        return position..<end
      }
      if stream.remaining == 0 {
        defer { position = buffer.count }
        line += 1
        return position < buffer.count ? position..<buffer.count : nil
      }
      buffer.removeFirst(position)
      position = 0
      searched = buffer.count
      try stream.source.check(
        searched <= VectorFileLimits.lineBytes, "line \(line + 1)",
        seen: "more than \(VectorFileLimits.lineBytes) bytes without an end", expected: "one record a line",
        wayOut: "write JSON Lines, not one large JSON document")
      try stream.read(min(Self.pieceBytes, stream.remaining), into: &piece)
      buffer += piece
    }
  }

  private static func record(_ cursor: inout JSONCursor) throws(JSONCursor.Fault) -> VectorRecord {
    var id: ExternalID?
    var record = VectorRecord(id: .integer(0))
    var seen: Set<String> = []
    try cursor.object { (cursor, key) throws(JSONCursor.Fault) in
      let name = "'\(VectorFileError.printable(key))'"
      if !seen.insert(key).inserted { throw cursor.fault("each key once", seen: name + " twice") }
      switch key {
      case "id": id = try externalID(&cursor)
      case "vector": if !cursor.takeNull() { record.vector = try vector(&cursor) }
      case "text": if !cursor.takeNull() { record.text = try cursor.string() }
      case "payload": if !cursor.takeNull() { record.payload = try cursor.objectText() }
      case "tenants":
        if cursor.takeNull() { return }
        try cursor.array { (cursor) throws(JSONCursor.Fault) in record.tenants.append(try externalID(&cursor)) }
      default: throw cursor.fault("id, vector, text, tenants or payload", seen: "key " + name)
      }
    }
    if cursor.peek() != 0 || cursor.at < cursor.end { throw cursor.fault("the end of the line") }
    guard let id else { throw cursor.fault("an id", seen: "a record without") }
    record.id = id
    return record
  }

  private static func externalID(_ cursor: inout JSONCursor) throws(JSONCursor.Fault) -> ExternalID {
    if cursor.peek() == UInt8(ascii: "\"") { return .text(try cursor.string()) }
    guard cursor.peek() == UInt8(ascii: "-") || (0x30...0x39).contains(cursor.peek()) else {
      throw cursor.fault("an integer or a string")
    }
    return .integer(try cursor.integer())
  }

  private static func vector(_ cursor: inout JSONCursor) throws(JSONCursor.Fault) -> [Float] {
    var vector: [Float] = []
    try cursor.array { (cursor) throws(JSONCursor.Fault) in
      if vector.count == VectorFileLimits.columns { throw cursor.fault("at most \(vector.count) numbers") }
      vector.append(try cursor.float())
    }
    if vector.isEmpty { throw cursor.fault("a number in the vector", seen: "an empty one") }
    return vector
  }
}
