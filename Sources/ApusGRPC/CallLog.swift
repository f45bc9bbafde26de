import ApusCollections
import GRPCCore

/// What is known of a call when it comes.
public struct CallHead: Sendable {
  /// Service and method, `package.Service/Method`; nil for one that the server does not have, whose name is the client's.
  public var route: String?
  /// Asked by machines again and again: of no interest to people who look for calls.
  public var isProbe: Bool
  /// The client's id of the call.
  public var requestID: String?
  /// The client's place in a trace, as W3C Trace Context writes it.
  public var traceParent: String?
}

/// How a call ended.
public struct CallEnd: Sendable {
  /// The number of a gRPC status.
  public var status: Int
  /// What kind of fault, for programs; nil where it went well.
  public var reason: String?
  /// Of the messages that were sent.
  public var bytes: Int
  /// The client left before it had its answer.
  public var clientIsGone: Bool
}

/// Who keeps records of calls.
public protocol CallLog: Sendable {
  func begin(_ call: CallHead) -> any CallRecord
}

/// The record of one call.
public protocol CallRecord: Sendable {
  /// The call's id, empty for none: the client's own where it can stand in a log.
  var id: String { get }
  /// Who makes the call: the name of the key's owner, nil on a server without keys, and as which tenant it acts.
  func identify(keyOwner: String?, tenant: String)
  /// Runs a part of the call, so that what it does can be noted.
  func during<T>(_ body: () async throws -> T) async throws -> T
  /// The first end counts.
  func end(_ end: CallEnd)
}

/// Keeps none.
struct NoCallLog: CallLog {
  private struct Record: CallRecord {
    let id = ""
    func identify(keyOwner: String?, tenant: String) {}
    func during<T>(_ body: () async throws -> T) async throws -> T { try await body() }
    func end(_ end: CallEnd) {}
  }

  func begin(_ call: CallHead) -> any CallRecord { Record() }
}
