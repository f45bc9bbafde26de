import ApusEngine
import ApusText

/// The body of `POST /v1/rerank`, checked.
///
/// Source: the API references of Cohere ("Rerank", version 1) and Jina ("Reranker"), whose common fields these are.
struct RerankRequest: Sendable {
  var model: String
  var query: TextInput
  var documents: [TextInput]
  /// How many of the best are given; nil gives all.
  var topN: Int?
  /// Gives each document's text back.
  var returnDocuments: Bool

  /// The most documents of a request: Cohere's limit.
  static let maximumDocuments = 1000

  /// Throws ``OpenAIError`` that names the field.
  init(body: [UInt8]) throws {
    let body = try RequestReader(body: body)
    model = try body.modelName()
    guard let query = try body.string("query") else { throw OpenAIError.missing("query", expected: "a string") }
    self.query = TextInput(path: "query", content: .text(query))
    guard let documents = try body.list("documents") else {
      throw OpenAIError.missing("documents", expected: "an array of strings or of objects with a text")
    }
    guard (1...Self.maximumDocuments).contains(documents.count) else {
      throw OpenAIError.invalid(
        "documents", seen: documents.isEmpty ? "an empty array" : "an array of \(documents.count)",
        expected: "1 to \(Self.maximumDocuments) documents")
    }
    self.documents = try documents.enumerated().map { index, document in
      let path = "documents.\(index)"
      if case .string(let text) = document { return TextInput(path: path, content: .text(text)) }
      guard case .mapping = document else {
        throw OpenAIError.invalid(path, seen: document.brief, expected: "a string or an object with a text")
      }
      guard let text = try RequestReader(document, path: path).string("text") else {
        throw OpenAIError.missing("\(path).text", expected: "a string")
      }
      return TextInput(path: "\(path).text", content: .text(text))
    }
    topN = try body.integer("top_n", 1...Int.max)
    returnDocuments = try body.bool("return_documents") ?? false
  }

  /// The best documents first, equal ones in their own order. `vectors` are those of the query and of the documents.
  func response(id: String, model: String, vectors: [[Float]], tokens: Int) -> JinjaValue {
    let scores = vectors.dropFirst().map { Self.cosine(vectors[0], $0) }
    let order = scores.indices.sorted { (scores[$0], $1) > (scores[$1], $0) }
    let results: [JinjaValue] = order.prefix(topN ?? order.count).map { index in
      let result: JinjaValue = [
        "index": .integer(index), "relevance_score": .float(Double(scores[index].description) ?? 0),
      ]
      guard returnDocuments, case .text(let text) = documents[index].content else { return result }
      return result.setting("document", ["text": .string(text)])
    }
    return [
      "id": .string(id), "model": .string(model), "results": .list(results),
      "usage": ["prompt_tokens": .integer(tokens), "total_tokens": .integer(tokens)],
    ]
  }

  /// The cosine of the angle between two vectors; 0 if one has no length.
  static func cosine(_ a: [Float], _ b: [Float]) -> Float {
    var dot = 0.0
    var lengths = (0.0, 0.0)
    for (x, y) in zip(a, b) {
      dot += Double(x) * Double(y)
      lengths.0 += Double(x) * Double(x)
      lengths.1 += Double(y) * Double(y)
    }
    let product = lengths.0 * lengths.1
    return product > 0 ? Float(dot / product.squareRoot()) : 0
  }
}
