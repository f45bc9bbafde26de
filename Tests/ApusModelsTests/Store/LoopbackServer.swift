import Foundation
import Synchronization

/// `MSG_NOSIGNAL`: a closed connection is an error code, not a signal that ends the process.
private let noSignal = 0x4000

/// An HTTP/1.1 server on 127.0.0.1 that misbehaves on demand: cuts connections, stalls, lies about ranges and hashes.
///
/// One thread a connection, one request a connection: enough for a client that is the thing under test.
final class LoopbackServer: Sendable {
  struct Request: Sendable {
    var path: String
    /// Names in lower case.
    var headers: [String: String]
    /// 0 for the first request of this path.
    var number: Int

    /// First byte asked for by `Range`.
    var rangeStart: Int? {
      headers["range"].flatMap { Int($0.dropFirst("bytes=".count).prefix { $0 != "-" }) }
    }
  }

  struct Response: Sendable {
    var status = "200 OK"
    var headers: [String: String] = [:]
    var body: [UInt8] = []
    /// The connection is closed after so many bytes of the body.
    var cutAfter: Int?
    /// The connection stalls so long before the last byte of the body.
    var stall: TimeInterval = 0
    /// Without it the client learns the end by the end of the connection.
    var hasLength = true

    static func text(_ status: String, _ text: String = "", type: String = "text/plain") -> Response {
      Response(status: status, headers: ["Content-Type": type], body: Array(text.utf8))
    }
  }

  typealias Handler = @Sendable (Request) -> Response

  private let descriptor: Int32
  let port: Int
  private let handler: Handler
  private let log = Mutex<[Request]>([])

  var address: String { "http://127.0.0.1:\(port)" }
  var requests: [Request] { log.withLock { $0 } }

  func requests(_ path: String) -> [Request] { requests.filter { $0.path == path } }

  /// Listens on `port`, or on any free one.
  init(port: Int = 0, handler: @escaping Handler) {
    let listener = socket(AF_INET, Int32(SOCK_STREAM.rawValue), 0)
    var yes: Int32 = 1
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &yes, 4)
    var address = sockaddr_in()
    address.sin_family = sa_family_t(AF_INET)
    address.sin_port = in_port_t(port).bigEndian
    address.sin_addr.s_addr = UInt32(0x7F00_0001).bigEndian
    var length = socklen_t(MemoryLayout<sockaddr_in>.size)
    let status = withUnsafeMutablePointer(to: &address) { pointer in
      pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) { pointer in
        bind(listener, pointer, length) + listen(listener, 64) + getsockname(listener, pointer, &length)
      }
    }
    precondition(status == 0, "can't listen on 127.0.0.1: \(errno)")
    self.port = Int(in_port_t(bigEndian: address.sin_port))
    self.handler = handler
    descriptor = listener
    Thread.detachNewThread { [weak self] in
      while true {
        let connection = accept(listener, nil, nil)
        guard connection >= 0 else { return }
        guard let server = self else {
          close(connection)
          return
        }
        Thread.detachNewThread { server.serve(connection) }
      }
    }
  }

  func stop() {
    shutdown(descriptor, Int32(SHUT_RDWR))
  }

  deinit {
    shutdown(descriptor, Int32(SHUT_RDWR))
    close(descriptor)
  }

  private func serve(_ connection: Int32) {
    defer { close(connection) }
    var text: [UInt8] = []
    var byte: UInt8 = 0
    while !text.suffix(4).elementsEqual([13, 10, 13, 10]) {
      guard recv(connection, &byte, 1, 0) == 1 else { return }
      text.append(byte)
    }
    let lines = String(decoding: text, as: UTF8.self).split(separator: "\r\n")
    let path = lines[0].split(separator: " ")[1]
    var headers: [String: String] = [:]
    for line in lines.dropFirst() {
      let parts = line.split(separator: ":", maxSplits: 1)
      headers[parts[0].lowercased()] = parts[1].trimmingCharacters(in: .whitespaces)
    }
    let request = log.withLock { log in
      let number = log.count { $0.path == path }
      log.append(Request(path: String(path), headers: headers, number: number))
      return log[log.count - 1]
    }
    let response = handler(request)
    var head = "HTTP/1.1 \(response.status)\r\nConnection: close\r\n"
    if response.hasLength { head += "Content-Length: \(response.body.count)\r\n" }
    for (name, value) in response.headers { head += "\(name): \(value)\r\n" }
    let body = response.cutAfter.map { Array(response.body.prefix($0)) } ?? response.body
    let early = response.stall > 0 ? body.count - 1 : body.count
    guard send(connection, Array((head + "\r\n").utf8)), send(connection, Array(body[..<early])) else { return }
    if response.stall > 0 {
      Thread.sleep(forTimeInterval: response.stall)
      _ = send(connection, Array(body[early...]))
    }
    // A half-closed socket that is read to the end isn't reset under the client's last bytes.
    shutdown(connection, Int32(SHUT_WR))
    while recv(connection, &byte, 1, 0) == 1 {}
  }

  private func send(_ connection: Int32, _ bytes: [UInt8]) -> Bool {
    var done = 0
    while done < bytes.count {
      let count = bytes.withUnsafeBytes {
        Foundation.send(connection, $0.baseAddress! + done, $0.count - done, Int32(truncatingIfNeeded: noSignal))
      }
      if count <= 0 { return false }
      done += count
    }
    return true
  }

  /// `bytes` by the rules of RFC 9110: whole, or from the range that was asked for if its validator still holds.
  static func file(_ bytes: [UInt8], etag: String? = nil, _ request: Request) -> Response {
    var response = Response(body: bytes)
    if let etag { response.headers["ETag"] = etag }
    guard let start = request.rangeStart else { return response }
    if let condition = request.headers["if-range"], condition != etag { return response }
    guard start < bytes.count else {
      response.status = "416 Range Not Satisfiable"
      response.headers["Content-Range"] = "bytes */\(bytes.count)"
      response.body = []
      return response
    }
    response.status = "206 Partial Content"
    response.headers["Content-Range"] = "bytes \(start)-\(bytes.count - 1)/\(bytes.count)"
    response.body = Array(bytes[start...])
    return response
  }
}
