import ApusGRPC
import Foundation

/// gRPC's statuses by their numbers, and what they are in HTTP. Source: google/rpc/code.proto.
enum GRPCStatus {
  private static let all: [(name: String, http: Int)] = [
    ("OK", 200), ("CANCELLED", 499), ("UNKNOWN", 500), ("INVALID_ARGUMENT", 400), ("DEADLINE_EXCEEDED", 504),
    ("NOT_FOUND", 404), ("ALREADY_EXISTS", 409), ("PERMISSION_DENIED", 403), ("RESOURCE_EXHAUSTED", 429),
    ("FAILED_PRECONDITION", 400), ("ABORTED", 409), ("OUT_OF_RANGE", 400), ("UNIMPLEMENTED", 501), ("INTERNAL", 500),
    ("UNAVAILABLE", 503), ("DATA_LOSS", 500), ("UNAUTHENTICATED", 401),
  ]

  static func name(_ status: Int) -> String { all.indices.contains(status) ? all[status].name : "\(status)" }
  static func http(_ status: Int) -> Int { all.indices.contains(status) ? all[status].http : 500 }
}

/// Calls have the records of requests: the same fields, and the gRPC status beside that of HTTP.
extension RequestLog: CallLog {
  func begin(_ call: CallHead) -> any CallRecord {
    let own = RandomID.make("call-")
    var record = RequestRecord(
      id: RequestID.sane(call.requestID) ?? own, ownID: own, method: "POST", isProbe: call.isProbe, interface: .grpc)
    record.route = call.route.map { "/" + $0 }
    return begin(record, trace: call.traceParent.flatMap { TraceParent($0) })
  }
}

extension RequestRecorder: CallRecord {
  var id: String { record.id }

  func identify(keyOwner: String?, tenant: String) {
    update {
      $0.principal = keyOwner ?? ServerContext.anonymous
      $0.tenant = tenant
    }
  }

  func during<T>(_ body: () async throws -> T) async throws -> T {
    try await Self.$current.withValue(self) { try await body() }
  }

  func end(_ end: CallEnd) {
    self.end { record in
      record.grpcStatus = end.status
      record.status = GRPCStatus.http(end.status)
      record.errorCode = end.reason
      record.bytes = end.bytes
      record.clientIsGone = end.clientIsGone
    }
  }
}
