import ApusEngine
import ApusText
import Foundation

/// The body of `POST /v1/embeddings`, checked.
///
/// Source: OpenAI API reference, "Create embeddings". `user` is ignored.
struct EmbeddingRequest: Sendable {
  enum Encoding: String, CaseIterable, Sendable {
    /// An array of numbers.
    case float
    /// Little-endian 32-bit floats in base64, a third of the size: what OpenAI's own clients ask for.
    case base64
  }

  var model: String
  var inputs: [TextInput]
  var encoding: Encoding
  /// What the client expects of the vectors' size.
  var dimensions: Int?

  /// The most inputs of a request: OpenAI's limit.
  static let maximumInputs = 2048

  /// Throws ``OpenAIError`` that names the field.
  init(body: [UInt8]) throws {
    let body = try RequestReader(body: body)
    model = try body.modelName()
    inputs = try body.textInputs("input", atMost: Self.maximumInputs)
    let name = try body.string("encoding_format") ?? "float"
    guard let encoding = Encoding(rawValue: name) else {
      throw OpenAIError.invalid("encoding_format", seen: "'\(name)'", expected: "'float' or 'base64'")
    }
    self.encoding = encoding
    dimensions = try body.integer("dimensions", 1...Int.max)
  }

  /// The tokens of every input, in order. Throws ``OpenAIError`` for a wrong size and for inputs that do not fit.
  func tokens(for engine: any EmbeddingEngine) throws -> [[Int32]] {
    if let dimensions, dimensions != engine.dimensions {
      throw OpenAIError.invalid(
        "dimensions", seen: "\(dimensions)", expected: "\(engine.dimensions), the size of this model's vectors")
    }
    return try inputs.map { try $0.tokens(for: engine) }
  }
}

extension TextInput {
  /// The input's tokens: a text's with those that the encoder expects around it, ids as they are.
  func tokens(for engine: any EmbeddingEngine) throws -> [Int32] {
    try checkTokens(vocabularySize: engine.tokenizer.vocabularySize)
    let tokens =
      switch content {
      case .text(let text): engine.tokenizer.encode(text)
      case .tokens(let tokens): tokens
      }
    if tokens.isEmpty { throw OpenAIError.invalid(path, seen: "an empty text", expected: "some text") }
    if tokens.count > engine.contextLength {
      throw OpenAIError(
        status: .badRequest,
        message: "\(path) has \(tokens.count) tokens and the model reads \(engine.contextLength): shorten it",
        param: path, code: "context_length_exceeded")
    }
    return tokens
  }
}

/// Writes the vectors of a request.
enum EmbeddingWriter {
  /// The whole response as JSON: thousands of numbers, written without a value for each.
  static func response(
    _ vectors: [[Float]], model: String, tokens: Int, encoding: EmbeddingRequest.Encoding
  ) -> [UInt8] {
    var bytes = Array(#"{"object":"list","data":["#.utf8)
    for (index, vector) in vectors.enumerated() {
      if index > 0 { bytes.append(UInt8(ascii: ",")) }
      bytes += #"{"object":"embedding","index":\#(index),"embedding":"#.utf8
      switch encoding {
      case .float:
        bytes.append(UInt8(ascii: "["))
        for (place, element) in vector.enumerated() {
          if place > 0 { bytes.append(UInt8(ascii: ",")) }
          // The shortest text that reads back as the same number.
          bytes += element.description.utf8
        }
        bytes.append(UInt8(ascii: "]"))
      case .base64: CompactJSON.write(base64(vector), to: &bytes)
      }
      bytes.append(UInt8(ascii: "}"))
    }
    bytes += #"],"model":"#.utf8
    CompactJSON.write(model, to: &bytes)
    bytes += #","usage":{"prompt_tokens":\#(tokens),"total_tokens":\#(tokens)}}"#.utf8
    return bytes
  }

  /// Little-endian 32-bit floats.
  static func base64(_ vector: [Float]) -> String {
    var bytes: [UInt8] = []
    bytes.reserveCapacity(vector.count * MemoryLayout<Float>.size)
    for element in vector { withUnsafeBytes(of: element.bitPattern.littleEndian) { bytes += $0 } }
    return Data(bytes).base64EncodedString()
  }
}
