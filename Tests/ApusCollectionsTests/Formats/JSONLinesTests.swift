import Foundation
import Testing

@testable import ApusCollections

@Suite("Records as JSON Lines")
struct JSONLinesTests {
  private let folder = FormatFolder()

  private func records(_ path: String) throws -> [VectorRecord] {
    var records: [VectorRecord] = []
    try JSONLinesFile(path: path).forEach { records.append($0) }
    return records
  }

  @Test("what Python wrote is read")
  func python() throws {
    let records = try records(FormatFixture.path("records.jsonl"))
    let vector = (0..<5).map { Float(FormatFixture.number(0, $0)) / 4 }
    let snake = VectorRecord(id: .text("seven ☃ 🐍"), text: "quote \" slash \\ line\nend \u{7}")
    #expect(
      records == [
        VectorRecord(
          id: .integer(7), vector: vector, tenants: [.integer(3), .text("acme")],
          payload: #"{"year": 2024, "a": [1, {}]}"#),
        snake, snake,
      ])
  }

  @Test("200,000 numbers are read as the C library reads them, those half way between two floats among them")
  func numbers() throws {
    let seed: UInt64 = 0xF10A7
    print("seed \(seed)")
    var random = FormatRandom(state: seed)
    func text() -> String {
      let bits = UInt32(truncatingIfNeeded: random.next())
      let value = Float(bitPattern: bits)
      switch Int.random(in: 0..<6, using: &random) {
      case 0: return value.isFinite ? value.description : "0"
      case 1: return Double.random(in: -1...1, using: &random).description
      case 2: return Double(Float.random(in: -1...1, using: &random)).description
      case 3:
        // Half way between two floats, and a little beside it.
        let middle = (Double(value.magnitude) + Double(value.magnitude.nextUp)) / 2
        guard middle.isFinite, middle < 1e38 else { return "1" }
        return [middle, middle.nextUp, middle.nextDown].randomElement(using: &random)!.description
      case 4:
        let digits = String(random.next()) + String(random.next() % 1_000_000)
        return "-0." + digits + "e\(Int.random(in: -50...38, using: &random))"
      default:
        return "\(random.next() % 1_000_000_000).\(random.next())E+\(Int.random(in: 0...25, using: &random))"
      }
    }
    for _ in 0..<200 {
      let texts = (0..<1000).map { _ in text() }
      let line = "{\"id\": 1, \"vector\": [\(texts.joined(separator: ","))]}"
      let vector = try #require(try records(folder.write("a.jsonl", Array(line.utf8))).first?.vector)
      for (text, value) in zip(texts, vector) { #expect(value.bitPattern == Float(text)?.bitPattern, "\(text)") }
    }
  }

  @Test("records that are written are read back, and Foundation reads them too")
  func roundTrip() throws {
    let seed: UInt64 = 0x5EED
    print("seed \(seed)")
    var random = FormatRandom(state: seed)
    func text() -> String {
      let scalars: [ClosedRange<UInt32>] = [0...0x2F, 0x20...0x7E, 0x7F...0x7FF, 0x2600...0x2700, 0x1F400...0x1F4FF]
      let characters = (0..<Int.random(in: 0...12, using: &random)).map { _ in
        Character(Unicode.Scalar(scalars.randomElement(using: &random)!.randomElement(using: &random)!)!)
      }
      return String(characters)
    }
    func id() -> ExternalID {
      Bool.random(using: &random) ? .integer(Int64(bitPattern: random.next())) : .text(text())
    }
    for _ in 0..<30 {
      let written = (0..<Int.random(in: 0...40, using: &random)).map { _ in
        VectorRecord(
          id: id(),
          vector: Bool.random(using: &random)
            ? (0..<9).map { _ in Float(bitPattern: UInt32(truncatingIfNeeded: random.next()) & 0xFEFF_FFFF) } : nil,
          text: Bool.random(using: &random) ? text() : nil,
          tenants: (0..<Int.random(in: 0...3, using: &random)).map { _ in id() },
          payload: Bool.random(using: &random) ? #"{"a": [1.5e3, "\u00e9 {", null, {"b": true}]}"# : nil)
      }
      let path = folder.path + "/a.jsonl"
      var writer = try JSONLinesWriter(path: path)
      for record in written { try writer.append(record) }
      try writer.finish()
      #expect(try records(path) == written)
      let lines = try Data(contentsOf: URL(filePath: path)).split(separator: 0x0A)
      #expect(lines.count == written.count)
      for line in lines { _ = try JSONSerialization.jsonObject(with: Data(line)) }
    }
    var writer = try JSONLinesWriter(path: folder.path + "/b.jsonl")
    try writer.append(VectorRecord(id: .integer(1), payload: "{\n\"a\":\r\n1}"))
    expectError("finite numbers") { try writer.append(VectorRecord(id: .integer(1), vector: [.nan])) }
    expectError("a JSON object") { try writer.append(VectorRecord(id: .integer(1), payload: "[1]")) }
    expectError("a JSON object") { try writer.append(VectorRecord(id: .integer(1), payload: "{} {}")) }
    try writer.finish()
    #expect(try records(folder.path + "/b.jsonl").map(\.payload) == ["{ \"a\":  1}"])
  }

  @Test("bad lines are named by line and column")
  func bad() {
    for (line, text) in [
      ("{}", "column 3: found a record without, expected an id"),
      ("[]", "column 1: found '[', expected an object"),
      (#"{"id": 1, "id": 2}"#, "'id' twice"),
      (#"{"id": 1, "vektor": [1]}"#, "key 'vektor'"),
      (#"{"id": 1.5}"#, "an integer of 64 bits"),
      (#"{"id": 9223372036854775808}"#, "an integer of 64 bits"),
      (#"{"id": null}"#, "an integer or a string"),
      (#"{"id": 1, "vector": []}"#, "an empty one"),
      (#"{"id": 1, "vector": [1, ]}"#, "column 25: found ']', expected a number"),
      (#"{"id": 1, "vector": [NaN]}"#, "found 'N'"),
      (#"{"id": 1, "vector": [1e999]}"#, "a number that a float can hold"),
      (#"{"id": 1, "vector": [01]}"#, "a number"),
      (#"{"id": 1, "vector": [1.]}"#, "a digit"),
      (#"{"id": 1, "vector": [.5]}"#, "found '.'"),
      (#"{"id": 1, "vector": [+5]}"#, "found '+'"),
      (#"{"id": 1, "vector": ["1"]}"#, "found '\"'"),
      (#"{"id": 1, "text": "\ud800"}"#, "half of one"),
      (#"{"id": 1, "text": "\ud800\u0041"}"#, "half of one"),
      (#"{"id": 1, "text": "\udc00"}"#, "half of one"),
      (#"{"id": 1, "text": "\x"}"#, "an escape"),
      (#"{"id": 1, "text": "\u12g4"}"#, "hexadecimal"),
      ("{\"id\": 1, \"text\": \"a\tb\"}", "no control character"),
      (#"{"id": 1, "payload": 3}"#, "an object"),
      (#"{"id": 1, "payload": {"a": nul}}"#, "a value"),
      (#"{"id": 1, "payload": "# + String(repeating: #"{"a":"#, count: 100) + "1", "levels of nesting"),
      (#"{"id": 1} {"id": 2}"#, "the end of the line"),
      (#"{"id": 1"#, "found the end"),
    ] {
      let path = folder.write("a.jsonl", Array("{\"id\": 0}\n\n\(line)\n".utf8))
      expectError(text) { _ = try records(path) }
      expectError("line 3, column") { _ = try records(path) }
    }
    let path = folder.write("a.jsonl", Array("{\"id\": 1, \"text\": \"".utf8) + [0xC3, 0x28] + Array("\"}".utf8))
    expectError("UTF-8") { _ = try records(path) }
    let endless = folder.write("a.jsonl", [UInt8](repeating: 0x20, count: VectorFileLimits.lineBytes + 2 << 20))
    expectError("without an end") { _ = try records(endless) }
  }
}
