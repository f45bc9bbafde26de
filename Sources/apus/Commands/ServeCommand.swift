import ApusEngine
import ApusModels
import ApusServer
import ArgumentParser
import Foundation
import Logging

struct ServeCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "serve",
    abstract: "Serves models over HTTP to OpenAI's, Anthropic's and Ollama's clients.",
    discussion: """
      apus serve
      apus serve -m qwen2.5-coder-0.5b -m minilm-l6 --port 9000
      apus serve --api-key-file keys.txt --host 0.0.0.0 --tls-certificate cert.pem --tls-key key.pem
      curl http://127.0.0.1:8080/v1/chat/completions -H 'content-type: application/json' \\
        -d '{"model": "smollm2-135m", "messages": [{"role": "user", "content": "Hello"}]}'

      Requests are answered together: each step of the engine takes a token of every answer. A console for people is at
      /, the API's description at /openapi.json, figures at /metrics. A model's memory is taken at its first request and,
      with --idle-unload, given back when it is not asked for a while.

      SIGTERM and Ctrl-C let the answers under way finish, a second one ends at once. SIGHUP reads --api-key-file again.
      """)

  @Option(
    name: [.customShort("m"), .customLong("model")], parsing: .singleValue,
    help: "A model, or an encoder for embeddings; may be repeated (default: \(Catalogue.defaultModel)).")
  var models: [String] = []

  @OptionGroup(title: "Execution") var runner: RunnerArguments

  @Option(help: "The address to listen on; 0.0.0.0 is every network.")
  var host = "127.0.0.1"

  @Option(help: "The port; 0 lets the system choose.")
  var port = 8080

  @Option(help: "Listen on this Unix socket instead.")
  var uds: String?

  @Option(help: "Let in only who has a key of this file: name:KEY or KEY a line.")
  var apiKeyFile: String?

  @Option(help: "A certificate chain, PEM; with --tls-key.")
  var tlsCertificate: String?

  @Option(help: "The certificate's private key, PEM.")
  var tlsKey: String?

  @Option(parsing: .singleValue, help: "Let web pages of this origin use the API (* is every one); may be repeated.")
  var allowOrigin: [String] = []

  @Option(help: "MiB of keys and values that all answers of a model share.")
  var kvPool = BatchEngine.defaultPoolBytes >> 20

  @Option(help: "Answers of a model that are computed together.")
  var maxRunning = BatchOptions().maxRunning

  @Option(help: "Requests of a model that may wait.")
  var maxQueue = BatchOptions().maxQueue

  @Option(help: "Give a model's memory back when nothing has been asked of it for so many seconds (default: never).")
  var idleUnload: Double?

  @Option(help: "Seconds that answers under way may take after SIGTERM.")
  var drainTimeout = ServerOptions().drainTimeout

  @Option(help: "A SQLite file for responses that clients ask to be stored (default: none are stored).")
  var responses: String?

  @Option(help: "Refuse requests larger than this many bytes.")
  var bodyLimit = 16 << 20

  @Flag(help: "Print a JSON object with the address when the server listens.")
  var json = false

  func validate() throws {
    guard (0...65535).contains(port) else { throw ValidationError("--port is \(port), expected 0 to 65535.") }
    guard kvPool > 0 else { throw ValidationError("--kv-pool is \(kvPool), expected at least 1.") }
    guard maxRunning > 0, maxQueue > 0 else { throw ValidationError("--max-running and --max-queue start at 1.") }
    if let idleUnload, idleUnload <= 0 {
      throw ValidationError("--idle-unload is \(idleUnload), expected more than 0.")
    }
    guard (tlsCertificate == nil) == (tlsKey == nil) else {
      throw ValidationError("--tls-certificate and --tls-key go together.")
    }
  }

  private var serverOptions: ServerOptions {
    get throws {
      var tls: ServerOptions.TLS?
      if let tlsCertificate, let tlsKey { tls = .init(certificates: tlsCertificate, privateKey: tlsKey) }
      return ServerOptions(
        host: host, port: port, unixSocket: uds, tls: tls, bodyLimit: bodyLimit,
        keys: try apiKeyFile.map { try KeyRing(file: $0) }, allowedOrigins: allowOrigin, drainTimeout: drainTimeout,
        responseDatabase: responses)
    }
  }

  func run() throws {
    let options = try serverOptions
    let loaded = try (models.isEmpty ? [Catalogue.defaultModel] : models).map { name in
      var model = ModelOptions()
      model.name = name
      return try model.load().model
    }
    if let twice = Dictionary(grouping: loaded, by: \.name).first(where: { $0.value.count > 1 }) {
      throw ValidationError("--model \(twice.key) is given twice.")
    }
    var runnerOptions = runner.options
    runnerOptions.kvPoolBytes = kvPool << 20
    let batch = BatchOptions(maxRunning: maxRunning, maxQueue: maxQueue)
    let idleAfter = idleUnload.map { Duration.seconds($0) }
    let engines = try loaded.filter { !$0.isEncoder }.map {
      try OnDemandEngine($0, runnerOptions, batch, idleAfter: idleAfter)
    }
    let encoders = loaded.filter(\.isEncoder)
    let encoderOptions = runner.options
    let names = loaded.map(\.name).joined(separator: ", ")
    let address = uds.map { "unix:\($0)" } ?? "\(tlsKey == nil ? "http" : "https")://\(host)"
    let (json, isSocket) = (json, uds != nil)
    var logger = Logger(label: "apus")
    logger.logLevel = .warning
    let quiet = logger
    try waitFor {
      var encoding: [any EmbeddingEngine] = []
      for model in encoders { encoding.append(try await EncoderEngine(model, encoderOptions)) }
      // Without a time to unload it there is no reason to let the first request wait.
      if idleAfter == nil { for engine in engines { try await engine.warmUp() } }
      try await Server(engines, encoders: encoding, options, logger: quiet).run { port in
        let url = isSocket ? address : "\(address):\(port)"
        if json {
          try? JSONOutput.print(["model": names, "url": url + "/v1"])
        } else {
          Terminal.note("\(names) on \(url)/v1, console on \(url)/")
        }
      }
    }
  }
}
