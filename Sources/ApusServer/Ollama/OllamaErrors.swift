import ApusText
import HTTPTypes
import Hummingbird

/// Errors in Ollama's shape: `{"error": "…"}`.
enum OllamaErrors: ErrorDialect {
  static let prefix = "/api"

  static func response(_ error: OpenAIError, requestID: String) -> Response {
    .json(["error": .string(error.message)], status: error.status)
  }

  /// The line that ends a stream which cannot be finished.
  static func line(_ error: OpenAIError) -> [UInt8] { OllamaWriter.line(["error": .string(error.message)]) }
}
