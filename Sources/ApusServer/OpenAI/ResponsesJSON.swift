import ApusEngine
import ApusText
import Hummingbird

extension JinjaValue {
  /// A value, or null.
  static func optional(_ text: String?) -> JinjaValue { text.map { .string($0) } ?? .none }
  static func optional(_ number: Int?) -> JinjaValue { number.map { .integer($0) } ?? .none }

  /// The field of an object.
  subscript(name: String) -> JinjaValue? {
    if case .mapping(let fields) = self { fields[name] } else { nil }
  }

  /// A whole number, also one that is written as 2.0: for JSON Schema they are the same. −2⁶³ must be written without a
  /// point: numbers below it read as the same float.
  var wholeNumber: Int? {
    switch self {
    case .integer(let number): number
    case .float(let number): number > -0x1p63 ? Int(exactly: number) : nil
    default: nil
    }
  }

  var string: String? { if case .string(let text) = self { text } else { nil } }
  var items: [JinjaValue]? { if case .list(let items) = self { items } else { nil } }

  /// The object with one more field, or another value of it.
  func setting(_ name: String, _ value: JinjaValue) -> JinjaValue {
    guard case .mapping(var fields) = self else { return self }
    fields[name] = value
    return .mapping(fields)
  }

  /// A log-probability: its shortest decimal form, and −9999 for what cannot happen, as OpenAI writes it.
  static func logProbability(_ x: Float) -> JinjaValue {
    .float(x.isFinite ? Double(x.description) ?? Double(x) : -9999)
  }
}

extension Response {
  /// A JSON response.
  static func json(_ value: JinjaValue, status: HTTPResponse.Status = .ok) -> Response {
    .json(bytes: CompactJSON.bytes(value), status: status)
  }

  static func json(bytes: [UInt8], status: HTTPResponse.Status = .ok) -> Response {
    Response(
      status: status, headers: [.contentType: "application/json; charset=utf-8"],
      body: .init(byteBuffer: ByteBuffer(bytes: bytes)))
  }
}

extension ServerSentEvents {
  static func data(_ value: JinjaValue) -> [UInt8] {
    Array("data: ".utf8) + CompactJSON.bytes(value) + Array("\n\n".utf8)
  }

  /// An event with a name.
  static func event(_ name: String, _ value: JinjaValue) -> [UInt8] {
    Array("event: \(name)\ndata: ".utf8) + CompactJSON.bytes(value) + Array("\n\n".utf8)
  }
}
