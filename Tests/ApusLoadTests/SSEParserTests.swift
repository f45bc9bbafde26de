import ApusLoad
import Testing

@Suite struct SSEParserTests {
  private static func parse(_ bytes: [UInt8], cutAt cuts: [Int]) throws -> [SSEParser.Event] {
    var parser = SSEParser()
    var events: [SSEParser.Event] = []
    var start = 0
    for end in cuts.sorted() + [bytes.count] {
      try parser.consume(bytes[start..<end]) { events.append($0) }
      start = end
    }
    return events
  }

  private static func parse(_ text: String) throws -> [SSEParser.Event] { try parse(Array(text.utf8), cutAt: []) }

  private static func event(_ data: String, name: String? = nil) -> SSEParser.Event {
    SSEParser.Event(name: name, data: Array(data.utf8))
  }

  /// The standard's own words, over the whole text at once: lines first, then fields.
  private static func reference(_ bytes: [UInt8]) -> [SSEParser.Event] {
    var lines: [[UInt8]] = [[]]
    var place = bytes.starts(with: [0xEF, 0xBB, 0xBF]) ? 3 : 0
    while place < bytes.count {
      if bytes[place] == 13, place + 1 < bytes.count, bytes[place + 1] == 10 { place += 1 }
      if bytes[place] == 10 || bytes[place] == 13 {
        lines.append([])
      } else {
        lines[lines.count - 1].append(bytes[place])
      }
      place += 1
    }
    lines.removeLast()
    var events: [SSEParser.Event] = []
    var values: [[UInt8]] = []
    var name: String?
    for line in lines {
      if line.isEmpty {
        if !values.isEmpty { events.append(.init(name: name, data: Array(values.joined(separator: [10])))) }
        values = []
        name = nil
        continue
      }
      let parts = line.split(separator: 58, maxSplits: 1, omittingEmptySubsequences: false)
      var value = parts.count > 1 ? Array(parts[1]) : []
      if value.first == 32 { value.removeFirst() }
      switch String(decoding: parts[0], as: UTF8.self) {
      case "data": values.append(value)
      case "event": name = value.isEmpty ? nil : String(decoding: value, as: UTF8.self)
      default: break
      }
    }
    return events
  }

  @Test func eventsHaveNamesDataAndAnyLineEnd() throws {
    #expect(
      try Self.parse("data: a\n\ndata:b\r\n\r\ndata:  c\r\r") == [Self.event("a"), Self.event("b"), Self.event(" c")])
    #expect(try Self.parse("event: ping\ndata: x\ndata: y\n\n") == [Self.event("x\ny", name: "ping")])
    // Names do not last: each event has its own.
    #expect(try Self.parse("event: ping\ndata: x\n\ndata: y\n\n") == [Self.event("x", name: "ping"), Self.event("y")])
  }

  @Test func commentsOtherFieldsAndEventsWithoutDataAreSkipped() throws {
    #expect(try Self.parse(": ping\n\nid: 3\nretry: 5\n\nevent: x\n\ndatax: 1\n\n") == [])
    #expect(try Self.parse("\u{FEFF}data: a\n: b\n\n") == [Self.event("a")])
    #expect(try Self.parse("data\n\n") == [Self.event("")])
  }

  @Test func anEventThatTheEndCutsIsNotGivenOut() throws {
    #expect(try Self.parse("data: a\n\ndata: [DONE]\n") == [Self.event("a")])
    #expect(try Self.parse("data: a\n\ndata: [DONE]") == [Self.event("a")])
  }

  @Test func anEndlessEventIsRefused() throws {
    var parser = SSEParser(limit: 100)
    #expect(throws: SSEParser.TooLong(limit: 100)) {
      while true { try parser.consume("data: xxxx\n".utf8) { _ in Issue.record("an event") } }
    }
    var line = SSEParser(limit: 100)
    #expect(throws: SSEParser.TooLong(limit: 100)) {
      while true { try line.consume("x".utf8) { _ in } }
    }
  }

  @Test func howTheBytesAreCutMakesNoDifference() throws {
    let seed = UInt64.random(in: 0...UInt64.max)
    print("seed: \(seed)")
    var random = TestRandom(seed: seed)
    let pieces = [
      "data: ", "data", "data:", "event: ", "event:e", ": c", "id: 1", "\n", "\n\n", "\r", "\r\n", "\r\n\r\n", "é",
      "{}",
      " ", ":", "\u{FEFF}", "[DONE]", "x",
    ]
    var seen = 0
    for _ in 0..<5000 {
      let count = Int.random(in: 0...24, using: &random)
      let bytes = (0..<count).flatMap { _ in Array((pieces.randomElement(using: &random) ?? "").utf8) }
      let cuts = (0..<Int.random(in: 0...6, using: &random)).map { _ in Int.random(in: 0...bytes.count, using: &random)
      }
      let events = try Self.parse(bytes, cutAt: cuts)
      #expect(events == Self.reference(bytes), "\(String(decoding: bytes, as: UTF8.self).debugDescription) \(cuts)")
      let everyByte = try Self.parse(bytes, cutAt: Array(0..<bytes.count))
      #expect(everyByte == events)
      seen += events.count
    }
    #expect(seen > 1000)
  }

  @Test func anyBytesAreTaken() throws {
    let seed = UInt64.random(in: 0...UInt64.max)
    print("seed: \(seed)")
    var random = TestRandom(seed: seed)
    for _ in 0..<500 {
      let bytes = (0..<Int.random(in: 0...300, using: &random)).map { _ in
        // Half of the bytes are those with a meaning.
        Bool.random(using: &random)
          ? Array("data:\r\n e".utf8)[Int.random(in: 0..<9, using: &random)] : UInt8.random(in: 0...255, using: &random)
      }
      #expect(try Self.parse(bytes, cutAt: []) == Self.reference(bytes))
      var measurement = RequestMeasurement(index: 0, arrival: .zero, sent: .zero)
      measurement.receiveHead(status: 200, contentType: nil, at: .zero)
      measurement.receiveBody(bytes, at: .zero)
      measurement.receiveEnd(at: .zero)
      #expect(measurement.outcome != .succeeded && measurement.outcome != nil)
    }
  }
}

/// SplitMix64: the tests' seeded generator.
struct TestRandom: RandomNumberGenerator {
  private var state: UInt64

  init(seed: UInt64) { state = seed }

  mutating func next() -> UInt64 {
    state &+= 0x9E37_79B9_7F4A_7C15
    var z = state
    z = (z ^ (z >> 30)) &* 0xBF58_476D_1CE4_E5B9
    z = (z ^ (z >> 27)) &* 0x94D0_49BB_1331_11EB
    return z ^ (z >> 31)
  }
}
