import ApusText

/// What the text of an answer must be, in no dialect.
enum AnswerFormat: Sendable {
  case text
  /// Any JSON object.
  case jsonObject
  /// JSON that fits a JSON Schema.
  case jsonSchema(JinjaValue)
}

extension AnswerFormat: Equatable {
  /// Schemas are equal if they are written with the same keys in the same order.
  static func == (a: AnswerFormat, b: AnswerFormat) -> Bool {
    switch (a, b) {
    case (.text, .text), (.jsonObject, .jsonObject): true
    case (.jsonSchema(let a), .jsonSchema(let b)): CompactJSON.bytes(a) == CompactJSON.bytes(b)
    default: false
    }
  }
}
