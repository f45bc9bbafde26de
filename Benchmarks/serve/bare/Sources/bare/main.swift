import Foundation
import Hummingbird
import Logging

/// The peer of overhead.py: nothing but Hummingbird and the route that is measured. Prints its port.
let router = Router()
router.get("health") { _, _ in
  Response(
    status: .ok, headers: [.contentType: "application/json; charset=utf-8"],
    body: .init(byteBuffer: ByteBuffer(string: #"{"status":"ok"}"#)))
}
var logger = Logger(label: "bare")
logger.logLevel = .warning
let application = Application(
  router: router, configuration: .init(address: .hostname("127.0.0.1", port: 0), serverName: "bare"),
  onServerRunning: { channel in
    print(channel.localAddress?.port ?? 0)
    fflush(nil)
  }, logger: logger)
try await application.runService()
