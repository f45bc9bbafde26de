import ApusCollections
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
      apus serve --config apus.yaml --log-format json
      apus serve -m minilm-l6 --collections collections
      curl http://127.0.0.1:8080/v1/chat/completions -H 'content-type: application/json' \\
        -d '{"model": "smollm2-135m", "messages": [{"role": "user", "content": "Hello"}]}'

      Requests are answered together: each step of the engine takes a token of every answer. A console for people is at
      /, the API's description at /openapi.json, figures at /metrics. A model's memory is taken at its first request and,
      with --idle-unload, given back when it is not asked for a while.

      A file for --config has the options' names as keys, with models, allowed-origins, tls: {certificate, key},
      tenant-quota: {vectors, bytes, queries} and log: {level, format, prompts}; `apus config check FILE` tells what is
      wrong with one. Options of the command line win over it.

      The key named admin is an administrator's: it may act as any tenant of collections, and do what no tenant may. In
      the file, keys: {ops: {role: admin}, admin: {role: tenant}} says otherwise, by the keys' names.

      SIGTERM and Ctrl-C let the answers under way finish, a second one ends at once. SIGHUP reads --api-key-file again,
      and max-queue and drain-timeout from the file of --config.
      """)

  @Option(
    name: [.customShort("m"), .customLong("model")], parsing: .singleValue,
    help: "A model, or an encoder for embeddings; may be repeated (default: \(Catalogue.defaultModel)).")
  var models: [String] = []

  @OptionGroup(title: "Execution") var runner: RunnerArguments

  @Option(help: "A YAML file with settings; options given here win over it.")
  var config: String?

  @Option(help: "The address to listen on; 0.0.0.0 is every network (default: \(ServerOptions().host)).")
  var host: String?

  @Option(help: "The port; 0 lets the system choose (default: \(ServerOptions().port)).")
  var port: Int?

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

  @Option(
    help: "MiB of keys and values that all answers of a model share (default: \(BatchEngine.defaultPoolBytes >> 20)).")
  var kvPool: Int?

  @Option(help: "Answers of a model that are computed together (default: \(BatchOptions().maxRunning)).")
  var maxRunning: Int?

  @Option(help: "Requests of a model that may wait (default: \(BatchOptions().maxQueue)).")
  var maxQueue: Int?

  @Option(help: "Give a model's memory back when nothing has been asked of it for so many seconds (default: never).")
  var idleUnload: Double?

  @Option(
    help: "Seconds that answers under way may take after SIGTERM (default: \(Int(ServerOptions().drainTimeout))).")
  var drainTimeout: Double?

  @Option(help: "A SQLite file for responses that clients ask to be stored (default: none are stored).")
  var responses: String?

  @Option(help: "A folder for collections of vectors and texts (default: none are kept).", completion: .directory)
  var collections: String?

  @Option(help: "Serve collections over gRPC too, on this port; 0 lets the system choose (default: not).")
  var grpcPort: Int?

  @Option(help: "Vectors that a tenant of a collection may hold who has no quota of its own (default: any number).")
  var tenantQuotaVectors: Int?

  @Option(help: "Bytes that such a tenant may store (default: any number).")
  var tenantQuotaBytes: Int?

  @Option(help: "Searches, scrolls and counts a second that such a tenant may ask for (default: any number).")
  var tenantQuotaQueries: Double?

  @Option(help: "Refuse requests larger than this many bytes (default: \(ServerOptions().bodyLimit)).")
  var bodyLimit: Int?

  @Option(help: "The least important lines of the log, on standard error (default: info; with --json warning).")
  var logLevel: Logger.Level?

  @Option(help: "How the log is written (default: text).")
  var logFormat: LogFormat?

  @Flag(help: "Write prompts and answers to the log.")
  var logPrompts = false

  @Option(help: "Append each request's spans to this file, as OTLP's JSON, a line a request.")
  var traceFile: String?

  @Flag(help: "Print a JSON object with the address when the server listens.")
  var json = false

  func validate() throws {
    if let problem = given.problem {
      // Options have the names of the file's settings.
      let option = "--" + problem.path.replacing(".", with: "-")
      throw ValidationError("\(option) is \(problem.seen), expected \(problem.expected).")
    }
    guard (tlsCertificate == nil) == (tlsKey == nil) else {
      throw ValidationError("--tls-certificate and --tls-key go together.")
    }
  }

  /// What the command line says.
  private var given: ServerConfiguration {
    var given = ServerConfiguration()
    given.host = host
    given.port = port
    given.unixSocket = uds
    given.models = models.isEmpty ? nil : models
    given.keyFile = apiKeyFile
    given.tlsCertificate = tlsCertificate
    given.tlsKey = tlsKey
    given.allowedOrigins = allowOrigin.isEmpty ? nil : allowOrigin
    given.kvPool = kvPool
    given.maxRunning = maxRunning
    given.maxQueue = maxQueue
    given.idleUnload = idleUnload
    given.drainTimeout = drainTimeout
    given.responses = responses
    given.collections = collections
    given.grpcPort = grpcPort
    given.tenantVectors = tenantQuotaVectors
    given.tenantBytes = tenantQuotaBytes
    given.tenantQueries = tenantQuotaQueries
    given.bodyLimit = bodyLimit
    given.threads = runner.threads
    given.contextLength = runner.contextLength
    given.exact = runner.exact ? true : nil
    given.kvLayout = runner.kvLayout
    given.logLevel = logLevel
    given.logFormat = logFormat
    given.logsPrompts = logPrompts ? true : nil
    given.traceFile = traceFile
    return given
  }

  func run() throws {
    let given = given
    let settings = try given.over(config.map { try ServerConfiguration(file: $0) } ?? ServerConfiguration())
    if settings.grpcPort != nil && settings.collections == nil {
      throw ValidationError("--grpc-port goes with --collections, which are what it serves.")
    }
    var options = try settings.serverOptions
    if let name = settings.keyRoles?.keys.sorted().first(where: { options.keys?.owners.contains($0) != true }) {
      throw ValidationError(
        "keys.\(name) is no key's name, expected one of "
          + (options.keys.map { $0.owners.sorted().joined(separator: ", ") } ?? "an --api-key-file") + ".")
    }
    if let config {
      options.reload = {
        let latest = given.over(try ServerConfiguration(file: config))
        let changes = latest.changes(from: settings)
        return ReloadedSettings(
          drainTimeout: latest.drainTimeout ?? ServerOptions().drainTimeout, maxQueue: latest.batchOptions.maxQueue,
          changed: changes.reloadable, unchangeable: changes.fixed)
      }
    }
    var loaded: [LoadedModel] = []
    // Of encoders: collections keep vectors of theirs.
    var digests: [String: String] = [:]
    var files: [ModelDescription] = []
    for name in settings.models ?? [Catalogue.defaultModel] {
      var model = ModelOptions()
      model.name = name
      let location = try model.locate()
      let loadedModel = try location.load()
      loaded.append(loadedModel)
      if loadedModel.isEncoder { digests[loadedModel.name] = try location.weightsDigest() }
      var description = try ModelStore().describe(location)
      description.name = loaded.last?.name ?? name
      files.append(description)
    }
    if let twice = Dictionary(grouping: loaded, by: \.name).first(where: { $0.value.count > 1 }) {
      throw ValidationError("--model \(twice.key) is given twice.")
    }
    let engineOptions = settings.runnerOptions
    let idleAfter = settings.idleUnload.map { Duration.seconds($0) }
    let engines = try loaded.filter { !$0.isEncoder }.map {
      try OnDemandEngine($0, engineOptions, settings.batchOptions, idleAfter: idleAfter)
    }
    let encoders = loaded.filter(\.isEncoder)
    var encoderOptions = engineOptions
    encoderOptions.kvPoolBytes = nil
    let names = loaded.map(\.name).joined(separator: ", ")
    let address =
      settings.unixSocket.map { "unix:\($0)" }
      ?? "\(settings.tlsKey == nil ? "http" : "https")://\(options.host.contains(":") ? "[\(options.host)]" : options.host)"
    let (json, isSocket, logFormat) = (json, settings.unixSocket != nil, settings.logFormat ?? .text)
    let logger = Logger.apus(logFormat, level: settings.logLevel ?? (json ? .warning : .info))
    try waitFor { [options, encoderOptions, files, digests] in
      var encoding: [any EmbeddingEngine] = []
      for model in encoders {
        encoding.append(try await EncoderEngine(model, encoderOptions, weightsDigest: digests[model.name]))
      }
      // Without a time to unload it there is no reason to let the first request wait.
      if idleAfter == nil { for engine in engines { try await engine.warmUp() } }
      try await Server(engines, encoders: encoding, files: files, options, logger: logger).run { port in
        let url = isSocket ? address : "\(address):\(port)"
        if json {
          try? JSONOutput.print(["model": names, "url": url + "/v1"])
        } else if logFormat == .text {
          Terminal.note("\(names) on \(url)/v1, console on \(url)/")
        } else {
          logger.notice("listening", metadata: ["url": .string(url), "models": .string(names)])
        }
      }
    }
  }
}

extension ServerConfiguration {
  /// Throws what reading the file of keys throws.
  fileprivate var serverOptions: ServerOptions {
    get throws {
      let usual = ServerOptions()
      var tls: ServerOptions.TLS?
      if let tlsCertificate, let tlsKey { tls = .init(certificates: tlsCertificate, privateKey: tlsKey) }
      return ServerOptions(
        host: host ?? usual.host, port: port ?? usual.port, unixSocket: unixSocket, tls: tls,
        bodyLimit: bodyLimit ?? usual.bodyLimit, keys: try keyFile.map { try KeyRing(file: $0) },
        roles: Roles(keyRoles ?? [:]), allowedOrigins: allowedOrigins ?? [],
        drainTimeout: drainTimeout ?? usual.drainTimeout, responseDatabase: responses, collections: collections,
        grpcPort: grpcPort,
        tenantQuotas: TenantQuotas(vectors: tenantVectors, bytes: tenantBytes, queries: tenantQueries),
        logsPrompts: logsPrompts ?? false, traceFile: traceFile)
    }
  }

  fileprivate var batchOptions: BatchOptions {
    let usual = BatchOptions()
    return BatchOptions(maxRunning: maxRunning ?? usual.maxRunning, maxQueue: maxQueue ?? usual.maxQueue)
  }

  fileprivate var runnerOptions: RunnerOptions {
    RunnerOptions(
      threads: threads, exact: exact ?? false, contextLength: contextLength, kvPoolBytes: kvPool.map { $0 << 20 },
      kvLayout: kvLayout)
  }
}

extension LogFormat: ExpressibleByArgument {}

extension Logger.Level: @retroactive ExpressibleByArgument {}
