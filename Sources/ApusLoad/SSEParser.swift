/// Splits a byte stream into server-sent events, however the bytes are cut: a state machine without I/O.
///
/// Source: WHATWG HTML, "Server-sent events", section 9.2.6. Fields other than `data` and `event` are of no use here and
/// skipped; an event that the end of the stream cuts is never given out.
public struct SSEParser: Sendable {
  public struct Event: Sendable, Equatable {
    /// nil for the ordinary `message`.
    public var name: String?
    /// The values of the `data` lines, joined by line feeds.
    public var data: [UInt8]

    public init(name: String? = nil, data: [UInt8]) {
      self.name = name
      self.data = data
    }
  }

  /// An event of more than so many bytes: nobody streams that.
  public struct TooLong: Error, Sendable, Equatable {
    public var limit: Int

    public init(limit: Int) { self.limit = limit }
  }

  public static let defaultLimit = 16 << 20

  private let limit: Int
  private var line: [UInt8] = []
  private var data: [UInt8]?
  private var name: String?
  /// The last byte was a carriage return: a line feed now belongs to the same line end.
  private var isAfterReturn = false
  private var isFirstLine = true

  /// `limit` bounds an event, in bytes.
  public init(limit: Int = defaultLimit) { self.limit = limit }

  /// Takes the next bytes and calls `body` for each event that they complete. O(bytes).
  public mutating func consume(_ bytes: some Sequence<UInt8>, _ body: (Event) -> Void) throws(TooLong) {
    for byte in bytes {
      let belongsToReturn = isAfterReturn && byte == Self.lineFeed
      isAfterReturn = byte == Self.carriageReturn
      if belongsToReturn { continue }
      if byte == Self.lineFeed || byte == Self.carriageReturn {
        endLine(body)
      } else {
        if line.count + (data?.count ?? 0) >= limit { throw TooLong(limit: limit) }
        line.append(byte)
      }
    }
  }

  private static let lineFeed = UInt8(ascii: "\n")
  private static let carriageReturn = UInt8(ascii: "\r")
  private static let byteOrderMark: [UInt8] = [0xEF, 0xBB, 0xBF]

  private mutating func endLine(_ body: (Event) -> Void) {
    defer { line.removeAll(keepingCapacity: true) }
    if isFirstLine {
      isFirstLine = false
      if line.starts(with: Self.byteOrderMark) { line.removeFirst(Self.byteOrderMark.count) }
    }
    if line.isEmpty {
      if let data { body(Event(name: name, data: data)) }
      data = nil
      name = nil
      return
    }
    let colon = line.firstIndex(of: UInt8(ascii: ":")) ?? line.endIndex
    var value = line[min(colon + 1, line.endIndex)...]
    if value.first == UInt8(ascii: " ") { value.removeFirst() }
    // A comment has an empty field name, which matches neither.
    if line[..<colon].elementsEqual("data".utf8) {
      if data == nil { data = Array(value) } else { data?.append(contentsOf: [Self.lineFeed] + value) }
    } else if line[..<colon].elementsEqual("event".utf8) {
      name = value.isEmpty ? nil : String(decoding: value, as: UTF8.self)
    }
  }
}
