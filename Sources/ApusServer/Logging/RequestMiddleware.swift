import HTTPTypes
import Hummingbird

/// Names each request, and records what becomes of it until the last byte of its answer is out or the client is gone.
struct RequestMiddleware: RouterMiddleware {
  let log: RequestLog

  /// As nginx reports a client that hung up before it was answered.
  private static let clientClosedRequest = 499

  func handle(_ request: Request, context: ServerContext, next: (Request, ServerContext) async throws -> Response)
    async throws -> Response
  {
    let path = request.uri.path
    let id = RequestID.sane(request.headers[.requestID]) ?? context.id
    var record = RequestRecord(
      id: id, ownID: context.id, method: request.method.rawValue,
      isProbe: AccessMiddleware.open.contains(path) || path.hasPrefix("/apus/"))
    record.route = context.endpointPath
    let recorder = log.begin(record, trace: request.headers[.traceParent].flatMap { TraceParent($0) })
    var context = context
    context.logger[metadataKey: Self.idKey] = .string(id)
    do {
      var response = try await RequestRecorder.$current.withValue(recorder) { try await next(request, context) }
      response.headers[.requestID] = id
      recorder.update { [status = response.status.code] in $0.status = status }
      if let length = response.body.contentLength {
        // It goes out in one write, with its head.
        recorder.end { $0.bytes = length }
      } else {
        response.body = Self.recorded(response.body, by: recorder)
      }
      return response
    } catch {
      let isGone = error is CancellationError
      recorder.end {
        $0.clientIsGone = isGone
        $0.status = isGone ? Self.clientClosedRequest : HTTPResponse.Status.internalServerError.code
      }
      throw error
    }
  }

  /// Where Hummingbird keeps a request's id.
  private static let idKey = "hb.request.id"

  private static func recorded(_ body: ResponseBody, by recorder: RequestRecorder) -> ResponseBody {
    let end = EndOfBody(recorder)
    return ResponseBody { writer in
      let counting = CountingWriter(writer: writer, recorder: recorder)
      do {
        try await RequestRecorder.$current.withValue(recorder) { try await body.write(counting) }
        end.isReached(clientIsGone: false)
      } catch {
        end.isReached(clientIsGone: true)
        throw error
      }
    }
  }
}

/// Ends a record when its body was written, or when nobody will ever write it.
private final class EndOfBody: Sendable {
  private let recorder: RequestRecorder

  init(_ recorder: RequestRecorder) { self.recorder = recorder }

  func isReached(clientIsGone: Bool) { recorder.end { $0.clientIsGone = clientIsGone } }

  deinit { isReached(clientIsGone: true) }
}

/// Counts the bytes of a body.
private struct CountingWriter: ResponseBodyWriter {
  var writer: any ResponseBodyWriter
  let recorder: RequestRecorder

  mutating func write(_ buffer: ByteBuffer) async throws {
    try await writer.write(buffer)
    recorder.update { $0.bytes += buffer.readableBytes }
  }

  consuming func finish(_ trailingHeaders: HTTPFields?) async throws { try await writer.finish(trailingHeaders) }
}

extension HTTPField.Name {
  static let traceParent = HTTPField.Name("traceparent")!
}
