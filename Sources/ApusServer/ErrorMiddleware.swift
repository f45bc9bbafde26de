import ApusEngine
import ApusModels
import ApusText
import HTTPTypes
import Hummingbird

/// How a dialect writes errors.
protocol ErrorDialect: Sendable {
  /// Every route of the dialect is this path or below it.
  static var prefix: String { get }
  /// `requestID` names the request in the server's logs.
  static func response(_ error: OpenAIError, requestID: String) throws -> Response
}

/// Turns every error, also Hummingbird's own and those of routes that do not exist, into the shape that the clients of the
/// route's dialect read.
struct ErrorMiddleware<Context: RequestContext>: RouterMiddleware {
  let bodyLimit: Int

  /// All other routes speak OpenAI's.
  private static var dialects: [any ErrorDialect.Type] { [AnthropicErrors.self, OllamaErrors.self] }

  func handle(_ request: Request, context: Context, next: (Request, Context) async throws -> Response) async throws
    -> Response
  {
    do {
      return try await next(request, context)
    } catch is CancellationError {
      throw CancellationError()
    } catch {
      let path = request.uri.path
      let known = OpenAIError(error, path: path, bodyLimit: bodyLimit)
      if known.status == .internalServerError { context.logger.error("\(path): \(error)") }
      RequestRecorder.current?.update { $0.errorCode = known.code }
      let dialect =
        Self.dialects.first { path == $0.prefix || path.hasPrefix($0.prefix + "/") } ?? OpenAIErrors.self
      var response = try dialect.response(known, requestID: context.id)
      // What an error says beside its body holds in every dialect.
      for field in known.headers { response.headers[field.name] = field.value }
      return response
    }
  }
}

extension OpenAIError {
  /// What an error means to the client that caused it.
  init(_ error: any Error, path: String = "", bodyLimit: Int = 0) {
    switch error {
    case let error as OpenAIError: self = error
    case RunnerError.contextOverflow(let tokens, let contextLength):
      self = .contextLengthExceeded(tokens: tokens, contextLength: contextLength)
    case SamplingError.invalidOption(let name, let value, let expected),
      GenerationError.invalidOption(let name, let value, let expected):
      self = .invalid(name, seen: value, expected: expected)
    case GenerationError.stopped: self = .stopping
    case let error as EngineError: self = .overloaded(error.description)
    case let error as GenerationError:
      self = OpenAIError(status: .badRequest, message: error.description, param: "messages", code: "invalid_value")
    case let error as TemplateError:
      self = OpenAIError(
        status: .badRequest, message: "the model's chat template refuses the messages: \(error)", param: "messages",
        code: "invalid_value")
    case let error as any HTTPResponseError where error.status == .notFound:
      self = OpenAIError(status: .notFound, message: "there is no route \(path)", code: "unknown_url")
    case let error as any HTTPResponseError where error.status == .contentTooLarge:
      self = .tooLarge(limit: bodyLimit)
    case let error as any HTTPResponseError where error.status.code < 500:
      self = OpenAIError(status: error.status, message: "\(error.status.reasonPhrase): \(path)", code: nil)
    default: self = .internalError(error)
    }
  }
}
