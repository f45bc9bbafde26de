import AsyncHTTPClient
import NIOCore
import NIOHTTP1
import NIOPosix
import NIOSSL

#if canImport(FoundationEssentials)
  import FoundationEssentials
#else
  import Foundation
#endif
#if canImport(Glibc)
  import Glibc
#elseif canImport(Musl)
  import Musl
#else
  import Darwin
#endif

/// How often and how patiently a transfer is tried again.
public struct RetryPolicy: Sendable {
  /// Tries in a row that bring no byte before the transfer is given up.
  public var attempts = 5
  /// Before the second try; doubled for each further one, and up to a quarter longer by chance.
  public var firstDelay: Duration = .milliseconds(500)
  public var longestDelay: Duration = .seconds(30)
  /// Without a byte for so long, a connection counts as lost.
  public var idleTimeout: Duration = .seconds(30)

  public init() {}

  /// The wait before try `attempt` (1 = the first repetition), or what the server asked for, within `longestDelay`.
  func delay(_ attempt: Int, asked: Duration?) -> Duration {
    if let asked { return min(asked, longestDelay) }
    let doubled = firstDelay * (1 << min(attempt - 1, 16))
    return min(doubled + doubled * Double.random(in: 0...0.25), longestDelay)
  }
}

/// HTTP for the store: whole small answers, and files that resume where a connection broke.
///
/// One client, made for the proxy and the certificates that the environment names. Call `shutdown()` at the end.
final class Downloader: Sendable {
  struct Options: Sendable {
    var retry = RetryPolicy()
    /// `http://[user:password@]host:port`; nil to connect directly.
    var proxy: String?
    /// A PEM file of authorities to trust in place of the system's.
    var certificates: String?
    var isOffline = false
  }

  private let client: HTTPClient
  private let options: Options

  init(_ options: Options) throws(ModelStoreError) {
    var configuration = HTTPClient.Configuration(
      redirectConfiguration: .follow(max: 8, allowCycles: false),
      timeout: .init(connect: .seconds(15), read: .nanoseconds(options.retry.idleTimeout.nanoseconds)))
    // Tries are counted and announced by this type, not hidden in the pool until the connection's deadline.
    configuration.connectionPool.retryConnectionEstablishment = false
    if let certificates = options.certificates {
      var tls = TLSConfiguration.makeClientConfiguration()
      tls.trustRoots = .file(certificates)
      configuration.tlsConfiguration = tls
    }
    if let proxy = options.proxy, !proxy.isEmpty {
      guard let url = URL(string: proxy.contains("://") ? proxy : "http://" + proxy), let host = url.host() else {
        throw ModelStoreError(
          kind: .invalidReference, subject: "proxy", seen: "'\(proxy)'", expected: "http://host:port",
          advice: "Check HTTPS_PROXY, HTTP_PROXY and pip's proxy option.")
      }
      configuration.proxy = .server(
        host: host, port: url.port ?? 3128,
        authorization: url.user().map { .basic(username: $0, password: url.password() ?? "") })
    }
    // Files of hundreds of megabytes come over one connection; HTTP/2's small default windows would slow them down.
    configuration.httpVersion = .http1Only
    self.options = options
    client = HTTPClient(eventLoopGroupProvider: .singleton, configuration: configuration)
  }

  func shutdown() async { try? await client.shutdown() }

  /// The proxy for `url` by the usual variables (upper or lower case), honouring `NO_PROXY`.
  static func proxy(for url: String, environment: [String: String]) -> String? {
    func variable(_ name: String) -> String? {
      let value = environment[name] ?? environment[name.lowercased()]
      return value?.isEmpty == false ? value : nil
    }
    guard let parsed = URL(string: url), let host = parsed.host() else { return nil }
    for pattern in (variable("NO_PROXY") ?? "").split(separator: ",") {
      let name = pattern.filter { !$0.isWhitespace }
      let suffix = name.hasPrefix(".") ? String(name) : "." + name
      if name == "*" || host == name || host.hasSuffix(suffix) { return nil }
    }
    return (parsed.scheme == "https" ? variable("HTTPS_PROXY") : variable("HTTP_PROXY")) ?? variable("ALL_PROXY")
  }

  // MARK: Small answers

  struct Answer: Sendable {
    var body: Data
    var contentType: String
    /// After redirects.
    var url: String
  }

  /// Fetches a small document, at most `limit` bytes.
  func fetch(
    _ url: String, accept: String, headers: [(String, String)] = [], limit: Int = 64 << 20,
    onRetry: (String) -> Void = { _ in }
  ) async throws -> Answer {
    try await retrying(url, onRetry: onRetry) { _ in
      let response = try await send(url, [("Accept", accept)] + headers)
      try check(response, url)
      var body = Data()
      for try await var buffer in response.body {
        if body.count + buffer.readableBytes > limit {
          throw ModelStoreError(
            kind: .malformed, subject: url, seen: "an answer above \(limit) bytes", expected: "a small document",
            advice: "Check the address.")
        }
        body.append(contentsOf: buffer.readBytes(length: buffer.readableBytes) ?? [])
      }
      return Answer(
        body: body, contentType: response.headers.first(name: "Content-Type") ?? "",
        url: response.url?.absoluteString ?? url)
    }
  }

  // MARK: Files

  /// Downloads `url` to `path`, going on where an earlier call stopped.
  ///
  /// Bytes go to `path + ".partial"`, with the server's validator beside it, and are renamed to `path` when complete and,
  /// if `sha256` is given, right. `progress` gets the bytes of this file so far and its size when known.
  func download(
    _ url: String, to path: String, size: Int?, sha256: String?, headers: [(String, String)] = [],
    progress: (_ done: Int, _ total: Int?) -> Void, onRetry: (String) -> Void = { _ in }
  ) async throws {
    let partial = path + ".partial"
    // A second round from nothing: a file put together from two states of a changing server has a wrong hash.
    for round in 1...2 {
      let didResume = (FileSystem.status(partial)?.size ?? 0) > 0
      try await transfer(url, to: partial, size: size, hasHash: sha256 != nil, headers, progress, onRetry)
      let seen = try sha256.map { _ in try Digest.sha256(file: partial) }
      if seen == sha256 {
        try FileSystem.publish(partial, as: path)
        try FileSystem.remove(partial + ".validator")
        return
      }
      try FileSystem.remove(partial)
      try FileSystem.remove(partial + ".validator")
      if round == 1, didResume {
        onRetry("the resumed file has a wrong hash; starting it again")
        continue
      }
      throw ModelStoreError(
        kind: .hashMismatch, subject: url, seen: "sha256 \(seen ?? "")", expected: "sha256 \(sha256 ?? "")",
        advice: "The download was removed. Run the command again; if it happens again, the source has changed or "
          + "something on the way alters it.")
    }
  }

  private func transfer(
    _ url: String, to partial: String, size: Int?, hasHash: Bool, _ headers: [(String, String)],
    _ progress: (Int, Int?) -> Void, _ onRetry: (String) -> Void
  ) async throws {
    let validatorPath = partial + ".validator"
    var lastSize = -1
    try await retrying(url, onRetry: onRetry) { attempt in
      var start = FileSystem.status(partial)?.size ?? 0
      // Bytes that came count as progress: the number of tries starts again.
      if start > lastSize { attempt = 0 }
      lastSize = start
      if let size, start == size { return }
      var range: [(String, String)] = []
      if start > 0 {
        if let validator = try? FileSystem.read(validatorPath, limit: 4096) {
          range = [("Range", "bytes=\(start)-"), ("If-Range", String(decoding: validator, as: UTF8.self))]
        } else if hasHash {
          range = [("Range", "bytes=\(start)-")]
        } else {
          // Nothing tells that the rest belongs to the same state of the file.
          start = 0
        }
      }
      let response = try await send(url, headers + range)
      var total: Int?
      switch response.status.code {
      case 206:
        let (first, all) = Self.parseContentRange(response.headers.first(name: "Content-Range") ?? "")
        guard first == start else {
          throw ModelStoreError(
            kind: .malformed, subject: url,
            seen: "a range that starts at \(first.map { "\($0)" } ?? "an unknown byte")",
            expected: "byte \(start), as asked", advice: "Remove '\(partial)' and run the command again.")
        }
        total = all
      case 416:
        let (_, all) = Self.parseContentRange(response.headers.first(name: "Content-Range") ?? "")
        if all == start, size == nil || size == start { return }
        try FileSystem.remove(partial)
        throw TransferInterrupted(reason: "the server's file is shorter than what was downloaded before")
      default:
        try check(response, url)
        start = 0
        total = response.headers.first(name: "Content-Length").flatMap { Int($0) }
      }
      if let size, let total, total != size {
        throw ModelStoreError(
          kind: .hashMismatch, subject: url, seen: "\(total) bytes", expected: "\(size) bytes",
          advice: "The source has changed; update Apus or name another source.")
      }
      total = total ?? size
      if let total, let free = FileSystem.freeBytes(URL(filePath: partial).deletingLastPathComponent().path()),
        free < total - start
      {
        throw ModelStoreError(
          kind: .diskFull, subject: partial, seen: "\(free) bytes free", expected: "\(total - start) bytes for \(url)",
          advice: "Free some space, or set APUS_HOME to a folder on a larger disk, and run the same command again.")
      }
      // Only strong validators name exact bytes (RFC 9110, section 13.1.5).
      let etag = response.headers.first(name: "ETag").flatMap { $0.hasPrefix("W/") ? nil : $0 }
      if let validator = etag ?? response.headers.first(name: "Last-Modified") {
        try FileSystem.writeAtomically(Data(validator.utf8), to: validatorPath)
      } else {
        try FileSystem.remove(validatorPath)
      }
      let output = try OutputFile(path: partial, keeping: start)
      var done = start
      progress(done, total)
      for try await buffer in response.body {
        try Task.checkCancellation()
        try buffer.withUnsafeReadableBytes { bytes throws(ModelStoreError) in try output.write(bytes) }
        done += buffer.readableBytes
        if let size, done > size {
          throw ModelStoreError(
            kind: .hashMismatch, subject: url, seen: "more than \(size) bytes", expected: "\(size) bytes",
            advice: "The source has changed; update Apus or name another source.")
        }
        progress(done, total)
      }
      try output.synchronize()
      if let total, done != total {
        throw TransferInterrupted(reason: "the connection ended at \(done) of \(total) bytes")
      }
    }
  }

  /// First byte and size of the whole from `bytes 5-9/10`, `bytes */10`.
  static func parseContentRange(_ text: String) -> (first: Int?, total: Int?) {
    guard text.hasPrefix("bytes ") else { return (nil, nil) }
    let parts = text.dropFirst(6).split(separator: "/", maxSplits: 1)
    guard parts.count == 2 else { return (nil, nil) }
    return (parts[0].split(separator: "-").first.flatMap { Int($0) }, Int(parts[1]))
  }

  // MARK: Requests

  /// A failure that another try may mend.
  private struct TransferInterrupted: Error {
    var reason: String
    var retryAfter: Duration?
  }

  private func send(_ url: String, _ headers: [(String, String)]) async throws -> HTTPClientResponse {
    if options.isOffline {
      throw ModelStoreError(
        kind: .offline, subject: url, seen: "APUS_OFFLINE set", expected: "leave to use the network",
        advice: "Unset APUS_OFFLINE, or name a file that is on this machine.")
    }
    guard var components = URLComponents(string: url), components.scheme == "https" || components.scheme == "http",
      components.host?.isEmpty == false
    else {
      throw ModelStoreError(
        kind: .invalidReference, subject: url, seen: "no address", expected: "http:// or https://",
        advice: "Check the address.")
    }
    var headers = headers
    if let parsed = URL(string: url), let user = parsed.user(percentEncoded: false) {
      let password = parsed.password(percentEncoded: false) ?? ""
      headers.append(("Authorization", "Basic " + Data("\(user):\(password)".utf8).base64EncodedString()))
      components.percentEncodedUser = nil
      components.percentEncodedPassword = nil
    }
    var request = HTTPClientRequest(url: components.string ?? url)
    request.headers.add(name: "User-Agent", value: "apus")
    for (name, value) in headers { request.headers.add(name: name, value: value) }
    // A day: a slow line may need it; a dead one is noticed by the idle timeout.
    return try await client.execute(request, timeout: .hours(24))
  }

  private func check(_ response: HTTPClientResponse, _ url: String) throws {
    let code = response.status.code
    func failure(_ kind: ModelStoreError.Kind, _ advice: String) -> ModelStoreError {
      ModelStoreError(
        kind: kind, subject: Self.withoutSecrets(url), seen: "HTTP \(code) \(response.status.reasonPhrase)",
        expected: "the file", advice: advice)
    }
    switch code {
    case 200: return
    case 401, 403:
      throw failure(
        .forbidden,
        "The source wants credentials: set HF_TOKEN for a private or gated model, or user and password in "
          + "the address of the package index.")
    case 404, 410: throw failure(.notFound, "Check the spelling of the model, repository, file or index.")
    case 408, 425, 429, 500...599:
      let seconds = response.headers.first(name: "Retry-After").flatMap { Int($0) }
      throw TransferInterrupted(
        reason: "HTTP \(code) \(response.status.reasonPhrase)", retryAfter: seconds.map { .seconds($0) })
    default: throw failure(.network, "The server refuses the request.")
    }
  }

  /// Runs `body` again after failures of the network, until it has failed `attempts` times in a row without progress
  /// (`body` sets its argument to 0 when there was some).
  private func retrying<T>(
    _ url: String, onRetry: (String) -> Void, _ body: (inout Int) async throws -> T
  ) async throws -> T {
    var attempt = 0
    while true {
      do {
        return try await body(&attempt)
      } catch let error as ModelStoreError {
        throw error
      } catch let error as CancellationError {
        throw error
      } catch {
        if Task.isCancelled { throw CancellationError() }
        attempt += 1
        let interrupted = error as? TransferInterrupted
        let reason = interrupted?.reason ?? Self.describe(error)
        guard attempt < options.retry.attempts, !Self.isPermanent(error) else {
          throw ModelStoreError(
            kind: .network, subject: Self.withoutSecrets(url), seen: reason,
            expected: attempt == 1 ? "an answer" : "an answer to one of \(attempt) tries",
            advice: "Check the network (and HTTPS_PROXY, if you are behind one); run the same command again to go on "
              + "where it stopped.")
        }
        onRetry(reason)
        try await Task.sleep(for: options.retry.delay(attempt, asked: interrupted?.retryAfter))
      }
    }
  }

  /// Errors that no repetition mends.
  private static func isPermanent(_ error: any Error) -> Bool {
    if let error = error as? HTTPClientError {
      return [.invalidURL, .emptyHost, .emptyScheme, .redirectCycleDetected, .redirectLimitReached].contains(error)
    }
    return error is NIOSSLError
  }

  private static func describe(_ error: any Error) -> String {
    if let error = error as? HTTPClientError { return error.shortDescription }
    if let error = error as? NIOConnectionError {
      if let failure = error.connectionErrors.last {
        let reason = (failure.error as? IOError).map { String(cString: strerror($0.errnoCode)) }
        return "no connection to \(error.host):\(error.port) (\(reason ?? "\(failure.error)"))"
      }
      return "no address for the host '\(error.host)' (DNS)"
    }
    if let error = error as? IOError {
      return "the network's error '\(String(cString: strerror(error.errnoCode)))'"
    }
    return String(describing: error)
  }

  /// `url` without user and password.
  static func withoutSecrets(_ url: String) -> String {
    guard var components = URLComponents(string: url), components.percentEncodedUser != nil else { return url }
    components.percentEncodedUser = nil
    components.percentEncodedPassword = nil
    return components.string ?? url
  }
}

extension Duration {
  var nanoseconds: Int64 { components.seconds * 1_000_000_000 + components.attoseconds / 1_000_000_000 }
}
